//! `claudebus schedule`: messages that are to be published later.

use clap::{Args, Subcommand};
use serde_json::json;

use super::args::Global;
use super::connect::connect;
use super::exit::Failure;
use super::output::Output;
use crate::client::ScheduledMessage;
use crate::model::schedule::{PREFIX, STREAM};

/// `claudebus schedule`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    claudebus publish orders.remind 4711 --in 10m\n  \
    claudebus publish report.make '' --cron '0 8 * * 1-5' --tz Europe/Berlin --name report\n  \
    claudebus schedule ls\n  \
    claudebus schedule rm report")]
pub(super) struct Schedule {
    #[command(subcommand)]
    command: ScheduleCommand,
}

#[derive(Debug, Subcommand)]
enum ScheduleCommand {
    /// List messages that are to be published later, those that are due first coming first
    #[command(visible_alias = "list")]
    Ls {
        /// Only those that this stream keeps
        stream: Option<String>,
    },
    /// Cancel one
    Rm {
        /// Its name, as `ls` shows it
        name: String,
        /// The stream that keeps it; its name is a subject of that stream then
        #[arg(long, value_name = "STREAM")]
        stream: Option<String>,
    },
}

/// Runs `claudebus schedule`.
pub(super) async fn run(
    schedule: &Schedule,
    global: &Global,
    output: &mut Output,
) -> Result<(), Failure> {
    let client = connect(global).await?;
    match &schedule.command {
        ScheduleCommand::Ls { stream } => list(&client.schedules(stream.as_deref()).await?, output),
        ScheduleCommand::Rm { name, stream } => {
            match stream {
                Some(stream) => client.delete_schedule(stream, name).await?,
                None => client.cancel_schedule(name).await?,
            }
            if output.is_json() {
                return output.json(&json!({ "cancelled": name }));
            }
            output.line(format_args!("cancelled {name}"))
        }
    }
}

/// Prints schedules, one a line.
fn list(schedules: &[ScheduledMessage], output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        return schedules.iter().try_for_each(|schedule| output.json(schedule));
    }
    if schedules.is_empty() {
        output.talk("nothing is to be published later");
    }
    let header = ["Name", "Stream", "Publishes to", "When", "Next", "Problem"];
    output.table(header, schedules.iter().map(row))
}

fn row(schedule: &ScheduledMessage) -> [String; 6] {
    let own = schedule.stream == STREAM;
    let name = schedule.subject.strip_prefix(PREFIX).filter(|_| own);
    let when = match &schedule.time_zone {
        Some(zone) => format!("{} {zone}", schedule.schedule),
        None => schedule.schedule.clone(),
    };
    [
        name.unwrap_or(&schedule.subject).to_owned(),
        if own { String::new() } else { schedule.stream.clone() },
        schedule.target.clone(),
        when,
        schedule.next.to_string(),
        schedule.problem.clone().unwrap_or_default(),
    ]
}
