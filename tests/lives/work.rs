//! The applications: publishers, consumers, and one that purges and deletes. They know the broker
//! only through the SDK, and tell the oracle everything.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use claudebus::client::{
    Ack, AckError, Client, Consumer, Delivery, Message, PublishError, Publisher, PurgeOptions,
    RequestError, StreamConfig,
};
use tokio::sync::{Mutex, RwLock};
use tokio::task::JoinHandle;

use super::oracle::{Oracle, add};
use super::payload::{self, Name, next};
use super::scenario::{CONSUMERS, LINES, Rule, Style};

/// Messages that a work queue may be ahead of its consumers before its publishers wait.
const MOST_WAITING: u64 = 4_000;
/// Messages of one fetch.
const FETCH: u64 = 200;
/// How long a fetch waits for them.
const FETCH_WAIT: Duration = Duration::from_millis(100);
/// How long an application with nothing to do waits before it looks again.
const IDLE: Duration = Duration::from_millis(10);
/// Published again under their message ids: at most this long after the first time, which is half
/// of the duplicate window.
const RESEND_WITHIN: Duration = Duration::from_secs(60);
/// Messages remembered for that.
const MOST_RESENDABLE: usize = 2_000;
/// Error code of a stream that is full.
const FULL: u32 = 10077;
/// Error code of an acknowledgement whose delivery is not remembered.
const FORGOTTEN: u32 = 20012;

/// What all applications share.
#[derive(Debug)]
pub struct Shared {
    /// Judges them.
    pub oracle: Oracle,
    /// Held for reading during each step; whoever holds it for writing has everything answered and
    /// nothing in flight.
    pub gate: RwLock<()>,
    /// Whether publishers go on.
    pub publishing: AtomicBool,
    /// Whether consumers go on.
    pub consuming: AtomicBool,
    /// Streams that were created and deleted again; the last may still be there.
    pub temporary: Mutex<Vec<String>>,
    /// Steps finished, to see that there is progress.
    pub steps: AtomicU64,
}

impl Shared {
    /// Everything is to go on.
    pub fn new(oracle: Oracle) -> Self {
        Self {
            oracle,
            gate: RwLock::new(()),
            publishing: AtomicBool::new(true),
            consuming: AtomicBool::new(true),
            temporary: Mutex::default(),
            steps: AtomicU64::new(0),
        }
    }

    fn publishing(&self) -> bool {
        self.publishing.load(Ordering::Relaxed)
    }

    fn consuming(&self) -> bool {
        self.consuming.load(Ordering::Relaxed)
    }
}

/// Starts the publishers and the one who deletes.
pub fn start_publishers(shared: &Arc<Shared>, clients: &[Client]) -> Vec<JoinHandle<()>> {
    let mut tasks = Vec::new();
    let mut publisher = 0;
    for (index, line) in LINES.iter().enumerate() {
        for _ in 0..line.publishers {
            publisher += 1;
            let client = &clients[usize::from(publisher) % clients.len()];
            let work = PublisherWork {
                shared: Arc::clone(shared),
                line: index,
                id: publisher,
                publisher: client.publisher(),
                resendable: VecDeque::new(),
                random: shared.oracle.seed ^ u64::from(publisher),
            };
            tasks.push(tokio::spawn(work.run()));
        }
    }
    let shared = Arc::clone(shared);
    tasks.push(tokio::spawn(garden(shared, clients[0].clone())));
    tasks
}

/// Starts the consumers' applications.
pub async fn start_consumers(
    shared: &Arc<Shared>,
    clients: &[Client],
) -> Result<Vec<JoinHandle<()>>, RequestError> {
    let mut tasks = Vec::new();
    for (index, line) in CONSUMERS.iter().enumerate() {
        let client = &clients[index % clients.len()];
        let consumer = client.create_consumer(line.stream(), line.config()).await?;
        let shared = Arc::clone(shared);
        tasks.push(match line.style {
            Style::Confirmed => tokio::spawn(consume_confirmed(shared, index, consumer)),
            Style::Streamed => tokio::spawn(consume_streamed(shared, index, consumer)),
        });
    }
    Ok(tasks)
}

/// One publisher's application.
struct PublisherWork {
    shared: Arc<Shared>,
    line: usize,
    id: u16,
    publisher: Publisher,
    resendable: VecDeque<(Name, Instant)>,
    random: u64,
}

