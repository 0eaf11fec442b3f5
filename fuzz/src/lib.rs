//! What several fuzz targets begin with: bytes in pieces, and a log so small that few records fill it.

use claudebus_storage::engine::{EngineOptions, Workers};

/// Cuts bytes into parts of these lengths, over and over; without any, into one.
#[must_use]
pub fn cut<'a>(bytes: &'a [u8], lengths: &[u8]) -> Vec<&'a [u8]> {
    let (mut rest, mut parts) = (bytes, Vec::new());
    let mut lengths = lengths.iter().cycle();
    while !rest.is_empty() {
        let length = lengths.next().map_or(rest.len(), |length| usize::from(*length).max(1));
        let (part, after) = rest.split_at(length.min(rest.len()));
        parts.push(part);
        rest = after;
    }
    parts
}

/// A log with small files and a small tail that runs on the caller's thread.
#[must_use]
pub fn options() -> EngineOptions {
    EngineOptions {
        workers: Workers::Inline,
        tail_budget: 16 << 10,
        journal_file_size: 16 << 10,
        journal_limit: 48 << 10,
        seed: 7,
        ..EngineOptions::default()
    }
}
