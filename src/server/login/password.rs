//! Passwords as they are kept: hashed by bcrypt or argon2id, or in plain text.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::token::same;

/// Largest cost of a bcrypt hash. 16: a login takes some seconds by then.
const MAX_BCRYPT_COST: u32 = 16;
/// Most memory of an argon2 hash, in KiB. 1 GiB; several may be checked at once.
const MAX_ARGON2_MEMORY: u32 = 1 << 20;
/// Most passes of an argon2 hash over its memory. 64; three are usual.
const MAX_ARGON2_PASSES: u32 = 64;
/// Longest argon2 hash, in bytes. 64; 32 are usual.
const MAX_ARGON2_OUTPUT: usize = 64;
/// Letters of a bcrypt hash after its cost: salt and hash.
const BCRYPT_LETTERS: usize = 53;

/// A user's password, as configuration has it. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Kept);

#[derive(Clone, PartialEq, Eq)]
enum Kept {
    Plain(Arc<str>),
    Hashed(PasswordHash),
}

/// Text that cannot be a password, or looks like a hash and is none. Says nothing of the text itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// There is none.
    #[error("the password is empty")]
    Empty,
    /// A bcrypt hash that is cut off or damaged.
    #[error(
        "the password begins like a bcrypt hash and is none; one has 60 letters, such as \
         `htpasswd -nbB` prints after the name"
    )]
    Bcrypt,
    /// An argon2 hash that is cut off, damaged, or of another kind.
    #[error(
        "the password begins like an argon2 hash and is not one of argon2id, version 19: \
         `$argon2id$v=19$m=<KiB>,t=<passes>,p=<lanes>$<salt>$<hash>`"
    )]
    Argon2,
    /// A hash that takes too much to check.
    #[error("the password's hash takes too long or too much memory to check: {0}")]
    Costly(String),
}

impl Password {
    /// The password itself, if it is kept in plain text.
    pub(super) fn plain(&self) -> Option<&str> {
        match &self.0 {
            Kept::Plain(text) => Some(text),
            Kept::Hashed(_) => None,
        }
    }

