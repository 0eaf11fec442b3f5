//! The command line as data.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Args, FromArgMatches, Parser, Subcommand, builder::styling};

use super::output::OutputFormat;
use super::{
    bench, completions, config, consumer, dead, messages, nats_server, publish, request, schedule,
    serve, stats, stream, subscribe, verify,
};
use crate::config::SETTINGS;

/// Colours of help.
const STYLES: styling::Styles = styling::Styles::styled()
    .header(styling::AnsiColor::Green.on_default().bold())
    .usage(styling::AnsiColor::Green.on_default().bold())
    .literal(styling::AnsiColor::Cyan.on_default().bold())
    .placeholder(styling::AnsiColor::Cyan.on_default());

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "claudebus",
    version,
    about = "A durable event broker in one binary: streams, consumers and dead letters over QUIC",
    after_help = "Start a server with `claudebus serve`; then, in another terminal:\n  \
                  claudebus publish claude.task.started hello\n  \
                  claudebus subscribe --stream CLAUDE_EVENTS --durable me\n\n\
                  Exit codes: `claudebus help exit-codes`.",
    styles = STYLES,
    max_term_width = 100,

)]
pub(super) struct Cli {
    /// Options of all commands.
    #[command(flatten)]
    pub(super) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Options of all commands.
#[derive(Clone, Debug, Args)]
pub(super) struct Global {
    /// Where the server is: quic://host:port. Found through the context file by default
    #[arg(short, long, global = true, value_name = "URL", env = "CLAUDEBUS_SERVER", hide_env_values = true, help_heading = CONNECTION)]
    pub(super) server: Option<String>,
    /// Certificate authority to believe, a PEM file; not needed for a server on this machine
    #[arg(long, global = true, value_name = "FILE", env = "CLAUDEBUS_CA", hide_env_values = true, help_heading = CONNECTION)]
    pub(super) ca: Option<PathBuf>,
    /// Believe only the server whose certificate has this SHA-256 fingerprint
    #[arg(long, global = true, value_name = "SHA256", env = "CLAUDEBUS_FINGERPRINT", hide_env_values = true, help_heading = CONNECTION)]
    pub(super) fingerprint: Option<String>,
    /// What the server wants to be told; prefer the environment, flags are visible to others
    #[arg(long, global = true, value_name = "TOKEN", env = "CLAUDEBUS_TOKEN", hide_env_values = true, help_heading = CONNECTION)]
    pub(super) token: Option<String>,
    /// Longest wait for a connection and for each answer
    #[arg(long, global = true, value_name = "DURATION", default_value = "5s", value_parser = crate::config::text::positive_duration, help_heading = CONNECTION)]
    pub(super) timeout: std::time::Duration,
    /// For whom the output is
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "text", help_heading = OUTPUT)]
    pub(super) output: OutputFormat,
    /// Print data and errors only
    #[arg(short, long, global = true, help_heading = OUTPUT)]
    pub(super) quiet: bool,
}

const CONNECTION: &str = "Connection";
const OUTPUT: &str = "Output";

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the server
    Serve(serve::Serve),
    /// Run the server in the place of nats-server, with its flags and configuration files
    NatsServer(nats_server::NatsServer),
    /// What needs a server.
    #[command(flatten)]
    Client(ClientCommand),
    /// Measure a server, alone or beside a NATS server
    Bench(bench::Bench),
    /// Check a data directory that no server runs on
    Verify(verify::Verify),
    /// Look at and check the server's configuration
    Config(config::Config),
    /// Print a completion script for a shell
    Completions(completions::Shell),
    /// Print the manual page, or write one page per command into a folder
    Man(completions::Man),
    /// List the exit codes
    #[command(hide = true, long_about = exit_codes())]
    ExitCodes,
}

/// What needs a server.
#[derive(Debug, Subcommand)]
pub(super) enum ClientCommand {
    /// Store messages in streams
    #[command(visible_alias = "pub")]
    Publish(Box<publish::Publish>),
    /// Receive messages, as they are published or from a stream
    #[command(visible_alias = "sub")]
    Subscribe(Box<subscribe::Subscribe>),
    /// Ask whoever listens on a subject, and show the answer
    Request(request::Request),
    /// Answer requests
    Reply(request::Reply),
    /// Look after streams
    Stream(stream::Stream),
    /// Look after consumers
    Consumer(consumer::Consumer),
    /// Look after messages that are to be published later
    Schedule(schedule::Schedule),
    /// Look after messages that consumers gave up
    Dead(dead::Dead),
    /// Show a message of a stream
    Get(messages::Get),
    /// Delete messages of a stream
    Purge(messages::Purge),
    /// Show what the server does
    Stats(stats::Stats),
}

/// The exit codes as help shows them.
fn exit_codes() -> String {
    let mut text = String::from("Exit codes of all commands:\n");
    for (exit, meaning) in super::exit::EXIT_CODES {
        text += &format!("\n  {:>3}  {meaning}", *exit as u8);
    }
    text
}

/// The flags of [`SETTINGS`], as pairs of key and text.
#[derive(Clone, Debug, Default)]
pub(super) struct SettingFlags(pub(super) BTreeMap<&'static str, String>);

impl Args for SettingFlags {
    fn augment_args(mut command: clap::Command) -> clap::Command {
        for setting in SETTINGS {
            let Some(flag) = setting.flag else { continue };
            let mut arg = Arg::new(setting.key)
                .long(flag)
                .value_name(setting.value)
                .help(format!("{} [env: {}]", setting.help, setting.variable()))
                .help_heading("Settings");
            if setting.is_switch() {
                arg = arg.num_args(0..=1).require_equals(true).default_missing_value("true");
            } else if setting.value == "DIR" || setting.value == "FILE" {
                arg = arg.value_hint(clap::ValueHint::AnyPath);
            }
            command = command.arg(arg);
        }
        command
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for setting in SETTINGS.iter().filter(|setting| setting.flag.is_some()) {
            if let Some(text) = matches.get_one::<String>(setting.key) {
                self.0.insert(setting.key, text.clone());
            }
        }
        Ok(())
    }
}

/// How a server's configuration is found: the flags of `serve` and `config show`.
#[derive(Clone, Debug, Args)]
pub(super) struct ConfigSource {
    /// Configuration file (YAML); by default claudebus/claudebus.yaml in your configuration folder,
    /// if there is one
    #[arg(short, long, value_name = "FILE", env = "CLAUDEBUS_CONFIG", hide_env_values = true, value_hint = clap::ValueHint::FilePath)]
    pub(super) config: Option<PathBuf>,
    /// The settings.
    #[command(flatten)]
    pub(super) flags: SettingFlags,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
