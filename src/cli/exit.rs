//! How the program ends: exit codes as data, and failures with a hint at the next step.

use std::fmt::Display;

use crate::config::ConfigError;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well. A reader that closed the pipe counts as well.
    Ok = 0,
    /// The operation failed.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// No connection to a server.
    NotConnected = 3,
    /// What was named does not exist.
    NotFound = 4,
    /// Nothing came in the time allowed.
    TimedOut = 5,
    /// The server did not let us in, or not do that.
    Denied = 6,
    /// Data on disk is damaged.
    Damaged = 65,
    /// A defect of the program.
    Defect = 70,
    /// The disk failed under the journal.
    JournalFailed = 74,
    /// The configuration is wrong.
    Config = 78,
    /// Stopped by Ctrl-C.
    Interrupted = 130,
}

/// Every code with its meaning, as `claudebus exit-codes` prints them.
pub const EXIT_CODES: &[(Exit, &str)] = &[
    (Exit::Ok, "all went well; also when the reader of the output went away"),
    (Exit::Failed, "the operation failed"),
    (Exit::Usage, "the command line makes no sense"),
    (Exit::NotConnected, "no connection to a server"),
    (Exit::NotFound, "the stream, consumer or message does not exist"),
    (Exit::TimedOut, "nothing came in the time allowed"),
    (Exit::Denied, "the server refused the token"),
    (Exit::Damaged, "data on disk is damaged; `claudebus verify` named it"),
    (Exit::Defect, "a defect of the program; please report it"),
    (
        Exit::JournalFailed,
        "the disk failed under the journal; the server stopped, nothing acknowledged is lost",
    ),
    (Exit::Config, "the configuration is wrong"),
    (Exit::Interrupted, "stopped by Ctrl-C before it was done"),
];

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failure, as it is told to people.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What went wrong. Nothing is printed if it is empty.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(exit: Exit, message: impl Display) -> Self {
        Self { exit, message: message.to_string(), hint: None }
    }

    /// A wrong command line.
    pub fn usage(message: impl Display) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// With a hint at the next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// An end without a word: the reader went away, or the user said no.
    #[must_use]
    pub fn silent(exit: Exit) -> Self {
        Self { exit, message: String::new(), hint: None }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::silent(Exit::Ok);
        }
        Self::new(Exit::Failed, error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        if error.is_of_command_line() {
            return Self::usage(error);
        }
        Self::new(Exit::Config, error)
            .hint("`claudebus config show` tells what is in force and where it comes from")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_listed_once() {
        let codes: std::collections::BTreeSet<u8> =
            EXIT_CODES.iter().map(|(exit, _)| *exit as u8).collect();
        assert_eq!(codes.len(), EXIT_CODES.len());
        // The list is sorted, so that its last entry tells that none is missing after it.
        assert!(EXIT_CODES.is_sorted_by_key(|(exit, _)| *exit as u8));
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(Failure::from(broken), Failure::silent(Exit::Ok));
    }
}
