//! Priority groups: who is served, who stands by, who is pinned.

use super::*;
use crate::model::consumer::{PriorityGroupState, PriorityPolicy};
use crate::model::request::PullGroup;

/// Whom a message goes to (a token), its sequence, and whom it says to be pinned.
type Served = (u64, u64, Option<String>);

fn grouped(priority_policy: PriorityPolicy) -> ConsumerConfig {
    ConsumerConfig {
        priority_policy,
        priority_groups: vec!["a".into(), "b".into()],
        priority_timeout: Duration::from_secs(10),
        ..config()
    }
}

fn bench(policy: PriorityPolicy, last: u64) -> Bench {
    let mut bench = Bench::new(grouped(policy), last);
    bench.consumer.supply_pin("p1");
    bench
}

impl Bench {
    /// A pull of group `a` under this token.
    fn ask(&mut self, now: Now, token: u64, batch: u64, change: impl FnOnce(&mut PullGroup)) {
        let mut group = PullGroup { group: "a".into(), ..PullGroup::default() };
        change(&mut group);
        self.pull(now, |pull| {
            pull.reply = ReplyTo::Session(Token(token));
            pull.batch = batch;
            pull.group = Some(Box::new(group));
        });
    }

    fn append(&mut self, count: u64) {
        self.last += count;
        self.consumer.appended(count, self.last);
    }

    /// Does all that is wanted.
    fn serve(&mut self, now: Now) -> Vec<Served> {
        let mut served = Vec::new();
        loop {
            let mut row = Vec::new();
            let way = match self.consumer.want(now, self.last, &|_| true) {
                Want::Redeliver { seq } => {
                    self.consumer.redeliver(now, &|_| true, record(seq), None, &mut row)
                }
                Want::Read { from, to, records, .. } => {
                    let end = to.min(from + records as u64 - 1);
                    self.consumer.feed((from..=end).map(record), end + 1);
                    None
                }
                Want::Gather { seqs, .. } => {
                    self.gather(&seqs);
                    None
                }
                Want::Deliver => self.consumer.deliver(now, &|_| true, ANY_ROW, |_| None, &mut row),
                Want::Nothing(_) => return served,
            };
            let token = match way.map(|way| way.reply) {
                Some(ReplyTo::Session(Token(token))) => token,
                _ => 0,
            };
            let told = |d: Delivery| (token, d.record.seq, d.pin.map(|pin| pin.to_string()));
            served.extend(row.into_iter().map(told));
        }
    }

    fn tokens(&mut self, now: Now) -> Vec<(u64, u64)> {
        self.serve(now).into_iter().map(|(token, seq, _)| (token, seq)).collect()
    }

    fn pinned(&self) -> Option<String> {
        self.consumer.priority_groups().pop().and_then(|group| group.pinned_client_id)
    }
}

fn to(token: u64, seq: u64, pin: &str) -> Served {
    (token, seq, Some(pin.to_owned()))
}

#[test]
fn the_first_to_be_served_is_pinned_and_the_others_stand_by() {
    let mut bench = bench(PriorityPolicy::PinnedClient, 0);
    bench.ask(at(0), 1, 5, |_| {});
    bench.ask(at(0), 2, 5, |_| {});
    assert_eq!(bench.pinned(), None, "asking is not enough");
    bench.append(2);
    assert_eq!(bench.serve(at(1)), [to(1, 1, "p1"), to(1, 2, "p1")]);
    let state = PriorityGroupState {
        group: "a".into(),
        pinned_client_id: Some("p1".into()),
        pinned_ts: Timestamp(at(1).wall),
    };
    assert_eq!(bench.consumer.priority_groups(), [state]);
    let pinned = PinChange::Pinned { group: "a".into(), id: "p1".into() };
    assert_eq!(bench.consumer.take_pin_changes(), [pinned]);
    assert_eq!(bench.consumer.num_waiting(), 2);
}

