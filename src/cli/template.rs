//! `{{name}}` in text: what `subscribe --format template` and `publish --count` fill in.

use std::borrow::Cow;

/// A name that the caller does not know.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnknownName(pub(super) String);

/// Replaces each `{{name}}` by what `value` gives for it. Text without its closing braces stays.
///
/// # Errors
/// [`UnknownName`] for the first name that `value` has nothing for.
pub(super) fn fill<'a>(
    template: &'a str,
    mut value: impl FnMut(&str) -> Option<Cow<'a, [u8]>>,
) -> Result<Vec<u8>, UnknownName> {
    let mut out = Vec::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((name, after)) = after.split_once("}}") else { break };
        out.extend_from_slice(before.as_bytes());
        let name = name.trim();
        out.extend_from_slice(&value(name).ok_or_else(|| UnknownName(name.to_owned()))?);
        rest = after;
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(out)
}

/// `\n`, `\t`, `\0` and `\\` as the characters they stand for.
#[must_use]
pub(super) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            out.push(character);
            continue;
        }
        match characters.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('0') => out.push('\0'),
            Some('\\') | None => out.push('\\'),
            Some(other) => {
                out.push('\\');
                out.push(other);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_replaced() {
        let value = |name: &str| (name == "n").then(|| Cow::Borrowed(&b"7"[..]));
        assert_eq!(fill("a{{n}}b{{ n }}", value), Ok(b"a7b7".to_vec()));
        assert_eq!(fill("{n} {{n", value), Ok(b"{n} {{n".to_vec()));
        assert_eq!(fill("{{m}}", value), Err(UnknownName("m".into())));
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape(r"a\tb\n\\n\x\"), "a\tb\n\\n\\x\\");
    }
}
