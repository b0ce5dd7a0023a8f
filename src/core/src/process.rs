//! Processes, as `/proc/PID/stat` shows them.

use crate::files::{Files, Path, number, read_small};
use crate::ledger::Owner;

/// A process, as far as it concerns us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// It runs no more; its parent may not have waited for it yet.
    pub is_dead: bool,
    /// The process that made it.
    pub parent: i32,
    /// When it started, in clock ticks after the node.
    pub started: u64,
}

impl Process {
    /// The process `pid`; `None` if there is none, or it can't be read.
    pub fn read(files: &impl Files, pid: i32) -> Option<Self> {
        let mut path = Path::new();
        path.push(b"/proc/")?;
        path.push(crate::text::decimal(pid as u64, &mut [0; 20]))?;
        path.push(b"/stat")?;
        Self::parse(read_small(files, path.as_c_str(), &mut [0; 1024])?)
    }

    fn parse(line: &[u8]) -> Option<Self> {
        // The program's name may hold anything, also parentheses and blanks.
        let after_name = line.get(line.iter().rposition(|&byte| byte == b')')? + 1..)?;
        let mut fields = after_name.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
        let state = fields.next()?.first()?;
        let parent = number(fields.next()?)?;
        // Fields 20 and 22 of proc(5); the parent is field 4.
        let threads = number(fields.nth(15)?)?;
        let started = number(fields.nth(1)?)?;
        // Where only the main thread has ended, it is a zombie that others go on without.
        let is_dead = b"ZXx".contains(state) && threads <= 1;
        Some(Self { is_dead, parent: parent as i32, started })
    }
}

/// Whether the owner of a slot still runs; in doubt it does. `is_there` says whether there is any process of a number:
/// `/proc` may not be mounted, or hide it.
pub fn is_alive(files: &impl Files, owner: Owner, is_there: impl Fn(i32) -> bool) -> bool {
    if !is_there(owner.pid()) {
        return false;
    }
    match Process::read(files, owner.pid()) {
        Some(process) => !process.is_dead && (owner.started() == 0 || owner.started() == process.started),
        None => is_there(owner.pid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_and_blanks_are_no_trouble() {
        let rest = "S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 2";
        let seen = Some(Process { is_dead: false, parent: 7, started: 4711 });
        for name in ["sh", "a) Z 1 (b", "", ")"] {
            assert_eq!(Process::parse(format!("12 ({name}) {rest}").as_bytes()), seen, "{name}");
        }
        assert_eq!(Process::parse(b"12 (sh"), None);
        assert_eq!(Process::parse(b"12 (sh) S 7"), None);
    }

    #[test]
    fn a_zombie_is_dead() {
        let line = "12 (sh) Z 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 2";
        assert!(Process::parse(line.as_bytes()).is_some_and(|process| process.is_dead));
        // Its main thread called pthread_exit().
        let line = line.replace(" 20 0 1 0 ", " 20 0 3 0 ");
        assert!(Process::parse(line.as_bytes()).is_some_and(|process| !process.is_dead));
    }
}
