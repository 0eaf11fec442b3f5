//! What happened, as lines: hashed, so that two runs can be compared, and printed when asked for.

use std::fmt::Arguments;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The trace of one run.
#[derive(Debug)]
pub struct Trace {
    hasher: DefaultHasher,
    is_printed: bool,
}

impl Trace {
    /// An empty trace.
    pub fn new(is_printed: bool) -> Self {
        Self { hasher: DefaultHasher::new(), is_printed }
    }

    /// Adds a line.
    pub fn say(&mut self, line: Arguments<'_>) {
        let line = line.to_string();
        if self.is_printed {
            println!("{line}");
        }
        line.hash(&mut self.hasher);
    }

    /// The hash of all lines.
    pub fn hash(&self) -> u64 {
        self.hasher.finish()
    }
}
