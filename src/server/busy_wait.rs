//! Waiting awake for what is expected at once.
//!
//! A client that sends one request at a time waits while its request goes from the connection's thread to the
//! broker's and the answer comes back. Waking a thread that sleeps takes longer than all the work there is to
//! do, above all in a virtual machine, whose idle processors belong to others. So both threads stay awake for
//! some microseconds where that has been worth it lately, and give it up where it was not. Nothing waits awake
//! on a machine with a single processor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::model::request::Request;

/// How long the broker's thread waits for input after a turn that took a single [step](is_step): the time a client
/// takes to have the answer and to send its next request. 200 µs: with less of it the wait is in vain as long
/// as others sleep, and so never gets anybody to stay awake.
pub(super) const FOR_INPUT: Duration = Duration::from_micros(200);

/// After so much of it the broker's thread lets others have its processor whenever they want it. 30 µs, for a
/// client that is as fast as it gets; others may need that processor to send their request.
const UNSHARED: Duration = Duration::from_micros(30);

/// How long a connection waits for the answer to a single request: a quick disk's sync, on a slow day.
/// 300 µs.
const FOR_ANSWER: Duration = Duration::from_micros(300);

/// The score does not go higher: so many failures more than successes end it.
const MOST: u8 = 64;
/// The score of a new try. It takes some waits in a row to find out: one that is awake makes the next one
/// shorter, as all that take part stay awake.
const TRY: u8 = 8;
/// Without a score, there is a new try after so many that were left out.
const LEFT_OUT: u16 = 511;

/// Whether waiting awake is worth it, from how it went lately.
#[derive(Debug)]
pub(super) struct Worth {
    score: u8,
    left_out: u16,
}

impl Worth {
    pub(super) fn new() -> Self {
        Self { score: TRY, left_out: 0 }
    }

    /// Whether to wait awake this time.
    fn is_given(&mut self) -> bool {
        if self.score == 0 {
            self.left_out += 1;
            if self.left_out == LEFT_OUT {
                *self = Self::new();
            }
        }
        self.score > 0
    }

    /// What was waited for came in time, or did not.
    fn learn(&mut self, came: bool) {
        self.score = if came { (self.score + 1).min(MOST) } else { self.score.saturating_sub(1) };
    }

