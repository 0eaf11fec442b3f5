//! Sessions of NATS clients: one for each connection, over TCP or WebSocket.
//!
//! A session turns operations into requests, and events into lines. It knows who is subscribed under
//! which `sid`, and how JetStream's subjects are read; what a request leads to is the broker's part, and
//! sockets, time and secrets are the shell's.

mod acks;
mod jetstream;
mod permissions;
mod publishing;
mod pulls;
mod snapshots;
mod statuses;
mod subscriptions;
#[cfg(test)]
mod tests;
mod unsupported;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use permissions::Permissions;
use subscriptions::Subscriptions;

use claudebus_storage::prefetch::{AHEAD, prefetch};

use crate::access::Grant;
use crate::model::event::{ConsumerPath, CoreMessage, Delivery, Event};
use crate::model::limits::Limits;
use crate::model::request::{Request, Token};
use crate::wire::Output;
use crate::wire::nats::{Connect, Info, Operation, ProtocolError, line};

/// Requests of one session that wait for their answers before more operations are taken. 256: clients
/// send some at once, and this bounds how many a client that does not read makes the server keep.
pub const MAX_REQUESTS_IN_FLIGHT: usize = 256;

/// Signs of life that a client may leave unanswered.
pub const MAX_PINGS: u32 = 2;

/// What the answer to PING waits for.
const PONG: Token = Token(0);
/// What `+OK` waits for.
const OK: Token = Token(1);
/// What the oldest of [`Session`]'s violations waits for.
const VIOLATION: Token = Token(2);

/// The protocol state of one connection.
#[derive(Debug)]
pub struct Session {
    limits: Arc<Limits>,
    /// The server's name, for answers that show it.
    server: Arc<str>,
    /// The domain of its streams, if they have one.
    domain: Option<Arc<str>>,
    connect: Connect,
    /// Whether the client may do more than say who it is.
    admitted: bool,
    /// Which user it is; empty for nobody in particular.
    user: Box<str>,
    /// What the server says of itself once more, behind the first answer to PING.
    info: Option<Box<Info>>,
    /// What it may do then.
    permissions: Permissions,
    /// What a verbose client is told once all before it was confirmed.
    violations: VecDeque<String>,
    subscriptions: Subscriptions,
    /// Requests whose answers are to come.
    in_flight: usize,
    /// Whether a PING of the client was answered.
    has_ponged: bool,
    /// PINGs that the client has not answered.
    unanswered: u32,
    /// See [`Session::take_delivered`].
    delivered: usize,
    /// Whether what was received last was published where a stream may store it.
    publishes: bool,
    traffic: Traffic,
}

/// What a session has received and sent since it began. Bytes are those of headers and payloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Messages from the client, acknowledgements and requests among them.
    pub in_msgs: u64,
    /// Their bytes.
    pub in_bytes: u64,
    /// Messages to the client, statuses among them.
    pub out_msgs: u64,
    /// Their bytes.
    pub out_bytes: u64,
}

impl Traffic {
    fn received(&mut self, bytes: usize) {
        self.in_msgs += 1;
        self.in_bytes += bytes as u64;
    }

    fn sent(&mut self, bytes: usize) {
        self.out_msgs += 1;
        self.out_bytes += bytes as u64;
    }
}

/// Why a connection does not go on. What the client is told was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ending {
    /// The client broke the protocol.
    #[error("{0}")]
    Broken(ProtocolError),
    /// The client was told this, and is not served further.
    #[error("{0}")]
    Refused(&'static str),
    /// The server stops.
    #[error("the server is shutting down")]
    Stopping,
}

impl Session {
    /// A session of a client that has said nothing yet. `server` is the server's name; `open` tells whether
    /// everyone is let in.
    #[must_use]
    pub fn new(limits: Arc<Limits>, server: Arc<str>, open: bool) -> Self {
        Self {
            limits,
            server,
            domain: None,
            connect: Connect::default(),
            admitted: open,
            user: Box::default(),
            info: None,
            permissions: Permissions::of_everything(),
            violations: VecDeque::new(),
            subscriptions: Subscriptions::default(),
            in_flight: 0,
            has_ponged: false,
            unanswered: 0,
            delivered: 0,
            publishes: false,
            traffic: Traffic::default(),
        }
    }

    /// The same of a server whose streams are in this domain: what is said to `$JS.<domain>.API` is said to
    /// `$JS.API`.
    #[must_use]
    pub fn in_domain(mut self, domain: Option<Arc<str>>) -> Self {
        self.domain = domain;
        self
    }

    /// Says who the server is, which comes before all else.
    pub fn greet(&mut self, info: Info, out: &mut Output) {
        line::info(out, &info);
        // It has been signed by then.
        self.info = Some(Box::new(Info { nonce: None, ..info }));
    }

