//! Patterns of subjects in a tree of tokens, to find all that match a subject.

use hashbrown::HashMap;

/// Values under subject patterns.
#[derive(Debug)]
pub(super) struct SubjectTree<T> {
    root: Node<T>,
}

#[derive(Debug)]
struct Node<T> {
    /// Patterns that end here, ascending: among many thousand, one is found and taken out soon.
    here: Vec<T>,
    /// Patterns that end with `>` after this token, ascending.
    rest: Vec<T>,
    star: Option<Box<Node<T>>>,
    children: HashMap<Box<str>, Node<T>>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { here: Vec::new(), rest: Vec::new(), star: None, children: HashMap::new() }
    }
}

impl<T> Default for SubjectTree<T> {
    fn default() -> Self {
        Self { root: Node::default() }
    }
}

impl<T> Node<T> {
    fn is_empty(&self) -> bool {
        self.here.is_empty()
            && self.rest.is_empty()
            && self.star.is_none()
            && self.children.is_empty()
    }
}

impl<T: Ord> SubjectTree<T> {
    /// Adds `value` under `pattern`, if it is not there.
    pub(super) fn insert(&mut self, pattern: &str, value: T) {
        let mut node = &mut self.root;
        let mut tokens = pattern.split('.').peekable();
        while let Some(token) = tokens.next() {
            match token {
                ">" if tokens.peek().is_none() => {
                    return add(&mut node.rest, value);
                }
                "*" => node = node.star.get_or_insert_default(),
                _ => node = node.children.entry(Box::from(token)).or_default(),
            }
        }
        add(&mut node.here, value);
    }

    /// Removes `value` from under `pattern`.
    pub(super) fn remove(&mut self, pattern: &str, value: &T) {
        remove(&mut self.root, pattern, value);
    }

    /// Calls `visit` for every value whose pattern matches `subject`.
    pub(super) fn matches<'t>(&'t self, subject: &str, visit: &mut impl FnMut(&'t T)) {
        matches(&self.root, Some(subject), visit);
    }

    /// Whether some pattern matches `subject`. It stops at the first.
    pub(super) fn has_match(&self, subject: &str) -> bool {
        has_match(&self.root, Some(subject))
    }
}

fn add<T: Ord>(values: &mut Vec<T>, value: T) {
    if let Err(at) = values.binary_search(&value) {
        values.insert(at, value);
    }
}

fn take_out<T: Ord>(values: &mut Vec<T>, value: &T) {
    if let Ok(at) = values.binary_search(value) {
        values.remove(at);
    }
}

fn remove<T: Ord>(node: &mut Node<T>, pattern: &str, value: &T) {
    let (token, rest) = match pattern.split_once('.') {
        Some((token, rest)) => (token, Some(rest)),
        None => (pattern, None),
    };
    if token == ">" && rest.is_none() {
        return take_out(&mut node.rest, value);
    }
    let child = if token == "*" { node.star.as_deref_mut() } else { node.children.get_mut(token) };
    let Some(child) = child else { return };
    match rest {
        Some(rest) => remove(child, rest, value),
        None => take_out(&mut child.here, value),
    }
    if child.is_empty() {
        if token == "*" {
            node.star = None;
        } else {
            node.children.remove(token);
        }
    }
}

fn matches<'t, T>(node: &'t Node<T>, subject: Option<&str>, visit: &mut impl FnMut(&'t T)) {
    let Some(subject) = subject else {
        node.here.iter().for_each(visit);
        return;
    };
    node.rest.iter().for_each(&mut *visit);
    let (token, rest) = match subject.split_once('.') {
        Some((token, rest)) => (token, Some(rest)),
        None => (subject, None),
    };
    if let Some(child) = node.children.get(token) {
        matches(child, rest, visit);
    }
    if let Some(star) = &node.star {
        matches(star, rest, visit);
    }
}

fn has_match<T>(node: &Node<T>, subject: Option<&str>) -> bool {
    let Some(subject) = subject else { return !node.here.is_empty() };
    let (token, rest) = match subject.split_once('.') {
        Some((token, rest)) => (token, Some(rest)),
        None => (subject, None),
    };
    !node.rest.is_empty()
        || node.children.get(token).is_some_and(|child| has_match(child, rest))
        || node.star.as_ref().is_some_and(|star| has_match(star, rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::*;

    fn found(tree: &SubjectTree<usize>, subject: &str) -> Vec<usize> {
        let mut found = Vec::new();
        tree.matches(subject, &mut |v| found.push(*v));
        found.sort_unstable();
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        /// The tree finds what comparing with each pattern finds, also after removals.
        #[test]
        fn finds_what_matching_one_by_one_finds(
            patterns in prop::collection::vec("[ab*](\\.[ab*]){0,2}(\\.>)?", 0..12),
            subject in "[ab](\\.[ab]){0,3}",
            removed in prop::collection::vec(any::<bool>(), 12),
        ) {
            let mut tree = SubjectTree::default();
            for (i, pattern) in patterns.iter().enumerate() {
                tree.insert(pattern, i);
            }
            let mut kept: Vec<usize> = (0..patterns.len()).collect();
            for (i, pattern) in patterns.iter().enumerate().filter(|(i, _)| removed[*i]) {
                tree.remove(pattern, &i);
                kept.retain(|k| *k != i);
            }
            let expected: Vec<usize> = kept
                .iter()
                .copied()
                .filter(|i| crate::model::subject::matches(&patterns[*i], &subject))
                .collect();
            prop_assert_eq!(tree.has_match(&subject), !expected.is_empty());
            prop_assert_eq!(found(&tree, &subject), expected);
            for i in kept {
                tree.remove(&patterns[i], &i);
            }
            prop_assert!(tree.root.is_empty());
        }
    }
}
