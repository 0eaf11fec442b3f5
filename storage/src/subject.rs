//! Subject patterns: dot-separated tokens where `*` stands for exactly one token and a final `>`
//! for one or more (NATS subject syntax). Pure functions on text.

/// Whether `subject` (without wildcards) is matched by `pattern`.
///
/// ```
/// use claudebus_storage::subject::matches;
/// assert!(matches("orders.*.paid", "orders.eu.paid"));
/// assert!(matches("orders.>", "orders.eu.paid"));
/// assert!(!matches("orders.>", "orders"));
/// assert!(!matches("orders.*", "orders.eu.paid"));
/// ```
#[must_use]
pub fn matches(pattern: &str, subject: &str) -> bool {
    // Most subjects that do not match differ in a literal token, which bytes tell at once.
    let (ours, theirs) = (pattern.as_bytes(), subject.as_bytes());
    let same = same_bytes(ours, theirs);
    if same == ours.len() && same == theirs.len() {
        return true;
    }
    let equal = ours.get(..same).unwrap_or_default();
    let token = equal.iter().rposition(|byte| *byte == b'.').map_or(0, |dot| dot + 1);
    if !matches!(ours.get(token), Some(b'*' | b'>')) {
        return false;
    }
    match (pattern.get(token..), subject.get(token..)) {
        (Some(pattern), Some(subject)) => match_tokens(pattern, subject),
        _ => false,
    }
}

/// With how many equal bytes both begin.
fn same_bytes(left: &[u8], right: &[u8]) -> usize {
    let words = left.chunks_exact(8).zip(right.chunks_exact(8));
    let known = 8 * words.take_while(|(left, right)| left == right).count();
    let rest = left.iter().zip(right).skip(known);
    known + rest.take_while(|(left, right)| left == right).count()
}

fn match_tokens(pattern: &str, subject: &str) -> bool {
    let mut wanted = pattern.split('.');
    let mut given = subject.split('.');
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            // `>` is only a wildcard as the last token; anywhere else it is a literal.
            (Some(">"), Some(token)) if wanted.clone().next().is_none() => {
                let _ = token;
                return true;
            }
            (Some("*"), Some(_)) => {}
            (Some(literal), Some(token)) if literal == token => {}
            _ => return false,
        }
    }
}

/// Whether `pattern` contains a wildcard token.
#[must_use]
pub fn has_wildcard(pattern: &str) -> bool {
    let mut tokens = pattern.split('.').peekable();
    while let Some(token) = tokens.next() {
        if token == "*" || (token == ">" && tokens.peek().is_none()) {
            return true;
        }
    }
    false
}

/// What stands before the first wildcard token.
pub(crate) fn literal_prefix(pattern: &str) -> &str {
    let mut end = 0;
    for token in pattern.split_inclusive('.') {
        if matches!(token, "*" | "*." | ">") {
            break;
        }
        end += token.len();
    }
    pattern.get(..end).unwrap_or_default()
}

/// What a pattern is like, found once for many subjects: most are literal tokens with wildcards at
/// the end, and of those bytes tell whether they match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    /// The bytes before the first wildcard.
    prefix: usize,
    rest: Rest,
}

/// What follows the prefix of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Rest {
    /// Nothing.
    Nothing,
    /// `>` alone.
    Anything,
    /// So many `*`, and nothing else.
    Stars(usize),
    Other,
}

impl Shape {
    /// The shape of `pattern`.
    pub(crate) fn of(pattern: &str) -> Self {
        let prefix = literal_prefix(pattern).len();
        let rest = match pattern.get(prefix..).unwrap_or_default() {
            "" => Rest::Nothing,
            ">" => Rest::Anything,
            stars if stars.split('.').all(|token| token == "*") => {
                Rest::Stars(stars.split('.').count())
            }
            _ => Rest::Other,
        };
        Self { prefix, rest }
    }

