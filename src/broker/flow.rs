//! Flow control of push consumers, as JetStream has it: the server asks between messages how far the
//! client has come, and stops when too much was sent since.
//!
//! It counts bytes and knows when to ask; asking and stopping is delivery's part.

/// What may be on its way before the first answer, in bytes: a sixteenth of the most.
const FIRST_WINDOW: u64 = MOST_WINDOW / 16;
/// What may be on its way to a client that answers, in bytes. 32 MiB, as nats-server.
const MOST_WINDOW: u64 = 32 << 20;

/// How far one push consumer's client has come.
#[derive(Debug)]
pub(super) struct Flow {
    /// Bytes that may be on their way.
    window: u64,
    /// Bytes sent that no answer covers.
    outstanding: u64,
    /// The question that is not answered yet, and the bytes it covers.
    asked: Option<(String, u64)>,
}

impl Default for Flow {
    fn default() -> Self {
        Self { window: FIRST_WINDOW, outstanding: 0, asked: None }
    }
}

impl Flow {
    /// So many bytes were sent.
    pub(super) fn sent(&mut self, bytes: u64) {
        self.outstanding = self.outstanding.saturating_add(bytes);
    }

    /// Whether nothing more may be sent until the client answers.
    pub(super) fn is_stalled(&self) -> bool {
        self.outstanding > self.window
    }

    /// What the client is to publish to, so that more may be sent.
    pub(super) fn stalled_by(&self) -> Option<&str> {
        let (subject, _) = self.asked.as_ref().filter(|_| self.is_stalled())?;
        Some(subject)
    }

    /// Whether it is time to ask: half the window is used, and no answer is awaited.
    pub(super) fn is_due(&self) -> bool {
        self.asked.is_none() && self.outstanding > self.window / 2
    }

    /// The client is asked to publish to `subject`.
    pub(super) fn ask(&mut self, subject: String) {
        self.asked = Some((subject, self.outstanding));
    }

    /// The client has published to `subject`: all that was sent before it was asked has arrived, and
    /// more may be on its way from now on.
    pub(super) fn answered(&mut self, subject: &str) {
        let Some((_, bytes)) = self.asked.take_if(|(asked, _)| asked == subject) else { return };
        self.outstanding = self.outstanding.saturating_sub(bytes);
        self.window = (self.window * 2).min(MOST_WINDOW);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_asked_at_half_and_stalls_past_the_window() {
        let mut flow = Flow::default();
        flow.sent(FIRST_WINDOW / 2);
        assert!(!flow.is_due());
        flow.sent(1);
        assert!(flow.is_due());
        flow.ask("q".into());
        assert!(!flow.is_due() && !flow.is_stalled());
        flow.sent(FIRST_WINDOW / 2 - 1);
        assert!(!flow.is_stalled(), "at the window");
        flow.sent(1);
        assert!(flow.is_stalled(), "one byte past it");
        assert_eq!(flow.stalled_by(), Some("q"));
        flow.answered("other");
        assert!(flow.is_stalled());
        flow.answered("q");
        assert!(!flow.is_stalled() && flow.asked.is_none());
        assert_eq!(flow.window, 2 * FIRST_WINDOW);
    }

    #[test]
    fn the_window_stops_growing() {
        let mut flow = Flow::default();
        for _ in 0..9 {
            flow.sent(1);
            flow.ask("q".into());
            flow.answered("q");
        }
        assert_eq!((flow.window, flow.outstanding), (MOST_WINDOW, 0));
    }
}
