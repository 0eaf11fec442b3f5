//! Which bits flip: every byte of headers, footers and frames, and random places everywhere else.

use std::collections::BTreeMap;

use crate::book::Chance;

/// One bit of one file.
#[derive(Clone, Debug)]
pub struct Place {
    pub file: String,
    pub byte: usize,
    pub bit: u8,
}

/// Whether `verify` must name a flip there even if nothing comes of it: all bytes that a checksum covers
/// in files that never change.
pub fn must_be_named(place: &Place) -> bool {
    let dir = place.file.split('/').next().unwrap_or_default();
    match dir {
        "manifest" | "state" | "ids" | "segments" | "FORMAT" => true,
        // Both copies of the header.
        "journal" => place.byte % 2048 < 512 && place.byte < 4096,
        _ => false,
    }
}

/// The first and last bytes of a file, all of which are headers, footers or frames.
const EDGE: usize = 128;

/// Draws `count` places: one in three at an edge, or so many that each edge has its turn if half of
/// them are enough for that; the others anywhere that is not fill.
pub fn draw(files: &BTreeMap<String, Vec<u8>>, count: usize, chance: &mut Chance) -> Vec<Place> {
    let files: Vec<_> =
        files.iter().filter(|(name, bytes)| is_ours(name) && !bytes.is_empty()).collect();
    let journal: Vec<_> =
        files.iter().filter(|(name, _)| name.starts_with("journal/")).copied().collect();
    let mut edges = Vec::new();
    for (file, bytes) in &files {
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for byte in (0..EDGE.min(used)).chain(used.saturating_sub(EDGE)..used) {
            edges.push(((*file).clone(), byte));
        }
    }
    let all = edges.len();
    let at_edges = if all <= count / 2 { all } else { count / 3 };
    println!("{at_edges} of {count} flips in headers and footers, which have {all} bytes");
    (0..count)
        .map(|n| {
            let bit = chance.below(8) as u8;
            if (n + 1) * at_edges / count > n * at_edges / count {
                let (file, byte) = edges.swap_remove(chance.below(edges.len() as u64) as usize);
                return Place { file, byte, bit };
            }
            // The journal is a few files among many, and has the most to go wrong.
            let group = if n % 2 == 1 && !journal.is_empty() { &journal } else { &files };
            let (file, bytes) = group[chance.below(group.len() as u64) as usize];
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
            Place { file: file.clone(), byte: chance.below(used as u64) as usize, bit }
        })
        .collect()
}

/// Files whose content counts.
fn is_ours(name: &str) -> bool {
    !name.contains("spare") && !name.contains("ballast") && !name.starts_with("lost+found")
}
