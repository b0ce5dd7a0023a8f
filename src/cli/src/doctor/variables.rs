//! The variables of OpenMP and of the libraries that thread: what they will do.

use super::Context;
use super::environment::Environment;
use super::finding::{Finding, Severity};

/// The year and month, as `YYYYMMDD`, from which Intel's runtime aborts forks under `KMP_AFFINITY=disabled`. Those of
/// 2025.0.5 to 2026.2.0 do, and that of 2018 does not.
pub(crate) const ABORTS_FROM: u32 = 20_241_001;

/// The variables that say how many threads there are, with whose they are.
const COUNTS: [(&str, &str); 9] = [
    ("OMP_NUM_THREADS", "every OpenMP runtime, MKL and OpenBLAS"),
    ("MKL_NUM_THREADS", "MKL"),
    ("OPENBLAS_NUM_THREADS", "OpenBLAS"),
    ("GOTO_NUM_THREADS", "OpenBLAS"),
    ("BLIS_NUM_THREADS", "BLIS"),
    ("NUMEXPR_NUM_THREADS", "numexpr"),
    ("NUMBA_NUM_THREADS", "numba"),
    ("OMP_THREAD_LIMIT", "every OpenMP runtime, as the most"),
    ("KMP_DEVICE_THREAD_LIMIT", "LLVM's and Intel's OpenMP, as the most"),
];

/// What OpenMP 6.0 and older ones have.
const OPENMP: [&str; 33] = [
    "OMP_AFFINITY_FORMAT",
    "OMP_ALLOCATOR",
    "OMP_AVAILABLE_DEVICES",
    "OMP_CANCELLATION",
    "OMP_DEBUG",
    "OMP_DEFAULT_DEVICE",
    "OMP_DISPLAY_AFFINITY",
    "OMP_DISPLAY_ENV",
    "OMP_DYNAMIC",
    "OMP_MAX_ACTIVE_LEVELS",
    "OMP_MAX_TASK_PRIORITY",
    "OMP_NESTED",
    "OMP_NUM_TEAMS",
    "OMP_NUM_TEAMS_ALL",
    "OMP_NUM_TEAMS_DEV",
    "OMP_NUM_TEAMS_HOST",
    "OMP_NUM_THREADS",
    "OMP_NUM_THREADS_ALL",
    "OMP_NUM_THREADS_HOST",
    "OMP_PLACES",
    "OMP_PROC_BIND",
    "OMP_SCHEDULE",
    "OMP_STACKSIZE",
    "OMP_TARGET_OFFLOAD",
    "OMP_TEAMS_THREAD_LIMIT",
    "OMP_THREADS_RESERVE",
    "OMP_THREAD_LIMIT",
    "OMP_TOOL",
    "OMP_TOOL_LIBRARIES",
    "OMP_TOOL_VERBOSE_INIT",
    "OMP_WAIT_POLICY",
    "OMP_DEVICE_NUM_THREADS",
    "OMP_NUM_THREADS_DEV",
];

pub(crate) fn findings(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let environment = context.environment;
    findings.extend(proc_bind(context));
    findings.extend(places(context));
    findings.extend(gomp_cpu_affinity(context));
    findings.extend(kmp_affinity(context));
    for (name, who) in COUNTS {
        findings.extend(count(context, name, who));
    }
    findings.extend(waiting(environment));
    findings.extend(settings(environment));
    findings.extend(misspelt(environment));
    let pinning = ["proc-bind", "places", "gomp-cpu-affinity", "kmp-affinity"];
    if !findings.iter().any(|finding| pinning.contains(&finding.id)) {
        findings.push(Finding::ok("pinning", "No variable pins threads to CPUs"));
    }
}

fn is_false(value: &str) -> bool {
    value.eq_ignore_ascii_case("false") || value == "0"
}

/// A finding about a variable that pins. With the library the worst of it is mended.
fn pins(context: &Context<'_>, id: &'static str, name: &str, how: &str) -> Finding {
    let value = context.environment.get(name).unwrap_or_default();
    let title = format!("{name}={value} pins {how}");
    let found = "The thread that meets the runtime first is bound to a part of the CPUs, and so is all that it starts \
                 later: Pool workers, subprocesses, threads.";
    if context.is_preloaded {
        let mended = "The library gives children the CPUs back, and moves the pins of workers that stack.";
        return Finding::ok(id, title).means(mended);
    }
    let workers = "Workers that run OpenMP themselves all pin to the same first places.";
    Finding::warning(id, title)
        .means(format!("{found} {workers}"))
        .advise(format!("Run with the library (knlfix run PROGRAM), which mends both; or unset {name}."))
}

