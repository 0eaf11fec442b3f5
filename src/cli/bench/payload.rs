//! Payloads that can be made again: from a seed, the bytes of each numbered message.

use bytes::{BufMut as _, Bytes, BytesMut};
use clap::ValueEnum;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

/// Random bytes beyond the size of a payload: payloads begin anywhere in them. 64 KiB: enough that
/// neighbours differ, small enough for a processor's cache.
const POOL: usize = 64 << 10;

/// Different events; as many as lie further apart than a compressor looks back.
const EVENTS: usize = 4096;

/// The smallest event that has room for its fields.
const SMALLEST_EVENT: usize = 96;

/// What payloads consist of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Content {
    /// Random bytes, which no compression makes smaller
    #[default]
    Random,
    /// Events in JSON, as programs write them
    Json,
}

impl Content {
    /// The smallest payload of this kind.
    pub(super) fn smallest(self) -> usize {
        match self {
            Self::Random => 1,
            Self::Json => SMALLEST_EVENT,
        }
    }
}

/// The payloads of one client.
#[derive(Clone, Debug)]
pub(super) struct Payloads {
    pool: Bytes,
    size: usize,
    content: Content,
}

impl Payloads {
    pub(super) fn new(content: Content, size: usize, seed: u64) -> Self {
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let pool = match content {
            Content::Random => {
                let mut pool = vec![0; size + POOL];
                rng.fill_bytes(&mut pool);
                pool.into()
            }
            Content::Json => events(size, &mut rng),
        };
        Self { pool, size, content }
    }

    /// The payload of a message.
    pub(super) fn get(&self, number: u64) -> Bytes {
        // A step that visits all places before it comes back: odd, and both sizes are powers of two.
        let step = number.wrapping_mul(40_503);
        let start = match self.content {
            Content::Random => (step % POOL as u64) as usize,
            Content::Json => (step % EVENTS as u64) as usize * self.size,
        };
        self.pool.slice(start..start + self.size)
    }
}

/// Events of exactly `size` bytes, one after the other.
fn events(size: usize, rng: &mut impl rand::Rng) -> Bytes {
    let size = size.max(SMALLEST_EVENT);
    let mut all = BytesMut::with_capacity(size * EVENTS);
    for number in 0..EVENTS {
        let end = all.len() + size;
        let head = format!(
            "{{\"id\":\"{:012x}\",\"type\":\"order.paid\",\"n\":{number},\"total\":{}.{:02},\"note\":\"",
            rng.random_range(0..1_u64 << 48),
            rng.random_range(1..10_000),
            rng.random_range(0..100),
        );
        all.put_slice(head.as_bytes());
        while all.len() + 2 < end {
            let words = ["the ", "order ", "was ", "paid ", "by ", "card ", "at ", "once "];
            let word = words.get(rng.random_range(0..words.len())).copied().unwrap_or(" ");
            let room = end - 2 - all.len();
            all.put_slice(word.as_bytes().get(..word.len().min(room)).unwrap_or_default());
        }
        all.put_slice(b"\"}");
    }
    all.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_json_of_the_size_and_differ() {
        for size in [SMALLEST_EVENT, 128, 1000] {
            let payloads = Payloads::new(Content::Json, size, 3);
            let mut seen = std::collections::BTreeSet::new();
            for number in 0..EVENTS as u64 {
                let event = payloads.get(number);
                assert_eq!(event.len(), size);
                let event: serde_json::Value = serde_json::from_slice(&event).expect("JSON");
                seen.insert(event["id"].as_str().expect("an id").to_owned());
            }
            assert!(seen.len() > EVENTS * 9 / 10);
        }
    }

    #[test]
    fn the_seed_decides() {
        for content in [Content::Random, Content::Json] {
            let of = |seed| Payloads::new(content, 128, seed).get(5);
            assert_eq!(of(1), of(1));
            assert_ne!(of(1), of(2));
        }
    }
}
