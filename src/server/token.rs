//! Secrets that let clients in.

/// The secrets of a server. Never shown.
#[derive(Clone, Default)]
pub(super) struct Tokens(Vec<String>);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tokens", self.0.len())
    }
}

impl Tokens {
    pub(super) fn add(&mut self, token: String) {
        self.0.push(token);
    }

    /// Whether none is configured, so that everyone is let in.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a client with this secret is let in.
    pub(super) fn admit(&self, given: Option<&str>) -> bool {
        if self.is_empty() {
            return true;
        }
        // All are compared in full, so that the time taken tells nothing but lengths.
        let given = given.unwrap_or_default().as_bytes();
        self.0.iter().fold(false, |found, token| found | same(token.as_bytes(), given))
    }
}

fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |seen, (a, b)| seen | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_secret_is_let_in() {
        let mut tokens = Tokens::default();
        assert!(tokens.admit(None));
        tokens.add("secret".to_owned());
        tokens.add("other".to_owned());
        assert!(tokens.admit(Some("secret")) && tokens.admit(Some("other")));
        for wrong in [None, Some(""), Some("secre"), Some("secret2"), Some("Secret")] {
            assert!(!tokens.admit(wrong), "{wrong:?}");
        }
        assert_eq!(format!("{tokens:?}"), "2 tokens");
    }
}
