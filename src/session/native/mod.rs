//! Sessions of `claudebus/1`: one for each QUIC stream, told apart by their first frame.

mod consumer;
mod control;
mod messages;
mod publisher;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use consumer::Consumer;
use messages::Messages;
use publisher::Publisher;

use crate::model::api::ApiRequest;
use crate::model::error::ApiError;
use crate::model::event::Event;
use crate::model::limits::Limits;
use crate::model::request::{ConnectionId, Request, Token};
use crate::wire::native::{ClientFrame, Frame, FrameError, Hello, Output, ServerFrame, Welcome};

/// Requests of one stream that wait for their answers before more frames are taken. 64: answers
/// can be large, and this bounds how many a client that does not read makes the server keep.
pub const MAX_REQUESTS_IN_FLIGHT: usize = 64;

/// Names the last request of a stream, whose answer tells that all before it are answered. No
/// client can choose it: it does not fit the wire.
const LAST: Token = Token(u64::MAX);

/// The protocol state of one stream.
#[derive(Debug)]
pub struct Session {
    state: State,
    /// Whose stream it is.
    connection: ConnectionId,
    limits: Arc<Limits>,
    /// Requests whose answers are to come.
    in_flight: usize,
    /// Whether the client has finished and all but requests in flight is answered.
    finished: bool,
}

#[derive(Debug)]
enum State {
    /// The first stream, before HELLO.
    Greeting,
    /// The first stream, after HELLO and before the shell decided.
    Greeted,
    Control,
    /// Another stream, before its first frame.
    Opening,
    Publisher(Publisher),
    Consumer(Consumer),
    Messages(Messages),
}

/// Why a stream does not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ending {
    /// The peer broke the protocol: the connection is to be closed with the error's code.
    #[error(transparent)]
    Broken(#[from] FrameError),
    /// REFUSED was written, and the stream is to be finished.
    #[error(transparent)]
    Refused(ApiError),
    /// The client has finished, and has all its answers: the stream is to be finished.
    #[error("the stream is done")]
    Done,
}

impl Session {
    /// The session of a connection's first stream, which must say HELLO.
    #[must_use]
    pub fn first(limits: Arc<Limits>, connection: ConnectionId) -> Self {
        Self { state: State::Greeting, connection, limits, in_flight: 0, finished: false }
    }

    /// The session of a stream that was opened after WELCOME.
    #[must_use]
    pub fn further(limits: Arc<Limits>, connection: ConnectionId) -> Self {
        Self { state: State::Opening, connection, limits, in_flight: 0, finished: false }
    }

    /// Takes a frame. Adds what the broker is asked to `requests`, and immediate answers to `out`.
    /// Returns HELLO, which the caller answers with [`welcome`](Self::welcome) or
    /// [`refuse`](Self::refuse).
    ///
    /// # Errors
    /// [`Ending`]. What was added to `requests` and `out` still counts.
    pub fn receive(
        &mut self,
        frame: Frame,
        requests: &mut Vec<Request>,
        out: &mut Output,
    ) -> Result<Option<Hello>, Ending> {
        let frame = ClientFrame::decode(frame)?;
        let before = requests.len();
        match &mut self.state {
            State::Greeting => {
                let ClientFrame::Hello(hello) = frame else {
                    return Err(unexpected(&frame, "the first frame of a connection is HELLO"));
                };
                self.state = State::Greeted;
                return Ok(Some(hello));
            }
            State::Greeted => return Err(unexpected(&frame, "wait for WELCOME first")),
            State::Opening => self.open(frame, requests, out)?,
            State::Control => control::receive(frame, requests, out)?,
            State::Publisher(publisher) => publisher.receive(frame, &self.limits, requests)?,
            State::Consumer(consumer) => consumer.receive(frame, requests)?,
            State::Messages(messages) => messages.receive(frame, &self.limits, requests, out)?,
        }
        let asked = requests.iter().skip(before);
        self.in_flight += asked.filter(|request| matches!(request, Request::Api { .. })).count();
        Ok(None)
    }

