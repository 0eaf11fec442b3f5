//! Configuration files of nats-server: what their common keys say, for `claudebus nats-server`.
//!
//! The format is a lenient mix of JSON, YAML and HCL. `lexer` reads characters and words, `parser`
//! makes a tree of them, `mapping` makes [`NatsOptions`] of the tree, with `login` for users,
//! `secure` for TLS and `websocket`. Reading files and the environment
//! is the caller's, by [`Sources`]; nothing here starts anything.

mod duration;
mod error;
mod keys;
mod lexer;
mod login;
mod mapping;
mod options;
mod parser;
mod secure;
#[cfg(test)]
mod tests;
mod tree;
mod values;
mod websocket;

use std::io;
use std::path::Path;

pub use error::{NatsConfError, Place};
pub use login::NatsUser;
pub use options::{NatsOptions, Port};
pub use secure::TlsOptions;
pub use websocket::WebSocketOptions;

/// Largest file. 4 MiB: a hundred times the largest that people write.
const MAX_FILE: u64 = 4 << 20;

/// Where files and variables come from.
pub struct Sources<'a> {
    /// The text of a file.
    pub read: &'a dyn Fn(&Path) -> io::Result<String>,
    /// A variable of the environment.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
}

/// What the file at `path` says, on top of what nats-server does without a file.
///
/// # Errors
/// [`NatsConfError`], with the place in the file.
pub fn load(path: &Path, sources: &Sources<'_>) -> Result<NatsOptions, NatsConfError> {
    mapping::options(&parser::parse_file(path, sources)?)
}

/// Reads a file of the disk, unless it is too large to be a configuration.
///
/// # Errors
/// What the operating system says; [`io::ErrorKind::InvalidData`] for what is too large or no text.
pub fn read_file(path: &Path) -> io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        let why = format!("it has more than {MAX_FILE} bytes, which is no configuration");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(text)
}
