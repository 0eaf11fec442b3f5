//! Operations as text with JSON bodies: whatever is sent is a request or an error, never a panic.
#![no_main]

use claudebus::session::api::{Strictness, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &[u8])| {
    let (operation, body) = input;
    for strictness in [Strictness::Strict, Strictness::Lenient] {
        let _ = parse(operation, body, strictness);
        let _ = parse("STREAM.CREATE.S", body, strictness);
        let _ = parse("CONSUMER.CREATE.S.c", body, strictness);
    }
});