    /// Whether `pattern`, which this is the shape of, matches `subject`: what [`matches()`] says.
    pub(crate) fn matches(&self, pattern: &str, subject: &str) -> bool {
        let prefix = pattern.as_bytes().get(..self.prefix).unwrap_or_default();
        let Some(rest) = subject.as_bytes().strip_prefix(prefix) else { return false };
        match self.rest {
            Rest::Nothing => rest.is_empty(),
            Rest::Anything => true,
            Rest::Stars(count) => rest.iter().filter(|byte| **byte == b'.').count() + 1 == count,
            Rest::Other => matches(pattern, subject),
        }
    }
}

/// Whether some subject is matched by both patterns.
///
/// ```
/// use claudebus_storage::subject::overlap;
/// assert!(overlap("a.*", "*.b"));
/// assert!(!overlap("a.*", "b.>"));
/// ```
#[must_use]
pub fn overlap(left: &str, right: &str) -> bool {
    let mut left = left.split('.').peekable();
    let mut right = right.split('.').peekable();
    loop {
        match (left.next(), right.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) if left.peek().is_none() => return true,
            (Some(_), Some(">")) if right.peek().is_none() => return true,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            _ => return false,
        }
    }
}

/// Whether every subject matched by `inner` is matched by `outer`.
#[must_use]
pub fn is_subset(inner: &str, outer: &str) -> bool {
    let mut inner = inner.split('.').peekable();
    let mut outer = outer.split('.').peekable();
    loop {
        match (inner.next(), outer.next()) {
            (None, None) => return true,
            (Some(_), Some(">")) if outer.peek().is_none() => return true,
            (Some(">"), Some(_)) if inner.peek().is_none() => return false,
            (Some(_), Some("*")) => {}
            (Some(a), Some(b)) if a == b && a != "*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_inside_a_token_are_literals() {
        assert!(!matches("foo.b*r", "foo.bar"));
        assert!(matches("foo.b*r", "foo.b*r"));
        assert!(matches("foo.>.bar", "foo.>.bar"));
        assert!(!matches("foo.>.bar", "foo.x.bar"));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None, ..Default::default()
        })]
        /// What bytes tell is what comparing token by token tells.
        #[test]
        fn the_short_cut_changes_nothing(
            pattern in "[ab*>.]{0,12}", subject in "[ab*>.]{0,12}", shared in "[ab*.]{0,12}",
        ) {
            let (pattern, subject) = (shared.clone() + &pattern, shared + &subject);
            let expected = match_tokens(&pattern, &subject);
            proptest::prop_assert_eq!(matches(&pattern, &subject), expected);
            let shape = Shape::of(&pattern);
            proptest::prop_assert_eq!(shape.matches(&pattern, &subject), expected);
        }
    }

    #[test]
    fn prefixes_end_before_the_first_wildcard() {
        for (pattern, prefix) in [
            ("a.b.*.c", "a.b."),
            ("a.>", "a."),
            ("*", ""),
            (">", ""),
            ("a.b*.>", "a.b*."),
            ("a.b", "a.b"),
        ] {
            assert_eq!(literal_prefix(pattern), prefix, "{pattern}");
        }
    }

    #[test]
    fn subsets() {
        assert!(is_subset("a.b", "a.*"));
        assert!(is_subset("a.*", "a.>"));
        assert!(!is_subset("a.>", "a.*"));
        assert!(!is_subset("a.*", "a.b"));
        assert!(is_subset("a.>", ">"));
    }

    #[test]
    fn overlaps_are_symmetric() {
        for (a, b, expected) in [
            ("a.>", "a.b.c", true),
            ("a.*.c", "a.b.*", true),
            ("a.b", "a.b.c", false),
            (">", "x", true),
        ] {
            assert_eq!(overlap(a, b), expected, "{a} {b}");
            assert_eq!(overlap(b, a), expected, "{b} {a}");
        }
    }
}
