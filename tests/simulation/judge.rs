//! The judgement: what is in the streams is what must be there, after each start and at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use claudebus::model::api::{
    ApiRequest, ApiResponse, DeadOptions, MessageGetOptions, StoredMessage, StreamInfoOptions,
};
use claudebus::model::consumer::{ConsumerInfo, Idle};
use claudebus::model::headers::{get, names};
use claudebus::model::request::AckKind;
use claudebus::model::stream::StreamState;

use crate::book::{ConsumerBook, Id, Letter, matches};
use crate::clients::Simulation;
use crate::world::Halt;

/// Rounds of pulling and settling in which everything must be done.
const ROUNDS: usize = 200;
/// After this many nanoseconds everything has expired that can.
const AGES_AGO: u64 = 400_000_000_000;
/// How often a stream is looked at in the hope that nothing happens meanwhile.
const STILL: usize = 5;

fn violation<T>(what: String) -> Result<T, Halt> {
    Err(Halt::Violation(what))
}

/// Whether a message was terminated, and its consumer says that the dead letters have no room at this
/// moment: it stays where it is until they have. An acknowledged one does not go there.
fn may_await_burial(of: &ConsumerBook, seq: u64, info: Option<&ConsumerInfo>) -> bool {
    let is_terminated = of.done.get(&seq).is_some_and(|(_, acked)| acked.is_none());
    is_terminated && info.is_some_and(|info| info.idle == Some(Idle::DeadLettersFull))
}

impl Simulation {
    /// The first message of a stream from a sequence on.
    pub fn next_message(&mut self, name: &str, from: u64) -> Result<Option<StoredMessage>, Halt> {
        let options = MessageGetOptions {
            seq: from,
            next_by_subj: Some(">".to_owned()),
            ..MessageGetOptions::default()
        };
        let request = ApiRequest::MessageGet { stream: name.to_owned(), options, direct: false };
        match self.ask(request)? {
            Ok(ApiResponse::Message { message }) => Ok(Some(message)),
            Err(error) if error.to_string().contains("no message found") => Ok(None),
            other => violation(format!("{name} cannot be read from {from}: {other:?}")),
        }
    }

    /// Reads a stream from its first message to its last.
    fn scan(&mut self, stream: usize) -> Result<BTreeMap<u64, Id>, Halt> {
        let name = self.book.streams[stream].name.clone();
        let mut found = BTreeMap::new();
        let mut from = 1;
        while let Some(message) = self.next_message(&name, from)? {
            let headers = STANDARD.decode(&message.hdrs).unwrap_or_default();
            let payload = STANDARD.decode(&message.data).unwrap_or_default();
            let id = self
                .check_message(
                    stream,
                    message.seq,
                    &message.subject,
                    &headers,
                    &payload,
                    Some(message.time.0),
                )
                .map_err(Halt::Violation)?;
            if message.seq < from {
                return violation(format!("{name}: {} comes after {from}", message.seq));
            }
            from = message.seq + 1;
            found.insert(message.seq, id);
        }
        Ok(found)
    }

    /// Reads everything: nothing is lost, altered, doubled, out of order, or back again.
    pub fn judge_contents(&mut self) -> Result<(), Halt> {
        for stream in 0..self.book.streams.len() {
            if self.book.streams[stream].exists {
                self.judge_stream(stream)?;
            }
        }
        self.judge_batches()
    }

    fn judge_stream(&mut self, stream: usize) -> Result<BTreeMap<u64, Id>, Halt> {
        // A schedule may publish something behind what was read.
        let until = self.book.next_id;
        let found = self.scan(stream)?;
        // Listed after the messages were: one may have died meanwhile.
        self.list_letters(stream)?;
        let latest = self.world.latest_wall;
        let name = self.book.streams[stream].name.clone();
        if let Some((seq, why)) =
            self.book.streams[stream].gone.iter().find(|(seq, _)| found.contains_key(seq))
        {
            return violation(format!("{name}: {seq} is there, though {why}"));
        }
        let missing: Vec<(u64, Id)> = self.book.streams[stream]
            .by_seq
            .iter()
            .filter(|(seq, id)| **id < until && !found.contains_key(seq))
            .map(|(seq, id)| (*seq, *id))
            .collect();
        for (seq, id) in missing {
            if self.book.excuse(stream, seq, latest).is_none() {
                return violation(format!("{name}: message {id} at {seq} is lost"));
            }
            let gone = &mut self.book.streams[stream].gone;
            gone.entry(seq).or_insert("it was gone before");
        }
        self.judge_order(&name, &found)?;
        self.judge_fired(&found, until)?;
        Ok(found)
    }

