//! All that is seen, for programs.

use super::view::{Domain, Process, State, View};
use crate::json::string;
use knlfix_core::cpumask::CpuMask;

/// The number of this form; it changes with the meaning of a field, not when one is added.
const FORM: u32 = 1;

pub(crate) fn json(view: &View) -> String {
    let left_out = view
        .left_out
        .iter()
        .map(|(file, why)| format!("{{\"file\": {}, \"why\": {}}}", string(&file.to_string_lossy()), string(why)));
    format!(
        "{{\"version\": {FORM},\n \"domains\": [{}],\n \"left_out\": [{}]}}\n",
        view.domains.iter().map(domain).collect::<Vec<_>>().join(",\n  "),
        left_out.collect::<Vec<_>>().join(", ")
    )
}

fn domain(domain: &Domain) -> String {
    let cpus = domain.chart.as_ref().map_or_else(Vec::new, |chart| {
        let cpu = |cpu: &knlfix_core::topology::Cpu| {
            let pids = chart.on(cpu.number).map(|worker| worker.pid.to_string()).collect::<Vec<_>>();
            format!(
                "{{\"cpu\": {}, \"core\": {}, \"tile\": {}, \"node\": {}, \"package\": {}, \"claimed_by\": [{}]}}",
                cpu.number,
                cpu.core,
                cpu.tile,
                cpu.node,
                cpu.package,
                pids.join(", ")
            )
        };
        chart.cpus.iter().map(cpu).collect()
    });
    format!(
        "{{\"file\": {}, \"job\": {},\n   \"region\": {}, \"active\": {}, \"idle\": {}, \"dead\": {}, \"held\": {}, \
         \"held_by_dead\": {},\n   \"processes\": [\n    {}],\n   \"cpus\": [{}]}}",
        string(&domain.path.to_string_lossy()),
        domain.job.as_deref().map_or("null".into(), string),
        domain.count(State::Region),
        domain.count(State::Active),
        domain.count(State::Idle),
        domain.count(State::Dead),
        domain.held(false),
        domain.held(true),
        domain.processes.iter().map(process).collect::<Vec<_>>().join(",\n    "),
        cpus.join(",\n    ")
    )
}

fn process(process: &Process) -> String {
    let number = |number: Option<u32>| number.map_or("null".into(), |number| number.to_string());
    let list = |mask: &CpuMask| if mask.is_empty() { "null".into() } else { string(&mask.to_string()) };
    format!(
        "{{\"pid\": {}, \"slot\": {}, \"command\": {}, \"age_s\": {}, \"state\": {}, \"ask\": {}, \"held\": {}, \
         \"share\": {}, \"start_share\": {}, \"budget\": {}, \"idle_ms\": {}, \"allowed\": {}, \"claimed\": {}}}",
        process.pid,
        process.slot,
        if process.state == State::Dead { "null".into() } else { string(&process.command) },
        process.age.map_or("null".into(), |age| format!("{:.2}", age.as_secs_f64())),
        string(process.state.name()),
        process.ask,
        process.held,
        number(process.share),
        number(process.told),
        number(process.budget),
        process.idle_ms,
        list(&process.allowed),
        list(&process.claimed)
    )
}
