//! What clients were told, and what it contradicts.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Violations that are kept as text.
const MOST: usize = 20;

/// Who published a message, and which of its messages it is: `r17`, `p3`.
pub type Name = String;

#[derive(Default)]
struct Facts {
    /// By stream sequence.
    acknowledged: HashMap<u64, Name>,
    confirmed: HashSet<u64>,
    violations: Vec<String>,
}

/// Shared by all clients.
#[derive(Default)]
pub struct Book {
    facts: Mutex<Facts>,
    rust: AtomicU64,
    python: AtomicU64,
    /// Whether clients are to stop.
    pub over: AtomicBool,
}

impl fmt::Debug for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} + {} acks, {} confirmed",
            self.rust_acks(),
            self.python_acks(),
            self.confirmed()
        )
    }
}

impl Book {
    pub fn rust_acks(&self) -> u64 {
        self.rust.load(Ordering::Relaxed)
    }

    pub fn python_acks(&self) -> u64 {
        self.python.load(Ordering::Relaxed)
    }

    pub fn confirmed(&self) -> usize {
        self.facts.lock().unwrap().confirmed.len()
    }

    pub fn violations(&self) -> Vec<String> {
        self.facts.lock().unwrap().violations.clone()
    }

    /// Whether all clients have got something done since `before`.
    pub fn has_gone_on(&self, before: (u64, u64, usize), with_python: bool) -> bool {
        self.rust_acks() > before.0
            && (!with_python || self.python_acks() > before.1)
            && self.confirmed() > before.2
    }

    fn violated(&self, what: String) {
        let mut facts = self.facts.lock().unwrap();
        if facts.violations.len() < MOST {
            facts.violations.push(what);
        }
    }

    /// A publish was acknowledged.
    pub fn acknowledged(&self, seq: u64, name: &str) {
        let counter = if name.starts_with('p') { &self.python } else { &self.rust };
        counter.fetch_add(1, Ordering::Relaxed);
        let before = self.facts.lock().unwrap().acknowledged.insert(seq, name.to_owned());
        if let Some(other) = before.filter(|other| other != name) {
            self.violated(format!("sequence {seq} was given to {other} and to {name}"));
        }
    }

    /// A message is delivered.
    pub fn delivered(&self, seq: u64, name: &str) {
        let facts = self.facts.lock().unwrap();
        let again = facts.confirmed.contains(&seq);
        let other = facts.acknowledged.get(&seq).filter(|known| *known != name).cloned();
        drop(facts);
        if again {
            self.violated(format!("{name} at {seq} came again after its ack was confirmed"));
        }
        if let Some(other) = other {
            self.violated(format!("{other} was stored at {seq}, and {name} was delivered"));
        }
    }

    /// The acknowledgement of a delivery was confirmed.
    pub fn confirm(&self, seq: u64) {
        self.facts.lock().unwrap().confirmed.insert(seq);
    }

    /// Everything the stream holds, by sequence.
    pub fn compare(&self, held: &HashMap<u64, Name>) {
        let acknowledged = self.facts.lock().unwrap().acknowledged.clone();
        for (seq, name) in &acknowledged {
            if held.get(seq) != Some(name) {
                let found = held.get(seq);
                self.violated(format!(
                    "{name} was acknowledged at {seq}, where there is {found:?}"
                ));
            }
        }
        let mut places: HashMap<&str, u64> = HashMap::new();
        for (seq, name) in held {
            if let Some(other) = places.insert(name, *seq) {
                self.violated(format!("{name} is stored at {other} and at {seq}"));
            }
        }
    }
}
