//! What must be true: records what was sent before it is sent and what was received after it was,
//! and says where the broker's word does not hold.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::book::Book;
use super::deliveries::Deliveries;
use super::payload::{self, Name};
use super::scenario::{CONSUMERS, LINES};

/// Violations that are kept in words; all are counted.
const MOST_IN_WORDS: usize = 40;

/// Counts for the table at the end.
#[derive(Debug, Default)]
pub struct Counters {
    /// Acknowledgements of published messages.
    pub acks: AtomicU64,
    /// Of these, answered as duplicates.
    pub duplicates: AtomicU64,
    /// Messages refused because the stream was full.
    pub refused: AtomicU64,
    /// Deliveries.
    pub deliveries: AtomicU64,
    /// Of these, not the first of their message.
    pub redeliveries: AtomicU64,
    /// Confirmed acknowledgements of consumers.
    pub confirmed: AtomicU64,
    /// Acknowledgements refused because a crash made the broker forget the delivery.
    pub forgotten: AtomicU64,
    /// Dead letters seen.
    pub dead: AtomicU64,
    /// Messages read back and compared.
    pub read_back: AtomicU64,
    /// Messages deleted one by one.
    pub deleted: AtomicU64,
    /// Messages purged.
    pub purged: AtomicU64,
    /// Ranges of sequences that the broker left out.
    pub left_out: AtomicU64,
    /// Streams created and deleted again.
    pub streams_deleted: AtomicU64,
    /// Longest time until a stream held what its limits allow, in microseconds.
    pub settled_micros: AtomicU64,
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// Reads a counter.
pub fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// The record of one run.
#[derive(Debug)]
pub struct Oracle {
    /// The run's seed.
    pub seed: u64,
    /// Counts.
    pub counters: Counters,
    books: Vec<Mutex<Book>>,
    deliveries: Vec<Mutex<Deliveries>>,
    violations: Mutex<(u64, Vec<String>)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Oracle {
    /// Knows nothing yet.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            counters: Counters::default(),
            books: LINES.iter().map(|line| Mutex::new(Book::new(*line, seed))).collect(),
            deliveries: CONSUMERS.iter().map(|c| Mutex::new(Deliveries::new(*c))).collect(),
            violations: Mutex::default(),
        }
    }

    /// The book of one stream.
    pub fn book(&self, line: usize) -> MutexGuard<'_, Book> {
        lock(&self.books[line])
    }

    /// What one consumer received.
    pub fn consumer(&self, consumer: usize) -> MutexGuard<'_, Deliveries> {
        lock(&self.deliveries[consumer])
    }

    /// A stream held what its limits allow this long after everything was answered.
    pub fn settled_after(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.counters.settled_micros.fetch_max(micros, Ordering::Relaxed);
    }

    /// Notes a violation.
    pub fn violated(&self, what: impl std::fmt::Display) {
        let mut violations = lock(&self.violations);
        violations.0 += 1;
        if violations.1.len() < MOST_IN_WORDS {
            eprintln!("VIOLATION: {what}");
            violations.1.push(what.to_string());
        }
    }

    /// Notes what is wrong, if anything is.
    pub fn judge(&self, place: impl std::fmt::Display, verdict: Result<(), String>) {
        if let Err(what) = verdict {
            self.violated(format_args!("{place}: {what}"));
        }
    }

    /// How many violations there are, and the first ones.
    pub fn violations(&self) -> (u64, Vec<String>) {
        lock(&self.violations).clone()
    }

    /// A message is about to be published.
    pub fn sending(&self, line: usize, publisher: u16) -> Name {
        self.book(line).sending(publisher)
    }

    /// The broker says that it is stored.
    pub fn acked(&self, line: usize, name: Name, seq: u64, duplicate: bool) {
        add(&self.counters.acks, 1);
        add(&self.counters.duplicates, u64::from(duplicate));
        let verdict = self.book(line).acked(name, seq, Instant::now());
        self.judge(LINES[line].stream, verdict);
    }

    /// A message read from a stream by sequence, or delivered. Returns whose it is.
    pub fn seen(&self, line: usize, seq: u64, subject: &str, payload: &[u8]) -> Option<Name> {
        let stream = LINES[line].stream;
        let Some(name) = payload::check(self.seed, payload) else {
            self.violated(format_args!("{stream}: the bytes of sequence {seq} were never sent"));
            return None;
        };
        if LINES[line].subject(name) != subject {
            self.violated(format_args!("{stream}: sequence {seq}, {name}, is under {subject}"));
        }
        let verdict = self.book(line).seen(name, seq);
        self.judge(stream, verdict);
        Some(name)
    }

    /// A consumer received a message. Returns whose it is.
    pub fn delivered(
        &self,
        consumer: usize,
        (seq, attempts): (u64, u64),
        subject: &str,
        payload: &[u8],
    ) -> Option<Name> {
        add(&self.counters.deliveries, 1);
        add(&self.counters.redeliveries, u64::from(attempts > 1));
        let line = &CONSUMERS[consumer];
        let name = self.seen(line.line, seq, subject, payload)?;
        let place = format_args!("{}/{}", line.stream(), line.name);
        if !line.wants(name) {
            self.violated(format_args!("{place}: {subject} does not match its filter"));
        }
        let verdict = self.consumer(consumer).delivered(seq, attempts);
        self.judge(place, verdict);
        Some(name)
    }

    /// A dead letter was read: of which consumer, and the sequence the message had.
    pub fn dead(&self, stream: &str, letter: &DeadLetter<'_>) {
        let of = CONSUMERS.iter().position(|c| c.stream() == stream && c.name == letter.consumer);
        let Some(consumer) = of else {
            self.violated(format_args!("DLQ_{stream}: no consumer {}", letter.consumer));
            return;
        };
        let line = CONSUMERS[consumer].line;
        let Some(name) = self.seen(line, letter.seq, letter.subject, letter.payload) else {
            return;
        };
        let verdict = self.consumer(consumer).dead(letter, name);
        match verdict {
            Ok(true) => add(&self.counters.dead, 1),
            Ok(false) => {}
            Err(what) => self.violated(format_args!("DLQ_{stream}: {what}")),
        }
    }

    /// How often each dead letter may be, and is, in a full reading: exactly once.
    pub fn dead_exactly_once(&self, stream: &str, seen: &HashMap<(String, u64), u64>) {
        for ((consumer, seq), count) in seen {
            if *count != 1 {
                self.violated(format_args!(
                    "DLQ_{stream}: sequence {seq} of {consumer} is there {count} times"
                ));
            }
        }
    }
}

/// What a dead letter says about itself.
#[derive(Clone, Copy, Debug)]
pub struct DeadLetter<'a> {
    /// Its sequence in the dead-letter stream.
    pub at: u64,
    /// Who gave it up.
    pub consumer: &'a str,
    /// Its sequence in its stream.
    pub seq: u64,
    /// How often it was delivered.
    pub attempts: u64,
    /// Where it was published.
    pub subject: &'a str,
    /// Its payload.
    pub payload: &'a [u8],
}
