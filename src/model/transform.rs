//! Subject mappings, as NATS has them: a pattern, and a template that says what a subject that
//! matches it becomes.
//!
//! The template's tokens are text, `$1` or a function in double braces. It knows no stream. Random
//! numbers, which one function asks for, are drawn by the caller.

mod template;

use std::fmt;

use super::subject::{is_pattern, is_publishable, matches};

use template::{Part, parse};

/// Why a mapping makes no sense, in nats-server's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransformError {
    /// The pattern or the template is no subject, or one ends with `>` and the other does not.
    #[error("invalid subject")]
    Subject,
    /// The template has an empty token, white space, or something behind `>`.
    #[error("invalid mapping destination: invalid transform")]
    Destination,
    /// A token of the template.
    #[error("invalid mapping destination: {problem} in {token}")]
    Token {
        /// What is wrong with it.
        problem: Problem,
        /// The token.
        token: String,
    },
}

/// What is wrong with a token of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is what its text says")]
pub enum Problem {
    UnknownFunction,
    TooFewArguments,
    TooManyArguments,
    InvalidArgument,
    OutOfRange,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownFunction => "unknown function",
            Self::TooFewArguments => "not enough arguments passed to the function",
            Self::TooManyArguments => "too many arguments passed to the function",
            Self::InvalidArgument => "function argument is invalid or in the wrong format",
            Self::OutOfRange => "wildcard index out of range",
        })
    }
}

/// A mapping of subjects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transform {
    pattern: Box<str>,
    parts: Vec<Part>,
    /// How many tokens of a subject stand before what `>` matches, if the template ends with `>`.
    rest_from: Option<usize>,
    /// Whether all stays as it is: from `>` to `>`.
    is_identity: bool,
}

impl Transform {
    /// A mapping from `pattern`, where nothing means `>`, to `template`. `None` if there is no template:
    /// such a mapping leaves subjects as they are.
    ///
    /// # Errors
    /// The first thing that is wrong, in nats-server's order.
    pub fn new(pattern: &str, template: &str) -> Result<Option<Self>, TransformError> {
        if template.is_empty() {
            return Ok(None);
        }
        let pattern = if pattern.is_empty() { ">" } else { pattern };
        template::check_tokens(template)?;
        let tokens: Vec<&str> = template.split('.').collect();
        let ends_open = tokens.last() == Some(&">");
        if !is_pattern(pattern)
            || tokens.contains(&"*")
            || ends_open != (pattern.split('.').next_back() == Some(">"))
        {
            return Err(TransformError::Subject);
        }
        let wildcards: Vec<usize> = pattern
            .split('.')
            .enumerate()
            .filter(|(_, token)| *token == "*")
            .map(|(place, _)| place)
            .collect();
        let is_literal = wildcards.is_empty() && !ends_open;
        let places = (!is_literal).then_some(wildcards.as_slice());
        let named = if ends_open { tokens.len() - 1 } else { tokens.len() };
        let parts = tokens.iter().take(named).map(|token| parse(token, places));
        Ok(Some(Self {
            pattern: Box::from(pattern),
            parts: parts.collect::<Result<_, _>>()?,
            rest_from: ends_open.then(|| pattern.split('.').count() - 1),
            is_identity: pattern == ">" && template == ">",
        }))
    }