    /// Waits awake for `limit`, if it is worth it, until `look` finds something: what was hoped for (true), or
    /// anything else there is to do (false). Returns whether it found something.
    pub(super) fn wait(&mut self, limit: Duration, look: impl Fn() -> Option<bool>) -> bool {
        if !has_processors() || !self.is_given() {
            return false;
        }
        let began = Instant::now();
        while began.elapsed() < limit {
            if let Some(is_hoped_for) = look() {
                if is_hoped_for {
                    self.learn(true);
                }
                return true;
            }
            if began.elapsed() < UNSHARED {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        self.learn(false);
        false
    }
}

/// A connection's wait for the answer to a single request. Of all connections one waits awake at a time, as
/// several would only keep each other from their processors.
#[derive(Debug)]
pub(super) struct Linger {
    worth: Worth,
    /// Whether any connection waits awake.
    taken: Arc<AtomicBool>,
    until: Option<Instant>,
}

impl Linger {
    pub(super) fn new(taken: Arc<AtomicBool>) -> Self {
        Self { worth: Worth::new(), taken, until: None }
    }

    /// A single request that is answered was handed to the broker.
    pub(super) fn begin(&mut self) {
        let is_worth = self.until.is_none() && has_processors() && self.worth.is_given();
        if is_worth && !self.taken.swap(true, Ordering::Relaxed) {
            self.until = Some(Instant::now() + FOR_ANSWER);
        }
    }

    /// Something came from the broker.
    pub(super) fn answered(&mut self) {
        self.end(true);
    }

    /// The connection does something else, or ends.
    pub(super) fn give_up(&mut self) {
        if self.until.take().is_some() {
            self.taken.store(false, Ordering::Relaxed);
        }
    }

    /// Whether to stay awake.
    pub(super) fn goes_on(&mut self) -> bool {
        match self.until {
            None => false,
            Some(until) if Instant::now() < until => {
                // The broker's thread may have been put on the processor that this one keeps.
                std::thread::yield_now();
                true
            }
            Some(_) => {
                self.end(false);
                false
            }
        }
    }

    fn end(&mut self, came: bool) {
        if self.until.is_some() {
            self.worth.learn(came);
            self.give_up();
        }
    }
}

impl Drop for Linger {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// Whether these are one request whose answer somebody waits for, in all likelihood: not a row of messages, and
/// nothing that is told without an answer.
pub(super) fn is_single(requests: &[Request]) -> bool {
    let [request] = requests else { return false };
    match request {
        Request::Publish { batch, .. } => batch.len() == 1,
        Request::Send { batch, .. } => {
            batch.len() == 1 && batch.get(0).is_some_and(|message| !message.reply.is_empty())
        }
        Request::Pull(_)
        | Request::Api { .. }
        | Request::ApiTo { .. }
        | Request::Barrier { .. } => true,
        Request::Ack(ack) => ack.confirm.is_some(),
        _ => false,
    }
}

/// Whether these are what a client does that goes on step by step: one message, the acknowledgement of one, or a
/// request. What keeps deliveries in flow comes alone too, in the midst of work for every processor.
pub(super) fn is_step(requests: &[Request]) -> bool {
    match requests {
        [Request::Send { batch, .. }] => batch.len() == 1,
        [Request::Ack(ack)] => matches!(ack.sequences[..], [(first, last)] if first == last),
        _ => is_single(requests),
    }
}

fn has_processors() -> bool {
    use std::sync::LazyLock;
    static HAS: LazyLock<bool> =
        LazyLock::new(|| std::thread::available_parallelism().is_ok_and(|count| count.get() > 1));
    *HAS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::MessageBatch;
    use crate::model::request::{Ack, AckKind, Token};

    /// How many of so many waits are given, if they succeed as told.
    fn given(worth: &mut Worth, count: u32, succeeds: impl Fn(u32) -> bool) -> u32 {
        let mut given = 0;
        for n in 0..count {
            if worth.is_given() {
                given += 1;
                worth.learn(succeeds(n));
            }
        }
        given
    }

    #[test]
    fn waiting_in_vain_is_given_up_and_tried_again_now_and_then() {
        let mut worth = Worth::new();
        let given = given(&mut worth, 10_000, |_| false);
        assert!((100..200).contains(&given), "{given}");
    }

    #[test]
    fn what_succeeds_goes_on_and_bears_some_failures() {
        let mut worth = Worth::new();
        assert_eq!(given(&mut worth, 1000, |n| n < 4 || n % 3 > 0), 1000);
        assert_eq!(given(&mut worth, 1000, |_| true), 1000);
        assert_eq!(given(&mut worth, u32::from(MOST), |_| false), u32::from(MOST));
        assert!(!worth.is_given());
    }

    #[test]
    fn one_success_in_three_does_not_keep_it_up() {
        let mut worth = Worth::new();
        let given = given(&mut worth, 3000, |n| n % 3 == 0);
        assert!(given < 450, "{given}");
    }

    #[test]
    fn a_row_of_messages_and_what_has_no_answer_are_not_waited_for() {
        let send = |reply| {
            let batch = MessageBatch::of_one("s", reply, b"", b"x");
            Request::Send { batch, echo: true }
        };
        assert!(is_single(&[send("inbox")]));
        assert!(!is_single(&[send("")]), "nobody answers");
        assert!(!is_single(&[send("inbox"), send("inbox")]));
        assert!(!is_single(&[Request::Closed]));
    }

    #[test]
    fn steps_are_what_a_client_does_one_after_the_other() {
        let batch = MessageBatch::of_one("s", "", b"", b"x");
        let send = || Request::Send { batch: batch.clone(), echo: true };
        let ack = |sequences| {
            Request::Ack(Ack {
                stream: "S".to_owned(),
                consumer: "c".to_owned(),
                sequences,
                kind: AckKind::Ack,
                confirm: None,
                subject: String::new(),
            })
        };
        assert!(is_step(&[send()]), "also where nobody answers");
        assert!(is_step(&[ack(vec![(7, 7)])]));
        assert!(is_step(&[Request::Barrier { token: Token(1) }]));
        assert!(!is_step(&[send(), send()]));
        assert!(!is_step(&[ack(vec![(7, 8)])]));
        assert!(!is_step(&[Request::Sent { bytes: 1 }]));
    }

    #[test]
    fn one_connection_waits_awake_at_a_time_and_makes_room_when_it_goes() {
        let taken = Arc::new(AtomicBool::new(false));
        let (mut one, mut other) =
            (Linger::new(Arc::clone(&taken)), Linger::new(Arc::clone(&taken)));
        one.begin();
        other.begin();
        assert_eq!((one.goes_on(), other.goes_on()), (has_processors(), false));
        one.answered();
        assert!(!one.goes_on());
        other.begin();
        assert_eq!(other.goes_on(), has_processors());
        drop(other);
        one.begin();
        assert_eq!(one.goes_on(), has_processors());
    }
}
