//! Subjects: dot-separated names of where messages go.

pub use claudebus_storage::subject::{has_wildcard, is_subset, matches, overlap};

/// What is wrong with a stream's name that [`is_name`] says no to, in nats-server's words.
pub const BAD_NAME: &str = "stream name is required and can not contain '.', '*', '>', '\\', '/'";

/// Longest subject, in bytes. A NATS control line holds 4,096 bytes; a subject of half that leaves
/// room for a reply and sizes.
pub const MAX_SUBJECT_BYTES: usize = 2048;

/// Whether messages can be published to `subject`: tokens separated by single dots, none empty, no
/// white space, no control characters. `*` and `>` are allowed as literal text, as in NATS.
#[must_use]
pub fn is_publishable(subject: &str) -> bool {
    is_pattern(subject) && !has_wildcard(subject)
}

/// Whether `pattern` can be subscribed to: as [`is_publishable`], with wildcards.
#[must_use]
pub fn is_pattern(pattern: &str) -> bool {
    if pattern.is_empty() || pattern.len() > MAX_SUBJECT_BYTES {
        return false;
    }
    let mut previous = b'.';
    for byte in pattern.bytes() {
        if byte <= b' ' || byte == 0x7f || (byte == b'.' && previous == b'.') {
            return false;
        }
        previous = byte;
    }
    if previous == b'.' {
        return false;
    }
    // A `>` token anywhere but at the end is refused for subscriptions.
    let mut tokens = pattern.split('.').peekable();
    while let Some(token) = tokens.next() {
        if token == ">" && tokens.peek().is_some() {
            return false;
        }
    }
    true
}

/// Whether `name` can name a stream or consumer: no white space, dots, wildcards or path
/// separators; at most 255 bytes (nats-server, `isValidName`).
#[must_use]
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.bytes().any(|b| b <= b' ' || b == 0x7f || b".*>/\\".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_published_to() {
        for good in ["a", "a.b", "a.b*", "ä.ö", "$KV.x"] {
            assert!(is_publishable(good), "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "a.*", "a.>", "a\r\n", "a\0"] {
            assert!(!is_publishable(bad), "{bad:?}");
        }
        assert!(!is_publishable(&"x".repeat(MAX_SUBJECT_BYTES + 1)));
        assert!(is_publishable(&"x".repeat(MAX_SUBJECT_BYTES)));
    }

    #[test]
    fn what_can_be_subscribed_to() {
        assert!(is_pattern("a.>") && is_pattern(">") && is_pattern("*.x"));
        assert!(!is_pattern("a.>.b") && !is_pattern("a..>"));
    }

    #[test]
    fn names_hold_no_separators() {
        assert!(is_name("ORDERS-1"));
        for bad in ["", "a.b", "a/b", "a b", "a*", ">", "a\\b", "../x"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
