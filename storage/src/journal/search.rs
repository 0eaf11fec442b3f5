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
