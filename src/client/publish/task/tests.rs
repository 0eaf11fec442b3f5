//! Tests of what the task behind a publisher does with frames and answers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use tokio::io::AsyncWriteExt;

use super::*;
use crate::client::transport::{Reader, split};
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

fn bytes_of(frames: &[ServerFrame]) -> Vec<u8> {
    let mut out = Output::new();
    frames.iter().for_each(|frame| frame.encode(&mut out));
    out.take().concat()
}

/// Answers to the messages 1 to 9.
fn answers() -> Vec<ServerFrame> {
    let named = |alias, name: &str| ServerFrame::StreamName { alias, name: name.into() };
    let range = |count, alias, seq| StoredRange { count, alias, seq, duplicate: false };
    let first = vec![range(2, 0, 10), range(1, 1, 7), range(1, 0, 12)];
    vec![
        named(0, "A"),
        named(1, "B"),
        ServerFrame::Published { first: 1, ranges: first },
        ServerFrame::RefusedMessage { counter: 5, error: ApiError::bad_request() },
        named(0, "C"),
        ServerFrame::Published { first: 6, ranges: vec![range(3, 0, 1), range(1, 1, 8)] },
    ]
}

fn with_nine_messages() -> Shared {
    let shared = shared();
    for _ in 1..=9 {
        shared.try_push("a", &[], b"x").unwrap().unwrap();
    }
    shared
}

#[tokio::test]
async fn answers_may_come_in_any_pieces() {
    let bytes = bytes_of(&answers());
    for cut in 0..bytes.len() {
        let shared = with_nine_messages();
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let (reader, _writer): (Reader, _) = split(near);
        let (mut reader, (head, rest)) = (FrameReader::new(reader), bytes.split_at(cut));
        let send = async {
            far.write_all(head).await.unwrap();
            // The other side has read that before the rest comes.
            tokio::task::yield_now().await;
            far.write_all(rest).await.unwrap();
            drop(far);
        };
        let (end, ()) = tokio::join!(read(&shared, &mut reader), send);
        assert!(matches!(end, End::Broken(StreamError::Ended)), "cut at {cut}");
        let told = (1..=9).map(|counter| match shared.poll(counter, Waker::noop()) {
            Poll::Ready(Ok(ack)) => format!("{}{}", ack.stream, ack.seq),
            Poll::Ready(Err(_)) => "refused".into(),
            Poll::Pending => "open".into(),
        });
        let meant = ["A10", "A11", "B7", "A12", "refused", "C1", "C2", "C3", "B8"];
        assert!(told.eq(meant), "cut at {cut}");
    }
}

#[tokio::test]
async fn nothing_more_is_asked_for_when_all_is_answered_before_the_server_stops() {
    let shared = with_nine_messages();
    (1..=9).for_each(|counter| shared.abandon_ticket(counter));
    shared.abandon();
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let (reader, _writer): (Reader, _) = split(near);
    let stopping = ServerFrame::Refused(ApiError::shutting_down());
    let frames: Vec<_> = answers().into_iter().chain([stopping]).collect();
    far.write_all(&bytes_of(&frames)).await.unwrap();
    let end = read(&shared, &mut FrameReader::new(reader)).await;
    assert!(matches!(end, End::Done));
}