impl PublisherWork {
    async fn run(mut self) {
        while self.shared.publishing() {
            let waiting = self.waiting();
            if waiting > MOST_WAITING {
                tokio::time::sleep(IDLE).await;
                continue;
            }
            let shared = Arc::clone(&self.shared);
            let permit = shared.gate.read().await;
            let stored = self.burst().await;
            if LINES[self.line].rule == Rule::Ids {
                self.resend().await;
            }
            drop(permit);
            self.shared.steps.fetch_add(1, Ordering::Relaxed);
            if stored == 0 {
                tokio::time::sleep(IDLE).await;
            }
        }
    }

    /// Messages that the stream's consumers have still to settle.
    fn waiting(&self) -> u64 {
        let consumers = CONSUMERS.iter().enumerate().filter(|(_, c)| c.line == self.line);
        let strict = consumers.filter(|(_, c)| c.style == Style::Confirmed);
        let settled: Vec<u64> =
            strict.map(|(i, _)| self.shared.oracle.consumer(i).settled()).collect();
        if settled.is_empty() {
            return 0;
        }
        let total: u64 = settled.iter().sum();
        self.shared.oracle.book(self.line).count().saturating_sub(total)
    }

    /// Publishes some messages and waits for what became of them. Returns how many were stored.
    async fn burst(&mut self) -> u64 {
        let (oracle, line) = (&self.shared.oracle, &LINES[self.line]);
        let mut tickets = Vec::with_capacity(line.burst as usize);
        for _ in 0..1 + next(&mut self.random) % line.burst {
            let name = oracle.sending(self.line, self.id);
            match self.publisher.publish_message(message(oracle.seed, self.line, name)).await {
                Ok(ticket) => tickets.push((name, ticket)),
                Err(error) => oracle.violated(format_args!("publishing {name}: {error}")),
            }
        }
        let mut stored = 0;
        for (name, ticket) in tickets {
            if self.settle(name, ticket.await) {
                stored += 1;
                if line.rule == Rule::Ids {
                    self.resendable.push_back((name, Instant::now()));
                }
            }
        }
        while self.resendable.len() > MOST_RESENDABLE {
            self.resendable.pop_front();
        }
        stored
    }

    /// Tells the oracle what became of a message. Returns whether it is stored.
    fn settle(&self, name: Name, result: Result<Ack, PublishError>) -> bool {
        let (oracle, line) = (&self.shared.oracle, &LINES[self.line]);
        match result {
            Ok(ack) => {
                if &*ack.stream != line.stream {
                    oracle.violated(format_args!("{name} of {} is in {}", line.stream, ack.stream));
                }
                oracle.acked(self.line, name, ack.seq, ack.duplicate);
                true
            }
            Err(PublishError::Refused(error))
                if error.err_code == FULL && matches!(line.rule, Rule::Full(_)) =>
            {
                add(&oracle.counters.refused, 1);
                let verdict = oracle.book(self.line).refused(name);
                oracle.judge(line.stream, verdict);
                false
            }
            Err(error) => {
                oracle.violated(format_args!("{}: {name}: {error}", line.stream));
                false
            }
        }
    }

    /// Publishes some messages again under their ids: they must be duplicates with the original
    /// sequence.
    async fn resend(&mut self) {
        let oracle = &self.shared.oracle;
        let young = |(_, when): &(Name, Instant)| when.elapsed() < RESEND_WITHIN;
        while self.resendable.front().is_some_and(|first| !young(first)) {
            self.resendable.pop_front();
        }
        let mut tickets = Vec::new();
        for _ in 0..self.resendable.len().min(8) {
            let index = next(&mut self.random) as usize % self.resendable.len();
            let (name, _) = self.resendable[index];
            let again = message(oracle.seed, self.line, name);
            if let Ok(ticket) = self.publisher.publish_message(again).await {
                tickets.push((name, ticket));
            }
        }
        for (name, ticket) in tickets {
            match ticket.await {
                Ok(ack) => {
                    oracle.acked(self.line, name, ack.seq, ack.duplicate);
                    if !ack.duplicate {
                        oracle.violated(format_args!("{name}, sent again, was no duplicate"));
                    }
                }
                Err(error) => oracle.violated(format_args!("{name}, sent again: {error}")),
            }
        }
    }
}