    /// Whether it is kept in plain text, which is worth a warning.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.plain().is_some()
    }

    pub(super) fn hash(&self) -> Option<&PasswordHash> {
        match &self.0 {
            Kept::Plain(_) => None,
            Kept::Hashed(hash) => Some(hash),
        }
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What begins like a hash is one; everything else is the password itself.
impl FromStr for Password {
    type Err = PasswordError;

    fn from_str(text: &str) -> Result<Self, PasswordError> {
        if text.is_empty() {
            return Err(PasswordError::Empty);
        }
        let kept = if ["$2a$", "$2b$", "$2x$", "$2y$"].iter().any(|start| text.starts_with(start)) {
            Kept::Hashed(PasswordHash::bcrypt(text)?)
        } else if text.starts_with("$argon2") {
            Kept::Hashed(PasswordHash::argon2(text)?)
        } else {
            Kept::Plain(text.into())
        };
        Ok(Self(kept))
    }
}

/// A hash that takes long to compute.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum PasswordHash {
    Bcrypt(Arc<str>),
    Argon2 { params: Arc<Params>, salt: Arc<[u8]>, hash: Arc<[u8]> },
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl PasswordHash {
    fn bcrypt(text: &str) -> Result<Self, PasswordError> {
        let (kind, rest) = text.split_at_checked(4).ok_or(PasswordError::Bcrypt)?;
        let (cost, letters) = rest.split_once('$').ok_or(PasswordError::Bcrypt)?;
        let is_letter = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'/';
        let is_whole = cost.len() == 2
            && letters.len() == BCRYPT_LETTERS
            && letters.bytes().all(is_letter)
            // Hashes of `2x` are those of a defective program.
            && kind != "$2x$";
        let cost: u32 = cost.parse().map_err(|_| PasswordError::Bcrypt)?;
        if !is_whole || cost < 4 {
            return Err(PasswordError::Bcrypt);
        }
        if cost > MAX_BCRYPT_COST {
            let why = format!("its cost is {cost}, the most is {MAX_BCRYPT_COST}");
            return Err(PasswordError::Costly(why));
        }
        Ok(Self::Bcrypt(text.into()))
    }

    fn argon2(text: &str) -> Result<Self, PasswordError> {
        let parts: Vec<&str> = text.split('$').collect();
        let ["", "argon2id", "v=19", terms, salt, hash] = parts.as_slice() else {
            return Err(PasswordError::Argon2);
        };
        let terms: Vec<&str> = terms.split(',').collect();
        let [memory, passes, lanes] = terms.as_slice() else { return Err(PasswordError::Argon2) };
        let number = |term: &str, name: &str| -> Result<u32, PasswordError> {
            let digits = term.strip_prefix(name).and_then(|term| term.strip_prefix('='));
            digits.and_then(|digits| digits.parse().ok()).ok_or(PasswordError::Argon2)
        };
        let (memory, passes, lanes) =
            (number(memory, "m")?, number(passes, "t")?, number(lanes, "p")?);
        if memory > MAX_ARGON2_MEMORY || passes > MAX_ARGON2_PASSES {
            let why = format!(
                "m={memory} and t={passes}, the most is m={MAX_ARGON2_MEMORY} and \
                 t={MAX_ARGON2_PASSES}"
            );
            return Err(PasswordError::Costly(why));
        }
        let bytes = |text: &str| STANDARD_NO_PAD.decode(text).map_err(|_| PasswordError::Argon2);
        let (salt, hash) = (bytes(salt)?, bytes(hash)?);
        if salt.len() < 8 || hash.len() < 16 || hash.len() > MAX_ARGON2_OUTPUT {
            return Err(PasswordError::Argon2);
        }
        let params = Params::new(memory, passes, lanes, Some(hash.len()))
            .map_err(|_| PasswordError::Argon2)?;
        Ok(Self::Argon2 { params: Arc::new(params), salt: salt.into(), hash: hash.into() })
    }

    /// Whether it is the hash of this password. Takes long.
    pub(super) fn is_of(&self, password: &str) -> bool {
        match self {
            Self::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Self::Argon2 { params, salt, hash } => {
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, (**params).clone());
                let mut computed = vec![0; hash.len()];
                argon2.hash_password_into(password.as_bytes(), salt, &mut computed).is_ok()
                    && same(&computed, hash)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    /// Of `U*U`, from the tests of crypt_blowfish.
    const BCRYPT: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
    /// Of `password`, from the tests of argon2's reference implementation.
    const ARGON2: &str =
        "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

    fn is_right(kept: &str, given: &str) -> bool {
        let password: Password = kept.parse().unwrap();
        password.hash().expect("a hash").is_of(given)
    }

    #[test]
    fn known_hashes_are_those_of_their_passwords() {
        assert!(is_right(BCRYPT, "U*U"));
        assert!(is_right(&BCRYPT.replace("$2a$", "$2b$"), "U*U"));
        assert!(is_right(ARGON2, "password"));
        for wrong in ["", "U*", "U*U*", "Password", "password ", BCRYPT, ARGON2] {
            assert!(!is_right(BCRYPT, wrong) && !is_right(ARGON2, wrong), "{wrong}");
        }
    }

    #[test]
    fn what_looks_like_a_hash_is_never_taken_for_a_password() {
        use PasswordError::{Argon2, Bcrypt, Costly, Empty};
        let wrong = |text: &str| text.parse::<Password>().unwrap_err();
        assert_eq!(wrong(""), Empty);
        for (from, to) in [("W", ""), ("$05$", "$5$"), ("$05$", "$03$"), ("E5", "E!"), ("2a", "2x")]
        {
            assert_eq!(wrong(&BCRYPT.replacen(from, to, 1)), Bcrypt, "{from}");
        }
        assert_eq!(wrong("$2a$"), Bcrypt);
        assert!(matches!(wrong(&BCRYPT.replace("$05$", "$17$")), Costly(_)));
        for (from, to) in [
            ("argon2id", "argon2i"),
            ("v=19", "v=16"),
            ("m=256", "m=x"),
            ("m=256,", ""),
            ("t=2", "t=0"),
            ("p=1", "p=0"),
            ("c29tZXNhbHQ", "c29t"),
            ("nf65", "!!!!"),
            ("$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4", ""),
        ] {
            assert_eq!(wrong(&ARGON2.replacen(from, to, 1)), Argon2, "{from}");
        }
        assert!(matches!(wrong(&ARGON2.replace("m=256", "m=1048577")), Costly(_)));
        assert!(matches!(wrong(&ARGON2.replace("t=2", "t=65")), Costly(_)));
        for plain in ["x", "$", "$2", "$1$abc", "hunter2", "argon2id"] {
            assert!(plain.parse::<Password>().unwrap().is_plain(), "{plain}");
        }
    }

    #[test]
    fn errors_do_not_tell_the_text() {
        for text in ["$2a$5ecret", "$argon2id$5ecret"] {
            let error = text.parse::<Password>().unwrap_err();
            assert!(!format!("{error} {error:?}").contains("5ecret"));
        }
        let password: Password = "5ecret".parse().unwrap();
        assert_eq!(format!("{password:?}"), "***");
    }
}
