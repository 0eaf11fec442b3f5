//! What can be wrong with a nats-server configuration file, always with the place.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::nearest::nearest;

/// A place in a file: `file:line:column`, both counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// The line.
    pub line: u32,
    /// The character of the line.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A nats-server configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NatsConfError {
    /// The file itself cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An included file cannot be read.
    #[error("{place}: cannot include {}: {source}", path.display())]
    Include {
        /// Where it is included.
        place: Place,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not the format.
    #[error("{place}: {why}")]
    Syntax {
        /// Where.
        place: Place,
        /// What was found and what was expected.
        why: String,
    },
    /// A variable that is neither in the file nor in the environment.
    #[error(
        "{place}: there is no variable `{name}`; set it above this line or in the environment, or \
         quote the text if it is none"
    )]
    NoVariable {
        /// Where it is used.
        place: Place,
        /// Its name.
        name: String,
    },
    /// A key that is not known here.
    #[error("{place}: unknown field \"{key}\"{}; {}", inside(within), suggestion(key, known))]
    Unknown {
        /// Where.
        place: Place,
        /// The key.
        key: String,
        /// The key of the map around it; empty at the top.
        within: &'static str,
        /// The keys that are known there.
        known: Vec<&'static str>,
    },
    /// A value that cannot be what it should.
    #[error("{place}: `{key}`: {why}")]
    Invalid {
        /// Where.
        place: Place,
        /// The key.
        key: String,
        /// What was found and what was expected.
        why: String,
    },
    /// A key that nats-server knows, and that is not supported here.
    #[error("{place}: `{key}` is not supported: {instead}")]
    Unsupported {
        /// Where.
        place: Place,
        /// The key.
        key: String,
        /// What to do instead.
        instead: &'static str,
    },
}

/// ` in <map>`, or nothing at the top.
fn inside(within: &str) -> String {
    if within.is_empty() { String::new() } else { format!(" in `{within}`") }
}

/// The nearest key, or all of them.
fn suggestion(key: &str, known: &[&str]) -> String {
    match nearest(key, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known here: {}", known.join(", ")),
    }
}
