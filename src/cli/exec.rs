//! A command for each message: `subscribe --exec` and `reply --exec`.

use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use super::exit::{Exit, Failure};
use super::message::Shown;

/// Runs `command` through the shell: the payload on its standard input, what is known about the
/// message in `CLAUDEBUS_*` variables. Its output goes where ours goes. True if it ended with 0.
///
/// A command that ends or closes its input without reading it all is no failure.
pub(super) async fn run(command: &str, message: &Shown<'_>) -> Result<bool, Failure> {
    let mut child = shell(command, message).spawn().map_err(|error| cannot(command, &error))?;
    feed(&mut child, message.payload).await.map_err(|error| cannot(command, &error))?;
    Ok(child.wait().await.map_err(|error| cannot(command, &error))?.success())
}

/// Runs `command` as [`run`] does, and returns what it printed.
pub(super) async fn answer(command: &str, message: &Shown<'_>) -> Result<Vec<u8>, Failure> {
    let mut shell = shell(command, message);
    let mut child =
        shell.stdout(Stdio::piped()).spawn().map_err(|error| cannot(command, &error))?;
    let input = child.stdin.take();
    let (fed, output) = tokio::join!(feed_into(input, message.payload), child.wait_with_output());
    fed.map_err(|error| cannot(command, &error))?;
    Ok(output.map_err(|error| cannot(command, &error))?.stdout)
}

fn cannot(command: &str, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format_args!("cannot run `{command}`: {error}"))
}

async fn feed(child: &mut Child, payload: &[u8]) -> std::io::Result<()> {
    feed_into(child.stdin.take(), payload).await
}

/// Writes the payload and closes the input.
async fn feed_into(
    input: Option<tokio::process::ChildStdin>,
    payload: &[u8],
) -> std::io::Result<()> {
    let Some(mut input) = input else { return Ok(()) };
    match input.write_all(payload).await {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// The platform's shell with the command and the message's variables.
fn shell(command: &str, message: &Shown<'_>) -> Command {
    let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
    let mut shell = Command::new(shell);
    shell.arg(flag).arg(command).stdin(Stdio::piped()).kill_on_drop(true);
    shell.env("CLAUDEBUS_SUBJECT", message.subject);
    if let Some(stored) = &message.stored {
        shell
            .env("CLAUDEBUS_STREAM", stored.stream)
            .env("CLAUDEBUS_SEQ", stored.seq.to_string())
            .env("CLAUDEBUS_TIME", stored.time.to_string());
        if let Some((consumer, attempt)) = stored.delivery {
            shell.env("CLAUDEBUS_CONSUMER", consumer).env("CLAUDEBUS_ATTEMPT", attempt.to_string());
        }
    }
    for (key, value) in &message.headers {
        // A zero byte cannot stand in a variable; headers cannot hold one either.
        shell.env(variable(key), value);
    }
    shell
}

/// The variable of a header: `CLAUDEBUS_HEADER_` and its key in capitals, with `_` for what a
/// variable cannot have.
fn variable(key: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("CLAUDEBUS_HEADER_{}", key.chars().map(plain).collect::<String>())
}

#[cfg(all(test, unix))]
mod tests {
    use super::super::message::Stored;
    use super::*;

    #[tokio::test]
    async fn a_command_gets_the_message_and_its_end_tells() {
        let stored = Stored { stream: "S", seq: 7, delivery: Some(("c", 2)), ..Stored::default() };
        let message = Shown {
            subject: "a.b",
            headers: vec![("Trace-Id", "x y")],
            payload: b"hello",
            stored: Some(stored),
            ..Shown::default()
        };
        let check = "test \"$(cat) $CLAUDEBUS_SUBJECT $CLAUDEBUS_STREAM $CLAUDEBUS_SEQ \
                     $CLAUDEBUS_ATTEMPT $CLAUDEBUS_HEADER_TRACE_ID\" = 'hello a.b S 7 2 x y'";
        assert!(run(check, &message).await.unwrap());
        assert!(!run("exit 3", &message).await.unwrap());
        // A megabyte that nobody reads, and one that goes through.
        let large = Shown { payload: &vec![b'x'; 1 << 20], ..message };
        assert!(run("true", &large).await.unwrap());
        assert_eq!(answer("cat", &large).await.unwrap(), large.payload);
    }
}
