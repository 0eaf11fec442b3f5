//! Log events on stderr.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::cli::exit::{Exit, Failure};
use crate::config::ServerSettings;

/// Sends log events to stderr as the settings say.
pub(super) fn start(settings: &ServerSettings) -> Result<(), Failure> {
    let filter = EnvFilter::builder().parse(&settings.log).map_err(|error| {
        Failure::new(Exit::Config, format_args!("log filter `{}`: {error}", settings.log))
            .hint("write for example info, or info,claudebus::server=debug")
    })?;
    let colour = std::io::stderr().is_terminal()
        && anstream::ColorChoice::global() != anstream::ColorChoice::Never
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let registry = tracing_subscriber::registry().with(filter);
    let result = if settings.log_json {
        registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init()
    } else {
        registry.with(fmt::layer().with_ansi(colour).with_writer(std::io::stderr)).try_init()
    };
    result.map_err(|error| Failure::new(Exit::Failed, error))
}
