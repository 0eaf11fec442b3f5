//! Finding the entry behind a bad one of a group, in as many copies of the group as there are.
//!
//! What it looks at is limited: a search in vain goes through all that is left of the group.

use super::format::{ENTRY_FRAME, entry_at};

/// How far the entry behind one of damaged length is looked for, in bytes. 4 MiB: the largest default
/// record and more.
const SEARCHED: usize = 4 << 20;
/// So many searches in a group may be in vain. A group of which nothing was written, which every loss of
/// power may leave, would otherwise be searched to its end for each of its entries.
pub(crate) const SEARCHES: u32 = 2;

/// Where the entry after a bad one stands, counted from where the bad one begins in each copy of the
/// rest of a group: where its length says, or, if that is what is bad, where the first good one is
/// found. `seed` is that of the entry after it, if there is one; `searches` how many may still be in vain.
pub(crate) fn entry_behind(
    copies: &[&[u8]],
    seed: Option<u64>,
    searches: &mut u32,
) -> Option<usize> {
    let claim = |copy: &[u8]| {
        let length = u32::from_le_bytes(*copy.first_chunk::<4>()?);
        Some(length as usize + ENTRY_FRAME)
    };
    let mut claims = copies.iter().filter_map(|copy| claim(copy));
    let first = claims.clone().next();
    let Some(seed) = seed else { return first };
    let is_good = |at: &usize| {
        copies.iter().any(|copy| copy.get(*at..).is_some_and(|rest| entry_at(rest, seed).is_some()))
    };
    if let Some(claimed) = claims.find(is_good) {
        return Some(claimed);
    }
    if *searches > 0 {
        let longest = copies.iter().map(|copy| copy.len()).max().unwrap_or_default();
        if let Some(found) = (1..longest.min(SEARCHED)).find(is_good) {
            return Some(found);
        }
        *searches -= 1;
    }
    first
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::journal::effect::{Effect, EntryPlace, encode};
    use crate::journal::format::entry_seed;

    /// Zeros, and behind them the entry that is looked for, with its seed.
    fn far_away() -> (BytesMut, u64) {
        let mut bytes = BytesMut::zeroed(1000);
        let place = EntryPlace { salt: 9, group: 4, index: 1 };
        encode(&mut bytes, place, &Effect::Forgotten { key: b"key" });
        (bytes, entry_seed(9, 4, 1))
    }

    #[test]
    fn a_search_that_finds_may_be_repeated() {
        let (bytes, seed) = far_away();
        let mut searches = 1;
        for _ in 0..3 {
            assert_eq!(entry_behind(&[&bytes], Some(seed), &mut searches), Some(1000));
        }
        let damaged = vec![0xff; 1100];
        assert_eq!(entry_behind(&[&damaged, &bytes], Some(seed), &mut searches), Some(1000));
        assert_eq!(searches, 1);
    }

    #[test]
    fn searches_in_vain_are_counted_and_then_there_is_none() {
        let (bytes, seed) = far_away();
        let mut searches = SEARCHES;
        for left in (0..SEARCHES).rev() {
            let behind = entry_behind(&[&bytes], Some(seed + 1), &mut searches);
            assert_eq!((behind, searches), (Some(ENTRY_FRAME), left));
        }
        // The entry is there, and only where the length says is it looked for.
        let behind = entry_behind(&[&bytes], Some(seed), &mut searches);
        assert_eq!((behind, searches), (Some(ENTRY_FRAME), 0));
    }
}
