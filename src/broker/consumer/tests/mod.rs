mod groups;
mod wanting;

use claudebus_storage::NewRecord;

use super::*;
use crate::model::consumer::Idle;
use crate::model::request::{AckKind, Pull, Token};

const SESSION: SessionId = SessionId(1);
/// Bytes of a row, more than any test has.
const ROW: usize = 1 << 20;
const ANY_ROW: RowLimit = RowLimit { bytes: ROW, last: u64::MAX };

fn at(seconds: u64) -> Now {
    Now {
        monotonic: Duration::from_secs(seconds),
        wall: 1_700_000_000_000_000_000 + seconds * 1_000_000_000,
    }
}

fn config() -> ConsumerConfig {
    ConsumerConfig {
        ack_policy: AckPolicy::Explicit,
        ack_wait: Duration::from_secs(30),
        max_deliver: -1,
        max_ack_pending: 1000,
        max_waiting: 512,
        ..ConsumerConfig::default()
    }
}

fn path() -> Arc<ConsumerPath> {
    Arc::new(ConsumerPath { stream: "S".into(), consumer: "c".into() })
}

/// A consumer over a stream whose records 1 to `last` exist.
struct Bench {
    consumer: Consumer,
    last: u64,
}

impl Bench {
    fn new(config: ConsumerConfig, last: u64) -> Self {
        let start = Start { cursor: 1, num_pending: last, stream_last: last, ..Start::default() };
        Self { consumer: Consumer::new(path(), config, Timestamp(1), start, at(0)), last }
    }

    fn pull(&mut self, now: Now, change: impl FnOnce(&mut Pull)) {
        let mut pull = Pull {
            reply: ReplyTo::Session(Token(1)),
            stream: "S".into(),
            consumer: "c".into(),
            batch: 1,
            max_bytes: 0,
            expires: None,
            no_wait: false,
            heartbeat: None,
            renewable: false,
            group: None,
        };
        change(&mut pull);
        self.consumer.pull(now, SESSION, pull);
    }

    /// Does all that is wanted; returns (stream sequence, consumer sequence, attempts, pending).
    fn run(&mut self, now: Now) -> (Vec<(u64, u64, u64, u64)>, Idle) {
        let mut sent = Vec::new();
        let mut row = Vec::new();
        loop {
            match self.consumer.want(now, self.last, &|_| true) {
                Want::Redeliver { seq } => {
                    self.consumer.redeliver(now, &|_| true, record(seq), None, &mut row);
                }
                Want::Read { from, to, records, .. } => {
                    let end = to.min(from + records as u64 - 1);
                    self.consumer.feed((from..=end).map(record), end + 1);
                }
                Want::Gather { seqs, .. } => self.gather(&seqs),
                Want::Deliver => {
                    self.consumer.deliver(now, &|_| true, ANY_ROW, |_| None, &mut row);
                }
                Want::Nothing(_) => {
                    return (sent, self.consumer.why_idle(now, self.last, &|_| true));
                }
            }
            let numbers = |d: Delivery| (d.record.seq, d.consumer_seq, d.attempts, d.pending);
            sent.extend(row.drain(..).map(numbers));
        }
    }

    /// All of them are in memory.
    fn gather(&mut self, seqs: &[u64]) {
        let last = *seqs.last().expect("something to gather");
        self.consumer.feed(seqs.iter().copied().map(record), last + 1);
    }

    /// Delivers one row of at most so many bytes; returns the stream sequences.
    fn deliver(&mut self, most_bytes: usize) -> Vec<u64> {
        let mut row = Vec::new();
        self.consumer.deliver(
            at(0),
            &|_| true,
            RowLimit { bytes: most_bytes, ..ANY_ROW },
            |_| None,
            &mut row,
        );
        row.iter().map(|delivery| delivery.record.seq).collect()
    }

    fn ack(&mut self, now: Now, first: u64, last: u64, kind: &AckKind) -> Vec<u64> {
        let mut settled = Vec::new();
        self.consumer.ack(now, &[(first, last)], kind, &mut settled);
        settled.iter().map(|s| s.seq).collect()
    }

    fn statuses(&mut self) -> Vec<(u16, String)> {
        let statuses = self.consumer.take_statuses();
        statuses.into_iter().map(|(_, _, s)| (s.code, s.text.into_owned())).collect()
    }
}

