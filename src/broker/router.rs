//! Where a subject leads: the stream that captures it and the core subscriptions that match it.
//!
//! It knows patterns and members, and sends nothing itself.

use std::sync::Arc;

use claudebus_storage::StreamId;
use hashbrown::HashMap;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::access::Grant;
use crate::model::request::{SessionId, Token};
use crate::model::subject::{has_wildcard, is_pattern};

use super::stream::Wanting;
use super::subject_tree::SubjectTree;

/// Routes remembered by subject. 16,384 hot subjects; when there are more, all are forgotten.
const MAX_CACHED_ROUTES: usize = 16_384;

/// Names a subscription inside the router. Reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SubscriptionId(u32);

/// A core subscription.
#[derive(Clone, Debug)]
pub(super) struct Subscription {
    pub(super) session: SessionId,
    pub(super) token: Token,
    pub(super) subject: Box<str>,
    pub(super) queue: Option<Box<str>>,
    /// Messages it got so far.
    pub(super) delivered: u64,
    /// After how many it ends.
    pub(super) max: Option<u64>,
    /// What its client may get, if the subscription matches more than that.
    grant: Option<Arc<Grant>>,
}

impl Subscription {
    /// Whether its client may get messages of this subject.
    fn may_receive(&self, subject: &str) -> bool {
        let permits = |grant: &Arc<Grant>| grant.may_receive(subject, self.queue.as_deref());
        self.grant.as_ref().is_none_or(permits)
    }
}

/// Where one subject leads.
#[derive(Clone, Debug, Default)]
pub(super) struct Route {
    pub(super) stream: Option<StreamId>,
    /// Whether a token of the subject is `*` or `>`, which NATS takes for a text like any other.
    pub(super) has_wildcard: bool,
    /// Each of these gets the message.
    pub(super) plain: Vec<SubscriptionId>,
    /// One of each of these gets it: one list for each queue group.
    pub(super) queues: Vec<Vec<SubscriptionId>>,
    /// The stream's consumers that want it, as last looked up.
    pub(super) wanting: Wanting,
}

impl Route {
    /// Whether no core subscription matches.
    pub(super) fn has_no_subscriptions(&self) -> bool {
        self.plain.is_empty() && self.queues.is_empty()
    }
}

#[derive(Debug, Default)]
pub(super) struct Router {
    streams: SubjectTree<StreamId>,
    tree: SubjectTree<SubscriptionId>,
    subscriptions: Vec<Option<Subscription>>,
    free: Vec<SubscriptionId>,
    by_token: HashMap<SessionId, HashMap<Token, SubscriptionId>>,
    cache: HashMap<Box<str>, Arc<Route>>,
    /// The subjects of subscriptions that ended since the broker last asked.
    ended: Vec<Box<str>>,
}

impl Router {
    /// `stream` captures what matches `pattern` from now on.
    pub(super) fn add_stream(&mut self, pattern: &str, stream: StreamId) {
        self.streams.insert(pattern, stream);
        self.forget_routes(pattern);
    }

    /// `stream` no longer captures what matches `pattern`.
    pub(super) fn remove_stream(&mut self, pattern: &str, stream: StreamId) {
        self.streams.remove(pattern, &stream);
        self.forget_routes(pattern);
    }

    /// The stream that captures `subject`.
    pub(super) fn stream_of(&self, subject: &str) -> Option<StreamId> {
        let mut found = None;
        self.streams.matches(subject, &mut |id| found = Some(*id));
        found
    }

    /// How many subscriptions a session has.
    pub(super) fn count(&self, session: SessionId) -> usize {
        self.by_token.get(&session).map_or(0, HashMap::len)
    }

