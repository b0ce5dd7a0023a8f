//! What the doctor found.

use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Severity {
    /// As it should be.
    Ok,
    /// Good to know.
    Note,
    /// CPUs are lost, or may be.
    Warning,
    /// The program hangs, crashes, or the library can't help it.
    Problem,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}

/// One finding.
pub(crate) struct Finding {
    /// Its name for programs; it stays the same from version to version.
    pub(crate) id: &'static str,
    pub(crate) severity: Severity,
    pub(crate) title: String,
    /// What it means; empty where the title says all.
    pub(crate) meaning: String,
    /// What to do; empty where nothing is to be done.
    pub(crate) advice: String,
}

impl Finding {
    fn new(severity: Severity, id: &'static str, title: impl Into<String>) -> Self {
        Self { id, severity, title: title.into(), meaning: String::new(), advice: String::new() }
    }

    pub(crate) fn ok(id: &'static str, title: impl Into<String>) -> Self {
        Self::new(Severity::Ok, id, title)
    }

    pub(crate) fn note(id: &'static str, title: impl Into<String>) -> Self {
        Self::new(Severity::Note, id, title)
    }

    pub(crate) fn warning(id: &'static str, title: impl Into<String>) -> Self {
        Self::new(Severity::Warning, id, title)
    }

    pub(crate) fn problem(id: &'static str, title: impl Into<String>) -> Self {
        Self::new(Severity::Problem, id, title)
    }

    pub(crate) fn means(mut self, meaning: impl Into<String>) -> Self {
        self.meaning = meaning.into();
        self
    }

    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }

    /// With that severity instead.
    pub(crate) fn graded(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }
}
