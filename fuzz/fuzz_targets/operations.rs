//! Operations as text with JSON bodies: whatever is sent is a request or an error, never a panic.
#![no_main]

use claudebus::session::api::{Strictness, parse};
use libfuzzer_sys::fuzz_target;

/// Operations whose bodies have fields.
const OPERATIONS: [&str; 12] = [
    "STREAM.CREATE.S",
    "STREAM.UPDATE.S",
    "STREAM.PURGE.S",
    "STREAM.MSG.GET.S",
    "STREAM.MSG.DELETE.S",
    "CONSUMER.CREATE.S.c",
    "CONSUMER.PAUSE.S.c",
    "DIRECT.GET.S",
    "BATCH.PUBLISH",
    "SCHEDULE.LIST",
    "SCHEDULE.DELETE.S",
    "DEAD.LIST.S",
];

fuzz_target!(|input: (&str, &[u8])| {
    let (operation, body) = input;
    for strictness in [Strictness::Strict, Strictness::Lenient] {
        for operation in OPERATIONS.into_iter().chain([operation]) {
            let _ = parse(operation, body, strictness);
        }
    }
});