    /// Adds a subscription. A token that is in use keeps its first subscription, as in NATS.
    pub(super) fn subscribe(
        &mut self,
        session: SessionId,
        token: Token,
        subject: &str,
        queue: Option<String>,
    ) {
        let tokens = self.by_token.entry(session).or_default();
        if tokens.contains_key(&token) {
            return;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.subscriptions.push(None);
            SubscriptionId(u32::try_from(self.subscriptions.len() - 1).unwrap_or(u32::MAX))
        });
        tokens.insert(token, id);
        if let Some(place) = self.subscriptions.get_mut(id.0 as usize) {
            *place = Some(Subscription {
                session,
                token,
                subject: Box::from(subject),
                queue: queue.map(Box::from),
                delivered: 0,
                max: None,
                grant: None,
            });
        }
        self.tree.insert(subject, id);
        self.forget_routes(subject);
    }

    /// From now on a subscription gets only what its client may get.
    pub(super) fn restrict(&mut self, session: SessionId, token: Token, grant: &Arc<Grant>) {
        let id = self.by_token.get(&session).and_then(|tokens| tokens.get(&token));
        let place = id.and_then(|id| self.subscriptions.get_mut(id.0 as usize));
        let Some(subscription) = place.and_then(Option::as_mut) else { return };
        if grant.filters(&subscription.subject, subscription.queue.as_deref()) {
            subscription.grant = Some(Arc::clone(grant));
            let subject = subscription.subject.clone();
            self.forget_routes(&subject);
        }
    }

    /// Ends a subscription now, or after `max` messages since it began. Returns whether it ended.
    pub(super) fn unsubscribe(
        &mut self,
        session: SessionId,
        token: Token,
        max: Option<u64>,
    ) -> bool {
        let Some(id) = self.by_token.get(&session).and_then(|tokens| tokens.get(&token)).copied()
        else {
            return false;
        };
        let place = self.subscriptions.get_mut(id.0 as usize).and_then(Option::as_mut);
        if let (Some(subscription), Some(max)) = (place, max)
            && subscription.delivered < max
        {
            subscription.max = Some(max);
            return false;
        }
        self.remove(id);
        true
    }

    /// Ends all subscriptions of a session.
    pub(super) fn close(&mut self, session: SessionId) {
        let tokens = self.by_token.remove(&session).unwrap_or_default();
        let mut ids: Vec<_> = tokens.into_values().collect();
        // From the last: what the tree holds behind a value must move when that is taken out.
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.into_iter().for_each(|id| self.remove(id));
    }

    fn remove(&mut self, id: SubscriptionId) {
        let place = self.subscriptions.get_mut(id.0 as usize);
        let Some(subscription) = place.and_then(Option::take) else { return };
        self.tree.remove(&subscription.subject, &id);
        self.free.push(id);
        self.forget_routes(&subscription.subject);
        if let Some(tokens) = self.by_token.get_mut(&subscription.session) {
            tokens.remove(&subscription.token);
        }
        self.ended.push(subscription.subject);
    }

    /// The subjects of subscriptions that ended since the last call.
    pub(super) fn take_ended(&mut self) -> Vec<Box<str>> {
        std::mem::take(&mut self.ended)
    }

    /// Whether there are any.
    pub(super) fn has_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    /// Where `subject` leads, remembered for next time.
    pub(super) fn route(&mut self, subject: &str) -> Arc<Route> {
        self.look_up(subject).0
    }

    /// The same, and whether it was remembered from last time.
    pub(super) fn look_up(&mut self, subject: &str) -> (Arc<Route>, bool) {
        if let Some(route) = self.cache.get(subject) {
            return (Arc::clone(route), true);
        }
        let route = Arc::new(self.find(subject));
        if self.cache.len() >= MAX_CACHED_ROUTES {
            self.cache.clear();
        }
        self.cache.insert(Box::from(subject), Arc::clone(&route));
        (route, false)
    }

    /// Adds which consumers want `subject` to what is remembered of its route, if that still is.
    pub(super) fn learn(
        &mut self,
        subject: &str,
        route: Arc<Route>,
        wanting: Wanting,
    ) -> Arc<Route> {
        let Some(remembered) = self.cache.get_mut(subject) else { return route };
        // What only the cache holds is not copied to be changed.
        drop(route);
        Arc::make_mut(remembered).wanting = wanting;
        Arc::clone(remembered)
    }

    /// What is remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> impl Iterator<Item = (&str, &Route)> {
        self.cache.iter().map(|(subject, route)| (&**subject, &**route))
    }

    /// Where `subject` leads, for subjects that are used once, such as inboxes.
    pub(super) fn find(&self, subject: &str) -> Route {
        let stream = if is_pattern(subject) { self.stream_of(subject) } else { None };
        let mut route = Route { stream, has_wildcard: has_wildcard(subject), ..Route::default() };
        if subject.split('.').any(str::is_empty) {
            // No subject, and so nobody's.
            return route;
        }
        let mut names: Vec<&str> = Vec::new();
        self.tree.matches(subject, &mut |&id| {
            let Some(subscription) = self.get(id).filter(|found| found.may_receive(subject)) else {
                return;
            };
            let Some(queue) = subscription.queue.as_deref() else { return route.plain.push(id) };
            match names.iter().position(|name| *name == queue) {
                Some(at) => {
                    if let Some(group) = route.queues.get_mut(at) {
                        group.push(id);
                    }
                }
                None => {
                    names.push(queue);
                    route.queues.push(vec![id]);
                }
            }
        });
        route
    }

    pub(super) fn get(&self, id: SubscriptionId) -> Option<&Subscription> {
        self.subscriptions.get(id.0 as usize)?.as_ref()
    }

    /// The subscriptions of `route` that get the next message: all plain ones and one of each
    /// queue group. With `echo` false, not those of `sender`.
    pub(super) fn receivers(
        &self,
        route: &Route,
        sender: SessionId,
        echo: bool,
        rng: &mut StdRng,
        chosen: &mut Vec<SubscriptionId>,
    ) {
        // A subscription may have had its fill since the route was found.
        let allowed =
            |id: &SubscriptionId| self.get(*id).is_some_and(|s| echo || s.session != sender);
        chosen.extend(route.plain.iter().copied().filter(allowed));
        for group in &route.queues {
            let members = group.iter().copied().filter(allowed);
            let count = members.clone().count();
            if count > 0 {
                chosen.extend(members.clone().nth(rng.random_range(0..count)));
            }
        }
    }

    /// Counts `messages` for a subscription, which ends when it has had its fill. Returns the
    /// session and token to send to.
    pub(super) fn count_delivery(
        &mut self,
        id: SubscriptionId,
        messages: u64,
    ) -> Option<(SessionId, Token)> {
        let subscription = self.subscriptions.get_mut(id.0 as usize)?.as_mut()?;
        subscription.delivered += messages;
        let to = (subscription.session, subscription.token);
        if subscription.max.is_some_and(|max| subscription.delivered >= max) {
            self.remove(id);
        }
        Some(to)
    }

    /// Forgets remembered routes that a change at `pattern` may touch.
    fn forget_routes(&mut self, pattern: &str) {
        if has_wildcard(pattern) {
            self.cache.clear();
        } else {
            self.cache.remove(pattern);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use rand::SeedableRng;

    use super::*;

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);

    fn receivers(router: &mut Router, subject: &str, echo: bool) -> Vec<(SessionId, Token)> {
        let route = router.route(subject);
        let mut chosen = Vec::new();
        let mut rng = StdRng::seed_from_u64(1);
        router.receivers(&route, A, echo, &mut rng, &mut chosen);
        chosen.into_iter().filter_map(|id| router.count_delivery(id, 1)).collect()
    }

    #[test]
    fn one_member_of_each_group_and_every_plain_subscription() {
        let mut router = Router::default();
        router.subscribe(A, Token(1), "a.>", None);
        router.subscribe(A, Token(2), "a.*", Some("q".into()));
        router.subscribe(B, Token(1), "a.b", Some("q".into()));
        router.subscribe(B, Token(2), "a.b", Some("r".into()));
        let got = receivers(&mut router, "a.b", true);
        assert_eq!(got.len(), 3);
        assert!(got.contains(&(A, Token(1))) && got.contains(&(B, Token(2))));
        let got = receivers(&mut router, "a.b", false);
        assert_eq!(got, [(B, Token(1)), (B, Token(2))]);
    }

    #[test]
    fn a_subscription_ends_after_its_max_counted_from_its_start() {
        let mut router = Router::default();
        router.subscribe(A, Token(1), "x", None);
        assert_eq!(receivers(&mut router, "x", true).len(), 1);
        assert!(!router.unsubscribe(A, Token(1), Some(2)));
        assert_eq!(receivers(&mut router, "x", true).len(), 1);
        assert_eq!(receivers(&mut router, "x", true).len(), 0);
        router.subscribe(A, Token(1), "x", None);
        assert_eq!(receivers(&mut router, "x", true).len(), 1);
        assert!(router.unsubscribe(A, Token(1), Some(1)));
        assert_eq!(router.count(A), 0);
    }

    #[test]
    fn what_a_member_may_not_get_goes_to_another_of_its_group() {
        use crate::access::{Grant, PublishRules, SubscribeRules, Target};
        let mut router = Router::default();
        let deny = vec![Target::subject("a.secret"), Target::queue("a.group", "q")];
        let rules = SubscribeRules { allow: None, deny };
        let grant = Arc::new(Grant::new(PublishRules::default(), rules, None));
        router.subscribe(A, Token(1), "a.*", Some("q".into()));
        router.subscribe(A, Token(2), "a.*", None);
        assert_eq!(router.route("a.secret").plain.len(), 1);
        router.restrict(A, Token(1), &grant);
        router.restrict(A, Token(2), &grant);
        assert!(router.route("a.secret").has_no_subscriptions());
        assert_eq!(receivers(&mut router, "a.group", true), [(A, Token(2))]);
        router.subscribe(B, Token(1), "a.*", Some("q".into()));
        assert_eq!(receivers(&mut router, "a.secret", true), [(B, Token(1))]);
        assert_eq!(receivers(&mut router, "a.open", true).len(), 2);
    }

    #[test]
    fn remembered_routes_follow_changes() {
        let mut router = Router::default();
        assert!(router.route("a.b").has_no_subscriptions());
        router.subscribe(A, Token(1), "a.*", None);
        assert_eq!(router.route("a.b").plain.len(), 1);
        router.add_stream("a.b", StreamId(7));
        assert_eq!(router.route("a.b").stream, Some(StreamId(7)));
        router.remove_stream("a.b", StreamId(7));
        router.close(A);
        let route = router.route("a.b");
        assert!(route.stream.is_none() && route.has_no_subscriptions());
        router.add_stream(">", StreamId(7));
        assert!(router.find("a.*").has_wildcard && !router.find("a.b*").has_wildcard);
        assert_eq!(router.find("a.*").stream, Some(StreamId(7)));
        assert_eq!(router.find("a..b").stream, None);
    }
}