fn proc_bind(context: &Context<'_>) -> Option<Finding> {
    let value = context.environment.get("OMP_PROC_BIND")?;
    if is_false(value) {
        let title = format!("OMP_PROC_BIND={value}: OpenMP does not pin");
        return Some(
            Finding::ok("proc-bind", title).means("OMP_PLACES and GOMP_CPU_AFFINITY have no effect beside it."),
        );
    }
    Some(pins(context, "proc-bind", "OMP_PROC_BIND", "the threads of every OpenMP runtime"))
}

fn places(context: &Context<'_>) -> Option<Finding> {
    context.environment.get("OMP_PLACES")?;
    if context.environment.get("OMP_PROC_BIND").is_some() {
        return None;
    }
    let finding = pins(context, "places", "OMP_PLACES", "even without OMP_PROC_BIND");
    let all = "A place list alone turns binding on, in libgomp when it is loaded and in LLVM's and Intel's runtime.";
    let meaning = format!("{all} {}", finding.meaning);
    Some(finding.means(meaning))
}

fn gomp_cpu_affinity(context: &Context<'_>) -> Option<Finding> {
    context.environment.get("GOMP_CPU_AFFINITY")?;
    if context.environment.get("OMP_PROC_BIND").is_some_and(is_false) {
        return None;
    }
    Some(pins(context, "gomp-cpu-affinity", "GOMP_CPU_AFFINITY", "OpenMP threads to the CPUs that it names"))
}

fn kmp_affinity(context: &Context<'_>) -> Option<Finding> {
    let value = context.environment.get("KMP_AFFINITY")?;
    let has = |word: &str| value.split([',', '=']).any(|part| part.trim().eq_ignore_ascii_case(word));
    let title = format!("KMP_AFFINITY={value}");
    if has("disabled") {
        return Some(disabled(context, title));
    }
    if has("none") {
        let meaning = "LLVM's and Intel's OpenMP do not pin; libgomp does not know the variable.";
        return Some(Finding::ok("kmp-affinity", title).means(meaning));
    }
    let types = ["compact", "scatter", "balanced", "explicit", "logical", "physical", "granularity", "proclist"];
    if !types.iter().any(|word| has(word)) {
        return Some(Finding::note("kmp-affinity", title).means("It does not say how to pin, so nothing is pinned."));
    }
    let finding = pins(context, "kmp-affinity", "KMP_AFFINITY", "the threads of LLVM's and Intel's OpenMP");
    if !has("norespect") {
        return Some(finding);
    }
    let meaning = format!("{} norespect takes CPUs outside the mask that taskset or Slurm gave, too.", finding.meaning);
    Some(finding.means(meaning))
}

fn disabled(context: &Context<'_>, title: String) -> Finding {
    let meaning = "With Intel's OpenMP of 2025 and 2026 every process forked after a parallel region aborts (assertion \
                   failure in kmp_affinity.cpp). Older ones only do not pin.";
    let finding = Finding::problem("kmp-affinity-disabled", title)
        .means(meaning)
        .advise("Set KMP_AFFINITY=none: it does not pin either, and is safe everywhere.");
    let Some(program) = context.program else {
        return finding.graded(Severity::Warning);
    };
    if program.runtimes.iter().any(|runtime| runtime.intel_build.is_some_and(|build| build >= ABORTS_FROM)) {
        return finding;
    }
    finding.graded(Severity::Note)
}

fn count(context: &Context<'_>, name: &'static str, who: &str) -> Option<Finding> {
    let value = context.environment.get(name)?;
    let Some(threads) = context.environment.number(name).filter(|&threads| threads > 0) else {
        let title = format!("{name}={value} is no number of threads");
        return Some(Finding::warning("thread-count", title).advise(format!("Set it to a number, or unset {name}.")));
    };
    let title = format!("{name}={value} sets the threads of {who}");
    let room = context.machine.room();
    let limit = name.ends_with("LIMIT");
    Some(if threads > room && !limit {
        let meaning = format!(
            "That is {threads} threads in each process where {room} can run at a time: they wait for one another."
        );
        Finding::warning("thread-count", title)
            .means(meaning)
            .advise(format!("Unset {name}, or set it to {room} at most."))
    } else if threads == 1 && room > 1 {
        let meaning = "One thread for each process suits a pool that fills all CPUs; where fewer processes run, the \
                       other CPUs stay idle.";
        let advice = format!("With the library you can unset {name}: processes share the CPUs as their needs change.");
        Finding::note("thread-count", title).means(meaning).advise(advice)
    } else {
        let meaning = format!("It counts for each process: N processes run N x {threads} threads.");
        Finding::note("thread-count", title).means(if limit { String::new() } else { meaning })
    })
}

