//! A session of claudebus/1: whatever a client sends, and in whatever pieces, asks the broker for the
//! same, is answered by the same bytes, ends in the same way, and never panics.
#![no_main]

use std::sync::Arc;

use claudebus::model::limits::Limits;
use claudebus::model::request::ConnectionId;
use claudebus::session::native::{Ending, Session};
use claudebus::wire::native::{Decoder, Output, Welcome};
use claudebus_fuzz::cut;
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 1 << 16;
const CONNECTION: ConnectionId = ConnectionId(1);

/// What the session makes of its client.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    requests: Vec<String>,
    answers: Vec<u8>,
    ending: Option<String>,
}

fn hear(is_first: bool, parts: &[&[u8]]) -> Heard {
    let limits = Arc::new(Limits::default());
    let mut session = if is_first {
        Session::first(limits, CONNECTION)
    } else {
        Session::further(limits, CONNECTION)
    };
    let (mut requests, mut out) = (Vec::new(), Output::new());
    let ending = talk(&mut session, parts, &mut requests, &mut out).err();
    Heard {
        requests: requests.iter().map(|request| format!("{request:?}")).collect(),
        answers: out.take().concat(),
        ending: ending.map(|ending| ending.to_string()),
    }
}

fn talk(
    session: &mut Session,
    parts: &[&[u8]],
    requests: &mut Vec<claudebus::model::request::Request>,
    out: &mut Output,
) -> Result<(), Ending> {
    let mut decoder = Decoder::new(LIMIT);
    for part in parts {
        decoder.buffer().extend_from_slice(part);
        while let Some(frame) = decoder.next_frame()? {
            if session.is_busy() {
                return Ok(());
            }
            if session.receive(frame, requests, out)?.is_some() {
                session.welcome(Welcome::default(), requests, out);
            }
        }
    }
    decoder.finish()?;
    session.finish(requests)
}

fuzz_target!(|input: (bool, Vec<u8>, &[u8])| {
    let (is_first, lengths, bytes) = input;
    let whole = hear(is_first, &[bytes]);
    let pieces = hear(is_first, &cut(bytes, &lengths));
    assert_eq!(whole, pieces);
});
