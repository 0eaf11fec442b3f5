//! Reading a journal file after a crash: which groups can be proven, which are torn, which are damaged.
//!
//! Pure: bytes in, findings out. The rule is the acknowledgement's: a group that was reported durable
//! must be there, so a bad one is damage and is reported; a group that was not is dropped with
//! everything after it, because effects after a crash must be those of a prefix. Whether it was durable
//! is known from what was written later (trailers and marks name the last synced group) and from
//! a successor file, which is only begun once its predecessor is synced.

use std::ops::Range;

use super::format::{
    ALIGNMENT, ENTRY_FRAME, FILE_HEADER, FileHeader, GROUP_HEADER, GROUP_TRAILER, GroupHeader,
    GroupTrailer, entry_at, entry_seed, fold,
};
use super::search::{SEARCHES, entry_behind};

/// A group whose header was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundGroup {
    pub(crate) number: u64,
    /// The group in the file, header and trailer included.
    pub(crate) range: Range<usize>,
    /// Good entries: where kind and body lie in the file.
    pub(crate) entries: Vec<Range<usize>>,
    /// Whether all that was written can be read.
    pub(crate) is_whole: bool,
    /// Entries that were written and cannot be read.
    pub(crate) missing: u64,
    /// Whether its trailer can be read: the group was written to its end.
    pub(crate) is_ended: bool,
}

/// Bytes of durable groups that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// First and last group concerned.
    pub(crate) groups: (u64, u64),
    /// The bytes in the file.
    pub(crate) range: Range<usize>,
    /// Entries that may have stood there, at most.
    pub(crate) missing: u64,
}

/// Groups that were dropped as torn although all of them had been written: they may have been
/// synced and acknowledged before the crash, with nothing written later that says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Doubt {
    /// First and last group concerned.
    pub(crate) groups: (u64, u64),
    /// The bytes in the file.
    pub(crate) range: Range<usize>,
    /// Entries that cannot be read, at most.
    pub(crate) missing: u64,
    /// Entries that can: where kind and body lie.
    pub(crate) entries: Vec<Range<usize>>,
}

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Groups to apply, in order. A damaged one has only the entries that can be proven.
    pub(crate) groups: Vec<FoundGroup>,
    pub(crate) damage: Vec<Damage>,
    /// Where the accepted groups end; the rest was never acknowledged.
    pub(crate) end: usize,
    /// Whether something that was never acknowledged stood after the end.
    pub(crate) is_torn: bool,
    /// What was dropped and may have been acknowledged.
    pub(crate) doubt: Option<Doubt>,
    /// Damaged bytes that cost nothing: headers and trailers around entries that are all good.
    pub(crate) flaws: Vec<Range<usize>>,
}

/// The fewest bytes of a record's entry: frame, kind and fixed fields.
pub(crate) const LEAST_RECORD: usize = ENTRY_FRAME + 1 + 8 + 8 + 8 + 1 + 2 + 4;

/// How many records bytes that cannot be read may have held.
fn records_in(range: &Range<usize>) -> u64 {
    (range.len() / LEAST_RECORD) as u64 + 1
}

/// Reads the groups of a file from `expected` on; earlier ones are passed over. `known_end` is
/// what the successor says: where the groups end, and the last one's number.
pub(crate) fn scan(
    bytes: &[u8],
    header: &FileHeader,
    expected: u64,
    known_end: Option<(u64, u64)>,
) -> Scan {
    let limit = known_end.map_or(bytes.len(), |(end, _)| bytes.len().min(end as usize));
    let bytes = bytes.get(..limit).unwrap_or(bytes);
    let mut walk = Walk::new(bytes, header.salt, header.first_group, FILE_HEADER as usize);
    walk.run();
    // What a checkpoint holds is in no doubt.
    walk.durable = walk.durable.max(expected.saturating_sub(1));
    if let Some((_, last)) = known_end {
        walk.durable = walk.durable.max(last);
        if walk.next <= last {
            let range = walk.at.min(limit)..limit;
            let missing = records_in(&range);
            walk.damage.push(Damage { groups: (walk.next, last), range, missing });
        }
    }
    walk.finish(expected)
}

