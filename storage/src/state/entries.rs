//! Changes gathered for a state file: cheap to add to for the thread that owns the engine, sorted
//! later by the thread that writes.

use super::{Action, Key};

/// Keys and values in one buffer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entries {
    bytes: Vec<u8>,
    index: Vec<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    key: usize,
    value: usize,
    end: usize,
    action: Action,
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) action: Action,
    pub(crate) value: &'a [u8],
}

impl Entries {
    /// Adds a change; `value` writes it.
    pub(crate) fn add(&mut self, key: &Key<'_>, action: Action, value: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        key.encode(&mut self.bytes);
        let middle = self.bytes.len();
        value(&mut self.bytes);
        self.index.push(Place { key: start, value: middle, end: self.bytes.len(), action });
    }

    /// Makes room for `count` changes of about `bytes` each.
    pub(crate) fn reserve(&mut self, count: usize, bytes: usize) {
        self.bytes.reserve(count * bytes);
        self.index.reserve(count);
    }

    pub(crate) fn remove(&mut self, key: &Key<'_>) {
        self.add(key, Action::Remove, |_| {});
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Adds all of `later` after what is here.
    pub(crate) fn extend(&mut self, later: &Self) {
        let base = self.bytes.len();
        self.bytes.extend_from_slice(&later.bytes);
        self.index.extend(later.index.iter().map(|place| Place {
            key: place.key + base,
            value: place.value + base,
            end: place.end + base,
            action: place.action,
        }));
    }

    fn get(&self, place: &Place) -> Entry<'_> {
        Entry {
            key: self.bytes.get(place.key..place.value).unwrap_or_default(),
            action: place.action,
            value: self.bytes.get(place.value..place.end).unwrap_or_default(),
        }
    }

    /// Calls `visit` once for each key, in order, with what all changes to it amount to.
    pub(crate) fn each_folded<E>(
        &self,
        mut visit: impl FnMut(Entry<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut index = self.index.clone();
        // Stable: changes to one key stay in order.
        index.sort_by(|a, b| self.get(a).key.cmp(self.get(b).key));
        let mut places = index.iter().map(|place| self.get(place)).peekable();
        let mut folded = Folded::default();
        while let Some(entry) = places.next() {
            folded.add(entry.action, entry.value);
            if places.peek().is_none_or(|next| next.key != entry.key) {
                visit(Entry { key: entry.key, action: folded.action(), value: &folded.value })?;
                folded.clear();
            }
        }
        Ok(())
    }
}

/// Several changes to one key, oldest first, as one.
#[derive(Debug, Default)]
pub(crate) struct Folded {
    action: Option<Action>,
    pub(crate) value: Vec<u8>,
}

impl Folded {
    pub(crate) fn add(&mut self, action: Action, value: &[u8]) {
        match (self.action, action) {
            (_, Action::Put | Action::Remove) => {
                self.value.clear();
                self.action = Some(action);
            }
            // Appending to nothing known stays an append; to a removed value it cannot happen.
            (None | Some(Action::Remove), Action::Append) => self.action = Some(Action::Append),
            (Some(_), Action::Append) => {}
        }
        self.value.extend_from_slice(value);
    }

    pub(crate) fn action(&self) -> Action {
        self.action.unwrap_or(Action::Remove)
    }

    pub(crate) fn clear(&mut self) {
        self.action = None;
        self.value.clear();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn changes_to_a_key_become_one() {
        let mut entries = Entries::default();
        let put = |entries: &mut Entries, key: &[u8], action, value: &[u8]| {
            entries.add(&Key::Keyed(key), action, |out| out.extend_from_slice(value));
        };
        put(&mut entries, b"b", Action::Put, b"1");
        put(&mut entries, b"a", Action::Append, b"x");
        let mut later = Entries::default();
        put(&mut later, b"b", Action::Append, b"2");
        put(&mut later, b"a", Action::Append, b"y");
        put(&mut later, b"c", Action::Put, b"z");
        later.remove(&Key::Keyed(b"c"));
        entries.extend(&later);
        let mut seen = Vec::new();
        entries
            .each_folded(|entry| {
                seen.push((entry.key[1], entry.action, entry.value.to_vec()));
                Ok::<(), ()>(())
            })
            .unwrap();
        assert_eq!(
            seen,
            [
                (b'a', Action::Append, b"xy".to_vec()),
                (b'b', Action::Put, b"12".to_vec()),
                (b'c', Action::Remove, Vec::new()),
            ]
        );
    }
}
