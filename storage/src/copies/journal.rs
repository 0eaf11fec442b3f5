//! The two copies of a journal file after a crash, or after one of them was damaged: a group counts if
//! either copy has it, piece by piece.
//!
//! Both copies are written with the same bytes at the same places under the same salt, so whatever
//! carries a good checksum in one of them is what was meant for both. What is acknowledged is whole in
//! both of them, until one is damaged.

use std::io;
use std::ops::Range;

use super::replace;
use crate::disk::Disk;
use crate::journal::format::{
    ALIGNMENT, FILE_HEADER, FileHeader, GROUP_HEADER, GROUP_TRAILER, GroupHeader, GroupTrailer,
    entry_at, entry_seed,
};
use crate::journal::scan::scan;
use crate::journal::search::{SEARCHES, entry_behind};
use crate::journal::{DIR, number_of, path};

/// Compared and written in pieces of this many bytes.
const PIECE: usize = 64 << 10;

/// Makes both copies of every journal file equal that holds groups after `through`. Returns how many copies
/// had been damaged.
pub(crate) fn mend_journal(disk: &dyn Disk, through: u64) -> io::Result<u64> {
    let [first, second] = disk.copies() else { return Ok(0) };
    let sides = [first.as_ref(), second.as_ref()];
    let mut numbers: Vec<u64> = disk.list(DIR)?.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    let headers = numbers.iter().map(|number| header(sides, *number));
    let headers: Vec<Option<FileHeader>> = headers.collect::<io::Result<_>>()?;
    let mut repaired = 0;
    for (at, number) in numbers.iter().enumerate() {
        let next = headers.get(at + 1).copied().flatten();
        // What recovery does not read: see `journal::noted`.
        let is_covered = next.is_some_and(|next| next.first_group <= through);
        let target = path(*number);
        if let Some(lacks) = missing(sides, &target)? {
            let (from, to) = if lacks == 0 { (second, first) } else { (first, second) };
            replace(from.as_ref(), to.as_ref(), &target)?;
            tracing::info!(file = %target, copy = lacks + 1, "a missing copy of a journal file was made again");
        }
        if !is_covered && let Some(header) = headers.get(at).copied().flatten() {
            repaired += mend_one(sides, &target, &header)?;
        }
    }
    Ok(repaired)
}

