//! Several state files become one base: the newest value of each key, without what is gone.

use std::collections::HashMap;
use std::io;

use super::entries::{Entry, Folded};
use super::file::{StateError, StateFile, StateReader, StateWriter};
use super::{Action, Key, StreamValue};
use crate::disk::Disk;
use crate::ids::StreamId;
use crate::segment::Pace;

/// Why files could not be merged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MergeError {
    #[error(transparent)]
    Read(#[from] StateError),
    #[error("cannot write a state file: {0}")]
    Write(#[from] io::Error),
}

/// Merges all state files, oldest first, into a new base `id`. Memory: one block of each.
pub(crate) fn merge(
    disk: &dyn Disk,
    files: &[StateFile],
    id: u64,
    pace: Pace<'_>,
) -> Result<StateFile, MergeError> {
    let mut writer = StateWriter::create(disk, id, pace)?;
    let mut live = Live::default();
    each_merged(disk, files, |entry| {
        if live.is_wanted(&entry) { writer.add(&entry).map_err(MergeError::from) } else { Ok(()) }
    })?;
    Ok(writer.finish()?)
}

/// Calls `visit` with each key once, in order, and what all files say of it.
pub(crate) fn each_merged<E: From<StateError>>(
    disk: &dyn Disk,
    files: &[StateFile],
    mut visit: impl FnMut(Entry<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut inputs = Vec::with_capacity(files.len());
    for file in files {
        let mut input = Input::new(StateReader::open(disk, *file)?);
        input.advance()?;
        inputs.push(input);
    }
    // Reused for every key: there may be a million.
    let (mut key, mut folded) = (Vec::new(), Folded::default());
    loop {
        let heads = inputs.iter().filter(|input| !input.is_done);
        let Some(smallest) = heads.map(|input| &input.key).min() else { return Ok(()) };
        key.clone_from(smallest);
        folded.clear();
        for input in inputs.iter_mut().filter(|input| !input.is_done) {
            if input.key == key {
                folded.add(input.action, &input.value);
                input.advance()?;
            }
        }
        visit(Entry { key: &key, action: folded.action(), value: &folded.value })?;
    }
}

/// A file and the entry it stands at.
struct Input {
    reader: StateReader,
    is_done: bool,
    key: Vec<u8>,
    action: Action,
    value: Vec<u8>,
}

impl Input {
    fn new(reader: StateReader) -> Self {
        let (key, value) = (Vec::new(), Vec::new());
        Self { reader, is_done: false, key, action: Action::Remove, value }
    }

    fn advance(&mut self) -> Result<(), StateError> {
        match self.reader.next()? {
            Some(entry) => {
                self.key.clear();
                self.key.extend_from_slice(entry.key);
                self.action = entry.action;
                self.value.clear();
                self.value.extend_from_slice(entry.value);
            }
            None => self.is_done = true,
        }
        Ok(())
    }
}

/// Which streams there are; they sort before what belongs to them.
#[derive(Default)]
pub(crate) struct Live {
    epochs: HashMap<StreamId, u64>,
}

impl Live {
    /// Whether an entry says something that is not void by now.
    pub(crate) fn is_wanted(&mut self, entry: &Entry<'_>) -> bool {
        if entry.action == Action::Remove {
            return false;
        }
        match Key::decode(entry.key) {
            Some(Key::Stream(id)) => {
                let epoch = StreamValue::decode(entry.value).map_or(0, |value| value.epoch);
                self.epochs.insert(id, epoch);
                true
            }
            Some(Key::Gone(id)) => self.epochs.contains_key(&id),
            Some(Key::Subject(id, epoch, _)) => self.epochs.get(&id) == Some(&epoch),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::super::entries::Entries;
    use super::*;
    use crate::disk::SimulatedDisk;

    fn write(disk: &SimulatedDisk, id: u64, entries: &Entries) -> StateFile {
        let mut pace = |_| Ok(());
        let mut writer = StateWriter::create(disk, id, &mut pace).unwrap();
        entries.each_folded(|entry| writer.add(&entry)).unwrap();
        writer.finish().unwrap()
    }

    fn stream(entries: &mut Entries, id: u64, epoch: u64) {
        let value = StreamValue { epoch, ..StreamValue::default() };
        entries.add(&Key::Stream(StreamId(id)), Action::Put, |out| value.encode(out));
    }

    fn subject(entries: &mut Entries, id: u64, epoch: u64, text: &str) {
        let key = Key::Subject(StreamId(id), epoch, text);
        entries.add(&key, Action::Put, |out| out.extend_from_slice(b"counts"));
    }

    #[test]
    fn the_newest_wins_and_what_is_gone_goes() {
        let disk = SimulatedDisk::new();
        disk.create_dir(super::super::DIR).unwrap();
        let mut base = Entries::default();
        stream(&mut base, 1, 0);
        stream(&mut base, 2, 0);
        subject(&mut base, 1, 0, "old");
        subject(&mut base, 2, 0, "dropped with its stream");
        base.add(&Key::Keyed(b"k"), Action::Put, |out| out.extend_from_slice(b"base"));
        base.add(&Key::Keyed(b"gone"), Action::Put, |_| {});
        let mut delta = Entries::default();
        stream(&mut delta, 1, 1);
        delta.remove(&Key::Stream(StreamId(2)));
        subject(&mut delta, 1, 1, "new");
        delta.add(&Key::Keyed(b"k"), Action::Append, |out| out.extend_from_slice(b"+note"));
        delta.remove(&Key::Keyed(b"gone"));
        let files = [write(&disk, 1, &base), write(&disk, 2, &delta)];
        let merged = merge(&disk, &files, 3, &mut |_| Ok(())).unwrap();
        let mut keys = Vec::new();
        each_merged(&disk, &[merged], |entry| {
            let key = format!("{:?}", Key::decode(entry.key).unwrap());
            keys.push((key, entry.value.to_vec()));
            Ok::<(), StateError>(())
        })
        .unwrap();
        assert_eq!(keys.len(), 3, "{keys:?}");
        assert_eq!(keys[1].0, format!("{:?}", Key::Subject(StreamId(1), 1, "new")));
        assert_eq!(keys[2].1, b"base+note");
    }
}
