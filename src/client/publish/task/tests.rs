//! Tests of what the task behind a publisher does with frames and answers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::model::error::ApiError;

fn shared() -> Shared {
    let limits = WireLimits { max_payload: 1000, max_batch_messages: 4, ..WireLimits::default() };
    Shared::new(Link::new(), ProducerId(1), WindowLimits::default(), limits)
}

#[test]
fn frames_end_at_their_limits() {
    let shared = shared();
    for _ in 0..5 {
        shared.try_push("a.b", &[], b"x").unwrap().unwrap();
    }
    let mut state = shared.lock();
    let frames: Vec<_> = std::iter::from_fn(|| state.next_frame()).collect();
    let ranges: Vec<_> = frames.iter().map(|f| (f.first, f.count)).collect();
    assert_eq!(ranges, [(1, 4), (5, 1)]);
}

#[test]
fn what_cannot_be_published_is_refused_at_once() {
    let shared = shared();
    assert!(shared.try_push("a", &[], &[0; 1000]).unwrap().is_some());
    assert_eq!(
        shared.try_push("a", &[0; 1], &[0; 1000]),
        Err(PublishError::TooLarge { size: 1001, limit: 1000 })
    );
    assert_eq!(shared.try_push("a.*", &[], b""), Err(PublishError::Subject("a.*".into())));
    shared.close();
    assert_eq!(shared.try_push("a", &[], b""), Err(PublishError::Closed));
}

#[test]
fn only_unanswered_messages_are_sent_again_under_their_numbers() {
    let shared = shared();
    for payload in ["1", "2", "3", "4", "5"] {
        shared.try_push("a", &[], payload.as_bytes()).unwrap().unwrap();
    }
    let mut state = shared.lock();
    while state.next_frame().is_some() {}
    state.window.refused(2, ApiError::bad_request(), &mut Vec::new());
    state.window.published((1, 1), &"S".into(), 1, false, &mut Vec::new());
    state.window.published((4, 1), &"S".into(), 2, false, &mut Vec::new());
    state.settle();
    state.rewind();
    let frames: Vec<_> = std::iter::from_fn(|| state.next_frame()).collect();
    let ranges: Vec<_> = frames.iter().map(|f| (f.first, f.count)).collect();
    assert_eq!(ranges, [(3, 1), (5, 1)]);
    let batch = decode(&frames[0]).unwrap();
    let message = batch.iter().next().unwrap();
    assert_eq!((message.subject, message.payload), ("a", b"3".as_slice()));
}

#[test]
fn whole_frames_are_sent_again_as_they_were() {
    let shared = shared();
    for _ in 0..3 {
        shared.try_push("a", &[], b"x").unwrap().unwrap();
    }
    let mut state = shared.lock();
    let before = state.next_frame().unwrap();
    shared_rewind_is_idempotent(&mut state);
    assert_eq!(state.next_frame().unwrap(), before);
}

fn shared_rewind_is_idempotent(state: &mut State) {
    state.rewind();
    let queued = state.queue.clone();
    state.rewind();
    assert_eq!(state.queue, queued);
}
