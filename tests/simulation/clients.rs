//! The clients: what they have asked and not heard of, and how what they hear goes into the book.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use claudebus::model::api::{ApiRequest, ApiResponse};
use claudebus::model::batch::MessageBatch;
use claudebus::model::error::ApiError;
use claudebus::model::event::{CoreMessage, Delivery, Event, Published};
use claudebus::model::headers::{get, names};
use claudebus::model::request::{ConnectionId, ProducerId, Request, SessionId, Token};
use claudebus_storage::{Record, StreamId};

use crate::batches::Batch;
use crate::book::{Book, Id, matches};
use crate::order::Turns;
use crate::world::{Halt, World};

/// Where clients live. Two publish, two consume, one manages.
pub const SESSIONS: [SessionId; 3] = [SessionId(1), SessionId(2), SessionId(3)];
/// Turns after which an answer is overdue.
const PATIENCE: usize = 2_000;

/// What a client waits for, by token.
#[derive(Clone, Debug)]
pub enum Asked {
    /// Messages of a consumer.
    Pull { stream: usize, epoch: u64, consumer: usize, since: u64, at: Duration },
    /// A confirmation that deliveries were settled.
    Settle { stream: usize, epoch: u64, consumer: usize, since: u64, seqs: Vec<u64> },
    /// A purge of what stood at these sequences.
    Purge { stream: usize, epoch: u64, seqs: Vec<u64> },
    /// The deletion of a message.
    Delete { stream: usize, epoch: u64, seq: u64 },
    /// Messages that are stored all together.
    Batch { batch: usize, ids: Vec<Id> },
    /// The end of dead letters.
    Exhume { stream: usize, epoch: u64, letters: Vec<u64> },
    /// The answer that somebody waits for in [`Simulation::ask`].
    Answer,
}

/// One run.
pub struct Simulation {
    pub world: World,
    pub book: Book,
    pub asked: BTreeMap<u64, Asked>,
    pub next_token: u64,
    /// Messages with a counter that were not answered: they are sent again after a restart.
    pub unanswered: BTreeMap<(u128, u64), Id>,
    /// Messages with an id that were not answered.
    pub unanswered_ids: Vec<Id>,
    pub batches: Vec<Batch>,
    pub unanswered_batches: Vec<usize>,
    answer: Option<Result<ApiResponse, ApiError>>,
    /// The streams that were named.
    names: BTreeMap<StreamId, Arc<str>>,
}

impl Simulation {
    /// A run that has not begun.
    pub fn new(world: World) -> Self {
        Self {
            world,
            book: Book::default(),
            asked: BTreeMap::new(),
            next_token: 1,
            unanswered: BTreeMap::new(),
            unanswered_ids: Vec::new(),
            batches: Vec::new(),
            unanswered_batches: Vec::new(),
            names: BTreeMap::new(),
            answer: None,
        }
    }

    /// Notes that a client waits.
    pub fn ask_later(&mut self, asked: Asked) -> Token {
        let token = self.next_token;
        self.next_token += 1;
        self.asked.insert(token, asked);
        Token(token)
    }

    /// Asks, and lets time pass until the answer is there.
    pub fn ask(&mut self, request: ApiRequest) -> Result<Result<ApiResponse, ApiError>, Halt> {
        let text = format!("{request:?}");
        self.world.trace.say(format_args!("ask {text}"));
        let token = self.ask_later(Asked::Answer);
        self.world.handle(SESSIONS[2], Request::Api { token, request });
        self.answer = None;
        for _ in 0..PATIENCE {
            self.turn()?;
            if let Some(answer) = self.answer.take() {
                return Ok(answer);
            }
        }
        Err(Halt::Violation(format!("no answer to {text}")))
    }

    /// One turn of the broker. What it tells goes into the book.
    pub fn turn(&mut self) -> Result<(), Halt> {
        for (session, event) in self.world.turn()? {
            self.world.trace.say(format_args!("{} hears {event:?}", session.0));
            self.hear(event).map_err(Halt::Violation)?;
        }
        Ok(())
    }

