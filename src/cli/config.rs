//! `claudebus config`: what the server would do, and why.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::args::ConfigSource;
use super::exit::{Exit, Failure};
use super::output::Output;
use crate::config::{ConfigFile, Resolved, StreamPlan, default_path};

/// `claudebus config`.
#[derive(Debug, Args)]
pub(super) struct Config {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Show every value in force and where it comes from
    Show(ConfigSource),
    /// Check a configuration file without starting anything
    Check {
        /// The file (YAML)
        #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Show where the configuration file is looked for
    Path,
}

/// The environment of this process.
pub(super) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Reads the file that `source` names, or the default one if there is one, and merges the settings.
pub(super) fn load(source: &ConfigSource) -> Result<(ConfigFile, Resolved), Failure> {
    let path = source.config.clone().or_else(|| default_path().filter(|path| path.exists()));
    let file = match &path {
        Some(path) => ConfigFile::load(path, &environment)?,
        None => ConfigFile::default(),
    };
    let resolved = Resolved::new(&file, &environment, &source.flags.0)?;
    Ok((file, resolved))
}

/// Runs `claudebus config`.
pub(super) fn run(config: &Config, output: &mut Output) -> Result<(), Failure> {
    match &config.command {
        ConfigCommand::Show(source) => show(source, output),
        ConfigCommand::Check { file } => check(file, output),
        ConfigCommand::Path => path(output),
    }
}

fn show(source: &ConfigSource, output: &mut Output) -> Result<(), Failure> {
    let (file, resolved) = load(source)?;
    let lines = resolved.shown(&file);
    if output.is_json() {
        for line in lines {
            let origin = line.origin.to_string();
            output.json(&json!({"key": line.key, "value": line.value, "origin": origin}))?;
        }
        return Ok(());
    }
    output.table(
        ["Key", "Value", "Origin"],
        lines.into_iter().map(|line| [line.key, line.value, line.origin.to_string()]),
    )
}

fn check(path: &Path, output: &mut Output) -> Result<(), Failure> {
    let file = ConfigFile::load(path, &environment)?;
    // The file is checked for itself: neither flags nor the environment's settings hide a mistake.
    // Secrets are no part of a file that is shown around, so the token may come from there.
    let secrets = |name: &str| environment(name).filter(|_| name.starts_with("CLAUDEBUS_AUTH_"));
    let resolved = Resolved::new(&file, &secrets, &std::collections::BTreeMap::new())?;
    file.require("event_bus.streams")?;
    super::serve::describe(&resolved, &file)?.check()?;
    let plan = StreamPlan::new(&file.sections.event_bus);
    if output.is_json() {
        let unset: Vec<_> = file.unset.iter().map(|unset| &unset.variable).collect();
        let streams: Vec<_> = plan.configured.iter().map(|stream| &stream.name).collect();
        return output.json(&json!({"ok": true, "streams": streams, "unset_variables": unset}));
    }
    for unset in &file.unset {
        output.talk(format_args!(
            "{}: `{}` names {}, which is not set; that matters once the section is used",
            unset.place, unset.path, unset.variable
        ));
    }
    output.line(format_args!("{}: ok, {} streams defined", path.display(), plan.configured.len()))
}

fn path(output: &mut Output) -> Result<(), Failure> {
    let Some(path) = default_path() else {
        return Err(Failure::new(Exit::NotFound, "this platform has no configuration folder")
            .hint("name a file with --config or CLAUDEBUS_CONFIG"));
    };
    let exists = path.exists();
    if output.is_json() {
        return output.json(&json!({"path": path, "exists": exists}));
    }
    if !exists {
        output.talk("there is no such file; a server runs on defaults");
    }
    output.line(path.display())
}