fn record(seq: u64) -> Record {
    let new = NewRecord {
        subject: "s",
        headers: b"",
        payload: b"of nine b",
        time: seq * 1_000_000_000,
        expires: None,
        message_id: None,
    };
    Record::copy_of(seq, &new)
}

#[test]
fn a_batch_is_delivered_once_and_acknowledged() {
    let mut bench = Bench::new(config(), 3);
    bench.pull(at(0), |pull| pull.batch = 2);
    let (sent, idle) = bench.run(at(0));
    assert_eq!(sent, [(1, 1, 1, 2), (2, 2, 1, 1)]);
    assert_eq!(idle, Idle::NoPullWaiting);
    assert!(bench.statuses().is_empty(), "a satisfied batch ends without a status");
    assert_eq!(bench.ack(at(1), 1, 1, &AckKind::Ack), [1]);
    assert!(bench.ack(at(1), 1, 1, &AckKind::Ack).is_empty(), "a second ack is ignored");
    assert_eq!(bench.consumer.ack_floor().stream_seq, 1);
    assert_eq!(bench.consumer.num_ack_pending(), 1);
}

#[test]
fn unacknowledged_messages_come_again_before_new_ones() {
    let mut bench = Bench::new(config(), 2);
    bench.pull(at(0), |_| {});
    bench.run(at(0));
    assert!(!bench.consumer.timeout(at(29)));
    bench.pull(at(29), |pull| pull.batch = 2);
    assert_eq!(bench.run(at(29)).0, [(2, 2, 1, 0)]);
    bench.consumer.timeout(at(30));
    assert_eq!(bench.run(at(30)).0, [(1, 3, 2, 0)]);
    assert_eq!(bench.consumer.num_redelivered(), 1);
}

#[test]
fn the_last_attempt_dies_and_a_late_ack_saves_it() {
    let mut bench = Bench::new(ConsumerConfig { max_deliver: 1, ..config() }, 2);
    bench.pull(at(0), |pull| pull.batch = 2);
    bench.run(at(0));
    bench.consumer.timeout(at(30));
    let dying = bench.consumer.next_dying().expect("the only attempt failed");
    assert_eq!((dying.seq, dying.attempts), (1, 1));
    assert_eq!(bench.ack(at(30), 1, 1, &AckKind::Ack), [1]);
    assert_eq!(bench.consumer.next_dying().map(|d| d.seq), Some(2));
    assert_eq!(bench.consumer.bury(2).map(|s| s.seq), Some(2));
    assert_eq!(bench.consumer.next_dying(), None);
}

#[test]
fn the_floor_is_shown_below_what_was_given_up_until_something_else_is_acknowledged() {
    let mut bench = Bench::new(ConsumerConfig { max_deliver: 2, ..config() }, 3);
    bench.pull(at(0), |pull| pull.batch = 9);
    bench.run(at(0));
    assert_eq!(bench.ack(at(1), 1, 1, &AckKind::Ack), [1]);
    bench.consumer.timeout(at(30));
    bench.run(at(30));
    bench.ack(at(31), 3, 3, &AckKind::InProgress);
    bench.consumer.timeout(at(60));
    assert_eq!(bench.consumer.next_dying().map(|dying| dying.seq), Some(2));
    bench.consumer.bury(2);
    let shown =
        |bench: &Bench| (bench.consumer.ack_floor().stream_seq, bench.consumer.num_redelivered());
    assert_eq!(shown(&bench), (1, 2));
    assert_eq!(bench.consumer.num_ack_pending(), 1);
    assert_eq!(bench.ack(at(60), 3, 3, &AckKind::Ack), [3]);
    assert_eq!(shown(&bench), (3, 0));
}

#[test]
fn termination_and_refusal() {
    let mut bench = Bench::new(ConsumerConfig { max_deliver: 2, ..config() }, 2);
    bench.pull(at(0), |pull| pull.batch = 4);
    bench.run(at(0));
    bench.ack(at(1), 1, 1, &AckKind::Terminate { reason: "no".into() });
    assert_eq!(
        bench.consumer.next_dying().map(|d| d.reason.to_string()),
        Some("terminated: no".into())
    );
    bench.consumer.bury(1);
    bench.ack(at(1), 2, 2, &AckKind::Nak { delay: Duration::from_secs(5) });
    assert_eq!(bench.run(at(1)).0.len(), 0);
    bench.consumer.timeout(at(6));
    assert_eq!(bench.run(at(6)).0, [(2, 3, 2, 0)]);
    bench.ack(at(7), 2, 2, &AckKind::Nak { delay: Duration::ZERO });
    assert_eq!(bench.consumer.next_dying().map(|d| d.reason), Some(DeadReason::Refused));
}

