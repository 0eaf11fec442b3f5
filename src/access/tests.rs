//! Rules against a model that knows nothing but single subjects: it takes rules as the set of subjects
//! they name, out of all that can be written with few words.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use proptest::prelude::*;

use super::*;

/// All subjects of up to three tokens.
fn subjects() -> Vec<String> {
    let words = ["a", "b", "c"];
    let mut all: Vec<String> = words.map(str::to_owned).to_vec();
    let mut last = all.clone();
    for _ in 0..2 {
        last = last.iter().flat_map(|start| words.map(|word| format!("{start}.{word}"))).collect();
        all.extend(last.iter().cloned());
    }
    all
}

/// Whether a pattern names a subject, word by word.
fn names(pattern: &str, subject: &str) -> bool {
    let (pattern, subject): (Vec<_>, Vec<_>) =
        (pattern.split('.').collect(), subject.split('.').collect());
    match pattern.split_last() {
        Some((&">", start)) => {
            subject.len() > start.len() && start.iter().zip(&subject).all(same_word)
        }
        _ => pattern.len() == subject.len() && pattern.iter().zip(&subject).all(same_word),
    }
}

fn same_word((pattern, word): (&&str, &&str)) -> bool {
    *pattern == "*" || pattern == word
}

/// What rules say of one subject and one kind of subscription to it.
fn model_permits(rules: &SubscribeRules, subject: &str, queue: Option<&str>) -> bool {
    let is_about = |target: &Target| {
        names(&target.subject, subject)
            && target
                .queue
                .as_deref()
                .is_none_or(|group| queue.is_some_and(|queue| names(group, queue)))
    };
    rules.allow.as_ref().is_none_or(|allow| allow.iter().any(is_about))
        && !rules.deny.iter().any(is_about)
}

fn pattern() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec!["a", "b", "*"]);
    (prop::collection::vec(word, 0..3), prop::sample::select(vec!["a", "b", "*", ">"])).prop_map(
        |(mut words, last)| {
            words.push(last);
            words.join(".")
        },
    )
}

fn queue() -> impl Strategy<Value = Option<&'static str>> {
    prop::sample::select(vec![None, Some("q"), Some("r"), Some("v.q")])
}

fn target() -> impl Strategy<Value = Target> {
    let group = prop::sample::select(vec![None, Some("q"), Some("v.*"), Some(">"), Some("r")]);
    (pattern(), group).prop_map(|(subject, queue)| Target { subject, queue: queue.map(Into::into) })
}

fn rules() -> impl Strategy<Value = SubscribeRules> {
    let list = || prop::collection::vec(target(), 0..4);
    (prop::option::of(list()), list()).prop_map(|(allow, deny)| SubscribeRules { allow, deny })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..Default::default() })]

    /// The one that matters: nothing is delivered that is not permitted, whatever overlaps.
    #[test]
    fn what_is_delivered_is_permitted(rules in rules(), pattern in pattern(), queue in queue()) {
        let begins = rules.permit(&pattern, queue);
        for subject in subjects().iter().filter(|subject| names(&pattern, subject)) {
            let delivered = begins && rules.may_receive(subject, queue);
            prop_assert!(!delivered || model_permits(&rules, subject, queue), "{}", subject);
            // Who has nothing to filter need not be asked.
            prop_assert!(rules.filter(&pattern, queue) || rules.may_receive(subject, queue));
        }
    }

    /// Nothing that is permitted is refused, as long as it is asked for word for word.
    #[test]
    fn what_is_permitted_can_be_subscribed_to(rules in rules()) {
        for subject in subjects() {
            let permitted = model_permits(&rules, &subject, None);
            prop_assert_eq!(rules.permit(&subject, None), permitted, "{}", subject);
            prop_assert!(!permitted || rules.may_receive(&subject, None));
        }
    }

    #[test]
    fn publishing_is_what_the_lists_name(
        allow in prop::option::of(prop::collection::vec(pattern(), 0..4)),
        deny in prop::collection::vec(pattern(), 0..4),
    ) {
        let rules = PublishRules { allow: allow.clone(), deny: deny.clone() };
        for subject in subjects() {
            let any = |list: &[String]| list.iter().any(|pattern| names(pattern, &subject));
            let permitted = allow.as_deref().is_none_or(any) && !any(&deny);
            prop_assert_eq!(rules.permit(&subject), permitted, "{}", subject);
        }
    }
}

fn listening(allow: Option<&[&str]>, deny: &[&str]) -> SubscribeRules {
    let read = |text: &&str| match text.split_once(' ') {
        Some((subject, queue)) => Target::queue(subject, queue),
        None => Target::subject(*text),
    };
    SubscribeRules {
        allow: allow.map(|allow| allow.iter().map(read).collect()),
        deny: deny.iter().map(read).collect(),
    }
}

