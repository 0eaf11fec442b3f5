//! What one stream was told and what it must hold.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::payload::{self, Name};
use super::scenario::{Line, Rule};

/// Refused for good: must never be seen.
const REFUSED: u64 = 1 << 63;
/// Leeway of what leaves by age: timers, and the time between storing and acknowledging.
const AGE_LEEWAY: Duration = Duration::from_secs(3);

/// Whether a sequence can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It must be there.
    Must,
    /// It must not be there.
    MustNot,
    /// Both are right.
    May,
}

/// The record of one stream.
#[derive(Debug)]
pub struct Book {
    line: Line,
    seed: u64,
    /// By publisher, by number: 0 for not yet known, [`REFUSED`], or the sequence.
    fates: HashMap<u16, Vec<u64>>,
    /// The last acknowledged (number, sequence) of each publisher.
    last: HashMap<u16, (u64, u64)>,
    /// By sequence: whose message that is, packed; 0 for not yet known.
    sequences: Vec<u64>,
    /// When each sequence was acknowledged, for streams that forget by age.
    times: Vec<(Instant, u64)>,
    /// By sequence, for streams that are edited: 1 while a delete is asked for, 2 when it is done.
    deletes: HashMap<u64, u8>,
    /// Sequences that the broker left out and said so. They belong to nobody.
    left_out: HashSet<u64>,
    /// Dead letters are read up to here.
    dead_read: u64,
    /// Everything below was purged; up to the second it may have been.
    purged: (u64, u64),
}

impl Book {
    /// An empty stream.
    pub fn new(line: Line, seed: u64) -> Self {
        Self {
            line,
            seed,
            fates: HashMap::new(),
            last: HashMap::new(),
            sequences: vec![0],
            times: Vec::new(),
            deletes: HashMap::new(),
            left_out: HashSet::new(),
            dead_read: 0,
            purged: (1, 1),
        }
    }

    /// The next message of a publisher is about to be published.
    pub fn sending(&mut self, publisher: u16) -> Name {
        let fates = self.fates.entry(publisher).or_insert_with(|| vec![REFUSED]);
        fates.push(0);
        Name { publisher, n: fates.len() as u64 - 1 }
    }

    fn fate(&mut self, name: Name) -> Option<&mut u64> {
        self.fates.get_mut(&name.publisher)?.get_mut(name.n as usize)
    }

    /// Notes that `seq` is this message, and checks that it is no other's and has no other.
    fn place(&mut self, name: Name, seq: u64) -> Result<(), String> {
        let Some(fate) = self.fate(name) else {
            return Err(format!("{name} is at sequence {seq} and was never sent"));
        };
        match *fate {
            0 => *fate = seq,
            REFUSED => return Err(format!("{name} was refused and is at sequence {seq}")),
            known if known == seq => {}
            known => return Err(format!("{name} is stored twice: at {known} and at {seq}")),
        }
        if self.left_out.contains(&seq) {
            return Err(format!("{name} is at sequence {seq}, which was left out"));
        }
        let index = seq as usize;
        if index >= self.sequences.len() {
            self.sequences.resize(index + 1, 0);
        }
        match self.sequences[index] {
            0 => self.sequences[index] = name.pack(),
            known if known == name.pack() => {}
            known => {
                let known = Name::unpack(known).map(|name| name.to_string()).unwrap_or_default();
                return Err(format!("sequence {seq} was {known} and is now {name}"));
            }
        }
        Ok(())
    }

    /// The broker acknowledged it.
    pub fn acked(&mut self, name: Name, seq: u64, now: Instant) -> Result<(), String> {
        if seq == 0 {
            return Err(format!("{name} was acknowledged without its sequence"));
        }
        self.place(name, seq)?;
        if matches!(self.line.rule, Rule::Age(_)) {
            self.times.push((now, seq));
        }
        let last = self.last.entry(name.publisher).or_default();
        // Resent messages are acknowledged again, and are older than the last one.
        if name.n > last.0 {
            let before = std::mem::replace(last, (name.n, seq));
            if seq <= before.1 {
                return Err(format!(
                    "{name} is at {seq}, before message {} at {}",
                    before.0, before.1
                ));
            }
        }
        Ok(())
    }

    /// The broker refused it because the stream is full.
    pub fn refused(&mut self, name: Name) -> Result<(), String> {
        match self.fate(name) {
            Some(fate) if *fate == 0 => {
                *fate = REFUSED;
                Ok(())
            }
            _ => Err(format!("{name} was refused after it had been acknowledged or seen")),
        }
    }

    /// It was read, or delivered.
    pub fn seen(&mut self, name: Name, seq: u64) -> Result<(), String> {
        self.place(name, seq)?;
        if self.deletes.get(&seq) == Some(&2) {
            return Err(format!("sequence {seq} was deleted and is back"));
        }
        Ok(())
    }

    /// Whose message a sequence is, if known.
    pub fn name(&self, seq: u64) -> Option<Name> {
        self.sequences.get(seq as usize).copied().and_then(Name::unpack)
    }

    /// The broker says that it left these out, for it cannot know whether they were acknowledged.
    /// Those that were not are nobody's from now on.
    pub fn leave_out(&mut self, first: u64, last: u64) {
        if self.last_seq() < last {
            self.sequences.resize(last as usize + 1, 0);
        }
        let nobodys = (first..=last).filter(|seq| self.name(*seq).is_none());
        self.left_out.extend(nobodys.collect::<Vec<_>>());
    }

    /// Whether it was left out.
    pub fn is_left_out(&self, seq: u64) -> bool {
        self.left_out.contains(&seq)
    }

