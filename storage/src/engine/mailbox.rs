//! A queue between the owner of the engine and its workers. Its length is bounded by its users: one
//! checkpoint and one merge at a time, and as many reads as the broker has asked for.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug)]
struct Inner<T> {
    waiting: VecDeque<T>,
    is_closed: bool,
}

/// Things to do, or news, in order.
#[derive(Debug)]
pub(super) struct Mailbox<T> {
    inner: Mutex<Inner<T>>,
    arrived: Condvar,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        let inner = Inner { waiting: VecDeque::new(), is_closed: false };
        Self { inner: Mutex::new(inner), arrived: Condvar::new() }
    }
}

impl<T> Mailbox<T> {
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, thing: T) {
        self.lock().waiting.push_back(thing);
        self.arrived.notify_one();
    }

    pub(super) fn try_pop(&self) -> Option<T> {
        self.lock().waiting.pop_front()
    }

    /// Waits for the next thing; `None` once closed and empty.
    pub(super) fn pop(&self) -> Option<T> {
        let mut inner = self.lock();
        loop {
            if let Some(thing) = inner.waiting.pop_front() {
                return Some(thing);
            }
            if inner.is_closed {
                return None;
            }
            inner = self.arrived.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for something to arrive, at most `patience`; it stays in the queue.
    pub(super) fn wait(&self, patience: Duration) {
        let inner = self.lock();
        if inner.waiting.is_empty() && !inner.is_closed {
            drop(self.arrived.wait_timeout(inner, patience));
        }
    }

    /// Nothing more will be pushed.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.arrived.notify_all();
    }
}
