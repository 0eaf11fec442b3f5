//! Requests of NATS clients whose answers go to subjects: as JetStream's JSON, or as the message itself.
//!
//! To the rest of the broker they are requests of the server's own; here it is remembered whom each is
//! for. What an answer says is not decided here.

use bytes::Bytes;
use claudebus_storage::Log;
use hashbrown::HashMap;

use crate::model::answer::{self, AnswerKind};
use crate::model::api::{ApiRequest, ApiResponse};
use crate::model::error::ApiError;
use crate::model::event::Event;
use crate::model::request::{SessionId, Token};

use super::Broker;
use super::sessions::SERVER;

/// Whom an answer is for.
#[derive(Debug)]
struct Asker {
    session: SessionId,
    reply: String,
    kind: AnswerKind,
    /// Where it was asked, for direct gets, whose failure may be that nobody is there.
    subject: String,
}

/// The requests that are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Askers {
    next: u64,
    waiting: HashMap<Token, Asker>,
}

impl Askers {
    /// Whether a request is a direct get.
    pub(super) fn ask_directly(&self, token: Token) -> bool {
        self.waiting.get(&token).is_some_and(|asker| asker.kind.is_direct())
    }
}

impl<L: Log> Broker<L> {
    /// A request whose answer goes to a subject.
    pub(super) fn api_to(
        &mut self,
        from: SessionId,
        (reply, subject): (String, String),
        kind: AnswerKind,
        request: Result<ApiRequest, ApiError>,
    ) {
        let asker = Asker { session: from, reply, kind, subject };
        match request {
            Ok(request) => {
                let token = Token(self.askers.next);
                self.askers.next += 1;
                self.askers.waiting.insert(token, asker);
                self.api(SERVER, token, request);
            }
            Err(error) => {
                if !kind.is_direct() {
                    self.api_total += 1;
                    self.api_errors += 1;
                }
                self.answer_asker(asker, &Err(error));
            }
        }
    }

    /// A request of the server's own was answered.
    pub(super) fn answered(&mut self, token: Token, result: &Result<ApiResponse, ApiError>) {
        if let Some(asker) = self.askers.waiting.remove(&token) {
            self.answer_asker(asker, result);
        }
    }

    /// Sends one of several messages in answer to a request.
    pub(super) fn tell_asker(&mut self, token: Token, headers: Bytes, payload: Bytes) {
        let reply = self.askers.waiting.get(&token).map(|asker| asker.reply.clone());
        if let Some(reply) = reply {
            self.answer_subject(reply.into(), headers, payload);
        }
    }

    /// A request was answered by messages of [`tell_asker`](Self::tell_asker).
    pub(super) fn done_asking(&mut self, token: Token) {
        if let Some(asker) = self.askers.waiting.remove(&token) {
            self.outbox.send_in_order(asker.session, Event::Answered);
        }
    }

    /// A session is over: nobody waits for the rest of its answers.
    pub(super) fn forget_askers(&mut self, session: SessionId) {
        let gone = self.askers.waiting.extract_if(|_, asker| asker.session == session);
        for (token, _) in gone {
            self.directs.remove(&token);
        }
    }

    fn answer_asker(&mut self, asker: Asker, result: &Result<ApiResponse, ApiError>) {
        let Asker { session, reply, kind, subject } = asker;
        if kind.is_direct() {
            self.answer_directly(session, &reply, &subject, result);
        } else if !reply.is_empty() {
            let body = answer::body(kind, result, &self.names);
            self.answer_subject(reply.into(), Bytes::new(), body);
        }
        self.outbox.send_in_order(session, Event::Answered);
    }

    fn answer_directly(
        &mut self,
        session: SessionId,
        reply: &str,
        subject: &str,
        result: &Result<ApiResponse, ApiError>,
    ) {
        let (headers, payload) = match result {
            Ok(ApiResponse::Direct { stream, record, no_headers }) => {
                answer::direct(stream, record, *no_headers)
            }
            Ok(_) => return,
            Err(error) => match answer::direct_failure(error) {
                Some(status) => (status, Bytes::new()),
                None => return self.unheard(session, subject, reply),
            },
        };
        self.answer_subject(Bytes::copy_from_slice(reply.as_bytes()), headers, payload);
    }
}
