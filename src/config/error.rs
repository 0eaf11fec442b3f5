//! What can be wrong with a configuration, always with the place and the next step.

use std::path::PathBuf;

use super::resolve::GIVEN_ON_COMMAND_LINE;

use super::nearest::nearest;

/// A configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not YAML.
    #[error("{place}: not valid YAML: {why}")]
    Syntax {
        /// File and line.
        place: String,
        /// What the parser says.
        why: String,
    },
    /// A key that nobody reads.
    #[error("{place}: unknown {what} `{word}`{}; {}", inside(path), suggestion(word, known))]
    Unknown {
        /// File and line.
        place: String,
        /// `key` or `value`.
        what: &'static str,
        /// The word found.
        word: String,
        /// Where in the tree, as a dotted path; empty for the top.
        path: String,
        /// The words that would do.
        known: Vec<String>,
    },
    /// A value that cannot be what it should.
    #[error("{place}: `{path}`: {why}")]
    Invalid {
        /// File and line, the environment variable, or the flag.
        place: String,
        /// The key, as a dotted path.
        path: String,
        /// What was found and what was expected.
        why: String,
    },
    /// A value that is used names an environment variable that is not set.
    #[error(
        "{place}: `{path}` needs the environment variable {variable}, which is not set; \
         set it, or write a fallback as `${{{variable}:-value}}`"
    )]
    Unset {
        /// File and line.
        place: String,
        /// The key, as a dotted path.
        path: String,
        /// The variable.
        variable: String,
    },
}

impl ConfigError {
    /// Whether it is about a flag, and so about the command line and not the configuration.
    #[must_use]
    pub fn is_of_command_line(&self) -> bool {
        matches!(self, Self::Invalid { place, .. } if place.starts_with(GIVEN_ON_COMMAND_LINE))
    }
}

/// ` in <path>`, or nothing at the top.
fn inside(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(" in `{path}`") }
}

/// The nearest word, or all of them.
fn suggestion(word: &str, known: &[String]) -> String {
    match nearest(word, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known here: {}", known.join(", ")),
    }
}