/// A message as it is published.
pub fn message(seed: u64, line: usize, name: Name) -> Message {
    let line = &LINES[line];
    let message = Message::new(line.subject(name), payload::make(seed, name));
    match line.message_id(name) {
        Some(id) => message.id(id),
        None => message,
    }
}

/// What an application does with a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Ack,
    /// It fails, and wants it again.
    Nak,
    /// It forgets the message, which comes again when its time is over.
    Forget,
}

fn decide(consumer: usize, name: Name, attempts: u64) -> Decision {
    if CONSUMERS[consumer].fails_on(name) {
        return Decision::Nak;
    }
    match (attempts, name.n % 128) {
        (1, 5) => Decision::Forget,
        (1, 50) => Decision::Nak,
        _ => Decision::Ack,
    }
}

async fn consume_confirmed(shared: Arc<Shared>, index: usize, consumer: Consumer) {
    let oracle = &shared.oracle;
    let place = format!("{}/{}", CONSUMERS[index].stream(), CONSUMERS[index].name);
    while shared.consuming() {
        let permit = shared.gate.read().await;
        // No message can have been handed out earlier, even if the connection is lost meanwhile.
        let asked = Instant::now();
        // Every message of the last fetch is answered, so whatever comes now was sent after that.
        let deliveries = match fetch(&consumer).await {
            Ok(deliveries) => deliveries,
            Err(error) => {
                oracle.violated(format_args!("{place}: fetch: {error}"));
                Vec::new()
            }
        };
        let mut acks = tokio::task::JoinSet::new();
        for delivery in deliveries {
            let seq = delivery.seq();
            let Some(name) = receive(oracle, index, &delivery) else { continue };
            match decide(index, name, delivery.attempts()) {
                Decision::Ack => {
                    acks.spawn(async move { (seq, delivery.ack_confirmed().await) });
                }
                Decision::Nak => {
                    if let Err(error) = delivery.nak(Duration::ZERO).await {
                        oracle.violated(format_args!("{place}: nak of {seq}: {error}"));
                    }
                }
                Decision::Forget => {}
            }
        }
        while let Some(ack) = acks.join_next().await {
            match ack {
                Ok((seq, Ok(()))) => {
                    oracle.consumer(index).confirmed(seq, asked);
                    add(&oracle.counters.confirmed, 1);
                }
                // The broker forgot a first delivery in a crash, says so, and repeats it.
                Ok((seq, Err(AckError::Refused(error)))) if error.err_code == FORGOTTEN => {
                    oracle.consumer(index).refused(seq);
                    add(&oracle.counters.forgotten, 1);
                }
                Ok((seq, Err(error))) => {
                    oracle.violated(format_args!("{place}: ack of {seq}: {error}"));
                }
                Err(error) => oracle.violated(format_args!("{place}: {error}")),
            }
        }
        drop(permit);
        shared.steps.fetch_add(1, Ordering::Relaxed);
    }
}

async fn consume_streamed(shared: Arc<Shared>, index: usize, consumer: Consumer) {
    let oracle = &shared.oracle;
    let place = format!("{}/{}", CONSUMERS[index].stream(), CONSUMERS[index].name);
    let mut messages = consumer.messages();
    while shared.consuming() {
        let delivery = match tokio::time::timeout(FETCH_WAIT, messages.next()).await {
            Err(_) => continue,
            Ok(None) => {
                oracle.violated(format_args!("{place}: the messages ended"));
                return;
            }
            Ok(Some(Err(error))) => {
                oracle.violated(format_args!("{place}: {error}"));
                continue;
            }
            Ok(Some(Ok(delivery))) => delivery,
        };
        let Some(name) = receive(oracle, index, &delivery) else { continue };
        let result = match decide(index, name, delivery.attempts()) {
            Decision::Ack => delivery.ack().await,
            Decision::Nak => delivery.nak(Duration::ZERO).await,
            Decision::Forget => Ok(()),
        };
        if let Err(error) = result {
            oracle.violated(format_args!("{place}: {error}"));
        }
    }
}

async fn fetch(consumer: &Consumer) -> Result<Vec<Delivery>, claudebus::client::ConsumeError> {
    consumer.fetch(FETCH).expires(FETCH_WAIT).await
}

fn receive(oracle: &Oracle, index: usize, delivery: &Delivery) -> Option<Name> {
    let at = (delivery.seq(), delivery.attempts());
    oracle.delivered(index, at, delivery.subject(), &delivery.payload())
}