#[test]
fn in_progress_starts_the_wait_anew() {
    let mut bench = Bench::new(config(), 1);
    bench.pull(at(0), |pull| pull.batch = 2);
    bench.run(at(0));
    bench.ack(at(20), 1, 1, &AckKind::InProgress);
    bench.consumer.timeout(at(49));
    assert_eq!(bench.run(at(49)).0.len(), 0);
    bench.consumer.timeout(at(50));
    assert_eq!(bench.run(at(50)).0.len(), 1);
}

#[test]
fn backoff_overrides_the_wait_by_attempt() {
    let backoff = vec![Duration::from_secs(1), Duration::from_secs(10)];
    let mut bench = Bench::new(ConsumerConfig { backoff, ..config() }, 1);
    bench.pull(at(0), |pull| pull.batch = 9);
    bench.run(at(0));
    for (second, expected) in [(1, 1), (10, 0), (11, 1), (20, 0), (21, 1)] {
        bench.consumer.timeout(at(second));
        assert_eq!(bench.run(at(second)).0.len(), expected, "at {second} s");
    }
}

#[test]
fn max_ack_pending_stalls_new_messages_only() {
    let mut bench = Bench::new(ConsumerConfig { max_ack_pending: 2, ..config() }, 5);
    bench.pull(at(0), |pull| pull.batch = 9);
    let (sent, idle) = bench.run(at(0));
    assert_eq!((sent.len(), idle), (2, Idle::MaxAckPending));
    bench.ack(at(0), 2, 2, &AckKind::Nak { delay: Duration::ZERO });
    assert_eq!(bench.run(at(0)).0, [(2, 3, 2, 3)]);
    bench.ack(at(0), 1, 1, &AckKind::Ack);
    assert_eq!(bench.run(at(0)).0, [(3, 4, 1, 2)]);
}

#[test]
fn statuses_are_jetstreams() {
    let mut bench = Bench::new(ConsumerConfig { max_batch: 5, ..config() }, 0);
    bench.pull(at(0), |pull| pull.no_wait = true);
    bench.pull(at(0), |pull| pull.batch = 6);
    bench.pull(at(0), |pull| pull.expires = Some(Duration::from_secs(2)));
    bench.pull(at(0), |pull| {
        pull.expires = Some(Duration::from_secs(2));
        pull.heartbeat = Some(Duration::from_millis(1500));
    });
    bench.run(at(0));
    assert_eq!(
        bench.statuses(),
        [
            (404, "No Messages".into()),
            (409, "Exceeded MaxRequestBatch of 5".into()),
            (400, "Bad Request - heartbeat value too large".into())
        ]
    );
    assert_eq!(bench.consumer.poll_timeout(at(0)), Some(Duration::from_secs(2)));
    bench.consumer.timeout(at(2));
    assert_eq!(bench.statuses(), [(408, "Request Timeout".into())]);
}

#[test]
fn no_wait_takes_what_is_there_and_ends() {
    let mut bench = Bench::new(config(), 2);
    bench.pull(at(0), |pull| {
        pull.batch = 5;
        pull.no_wait = true;
    });
    assert_eq!(bench.run(at(0)).0.len(), 2);
    assert_eq!(bench.statuses(), [(404, "No Messages".into())]);
}

#[test]
fn max_bytes_ends_a_pull() {
    let mut bench = Bench::new(config(), 3);
    bench.pull(at(0), |pull| {
        pull.batch = 3;
        pull.max_bytes = 25;
    });
    assert_eq!(bench.run(at(0)).0.len(), 2);
    assert_eq!(bench.statuses(), [(409, "Message Size Exceeds MaxBytes".into())]);
    bench.pull(at(0), |pull| pull.max_bytes = 25);
    assert_eq!(bench.run(at(0)).0.len(), 1);
    assert_eq!(bench.statuses(), [(409, "Batch Completed".into())]);
}

