//! The budget: how many compute threads a domain may run.

use core::fmt;

/// What `KNLFIX_BUDGET` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Setting {
    /// The allowed CPUs, cut by the cgroup's CPU quota.
    #[default]
    Auto,
    /// So many threads.
    Count(u32),
    /// A part of the allowed CPUs.
    Percent(u32),
    /// One thread for each physical core.
    Cores,
    /// No budget at all.
    Off,
}

impl Setting {
    /// Reads a value of the variable.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let is = |word: &str| value.eq_ignore_ascii_case(word.as_bytes());
        let number = |digits: &[u8]| -> Option<u32> {
            let text = core::str::from_utf8(digits).ok()?;
            text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?.filter(|&count| count > 0)
        };
        match value {
            _ if is("auto") => Some(Self::Auto),
            _ if is("cores") => Some(Self::Cores),
            _ if is("off") => Some(Self::Off),
            [digits @ .., b'%'] => number(digits).filter(|&percent| percent <= 100).map(Self::Percent),
            digits => number(digits).map(Self::Count),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Cores => f.write_str("cores"),
            Self::Off => f.write_str("off"),
        }
    }
}

/// The budget.
pub fn size(setting: Setting, allowed: &crate::cpumask::CpuMask, _files: &impl crate::files::Files) -> u32 {
    let cpus = allowed.count() as u32;
    match setting {
        Setting::Count(count) => count.min(cpus),
        _ => cpus,
    }
}