/// The examples of nats-server's documentation, and what its version 2.15.1 was seen to do.
#[test]
fn queue_groups_are_permitted_as_in_nats_server() {
    let rules = listening(Some(&["foo", "foo v1", "foo v1.>", "foo *.dev"]), &["> *.prod"]);
    for (queue, expected) in [
        (None, true),
        (Some("v1"), true),
        (Some("v1.a.b"), true),
        (Some("v2.dev"), true),
        (Some("v2"), false),
        (Some("v1.prod"), false),
    ] {
        assert_eq!(rules.permit("foo", queue), expected, "{queue:?}");
    }
    let only_groups = listening(Some(&["bar v1.>"]), &[]);
    assert!(!only_groups.permit("bar", None) && !only_groups.permit("bar", Some("v1")));
    assert!(only_groups.permit("bar", Some("v1.a")));
    let any_group = listening(Some(&["baz"]), &[]);
    assert!(any_group.permit("baz", Some("q")));
    let denied = listening(None, &["half q"]);
    assert!(denied.permit("half", None) && denied.permit("half", Some("r")));
    assert!(!denied.permit("half", Some("q")));
}

#[test]
fn subscriptions_wider_than_allowed_are_refused_and_wider_than_denied_filtered() {
    let rules = listening(Some(&["a.*", "w.>"]), &["w.secret", "a.x"]);
    for (pattern, expected) in [
        ("a.b", true),
        ("a.*", true),
        // nats-server lets this one through, and delivers `a.b.c`.
        ("a.>", false),
        ("a.x", false),
        (">", false),
        ("w.>", true),
        ("w.*", true),
        ("w.secret", false),
        ("w.secret.x", true),
    ] {
        assert_eq!(rules.permit(pattern, None), expected, "{pattern}");
    }
    assert!(rules.filter("w.>", None) && !rules.filter("w.secret.x", None));
    assert!(!rules.may_receive("w.secret", None) && rules.may_receive("w.other", None));
}

/// A rule about a queue group does not undo one about everybody, as it did in nats-server.
#[test]
fn joining_a_queue_group_does_not_lift_a_denial() {
    let rules = listening(None, &["a", "a q"]);
    assert!(!rules.permit("a", None) && !rules.permit("a", Some("q")));
    assert!(!rules.permit("a", Some("other")));
    assert!(rules.permit("*", Some("other")) && !rules.may_receive("a", Some("other")));
    let rules = listening(None, &["b.c prod"]);
    assert!(rules.permit("b.*", Some("prod")) && rules.filter("b.*", Some("prod")));
    assert!(!rules.may_receive("b.c", Some("prod")));
    assert!(rules.may_receive("b.c", None) && rules.may_receive("b.c", Some("dev")));
}

#[test]
fn who_may_answer_may_not_publish_unless_told() {
    let grant =
        Grant::new(PublishRules::default(), SubscribeRules::default(), Some(Responses::default()));
    assert!(!grant.may_publish("a") && !grant.is_everything());
    let publish = PublishRules { allow: Some(vec!["a".to_owned()]), deny: Vec::new() };
    let grant = Grant::new(publish, SubscribeRules::default(), Some(Responses::default()));
    assert!(grant.may_publish("a") && !grant.may_publish("b"));
    assert!(Grant::default().is_everything() && Grant::default().may_publish("b"));
}

#[test]
fn an_empty_list_allows_nothing() {
    assert!(!listening(Some(&[]), &[]).permit("a", None));
    assert!(!PublishRules { allow: Some(Vec::new()), deny: Vec::new() }.permit("a"));
}

#[test]
fn the_server_is_not_sent_where_its_client_cannot_go() {
    let publish = PublishRules { allow: Some(vec!["$JS.API.>".to_owned()]), deny: Vec::new() };
    let grant = Grant::new(publish, listening(Some(&["_INBOX.me.>"]), &["_INBOX.me.no"]), None);
    assert!(grant.may_direct_to("_INBOX.me.1"));
    assert!(!grant.may_direct_to("_INBOX.me.no") && !grant.may_direct_to("_INBOX.other.1"));
    assert!(!grant.may_direct_to("orders.paid"));
}

#[test]
fn a_pattern_is_judged_by_all_that_it_matches() {
    let rules = |allow: &str, deny: &[&str]| PublishRules {
        allow: Some(vec![allow.to_owned()]),
        deny: deny.iter().map(ToString::to_string).collect(),
    };
    assert!(rules("a.>", &[]).permit_all("a.*"));
    assert!(!rules("a.>", &["a.secret"]).permit_all("a.*"));
    assert!(rules("a.>", &["b.secret"]).permit_all("a.*"));
    assert!(!rules("a.*", &[]).permit_all("a.>"));
    assert!(rules("a.>", &["a.secret"]).permit("a.*"), "as a text");
}
