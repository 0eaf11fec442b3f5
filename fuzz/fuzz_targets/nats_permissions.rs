//! Permissions against a model that knows nothing but single subjects: whatever rules overlap, nothing is
//! published or delivered that is not permitted. Then the same of whole sessions: of messages that a
//! careless broker hands to a session, only permitted ones are written.
#![no_main]

use std::sync::Arc;

use arbitrary::Arbitrary;
use bytes::Bytes;
use claudebus::access::{Grant, PublishRules, SubscribeRules, Target};
use claudebus::model::event::{CoreMessage, Event};
use claudebus::model::limits::Limits;
use claudebus::model::request::Request;
use claudebus::session::nats::Session;
use claudebus::wire::Output;
use claudebus::wire::nats::Decoder;
use libfuzzer_sys::fuzz_target;

/// Words of subjects and patterns. The last two are wildcards.
const WORDS: [&str; 5] = ["a", "b", "c", "*", ">"];
/// Queue groups and patterns of them.
const GROUPS: [&str; 5] = ["q", "r", "v.q", "v.*", ">"];

#[derive(Arbitrary, Debug)]
struct Rule {
    words: [u8; 3],
    group: u8,
}

#[derive(Arbitrary, Debug)]
struct Input {
    publish: (Option<Vec<Rule>>, Vec<Rule>),
    subscribe: (Option<Vec<Rule>>, Vec<Rule>),
    asked: Vec<Rule>,
}

/// Up to three words; `>` ends it.
fn pattern(words: [u8; 3], wild: bool) -> String {
    let count = if wild { WORDS.len() } else { 3 };
    let mut pattern = Vec::new();
    for (at, word) in words.iter().enumerate() {
        // Values past the words end it, but there is one at least.
        let word = usize::from(*word) % (count + 1);
        let Some(word) = WORDS.get(word).filter(|_| word < count) else {
            if at == 0 {
                pattern.push("a");
            }
            break;
        };
        pattern.push(word);
        if *word == ">" {
            break;
        }
    }
    pattern.join(".")
}

fn group(number: u8, wild: bool) -> Option<&'static str> {
    let count = if wild { GROUPS.len() } else { 3 };
    GROUPS
        .get(usize::from(number) % (count + 1))
        .copied()
        .filter(|group| wild || !group.contains(['*', '>']))
}

fn target(rule: &Rule) -> Target {
    let queue = group(rule.group, true).map(str::to_owned);
    Target { subject: pattern(rule.words, true), queue }
}

/// Whether a pattern names a subject, word by word.
fn names(pattern: &str, subject: &str) -> bool {
    let mut subject = subject.split('.');
    for word in pattern.split('.') {
        match (word, subject.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (word, Some(other)) if word == other => {}
            _ => return false,
        }
    }
    subject.next().is_none()
}

fn model_permits(rules: &SubscribeRules, subject: &str, queue: Option<&str>) -> bool {
    let is_about = |target: &Target| {
        let group = target.queue.as_deref();
        names(&target.subject, subject)
            && group.is_none_or(|group| queue.is_some_and(|queue| names(group, queue)))
    };
    rules.allow.as_ref().is_none_or(|allow| allow.iter().any(is_about))
        && !rules.deny.iter().any(is_about)
}

/// All subjects of up to three words.
fn subjects() -> Vec<String> {
    let words = [0, 1, 2, 3];
    let mut all = Vec::new();
    for first in &words[..3] {
        for second in words {
            for third in words {
                all.push(pattern([*first, second, third], false));
            }
        }
    }
    all.sort();
    all.dedup();
    all
}

fn check_session(grant: &Arc<Grant>, rules: &SubscribeRules, asked: &Rule) {
    let (subject, queue) = (pattern(asked.words, true), group(asked.group, false));
    let mut session = Session::new(Arc::new(Limits::default()), "bus".into(), false);
    let (mut requests, mut out) = (Vec::new(), Output::new());
    session.permit("ann", Arc::clone(grant), &mut requests);
    session.admit(&mut requests, &mut out);
    let mut decoder = Decoder::new(1 << 20, 4096);
    let line = format!("SUB {subject} {} 1\r\n", queue.unwrap_or_default());
    decoder.buffer().extend_from_slice(line.as_bytes());
    let Ok(Some(operation)) = decoder.next_operation() else { panic!("{line:?} is an operation") };
    requests.clear();
    session.receive(operation, &mut requests, &mut out).expect("a violation ends nothing");
    out.take();
    let Some(Request::Subscribe { token, .. }) = requests.first() else {
        assert!(!grant.may_subscribe(&subject, queue));
        return;
    };
    for subject in subjects() {
        let message =
            CoreMessage { subject: Bytes::from(subject.clone()), ..CoreMessage::default() };
        session.event(Event::Message { token: *token, message }, &mut out).expect("it goes on");
        let is_written = !out.take().is_empty();
        let is_asked = names(&pattern(asked.words, true), &subject);
        assert!(!is_written || !is_asked || model_permits(rules, &subject, queue));
        assert_eq!(is_written, grant.may_receive(&subject, queue));
    }
}

fuzz_target!(|input: Input| {
    let Input { publish, subscribe, asked } = input;
    let patterns = |rules: &[Rule]| rules.iter().map(|rule| pattern(rule.words, true)).collect();
    let publish =
        PublishRules { allow: publish.0.as_deref().map(patterns), deny: patterns(&publish.1) };
    let targets = |rules: &[Rule]| rules.iter().map(target).collect();
    let rules =
        SubscribeRules { allow: subscribe.0.as_deref().map(targets), deny: targets(&subscribe.1) };
    let subjects = subjects();
    for subject in &subjects {
        let any = |list: &[String]| list.iter().any(|pattern| names(pattern, subject));
        let expected = publish.allow.as_deref().is_none_or(any) && !any(&publish.deny);
        assert_eq!(publish.permit(subject), expected, "{subject}");
    }
    let grant = Arc::new(Grant::new(publish, rules.clone(), None));
    for rule in asked.iter().take(8) {
        let (pattern, queue) = (pattern(rule.words, true), group(rule.group, false));
        let begins = grant.may_subscribe(&pattern, queue);
        for subject in subjects.iter().filter(|subject| names(&pattern, subject)) {
            let is_delivered = begins && grant.may_receive(subject, queue);
            assert!(!is_delivered || model_permits(&rules, subject, queue), "{pattern} {subject}");
            assert!(grant.filters(&pattern, queue) || grant.may_receive(subject, queue));
        }
        check_session(&grant, &rules, rule);
    }
});
