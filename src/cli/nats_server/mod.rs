//! `claudebus nats-server`: a server in the place of nats-server, for the scripts, test harnesses and containers
//! that start one. Its flags, its configuration files, its log and its signals; QUIC, default streams and
//! everything else that is ours is `claudebus serve`'s.

mod files;
mod flags;
mod log;
mod running;
mod signal;
mod usage;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::allocator;
use super::exit::{Exit, Failure};
use super::output::say;
use crate::config::nats_conf::{NatsOptions, Sources, load, read_file};
use crate::model::answer::NATS_VERSION;
use flags::{Flags, Request};

/// `claudebus nats-server`. Its flags are not read by clap, whose syntax is another one.
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = "Takes the flags and the configuration files of nats-server: `claudebus nats-server --help`.\n\
    A link to this program that is called nats-server does the same."
)]
pub(super) struct NatsServer {
    /// Flags of nats-server
    #[arg(value_name = "FLAGS", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// The arguments of nats-server, if this command line is one: by the program's name, or by its first argument.
pub(super) fn asked_for(mut command_line: impl Iterator<Item = OsString>) -> Option<Vec<OsString>> {
    let program = command_line.next()?;
    if is_our_name(Path::new(&program).file_stem()) {
        return Some(command_line.collect());
    }
    is_our_name(command_line.next().as_deref()).then(|| command_line.collect())
}

fn is_our_name(name: Option<&OsStr>) -> bool {
    name == Some(OsStr::new(files::PROGRAM))
}

/// Does what the arguments say, where flags of ours stand before the command.
pub(super) fn run(server: NatsServer) -> Result<(), Failure> {
    obey(server.arguments)
}

/// Does what the arguments say, and tells how it went in nats-server's way.
pub(super) fn main(arguments: Vec<OsString>) -> ExitCode {
    match obey(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                say(format_args!("{}: {}", files::PROGRAM, failure.message));
            }
            failure.exit.into()
        }
    }
}

fn obey(arguments: Vec<OsString>) -> Result<(), Failure> {
    let arguments: Result<Vec<_>, _> = arguments.into_iter().map(OsString::into_string).collect();
    let arguments = arguments.map_err(|argument| {
        failed(format_args!("the argument {} is not UTF-8", argument.to_string_lossy()))
    })?;
    let request = flags::parse(&arguments)
        .map_err(|why| failed(format_args!("{why}\nsee {} --help", files::PROGRAM)))?;
    match request {
        Request::Help => print(usage::USAGE),
        Request::Version => print(&version()),
        Request::Serve(flags) => match &flags.signal {
            Some(text) => signal::send(text).map_err(failed),
            None => serve(&flags),
        },
    }
}

/// Serves, or says whether one could.
fn serve(flags: &Flags) -> Result<(), Failure> {
    // Before the file is read: it may be a pipe, which gives its bytes once.
    let is_exposed = !flags.test && allocator::set_up();
    let options = options(flags)?;
    let builder = running::describe(&options)?;
    if flags.test {
        let Some(path) = &flags.config else {
            return Err(failed(
                "must specify [-c, --config] option to check configuration file syntax",
            ));
        };
        let path = path.display();
        say(format_args!("{}: configuration file {path} is valid", files::PROGRAM));
        return Ok(());
    }
    running::serve(builder, &options, flags.config.as_deref(), is_exposed)
}

/// What the file says, and what the flags change.
fn options(flags: &Flags) -> Result<NatsOptions, Failure> {
    let mut options = match &flags.config {
        Some(path) => {
            let variable = |name: &str| std::env::var(name).ok();
            load(path, &Sources { read: &read_file, variable: &variable }).map_err(failed)?
        }
        None => NatsOptions::default(),
    };
    flags.apply(&mut options).map_err(failed)?;
    Ok(options)
}

/// nats-server's exit code for everything that is wrong is 1.
fn failed(message: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, message)
}

/// The version that is imitated, in nats-server's words, and our own.
fn version() -> String {
    let imitated = NATS_VERSION.split('+').next().unwrap_or(NATS_VERSION);
    format!("{}: v{imitated}\nclaudebus {}\n", files::PROGRAM, env!("CARGO_PKG_VERSION"))
}

fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut stdout = std::io::stdout().lock();
    Ok(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_or_the_first_argument_asks_for_it() {
        let ask = |line: &str| {
            let found = asked_for(line.split(' ').map(OsString::from));
            found.map(|words| {
                words.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>()
            })
        };
        assert_eq!(ask("/usr/bin/nats-server -js"), Some(vec!["-js".to_owned()]));
        assert_eq!(ask("nats-server"), Some(vec![]));
        assert_eq!(ask("claudebus nats-server -p 1"), Some(vec!["-p".to_owned(), "1".to_owned()]));
        assert_eq!(ask("claudebus serve nats-server"), None);
        assert_eq!(ask("nats-servers -p 1"), None);
    }

    #[test]
    fn the_version_begins_like_that_of_nats_server() {
        let version = version();
        let mut lines = version.lines();
        let first = lines.next().unwrap().strip_prefix("nats-server: v").unwrap();
        assert!(
            first.split('.').count() == 3
                && first.split('.').all(|part| part.parse::<u32>().is_ok())
        );
        assert!(lines.next().unwrap().starts_with("claudebus "));
    }
}
