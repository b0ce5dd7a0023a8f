//! The environment, as text.

use std::collections::BTreeMap;

/// The variables of this process. An empty value is an unset variable, as runtimes see it.
pub(crate) struct Environment(BTreeMap<String, String>);

impl Environment {
    pub(crate) fn own() -> Self {
        Self::of(
            std::env::vars_os()
                .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())),
        )
    }

    pub(crate) fn of(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(variables.into_iter().filter(|(_, value)| !value.is_empty()).collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The number that a variable begins with: `4` of `4,2` and of `4(x2)`.
    pub(crate) fn number(&self, name: &str) -> Option<usize> {
        let value = self.get(name)?.trim();
        value[..value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len())].parse().ok()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}