/// What a start dropped behind the end that the successor names, as [`scan`] finds it where there is no
/// successor. It is of interest until that start has noted it: see [`super::noted`].
pub(crate) fn doubt_behind(
    bytes: &[u8],
    header: &FileHeader,
    (end, last): (u64, u64),
) -> Option<Doubt> {
    let mut walk = Walk::new(bytes, header.salt, last + 1, end as usize);
    // The end may be that of damage which was cut there: a later group follows at once.
    let later = walk.header_at(walk.at).filter(|later| !later.is_mark);
    if let Some(later) = later.filter(|later| later.number > last + 1) {
        let range = walk.at..walk.at;
        walk.damage.push(Damage { groups: (last + 1, later.number - 1), range, missing: 0 });
        walk.next = later.number;
    }
    walk.run();
    walk.finish(last + 1).doubt
}

/// Whether `bytes`, which follow a file's header, begin with its first group, all of whose entries are good.
pub(crate) fn begins_with_whole_group(bytes: &[u8], header: &FileHeader) -> bool {
    let mut walk = Walk::new(bytes, header.salt, header.first_group, 0);
    walk.run();
    let first = walk.groups.first().filter(|group| group.number == header.first_group);
    first.is_some_and(|group| group.is_whole)
}

struct Walk<'a> {
    bytes: &'a [u8],
    salt: u64,
    /// The group that should come next.
    next: u64,
    /// The highest group that something proves durable.
    durable: u64,
    groups: Vec<FoundGroup>,
    /// Gaps between groups, not yet judged.
    damage: Vec<Damage>,
    flaws: Vec<Range<usize>>,
    at: usize,
}

impl<'a> Walk<'a> {
    /// At `at`, where group `next` should come.
    fn new(bytes: &'a [u8], salt: u64, next: u64, at: usize) -> Self {
        Self {
            bytes,
            salt,
            next,
            durable: next.saturating_sub(1),
            groups: Vec::new(),
            damage: Vec::new(),
            flaws: Vec::new(),
            at,
        }
    }
}