    /// How many sequences were given out to messages, as far as is known.
    pub fn count(&self) -> u64 {
        self.last_seq() - self.left_out.len() as u64
    }

    /// The highest sequence known.
    pub fn last_seq(&self) -> u64 {
        self.sequences.len() as u64 - 1
    }

    /// A delete of this sequence is about to be asked for.
    pub fn deleting(&mut self, seq: u64) {
        self.deletes.entry(seq).or_insert(1);
    }

    /// It is done.
    pub fn deleted(&mut self, seq: u64) {
        self.deletes.insert(seq, 2);
    }

    /// A purge of everything below `seq` is about to be asked for.
    pub fn purging(&mut self, seq: u64) {
        self.purged.1 = self.purged.1.max(seq);
    }

    /// It is done.
    pub fn purged(&mut self, seq: u64) {
        self.purged.0 = self.purged.0.max(seq);
    }

    /// Up to where the stream's dead letters were read.
    pub fn dead_read(&self) -> u64 {
        self.dead_read
    }

    /// They were read up to here.
    pub fn set_dead_read(&mut self, at: u64) {
        self.dead_read = at;
    }

    /// Everything below was purged.
    pub fn purged_below(&self) -> u64 {
        self.purged.0
    }

    /// What JetStream's file store counts for the message at `seq`, in bytes.
    fn size(&self, seq: u64) -> u64 {
        let Some(name) = self.name(seq) else { return 0 };
        let subject = self.line.subject(name).len();
        (22 + subject + payload::len(self.seed, name) + 8) as u64
    }

    /// Checks, when nothing is in flight, that every sequence belongs to a message.
    pub fn check_gaps(&self) -> Result<(), String> {
        let gaps = (1..=self.last_seq())
            .filter(|seq| self.name(*seq).is_none() && !self.left_out.contains(seq));
        let gaps: Vec<u64> = gaps.take(5).collect();
        if gaps.is_empty() {
            return Ok(());
        }
        Err(format!("sequences {gaps:?} were given out to no message"))
    }

    /// Checks, when nothing is in flight, that every message was answered.
    pub fn check_answered(&self) -> Result<(), String> {
        for (publisher, fates) in &self.fates {
            if let Some(n) = fates.iter().position(|fate| *fate == 0) {
                return Err(format!("message {n} of publisher {publisher} was never answered"));
            }
        }
        Ok(())
    }

    /// By sequence, what must be there now, when nothing is in flight. Where consumers make
    /// messages leave, `by_consumers` says. Index 0 is no sequence.
    pub fn presence(&self, by_consumers: impl Fn(u64) -> Presence) -> Vec<Presence> {
        let last = self.last_seq();
        let mut presence = vec![Presence::Must; last as usize + 1];
        presence[0] = Presence::MustNot;
        let below = |presence: &mut Vec<Presence>, end: u64, what: Presence| {
            for slot in presence.iter_mut().take(end as usize) {
                *slot = what;
            }
        };
        match self.line.rule {
            Rule::Keep | Rule::Ids => {}
            Rule::Count(most) => {
                below(&mut presence, self.first_of_newest(most), Presence::MustNot);
            }
            Rule::Bytes(most) => {
                below(&mut presence, self.first_within(most), Presence::MustNot);
            }
            Rule::Age(most) => {
                let (old, young) = self.by_age(most);
                below(&mut presence, young, Presence::May);
                below(&mut presence, old, Presence::MustNot);
            }
            Rule::PerSubject(most) => self.by_subject(most, &mut presence),
            Rule::Full(_) => {
                below(&mut presence, self.purged.1, Presence::May);
                below(&mut presence, self.purged.0, Presence::MustNot);
            }
            Rule::WorkQueue | Rule::Interest => {
                for (seq, slot) in presence.iter_mut().enumerate().skip(1) {
                    *slot = by_consumers(seq as u64);
                }
            }
            Rule::Edited => {
                for (seq, state) in &self.deletes {
                    presence[*seq as usize] =
                        if *state == 2 { Presence::MustNot } else { Presence::May };
                }
            }
        }
        for seq in &self.left_out {
            presence[*seq as usize] = Presence::MustNot;
        }
        presence
    }

    /// The lowest sequence from which on there are at most so many messages.
    fn first_of_newest(&self, most: u64) -> u64 {
        let messages = (1..=self.last_seq()).rev().filter(|seq| !self.left_out.contains(seq));
        messages.take(most as usize).last().unwrap_or(self.last_seq() + 1)
    }

    /// The lowest sequence from which on all fit into so many bytes.
    fn first_within(&self, most: u64) -> u64 {
        let (mut first, mut bytes) = (self.last_seq() + 1, 0);
        while first > 1 && bytes + self.size(first - 1) <= most {
            first -= 1;
            bytes += self.size(first);
        }
        first
    }

    /// Below the first, everything must have left by age; from the second on, nothing may have.
    fn by_age(&self, most: Duration) -> (u64, u64) {
        let (mut old, mut young) = (1, self.last_seq() + 1);
        for (when, seq) in &self.times {
            let age = when.elapsed();
            if age > most + AGE_LEEWAY {
                old = old.max(seq + 1);
            }
            if age + AGE_LEEWAY < most {
                young = young.min(*seq);
            }
        }
        (old, young.max(old))
    }

    fn by_subject(&self, most: u64, presence: &mut [Presence]) {
        let mut counts: HashMap<u64, u64> = HashMap::new();
        for seq in (1..=self.last_seq()).rev() {
            let Some(name) = self.name(seq) else { continue };
            let count = counts.entry(self.line.subject_index(name)).or_default();
            *count += 1;
            if *count > most {
                presence[seq as usize] = Presence::MustNot;
            }
        }
    }
}
