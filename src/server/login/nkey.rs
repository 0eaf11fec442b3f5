//! Public keys of users in the form of NATS's nkeys: `U`, and base 32 of 35 bytes: a prefix, the Ed25519
//! key, and a checksum of both (CRC-16/XMODEM, low byte first).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{ED25519, UnparsedPublicKey};

/// Letters of a key.
const LETTERS: usize = 56;
/// Bytes that these stand for.
const BYTES: usize = 35;
/// Bytes of an Ed25519 key.
const KEY_BYTES: usize = 32;
/// Bytes of an Ed25519 signature.
const SIGNATURE_BYTES: usize = 64;
/// The first byte of a user's key, `U` in base 32.
const USER: u8 = 20 << 3;

/// The public key of a user.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; KEY_BYTES]);

/// Text that is no public key of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is not 56 letters of base 32.
    #[error("a user's public key is U and 55 more letters A to Z and digits 2 to 7")]
    Form,
    /// It is a seed, which is secret.
    #[error("this is a seed, which nobody but its owner may know; write the public key, U...")]
    Seed,
    /// It is the key of something else.
    #[error("this is no key of a user; those begin with U")]
    Kind,
    /// A letter is wrong.
    #[error("the key's checksum does not fit; a letter is wrong or missing")]
    Checksum,
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.starts_with('S') {
            return Err(KeyError::Seed);
        }
        let bytes = base32(text).ok_or(KeyError::Form)?;
        let [prefix, rest @ ..] = bytes;
        if prefix != USER {
            return Err(KeyError::Kind);
        }
        let (key, sum) = rest.split_first_chunk::<KEY_BYTES>().ok_or(KeyError::Form)?;
        let sent = sum.first_chunk().map(|sum| u16::from_le_bytes(*sum));
        let summed = std::iter::once(&prefix).chain(key);
        if sent != Some(crc16(summed)) {
            return Err(KeyError::Checksum);
        }
        Ok(Self(*key))
    }
}

/// The key itself, which is no secret.
impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublicKey(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

impl PublicKey {
    /// Whether the owner of this key has signed `nonce`. The signature is base 64, of the alphabet for
    /// URLs without padding, or the usual one with it.
    #[must_use]
    pub fn has_signed(&self, nonce: &str, signature: &str) -> bool {
        let decoded =
            URL_SAFE_NO_PAD.decode(signature).or_else(|_| STANDARD.decode(signature)).ok();
        let signature = decoded.filter(|bytes| bytes.len() == SIGNATURE_BYTES);
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        signature.is_some_and(|signature| key.verify(nonce.as_bytes(), &signature).is_ok())
    }
}

/// Base 32 (RFC 4648) of as many letters as a key has. 56 letters are 280 bits, so none is left over.
fn base32(text: &str) -> Option<[u8; BYTES]> {
    if text.len() != LETTERS {
        return None;
    }
    let mut bytes = [0; BYTES];
    let (mut bits, mut count) = (0u16, 0);
    let mut places = bytes.iter_mut();
    for letter in text.bytes() {
        let five = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'2'..=b'7' => letter - b'2' + 26,
            _ => return None,
        };
        // Twelve bits at most: what was taken out is pushed out at the top.
        bits = (bits << 5) | u16::from(five);
        count += 5;
        if count >= 8 {
            count -= 8;
            let [_, byte] = (bits >> count).to_be_bytes();
            *places.next()? = byte;
        }
    }
    Some(bytes)
}

/// CRC-16/XMODEM: polynomial 0x1021, from zero.
fn crc16<'a>(bytes: impl Iterator<Item = &'a u8>) -> u16 {
    bytes.fold(0, |crc, byte| {
        let mixed = crc ^ (u16::from(*byte) << 8);
        (0..8).fold(mixed, |crc: u16, _| {
            let carry = if crc & 0x8000 == 0 { 0 } else { 0x1021 };
            (crc << 1) ^ carry
        })
    })
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    /// Of NATS's documentation, with its seed.
    const KEY: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
    const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    /// What the owner of [`KEY`] has signed, by another program.
    pub(in super::super) const NONCE: &str = "0123456789abcde";
    pub(in super::super) const SIGNATURE: &str =
        "5wm1itcRPTWXjeWUZD2jj86HaISmwZJjIoEzB_XfZJFaPiPqkrvRxwaO64sbqG610I2UkYBIkA0FbU5qCeGFBg";

    #[test]
    fn a_key_of_the_documentation_is_read() {
        let key: PublicKey = KEY.parse().unwrap();
        let hex = "ef4e44524b72e440f96dae7bba237c6666a40701cb1365a42244f84e7a67dab1";
        assert_eq!(format!("{key:?}"), format!("PublicKey({hex})"));
    }

    #[test]
    fn a_checksum_that_is_known() {
        assert_eq!(crc16(b"123456789".iter()), 0x31c3);
    }

    #[test]
    fn what_is_no_key_of_a_user_is_refused() {
        let wrong = |text: &str| text.parse::<PublicKey>().unwrap_err();
        assert_eq!(wrong(SEED), KeyError::Seed);
        for text in ["", "U", &KEY[..55], &format!("{KEY}A"), &KEY.to_lowercase()] {
            assert_eq!(wrong(text), KeyError::Form, "{text}");
        }
        assert_eq!(wrong(&KEY.replace('4', "1")), KeyError::Form);
        assert_eq!(wrong(&KEY.replacen('U', "A", 1)), KeyError::Kind);
        assert_eq!(wrong(&KEY.replacen("NZ", "ZN", 1)), KeyError::Checksum);
        // Any one letter that is wrong shows.
        for at in 1..KEY.len() {
            let mut letters = KEY.as_bytes().to_vec();
            letters[at] = if letters[at] == b'A' { b'B' } else { b'A' };
            let text = String::from_utf8(letters).unwrap();
            assert!(text.parse::<PublicKey>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_the_signature_of_the_nonce_counts() {
        let key: PublicKey = KEY.parse().unwrap();
        assert!(key.has_signed(NONCE, SIGNATURE));
        let padded = STANDARD.encode(URL_SAFE_NO_PAD.decode(SIGNATURE).unwrap());
        assert!(key.has_signed(NONCE, &padded));
        assert!(!key.has_signed("0123456789abcdf", SIGNATURE));
        assert!(!key.has_signed("", SIGNATURE));
    }

    /// secnote-2026-23 of nats-server: a key or signature that is too short ended the server.
    #[test]
    fn short_and_long_signatures_are_wrong_and_no_more() {
        let key: PublicKey = KEY.parse().unwrap();
        let whole = URL_SAFE_NO_PAD.decode(SIGNATURE).unwrap();
        for length in 0..=80 {
            let mut bytes = whole.clone();
            bytes.resize(length, 0);
            let is_right = key.has_signed(NONCE, &URL_SAFE_NO_PAD.encode(&bytes));
            assert_eq!(is_right, length == SIGNATURE_BYTES, "{length}");
        }
        assert!(!key.has_signed(NONCE, "not base 64!"));
    }
}