#[test]
fn a_renewable_pull_is_raised() {
    let mut bench = Bench::new(config(), 10);
    bench.pull(at(0), |pull| {
        pull.batch = 2;
        pull.renewable = true;
    });
    assert_eq!(bench.run(at(0)).0.len(), 2);
    assert_eq!(bench.consumer.num_waiting(), 1);
    bench.consumer.raise(at(0), SESSION, Token(1), (3, 0));
    assert_eq!(bench.run(at(0)).0.len(), 3);
    bench.consumer.session_closed(at(0), SESSION);
    assert_eq!(bench.run(at(0)).1, Idle::NoPullWaiting);
}

#[test]
fn bytes_that_a_message_did_not_fit_are_not_lost() {
    let mut bench = Bench::new(config(), 10);
    bench.pull(at(0), |pull| {
        pull.batch = 10;
        pull.max_bytes = 25;
        pull.renewable = true;
    });
    // Each message counts ten bytes: two fit, and five bytes are left over.
    assert_eq!(bench.run(at(0)).0.len(), 2);
    bench.consumer.raise(at(0), SESSION, Token(1), (0, 5));
    assert_eq!(bench.run(at(0)).0.len(), 1);
}

#[test]
fn a_row_ends_at_its_bytes_its_pull_and_what_may_be_pending() {
    let mut bench = Bench::new(ConsumerConfig { max_ack_pending: 7, ..config() }, 9);
    bench.pull(at(0), |pull| pull.batch = 6);
    bench.consumer.feed((1..=9).map(record), 10);
    assert_eq!(bench.deliver(1), [1], "one at least");
    assert_eq!(bench.deliver(2 * 74), [2, 3], "a message is charged 74 bytes");
    assert_eq!(bench.deliver(ROW), [4, 5, 6], "the pull is used up");
    bench.pull(at(0), |pull| pull.batch = 6);
    assert_eq!(bench.deliver(ROW), [7], "seven await acknowledgement");
    assert!(bench.deliver(ROW).is_empty());
}

#[test]
fn pulls_take_turns() {
    let mut bench = Bench::new(config(), 200);
    for token in [Token(1), Token(2)] {
        bench.pull(at(0), |pull| {
            pull.batch = 100;
            pull.renewable = true;
            pull.reply = ReplyTo::Session(token);
        });
    }
    bench.consumer.feed((1..=200).map(record), 201);
    let rows: Vec<_> = std::iter::from_fn(|| Some(bench.deliver(ROW).len()))
        .take_while(|count| *count > 0)
        .collect();
    assert_eq!(rows, [64, 64, 36, 36]);
    let mut bench = Bench::new(config(), 3);
    for _ in 0..2 {
        bench.pull(at(0), |pull| pull.batch = 2);
    }
    bench.consumer.feed((1..=3).map(record), 4);
    assert_eq!(bench.deliver(ROW), [1], "pulls that are not renewed go round by message");
}

#[test]
fn heartbeats_carry_the_last_delivery() {
    let mut bench = Bench::new(config(), 1);
    bench.pull(at(0), |pull| {
        pull.batch = 2;
        pull.heartbeat = Some(Duration::from_secs(1));
    });
    bench.run(at(0));
    bench.consumer.timeout(at(1));
    let statuses = bench.consumer.take_statuses();
    assert_eq!(statuses.len(), 1);
    assert_eq!((statuses[0].2.code, statuses[0].2.last), (100, (1, 1)));
    assert!(!statuses[0].2.ended);
}

#[test]
fn a_limited_rate_is_kept_after_the_first_megabyte() {
    // Ten bytes a second, after so many messages of ten bytes as are allowed at once.
    let burst = (1 << 20) / 10 + 1;
    let mut bench = Bench::new(ConsumerConfig { rate_limit_bps: 80, ..config() }, 2 * burst);
    bench.consumer.config.max_ack_pending = -1;
    bench.pull(at(0), |pull| pull.batch = 2 * burst);
    let (sent, idle) = bench.run(at(0));
    assert_eq!(sent.len() as u64, burst);
    let Idle::RateLimited { until } = idle else { panic!("{idle:?}") };
    let next = bench.consumer.poll_timeout(at(0)).unwrap();
    assert!(next <= Duration::from_secs(1), "{next:?}");
    assert_eq!(until.0, at(0).wall + u64::try_from(next.as_nanos()).unwrap());
    assert_eq!(bench.run(at(1)).0.len(), 1);
    assert_eq!(bench.run(at(1)).0.len(), 0);
    assert_eq!(bench.run(at(11)).0.len(), 10);
}