#[test]
fn nobody_stays_pinned_under_another_policy() {
    let mut bench = bench(PriorityPolicy::PinnedClient, 1);
    bench.ask(at(0), 1, 1, |_| {});
    assert_eq!(bench.serve(at(0)), [to(1, 1, "p1")]);
    bench.consumer.reconfigure(grouped(PriorityPolicy::PinnedClient), at(1));
    assert_eq!(bench.pinned().as_deref(), Some("p1"));
    bench.consumer.reconfigure(config(), at(1));
    bench.append(1);
    bench.pull(at(1), |pull| pull.reply = ReplyTo::Session(Token(2)));
    assert_eq!(bench.tokens(at(1)), [(2, 2)]);
}

#[test]
fn whoever_is_no_longer_pinned_learns_it_with_the_next_message() {
    let mut bench = bench(PriorityPolicy::PinnedClient, 1);
    bench.ask(at(0), 1, 5, |_| {});
    bench.ask(at(0), 2, 5, |_| {});
    bench.serve(at(0));
    bench.consumer.take_pin_changes();
    assert!(!bench.consumer.unpin("c"), "there is no such group");
    assert!(bench.consumer.unpin("b"), "all groups share one pin");
    let unpinned = PinChange::Unpinned { group: "b".into(), reason: "admin" };
    assert_eq!(bench.consumer.take_pin_changes(), [unpinned]);
    assert!(bench.serve(at(1)).is_empty() && bench.statuses().is_empty());
    assert!(bench.consumer.wants_pin());
    bench.consumer.supply_pin("p2");
    bench.append(2);
    assert_eq!(bench.serve(at(1)), [to(2, 2, "p2"), to(2, 3, "p2")]);
    assert_eq!(bench.statuses(), [(423, "Nats-Wrong-Pin-Id".to_owned())]);
    assert_eq!(bench.consumer.num_waiting(), 1);
}

#[test]
fn a_client_that_is_silent_for_too_long_is_not_pinned_any_more() {
    let mut bench = bench(PriorityPolicy::PinnedClient, 1);
    bench.ask(at(0), 1, 1, |_| {});
    bench.serve(at(0));
    bench.ask(at(6), 1, 1, |asked| asked.id = "p1".into());
    assert_eq!(bench.consumer.poll_timeout(at(6)), Some(Duration::from_secs(16)));
    bench.consumer.timeout(at(15));
    assert_eq!(bench.pinned().as_deref(), Some("p1"), "a pull of its own counts");
    bench.append(1);
    assert_eq!(bench.serve(at(15)), [to(1, 2, "p1")]);
    bench.consumer.timeout(at(16));
    assert_eq!(bench.pinned(), None, "what it is sent does not");
    let unpinned = PinChange::Unpinned { group: "a".into(), reason: "timeout" };
    assert_eq!(bench.consumer.take_pin_changes().last(), Some(&unpinned));
}

#[test]
fn pulls_that_do_not_wait_are_told_at_once_that_they_stand_by() {
    let mut bench = bench(PriorityPolicy::PinnedClient, 3);
    bench.ask(at(0), 1, 1, |_| {});
    bench.serve(at(0));
    bench.ask(at(0), 2, 1, |_| {});
    assert!(bench.serve(at(0)).is_empty());
    assert_eq!(bench.consumer.why_idle(at(0), 3, &|_| true), Idle::Standby);
    bench.pull(at(0), |pull| {
        pull.no_wait = true;
        pull.group = Some(Box::new(PullGroup { group: "a".into(), ..PullGroup::default() }));
    });
    bench.serve(at(0));
    assert_eq!(bench.statuses(), [(404, "No Messages".to_owned())]);
}

#[test]
fn a_pull_without_a_group_is_served_while_nobody_is_pinned() {
    let mut bench = bench(PriorityPolicy::PinnedClient, 1);
    bench.pull(at(0), |pull| pull.batch = 9);
    assert_eq!(bench.serve(at(0)), [to(1, 1, "")]);
    bench.ask(at(0), 2, 9, |_| {});
    bench.append(1);
    assert_eq!(bench.serve(at(0)), [to(1, 2, "")]);
    bench.append(1);
    assert_eq!(bench.serve(at(0)), [to(2, 3, "p1")], "its turn");
    bench.append(1);
    assert_eq!(bench.serve(at(0)), [to(2, 4, "p1")]);
}