impl Walk<'_> {
    fn run(&mut self) {
        loop {
            let here = self.header_at(self.at).filter(|header| self.is_plausible(header));
            let Some(header) = here else {
                if !self.skip_gap() {
                    return;
                }
                continue;
            };
            self.take(&header);
        }
    }

    fn header_at(&self, at: usize) -> Option<GroupHeader> {
        GroupHeader::decode(self.bytes.get(at..)?, self.salt)
    }

    fn trailer_at(&self, at: usize) -> Option<GroupTrailer> {
        GroupTrailer::decode(self.bytes.get(at..)?, self.salt)
    }

    /// A group must be the next one; a mark names the one before.
    fn is_plausible(&self, header: &GroupHeader) -> bool {
        if header.is_mark { header.number + 1 == self.next } else { header.number == self.next }
    }

    /// Looks for a later group or mark behind bytes that cannot be explained, or for the trailer of a
    /// group that only lacks its header.
    fn skip_gap(&mut self) -> bool {
        let mut at = self.at + ALIGNMENT;
        while at + GROUP_HEADER <= self.bytes.len() {
            if let Some(trailer) = self.trailer_at(at)
                && self.take_headless(at, &trailer)
            {
                return true;
            }
            if let Some(header) = self.header_at(at) {
                let first_after = if header.is_mark { header.number + 1 } else { header.number };
                // The next group itself may stand here, when only a mark was lost before it.
                if first_after >= self.next {
                    if first_after > self.next {
                        let groups = (self.next, first_after - 1);
                        let missing = records_in(&(self.at..at));
                        self.damage.push(Damage { groups, range: self.at..at, missing });
                    }
                    self.next = first_after;
                    self.at = at;
                    return true;
                }
            }
            at += ALIGNMENT;
        }
        false
    }

    /// Takes a group or mark whose trailer stands at `at` and whose header, where it should be, is
    /// damaged. False if the trailer is of another one.
    fn take_headless(&mut self, at: usize, trailer: &GroupTrailer) -> bool {
        let start = self.at;
        let body = start + GROUP_HEADER;
        if at < body {
            return false;
        }
        let is_mark = trailer.number + 1 == self.next && trailer.entries == 0;
        if !is_mark && trailer.number != self.next {
            return false;
        }
        self.durable = self.durable.max(trailer.durable_through);
        self.at = at + GROUP_TRAILER;
        if is_mark {
            self.durable = self.durable.max(trailer.number);
            self.flaws.push(start..body);
            return true;
        }
        let (entries, digest) = self.entries(trailer.number, trailer.entries, body..at);
        let is_whole = entries.len() == trailer.entries as usize && trailer.digest == digest;
        if is_whole {
            self.flaws.push(start..body);
        }
        self.found(trailer.number, trailer.entries, entries, (is_whole, true), start);
        true
    }

    fn take(&mut self, header: &GroupHeader) {
        let start = self.at;
        let trailer_at = start + header.trailer_at();
        let trailer = self.trailer_at(trailer_at).filter(|trailer| trailer.number == header.number);
        if let Some(trailer) = &trailer {
            self.durable = self.durable.max(trailer.durable_through);
        }
        self.at = start + header.total();
        // What does not even begin as a trailer may never have been written.
        let is_flawed =
            trailer.is_none() && self.bytes.get(trailer_at..).is_some_and(has_trailer_magic);
        if header.is_mark {
            self.durable = self.durable.max(header.number);
            if is_flawed {
                self.flaws.push(trailer_at..self.at);
            }
            return;
        }
        let body = start + GROUP_HEADER;
        let end = body + header.body as usize;
        let (entries, digest) = self.entries(header.number, header.entries, body..end);
        let is_complete = entries.len() == header.entries as usize;
        // With all entries good, a bad trailer takes nothing away.
        let is_whole = is_complete && trailer.is_none_or(|trailer| trailer.digest == digest);
        if is_whole && is_flawed {
            self.flaws.push(trailer_at..self.at);
        }
        self.found(header.number, header.entries, entries, (is_whole, trailer.is_some()), start);
    }

    /// Notes a group that begins at `start` and ends where the walk is now.
    fn found(
        &mut self,
        number: u64,
        written: u32,
        entries: Vec<Range<usize>>,
        (is_whole, is_ended): (bool, bool),
        start: usize,
    ) {
        let missing = u64::from(written).saturating_sub(entries.len() as u64);
        let range = start..self.at.min(self.bytes.len());
        self.groups.push(FoundGroup { number, range, entries, is_whole, missing, is_ended });
        self.next = number + 1;
    }

    /// The good entries of a group. A bad one is passed over by its length, if that leads on.
    fn entries(&self, group: u64, count: u32, body: Range<usize>) -> (Vec<Range<usize>>, u64) {
        let end = body.end.min(self.bytes.len());
        let mut at = body.start;
        let mut found = Vec::with_capacity((count as usize).min(end.saturating_sub(at) / 8));
        let mut digest = 0;
        let mut searches = SEARCHES;
        for index in 0..count {
            let Some(rest) = self.bytes.get(at..end).filter(|rest| !rest.is_empty()) else { break };
            let seed = entry_seed(self.salt, group, index);
            if let Some((entry, sum, len)) = entry_at(rest, seed) {
                found.push(at + 4..at + 4 + entry.len());
                digest = fold(digest, sum);
                at += len;
            } else {
                let seed = (index + 1 < count).then(|| entry_seed(self.salt, group, index + 1));
                let Some(next) = entry_behind(&[rest], seed, &mut searches) else { break };
                at += next;
            }
        }
        (found, digest)
    }

    /// What is dropped from group `cut` on, up to the last group that was written to its end.
    fn doubt(&self, cut: u64) -> Option<Doubt> {
        let last = self.groups.iter().rfind(|group| group.number >= cut && group.is_ended)?;
        let dropped = || self.groups.iter().filter(|g| g.number >= cut && g.number <= last.number);
        let gaps = || self.damage.iter().filter(|d| d.groups.1 >= cut && d.groups.1 < last.number);
        let start =
            dropped().map(|group| group.range.start).chain(gaps().map(|gap| gap.range.start));
        Some(Doubt {
            groups: (cut, last.number),
            range: start.min().unwrap_or(last.range.start)..last.range.end,
            missing: dropped()
                .map(|group| group.missing)
                .chain(gaps().map(|gap| gap.missing))
                .sum(),
            entries: dropped().flat_map(|group| group.entries.iter().cloned()).collect(),
        })
    }

    /// Judges what is bad: damage up to the last durable group, torn from there on.
    fn finish(self, expected: u64) -> Scan {
        let first_bad = |from: u64| {
            let gaps = self.damage.iter().map(|damage| damage.groups.1);
            let broken = self.groups.iter().filter(|g| !g.is_whole).map(|g| g.number);
            gaps.chain(broken).filter(|last| *last > from).min()
        };
        // Gaps that reach past the durable position are cut at their first group.
        let cut = first_bad(self.durable).map(|last| {
            let gap = self.damage.iter().find(|damage| damage.groups.1 == last);
            gap.map_or(last, |gap| gap.groups.0.max(self.durable + 1))
        });
        let cut = cut.unwrap_or(u64::MAX);
        let mut scan = Scan { end: FILE_HEADER as usize, ..Scan::default() };
        scan.doubt = self.doubt(cut);
        scan.flaws = self.flaws;
        for damage in self.damage {
            if damage.groups.0 < cut && damage.groups.1 >= expected {
                let groups = (damage.groups.0.max(expected), damage.groups.1.min(cut - 1));
                scan.end = scan.end.max(damage.range.end);
                scan.damage.push(Damage { groups, ..damage });
            }
        }
        for group in self.groups {
            if group.number >= cut {
                break;
            }
            scan.end = scan.end.max(group.range.end);
            if group.number < expected {
                continue;
            }
            if !group.is_whole {
                let groups = (group.number, group.number);
                let (range, missing) = (group.range.clone(), group.missing.max(1));
                scan.damage.push(Damage { groups, range, missing });
            }
            scan.groups.push(group);
        }
        scan.damage.sort_by_key(|damage| damage.groups);
        scan.is_torn = cut != u64::MAX || self.bytes.get(self.at..).is_some_and(has_group_magic);
        scan
    }
}

