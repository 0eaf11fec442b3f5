//! The journal: one write and one sync for all that one turn of the broker decided.
//!
//! `format` is the bytes, `effect` the entries, `scan` reads a file after a crash and has `search` find
//! what stands behind a bad entry, `noted` tells whether a start came so far as to note what it found,
//! `writer` writes groups and rotates files, `files` keeps spare files ready. The journal does not know what effects do: that is the engine's.

pub(crate) mod effect;
pub(crate) mod files;
pub(crate) mod format;
pub(crate) mod noted;
pub(crate) mod scan;
pub(crate) mod search;
pub(crate) mod shared;
pub(crate) mod writer;

pub use writer::Durability;

/// The directory of journal files and spares.
pub(crate) const DIR: &str = "journal";
/// The number of the file that the first group of all is in.
pub(crate) const FIRST_FILE: u64 = 1;

/// The path of a journal file.
pub(crate) fn path(file: u64) -> String {
    format!("{DIR}/{file:016x}.jnl")
}

/// The number of a journal file, from its name in [`DIR`].
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".jnl").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}
