//! What a client publishes: messages for streams and subscribers, and requests to the server itself.

use bytes::Bytes;

use super::Session;
use super::acks::AckRun;
use super::{acks, jetstream, snapshots};
use crate::model::answer::NATS_VERSION;
use crate::model::batch::{MessageBatch, MessageView};
use crate::model::request::Request;
use crate::model::subject::is_publishable;
use crate::wire::Output;
use crate::wire::nats::line;

/// Where clients ask who they are.
const USER_INFO: &str = "$SYS.REQ.USER.INFO";

/// Where a message goes.
enum Way {
    /// To streams and subscribers.
    Plain,
    /// It acknowledges a delivery.
    Ack,
    /// To the server.
    Server,
    /// It says how far the client has come.
    Flow,
    /// A part of a snapshot has arrived.
    Snapshot,
    /// A part of what is to be restored.
    Restore,
    /// Where no client may publish.
    Nowhere,
}

fn way_of(message: &MessageView<'_>) -> Way {
    match message.subject.as_bytes() {
        // The first byte decides for nearly all.
        [b'$', rest @ ..] if rest.starts_with(b"JS.ACK.") => Way::Ack,
        [b'$', rest @ ..] if rest.starts_with(b"JS.API.") => Way::Server,
        [b'$', rest @ ..] if rest.starts_with(b"JS.FC.") => Way::Flow,
        [b'$', rest @ ..] if rest.starts_with(b"JS.SNAPSHOT.ACK.") => Way::Snapshot,
        [b'$', rest @ ..] if rest.starts_with(b"JS.SNAPSHOT.RESTORE.") => Way::Restore,
        [b'$', rest @ ..] if rest.starts_with(b"NRG.") => Way::Nowhere,
        b"$SYS.REQ.USER.INFO" => Way::Server,
        _ => Way::Plain,
    }
}

/// The subject that a message's stands for, if that has the domain in it.
fn mapped(message: &MessageView<'_>, domain: Option<&str>) -> Option<String> {
    // None has one for nearly all.
    domain.and_then(|domain| jetstream::mapped(message.subject, domain))
}

/// The same message under another subject.
fn renamed<'a>(message: &MessageView<'a>, subject: &'a str) -> MessageView<'a> {
    MessageView { subject, ..*message }
}

impl Session {
    /// Messages in a row, in the order they came.
    pub(super) fn publish(
        &mut self,
        mut batch: MessageBatch,
        requests: &mut Vec<Request>,
        out: &mut Output,
    ) {
        if self.connect.verbose && batch.len() > 1 {
            // Each is confirmed before the messages it leads to.
            for at in 0..batch.len() {
                self.publish(batch.range(at..at + 1), requests, out);
            }
            return;
        }
        if self.connect.pedantic {
            complain(&batch, out);
        }
        if !self.permissions.is_everything() {
            for violation in self.leave_out_forbidden(&mut batch) {
                self.say_violation(violation, requests, out);
            }
            if batch.is_empty() {
                return;
            }
        }
        self.say_ok(requests);
        let echo = self.connect.echo;
        let mut plain = 0;
        let mut acks = AckRun::default();
        for (at, message) in batch.iter().enumerate() {
            self.traffic.received(message.headers.len() + message.payload.len());
            let mapped = mapped(&message, self.domain.as_deref());
            let message = mapped.as_deref().map_or(message, |subject| renamed(&message, subject));
            let way = way_of(&message);
            if !matches!(way, Way::Plain) && plain < at {
                self.publishes = true;
                acks.flush(requests);
                requests.push(Request::Send { batch: batch.range(plain..at), echo });
            }
            match way {
                Way::Plain => continue,
                Way::Ack => acks::receive(&message, &mut acks, requests),
                Way::Flow => {
                    acks.flush(requests);
                    requests.push(Request::FlowAnswer { subject: message.subject.to_owned() });
                }
                Way::Snapshot => {
                    acks.flush(requests);
                    requests.push(Request::SnapshotAck { subject: message.subject.to_owned() });
                }
                Way::Restore => {
                    acks.flush(requests);
                    requests.push(snapshots::chunk(&message));
                    self.in_flight += 1;
                }
                Way::Nowhere => {
                    let subject = message.subject;
                    line::error(
                        out,
                        &format!("Permissions Violation for Publish to \"{subject}\""),
                    );
                }
                Way::Server if message.subject == USER_INFO => {
                    acks.flush(requests);
                    requests.extend(self.user_info(&message));
                }
                Way::Server => {
                    acks.flush(requests);
                    requests.push(Request::Overhear { batch: batch.range(at..at + 1), echo });
                    self.in_flight += jetstream::receive(&message, &self.permissions, requests);
                }
            }
            plain = at + 1;
        }
        acks.flush(requests);
        if plain < batch.len() {
            self.publishes = true;
            let rest = if plain == 0 { batch } else { batch.range(plain..batch.len()) };
            requests.push(Request::Send { batch: rest, echo });
        }
    }

    /// Leaves out what the client may not publish. Returns what it is told of that.
    fn leave_out_forbidden(&mut self, batch: &mut MessageBatch) -> Vec<String> {
        let mut violations = Vec::new();
        let Self { permissions, traffic, domain, .. } = self;
        batch.retain(|message| {
            let mapped = mapped(&message, domain.as_deref());
            let message = mapped.as_deref().map_or(message, |subject| renamed(&message, subject));
            let asks_server = !matches!(way_of(&message), Way::Plain);
            if let Err(violation) = permissions.check_publish(&message, asks_server) {
                traffic.received(message.headers.len() + message.payload.len());
                violations.push(violation);
                return false;
            }
            true
        });
        violations
    }

    /// What the server knows of who asks.
    fn user_info(&self, message: &MessageView<'_>) -> Option<Request> {
        let body = serde_json::json!({
            "server": { "name": &*self.server, "ver": NATS_VERSION, "jetstream": true },
            "data": { "user": &*self.user, "account": "$G", "account_name": "$G" },
        });
        (!message.reply.is_empty()).then(|| Request::Tell {
            subject: message.reply.to_owned(),
            headers: Bytes::new(),
            payload: body.to_string().into(),
        })
    }
}

/// Says of each message whose subject cannot be published to that it is wrong; it is delivered all the
/// same, as nats-server does.
fn complain(batch: &MessageBatch, out: &mut Output) {
    for _ in batch.iter().filter(|message| !is_publishable(message.subject)) {
        line::error(out, "Invalid Publish Subject");
    }
}
