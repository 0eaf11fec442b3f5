//! Pulls: requests of sessions for messages, from arrival to end.

use std::borrow::Cow;
use std::sync::Arc;

use claudebus_storage::{Log, StreamId};

use crate::model::request::{Pull, ReplyTo, SessionId, Token};

use super::Broker;
use super::consumer::Consumer;

impl<L: Log> Broker<L> {
    /// A pull request arrives.
    pub(super) fn pull(&mut self, from: SessionId, mut pull: Pull) {
        let longest = self.limits.max_pull_expires;
        pull.expires = match pull.expires {
            Some(wait) => Some(wait.min(longest)),
            None if pull.no_wait || pull.renewable => None,
            // Over NATS such a pull waits as long as somebody listens to its subject.
            None if matches!(pull.reply, ReplyTo::Subject(_)) => None,
            None => Some(longest),
        };
        let now = self.now;
        let found = self
            .catalog
            .id_of(&pull.stream)
            .and_then(|id| Some((id, self.catalog.get_mut(id)?.member_mut(&pull.consumer)?)));
        let Some((id, (name, member))) = found else {
            self.refuse_pull(from, &pull);
            return;
        };
        if member.consumer.config().deliver_subject.is_some() {
            let mut status = Consumer::no_such_consumer(&pull);
            status.code = 409;
            status.text = Cow::Borrowed("Consumer is push based");
            self.tell_status((from, pull.reply, status));
            return;
        }
        let token = match &pull.reply {
            ReplyTo::Session(token) => Some(*token),
            ReplyTo::Subject(_) => None,
        };
        let key = (id, name);
        if let ReplyTo::Subject(subject) = &pull.reply {
            member.unheard = true;
            self.listened.add(subject, &key);
        }
        member.consumer.pull(now, from, pull);
        self.sweep_listened();
        self.sessions.takes_from(from, token, &key);
        let connection = self.sessions.connection_of(from);
        if let Some(seat) = self.catalog.get_mut(id).and_then(|s| s.consumers.seat_mut(&key.1)) {
            seat.connection = connection;
            self.turns.add(id, seat);
        }
    }

    /// A consumer may have something to deliver: it is to have a turn.
    pub(super) fn stir(&mut self, id: StreamId, name: &str) {
        let seat = self.catalog.get_mut(id).and_then(|stream| stream.consumers.seat_mut(name));
        seat.into_iter().for_each(|seat| self.turns.add(id, seat));
    }

    fn refuse_pull(&mut self, from: SessionId, pull: &Pull) {
        match &pull.reply {
            ReplyTo::Session(_) => {
                let status = Consumer::no_such_consumer(pull);
                self.tell_status((from, pull.reply.clone(), status));
            }
            // Nobody is behind the subject that such a consumer would have.
            ReplyTo::Subject(reply) => {
                let subject =
                    format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", pull.stream, pull.consumer);
                self.unheard(from, &subject, reply);
            }
        }
    }

    /// A waiting pull may take more.
    pub(super) fn raise(&mut self, from: SessionId, token: Token, more: u64, more_bytes: u64) {
        let Some((id, name)) = self.sessions.consumer_of(from, token).cloned() else { return };
        let now = self.now;
        if let Some((_, member)) = self.catalog.get_mut(id).and_then(|s| s.member_mut(&name)) {
            member.consumer.raise(now, from, token, (more, more_bytes));
            self.stir(id, &name);
        }
    }

    /// A waiting pull is withdrawn.
    pub(super) fn cancel(&mut self, from: SessionId, token: Token) {
        let Some((id, name)) = self.sessions.consumer_of(from, token).cloned() else { return };
        self.sessions.forget_pull(from, token);
        if let Some((_, member)) = self.catalog.get_mut(id).and_then(|s| s.member_mut(&name)) {
            member.consumer.cancel(from, token);
            self.stir(id, &name);
        }
    }

    /// A session can take deliveries again.
    pub(super) fn stir_pulls_of(&mut self, session: SessionId) {
        let catalog = &self.catalog;
        self.sessions.forget_consumers(session, |(id, name)| {
            catalog.get(*id).is_some_and(|stream| stream.consumers.get(name).is_some())
        });
        for (id, name) in self.sessions.consumers_of(session) {
            let found = self.catalog.get_mut(*id).and_then(|s| s.consumers.seat_mut(name));
            found.into_iter().for_each(|seat| self.turns.add(*id, seat));
        }
    }

    /// A session is over, and its pulls with it.
    pub(super) fn close_pulls_of(&mut self, session: SessionId) {
        let now = self.now;
        for (id, name) in self.sessions.close(session) {
            if let Some((_, member)) = self.catalog.get_mut(id).and_then(|s| s.member_mut(&name)) {
                member.consumer.session_closed(now, session);
                self.stir(id, &name);
            }
        }
    }

    /// A consumer's deadline has passed.
    pub(super) fn consumer_timeout(&mut self, id: StreamId, name: &Arc<str>) {
        let now = self.now;
        let Some((_, member)) = self.catalog.get_mut(id).and_then(|s| s.member_mut(name)) else {
            return;
        };
        let unused = member.consumer.timeout(now);
        if unused && !self.is_bound(id, name) {
            self.remove_consumer(id, name);
            self.drop_unwanted(id);
            return;
        }
        self.mourning.insert((id, Arc::clone(name)));
        self.stir(id, name);
    }
}