    fn judge_order(&self, name: &str, found: &BTreeMap<u64, Id>) -> Result<(), Halt> {
        let mut last: BTreeMap<u128, Id> = BTreeMap::new();
        for (seq, id) in found {
            let Some(sent) = self.book.sent.get(id) else { continue };
            let Some((producer, counter)) = sent.number else { continue };
            if sent.requeues > 0 || self.book.may_come_late(sent) {
                continue;
            }
            if let Some(before) = last.insert(producer, counter)
                && before >= counter
            {
                return violation(format!("{name}: message {id} at {seq} comes after {before}"));
            }
        }
        Ok(())
    }

    /// Lists dead letters: none comes twice, none goes by itself.
    pub fn list_letters(&mut self, stream: usize) -> Result<(), Halt> {
        let book = &self.book.streams[stream];
        if !book.exists {
            return Ok(());
        }
        let name = book.name.clone();
        let mut listed = BTreeMap::new();
        let mut from = 1;
        loop {
            let options = DeadOptions { from, ..DeadOptions::default() };
            let answer = self.ask(ApiRequest::DeadList { stream: name.clone(), options })?;
            let Ok(ApiResponse::DeadLetters { letters, .. }) = answer else { break };
            let Some(last) = letters.last() else { break };
            from = last.seq + 1;
            for letter in letters {
                self.check_letter(stream, &letter.message, letter.stream_seq)?;
                let (consumer, stream_seq) = (letter.consumer, letter.stream_seq);
                let may_go = self.book.streams[stream].exhumed.contains(&letter.seq);
                listed.insert(letter.seq, Letter { consumer, stream_seq, may_go });
            }
        }
        self.world.seen.letters += listed.len() as u64;
        let book = &mut self.book.streams[stream];
        for (number, letter) in &book.letters {
            match listed.get_mut(number) {
                None if letter.may_go => {}
                None => return violation(format!("{name}: dead letter {number} is lost")),
                Some(now) => now.may_go |= letter.may_go,
            }
        }
        let mut seen = BTreeSet::new();
        for letter in listed.values().filter(|letter| !letter.may_go) {
            let is_new = seen.insert((letter.consumer.clone(), letter.stream_seq));
            // A later consumer of the same name may give it up, too.
            if !is_new && !book.remade.contains(&letter.consumer) {
                let at = letter.stream_seq;
                return violation(format!("{name}: {at} is twice among the dead letters"));
            }
        }
        book.letters = listed;
        Ok(())
    }

    fn check_letter(
        &mut self,
        stream: usize,
        message: &StoredMessage,
        seq: u64,
    ) -> Result<(), Halt> {
        let payload = STANDARD.decode(&message.data).unwrap_or_default();
        let headers = STANDARD.decode(&message.hdrs).unwrap_or_default();
        if get(&headers, names::SCHEDULER).is_some() {
            let id = self.check_fired(stream, seq, &headers, &payload, None);
            return id.map(|_| ()).map_err(Halt::Violation);
        }
        let text = payload.split(|byte| *byte == b'|').next().unwrap_or_default();
        let id = std::str::from_utf8(text).ok().and_then(|text| text.parse::<Id>().ok());
        let is_right = id
            .and_then(|id| self.book.sent.get(&id))
            .is_some_and(|sent| sent.payload == payload && sent.stream == stream);
        let Some(id) = id.filter(|_| is_right) else {
            return violation(format!("the dead letter of {seq} is altered"));
        };
        self.book.observe(stream, seq, id).map_err(Halt::Violation)
    }

    /// Lets everything that is at work come to its end.
    pub fn settle_down(&mut self) -> Result<(), Halt> {
        self.world.is_calm = true;
        for _ in 0..60 {
            self.turn()?;
        }
        Ok(())
    }

    /// What must hold while nobody asks for anything.
    pub fn judge_quiet(&mut self) -> Result<(), Halt> {
        self.settle_down()?;
        if self.world.chance.one_in(2) {
            self.judge_priorities()?;
        }
        for stream in 0..self.book.streams.len() {
            if self.book.streams[stream].exists {
                self.judge_quiet_stream(stream)?;
            }
        }
        self.judge_copies()?;
        self.world.is_calm = false;
        Ok(())
    }

    fn stream_state(&mut self, stream: usize) -> Result<StreamState, Halt> {
        let name = self.book.streams[stream].name.clone();
        let options = StreamInfoOptions::default();
        match self.ask(ApiRequest::StreamInfo { stream: name.clone(), options })? {
            Ok(ApiResponse::Stream { info, .. }) => Ok(info.state),
            other => violation(format!("{name}: no information: {other:?}")),
        }
    }

    /// What a consumer says of itself.
    fn consumer_info(&mut self, stream: usize, consumer: usize) -> Result<ConsumerInfo, Halt> {
        let book = &self.book.streams[stream];
        let request = ApiRequest::ConsumerInfo {
            stream: book.name.clone(),
            consumer: book.consumers[consumer].name.clone(),
        };
        match self.ask(request)? {
            Ok(ApiResponse::Consumer(info)) => Ok(*info),
            other => violation(format!("no information about a consumer: {other:?}")),
        }
    }