    /// Whether so many requests wait for their answers that no further frame may be given to
    /// [`receive`](Self::receive) until an event came.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.in_flight >= MAX_REQUESTS_IN_FLIGHT
    }

    /// The client has finished its direction. Once all before is answered, an event gives
    /// [`Ending::Done`].
    ///
    /// # Errors
    /// [`Ending::Done`] at once if the broker was never told of the session.
    pub fn finish(&mut self, requests: &mut Vec<Request>) -> Result<(), Ending> {
        if !self.is_open() {
            return Err(Ending::Done);
        }
        requests.push(Request::Api { token: LAST, request: ApiRequest::ServerInfo });
        Ok(())
    }

    /// Answers HELLO: requests may follow.
    pub fn welcome(&mut self, welcome: Welcome, requests: &mut Vec<Request>, out: &mut Output) {
        self.state = State::Control;
        requests.push(Request::Opened { connection: self.connection });
        ServerFrame::Welcome(welcome).encode(out);
    }

    /// Ends the stream with an error.
    pub fn refuse(&mut self, error: ApiError, out: &mut Output) -> Ending {
        ServerFrame::Refused(error.clone()).encode(out);
        Ending::Refused(error)
    }

    /// Whether the broker was told of the session, so that it must be told of its end.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !matches!(self.state, State::Greeting | State::Greeted | State::Opening)
    }

    /// Whether the stream only publishes, so that its reading may be slowed down when storage is
    /// under pressure. Others carry acknowledgements and requests, which make room.
    #[must_use]
    pub fn is_publisher(&self) -> bool {
        matches!(self.state, State::Publisher(_) | State::Messages(_))
    }

    /// Takes an event of the broker and adds the frames it becomes to `out`.
    ///
    /// # Errors
    /// [`Ending::Refused`] if the stream is over with it.
    pub fn event(&mut self, event: Event, out: &mut Output) -> Result<(), Ending> {
        if let Event::Close { reason } = event {
            return Err(self.refuse(reason, out));
        }
        if let Event::Answer { token: LAST, .. } = event {
            self.finished = true;
        } else {
            let answered = usize::from(matches!(event, Event::Answer { .. }));
            self.in_flight = self.in_flight.saturating_sub(answered);
            self.answer(event, out)?;
        }
        // A request that waits for the disk may be answered after later ones.
        if self.finished && self.in_flight == 0 { Err(Ending::Done) } else { Ok(()) }
    }

    fn answer(&mut self, event: Event, out: &mut Output) -> Result<(), Ending> {
        match &mut self.state {
            State::Control => control::event(event, out),
            State::Publisher(publisher) => publisher.event(&event, out),
            State::Consumer(consumer) => return consumer.event(event, out),
            State::Messages(messages) => messages.event(event, out),
            State::Greeting | State::Greeted | State::Opening => {}
        }
        Ok(())
    }

    /// Bytes of deliveries that events were made of since the last call. Once they are written, the
    /// broker is to be given them back by [`Request::Sent`].
    pub fn take_delivered(&mut self) -> usize {
        match &mut self.state {
            State::Consumer(consumer) => consumer.take_delivered(),
            State::Messages(messages) => messages.take_delivered(),
            _ => 0,
        }
    }

    fn open(
        &mut self,
        frame: ClientFrame,
        requests: &mut Vec<Request>,
        out: &mut Output,
    ) -> Result<(), Ending> {
        match frame {
            ClientFrame::OpenPublisher { producer } => {
                requests.push(Request::Opened { connection: self.connection });
                self.state = State::Publisher(Publisher::new(producer));
                ServerFrame::PublisherReady.encode(out);
            }
            ClientFrame::OpenConsumer { stream, consumer } => {
                self.state =
                    State::Consumer(Consumer::open(self.connection, (stream, consumer), requests));
            }
            ClientFrame::OpenMessages => {
                requests.push(Request::Opened { connection: self.connection });
                self.state = State::Messages(Messages::default());
                ServerFrame::MessagesReady.encode(out);
            }
            other => {
                let rule = "the first frame of a further stream is OPEN_PUBLISHER, OPEN_CONSUMER \
                            or OPEN_MESSAGES";
                return Err(unexpected(&other, rule));
            }
        }
        Ok(())
    }
}

fn unexpected(frame: &ClientFrame, rule: &'static str) -> Ending {
    Ending::Broken(FrameError::Unexpected { frame: frame.name(), rule })
}
