//! Payloads that can be checked to the last byte: everything in them follows from the run's seed,
//! the publisher and the message's number.

/// Shortest payload, in bytes.
const SHORTEST: usize = 64;
/// Longest payload, in bytes.
const LONGEST: usize = 512;
/// Publisher and number, at the start of each payload, in bytes.
const NAME: usize = 10;

/// One message of one publisher. Numbers start at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// The publisher.
    pub publisher: u16,
    /// Its n-th message.
    pub n: u64,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "message {} of publisher {}", self.n, self.publisher)
    }
}

impl Name {
    /// Both in one number, never 0: for tables.
    pub fn pack(self) -> u64 {
        (u64::from(self.publisher) << 48) | self.n
    }

    /// The reverse of [`Self::pack`].
    pub fn unpack(packed: u64) -> Option<Self> {
        (packed != 0)
            .then_some(Self { publisher: (packed >> 48) as u16, n: packed & ((1 << 48) - 1) })
    }
}

/// The next number of a splitmix64 generator.
pub fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The payload of a message.
pub fn make(seed: u64, name: Name) -> Vec<u8> {
    let mut state = seed ^ name.pack().wrapping_mul(0x2545_f491_4f6c_dd1d);
    let len = length(&mut state);
    let mut payload = Vec::with_capacity(len + 8);
    payload.extend_from_slice(&name.publisher.to_le_bytes());
    payload.extend_from_slice(&name.n.to_le_bytes());
    while payload.len() < len {
        payload.extend_from_slice(&next(&mut state).to_le_bytes());
    }
    payload.truncate(len);
    payload
}

/// Length of the payload of a message.
pub fn len(seed: u64, name: Name) -> usize {
    length(&mut (seed ^ name.pack().wrapping_mul(0x2545_f491_4f6c_dd1d)))
}

fn length(state: &mut u64) -> usize {
    SHORTEST + next(state) as usize % (LONGEST - SHORTEST + 1)
}

/// Whose payload this is, if every byte is as it was made.
pub fn check(seed: u64, payload: &[u8]) -> Option<Name> {
    let head = payload.get(..NAME)?;
    let name = Name {
        publisher: u16::from_le_bytes(head.get(..2)?.try_into().ok()?),
        n: u64::from_le_bytes(head.get(2..)?.try_into().ok()?),
    };
    (make(seed, name) == payload).then_some(name)
}