    /// Looks at a stream until nothing happens meanwhile: time goes on, and with it go messages whose
    /// last attempt is over.
    fn judge_quiet_stream(&mut self, stream: usize) -> Result<(), Halt> {
        for _ in 0..STILL {
            let before = self.stream_state(stream)?;
            let found = self.judge_stream(stream)?;
            let delivered = self.delivered(stream);
            let mut infos = Vec::new();
            for consumer in 0..self.book.streams[stream].consumers.len() {
                let exists = self.book.streams[stream].consumers[consumer].exists;
                infos.push(if exists { Some(self.consumer_info(stream, consumer)?) } else { None });
            }
            let after = self.stream_state(stream)?;
            // What a consumer says of itself was decided before it delivered something in the same turn.
            if before == after && delivered == self.delivered(stream) {
                return self.judge_still_stream(stream, &found, &after, &infos);
            }
        }
        Ok(())
    }

    /// How many messages each consumer of a stream has delivered since the last start.
    fn delivered(&self, stream: usize) -> Vec<usize> {
        let consumers = &self.book.streams[stream].consumers;
        consumers.iter().map(|of| of.turns.delivered.len()).collect()
    }

    fn judge_still_stream(
        &self,
        stream: usize,
        found: &BTreeMap<u64, Id>,
        state: &StreamState,
        infos: &[Option<ConsumerInfo>],
    ) -> Result<(), Halt> {
        let book = &self.book.streams[stream];
        let name = book.name.clone();
        if let Some((seq, why)) = book.going.iter().find(|(seq, _)| found.contains_key(seq)) {
            return violation(format!("{name}: {seq} is still there, though {why}"));
        }
        let count = found.len() as u64;
        if state.messages != count {
            return violation(format!(
                "{name}: has {} messages, and shows {count}",
                state.messages
            ));
        }
        let most = book.config.max_msgs;
        if most > 0 && count > most as u64 {
            return violation(format!("{name}: has {count} messages, and may have {most}"));
        }
        let most = book.config.max_msgs_per_subject;
        let mut of_subject: BTreeMap<&str, i64> = BTreeMap::new();
        for id in found.values() {
            let subject = self.book.sent.get(id).map_or("", |sent| &sent.subject);
            let count = of_subject.entry(subject).or_default();
            *count += 1;
            if most > 0 && *count > most {
                return violation(format!("{name}: has {count} messages of {subject}"));
            }
        }
        self.judge_balance(stream, found, infos)
    }

    /// What is stored is what consumers have still to deliver, wait for, or do not want.
    fn judge_balance(
        &self,
        stream: usize,
        found: &BTreeMap<u64, Id>,
        infos: &[Option<ConsumerInfo>],
    ) -> Result<(), Halt> {
        let book = &self.book.streams[stream];
        let mut owed = 0;
        for (of, info) in book.consumers.iter().zip(infos) {
            let Some(info) = info else { continue };
            let wanted = |id: &Id| {
                self.book.sent.get(id).is_some_and(|sent| matches(&of.filter, &sent.subject))
            };
            if of.order.holds_back() {
                self.judge_held(stream, of, found, info)?;
                owed += info.num_pending + info.num_ack_pending;
                continue;
            }
            let after = info.delivered.stream_seq + 1;
            let left = found.range(after..).filter(|(_, id)| wanted(id)).count() as u64;
            if left != info.num_pending {
                return violation(format!(
                    "{}/{}: {left} messages are left to deliver, and it counts {}",
                    book.name, of.name, info.num_pending
                ));
            }
            owed += info.num_pending + info.num_ack_pending;
        }
        if !book.deletes_settled() {
            return Ok(());
        }
        let is_wanted = |id: &Id| {
            self.book.sent.get(id).is_some_and(|sent| {
                book.consumers.iter().any(|c| c.exists && matches(&c.filter, &sent.subject))
            })
        };
        let wanted = found.values().filter(|id| is_wanted(id)).count() as u64;
        if wanted > owed {
            return violation(format!(
                "{}: {wanted} messages are stored for consumers, and these expect {owed}",
                book.name
            ));
        }
        for (seq, id) in found {
            let Some(sent) = self.book.sent.get(id) else { continue };
            let mut those = book
                .consumers
                .iter()
                .zip(infos)
                .filter(|(c, _)| c.exists && matches(&c.filter, &sent.subject));
            let is_over = |(of, info): (&ConsumerBook, &Option<ConsumerInfo>)| {
                of.confirmed.contains(seq) && !may_await_burial(of, *seq, info.as_ref())
            };
            if those.clone().count() > 0 && those.all(is_over) {
                return violation(format!(
                    "{}: {seq} is still there, though its ack was confirmed",
                    book.name
                ));
            }
        }
        Ok(())
    }

