//! Two texts, line by line.

/// How many lines that are the same stand around those that differ.
const AROUND: usize = 4;

/// The lines of both, with `-` before those only of the first and `+` before those only of the second;
/// long runs of the same lines are left out.
pub(crate) fn diff(first: &str, second: &str) -> String {
    let (first, second): (Vec<&str>, Vec<&str>) =
        (first.lines().collect(), second.lines().collect());
    let lines = edits(&first, &second);
    let differs: Vec<usize> = (0..lines.len()).filter(|&at| !lines[at].starts_with(' ')).collect();
    let is_near = |at: usize| differs.iter().any(|&other| at.abs_diff(other) <= AROUND);
    let mut out: Vec<&str> = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if is_near(at) {
            out.push(line);
        } else if out.last() != Some(&"  ...") {
            out.push("  ...");
        }
    }
    out.join("\n")
}

/// The longest common subsequence, and what differs between its lines.
fn edits(first: &[&str], second: &[&str]) -> Vec<String> {
    let width = second.len() + 1;
    let mut common = vec![0_usize; (first.len() + 1) * width];
    for a in (0..first.len()).rev() {
        for b in (0..second.len()).rev() {
            common[a * width + b] = if first[a] == second[b] {
                common[(a + 1) * width + b + 1] + 1
            } else {
                common[(a + 1) * width + b].max(common[a * width + b + 1])
            };
        }
    }
    let (mut a, mut b, mut out) = (0, 0, Vec::new());
    while a < first.len() || b < second.len() {
        let is_same = a < first.len() && b < second.len() && first[a] == second[b];
        let drops = a < first.len()
            && (b == second.len() || common[(a + 1) * width + b] >= common[a * width + b + 1]);
        if is_same {
            out.push(format!("  {}", first[a]));
            (a, b) = (a + 1, b + 1);
        } else if drops {
            out.push(format!("- {}", first[a]));
            a += 1;
        } else {
            out.push(format!("+ {}", second[b]));
            b += 1;
        }
    }
    out
}

#[test]
fn what_differs_is_marked_and_long_runs_are_left_out() {
    let first = "a\nb\nc\nd\ne\nf\ng\nh";
    let second = "a\nB\nc\nd\ne\nf\ng\nh";
    assert_eq!(diff(first, second), "  a\n- b\n+ B\n  c\n  d\n  e\n  f\n  ...");
    assert_eq!(diff("x", "x"), "  ...");
}