fn has_trailer_magic(bytes: &[u8]) -> bool {
    bytes.starts_with(b"CBGT")
}

/// Whether a group was begun here, under whichever salt; the fill is zeros.
fn has_group_magic(bytes: &[u8]) -> bool {
    bytes.starts_with(b"CBGR")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::journal::effect::{Effect, EntryPlace, encode};

    const HEADER: FileHeader =
        FileHeader { file: 1, salt: 9, predecessor: 0, predecessor_end: 0, first_group: 1 };

    /// A file of empty groups, each claiming that the one before it was synced.
    fn file(groups: u64) -> Vec<u8> {
        let mut bytes = HEADER.encode();
        for number in 1..=groups {
            GroupHeader { number, entries: 0, body: 0, is_mark: false }.encode(9, &mut bytes);
            let durable_through = number.saturating_sub(2);
            GroupTrailer { number, entries: 0, digest: 0, durable_through }.encode(9, &mut bytes);
        }
        bytes
    }

    fn numbers(scan: &Scan) -> Vec<u64> {
        scan.groups.iter().map(|group| group.number).collect()
    }

    #[test]
    fn what_is_not_proven_durable_is_torn() {
        let mut bytes = file(6);
        let fifth = 4096 + 4 * 72;
        bytes[fifth] ^= 1;
        bytes[fifth + 32] ^= 1;
        let found = scan(&bytes, &HEADER, 1, None);
        // Group 6 says that 4 was synced; nothing says so of 5.
        assert_eq!(numbers(&found), [1, 2, 3, 4]);
        assert!(found.damage.is_empty() && found.is_torn);
        assert_eq!(found.end, fifth);
        // The sixth was written to its end: both may have been acknowledged.
        let doubt = found.doubt.unwrap();
        assert_eq!((doubt.groups, doubt.range), ((5, 6), fifth..bytes.len()));
    }

    #[test]
    fn a_group_without_header_is_found_by_its_trailer() {
        let whole = scan(&file(6), &HEADER, 1, None);
        for group in 0..6 {
            for part in [0, 32] {
                let mut bytes = file(6);
                let at = 4096 + group * 72 + part;
                bytes[at] ^= 1;
                let found = scan(&bytes, &HEADER, 1, None);
                assert_eq!(numbers(&found), numbers(&whole));
                assert!(found.damage.is_empty() && found.doubt.is_none());
                let is_named = found.flaws.iter().any(|flaw| flaw.contains(&at));
                // A trailer that does not even begin as one may not have been written.
                assert!(is_named || part == 32, "{group} {part}");
            }
        }
    }

    #[test]
    fn what_is_proven_durable_is_damage() {
        let mut bytes = file(6);
        bytes[4096 + 2 * 72] ^= 1;
        bytes[4096 + 2 * 72 + 32] ^= 1;
        let found = scan(&bytes, &HEADER, 1, None);
        assert_eq!(numbers(&found), [1, 2, 4, 5, 6]);
        assert_eq!(found.damage.len(), 1);
        assert_eq!(found.damage[0].groups, (3, 3));
        assert!(!found.is_torn);
        // A successor proves everything.
        let mut bytes = file(6);
        let end = bytes.len();
        bytes[4096 + 5 * 72] ^= 1;
        bytes[4096 + 5 * 72 + 32] ^= 1;
        let found = scan(&bytes, &HEADER, 1, Some((end as u64, 6)));
        assert_eq!((numbers(&found), found.damage[0].groups), (vec![1, 2, 3, 4, 5], (6, 6)));
    }

    #[test]
    fn damage_before_what_is_needed_is_of_no_interest() {
        let mut bytes = file(6);
        bytes[4096 + 72] ^= 1;
        bytes[4096 + 72 + 32] ^= 1;
        let found = scan(&bytes, &HEADER, 4, None);
        assert_eq!(numbers(&found), [4, 5, 6]);
        assert!(found.damage.is_empty());
    }

    /// What ordinary loss of power leaves: the sector with the header was written, those behind it not.
    /// Whether so much of it is searched as is allowed, and not as much for each entry, shows by
    /// a good entry at the end: it is found while searching is allowed.
    #[test]
    fn a_group_of_zeros_is_not_searched_for_each_entry() {
        let (entries, zeros) = (20, 10_000);
        for good in 1..entries {
            let mut body = BytesMut::zeroed(zeros);
            let place = EntryPlace { salt: HEADER.salt, group: 1, index: good };
            encode(&mut body, place, &Effect::Forgotten { key: b"key" });
            let mut bytes = HEADER.encode();
            let header =
                GroupHeader { number: 1, entries, body: body.len() as u32, is_mark: false };
            header.encode(HEADER.salt, &mut bytes);
            bytes.extend(body);
            // That the group is known to be durable makes what is found of it count.
            let end = bytes.len() as u64;
            let found = scan(&bytes, &HEADER, 1, Some((end, 1)));
            let is_found = found.groups[0].entries.len() == 1;
            assert_eq!(is_found, good <= SEARCHES, "entry {good}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(
            noise in proptest::collection::vec(any::<u8>(), 0..400),
            at in 0_usize..5_000,
            groups in 0_u64..8,
            expected in 0_u64..10,
            known in proptest::option::of((0_u64..6_000, 0_u64..10)),
        ) {
            let mut bytes = file(groups);
            for (offset, byte) in noise.iter().enumerate() {
                if let Some(target) = bytes.get_mut(at + offset) {
                    *target = *byte;
                }
            }
            let _ = scan(&bytes, &HEADER, expected, known);
            let _ = scan(&noise, &HEADER, expected, known);
            let _ = FileHeader::decode(&noise);
        }
    }
}