#[test]
fn a_nats_pull_counts_the_subject_of_the_acknowledgement() {
    // Ten bytes of the message, and $JS.ACK.S.c.1.<seq>.<consumer seq>.<ten digits of time>.<pending>.
    let one = 10 + "$JS.ACK.S.c.1.1.1.1000000000.4".len() as u64;
    for (max_bytes, count) in [(one - 1, 0), (one, 1), (2 * one - 1, 1), (2 * one, 2)] {
        let mut bench = Bench::new(config(), 5);
        bench.pull(at(0), |pull| {
            pull.reply = ReplyTo::Subject("r".into());
            pull.batch = 5;
            pull.max_bytes = max_bytes;
        });
        assert_eq!(bench.run(at(0)).0.len(), count, "{max_bytes}");
        assert_eq!(bench.statuses().len(), usize::from(!max_bytes.is_multiple_of(one)));
    }
}

#[test]
fn a_nats_pull_with_heartbeats_names_its_end() {
    let refused = |expires, reply: ReplyTo| {
        let mut bench = Bench::new(config(), 0);
        bench.pull(at(0), |pull| {
            (pull.reply, pull.expires) = (reply, expires);
            pull.heartbeat = Some(Duration::from_secs(1));
        });
        bench.statuses().first().map(|status| status.0)
    };
    let (inbox, session) = (ReplyTo::Subject("r".into()), ReplyTo::Session(Token(1)));
    assert_eq!(refused(None, inbox.clone()), Some(400));
    assert_eq!(refused(Some(Duration::from_secs(2)), inbox.clone()), None);
    assert_eq!(refused(Some(Duration::from_millis(1999)), inbox.clone()), Some(400));
    assert_eq!(refused(Some(Duration::ZERO), inbox), Some(400));
    assert_eq!(refused(None, session), None, "a session's pull may have none");
}

#[test]
fn replay_keeps_the_gaps() {
    let replay_policy = ReplayPolicy::Original;
    let mut bench = Bench::new(ConsumerConfig { replay_policy, ..config() }, 3);
    bench.pull(at(100), |pull| pull.batch = 3);
    let (sent, idle) = bench.run(at(100));
    assert_eq!((sent.len(), idle), (1, Idle::Replaying { until: Timestamp(at(101).wall) }));
    assert_eq!(bench.consumer.poll_timeout(at(100)), Some(Duration::from_secs(101)));
    assert_eq!(bench.run(at(101)).0.len(), 1);
}

#[test]
fn replay_may_be_faster_or_slower() {
    let replay_policy = ReplayPolicy::Original;
    for (replay_percent, next) in [(1000, 100_100), (50, 102_000), (0, 101_000)] {
        let config = ConsumerConfig { replay_policy, replay_percent, ..config() };
        let mut bench = Bench::new(config, 3);
        bench.pull(at(100), |pull| pull.batch = 3);
        assert_eq!(bench.run(at(100)).0.len(), 1);
        assert_eq!(bench.consumer.poll_timeout(at(100)), Some(Duration::from_millis(next)));
    }
}

#[test]
fn what_is_left_says_why_nothing_comes() {
    let mut bench = Bench::new(config(), 1);
    bench.pull(at(0), |pull| pull.batch = 9);
    assert_eq!(bench.run(at(0)), (vec![(1, 1, 1, 0)], Idle::EndOfStream));
    let delay = Duration::from_secs(3);
    bench.ack(at(0), 1, 1, &AckKind::Nak { delay });
    let until = Timestamp(at(3).wall);
    assert_eq!(bench.run(at(1)), (vec![], Idle::BackingOff { until }));
    bench.ack(at(1), 1, 1, &AckKind::InProgress);
    assert_eq!(bench.run(at(1)), (vec![], Idle::EndOfStream));
    bench.ack(at(1), 1, 1, &AckKind::Ack);
    bench.last = 4;
    assert_eq!(bench.run(at(0)), (vec![], Idle::FilterMatchesNothing), "no new message counted");
}