fn waiting(environment: &Environment) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |name: &str, spins: bool| {
        let title = format!(
            "{name}={} has idle threads {}",
            environment.get(name).unwrap_or_default(),
            if spins { "spin" } else { "sleep" }
        );
        findings.push(if spins {
            let meaning = "Good for one process alone on its CPUs. With several, idle threads take the CPUs from busy \
                           ones, with the library too: it leaves what you set.";
            Finding::warning("waiting", title)
                .means(meaning)
                .advise(format!("Unset {name}; the library lets threads sleep when CPUs are shared."))
        } else {
            let meaning = "Good for many processes on few CPUs. A process alone loses up to a factor of six on short \
                           regions (30 us).";
            Finding::note("waiting", title)
                .means(meaning)
                .advise(format!("With the library unset {name}: it lets threads sleep only while CPUs are shared."))
        });
    };
    if let Some(policy) = environment.get("OMP_WAIT_POLICY") {
        found("OMP_WAIT_POLICY", policy.eq_ignore_ascii_case("active"));
    }
    if let Some(count) = environment.get("GOMP_SPINCOUNT") {
        found(
            "GOMP_SPINCOUNT",
            environment
                .number("GOMP_SPINCOUNT")
                .is_none_or(|rounds| rounds > 10_000 || !count.ends_with(|c: char| c.is_ascii_digit())),
        );
    }
    if let Some(time) = environment.get("KMP_BLOCKTIME") {
        found(
            "KMP_BLOCKTIME",
            time.starts_with("inf") || environment.number("KMP_BLOCKTIME").is_some_and(|ms| ms > 200),
        );
    }
    findings
}

/// Variables that do one thing each.
fn settings(environment: &Environment) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(value) = environment.get("KMP_INIT_AT_FORK").filter(|value| is_false(value)) {
        let meaning = "Intel's and LLVM's OpenMP no longer start anew in forked children: they keep the parent's pin.";
        let finding = Finding::warning("kmp-init-at-fork", format!("KMP_INIT_AT_FORK={value}")).means(meaning);
        findings.push(finding.advise("Unset KMP_INIT_AT_FORK."));
    }
    if let Some(value) = environment.get("KMP_DUPLICATE_LIB_OK").filter(|value| !is_false(value)) {
        let meaning = "It silences the error about two copies of Intel's or LLVM's OpenMP in one process. Each has threads of \
                       its own, and wrong results are possible.";
        let finding = Finding::warning("kmp-duplicate-lib-ok", format!("KMP_DUPLICATE_LIB_OK={value}")).means(meaning);
        findings.push(finding.advise("Install the packages from one source (all conda or all pip), and unset it."));
    }
    if let Some(value) = environment.get("OMP_DYNAMIC").filter(|value| !is_false(value)) {
        let meaning = "OpenMP may give regions fewer threads than they ask for, as the load of the node is.";
        findings.push(Finding::note("omp-dynamic", format!("OMP_DYNAMIC={value}")).means(meaning));
    }
    if let Some(value) = environment.get("MKL_DYNAMIC").filter(|value| is_false(value)) {
        let meaning = "MKL takes as many threads as it is told, in parallel regions too: N x N threads.";
        let finding = Finding::note("mkl-dynamic", format!("MKL_DYNAMIC={value}")).means(meaning);
        findings.push(finding.advise("Unset MKL_DYNAMIC, unless nested threads are what you want."));
    }
    if let Some(value) = environment.get("MKL_THREADING_LAYER") {
        let meaning = match value.to_ascii_uppercase().as_str() {
            "SEQUENTIAL" => "MKL runs one thread in each process.",
            "GNU" => "MKL runs on libgomp: OMP_ and GOMP_ variables count, KMP_ ones do not.",
            "TBB" => "MKL runs on TBB: no OMP_ or KMP_ variable counts, and nothing is pinned.",
            _ => "MKL runs on Intel's OpenMP: OMP_ and KMP_ variables count.",
        };
        findings.push(Finding::note("mkl-layer", format!("MKL_THREADING_LAYER={value}")).means(meaning));
    }
    for name in ["KMP_HW_SUBSET", "KMP_PLACE_THREADS"] {
        if let Some(value) = environment.get(name) {
            let meaning = "Intel's and LLVM's OpenMP use a part of the CPUs, in each process the same part.";
            findings.push(Finding::note("kmp-hw-subset", format!("{name}={value}")).means(meaning));
        }
    }
    findings
}

fn misspelt(environment: &Environment) -> Vec<Finding> {
    let unknown = environment.iter().filter(|(name, _)| name.starts_with("OMP_") && !OPENMP.contains(name));
    let finding = |(name, _): (&str, &str)| {
        let advice = super::nearest(name, OPENMP.into_iter()).map(|near| format!("Did you mean {near}?"));
        let finding = Finding::note("unknown-variable", format!("{name}: OpenMP has no such variable"));
        advice.map(|advice| finding.advise(advice))
    };
    // One that resembles none may be the program's own.
    unknown.filter_map(finding).collect()
}
