//! A client's subscriptions, by the `sid` it chose and by the token the broker knows.

use hashbrown::HashMap;

use crate::model::request::{Request, Token};

#[derive(Debug)]
struct Subscription {
    sid: Box<str>,
    queue: Option<Box<str>>,
    /// Messages sent so far.
    sent: u64,
    /// After how many it ends.
    max: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    by_sid: HashMap<Box<str>, Token>,
    by_token: HashMap<Token, Subscription>,
    next: u64,
}

impl Subscriptions {
    pub(super) fn len(&self) -> usize {
        self.by_sid.len()
    }

    /// Adds a subscription. `None` if the `sid` is in use, which keeps its first subscription.
    pub(super) fn add(&mut self, sid: &str, queue: Option<&str>) -> Option<Token> {
        if self.by_sid.contains_key(sid) {
            return None;
        }
        let token = Token(self.next);
        self.next += 1;
        self.by_sid.insert(sid.into(), token);
        let queue = queue.map(Into::into);
        self.by_token.insert(token, Subscription { sid: sid.into(), queue, sent: 0, max: None });
        Some(token)
    }

    /// Ends a subscription, now or after `max` messages in all. What the broker is told; nothing if
    /// there is none of that `sid`. Messages that are on their way still come: until the broker says that
    /// there are no more, the token keeps its `sid`, which is free for another subscription.
    pub(super) fn remove(&mut self, sid: &str, max: Option<u64>) -> Option<Request> {
        let token = *self.by_sid.get(sid)?;
        match (max, self.by_token.get_mut(&token)) {
            (Some(most), Some(subscription)) if subscription.sent < most => {
                subscription.max = max;
            }
            _ => _ = self.by_sid.remove(sid),
        }
        Some(Request::Unsubscribe { token, max })
    }

    /// The `sid` of a subscription; none if it has ended.
    pub(super) fn sid(&self, token: Token) -> Option<&str> {
        self.by_token.get(&token).map(|subscription| &*subscription.sid)
    }

    /// The `sid` and the queue group of a subscription; none if it has ended.
    pub(super) fn get(&self, token: Token) -> Option<(&str, Option<&str>)> {
        let Subscription { sid, queue, .. } = self.by_token.get(&token)?;
        Some((sid, queue.as_deref()))
    }

    /// Ends all subscriptions. What the broker is told.
    pub(super) fn remove_all(&mut self) -> Vec<Request> {
        self.by_sid.clear();
        let tokens = self.by_token.drain().map(|(token, _)| token);
        tokens.map(|token| Request::Unsubscribe { token, max: None }).collect()
    }

    /// Counts messages that were sent, which may end the subscription.
    pub(super) fn count(&mut self, token: Token, messages: u64) {
        let Some(subscription) = self.by_token.get_mut(&token) else { return };
        subscription.sent += messages;
        if subscription.max.is_some_and(|max| subscription.sent >= max) {
            self.forget(token);
        }
    }

    /// No more messages come for a subscription.
    pub(super) fn forget(&mut self, token: Token) {
        let Some(subscription) = self.by_token.remove(&token) else { return };
        // The name may have been given to another one meanwhile.
        if self.by_sid.get(&subscription.sid) == Some(&token) {
            self.by_sid.remove(&subscription.sid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sid_keeps_its_first_subscription() {
        let mut subscriptions = Subscriptions::default();
        let token = subscriptions.add("1", None).expect("free");
        assert_eq!(subscriptions.add("1", None), None);
        assert_eq!(subscriptions.sid(token), Some("1"));
        assert!(subscriptions.remove("1", None).is_some());
        assert_eq!((subscriptions.sid(token), subscriptions.len()), (Some("1"), 0));
        assert!(subscriptions.remove("1", None).is_none());
        let second = subscriptions.add("1", None).expect("the name is free");
        assert_ne!(second, token);
        subscriptions.forget(token);
        assert_eq!((subscriptions.sid(token), subscriptions.sid(second)), (None, Some("1")));
        assert_eq!(subscriptions.add("1", None), None);
    }

    #[test]
    fn the_last_message_ends_it() {
        let mut subscriptions = Subscriptions::default();
        let token = subscriptions.add("a", None).expect("free");
        subscriptions.count(token, 1);
        subscriptions.remove("a", Some(2));
        assert!(subscriptions.sid(token).is_some());
        subscriptions.count(token, 1);
        assert!(subscriptions.sid(token).is_none());
        let token = subscriptions.add("b", Some("q")).expect("free");
        subscriptions.count(token, 2);
        subscriptions.remove("b", Some(2));
        assert!(subscriptions.add("b", None).is_some(), "it has had its messages");
    }
}