/// Purges, deletes messages one by one, creates streams and deletes them.
async fn garden(shared: Arc<Shared>, client: Client) {
    let mut edited = 1;
    let mut random = shared.oracle.seed ^ 0x6a7d;
    let mut number = 0;
    while shared.publishing() {
        let permit = shared.gate.read().await;
        for (index, line) in LINES.iter().enumerate() {
            match line.rule {
                Rule::Full(most) => purge(&shared, &client, index, most).await,
                Rule::Edited => edited = edit(&shared, &client, index, edited, &mut random).await,
                _ => {}
            }
        }
        if next(&mut random).is_multiple_of(4) {
            number += 1;
            temporary(&shared, &client, number).await;
        }
        drop(permit);
        shared.steps.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(IDLE).await;
    }
}

/// Asks until there is an answer: lost connections are part of the test.
async fn insist<T, F>(what: &str, oracle: &Oracle, mut ask: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Result<T, RequestError>>,
{
    let began = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return Some(answer),
            Err(error) if error.is_retryable() && began.elapsed() < Duration::from_secs(60) => {
                tokio::time::sleep(IDLE).await;
            }
            Err(error) if error.is_not_found() => return None,
            Err(error) if error.api().is_some_and(|error| error.err_code == 10043) => return None,
            Err(error) => {
                oracle.violated(format_args!("{what}: {error}"));
                return None;
            }
        }
    }
}

/// When the stream is full, purges all but the newest third.
async fn purge(shared: &Shared, client: &Client, line: usize, most: u64) {
    let (oracle, stream) = (&shared.oracle, LINES[line].stream);
    let below = {
        let mut book = oracle.book(line);
        let (first, last) = (book.purged_below(), book.last_seq());
        if last + 1 < first + most {
            return;
        }
        book.purging(last - most / 3);
        last - most / 3
    };
    let options = || PurgeOptions { seq: below, ..PurgeOptions::default() };
    if let Some(count) = insist("purge", oracle, || client.purge_stream(stream, options())).await {
        oracle.book(line).purged(below);
        add(&oracle.counters.purged, count);
    }
}

/// Deletes some of the messages from sequence `from` on. Returns where to go on.
async fn edit(shared: &Shared, client: &Client, line: usize, from: u64, random: &mut u64) -> u64 {
    let (oracle, stream) = (&shared.oracle, LINES[line].stream);
    let last = oracle.book(line).last_seq();
    let mut seq = from;
    for _ in 0..10 {
        seq += 1 + next(random) % 8;
        if seq > last {
            return from;
        }
        if oracle.book(line).name(seq).is_none() {
            continue;
        }
        oracle.book(line).deleting(seq);
        // Nothing else deletes there, so "not found" means that an earlier request got through.
        insist("delete", oracle, || client.delete_message(stream, seq)).await;
        oracle.book(line).deleted(seq);
        add(&oracle.counters.deleted, 1);
    }
    seq
}

/// Creates a stream, fills it, and deletes it with all its files.
async fn temporary(shared: &Shared, client: &Client, number: u64) {
    let (oracle, name) = (&shared.oracle, format!("TEMPORARY_{number}"));
    let config = || StreamConfig {
        name: name.clone(),
        subjects: vec![format!("temporary.{number}")],
        ..StreamConfig::default()
    };
    shared.temporary.lock().await.push(name.clone());
    if insist("create", oracle, || client.create_stream(config())).await.is_none() {
        return;
    }
    let publisher = client.publisher();
    let subject = format!("temporary.{number}");
    for n in 1..=300 {
        let payload = payload::make(oracle.seed, Name { publisher: u16::MAX, n });
        if let Err(error) = publisher.publish(&subject, payload).await {
            oracle.violated(format_args!("{name}: {error}"));
        }
    }
    if let Err(error) = publisher.flush().await {
        oracle.violated(format_args!("{name}: {error}"));
    }
    let info = insist("info", oracle, || client.stream_info(&name)).await;
    let messages = info.map(|info| info.state.messages);
    if messages != Some(300) {
        oracle.violated(format_args!("{name} holds {messages:?} of 300 messages"));
    }
    insist("delete stream", oracle, || client.delete_stream(&name)).await;
    add(&oracle.counters.streams_deleted, 1);
}