    /// The same for a consumer whose messages pass each other. What it delivered in an earlier life
    /// it may have to deliver still; what nobody heard of it may have delivered.
    fn judge_held(
        &self,
        stream: usize,
        of: &ConsumerBook,
        found: &BTreeMap<u64, Id>,
        info: &ConsumerInfo,
    ) -> Result<(), Halt> {
        let wanted =
            |id: &Id| self.book.sent.get(id).is_some_and(|sent| matches(&of.filter, &sent.subject));
        let (mut certain, mut perhaps) = (0, 0);
        for (seq, _) in found.iter().filter(|(_, id)| wanted(id)) {
            if !of.delivered.contains(seq) {
                certain += 1;
            } else if !of.turns.delivered.contains(seq) && !of.confirmed.contains(seq) {
                perhaps += 1;
            }
        }
        let (pending, in_flight) = (info.num_pending, info.num_ack_pending);
        if certain > pending + in_flight || pending > certain + perhaps {
            let name = format!("{}/{}", self.book.streams[stream].name, of.name);
            return violation(format!(
                "{name}: {certain} messages are left to deliver, and perhaps {perhaps} more; it \
                 counts {pending}, and {in_flight} in flight"
            ));
        }
        Ok(())
    }

    /// Lets consumers take and acknowledge everything, and looks that nothing is left over.
    pub fn drain(&mut self) -> Result<(), Halt> {
        self.world.is_calm = true;
        let mut is_done = false;
        for _ in 0..ROUNDS {
            if self.drain_round()? {
                is_done = true;
                break;
            }
        }
        if !is_done {
            return violation("consumers do not come to an end".to_owned());
        }
        // Schedules go on publishing.
        let until = self.book.next_id;
        self.judge_quiet()?;
        self.world.is_calm = true;
        for stream in 0..self.book.streams.len() {
            if self.book.streams[stream].exists {
                self.judge_drained(stream, until)?;
            }
        }
        Ok(())
    }

    fn drain_round(&mut self) -> Result<bool, Halt> {
        let mut is_done = true;
        for stream in 0..self.book.streams.len() {
            if !self.book.streams[stream].exists {
                continue;
            }
            for consumer in 0..self.book.streams[stream].consumers.len() {
                if !self.book.streams[stream].consumers[consumer].exists {
                    continue;
                }
                let info = self.consumer_info(stream, consumer)?;
                if info.num_pending + info.num_ack_pending > 0 {
                    is_done = false;
                    self.pull_from(stream, consumer, 200);
                }
                for _ in 0..3 {
                    self.turn()?;
                }
                let of = &mut self.book.streams[stream].consumers[consumer];
                let held = std::mem::take(&mut of.held);
                if !held.is_empty() {
                    self.settle_with(stream, consumer, &held, AckKind::Ack, true);
                }
            }
        }
        self.turn()?;
        self.world.pass(Duration::from_secs(3));
        self.turn()?;
        Ok(is_done)
    }

    fn judge_drained(&mut self, stream: usize, until: Id) -> Result<(), Halt> {
        let found = self.scan(stream)?;
        let book = &self.book.streams[stream];
        for (seq, id) in found.iter().filter(|(_, id)| **id < until) {
            let Some(sent) = self.book.sent.get(id) else { continue };
            for of in book.consumers.iter().filter(|c| c.exists) {
                if !matches(&of.filter, &sent.subject) {
                    continue;
                }
                if book.deletes_settled() {
                    return violation(format!("{}: {seq} stays for ever", book.name));
                }
                let is_dead =
                    book.letters.values().any(|l| l.consumer == of.name && l.stream_seq == *seq)
                        || book.buried.contains(&(of.name.clone(), *seq))
                        || book.may_have_died(of, *id);
                if !of.delivered.contains(seq) && !is_dead {
                    return violation(format!(
                        "{}/{}: {seq} was never delivered",
                        book.name, of.name
                    ));
                }
            }
        }
        Ok(())
    }

    /// Lets so much time pass that everything expires that can.
    pub fn outlive(&mut self) -> Result<(), Halt> {
        // The wall clock may have been set back after a message was stamped.
        let late = self.world.latest_wall + AGES_AGO;
        while self.world.now().wall < late {
            self.world.pass(Duration::from_secs(10));
            self.turn()?;
        }
        self.settle_down()?;
        self.judge_contents()?;
        self.judge_plans()?;
        for stream in 0..self.book.streams.len() {
            let book = &self.book.streams[stream];
            if book.exists && !book.config.max_age.is_zero() {
                let name = book.name.clone();
                if let Some((seq, _)) = self.scan(stream)?.first_key_value() {
                    return violation(format!("{name}: {seq} does not expire"));
                }
            }
        }
        Ok(())
    }
}
