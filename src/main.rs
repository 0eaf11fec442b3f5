//! The `claudebus` program.

use std::process::ExitCode;

// Faster than the system's allocator where threads free what others allocated, which is what a
// broker does with every message.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    claudebus::cli::main()
}