    /// Takes an operation. Adds what the broker is asked to `requests`, and immediate answers to `out`.
    /// Returns whether it was a CONNECT that the shell must decide on: by [`admit`](Self::admit), or by
    /// [`refuse`](Self::refuse).
    ///
    /// # Errors
    /// [`Ending`]. What was added to `requests` and `out` still counts.
    pub fn receive(
        &mut self,
        operation: Operation,
        requests: &mut Vec<Request>,
        out: &mut Output,
    ) -> Result<bool, Ending> {
        if let Operation::Connect(connect) = operation {
            return self.connect(*connect, out).map(|()| true);
        }
        if !self.admitted {
            return Err(self.refuse("Authorization Violation", out));
        }
        match operation {
            Operation::Connect(_) => {}
            Operation::Publish(batch) => self.publish(batch, requests, out),
            Operation::Subscribe { sid, subject, queue } => {
                self.subscribe(&sid, &subject, queue, requests, out);
            }
            Operation::Unsubscribe { sid, max } => {
                requests.extend(self.subscriptions.remove(&sid, max));
                self.say_ok(requests);
            }
            Operation::Ping => requests.push(Request::Barrier { token: PONG }),
            Operation::Pong => self.unanswered = 0,
        }
        Ok(false)
    }

    fn connect(&mut self, connect: Connect, out: &mut Output) -> Result<(), Ending> {
        if !matches!(connect.protocol, 0 | 1) {
            return Err(self.refuse("invalid client protocol", out));
        }
        if connect.no_responders && !connect.headers {
            return Err(self.refuse("no responders requires headers support", out));
        }
        self.connect = connect;
        Ok(())
    }

    /// What the client has said of itself.
    #[must_use]
    pub fn client(&self) -> &Connect {
        &self.connect
    }

    /// Says which user the client is and what it may do, before it is let in. Without this it is nobody in
    /// particular, and everything. Subscriptions that it had begun under other permissions end.
    pub fn permit(&mut self, user: &str, grant: Arc<Grant>, requests: &mut Vec<Request>) {
        self.user = user.into();
        if **self.permissions.grant() == *grant {
            return;
        }
        requests.extend(self.subscriptions.remove_all());
        requests.push(Request::Grant(Arc::clone(&grant)));
        self.permissions = Permissions::new(grant, self.permissions.now());
    }

    /// Says what time it is, on a clock that never goes back. To be called before operations and events
    /// are given; permissions to answer depend on it.
    pub fn set_time(&mut self, now: Duration) {
        self.permissions.set_time(now);
    }

    /// Lets the client in.
    pub fn admit(&mut self, requests: &mut Vec<Request>, out: &mut Output) {
        self.admitted = true;
        if self.connect.verbose {
            line::ok(out);
        }
        requests.push(Request::NoResponders { tell: self.connect.no_responders });
    }

