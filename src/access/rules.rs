//! Lists of subjects that are allowed and denied.

use claudebus_storage::subject::{has_wildcard, is_subset, matches, overlap};

/// Where a client may publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishRules {
    /// Patterns of which one must match; everything matches if there is no list.
    pub allow: Option<Vec<String>>,
    /// Patterns of which none may match.
    pub deny: Vec<String>,
}

impl PublishRules {
    /// Whether messages may be published to everything that `pattern` matches.
    #[must_use]
    pub fn permit_all(&self, pattern: &str) -> bool {
        let covers = |patterns: &[String]| patterns.iter().any(|p| is_subset(pattern, p));
        let denies = self.deny.iter().any(|denied| overlap(denied, pattern));
        self.allow.as_deref().is_none_or(covers) && !denies
    }

    /// Whether messages may be published to `subject`.
    #[must_use]
    pub fn permit(&self, subject: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, subject));
        self.allow.as_deref().is_none_or(any) && !any(&self.deny)
    }

    /// Whether they permit everything.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.allow.is_none() && self.deny.is_empty()
    }
}

/// What a rule about subscriptions is about: subjects, and maybe queue groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Pattern of subjects.
    pub subject: String,
    /// Pattern of the names of queue groups; a rule without one is about all subscriptions.
    pub queue: Option<String>,
}

impl Target {
    /// A rule about all subscriptions to what matches `subject`.
    #[must_use]
    pub fn subject(subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), queue: None }
    }

    /// A rule about the members of queue groups.
    #[must_use]
    pub fn queue(subject: impl Into<String>, queue: impl Into<String>) -> Self {
        Self { subject: subject.into(), queue: Some(queue.into()) }
    }

    /// Whether it names queue groups, and `queue` is one of them.
    fn names(&self, queue: &str) -> bool {
        self.queue.as_deref().is_some_and(|pattern| {
            // A queue group may itself be called `v1.*`.
            pattern == queue || (has_wildcard(pattern) && is_subset(queue, pattern))
        })
    }

    /// Whether it is about a subscription in this queue group, or in none.
    fn concerns(&self, queue: Option<&str>) -> bool {
        self.queue.is_none() || queue.is_some_and(|queue| self.names(queue))
    }
}

/// What a client may subscribe to, and which messages it may get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscribeRules {
    /// Rules of which one must allow a subscription; everything is allowed if there is no list.
    pub allow: Option<Vec<Target>>,
    /// Rules none of which may deny it.
    pub deny: Vec<Target>,
}

impl SubscribeRules {
    /// Whether a subscription may begin. One to more than is allowed may not, nor one to nothing but
    /// what is denied; one that overlaps what is denied may, and [`may_receive`](Self::may_receive)
    /// says which messages it gets.
    #[must_use]
    pub fn permit(&self, pattern: &str, queue: Option<&str>) -> bool {
        self.is_allowed(pattern, queue) && !self.is_denied(pattern, queue)
    }

    fn is_allowed(&self, pattern: &str, queue: Option<&str>) -> bool {
        let Some(allow) = &self.allow else { return true };
        let mut covering = allow.iter().filter(|target| is_subset(pattern, &target.subject));
        let Some(queue) = queue else { return covering.any(|target| target.queue.is_none()) };
        // Where rules name queue groups, no other may be joined.
        let (mut is_plain, mut is_named) = (false, false);
        for target in covering {
            if target.names(queue) {
                return true;
            }
            is_plain |= target.queue.is_none();
            is_named |= target.queue.is_some();
        }
        is_plain && !is_named
    }

    fn is_denied(&self, pattern: &str, queue: Option<&str>) -> bool {
        let covers = |target: &Target| is_subset(pattern, &target.subject);
        self.deny.iter().any(|target| target.concerns(queue) && covers(target))
    }

    /// Whether a subscription that was permitted may get a message of `subject`, where it was
    /// published or stored. `subject` holds no wildcards.
    #[must_use]
    pub fn may_receive(&self, subject: &str, queue: Option<&str>) -> bool {
        let denies = |target: &Target| target.concerns(queue) && matches(&target.subject, subject);
        !self.deny.iter().any(denies)
    }

    /// Whether a subscription may match messages that it may not get.
    #[must_use]
    pub fn filter(&self, pattern: &str, queue: Option<&str>) -> bool {
        let denies = |target: &Target| target.concerns(queue) && overlap(pattern, &target.subject);
        self.deny.iter().any(denies)
    }

    /// Whether they permit everything.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.allow.is_none() && self.deny.is_empty()
    }
}