#[test]
fn a_pause_ends_by_itself() {
    let pause_until = Some(Timestamp(at(5).wall));
    let mut bench = Bench::new(ConsumerConfig { pause_until, ..config() }, 1);
    bench.pull(at(0), |_| {});
    assert_eq!(bench.run(at(0)).1, Idle::Paused { until: Timestamp(at(5).wall) });
    assert_eq!(bench.consumer.poll_timeout(at(0)), Some(Duration::from_secs(5)));
    assert_eq!(bench.run(at(5)).0.len(), 1);
}

#[test]
fn unused_consumers_are_found() {
    let inactive_threshold = Duration::from_secs(5);
    let mut bench = Bench::new(ConsumerConfig { inactive_threshold, ..config() }, 0);
    assert!(!bench.consumer.timeout(at(4)));
    bench.pull(at(4), |pull| pull.expires = Some(Duration::from_secs(10)));
    assert!(!bench.consumer.timeout(at(13)), "a pull waits");
    assert!(!bench.consumer.timeout(at(14)), "it has just ended");
    assert!(bench.consumer.timeout(at(19)));
}

#[test]
fn notes_rebuild_the_state() {
    let mut bench = Bench::new(ConsumerConfig { max_deliver: 3, ..config() }, 50);
    let base = bench.consumer.base();
    let mut notes = Vec::new();
    bench.pull(at(0), |pull| pull.batch = 30);
    for step in 0..6 {
        let now = at(step * 10);
        bench.consumer.timeout(now);
        bench.run(now);
        bench.ack(now, step * 2 + 1, step * 3 + 1, &AckKind::Ack);
        bench.ack(now, 20, 20, &AckKind::Nak { delay: Duration::ZERO });
        bench.pull(now, |pull| pull.batch = 3);
        notes.extend(bench.consumer.take_notes().unwrap_or_default());
    }
    let config = bench.consumer.config().clone();
    let restored = Consumer::restore(path(), config.clone(), Timestamp(1), (&base, &notes), at(60))
        .expect("its own notes");
    assert_eq!(restored.base(), bench.consumer.base());
    let again = Consumer::restore(path(), config, Timestamp(1), (&restored.base(), &[]), at(60))
        .expect("its own base");
    assert_eq!(again.base(), restored.base());
    assert_eq!(again.num_ack_pending(), bench.consumer.num_ack_pending());
}

#[test]
fn foreign_bytes_are_refused() {
    for (base, notes) in [(&b""[..], &b""[..]), (b"\x02", b""), (b"\x01\x01", b"")] {
        let restored = Consumer::restore(path(), config(), Timestamp(1), (base, notes), at(0));
        assert!(restored.is_err());
    }
    let base = Bench::new(config(), 1).consumer.base();
    for notes in [&b"\x09"[..], b"\x01\x01", b"\x03\x01\xff\xff", b"\x03\x01\xff\xff\xff\xff\x7f"] {
        assert!(Consumer::restore(path(), config(), Timestamp(1), (&base, notes), at(0)).is_err());
    }
}

#[test]
fn after_a_restart_messages_wait_for_the_rest_of_their_time() {
    let mut bench = Bench::new(config(), 1);
    bench.pull(at(0), |_| {});
    bench.run(at(0));
    let base = bench.consumer.base();
    let mut now = at(10);
    now.monotonic = Duration::ZERO;
    let mut restored =
        Consumer::restore(path(), config(), Timestamp(1), (&base, &[]), now).expect("its own base");
    assert_eq!(restored.poll_timeout(now), Some(Duration::from_secs(20)));
}

#[test]
fn ack_all_settles_everything_before() {
    let mut bench = Bench::new(ConsumerConfig { ack_policy: AckPolicy::All, ..config() }, 5);
    bench.pull(at(0), |pull| pull.batch = 5);
    bench.run(at(0));
    assert_eq!(bench.ack(at(0), 3, 3, &AckKind::Ack), [1, 2, 3]);
    assert_eq!(bench.consumer.ack_floor().stream_seq, 3);
}

#[test]
fn a_huge_range_costs_no_more_than_what_is_pending() {
    let mut bench = Bench::new(config(), 5);
    bench.pull(at(0), |pull| pull.batch = 5);
    bench.run(at(0));
    assert_eq!(bench.ack(at(0), 2, u64::MAX, &AckKind::Ack), [2, 3, 4, 5]);
}
