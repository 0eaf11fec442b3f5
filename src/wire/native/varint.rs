//! Integers of one to eight bytes: QUIC's variable-length integers (RFC 9000, section 16).

use bytes::{BufMut, BytesMut};

/// The largest integer there is on the wire: 2^62 - 1.
pub const VARINT_MAX: u64 = (1 << 62) - 1;

/// Bytes that `value` takes: 1, 2, 4 or 8.
#[must_use]
pub fn varint_len(value: u64) -> usize {
    match value {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        0x4000..0x4000_0000 => 4,
        _ => 8,
    }
}

/// Appends `value` in its shortest form. Values above [`VARINT_MAX`] are written as that.
pub fn put_varint(out: &mut BytesMut, value: u64) {
    match value {
        0..0x40 => out.put_u8(value as u8),
        0x40..0x4000 => out.put_u16(0x4000 | value as u16),
        0x4000..0x4000_0000 => out.put_u32(0x8000_0000 | value as u32),
        _ => out.put_u64(0xc000_0000_0000_0000 | value.min(VARINT_MAX)),
    }
}

/// Reads an integer from the start of `bytes`: its value and its length in bytes, or nothing if
/// `bytes` ends too early. Longer forms than needed are accepted, as in QUIC.
#[must_use]
pub fn take_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let len = 1usize << (first >> 6);
    let value = bytes
        .get(1..len)?
        .iter()
        .fold(u64::from(first & 0x3f), |value, byte| (value << 8) | u64::from(*byte));
    Some((value, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc() {
        for (bytes, value) in [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15293),
            (&[0x25], 37),
        ] {
            assert_eq!(take_varint(bytes), Some((value, bytes.len())));
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            assert_eq!(&out[..], bytes);
            assert_eq!(varint_len(value), bytes.len());
        }
        assert_eq!(take_varint(&[0x40, 0x25]), Some((37, 2)));
    }

    #[test]
    fn the_edges_of_each_length_come_back() {
        for value in [0, 63, 64, 16383, 16384, (1 << 30) - 1, 1 << 30, VARINT_MAX] {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            assert_eq!(take_varint(&out), Some((value, varint_len(value))));
            assert_eq!(take_varint(&out[..out.len() - 1]), None);
        }
    }
}