    /// Whether it maps one subject to different ones.
    #[must_use]
    pub fn is_random(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Random(_)))
    }

    /// What a subject becomes. `None` if it does not match the pattern, or if what came out is not a
    /// subject that messages can have, as `split` makes of a token of separators. `draw` gives a
    /// number below its argument, which is above 0.
    pub fn apply(&self, subject: &str, draw: &mut dyn FnMut(u32) -> u32) -> Option<String> {
        if self.is_identity {
            return Some(subject.to_owned());
        }
        if !matches(&self.pattern, subject) {
            return None;
        }
        let tokens: Vec<&str> = subject.split('.').collect();
        let mut mapped = String::with_capacity(subject.len());
        for (at, part) in self.parts.iter().enumerate() {
            if at > 0 {
                mapped.push('.');
            }
            part.write(subject, &tokens, draw, &mut mapped);
        }
        for token in self.rest_from.and_then(|from| tokens.get(from..)).unwrap_or_default() {
            if !mapped.is_empty() {
                mapped.push('.');
            }
            mapped.push_str(token);
        }
        is_publishable(&mapped).then_some(mapped)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    fn apply(pattern: &str, template: &str, subject: &str) -> Option<String> {
        let transform = Transform::new(pattern, template).unwrap().unwrap();
        transform.apply(subject, &mut |below| below - 1)
    }

    /// Each row is what nats-server 2.15.1 stored a message under.
    #[test]
    fn subjects_become_what_nats_server_makes_of_them() {
        for (pattern, template, subject, mapped) in [
            ("in.*", "out.{{wildcard(1)}}.z", "in.a", "out.a.z"),
            ("in.*.*", "$2.{{wildcard(1)}}", "in.a.b", "b.a"),
            ("in.*", "out.$0", "in.a", "out.in"),
            ("in.*", "out.{{wildcard(-1)}}", "in.a", "out.in"),
            ("in.*", "o.{{left(0,1)}}", "in.a", "o.i"),
            ("in.*.*", "o.{{partition(7,1,2)}}.$2", "in.a.b", "o.2.b"),
            ("in.*.*", "o.{{partition(7,1,2)}}.$2", "in.hello.world", "o.2.world"),
            ("in.*.*", "o.{{partition(7,1,2)}}.$2", "in.1.2", "o.1.2"),
            ("in.*.*", "o.{{partition(7, 1, 2)}}.$2", "in.x.y", "o.4.y"),
            ("in.*.*", "o.{{partition(7)}}", "in.a.b", "o.5"),
            ("in.*.*", "o.{{Partition(7)}}", "in.hello.world", "o.5"),
            ("in.*", "o.{{partition(0,1)}}", "in.a", "o.0"),
            ("in.*", "o.{{partition(-3,1)}}", "in.a", "o.3826002220"),
            ("in.*", "o.{{partition(3,0)}}", "in.a", "o.2"),
            ("in.x", "o.{{partition(5)}}", "in.x", "o.3"),
            ("in.>", "o.{{partition(5)}}.>", "in.x", "o.3.x"),
            ("in.>", "o.{{partition(5)}}.>", "in.y.z", "o.1.y.z"),
            ("in.*", "o.{{split(1,-)}}", "in.a-b-c", "o.a.b.c"),
            ("in.*", "o.{{split(1,-)}}", "in.-a-b", "o.a.b"),
            ("in.*", "o.{{split(1,-)}}", "in.a--b", "o.a.b"),
            ("in.*", "o.{{split(1,-)}}", "in.a-", "o.a"),
            ("in.*", "o.{{split(1,-)}}", "in.abc", "o.abc"),
            ("in.*", "o.{{split(1, )}}", "in.abc", "o.a.b.c"),
            ("in.*", "o.{{split(1,)}}", "in.äb", "o.ä.b"),
            ("in.*", "o.{{splitfromleft(1,2)}}", "in.abcd", "o.ab.cd"),
            ("in.*", "o.{{splitfromleft(1,2)}}", "in.ab", "o.ab"),
            ("in.*", "o.{{splitfromleft(1,0)}}", "in.ab", "o.ab"),
            ("in.*", "o.{{splitfromleft(1,2)}}", "in.äöü", "o.ä.öü"),
            ("in.*", "o.{{SplitFromRight(1, 2)}}", "in.abc", "o.a.bc"),
            ("in.*", "o.{{SliceFromLeft(1,2)}}", "in.abcde", "o.ab.cd.e"),
            ("in.*", "o.{{SliceFromLeft(1,2)}}", "in.abcd", "o.ab.cd"),
            ("in.*", "o.{{SliceFromLeft(1,2)}}", "in.ab", "o.ab"),
            ("in.*", "o.{{SliceFromRight(1,2)}}", "in.abcde", "o.a.bc.de"),
            ("in.*", "o.{{SliceFromRight(1,2)}}", "in.abcd", "o.ab.cd"),
            ("in.*", "o.{{left(1,2)}}.{{right(1,3)}}", "in.abcde", "o.ab.cde"),
            ("in.*", "o.{{left(1,2)}}.{{right(1,3)}}", "in.a", "o.a.a"),
            ("in.*", "o.{{left(1,0)}}.{{right(1,-1)}}", "in.abcde", "o.abcde.abcde"),
            ("in.*", "o.{{random(0)}}", "in.a", "o.0"),
            ("", "o.>", "in.a.b", "o.in.a.b"),
            ("", ">", "in.a", "in.a"),
            ("in.*.>", "o.$1.z.>", "in.a.b.c", "o.a.z.b.c"),
            ("in.*", "o.x{{wildcard(1)}}", "in.a", "o.x{{wildcard(1)}}"),
            ("in.*", "o.{{wildcard(1)}}x", "in.a", "o.{{wildcard(1)}}x"),
            ("in.*", "o.{{}}", "in.a", "o.{{}}"),
            ("in.*", "o.fix", "in.b", "o.fix"),
            ("in.*", "{{wildcard(1) }}", "in.a", "a"),
            ("in.*", "o.{{ Wildcard ( 1 ) }}", "in.a", "o.a"),
            ("in.*", "o.$x", "in.a", "o.$x"),
        ] {
            let got = apply(pattern, template, subject);
            assert_eq!(got.as_deref(), Some(mapped), "{subject}: {pattern} -> {template}");
        }
    }

    #[test]
    fn other_subjects_and_what_is_no_subject_are_left_alone() {
        assert_eq!(apply("other.*", "o.$1", "in.a"), None);
        assert_eq!(apply("in.*.>", "o.$1.z.>", "in.a"), None);
        assert_eq!(apply("in.*", "o.{{split(1,-)}}", "in.--"), None);
        assert_eq!(apply("in.*", "o.{{split(1,-)}}", "in.--a"), None);
        // No character is cut in two.
        assert_eq!(apply("in.*", "o.{{left(1,1)}}", "in.äb").as_deref(), Some("o.äb"));
        assert_eq!(apply("in.*", "o.{{slicefromleft(1,1)}}", "in.äb").as_deref(), Some("o.äb"));
        assert_eq!(Transform::new("in.x", "").unwrap(), None);
    }

    #[test]
    fn a_random_number_is_drawn_below_its_bound() {
        assert_eq!(apply("in.*", "o.{{random(3)}}", "in.a").as_deref(), Some("o.2"));
        assert_eq!(apply("in.*", "o.{{random(-2)}}", "in.a").as_deref(), Some("o.1"));
        assert!(Transform::new("in.x", "o.{{random(3)}}").unwrap().unwrap().is_random());
        assert!(!Transform::new("in.x", "o.x").unwrap().unwrap().is_random());
    }

    /// Each row is what nats-server 2.15.1 said.
    #[test]
    fn mistakes_are_told_as_nats_server_tells_them() {
        let few = "not enough arguments passed to the function";
        let many = "too many arguments passed to the function";
        let wrong = "function argument is invalid or in the wrong format";
        let range = "wildcard index out of range";
        for (template, problem) in [
            ("{{wildcard()}}", few),
            ("{{wildcard(x)}}", wrong),
            ("{{wildcard(1,2)}}", many),
            ("{{foo(1)}}", "unknown function"),
            ("{{ }}", "unknown function"),
            ("{{WILDCARD(1)}}", "unknown function"),
            ("{{partition()}}", wrong),
            ("{{partition(99999999999,1)}}", wrong),
            ("{{partition(2147483648,1)}}", wrong),
            ("{{split(1)}}", few),
            ("{{split(1,-,2)}}", many),
            ("{{splitfromleft(1)}}", few),
            ("{{SplitFromLeft(1,2,3)}}", many),
            ("{{splitfromleft(1,x)}}", wrong),
            ("{{left(1)}}", few),
            ("{{right(1,2,3)}}", many),
            ("{{random(3,1)}}", few),
            ("{{random()}}", wrong),
        ] {
            let error = Transform::new("in.*", &format!("out.{template}")).unwrap_err();
            let text = format!("invalid mapping destination: {problem} in {template}");
            assert_eq!(error.to_string(), text);
        }
        for (pattern, template, text) in [
            ("in.*", "out.{{wildcard(2)}}", format!("{range} in {{{{wildcard(2)}}}}: [2]")),
            ("in.*", "out.$2", format!("{range} in $2: [2]")),
            ("in.x", "out.{{wildcard(1)}}", format!("{range} in {{{{wildcard(1)}}}}")),
            ("in.x", "out.$1", format!("{range} in $1")),
            ("in.>", "out.$1.>", format!("{range} in $1: [1]")),
            ("in.x", "out..x", "invalid transform".to_owned()),
            ("in.x", "out x", "invalid transform".to_owned()),
        ] {
            let error = Transform::new(pattern, template).unwrap_err().to_string();
            assert_eq!(error, format!("invalid mapping destination: {text}"));
        }
        for (pattern, template) in
            [("in.*", "out.*"), ("in.>", "out"), ("in.*", "out.>"), ("in..x", "o")]
        {
            assert_eq!(Transform::new(pattern, template), Err(TransformError::Subject));
        }
    }
}