    fn hear(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Published { named, ranges } => {
                self.names.extend(named);
                for Published { first, count, stream, seq, duplicate } in ranges {
                    let name = self.names.get(&stream).cloned().ok_or("a stream without a name")?;
                    for n in 0..count {
                        let at = if seq == 0 { 0 } else { seq + n };
                        if !duplicate && self.world.has_left_out(stream, at) {
                            return Err(format!("{name}: {at} was left out before"));
                        }
                        self.hear_counter(first + n, &name, at, duplicate)?;
                    }
                }
                Ok(())
            }
            Event::Refused { counter, error } => self.hear_refusal(counter, &error),
            Event::Message { message, .. } => self.hear_message(&message),
            Event::Deliver { token, deliveries, .. } => {
                let asked = self.asked.get(&token.0).cloned();
                let bytes = deliveries.iter().map(Delivery::charge).sum();
                self.world.handle(SESSIONS[1], Request::Sent { bytes });
                deliveries
                    .iter()
                    .try_for_each(|delivery| self.hear_delivery(asked.as_ref(), delivery))
            }
            Event::PullStatus { token, status } => {
                if status.ended {
                    self.asked.remove(&token.0);
                }
                Ok(())
            }
            // A torn end of the journal may be taken for one that was acknowledged.
            Event::Gap { gap, .. } if gap.is_certain => Err(format!("a loss is reported: {gap}")),
            Event::Gap { .. } => Ok(()),
            Event::AckConfirmed { token, result } => {
                if let Some(Asked::Settle { stream, epoch, consumer, since, seqs }) =
                    self.asked.remove(&token.0)
                    && result.is_ok()
                    && let Some(book) = self.book.streams.get_mut(stream)
                    && book.epoch == epoch
                    && book.consumers[consumer].since == since
                {
                    self.world.seen.confirmed += seqs.len() as u64;
                    book.consumers[consumer].confirmed.extend(seqs);
                }
                Ok(())
            }
            Event::Answer { token, result } => self.hear_answer(token, result),
            Event::Unsubscribed { .. } => Ok(()),
            Event::Answered | Event::Barrier { .. } => Err("nobody asked for that".to_owned()),
            Event::Close { reason } => Err(format!("a session was closed: {reason:?}")),
        }
    }

    fn hear_answer(
        &mut self,
        token: Token,
        result: Result<ApiResponse, ApiError>,
    ) -> Result<(), String> {
        let Some(asked) = self.asked.remove(&token.0) else { return Ok(()) };
        let is_ok = result.is_ok();
        match asked {
            Asked::Answer => self.answer = Some(result),
            Asked::Batch { batch, ids } => {
                let answer = match result {
                    Ok(ApiResponse::Batch { duplicate, stored }) => Ok((duplicate, stored)),
                    Ok(other) => return Err(format!("a batch is answered by {other:?}")),
                    Err(error) => Err(error),
                };
                return self.hear_batch(batch, &ids, answer);
            }
            Asked::Purge { stream, epoch, seqs } if is_ok => {
                let book = &mut self.book.streams[stream];
                if book.epoch == epoch {
                    book.gone.extend(seqs.into_iter().map(|seq| (seq, "it was purged")));
                }
            }
            Asked::Delete { stream, epoch, seq } if is_ok => {
                let book = &mut self.book.streams[stream];
                if book.epoch == epoch {
                    book.gone.insert(seq, "it was deleted");
                }
            }
            Asked::Exhume { stream, epoch, letters } if is_ok => {
                let book = &mut self.book.streams[stream];
                if book.epoch == epoch {
                    letters.iter().for_each(|letter| {
                        book.letters.remove(letter);
                    });
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn hear_counter(
        &mut self,
        counter: u64,
        stream: &str,
        seq: u64,
        duplicate: bool,
    ) -> Result<(), String> {
        // Counters of all producers are different, so that an answer needs no name.
        let Some(id) = self.id_of_counter(counter) else {
            return Err(format!("an answer to counter {counter}, which nobody sent"));
        };
        let number = self.book.sent.get(&id).and_then(|sent| sent.number);
        if let Some(number) = number {
            self.unanswered.remove(&number);
        }
        self.acknowledged(id, stream, seq, duplicate)
    }

    fn id_of_counter(&self, counter: u64) -> Option<Id> {
        // Counters are ids.
        self.book.sent.contains_key(&counter).then_some(counter)
    }

    /// Notes that a message is stored, or was stored before.
    pub fn acknowledged(
        &mut self,
        id: Id,
        stream: &str,
        seq: u64,
        duplicate: bool,
    ) -> Result<(), String> {
        let Some(sent) = self.book.sent.get_mut(&id) else { return Ok(()) };
        let book = &self.book.streams[sent.stream];
        if sent.epoch != book.epoch || stream != book.name || seq == 0 {
            return Ok(());
        }
        if sent.is_acked && !duplicate {
            return Err(format!("message {id} was stored again, at {seq} of {stream}"));
        }
        if let Some(known) = sent.seq
            && known != seq
        {
            return Err(format!("message {id} stood at {known} of {stream}, now at {seq}"));
        }
        if !sent.is_acked {
            sent.acked_in = if duplicate { 0 } else { self.world.life };
        }
        sent.is_acked = true;
        self.world.seen.published += u64::from(!duplicate);
        let (index, is_rollup, subject) = (sent.stream, sent.is_rollup, sent.subject.clone());
        self.book.observe(index, seq, id)?;
        self.planned(id);
        if is_rollup {
            let sent = &self.book.sent;
            let book = &mut self.book.streams[index];
            let of_subject = |id: &Id| sent.get(id).is_some_and(|s| s.subject == subject);
            let before: Vec<u64> = book
                .by_seq
                .range(..seq)
                .filter(|(_, id)| of_subject(id))
                .map(|(seq, _)| *seq)
                .collect();
            book.going.extend(before.into_iter().map(|seq| (seq, "it was rolled up")));
        }
        Ok(())
    }

    fn hear_refusal(&mut self, counter: u64, error: &ApiError) -> Result<(), String> {
        let Some(sent) = self.book.sent.get_mut(&counter) else {
            return Err(format!("a refusal of counter {counter}, which nobody sent"));
        };
        if let Some(number) = sent.number {
            self.unanswered.remove(&number);
        }
        if sent.is_acked && sent.epoch == self.book.streams[sent.stream].epoch {
            return Err(format!("message {counter} was stored, and is refused: {error:?}"));
        }
        sent.is_refused = true;
        Ok(())
    }

    /// The answer to a message with an id, at `_INBOX.<id>`.
    fn hear_message(&mut self, message: &CoreMessage) -> Result<(), String> {
        let subject = String::from_utf8_lossy(&message.subject);
        let Some(id) = subject.strip_prefix("_INBOX.").and_then(|id| id.parse::<Id>().ok()) else {
            return Ok(());
        };
        self.unanswered_ids.retain(|other| *other != id);
        let Ok(body) = serde_json::from_slice::<serde_json::Value>(&message.payload) else {
            return Ok(()); // No stream takes it.
        };
        if body.get("error").is_some() {
            let sent = self.book.sent.get_mut(&id).ok_or("an answer to nobody")?;
            let book = &self.book.streams[sent.stream];
            if sent.is_acked && sent.epoch == book.epoch {
                return Err(format!("message {id} was stored, and is refused: {body}"));
            }
            sent.is_refused = true;
            return Ok(());
        }
        let seq = body.get("seq").and_then(serde_json::Value::as_u64).unwrap_or(0);
        let stream = body.get("stream").and_then(|name| name.as_str()).unwrap_or_default();
        let duplicate = body.get("duplicate").and_then(serde_json::Value::as_bool);
        self.acknowledged(id, stream, seq, duplicate.unwrap_or(false))
    }

    fn hear_delivery(&mut self, asked: Option<&Asked>, delivery: &Delivery) -> Result<(), String> {
        let Some(Asked::Pull { stream, epoch, consumer, since, at }) = asked else {
            return Err("a delivery to nobody".to_owned());
        };
        let stream = *stream;
        if self.book.streams[stream].epoch != *epoch {
            return Ok(());
        }
        let seq = delivery.record.seq;
        self.check_record(stream, &delivery.record)?;
        self.world.seen.delivered += 1;
        let book = &mut self.book.streams[stream];
        if let Some(why) = book.gone.get(&seq) {
            return Err(format!("{}: {seq} was delivered, though {why}", book.name));
        }
        if book.consumers[*consumer].since != *since {
            return Ok(());
        }
        self.judge_turn(stream, *consumer, delivery, *at)?;
        let book = &mut self.book.streams[stream];
        let consumer = &mut book.consumers[*consumer];
        let name = format!("{}/{}", book.name, consumer.name);
        if consumer.confirmed.contains(&seq) {
            return Err(format!("{name}: {seq} was delivered again after its confirmed ack"));
        }
        if consumer.max_deliver > 0 && delivery.attempts > consumer.max_deliver as u64 {
            return Err(format!("{name}: {seq} was delivered {} times", delivery.attempts));
        }
        if !matches(&consumer.filter, delivery.record.subject()) {
            return Err(format!("{name}: {seq} is not wanted"));
        }
        if delivery.attempts == 1 && !consumer.order.holds_back() {
            if seq <= consumer.last_first {
                return Err(format!("{name}: {seq} came after {}", consumer.last_first));
            }
            consumer.last_first = seq;
        }
        if delivery.consumer_seq <= consumer.last_number {
            return Err(format!("{name}: delivery {} came again", delivery.consumer_seq));
        }
        consumer.last_number = delivery.consumer_seq;
        consumer.delivered.insert(seq);
        if !consumer.held.contains(&seq) {
            consumer.held.push(seq);
        }
        Ok(())
    }

    /// Compares a record with what was sent. Returns which message it is.
    pub fn check_record(&mut self, stream: usize, record: &Record) -> Result<Id, String> {
        let (subject, headers) = (record.subject(), record.headers());
        let time = Some(record.time);
        self.check_message(stream, record.seq, subject, headers, record.payload(), time)
    }

    /// The same for the parts of a record.
    pub fn check_message(
        &mut self,
        stream: usize,
        seq: u64,
        subject: &str,
        headers: &[u8],
        payload: &[u8],
        time: Option<u64>,
    ) -> Result<Id, String> {
        if get(headers, names::SCHEDULER).is_some() {
            return self.check_fired(stream, seq, headers, payload, time);
        }
        let name = self.book.streams[stream].name.clone();
        let text = payload.split(|byte| *byte == b'|').next().unwrap_or_default();
        let id = std::str::from_utf8(text).ok().and_then(|text| text.parse::<Id>().ok());
        let Some((id, sent)) = id.and_then(|id| Some((id, self.book.sent.get(&id)?))) else {
            return Err(format!("{name}: nobody sent what stands at {seq}"));
        };
        let requeued = sent.requeues > 0 && get(headers, names::REQUEUED).is_some();
        let altered = sent.payload != payload
            || sent.subject != subject
            || (!requeued && sent.headers != headers);
        if altered {
            return Err(format!("{name}: message {id} at {seq} is altered"));
        }
        if let Some(time) = time.filter(|time| *time < sent.wall) {
            let sent = sent.wall;
            return Err(format!(
                "{name}: message {id} at {seq} is of {time}, and was sent at {sent}"
            ));
        }
        self.book.observe(stream, seq, id)?;
        Ok(id)
    }

    /// Notes that a message goes out, for the first time or again: it may be stored only now.
    pub fn note_sending(&mut self, id: Id) {
        let Some(sent) = self.book.sent.get_mut(&id) else { return };
        if !sent.is_acked {
            sent.sendings += 1;
            sent.lacked_room |= self.world.lacks_room();
            // It belongs to the stream that is there now.
            sent.epoch = self.book.streams[sent.stream].epoch;
            // The wall clock may have been set back since.
            sent.wall = sent.wall.min(self.world.now().wall);
        }
    }

    /// Sends a message, for the first time or again.
    pub fn send(&mut self, id: Id) {
        self.note_sending(id);
        let Some(sent) = self.book.sent.get(&id) else { return };
        self.world.trace.say(format_args!("send {id} to {} ({:?})", sent.subject, sent.number));
        if let Some((producer, counter)) = sent.number {
            let batch = MessageBatch::of_one(&sent.subject, "", &sent.headers, &sent.payload);
            self.unanswered.insert((producer, counter), id);
            let producer = ProducerId(producer);
            self.world.handle(SESSIONS[0], Request::Publish { producer, first: counter, batch });
        } else {
            let reply = format!("_INBOX.{id}");
            let batch = MessageBatch::of_one(&sent.subject, &reply, &sent.headers, &sent.payload);
            self.unanswered_ids.push(id);
            self.world.handle(SESSIONS[0], Request::Send { batch, echo: true });
        }
    }

    /// Connects after a start: what waited before is forgotten, what was not answered is sent again.
    pub fn connect(&mut self) {
        for session in SESSIONS {
            self.world.handle(session, Request::Opened { connection: ConnectionId(session.0 / 2) });
        }
        let (token, subject) = (Token(0), "_INBOX.>".to_owned());
        self.world.handle(SESSIONS[0], Request::Subscribe { token, subject, queue: None });
        self.asked.clear();
        // A new connection is told them anew.
        self.names.clear();
        for book in &mut self.book.streams {
            let last = book.by_seq.last_key_value().map_or(0, |(seq, _)| *seq);
            for consumer in &mut book.consumers {
                (consumer.last_first, consumer.last_number) = (0, 0);
                consumer.turns = Turns::new(last);
            }
        }
    }

    /// Sends again what was not answered, in order.
    pub fn resend(&mut self) -> Result<(), Halt> {
        for id in self.unanswered.values().copied().collect::<Vec<_>>() {
            self.send(id);
        }
        let mut ids = std::mem::take(&mut self.unanswered_ids);
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            self.send(id);
        }
        self.resend_batches()
    }
}