fn missing(sides: [&dyn Disk; 2], path: &str) -> io::Result<Option<usize>> {
    for (number, side) in sides.iter().enumerate() {
        match side.open(path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(number)),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The header of the file, from the first copy that has a good one.
fn header(sides: [&dyn Disk; 2], number: u64) -> io::Result<Option<FileHeader>> {
    for side in sides {
        let file = match side.open(&path(number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        let mut bytes = vec![0; file.len()?.min(FILE_HEADER) as usize];
        file.read_at(&mut bytes, 0)?;
        // A file that was used before and not begun again has the header of another number.
        if let Ok(header) = FileHeader::decode(&bytes)
            && header.file == number
        {
            return Ok(Some(header));
        }
    }
    Ok(None)
}

fn mend_one(sides: [&dyn Disk; 2], path: &str, header: &FileHeader) -> io::Result<u64> {
    let [first, second] = sides;
    let (one, other) = (read(first, path)?, read(second, path)?);
    if one == other {
        return Ok(0);
    }
    let merged = merge(&one, &other, header);
    let whole = flaws(&merged, header);
    let mut repaired = 0;
    // One after the other: what only the second copy has is in the first before the second changes.
    for (number, (side, old)) in [(first, one), (second, other)].into_iter().enumerate() {
        if old == merged {
            continue;
        }
        let was_damaged = flaws(&old, header) > whole;
        write(side, path, &old, &merged)?;
        if was_damaged {
            repaired += 1;
            tracing::warn!(file = %path, copy = number + 1, "a damaged copy of a journal file was repaired from the other one");
        } else {
            tracing::debug!(file = %path, copy = number + 1, "what was not synced before a crash was brought in line");
        }
    }
    Ok(repaired)
}

/// How much of a file cannot be explained by power that was lost.
fn flaws(bytes: &[u8], header: &FileHeader) -> usize {
    let is_headless =
        FileHeader::decode(bytes.get(..FILE_HEADER as usize).unwrap_or(bytes)).is_err();
    let scan = scan(bytes, header, header.first_group, None);
    usize::from(is_headless)
        + scan.damage.len()
        + scan.flaws.len()
        + usize::from(scan.doubt.is_some())
}

fn read(side: &dyn Disk, path: &str) -> io::Result<Vec<u8>> {
    let file = side.open(path)?;
    let mut bytes = vec![0; file.len()? as usize];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Writes what differs.
fn write(side: &dyn Disk, path: &str, old: &[u8], new: &[u8]) -> io::Result<()> {
    let file = side.open(path)?;
    if old.len() != new.len() {
        file.set_len(new.len() as u64)?;
    }
    for (number, piece) in new.chunks(PIECE).enumerate() {
        let at = number * PIECE;
        if old.get(at..at + piece.len()) != Some(piece) {
            file.write_at(piece, at as u64)?;
        }
    }
    file.sync()
}

/// What both copies together say.
pub(crate) fn merge(one: &[u8], other: &[u8], header: &FileHeader) -> Vec<u8> {
    let mut merged = one.to_vec();
    merged.extend_from_slice(other.get(one.len()..).unwrap_or_default());
    let head = header.encode();
    if merged.len() < head.len() {
        merged.resize(head.len(), 0);
    }
    if let Some(target) = merged.get_mut(..head.len()) {
        target.copy_from_slice(&head);
    }
    let mut walk = Walk { merged, other, salt: header.salt, next: header.first_group };
    let mut at = FILE_HEADER as usize;
    loop {
        at = if let Some(header) = walk.header_at(at) {
            walk.take(at, &header)
        } else if let Some(end) = walk.take_headless(at) {
            end
        } else if let Some((found, header)) = walk.later_header(at) {
            walk.take(found, &header)
        } else {
            return walk.merged;
        };
    }
}

struct Walk<'a> {
    merged: Vec<u8>,
    other: &'a [u8],
    salt: u64,
    /// The group that should come next.
    next: u64,
}

impl Walk<'_> {
    /// What `decode` makes of the bytes at `at`, from whichever copy it accepts. They are in both then.
    fn either<T>(
        &mut self,
        at: usize,
        decode: impl Fn(&[u8]) -> Option<(T, usize)>,
    ) -> Option<(T, usize)> {
        if let Some(found) = self.merged.get(at..).and_then(&decode) {
            return Some(found);
        }
        let found = self.other.get(at..).and_then(&decode)?;
        let source = self.other.get(at..at + found.1)?;
        self.merged.get_mut(at..at + found.1)?.copy_from_slice(source);
        Some(found)
    }

    /// The next group or mark, if it stands at `at`.
    fn header_at(&mut self, at: usize) -> Option<GroupHeader> {
        let (salt, next) = (self.salt, self.next);
        let found = self.either(at, |bytes| {
            let header = GroupHeader::decode(bytes, salt)?;
            let is_next = header.number + u64::from(header.is_mark) == next;
            is_next.then_some((header, GROUP_HEADER))
        });
        found.map(|(header, _)| header)
    }

    /// The next group or mark behind `from`, or any later one, and where it stands.
    fn later_header(&mut self, from: usize) -> Option<(usize, GroupHeader)> {
        let (salt, next) = (self.salt, self.next);
        let places = (from..=self.merged.len().checked_sub(GROUP_HEADER)?).step_by(ALIGNMENT);
        for at in places.skip(1) {
            let found = self.either(at, |bytes| {
                let header = GroupHeader::decode(bytes, salt)?;
                let is_later = header.number + u64::from(header.is_mark) >= next;
                is_later.then_some((header, GROUP_HEADER))
            });
            if let Some((header, _)) = found {
                return Some((at, header));
            }
        }
        None
    }

    /// Takes a group's entries and trailer; returns where the next group stands.
    fn take(&mut self, at: usize, header: &GroupHeader) -> usize {
        let (salt, trailer_at) = (self.salt, at + header.trailer_at());
        let body = at + GROUP_HEADER;
        let end = body + header.body as usize;
        if self.take_entries(header.number, header.entries, body..end) == end {
            self.clear(end..trailer_at);
        }
        self.either(trailer_at, |bytes| {
            let trailer = GroupTrailer::decode(bytes, salt)?;
            (trailer.number == header.number).then_some(((), GROUP_TRAILER))
        });
        self.next = header.number + 1;
        at + header.total()
    }

    /// Takes the next group's entries if its header at `start` is damaged in both copies and its trailer
    /// is found; returns where the group after it stands.
    fn take_headless(&mut self, start: usize) -> Option<usize> {
        let (salt, next) = (self.salt, self.next);
        let body = start + GROUP_HEADER;
        let places = (body..=self.merged.len().checked_sub(GROUP_TRAILER)?).step_by(ALIGNMENT);
        for at in places {
            // A later group is no part of this one.
            let is_header = |bytes: &[u8]| {
                let header = GroupHeader::decode(bytes, salt)?;
                (header.number >= next).then_some(())
            };
            let copies = [self.merged.as_slice(), self.other];
            if copies.iter().any(|copy| copy.get(at..).and_then(is_header).is_some()) {
                return None;
            }
            let found = self.either(at, |bytes| {
                let trailer = GroupTrailer::decode(bytes, salt)?;
                (trailer.number == next).then_some((trailer, GROUP_TRAILER))
            });
            if let Some((trailer, _)) = found {
                let end = self.take_entries(next, trailer.entries, body..at);
                if end + ALIGNMENT > at {
                    self.clear(end..at);
                }
                self.next = next + 1;
                return Some(at + GROUP_TRAILER);
            }
        }
        None
    }

    /// Takes whatever entry is good in either copy; returns where the last one ends. One that is bad in
    /// both is passed over.
    fn take_entries(&mut self, group: u64, count: u32, body: Range<usize>) -> usize {
        let (salt, end) = (self.salt, body.end.min(self.merged.len()));
        let (mut at, mut searches) = (body.start, SEARCHES);
        for index in 0..count {
            let seed = entry_seed(salt, group, index);
            let found = self.either(at, |bytes| {
                let bytes = bytes.get(..end.saturating_sub(at).min(bytes.len()))?;
                entry_at(bytes, seed).map(|(_, _, len)| ((), len))
            });
            if let Some(((), len)) = found {
                at += len;
                continue;
            }
            let next = (index + 1 < count).then(|| entry_seed(salt, group, index + 1));
            let copies = [self.merged.as_slice(), self.other];
            let rests = copies.map(|copy| copy.get(at..end.min(copy.len())).unwrap_or_default());
            match entry_behind(&rests, next, &mut searches) {
                Some(len) => at = at.saturating_add(len),
                None => break,
            }
        }
        at
    }

    /// What no checksum covers.
    fn clear(&mut self, padding: Range<usize>) {
        if let Some(padding) = self.merged.get_mut(padding) {
            padding.fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use bytes::BytesMut;

    use super::*;
    use crate::journal::effect::{Effect, EntryPlace, encode};
    use crate::journal::format::{fold, padded};

    const HEADER: FileHeader =
        FileHeader { file: 3, salt: 9, predecessor: 2, predecessor_end: 4096, first_group: 5 };

    /// A file of some groups with some entries each.
    fn file() -> Vec<u8> {
        let mut out = HEADER.encode();
        for number in 5..12_u64 {
            let mut body = BytesMut::new();
            let (mut digest, entries) = (0, 1 + number as u32 % 4);
            for index in 0..entries {
                let place = EntryPlace { salt: HEADER.salt, group: number, index };
                let base = vec![index as u8; (number * 7) as usize];
                digest =
                    fold(digest, encode(&mut body, place, &Effect::Put { key: b"k", base: &base }));
            }
            let len = body.len();
            GroupHeader { number, entries, body: len as u32, is_mark: false }
                .encode(HEADER.salt, &mut out);
            out.extend_from_slice(&body);
            out.resize(out.len() + padded(len) - len, 0);
            GroupTrailer { number, entries, digest, durable_through: number - 1 }
                .encode(HEADER.salt, &mut out);
        }
        out.resize(out.len() + 3000, 0);
        out
    }

    /// Any damage of one copy, whichever it is, leaves no trace.
    #[test]
    fn what_one_copy_has_is_in_the_result() {
        let good = file();
        let groups = good.len() - 3000;
        for at in 0..groups {
            for (bit, len) in [(1, 1), (128, 1), (0xff, 200)] {
                let mut bad = good.clone();
                bad[at..(at + len).min(groups)].iter_mut().for_each(|byte| *byte ^= bit);
                assert!(merge(&bad, &good, &HEADER) == good, "first copy, byte {at}");
                assert!(merge(&good, &bad, &HEADER) == good, "second copy, byte {at}");
            }
            if at % 7 == 0 {
                assert!(merge(&good[..at], &good, &HEADER) == good, "cut at {at}");
                assert!(merge(&good, &good[..at], &HEADER) == good, "cut at {at}");
            }
        }
    }

    /// Both are damaged, each at another place.
    #[test]
    fn damage_at_different_places_is_no_loss() {
        let good = file();
        let groups = good.len() - 3000;
        for (one, other) in (4096..groups).zip((4096..groups).rev()) {
            if one.abs_diff(other) < 400 {
                continue;
            }
            let (mut a, mut b) = (good.clone(), good.clone());
            a[one] ^= 4;
            b[other] ^= 4;
            assert!(merge(&a, &b, &HEADER) == good, "{one} {other}");
        }
    }

    /// Both are damaged at one place, and one of them at another place as well.
    #[test]
    fn what_stands_behind_common_damage_is_taken_from_either() {
        let good = file();
        let groups = good.len() - 3000;
        for at in 4096..groups {
            for distance in [150, 160, 400] {
                let Some(further) = Some(at + distance).filter(|further| *further < groups) else {
                    continue;
                };
                let (mut a, mut b) = (good.clone(), good.clone());
                a[at] ^= 4;
                b[at] ^= 4;
                a[further] ^= 4;
                let common = b.clone();
                // Padding is made good by itself.
                let is_right = |merged: Vec<u8>| merged == common || merged == good;
                assert!(is_right(merge(&a, &b, &HEADER)), "first copy, {at} {further}");
                assert!(is_right(merge(&b, &a, &HEADER)), "second copy, {at} {further}");
            }
        }
    }
}
