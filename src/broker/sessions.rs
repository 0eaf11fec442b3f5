//! What the broker knows of each session: what it was handed and has not sent on, and which
//! consumers it takes messages from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use claudebus_storage::StreamId;
use hashbrown::{HashMap, HashSet};

use crate::access::Grant;
use crate::model::event::MAX_NAMED_STREAMS;
use crate::model::request::{ConnectionId, SessionId, Token};

/// Stands for the server itself, which pulls on behalf of push consumers.
pub(super) const SERVER: SessionId = SessionId(u64::MAX);

/// Pulls of one session that can be raised or withdrawn. 4,096: a session has one at a time for
/// each consumer it listens to; those with the lowest tokens, the oldest, make room.
const MAX_NAMED_PULLS: usize = 4096;

/// A consumer, by stream and name.
pub(super) type ConsumerKey = (StreamId, Arc<str>);

#[derive(Debug, Default)]
struct Session {
    connection: ConnectionId,
    /// Bytes of deliveries it was handed, less what it said it has sent.
    unsent: usize,
    /// Whom its latest pulls are from.
    pulls: BTreeMap<Token, ConsumerKey>,
    /// All it ever took messages from.
    consumers: BTreeSet<ConsumerKey>,
    /// Whether it does not want to know that nobody got a request of it.
    ignores_unheard: bool,
    /// What its client may do; everything if none.
    grant: Option<Arc<Grant>>,
    /// Streams that it was told the names of.
    named: HashSet<StreamId>,
}

#[derive(Debug, Default)]
pub(super) struct Sessions {
    sessions: HashMap<SessionId, Session>,
}

impl Sessions {
    pub(super) fn open(&mut self, session: SessionId, connection: ConnectionId) {
        self.sessions.entry(session).or_default().connection = connection;
    }

    /// The connection of a session; none of the server's own.
    pub(super) fn connection_of(&self, session: SessionId) -> ConnectionId {
        self.sessions.get(&session).map(|session| session.connection).unwrap_or_default()
    }

    /// Ends a session. Returns the consumers it took messages from.
    pub(super) fn close(&mut self, session: SessionId) -> BTreeSet<ConsumerKey> {
        self.sessions.remove(&session).unwrap_or_default().consumers
    }

    /// Says what a session's client may do.
    pub(super) fn set_grant(&mut self, session: SessionId, grant: Arc<Grant>) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.grant = (!grant.is_everything()).then_some(grant);
        }
    }

    /// What a session's client may do; everything if none.
    pub(super) fn grant(&self, session: SessionId) -> Option<Arc<Grant>> {
        self.sessions.get(&session)?.grant.clone()
    }

    /// Which of the streams a session was not told the names of; it is now.
    pub(super) fn name_streams(
        &mut self,
        session: SessionId,
        streams: impl Iterator<Item = StreamId>,
    ) -> Vec<StreamId> {
        let mut unnamed = Vec::new();
        let Some(session) = self.sessions.get_mut(&session) else { return unnamed };
        if session.named.len() >= MAX_NAMED_STREAMS {
            session.named.clear();
        }
        unnamed.extend(streams.filter(|id| session.named.insert(*id)));
        unnamed
    }

    /// Whether a session wants to know that nobody got a request of it.
    pub(super) fn tell_unheard(&mut self, session: SessionId, tell: bool) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.ignores_unheard = !tell;
        }
    }

    /// Whether a session wants to know that nobody got a request of it.
    pub(super) fn wants_unheard(&self, session: SessionId) -> bool {
        self.sessions.get(&session).is_some_and(|session| !session.ignores_unheard)
    }

    /// Whether a session holds fewer unsent bytes than `limit`, so that one more delivery may go
    /// to it.
    pub(super) fn has_room(&self, session: SessionId, limit: usize) -> bool {
        self.sessions.get(&session).is_some_and(|session| session.unsent < limit)
    }

    /// A session was handed so many bytes of deliveries.
    pub(super) fn handed(&mut self, session: SessionId, bytes: usize) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.unsent = session.unsent.saturating_add(bytes);
        }
    }

    /// A session sent so many on.
    pub(super) fn sent(&mut self, session: SessionId, bytes: usize) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.unsent = session.unsent.saturating_sub(bytes);
        }
    }

    /// A session takes messages from a consumer, under `token` if it named the pull itself.
    pub(super) fn takes_from(
        &mut self,
        session: SessionId,
        token: Option<Token>,
        consumer: &ConsumerKey,
    ) {
        let Some(session) = self.sessions.get_mut(&session) else { return };
        if let Some(token) = token {
            session.pulls.insert(token, consumer.clone());
            if session.pulls.len() > MAX_NAMED_PULLS {
                session.pulls.pop_first();
            }
        }
        if !session.consumers.contains(consumer) {
            session.consumers.insert(consumer.clone());
        }
    }

    /// The consumer of a session's pull.
    pub(super) fn consumer_of(&self, session: SessionId, token: Token) -> Option<&ConsumerKey> {
        self.sessions.get(&session)?.pulls.get(&token)
    }

    /// A session's pull is over.
    pub(super) fn forget_pull(&mut self, session: SessionId, token: Token) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.pulls.remove(&token);
        }
    }

    /// Forgets the consumers of a session that are gone.
    pub(super) fn forget_consumers(
        &mut self,
        session: SessionId,
        is_there: impl Fn(&ConsumerKey) -> bool,
    ) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.consumers.retain(is_there);
        }
    }

    /// The consumers that a session takes messages from.
    pub(super) fn consumers_of(&self, session: SessionId) -> impl Iterator<Item = &ConsumerKey> {
        self.sessions.get(&session).into_iter().flat_map(|session| &session.consumers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_ends_at_the_limit_and_comes_back() {
        let mut sessions = Sessions::default();
        let session = SessionId(1);
        assert!(!sessions.has_room(session, 10), "a session that was never opened");
        sessions.open(session, ConnectionId(1));
        sessions.handed(session, 9);
        assert!(sessions.has_room(session, 10));
        sessions.handed(session, 1);
        assert!(!sessions.has_room(session, 10));
        sessions.sent(session, 1);
        assert!(sessions.has_room(session, 10));
        sessions.close(session);
        assert!(!sessions.has_room(session, 10));
    }

    #[test]
    fn pulls_are_found_by_their_token() {
        let mut sessions = Sessions::default();
        let (session, key) = (SessionId(1), (StreamId(1), Arc::from("c")));
        sessions.open(session, ConnectionId(1));
        sessions.takes_from(session, Some(Token(5)), &key);
        assert_eq!(sessions.consumer_of(session, Token(5)), Some(&key));
        sessions.forget_pull(session, Token(5));
        assert_eq!(sessions.consumer_of(session, Token(5)), None);
        assert_eq!(sessions.consumers_of(session).count(), 1);
        for token in 0..=MAX_NAMED_PULLS as u64 {
            sessions.takes_from(session, Some(Token(token)), &key);
        }
        assert_eq!(sessions.consumer_of(session, Token(0)), None);
        assert_eq!(sessions.consumer_of(session, Token(1)), Some(&key));
        assert!(sessions.close(session).contains(&key));
    }
}
