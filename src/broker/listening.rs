//! Who listens to the subjects that consumers deliver to: push consumers' own, and pulls' inboxes.

use std::sync::Arc;

use bytes::Bytes;
use claudebus_storage::{Log, StreamId};

use crate::model::event::{CoreMessage, Event};
use crate::model::request::{Pull, ReplyTo, SessionId, Token};

use super::Broker;
use super::consumer::StatusFor;
use super::flow::Flow;
use super::member::Member;
use super::router::Route;
use super::sessions::SERVER;

/// Messages of the server's own pull for a push consumer: more than ever come, small enough to add.
const PUSH_BATCH: u64 = 1 << 56;

/// Characters of the name of one question of flow control.
const FLOW_NAME: usize = 8;

/// What the clients of a push consumer are asked: to publish to a subject once they come to it.
pub(super) struct Question {
    /// Where it is asked.
    to: String,
    group: Option<String>,
    /// The subject.
    subject: String,
}

impl<L: Log> Broker<L> {
    /// There is a new subscription: push consumers may have found a listener.
    pub(super) fn subscription_began(&mut self, pattern: &str) {
        for (id, name) in self.listened.concerned(pattern) {
            self.stir(id, &name);
        }
    }

    /// Subscriptions have ended: pulls whose reply subject nobody listens to any more are dropped when
    /// their consumers have their turn.
    pub(super) fn hear_of_ended_subscriptions(&mut self) {
        for pattern in self.router.take_ended() {
            for (id, name) in self.listened.concerned(&pattern) {
                let Some(stream) = self.catalog.get_mut(id) else { continue };
                if let Some((name, member)) = stream.member_mut(&name) {
                    member.unheard = true;
                    self.stir(id, &name);
                }
            }
        }
    }

    /// Forgets to which subjects pulls sent that are over, when there are many.
    pub(super) fn sweep_listened(&mut self) {
        if !self.listened.is_sweep_due() {
            return;
        }
        let catalog = &self.catalog;
        self.listened.sweep(|(id, name), subject| {
            let member = catalog.get(*id).and_then(|stream| stream.consumers.get(name));
            member.is_some_and(|member| member.consumer.sends_to(subject))
        });
    }

    /// Before delivering: pulls without listeners go; the server pulls for a push consumer.
    pub(super) fn update_pulls(&mut self, member: &mut Member) {
        if std::mem::take(&mut member.unheard) {
            let group = member.consumer.config().deliver_group.clone();
            let before = member.consumer.num_waiting();
            let delivers_to = member.consumer.config().deliver_subject.clone();
            let heard = |subject: &str| match delivers_to.as_deref() == Some(subject) {
                true => self.is_bound_to(subject, group.as_deref()),
                false => self.is_listened_to(subject, group.as_deref()),
            };
            member.consumer.drop_unheard_pulls(heard);
            if member.consumer.num_waiting() < before {
                // It was in use until now: the time to come back begins.
                member.consumer.session_closed(self.now, SERVER);
            }
            member.pushing &= member.consumer.num_waiting() > 0;
            if let Some(flow) = &mut member.flow {
                // Whoever was asked how far it has come may be gone.
                *flow = Flow::default();
            }
        }
        let config = member.consumer.config();
        let Some(subject) = config.deliver_subject.clone().filter(|_| !member.pushing) else {
            return;
        };
        if !self.is_bound_to(&subject, config.deliver_group.as_deref()) {
            return;
        }
        let heartbeat = (!config.idle_heartbeat.is_zero()).then_some(config.idle_heartbeat);
        let path = Arc::clone(member.consumer.path());
        let pull = Pull {
            reply: ReplyTo::Subject(subject),
            stream: path.stream.clone(),
            consumer: path.consumer.clone(),
            batch: PUSH_BATCH,
            max_bytes: 0,
            expires: None,
            no_wait: false,
            heartbeat,
            renewable: true,
            group: None,
        };
        let has_flow = member.consumer.config().flow_control;
        member.consumer.pull(self.now, SERVER, pull);
        member.pushing = true;
        // Who listens now has nothing on its way.
        member.flow = has_flow.then(Flow::default);
    }

    /// Who listens to a push consumer.
    pub(super) fn push_route(&self, member: &Member) -> Route {
        let config = member.consumer.config();
        match config.deliver_subject.as_deref() {
            Some(subject) => self.route_to(subject, config.deliver_group.as_deref()),
            None => Route::default(),
        }
    }

    /// Whether a session that listens can take more.
    pub(super) fn listeners_have_room(&self, route: &Route) -> bool {
        let limit = self.limits.max_session_deliveries;
        let mut ids = route.plain.iter().chain(route.queues.iter().flatten());
        ids.any(|id| self.router.get(*id).is_some_and(|s| self.sessions.has_room(s.session, limit)))
    }

