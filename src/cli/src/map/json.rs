//! All that was seen, for programs.

use super::chart::Chart;
use super::processes::Process;
use crate::json::string;

pub(crate) fn json(chart: &Chart, processes: &[Process]) -> String {
    let cpus = chart.cpus.iter().map(|cpu| {
        let pids = chart.on(cpu.number).map(|worker| worker.pid.to_string());
        format!(
            "{{\"cpu\": {}, \"core\": {}, \"tile\": {}, \"node\": {}, \"package\": {}, \"pinned\": [{}]}}",
            cpu.number,
            cpu.core,
            cpu.tile,
            cpu.node,
            cpu.package,
            pids.collect::<Vec<_>>().join(", ")
        )
    });
    let processes = processes.iter().map(|process| {
        let worker = chart.workers.iter().find(|worker| worker.pid == process.pid);
        let threads =
            process.threads.iter().map(|thread| format!("{{\"tid\": {}, \"cpus\": \"{}\"}}", thread.tid, thread.mask));
        format!(
            "{{\"pid\": {}, \"parent\": {}, \"command\": {}, \"label\": {}, \"pinned\": {}, \"threads\": [{}]}}",
            process.pid,
            process.parent,
            string(&process.command),
            worker.map_or("null".into(), |worker| string(&worker.label)),
            worker.map_or("null".into(), |worker| string(&worker.cpus.to_string())),
            threads.collect::<Vec<_>>().join(", ")
        )
    });
    format!(
        "{{\"summary\": {},\n \"cpus\": [\n  {}],\n \"processes\": [\n  {}]}}\n",
        string(&chart.headline()),
        cpus.collect::<Vec<_>>().join(",\n  "),
        processes.collect::<Vec<_>>().join(",\n  ")
    )
}
