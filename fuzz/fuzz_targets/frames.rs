//! The codec of claudebus/1: whatever arrives, and in whatever pieces, gives the same frames or the
//! same error, and never a panic.
#![no_main]

use claudebus::wire::native::{ClientFrame, Decoder, FrameError, ServerFrame};
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 1 << 16;

/// What one stream of bytes means, cut at multiples of `piece`.
fn meaning(bytes: &[u8], piece: usize) -> (Vec<String>, Option<FrameError>) {
    let mut decoder = Decoder::new(LIMIT);
    let mut seen = Vec::new();
    for part in bytes.chunks(piece) {
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

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let whole = meaning(bytes, bytes.len().max(1));
    let pieces = meaning(bytes, usize::from(piece).max(1));
    assert_eq!(whole, pieces);
});
