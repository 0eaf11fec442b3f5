//! The streams by id and by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use claudebus_storage::StreamId;
use hashbrown::HashMap;

use super::stream::Stream;

#[derive(Debug, Default)]
pub(super) struct Catalog {
    streams: HashMap<StreamId, Stream>,
    names: BTreeMap<Arc<str>, StreamId>,
    /// The next id. Ids are never used again.
    pub(super) next_id: u64,
}

impl Catalog {
    pub(super) fn get(&self, id: StreamId) -> Option<&Stream> {
        self.streams.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.streams.get_mut(&id)
    }

    pub(super) fn find(&self, name: &str) -> Option<&Stream> {
        self.get(*self.names.get(name)?)
    }

    pub(super) fn id_of(&self, name: &str) -> Option<StreamId> {
        self.names.get(name).copied()
    }

    pub(super) fn insert(&mut self, stream: Stream) {
        self.names.insert(Arc::clone(&stream.name), stream.id);
        self.streams.insert(stream.id, stream);
    }

    pub(super) fn remove(&mut self, id: StreamId) -> Option<Stream> {
        let stream = self.streams.remove(&id)?;
        self.names.remove(&stream.name);
        Some(stream)
    }

    pub(super) fn len(&self) -> usize {
        self.streams.len()
    }

    /// All streams, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.names.values().filter_map(|id| self.streams.get(id))
    }

    /// The ids of all streams, by name.
    pub(super) fn ids(&self) -> Vec<StreamId> {
        self.names.values().copied().collect()
    }
}