    /// Whether the client was let in.
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        self.admitted
    }

    /// Tells the client why it is not served.
    pub fn refuse(&mut self, why: &'static str, out: &mut Output) -> Ending {
        line::error(out, why);
        Ending::Refused(why)
    }

    /// Tells the client how it broke the protocol.
    pub fn break_off(&mut self, error: ProtocolError, out: &mut Output) -> Ending {
        if let Some(text) = error.wire_text() {
            line::error(out, text);
        }
        Ending::Broken(error)
    }

    /// Asks the client for a sign of life.
    ///
    /// # Errors
    /// [`Ending::Refused`] if it has not answered several times.
    pub fn ping(&mut self, out: &mut Output) -> Result<(), Ending> {
        if self.unanswered >= MAX_PINGS {
            return Err(self.refuse("Stale Connection", out));
        }
        self.unanswered += 1;
        line::ping(out);
        Ok(())
    }

    /// Whether operations wait until requests are answered.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.in_flight >= MAX_REQUESTS_IN_FLIGHT
    }

    /// Whether the client has published where a stream may store it since the last call.
    pub fn take_publishes(&mut self) -> bool {
        std::mem::take(&mut self.publishes)
    }

    /// Bytes of deliveries that were written to the output since the last call, as
    /// [`Request::Sent`] counts them.
    pub fn take_delivered(&mut self) -> usize {
        std::mem::take(&mut self.delivered)
    }

    /// Says anew who the server is, to a client that takes that at any time and that has had its first
    /// answer: some take whatever comes first for that.
    pub fn inform(&mut self, info: &Info, out: &mut Output) {
        if self.connect.protocol >= 1 && self.has_ponged {
            line::info(out, info);
        }
    }

    /// What was received and sent so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Subscriptions of the client.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    /// Takes an event.
    ///
    /// # Errors
    /// [`Ending`] if the connection is over.
    pub fn event(&mut self, event: Event, out: &mut Output) -> Result<(), Ending> {
        match event {
            Event::Message { token, message } => {
                if let Some((sid, queue)) = self.subscriptions.get(token) {
                    let CoreMessage { subject, reply, headers, payload } = &message;
                    if self.permissions.may_receive(subject, queue) {
                        let with_headers = self.connect.headers;
                        line::message(out, subject, sid, reply, headers, payload, with_headers);
                        self.permissions.received(reply);
                        let head = if with_headers { headers.len() } else { 0 };
                        self.traffic.sent(head + payload.len());
                    }
                    self.subscriptions.count(token, 1);
                }
            }
            Event::Deliver { token, consumer, deliveries } => {
                self.delivered += deliveries.iter().map(Delivery::charge).sum::<usize>();
                self.deliver(token, &consumer, &deliveries, out);
            }
            Event::PullStatus { token, status } => {
                if let Some(sid) = self.subscriptions.sid(token) {
                    self.traffic.sent(statuses::tell(out, sid, &status));
                    self.subscriptions.count(token, 1);
                }
            }
            Event::Barrier { token: OK } => line::ok(out),
            Event::Barrier { token: VIOLATION } => {
                if let Some(text) = self.violations.pop_front() {
                    line::error(out, &text);
                }
            }
            Event::Barrier { .. } => {
                self.has_ponged = true;
                line::pong(out);
                self.tell_account(out);
            }
            Event::Unsubscribed { token } => self.subscriptions.forget(token),
            Event::Answered => self.in_flight = self.in_flight.saturating_sub(1),
            Event::Close { .. } => return Err(Ending::Stopping),
            // What is lost shows as a gap in the sequences of deliveries; the protocol has no word for it.
            Event::Gap { .. }
            // Answers to what no session of this kind asks.
            | Event::Published { .. }
            | Event::Refused { .. }
            | Event::AckConfirmed { .. }
            | Event::Answer { .. } => {}
        }
        Ok(())
    }

    /// Tells a client that takes INFO at any time which account it is in, as nats-server does behind the
    /// first PONG. Before that, a client may take nothing else for one.
    fn tell_account(&mut self, out: &mut Output) {
        if self.connect.protocol < 1 {
            return;
        }
        if let Some(mut info) = self.info.take() {
            info.connect_info = true;
            info.remote_account = Some("$G".to_owned());
            line::info(out, &info);
        }
    }

    /// Deliveries of a consumer. One of a subject that the client may not get is left out, and stays
    /// unacknowledged, as in nats-server.
    fn deliver(
        &mut self,
        token: Token,
        consumer: &ConsumerPath,
        deliveries: &[Delivery],
        out: &mut Output,
    ) {
        let Some((sid, queue)) = self.subscriptions.get(token) else { return };
        let with_headers = self.connect.headers;
        let prefix = acks::prefix(consumer);
        for part in deliveries.chunks(AHEAD) {
            prefetch(part.iter().map(|delivery| &**delivery.record.data()));
            for delivery in part {
                if self.permissions.may_receive(delivery.record.subject().as_bytes(), queue) {
                    let bytes = acks::deliver(out, with_headers, sid, &prefix, delivery);
                    self.traffic.sent(bytes);
                    if self.permissions.notes_replies() {
                        self.permissions.received(&acks::subject(&prefix, delivery));
                    }
                }
            }
        }
        self.subscriptions.count(token, deliveries.len() as u64);
    }

    /// Confirms an operation to a client that wants that, behind the messages of those before it.
    fn say_ok(&self, requests: &mut Vec<Request>) {
        if self.connect.verbose {
            requests.push(Request::Barrier { token: OK });
        }
    }

    /// Tells of a violation, in its place among the confirmations if the client wants those.
    fn say_violation(&mut self, text: String, requests: &mut Vec<Request>, out: &mut Output) {
        if self.connect.verbose {
            self.violations.push_back(text);
            requests.push(Request::Barrier { token: VIOLATION });
        } else {
            line::error(out, &text);
        }
    }

    fn subscribe(
        &mut self,
        sid: &str,
        subject: &str,
        queue: Option<Box<str>>,
        requests: &mut Vec<Request>,
        out: &mut Output,
    ) {
        if !crate::model::subject::is_pattern(subject) {
            return line::error(out, "Invalid Subject");
        }
        if self.subscriptions.len() >= self.limits.max_subscriptions {
            return line::error(out, "maximum subscriptions exceeded");
        }
        if let Err(violation) = self.permissions.check_subscribe(subject, queue.as_deref()) {
            return self.say_violation(violation, requests, out);
        }
        if let Some(token) = self.subscriptions.add(sid, queue.as_deref()) {
            let (subject, queue) = (subject.to_owned(), queue.map(String::from));
            requests.push(Request::Subscribe { token, subject, queue });
        }
        self.say_ok(requests);
    }
}
