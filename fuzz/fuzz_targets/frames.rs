//! The codec of claudebus/1: whatever arrives, and in whatever pieces, gives the same frames or the
//! same error, and never a panic.
#![no_main]

use claudebus::wire::native::{ClientFrame, Decoder, FrameError, ServerFrame};
use claudebus_fuzz::cut;
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 1 << 16;

/// What one stream of bytes means that comes in these parts.
fn meaning(parts: &[&[u8]]) -> (Vec<String>, Option<FrameError>) {
    let mut decoder = Decoder::new(LIMIT);
    let mut seen = Vec::new();
    for part in parts {
        decoder.buffer().extend_from_slice(part);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    let client = ClientFrame::decode(frame.clone());
                    let server = ServerFrame::decode(frame);
                    seen.push(format!("{client:?} {server:?}"));
                }
                Ok(None) => break,
                Err(error) => return (seen, Some(error)),
            }
        }
    }
    (seen, decoder.finish().err())
}

fuzz_target!(|input: (Vec<u8>, &[u8])| {
    let (lengths, bytes) = input;
    let whole = meaning(&[bytes]);
    let pieces = meaning(&cut(bytes, &lengths));
    assert_eq!(whole, pieces);
});
