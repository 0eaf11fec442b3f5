//! The `claudebus` program.

fn main() {}
