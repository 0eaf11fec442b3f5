//! Sketches of subjects: eight bytes that tell of most subjects that a filter does not want them,
//! so that a reader of a few messages among many looks at eight bytes of each and not at its text.
//!
//! A sketch holds the number of tokens and a hash of each of the first seven. What it lets pass may
//! still not match; what it refuses never does.

/// Tokens whose hashes a sketch holds.
const TOKENS: usize = 7;
/// Where the number of tokens stands: the highest byte, so that comparing sketches compares it.
const COUNT: u32 = 56;
/// Sketches that are looked at together: as many as a number has bits.
pub(crate) const ROW: usize = 64;

/// The sketch of a subject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Sketch(u64);

/// Eight bits of a token: FNV-1a, its halves folded together.
fn hash_of(token: &str) -> u8 {
    let hash = token
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let [a, b, c, d] = hash.to_le_bytes();
    a ^ b ^ c ^ d
}

/// The number of tokens as a sketch has it: 255 also stands for more.
fn count_of(tokens: usize) -> u8 {
    u8::try_from(tokens).unwrap_or(u8::MAX)
}

impl Sketch {
    /// The sketch of `subject`, which has no wildcards.
    pub(crate) fn of(subject: &str) -> Self {
        let (mut sketch, mut tokens) = (0, 0);
        for token in subject.split('.') {
            if tokens < TOKENS {
                sketch |= u64::from(hash_of(token)) << (8 * tokens);
            }
            tokens += 1;
        }
        Self(sketch | u64::from(count_of(tokens)) << COUNT)
    }
}

/// What a pattern asks of a sketch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SketchPattern {
    /// The bits that must be those of `value`.
    mask: u64,
    value: u64,
    /// The fewest tokens that a subject must have.
    least: u8,
    /// Whether what passes matches, without a look at its text.
    decides: bool,
}

impl SketchPattern {
    /// What `pattern` asks.
    pub(crate) fn of(pattern: &str) -> Self {
        let (mut mask, mut value, mut tokens, mut is_open, mut decides) = (0, 0, 0, false, true);
        let mut rest = pattern.split('.').peekable();
        while let Some(token) = rest.next() {
            // Only as the last token it is a wildcard.
            is_open = token == ">" && rest.peek().is_none();
            if token != "*" && !is_open {
                decides = false;
                if tokens < TOKENS {
                    mask |= 0xff << (8 * tokens);
                    value |= u64::from(hash_of(token)) << (8 * tokens);
                }
            }
            tokens += 1;
        }
        let least = count_of(tokens);
        // From 255 on a sketch does not tell how many they are.
        decides &= least < u8::MAX;
        if !is_open {
            mask |= 0xff << COUNT;
            value |= u64::from(least) << COUNT;
        }
        Self { mask, value, least, decides }
    }

    /// Whether a subject of this sketch, whose text `subject` gives when it is needed, is matched by
    /// `pattern`, which this was made of.
    pub(crate) fn matches<'a>(
        &self,
        pattern: &str,
        sketch: Sketch,
        subject: impl FnOnce() -> &'a str,
    ) -> bool {
        self.lets_pass(sketch) && (self.decides || crate::subject::matches(pattern, subject()))
    }

    /// Which of a row of sketches, at most [`ROW`], are let pass: a bit for each, the lowest for the
    /// first.
    pub(crate) fn passing(&self, row: &[Sketch]) -> u64 {
        // Most rows have none. Without a way out of the loop, several are compared at a time.
        if !row.iter().fold(false, |any, sketch| any | self.lets_pass(*sketch)) {
            return 0;
        }
        row.iter()
            .take(ROW)
            .rev()
            .fold(0, |bits, sketch| bits << 1 | u64::from(self.lets_pass(*sketch)))
    }

    /// Whether a subject of this sketch may match.
    fn lets_pass(&self, sketch: Sketch) -> bool {
        (sketch.0 & self.mask == self.value) & ((sketch.0 >> COUNT) as u8 >= self.least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, subject: &str) -> bool {
        SketchPattern::of(pattern).matches(pattern, Sketch::of(subject), || subject)
    }

    #[test]
    fn most_texts_are_never_looked_at() {
        let pattern = "devices.*.7.>";
        let sketched = SketchPattern::of(pattern);
        let looked = |subject: &String| {
            let mut looked = false;
            sketched.matches(pattern, Sketch::of(subject), || {
                looked = true;
                subject
            });
            looked
        };
        let subjects = (0..10_000).map(|n| format!("devices.eu.{n}.state"));
        let count = subjects.filter(looked).count();
        assert!((1..100).contains(&count), "{count}");
    }

    #[test]
    fn wildcards_alone_need_no_text() {
        for (pattern, subject, expected) in
            [("*.*", "a.b", true), ("*.*", "a", false), ("*.>", "a", false), ("*.>", "a.b.c", true)]
        {
            let sketched = SketchPattern::of(pattern);
            let found = sketched.matches(pattern, Sketch::of(subject), || unreachable!());
            assert_eq!(found, expected, "{pattern} {subject}");
        }
    }

    #[test]
    fn subjects_of_very_many_tokens_are_told_by_their_text() {
        let many = |count: usize| vec!["a"; count].join(".");
        for (pattern, subject) in [(254, 254), (255, 255), (300, 300), (255, 256), (300, 299)] {
            let starred = vec!["*"; pattern].join(".");
            assert_eq!(matches(&starred, &many(subject)), pattern == subject);
            assert_eq!(matches(&many(pattern), &many(subject)), pattern == subject);
            assert!(matches(&(many(pattern - 1) + ".>"), &many(pattern)));
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None, ..Default::default()
        })]
        /// A sketch changes nothing of what matches.
        #[test]
        fn nothing_is_lost_and_nothing_gained(
            pattern in "[ab*>.]{0,12}", subject in "[ab*>.]{0,12}", shared in "[ab*.]{0,12}",
        ) {
            let (pattern, subject) = (shared.clone() + &pattern, shared + &subject);
            let expected = crate::subject::matches(&pattern, &subject);
            proptest::prop_assert_eq!(matches(&pattern, &subject), expected);
        }
    }
}
