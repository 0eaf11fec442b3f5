//! Fingerprints of message ids: SipHash-2-4 with 128 bits of output (Aumasson and Bernstein, 2012)
//! under a secret key, so that nobody can craft two ids that collide.

use claudebus_storage::Fingerprint;

/// The secret key. Drawn once for each data directory and kept in its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(pub(super) u64, pub(super) u64);

impl Key {
    /// As bytes of its state.
    pub(super) fn encode(self) -> Vec<u8> {
        [self.0.to_le_bytes(), self.1.to_le_bytes()].concat()
    }

    /// From its state; `None` if that is not 16 bytes.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (first, second) = bytes.split_first_chunk::<8>()?;
        let second = second.try_into().ok()?;
        Some(Self(u64::from_le_bytes(*first), u64::from_le_bytes(second)))
    }

    /// The fingerprint of a message id.
    pub(super) fn fingerprint(self, id: &str) -> Fingerprint {
        let mut state = State::new(self);
        let mut words = id.as_bytes().chunks_exact(8);
        for word in &mut words {
            state.absorb(word_of(word));
        }
        let length = (id.len() as u64) << 56;
        state.absorb(word_of(words.remainder()) | length);
        state.finish()
    }
}

/// Up to eight bytes, the first lowest.
fn word_of(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| (word << 8) | u64::from(*byte))
}

struct State {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl State {
    fn new(key: Key) -> Self {
        Self {
            v0: key.0 ^ 0x736f_6d65_7073_6575,
            v1: key.1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            v2: key.0 ^ 0x6c79_6765_6e65_7261,
            v3: key.1 ^ 0x7465_6462_7974_6573,
        }
    }

    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v2 = self.v2.rotate_left(32);
    }

    fn absorb(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.round();
        self.v0 ^= word;
    }

    fn squeeze(&mut self) -> u64 {
        (0..4).for_each(|_| self.round());
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }

    fn finish(mut self) -> Fingerprint {
        self.v2 ^= 0xee;
        let low = self.squeeze();
        self.v1 ^= 0xdd;
        let high = self.squeeze();
        Fingerprint(u128::from(low) | (u128::from(high) << 64))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    /// From the vectors published with SipHash's reference implementation, key 00 01 .. 0f.
    #[test]
    fn the_reference_vector_of_the_empty_input() {
        let bytes: Vec<u8> = (0..16).collect();
        let key = Key::decode(&bytes).unwrap();
        assert_eq!(key.encode(), bytes);
        let expected = [
            0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55,
            0x02, 0x93,
        ];
        assert_eq!(key.fingerprint("").0.to_le_bytes(), expected);
    }

    #[test]
    fn ids_and_keys_that_differ_give_fingerprints_that_differ() {
        let key = Key(1, 2);
        assert_ne!(key.fingerprint("a"), key.fingerprint("a\0"));
        assert_ne!(key.fingerprint("order-12345"), key.fingerprint("order-12346"));
        assert_ne!(key.fingerprint("a"), Key(1, 3).fingerprint("a"));
    }
}
