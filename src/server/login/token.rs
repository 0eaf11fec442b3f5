//! Secrets that let clients in.

/// The secrets of a server. Never shown.
#[derive(Clone, Default)]
pub(in crate::server) struct Tokens(Vec<String>);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tokens", self.0.len())
    }
}

impl FromIterator<String> for Tokens {
    fn from_iter<T: IntoIterator<Item = String>>(tokens: T) -> Self {
        Self(tokens.into_iter().collect())
    }
}

impl Tokens {
    pub(in crate::server) fn add(&mut self, token: String) {
        self.0.push(token);
    }

    /// Whether none is configured.
    pub(in crate::server) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this is one of them.
    pub(super) fn hold(&self, given: Option<&str>) -> bool {
        // All are compared in full, so that the time taken tells nothing but lengths.
        let given = given.unwrap_or_default().as_bytes();
        let found = self.0.iter().fold(false, |found, token| found | same(token.as_bytes(), given));
        found && !given.is_empty()
    }
}

/// Whether two secrets are the same. How long it takes tells nothing but their lengths.
pub(super) fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |seen, (a, b)| seen | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_secret_is_let_in() {
        let none = Tokens::default();
        assert!(none.is_empty() && !none.hold(None) && !none.hold(Some("")));
        let tokens: Tokens = ["secret".to_owned(), "other".to_owned()].into_iter().collect();
        assert!(tokens.hold(Some("secret")) && tokens.hold(Some("other")));
        for wrong in [None, Some(""), Some("secre"), Some("secret2"), Some("Secret")] {
            assert!(!tokens.hold(wrong), "{wrong:?}");
        }
        assert_eq!(format!("{tokens:?}"), "2 tokens");
    }
}
