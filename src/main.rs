//! The `claudebus` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    claudebus::cli::main()
}
