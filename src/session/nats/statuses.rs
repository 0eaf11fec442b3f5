//! Statuses of pulls and push consumers, as header blocks without a message.

use crate::model::event::PullStatus;
use crate::wire::Output;
use crate::wire::nats::line;

/// Sends a status to a subscription. Returns its bytes.
pub(super) fn tell(out: &mut Output, sid: &str, status: &PullStatus) -> usize {
    let Some(subject) = &status.reply else { return 0 };
    let block = block(status);
    line::status(out, sid, subject.as_bytes(), b"", block.as_bytes());
    block.len()
}

/// The header block of a status, as nats-server writes it.
fn block(status: &PullStatus) -> String {
    let PullStatus { code, text, pending_messages, pending_bytes, last, .. } = status;
    let space = if text.is_empty() { "" } else { " " };
    let mut block = format!("NATS/1.0 {code}{space}{text}\r\n");
    if *code == 100 {
        block += &format!("Nats-Last-Consumer: {}\r\nNats-Last-Stream: {}\r\n", last.0, last.1);
        if let Some(subject) = &status.stalled {
            block += &format!("Nats-Consumer-Stalled: {subject}\r\n");
        }
    } else if counts(status) {
        block += &format!(
            "Nats-Pending-Messages: {pending_messages}\r\nNats-Pending-Bytes: {pending_bytes}\r\n"
        );
    }
    block + "\r\n"
}

/// Whether a status says what the pull still asked for: those that end a pull which had been waiting.
fn counts(status: &PullStatus) -> bool {
    matches!(
        (status.code, &*status.text),
        (408, "Request Timeout")
            | (409, "Message Size Exceeds MaxBytes" | "Batch Completed" | "Server Shutdown")
            | (423, "Nats-Wrong-Pin-Id")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, text: &'static str) -> PullStatus {
        PullStatus {
            code,
            text: text.into(),
            pending_messages: 3,
            pending_bytes: 4,
            last: (5, 6),
            ended: code != 100,
            reply: None,
            stalled: None,
        }
    }

    #[test]
    fn blocks_are_nats_servers() {
        assert_eq!(
            block(&status(408, "Request Timeout")),
            "NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 3\r\nNats-Pending-Bytes: 4\r\n\r\n"
        );
        assert_eq!(
            block(&status(100, "Idle Heartbeat")),
            "NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 5\r\nNats-Last-Stream: 6\r\n\r\n"
        );
        let stalled = PullStatus { stalled: Some("q".into()), ..status(100, "Idle Heartbeat") };
        assert!(
            block(&stalled).ends_with("Nats-Last-Stream: 6\r\nNats-Consumer-Stalled: q\r\n\r\n")
        );
        assert_eq!(block(&status(404, "No Messages")), "NATS/1.0 404 No Messages\r\n\r\n");
        assert_eq!(block(&status(503, "")), "NATS/1.0 503\r\n\r\n");
    }
}
