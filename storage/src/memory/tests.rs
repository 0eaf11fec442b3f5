#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::*;
use crate::record::StorageKind;

const S: StreamId = StreamId(1);

fn record(subject: &'static str, time: u64) -> NewRecord<'static> {
    NewRecord { subject, headers: b"", payload: b"p", time, expires: None, message_id: None }
}

fn log() -> MemoryLog {
    let mut log = MemoryLog::new();
    log.create_stream(S, StreamOptions::default());
    for (time, subject) in [(1, "a"), (2, "b"), (3, "a"), (4, "c.d")] {
        log.append(S, &record(subject, time)).unwrap();
    }
    log
}

fn request(from: u64, to: u64) -> ReadRequest {
    ReadRequest { stream: S, from, to, since: 0, max_records: 100, max_bytes: 1 << 20 }
}

fn read(log: &mut MemoryLog, request: &ReadRequest, patterns: &[&str]) -> (Vec<u64>, u64) {
    let filter = Filter::any_of(patterns.iter().copied());
    let mut records = Vec::new();
    match log.read(request, &filter, &mut records) {
        ReadOutcome::Ready { next } => (records.iter().map(|r| r.seq).collect(), next),
        ReadOutcome::Waiting(_) => panic!("reads are not slow"),
    }
}

#[test]
fn summaries_follow_appends_and_deletes() {
    let mut log = log();
    let size = StorageKind::File.size(1, 0, 1);
    let before = log.stream(S).unwrap();
    assert_eq!((before.messages, before.first_seq, before.last_seq, before.subjects), (4, 1, 4, 3));
    let a = log.subject(S, "a").unwrap();
    assert_eq!((a.count, a.first, a.last), (2, 1, 3));
    assert!(log.delete(S, 1, a.id, size));
    assert!(!log.delete(S, 1, a.id, size));
    let after = log.stream(S).unwrap();
    assert_eq!((after.first_seq, after.bytes), (2, before.bytes - size));
    assert_eq!(log.clear(S), 3);
    let empty = log.stream(S).unwrap();
    assert_eq!((empty.messages, empty.bytes, empty.first_seq, empty.last_seq), (0, 0, 5, 4));
    assert_eq!(log.append(S, &record("a", 9)), Ok(5));
}

#[test]
fn a_slot_is_reused_under_another_generation() {
    let mut log = log();
    let b = log.subject(S, "b").unwrap().id;
    log.delete(S, 2, b, 0);
    assert_eq!(log.subject_text(S, b), None);
    log.append(S, &record("e", 5)).unwrap();
    let e = log.subject(S, "e").unwrap().id;
    assert_eq!((e.slot, log.subject_text(S, e)), (b.slot, Some("e")));
    assert_ne!(e.generation, b.generation);
}

#[test]
fn reads_stop_at_their_limits_and_say_where() {
    let mut log = log();
    assert_eq!(read(&mut log, &request(1, 4), &[]), (vec![1, 2, 3, 4], 5));
    assert_eq!(read(&mut log, &request(1, 4), &["a"]), (vec![1, 3], 5));
    let two = ReadRequest { max_records: 2, ..request(1, 4) };
    assert_eq!(read(&mut log, &two, &[]), (vec![1, 2], 3));
    let small = ReadRequest { max_bytes: 1, ..request(1, 4) };
    assert_eq!(read(&mut log, &small, &[]), (vec![1], 2));
    let late = ReadRequest { since: 3, ..request(1, 4) };
    assert_eq!(read(&mut log, &late, &[]), (vec![3, 4], 5));
}

#[test]
fn slow_reads_are_answered_by_poll() {
    let mut log = log();
    log.commit();
    assert!(matches!(log.poll(), Ok(Some(LogEvent::Durable(_)))));
    log.slow_reads(true);
    let mut records = Vec::new();
    let outcome = log.read(&request(2, 9), &Filter::all(), &mut records);
    let ReadOutcome::Waiting(id) = outcome else { panic!("slow reads wait") };
    assert!(records.is_empty());
    let Ok(Some(LogEvent::Read(answered, Ok(batch)))) = log.poll() else { panic!("no answer") };
    assert_eq!((answered, batch.records.len(), batch.next), (id, 2, 2 + SLOW_STEP));
}

#[test]
fn nothing_is_durable_while_held() {
    let mut log = log();
    log.hold_durable(true);
    let position = log.commit();
    assert_eq!(log.commit(), position, "an empty group takes no position");
    assert!(matches!(log.poll(), Ok(None)));
    assert!(log.durable() < position);
    log.hold_durable(false);
    assert!(matches!(log.poll(), Ok(Some(LogEvent::Durable(p))) if p == position));
}

#[test]
fn message_ids_are_remembered_for_their_time_and_within_the_budget() {
    let mut log = log();
    log.set_message_id_budget(1);
    let id = Fingerprint(7);
    let with_id = NewRecord { message_id: Some((id, 20)), ..record("a", 10) };
    assert_eq!(log.append(S, &with_id), Ok(5));
    assert_eq!(log.recall(S, id, 19), Some(5));
    assert_eq!(log.recall(S, id, 20), None);
    let other = NewRecord { message_id: Some((Fingerprint(8), 30)), ..record("a", 11) };
    assert_eq!(log.append(S, &other), Err(WindowFull));
    assert!(log.has_room_for_ids(19, 0) && !log.has_room_for_ids(19, 1));
    assert!(log.has_room_for_ids(20, 1) && !log.has_room_for_ids(20, 2));
    assert_eq!(log.append(S, &NewRecord { time: 20, ..other }), Ok(6));
}

#[test]
fn damage_is_an_error_that_names_the_sequences() {
    let mut log = log();
    log.damage(S, 3, 3);
    assert_eq!(read(&mut log, &request(1, 4), &[]), (vec![1, 2], 3));
    log.commit();
    log.poll().unwrap();
    log.read(&request(3, 4), &Filter::all(), &mut Vec::new());
    let Ok(Some(LogEvent::Read(_, Err(error)))) = log.poll() else { panic!("damage is an error") };
    assert!(matches!(error, ReadError::Damaged { first: 3, last: 3, .. }));
}

#[test]
fn states_and_expiries() {
    let mut log = log();
    log.put(b"c/1", b"base");
    assert_eq!(log.note(b"c/1", b"n"), (4, 1));
    log.put(b"d", b"");
    let states = log.states(b"c/");
    assert_eq!(states.len(), 1);
    assert_eq!(states[0].1, State { base: b"base".to_vec(), notes: b"n".to_vec() });
    log.forget(b"c/1");
    assert!(log.states(b"c/").is_empty());
    log.append(S, &NewRecord { expires: Some(50), ..record("a", 5) }).unwrap();
    log.append(S, &NewRecord { expires: Some(40), ..record("a", 5) }).unwrap();
    assert_eq!(log.next_expiry(S), Some((40, 6)));
}

#[test]
fn a_failed_log_says_why() {
    let mut log = log();
    log.fail("disk gone");
    assert!(log.poll().unwrap_err().to_string().contains("disk gone"));
}