    /// Who is subscribed to `subject`; with a group, its members alone.
    pub(super) fn route_to(&self, subject: &str, group: Option<&str>) -> Route {
        let mut route = self.router.find(subject);
        if let Some(group) = group {
            route.plain.clear();
            route.queues.retain(|members| {
                let queue = members.first().and_then(|id| self.router.get(*id));
                queue.is_some_and(|s| s.queue.as_deref() == Some(group))
            });
        }
        route
    }

    /// Who gets the next message to `subject`, counted.
    pub(super) fn listeners(&mut self, subject: &str) -> Vec<(SessionId, Token)> {
        let route = self.router.find(subject);
        let mut chosen = Vec::new();
        self.router.receivers(&route, SERVER, true, &mut self.rng, &mut chosen);
        chosen.into_iter().filter_map(|id| self.router.count_delivery(id, 1)).collect()
    }

    /// What the client of a push consumer is to be asked now, if anything.
    pub(super) fn question_of_flow(&mut self, member: &mut Member) -> Option<Question> {
        let flow = member.flow.as_mut().filter(|flow| flow.is_due())?;
        let config = member.consumer.config();
        let to = config.deliver_subject.clone()?;
        let path = member.consumer.path();
        let name = self.draw_name(FLOW_NAME);
        let subject = format!("$JS.FC.{}.{}.{name}", path.stream, path.consumer);
        flow.ask(subject.clone());
        Some(Question { to, group: config.deliver_group.clone(), subject })
    }

    /// Asks who listens to a push consumer, after all that was sent before.
    pub(super) fn ask_listeners(&mut self, Question { to, group, subject }: Question) {
        let route = self.route_to(&to, group.as_deref());
        let mut chosen = Vec::new();
        self.router.receivers(&route, SERVER, true, &mut self.rng, &mut chosen);
        let message = CoreMessage {
            subject: to.into(),
            reply: subject.into(),
            headers: Bytes::from_static(b"NATS/1.0 100 FlowControl Request\r\n\r\n"),
            ..CoreMessage::default()
        };
        for id in chosen {
            if let Some((session, token)) = self.router.count_delivery(id, 1) {
                let message = message.clone();
                self.outbox.send_in_order(session, Event::Message { token, message });
            }
        }
    }

    /// A client has answered such a question.
    pub(super) fn flow_answered(&mut self, subject: &str) {
        let mut tokens = subject.split('.').skip(2);
        let (Some(stream), Some(consumer)) = (tokens.next(), tokens.next()) else { return };
        let Some(id) = self.catalog.id_of(stream) else { return };
        let found = self.catalog.get_mut(id).and_then(|stream| stream.member_mut(consumer));
        if let Some((name, member)) = found
            && let Some(flow) = &mut member.flow
        {
            flow.answered(subject);
            self.stir(id, &name);
        }
    }

    fn is_listened_to(&self, subject: &str, group: Option<&str>) -> bool {
        !self.route_to(subject, group).has_no_subscriptions()
    }

    /// Whether a push consumer's subject has a listener.
    pub(super) fn is_bound(&self, id: StreamId, name: &str) -> bool {
        self.catalog.get(id).and_then(|s| s.consumers.get(name)).is_some_and(|member| {
            let config = member.consumer.config();
            config
                .deliver_subject
                .as_deref()
                .is_some_and(|subject| self.is_bound_to(subject, config.deliver_group.as_deref()))
        })
    }

    /// Whether somebody is subscribed to `subject` itself, in that group or in none. Other subscriptions
    /// get what is delivered there, but whoever only looks on must not use messages up (nats-server does
    /// the same).
    fn is_bound_to(&self, subject: &str, group: Option<&str>) -> bool {
        let Route { plain, queues, .. } = self.route_to(subject, group);
        let listeners = if group.is_some() { queues.concat() } else { plain };
        let is_of = |id| self.router.get(id).is_some_and(|found| *found.subject == *subject);
        listeners.into_iter().any(is_of)
    }

    /// Tells a status to who waits for it.
    pub(super) fn tell_status(&mut self, (session, reply, mut status): StatusFor) {
        match reply {
            ReplyTo::Session(token) => {
                if status.ended {
                    self.sessions.forget_pull(session, token);
                }
                self.outbox.send_in_order(session, Event::PullStatus { token, status });
            }
            ReplyTo::Subject(subject) => {
                status.reply = Some(Arc::from(subject.as_str()));
                for (session, token) in self.listeners(&subject) {
                    let status = status.clone();
                    self.outbox.send_in_order(session, Event::PullStatus { token, status });
                }
            }
        }
    }

    /// The same, once everything decided so far is durable.
    pub(super) fn tell_status_when_durable(&mut self, (session, reply, mut status): StatusFor) {
        let to = match reply {
            ReplyTo::Session(token) => vec![(session, token)],
            ReplyTo::Subject(subject) => {
                status.reply = Some(Arc::from(subject.as_str()));
                self.listeners(&subject)
            }
        };
        for (session, token) in to {
            let status = status.clone();
            self.outbox.send_when_durable(session, Event::PullStatus { token, status });
        }
    }
}
