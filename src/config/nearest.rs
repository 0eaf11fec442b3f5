//! The known word that was probably meant.

/// Longest word compared, in characters. A key of more than that is no misspelling of ours, and the
/// comparison takes time in proportion to the square.
const MAX_WORD: usize = 64;

/// The word of `known` nearest to `word`, if at most a third of its letters (and at least one)
/// differ. Case and `-` against `_` do not count.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = plain(word);
    if word.len() > MAX_WORD {
        return None;
    }
    let (distance, best) = known
        .into_iter()
        .map(|candidate| (distance(&word, &plain(candidate)), candidate))
        .min_by_key(|(distance, _)| *distance)?;
    let allowed = (word.len().max(best.chars().count()) / 3).max(1);
    (distance <= allowed).then_some(best)
}

/// Letters to compare: lower case, underscores for dashes.
fn plain(word: &str) -> Vec<char> {
    word.chars().flat_map(char::to_lowercase).map(|c| if c == '-' { '_' } else { c }).collect()
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b` (optimal
/// string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut previous_a = None;
    for (row, &x) in a.iter().enumerate() {
        let mut current = vec![row + 1];
        let mut previous_b = None;
        for (column, &y) in b.iter().enumerate() {
            let at = |line: &[usize], i: usize| line.get(i).copied().unwrap_or(usize::MAX / 2);
            let replaced = at(&last, column) + usize::from(x != y);
            let mut best = replaced.min(at(&last, column + 1) + 1).min(at(&current, column) + 1);
            if previous_a == Some(y) && previous_b == Some(x) && column > 0 {
                best = best.min(at(&before, column - 1) + 1);
            }
            current.push(best);
            previous_b = Some(y);
        }
        previous_a = Some(x);
        before = std::mem::replace(&mut last, current);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspellings_find_their_word() {
        let known = ["retention", "subjects", "max_msgs", "name"];
        for (word, meant) in [
            ("retenton", Some("retention")),
            ("subject", Some("subjects")),
            ("max-msgs", Some("max_msgs")),
            ("MAX_MSGS", Some("max_msgs")),
            ("nmae", Some("name")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
        assert_eq!(nearest(&"n".repeat(100_000), known), None);
    }

    #[test]
    fn a_swap_of_neighbours_is_one_step() {
        let chars = |s: &str| s.chars().collect::<Vec<_>>();
        assert_eq!(distance(&chars("ab"), &chars("ba")), 1);
        assert_eq!(distance(&chars("kitten"), &chars("sitting")), 3);
        assert_eq!(distance(&chars(""), &chars("abc")), 3);
    }
}