#[test]
fn one_of_two_thresholds_is_enough() {
    let mut bench = bench(PriorityPolicy::Overflow, 6);
    bench.ask(at(0), 1, 9, |asked| asked.min_pending = 5);
    assert_eq!(bench.tokens(at(0)), [(1, 1), (1, 2)], "with six and five pending, not with four");
    bench.ask(at(0), 2, 9, |asked| asked.min_ack_pending = 3);
    assert_eq!(bench.tokens(at(0)), []);
    bench.ask(at(0), 3, 1, |_| {});
    assert_eq!(bench.tokens(at(0)), [(3, 3), (2, 4), (2, 5), (2, 6)]);
}

#[test]
fn a_message_that_comes_again_counts_as_pending() {
    let mut bench = bench(PriorityPolicy::Overflow, 5);
    bench.ask(at(0), 1, 3, |_| {});
    bench.serve(at(0));
    bench.ask(at(0), 2, 9, |asked| asked.min_pending = 4);
    bench.ask(at(0), 3, 9, |asked| asked.min_pending = 3);
    bench.ack(at(0), 1, 3, &AckKind::Nak { delay: Duration::ZERO });
    assert_eq!(bench.tokens(at(0)), [(3, 1), (3, 2), (3, 3)], "two are pending, and it");
}

#[test]
fn those_of_the_lowest_number_come_first_and_take_turns() {
    let mut bench = bench(PriorityPolicy::Prioritized, 0);
    bench.pull(at(0), |pull| pull.reply = ReplyTo::Session(Token(9)));
    for (token, priority) in [(1, 5), (2, 1), (3, 1), (4, 0)] {
        bench.ask(at(0), token, 2, |asked| asked.priority = priority);
    }
    bench.append(9);
    let expected = [(4, 1), (4, 2), (2, 3), (3, 4), (2, 5), (3, 6), (1, 7), (1, 8), (9, 9)];
    assert_eq!(bench.tokens(at(0)), expected);
}

#[test]
fn pulls_that_contradict_the_policy_are_refused() {
    let refused = |policy, change: fn(&mut PullGroup)| {
        let mut bench = bench(policy, 0);
        bench.ask(at(0), 1, 1, change);
        bench.statuses().pop().map(|(code, text)| (code, text.replace("Bad Request - ", "")))
    };
    let bad = |text: &str| Some((400, text.to_owned()));
    let all = [
        PriorityPolicy::None,
        PriorityPolicy::Overflow,
        PriorityPolicy::PinnedClient,
        PriorityPolicy::Prioritized,
    ];
    for policy in all {
        let range = bad("Priority must be between 0 and 9");
        assert_eq!(refused(policy, |g| g.priority = 10), range);
        assert_eq!(refused(policy, |g| (g.priority, g.min_pending) = (-1, 1)), range);
        assert_eq!(refused(policy, |g| g.priority = 9), None);
        let overflows = policy == PriorityPolicy::Overflow;
        let expected = if overflows { None } else { bad("Not a Overflow Priority consumer") };
        assert_eq!(refused(policy, |g| g.min_ack_pending = 1), expected);
        let pins = policy == PriorityPolicy::PinnedClient;
        let expected = if pins { None } else { bad("Not a Pinned Client Priority consumer") };
        assert_eq!(refused(policy, |g| g.id = "p".into()), expected);
        let is_free = policy == PriorityPolicy::None;
        let expected = if is_free { None } else { bad("Priority Group missing") };
        assert_eq!(refused(policy, |g| g.group = String::new()), expected);
        let expected = if is_free { None } else { bad("Invalid Priority Group") };
        assert_eq!(refused(policy, |g| g.group = "c".into()), expected);
    }
}

#[test]
fn a_wrong_pin_is_refused_at_once_while_somebody_is_pinned() {
    let mut bench = bench(PriorityPolicy::PinnedClient, 1);
    bench.ask(at(0), 1, 1, |_| {});
    bench.serve(at(0));
    bench.ask(at(0), 1, 1, |asked| asked.id = "old".into());
    assert_eq!(bench.statuses(), [(423, "Nats-Pin-Id mismatch".to_owned())]);
}
