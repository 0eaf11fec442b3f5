//! Integers of variable length (LEB128), and a reader over bytes that never panics.

/// Appends `value` in seven-bit groups, the lowest first.
#[inline]
pub(crate) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends the difference `value - base`, wrapping, such that small ones of either sign are short.
#[inline]
pub(crate) fn put_signed(out: &mut Vec<u8>, base: u64, value: u64) {
    let difference = value.wrapping_sub(base).cast_signed();
    put(out, ((difference << 1) ^ (difference >> 63)).cast_unsigned());
}

/// Takes values from the front of a slice; `None` when they are not there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Bytes not taken yet.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(taken)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>()?;
        self.bytes = rest;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for (at, byte) in self.bytes.iter().enumerate().take(10) {
            let group = u64::from(byte & 0x7f);
            if at == 9 && group > 1 {
                return None;
            }
            value |= group << (7 * at);
            if byte & 0x80 == 0 {
                self.bytes = self.bytes.get(at + 1..)?;
                return Some(value);
            }
        }
        None
    }

    /// The counterpart of [`put_signed`].
    #[inline]
    pub(crate) fn signed(&mut self, base: u64) -> Option<u64> {
        let value = self.varint()?;
        let difference = (value >> 1) ^ (value & 1).wrapping_neg();
        Some(base.wrapping_add(difference))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn eleven_groups_are_refused() {
        assert_eq!(Reader::new(&[0xff; 11]).varint(), None);
        assert_eq!(Reader::new(&[0x80]).varint(), None);
    }

    proptest! {
        #[test]
        fn numbers_come_back(base: u64, value: u64) {
            let mut out = Vec::new();
            put(&mut out, value);
            put_signed(&mut out, base, value);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.varint().unwrap(), value);
            prop_assert_eq!(reader.signed(base).unwrap(), value);
            prop_assert_eq!(reader.left(), 0);
        }
    }
}
