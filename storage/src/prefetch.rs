//! Memory far apart, fetched all at once.
//!
//! Records that one consumer or one stream wants lie between those of others. A processor waits for each
//! that no cache holds some hundred times longer than it works on it, but it can wait for many at the same
//! time. So they are looked at one right after the other first, and then worked on.

/// Byte strings that are worth fetching together: many more, and the first have left the nearest cache when
/// they are worked on.
pub const AHEAD: usize = 64;

/// Bytes that a processor fetches at a time.
const LINE: usize = 64;

/// Bytes at the start of a string that are fetched. 512: behind them it sees itself where this is going.
const BEGINNING: usize = 512;

/// Fetches the beginnings of some byte strings into the caches.
pub fn prefetch<'a>(strings: impl IntoIterator<Item = &'a [u8]>) {
    let mut sum = 0u8;
    for bytes in strings {
        let beginning = bytes.get(..BEGINNING).unwrap_or(bytes);
        // A string mostly ends in a line of which it has less than its steps.
        for byte in beginning.iter().step_by(LINE).chain(beginning.last()) {
            sum = sum.wrapping_add(*byte);
        }
    }
    // A sum that nobody wants would not be computed.
    std::hint::black_box(sum);
}
