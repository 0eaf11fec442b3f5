//! The options of a monitoring request, as nats-server reads them.

use std::collections::HashMap;

use serde::Deserialize;

use super::Unanswered;

/// The options that were given. Those that nobody asks for are ignored; of one that was given twice, the
/// last counts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub(in crate::server) struct Given(HashMap<String, String>);

impl Given {
    /// Whether an option was given, with or without a value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// An option's text; empty if it was not given.
    pub(super) fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// Whether an option is on. Without a value it is off.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Unanswered> {
        match self.text(name) {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            other => Err(Unanswered::Option(format!("{name}={other} is neither true nor false"))),
        }
    }

    /// A number; 0 if it was not given, or is below.
    pub(super) fn number(&self, name: &str) -> Result<usize, Unanswered> {
        match self.text(name) {
            "" => Ok(0),
            text => {
                let number: i64 = text
                    .parse()
                    .map_err(|_| Unanswered::Option(format!("{name}={text} is no whole number")))?;
                Ok(usize::try_from(number).unwrap_or(0))
            }
        }
    }

    /// Which part of a list is asked for: how many to skip, and how many to show.
    pub(super) fn page(&self) -> Result<(usize, usize), Unanswered> {
        /// As nats-server.
        const LIMIT: usize = 1024;
        let limit = match self.number("limit")? {
            0 => LIMIT,
            limit => limit,
        };
        Ok((self.number("offset")?, limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(name: &str, value: &str) -> Given {
        Given(HashMap::from([(name.to_owned(), value.to_owned())]))
    }

    #[test]
    fn flags_are_gos() {
        assert!(given("a", "1").flag("a").is_ok_and(|on| on));
        assert!(given("a", "").flag("a").is_ok_and(|on| !on));
        assert!(given("a", "1").flag("b").is_ok_and(|on| !on));
        assert!(given("a", "yes").flag("a").is_err());
    }

    #[test]
    fn pages_begin_at_0_and_have_a_limit() {
        assert_eq!(Given::default().page().ok(), Some((0, 1024)));
        assert_eq!(given("limit", "5").page().ok(), Some((0, 5)));
        assert_eq!(given("offset", "-5").page().ok(), Some((0, 1024)));
        assert!(given("offset", "x").page().is_err());
    }
}
