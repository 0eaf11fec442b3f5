//! Subject matching against a naive model, and the laws that tie matching, overlap and subset
//! together.
#![no_main]

use claudebus_storage::subject::{has_wildcard, is_subset, matches, overlap};
use libfuzzer_sys::fuzz_target;

/// Matching by its definition: token by token, recursively.
fn naive(pattern: &[&str], subject: &[&str]) -> bool {
    match (pattern, subject) {
        ([], []) => true,
        ([">"], [_, ..]) => true,
        (["*", pattern @ ..], [_, subject @ ..]) => naive(pattern, subject),
        ([a, pattern @ ..], [b, subject @ ..]) => a == b && naive(pattern, subject),
        _ => false,
    }
}

/// A small alphabet, so that patterns and subjects meet.
fn text(bytes: &[u8]) -> String {
    let tokens = bytes.iter().take(8).map(|byte| match byte % 6 {
        0 => "*",
        1 => ">",
        2 => "a",
        3 => "b",
        4 => "a*",
        _ => "",
    });
    tokens.collect::<Vec<_>>().join(".")
}

fuzz_target!(|input: (&[u8], &[u8], &[u8])| {
    let (left, right, subject) = (text(input.0), text(input.1), text(input.2));
    let pattern: Vec<&str> = left.split('.').collect();
    let tokens: Vec<&str> = subject.split('.').collect();
    assert_eq!(matches(&left, &subject), naive(&pattern, &tokens), "{left} {subject}");
    assert_eq!(overlap(&left, &right), overlap(&right, &left), "{left} {right}");
    if has_wildcard(&subject) {
        return;
    }
    if matches(&left, &subject) && matches(&right, &subject) {
        assert!(overlap(&left, &right), "{left} and {right} both match {subject}");
    }
    if is_subset(&left, &right) && matches(&left, &subject) {
        assert!(matches(&right, &subject), "{left} is within {right} but not for {subject}");
    }
});
