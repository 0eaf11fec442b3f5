//! Shell completions and manual pages, from the same data as the help.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _};

use super::args::Cli;
use super::exit::Failure;
use super::output::Output;

/// `claudebus completions`.
#[derive(Debug, Args)]
#[command(
    after_help = "Bash: claudebus completions bash > ~/.local/share/bash-completion/completions/claudebus\n\
                        Zsh:  claudebus completions zsh > \"${fpath[1]}/_claudebus\"\n\
                        Fish: claudebus completions fish > ~/.config/fish/completions/claudebus.fish"
)]
pub(super) struct Shell {
    /// The shell
    shell: clap_complete::Shell,
}

/// `claudebus man`.
#[derive(Debug, Args)]
pub(super) struct Man {
    /// Write one page per command here instead of the first one to stdout
    #[arg(value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

/// Prints the completion script.
pub(super) fn completions(args: &Shell, output: &mut Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "claudebus", &mut script);
    output.bytes(&script)
}

/// Prints the manual page, or writes all of them.
pub(super) fn man(args: &Man, output: &mut Output) -> Result<(), Failure> {
    match &args.folder {
        Some(folder) => {
            std::fs::create_dir_all(folder)?;
            clap_mangen::generate_to(Cli::command(), folder)?;
            output.talk(format_args!("wrote the manual pages to {}", folder.display()));
            Ok(())
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            output.bytes(&page)
        }
    }
}
