//! The codec of the NATS protocol: whatever arrives, and in whatever pieces, gives the same operations
//! or the same error, keeps no more in memory than one message may have, and never panics.
#![no_main]

use claudebus::wire::nats::{Decoder, Operation, ProtocolError};
use claudebus_fuzz::cut;
use libfuzzer_sys::fuzz_target;

/// Bytes of a message.
const PAYLOAD: usize = 1000;
/// Bytes of an operation's arguments.
const LINE: usize = 100;
/// Bytes of an unfinished message beside these: the longest verb, a blank and two line ends.
const REST: usize = 12;

/// What one connection means whose bytes come in these parts.
fn meaning(parts: &[&[u8]]) -> (Vec<String>, Option<ProtocolError>) {
    let mut decoder = Decoder::new(PAYLOAD, LINE);
    let mut seen = Vec::new();
    for part in parts {
        decoder.buffer().extend_from_slice(part);
        loop {
            match decoder.next_operation() {
                Ok(Some(Operation::Publish(batch))) => {
                    assert!(!batch.is_empty());
                    seen.extend(batch.iter().map(|message| format!("{message:?}")));
                }
                Ok(Some(operation)) => {
                    if let Operation::Connect(connect) = &operation {
                        decoder.allow_headers(connect.headers);
                    }
                    seen.push(format!("{operation:?}"));
                }
                Ok(None) => break,
                Err(error) => return (seen, Some(error)),
            }
        }
        assert!(decoder.buffer().len() <= PAYLOAD + LINE + REST);
        assert!(decoder.missing() <= PAYLOAD + 2);
    }
    (seen, None)
}

fuzz_target!(|input: (Vec<u8>, &[u8])| {
    let (lengths, bytes) = input;
    let whole = meaning(&[bytes]);
    let pieces = meaning(&cut(bytes, &lengths));
    assert_eq!(whole, pieces);
});
