//! Reply subjects of messages that a client has received, to which it may publish answers.

use std::time::Duration;

use hashbrown::HashMap;

use super::grant::Responses;

/// Reply subjects of one client. 16,384: more questions than a client has open; past that the oldest
/// half is forgotten.
const MAX_REPLIES: usize = 16_384;

/// The answers that a client may publish.
#[derive(Debug, Default)]
pub struct Replies {
    known: HashMap<Box<str>, Reply>,
}

#[derive(Clone, Copy, Debug)]
struct Reply {
    /// When the message came.
    since: Duration,
    /// Answers so far.
    used: u64,
}

impl Replies {
    /// A message with this reply subject was received. `now` on a clock that never goes back.
    pub fn received(&mut self, reply: &str, now: Duration, permitted: &Responses) {
        if reply.is_empty() {
            return;
        }
        if self.known.len() >= MAX_REPLIES {
            self.make_room(now, permitted);
        }
        self.known.insert(reply.into(), Reply { since: now, used: 0 });
    }

    /// Whether an answer may be published to `subject` now; if so, it is counted.
    pub fn answer(&mut self, subject: &str, now: Duration, permitted: &Responses) -> bool {
        let Some(reply) = self.known.get_mut(subject) else { return false };
        let is_late = is_late(*reply, now, permitted);
        reply.used += 1;
        if is_late || permitted.max.is_some_and(|max| reply.used >= max) {
            let used = reply.used;
            self.known.remove(subject);
            return !is_late && permitted.max.is_none_or(|max| used <= max);
        }
        true
    }

    /// How many reply subjects are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn make_room(&mut self, now: Duration, permitted: &Responses) {
        self.known.retain(|_, reply| !is_late(*reply, now, permitted));
        if self.known.len() <= MAX_REPLIES / 2 {
            return;
        }
        let mut times: Vec<Duration> = self.known.values().map(|reply| reply.since).collect();
        let (_, middle, _) = times.select_nth_unstable(MAX_REPLIES / 2);
        let middle = *middle;
        self.known.retain(|_, reply| reply.since > middle);
    }
}

fn is_late(reply: Reply, now: Duration, permitted: &Responses) -> bool {
    permitted.expires.is_some_and(|expires| now.saturating_sub(reply.since) > expires)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn answers_are_counted() {
        let permitted = Responses { max: Some(2), expires: None };
        let mut replies = Replies::default();
        replies.received("r", SECOND, &permitted);
        assert!(!replies.answer("other", SECOND, &permitted));
        assert!(replies.answer("r", SECOND, &permitted));
        assert!(replies.answer("r", SECOND, &permitted));
        assert!(!replies.answer("r", SECOND, &permitted));
        assert!(replies.is_empty());
        replies.received("", SECOND, &permitted);
        assert!(!replies.answer("", SECOND, &permitted), "no reply is no subject");
    }

    #[test]
    fn answers_come_in_time() {
        let permitted = Responses { max: None, expires: Some(SECOND) };
        let mut replies = Replies::default();
        replies.received("r", SECOND, &permitted);
        assert!(replies.answer("r", 2 * SECOND, &permitted), "at the limit");
        assert!(!replies.answer("r", 2 * SECOND + Duration::from_nanos(1), &permitted));
        assert!(!replies.answer("r", SECOND, &permitted), "it is forgotten");
    }

    #[test]
    fn a_limit_of_none_permits_none() {
        let permitted = Responses { max: Some(0), expires: None };
        let mut replies = Replies::default();
        replies.received("r", SECOND, &permitted);
        assert!(!replies.answer("r", SECOND, &permitted));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_go_first() {
        let permitted = Responses { max: None, expires: None };
        let mut replies = Replies::default();
        for number in 0..3 * MAX_REPLIES {
            let now = Duration::from_nanos(number as u64);
            replies.received(&number.to_string(), now, &permitted);
            assert!(replies.len() <= MAX_REPLIES);
        }
        let last = (3 * MAX_REPLIES - 1).to_string();
        assert!(replies.answer(&last, SECOND, &permitted));
        assert!(!replies.answer("0", SECOND, &permitted));
        // All at one moment.
        let mut replies = Replies::default();
        for number in 0..2 * MAX_REPLIES {
            replies.received(&number.to_string(), SECOND, &permitted);
            assert!(replies.len() <= MAX_REPLIES);
        }
    }
}
