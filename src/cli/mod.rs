//! The `claudebus` program: each command is its arguments and what it does with them.
//!
//! Standard output is data, standard error is talk; exit codes are a table in [`exit`]. Commands
//! use the SDK as any other program would; only `serve`, `config` and `verify` know the server.

mod allocator;
mod args;
mod bench;
mod completions;
mod config;
mod connect;
mod consumer;
mod dead;
mod exec;
pub mod exit;
mod lame_duck;
mod message;
mod messages;
mod nats_server;
pub mod output;
mod publish;
mod request;
mod schedule;
mod serve;
mod stats;
mod stream;
mod subscribe;
mod template;
mod verify;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, ClientCommand, Command, Global};
use exit::{Exit, Failure};
use output::Output;

/// Parses the command line, does what it says, and tells how it went.
#[must_use]
pub fn main() -> ExitCode {
    // Before clap, which reads flags in another way.
    if let Some(arguments) = nats_server::asked_for(std::env::args_os()) {
        return nats_server::main(arguments);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors, and print to stdout; a reader that went away is none
            // either.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            let _ = error.print();
            return exit.into();
        }
    };
    let mut output = Output::standard(cli.global.output, cli.global.quiet);
    let result = run(cli, &mut output).and_then(|()| output.flush());
    match result {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => {
            // What was printed before the failure is data all the same.
            let _ = output.flush();
            output::say_failure(&failure);
            failure.exit.into()
        }
    }
}

/// Runs one command.
fn run(cli: Cli, output: &mut Output) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    match command {
        Command::Bench(args) => bench::run(&args, &global, output),
        Command::Serve(args) => serve::run(&args, output),
        Command::NatsServer(args) => nats_server::run(args),
        Command::Config(args) => config::run(&args, output),
        Command::Verify(args) => verify::run(&args, output),
        Command::Completions(args) => completions::completions(&args, output),
        Command::Man(args) => completions::man(&args, output),
        Command::ExitCodes => exit_codes(output),
        Command::Client(command) => {
            // One thread: a command waits for the network more than it computes, and messages stay
            // in one processor's cache.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let result = runtime.block_on(run_client(command, &global, output));
            // Somebody may still wait for a line of standard input, which never comes.
            runtime.shutdown_background();
            result
        }
    }
}

/// Runs one command that needs a server.
async fn run_client(
    command: ClientCommand,
    global: &Global,
    output: &mut Output,
) -> Result<(), Failure> {
    match command {
        ClientCommand::Publish(args) => publish::run(&args, global, output).await,
        ClientCommand::Subscribe(args) => subscribe::run(&args, global, output).await,
        ClientCommand::Request(args) => request::request(&args, global, output).await,
        ClientCommand::Reply(args) => request::reply(&args, global, output).await,
        ClientCommand::Stream(args) => stream::run(&args, global, output).await,
        ClientCommand::Consumer(args) => consumer::run(&args, global, output).await,
        ClientCommand::Schedule(args) => schedule::run(&args, global, output).await,
        ClientCommand::Dead(args) => dead::run(&args, global, output).await,
        ClientCommand::Get(args) => messages::get(&args, global, output).await,
        ClientCommand::Purge(args) => messages::purge(&args, global, output).await,
        ClientCommand::Stats(args) => stats::run(&args, global, output).await,
    }
}

/// Prints [`exit::EXIT_CODES`].
fn exit_codes(output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        for (exit, meaning) in exit::EXIT_CODES {
            output.json(&serde_json::json!({"code": *exit as u8, "meaning": meaning}))?;
        }
        return Ok(());
    }
    let row = |&(exit, meaning): &(Exit, &str)| [(exit as u8).to_string(), meaning.to_owned()];
    output.table(["Code", "Meaning"], exit::EXIT_CODES.iter().map(row))
}
