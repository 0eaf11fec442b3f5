//! Keyed state in memory, and which of it changed since the last checkpoint. The bytes are the
//! broker's; this module only keeps them.

use bytes::Bytes;
use hashbrown::HashMap;

use crate::log::State;

#[derive(Debug, Default)]
struct Entry {
    base: Bytes,
    notes: Vec<u8>,
    /// How much of `notes` a checkpoint has; nothing counts if the base changed.
    saved_notes: usize,
    base_changed: bool,
    is_listed: bool,
}

/// What to write about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyedChange {
    Put {
        base: Bytes,
        notes: Vec<u8>,
    },
    /// Notes to add to what was written before.
    Noted(Vec<u8>),
    Forgotten,
}

/// All keyed state.
#[derive(Debug, Default)]
pub(crate) struct KeyedStates {
    entries: HashMap<Box<[u8]>, Entry>,
    /// Keys to look at for the next checkpoint. A key that was forgotten is here and not in `entries`.
    changed: Vec<Box<[u8]>>,
    bytes: usize,
}

impl KeyedStates {
    pub(crate) fn put(&mut self, key: &[u8], base: &[u8]) {
        let entry = entry(&mut self.entries, &mut self.changed, key);
        self.bytes = self.bytes + base.len() - entry.base.len() - entry.notes.len();
        entry.base = Bytes::copy_from_slice(base);
        // With its memory: most keys rest for long after their notes became a base.
        entry.notes = Vec::new();
        entry.base_changed = true;
    }

    /// Returns the bytes of the base and of all notes.
    pub(crate) fn note(&mut self, key: &[u8], note: &[u8]) -> (usize, usize) {
        let entry = entry(&mut self.entries, &mut self.changed, key);
        entry.notes.extend_from_slice(note);
        self.bytes += note.len();
        (entry.base.len(), entry.notes.len())
    }

    pub(crate) fn forget(&mut self, key: &[u8]) {
        if let Some((key, entry)) = self.entries.remove_entry(key) {
            self.bytes -= entry.base.len() + entry.notes.len();
            if !entry.is_listed {
                self.changed.push(key);
            }
        }
    }

    /// All state under `prefix`, in order of key.
    pub(crate) fn with_prefix(&self, prefix: &[u8]) -> Vec<(Vec<u8>, State)> {
        let matching = self.entries.iter().filter(|(key, _)| key.starts_with(prefix));
        let mut found: Vec<_> = matching
            .map(|(key, entry)| {
                (key.to_vec(), State { base: entry.base.to_vec(), notes: entry.notes.clone() })
            })
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }

    /// What changed since the last call.
    pub(crate) fn take_changes(&mut self) -> Vec<(Box<[u8]>, KeyedChange)> {
        let changed = std::mem::take(&mut self.changed);
        let mut changes = Vec::with_capacity(changed.len());
        for key in changed {
            let change = match self.entries.get_mut(&key) {
                None => KeyedChange::Forgotten,
                // A key that was forgotten and put again is listed twice.
                Some(entry) if !entry.is_listed => continue,
                Some(entry) => entry.take_change(),
            };
            changes.push((key, change));
        }
        changes
    }

    /// Everything was read from state files.
    pub(crate) fn mark_saved(&mut self) {
        drop(self.take_changes());
    }

    /// Keys, and bytes of their state.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }
}

impl Entry {
    fn take_change(&mut self) -> KeyedChange {
        self.is_listed = false;
        let saved = std::mem::replace(&mut self.saved_notes, self.notes.len());
        if std::mem::take(&mut self.base_changed) {
            return KeyedChange::Put { base: self.base.clone(), notes: self.notes.clone() };
        }
        KeyedChange::Noted(self.notes.get(saved..).unwrap_or_default().to_vec())
    }
}

fn entry<'a>(
    entries: &'a mut HashMap<Box<[u8]>, Entry>,
    changed: &mut Vec<Box<[u8]>>,
    key: &[u8],
) -> &'a mut Entry {
    // A new key has no base on disk, or one that must not be added to.
    let fresh = || Entry { base_changed: true, ..Entry::default() };
    let entry = entries.entry_ref(key).or_insert_with(fresh);
    if !entry.is_listed {
        entry.is_listed = true;
        changed.push(Box::from(key));
    }
    entry
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    fn changes(states: &mut KeyedStates) -> Vec<(Vec<u8>, KeyedChange)> {
        states.take_changes().into_iter().map(|(key, change)| (key.into(), change)).collect()
    }

    #[test]
    fn only_what_is_new_is_written() {
        let mut states = KeyedStates::default();
        states.put(b"k", b"base");
        assert_eq!(states.note(b"k", b"1"), (4, 1));
        let put = KeyedChange::Put { base: Bytes::from_static(b"base"), notes: b"1".to_vec() };
        assert_eq!(changes(&mut states), [(b"k".to_vec(), put)]);
        assert_eq!(states.note(b"k", b"23"), (4, 3));
        let noted = KeyedChange::Noted(b"23".to_vec());
        assert_eq!(changes(&mut states), [(b"k".to_vec(), noted)]);
        assert!(changes(&mut states).is_empty());
        states.forget(b"k");
        assert_eq!(changes(&mut states), [(b"k".to_vec(), KeyedChange::Forgotten)]);
        assert_eq!(states.size(), (0, 0));
    }

    #[test]
    fn a_key_that_comes_back_starts_afresh() {
        let mut states = KeyedStates::default();
        states.put(b"k", b"old");
        states.mark_saved();
        states.forget(b"k");
        states.note(b"k", b"n");
        let put = KeyedChange::Put { base: Bytes::new(), notes: b"n".to_vec() };
        assert_eq!(changes(&mut states), [(b"k".to_vec(), put)]);
        assert!(changes(&mut states).is_empty());
    }

    #[test]
    fn prefixes_select_in_order() {
        let mut states = KeyedStates::default();
        for key in ["b", "a2", "a1"] {
            states.put(key.as_bytes(), b"x");
        }
        let found = states.with_prefix(b"a");
        assert_eq!(found.iter().map(|(k, _)| k.as_slice()).collect::<Vec<_>>(), [b"a1", b"a2"]);
    }
}
