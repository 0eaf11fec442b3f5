//! One block: its length, and then literals and copies of what came before.

use super::S2Error;

/// Largest block, unpacked, in bytes: the most that S2 writes.
pub const MAX_BLOCK: usize = 4 << 20;

/// Bytes that are the same before a copy is worth it.
const LEAST: usize = 4;
/// Longest copy of one element.
const LONGEST: usize = 64;
/// Places that are remembered, as a power of two.
const PLACES: u32 = 14;

/// The block packed; nothing if that makes it no smaller. `bytes` is 64 KiB at most, so that every offset
/// fits two bytes.
pub(super) fn pack(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len() / 2);
    put_varint(bytes.len() as u64, &mut out);
    let mut places = vec![usize::MAX; 1 << PLACES];
    let (mut at, mut literal) = (0, 0);
    while let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk::<LEAST>) {
        let hash = u32::from_le_bytes(*word).wrapping_mul(0x9e37_79b1) >> (32 - PLACES);
        let place = usize::try_from(hash).ok().and_then(|hash| places.get_mut(hash))?;
        let found = std::mem::replace(place, at);
        let same = bytes.get(found..).map_or(0, |earlier| same(earlier, bytes.get(at..)));
        if same < LEAST {
            at += 1;
            continue;
        }
        put_literal(bytes.get(literal..at)?, &mut out);
        put_copy(at - found, same, &mut out)?;
        at += same;
        literal = at;
        if out.len() >= bytes.len() {
            return None;
        }
    }
    put_literal(bytes.get(literal..)?, &mut out);
    (out.len() < bytes.len()).then_some(out)
}

/// How many bytes two places have in common.
fn same(earlier: &[u8], later: Option<&[u8]>) -> usize {
    let later = later.unwrap_or_default();
    earlier.iter().zip(later).take_while(|(one, other)| one == other).count()
}

/// Writes a number seven bits at a time, the lowest first.
pub(in crate::model) fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        let [low, ..] = number.to_le_bytes();
        out.push(low | 0x80);
        number >>= 7;
    }
    let [low, ..] = number.to_le_bytes();
    out.push(low);
}

fn put_literal(bytes: &[u8], out: &mut Vec<u8>) {
    let Some(last) = bytes.len().checked_sub(1) else { return };
    let [low, high, ..] = last.to_le_bytes();
    match last {
        0..60 => out.push(low << 2),
        60..256 => out.extend_from_slice(&[60 << 2, low]),
        _ => out.extend_from_slice(&[61 << 2, low, high]),
    }
    out.extend_from_slice(bytes);
}

fn put_copy(offset: usize, mut length: usize, out: &mut Vec<u8>) -> Option<()> {
    let offset = u16::try_from(offset).ok()?.to_le_bytes();
    while length > 0 {
        let part = length.min(LONGEST);
        out.push(u8::try_from(part - 1).ok()? << 2 | 2);
        out.extend_from_slice(&offset);
        length -= part;
    }
    Some(())
}

/// Bytes to be read one after the other.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    /// A number of so many bytes.
    fn number(&mut self, bytes: usize) -> Result<usize, S2Error> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(S2Error::Corrupt)?;
        self.0 = rest;
        Ok(taken.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    fn varint(&mut self) -> Result<usize, S2Error> {
        let mut number = 0;
        for shift in (0..32).step_by(7) {
            let byte = self.number(1)?;
            number |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(S2Error::Corrupt)
    }
}

/// The bytes of a block.
pub(super) fn unpack(packed: &[u8]) -> Result<Vec<u8>, S2Error> {
    let mut input = Input(packed);
    let length = input.varint()?;
    if length > MAX_BLOCK {
        return Err(S2Error::TooLarge);
    }
    let mut out = Vec::with_capacity(length);
    let mut offset = 0;
    while !input.0.is_empty() {
        let tag = input.number(1)?;
        let (rest, high) = (tag >> 2, tag >> 5);
        let count = match tag & 3 {
            0 => {
                let more = rest.saturating_sub(59);
                let count = if more == 0 { rest } else { input.number(more)? } + 1;
                let (bytes, left) = input.0.split_at_checked(count).ok_or(S2Error::Corrupt)?;
                if out.len() + count > length {
                    return Err(S2Error::Corrupt);
                }
                out.extend_from_slice(bytes);
                input.0 = left;
                continue;
            }
            1 => match (high << 8 | input.number(1)?, rest & 7) {
                // The offset before is repeated, and the length goes on behind.
                (0, 5) => input.number(1)? + 8,
                (0, 6) => input.number(2)? + (1 << 8) + 4,
                (0, 7) => input.number(3)? + (1 << 16) + 4,
                (0, few) => few + 4,
                (near, few) => {
                    offset = near;
                    few + 4
                }
            },
            2 => {
                offset = input.number(2)?;
                rest + 1
            }
            _ => {
                offset = input.number(4)?;
                rest + 1
            }
        };
        copy(&mut out, offset, count, length)?;
    }
    if out.len() == length { Ok(out) } else { Err(S2Error::Corrupt) }
}

/// Appends so many bytes from so far back, which may reach into what is being appended.
fn copy(out: &mut Vec<u8>, offset: usize, count: usize, length: usize) -> Result<(), S2Error> {
    let start = out.len().checked_sub(offset).filter(|_| offset > 0).ok_or(S2Error::Corrupt)?;
    if out.len() + count > length {
        return Err(S2Error::Corrupt);
    }
    for at in start..start + count {
        let byte = out.get(at).copied().ok_or(S2Error::Corrupt)?;
        out.push(byte);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_repeated_as_s2_does() {
        // Four literals, a copy of four from four back, and that offset again for four, nine and 260.
        let block = [
            &[0x99, 0x02, 3 << 2][..],
            b"abcd",
            &[0x01, 4, 0x01, 0, 5 << 2 | 1, 0, 1, 6 << 2 | 1, 0, 0, 0],
        ]
        .concat();
        let unpacked = unpack(&block).unwrap();
        assert_eq!(unpacked.len(), 4 + 4 + 4 + 9 + 260);
        assert!(unpacked.iter().enumerate().all(|(at, byte)| *byte == b"abcd"[at % 4]));
    }

    #[test]
    fn copies_from_before_the_beginning_are_refused() {
        assert_eq!(unpack(&[8, 0, b'a', 0x01, 9]), Err(S2Error::Corrupt));
        assert_eq!(unpack(&[8, 0, b'a', 0x01, 0]), Err(S2Error::Corrupt), "none to repeat");
        assert_eq!(unpack(&[5, 0, b'a', 2, 1, 0]), Err(S2Error::Corrupt), "shorter than it says");
    }
}
