//! The findings for programs. `docs/doctor.md` describes the form; [`VERSION`] changes when a field goes or changes its
//! meaning.

use super::Context;
use super::finding::{Finding, Severity};
use crate::json::string;

const VERSION: u32 = 1;

pub(crate) fn json(context: &Context<'_>, findings: &[Finding]) -> String {
    let worst = findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok);
    let machine = context.machine;
    let number = |value: Option<u32>| value.map_or("null".into(), |value| value.to_string());
    let listed = findings.iter().map(|finding| {
        format!(
            "{{\"id\": {}, \"severity\": \"{}\", \"title\": {}, \"meaning\": {}, \"advice\": {}}}",
            string(finding.id),
            finding.severity,
            string(&finding.title),
            string(&finding.meaning),
            string(&finding.advice)
        )
    });
    format!(
        "{{\"format\": \"knlfix-doctor\", \"version\": {VERSION}, \"knlfix\": {}, \"worst\": \"{worst}\",\n \
         \"machine\": {{\"online\": \"{}\", \"cpuset\": {}, \"allowed\": \"{}\", \"quota\": {}, \"budget\": {}}},\n \
         \"preload\": {{\"active\": {}}},\n \"program\": {},\n \"findings\": [\n  {}]}}\n",
        string(env!("CARGO_PKG_VERSION")),
        machine.online,
        machine.cpuset.as_ref().map_or("null".into(), |cpuset| string(&cpuset.to_string())),
        machine.allowed,
        number(machine.quota),
        number(machine.budget),
        context.is_preloaded,
        context.program.map_or("null".into(), super::program::Program::json),
        listed.collect::<Vec<_>>().join(",\n  ")
    )
}
