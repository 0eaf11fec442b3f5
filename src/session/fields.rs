//! JSON bodies: which fields a type has, and an error that names the nearest for one it has not.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::model::error::ApiError;
pub(super) use crate::model::fields::fields_of;

/// Whether fields that a type does not have are an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// They are: our own protocol, whose clients are of one making with the server.
    Strict,
    /// They are ignored: NATS clients may be newer than the server.
    Lenient,
}

/// Reads the body of a request that needs none. A lenient reader takes what is neither an object nor an array
/// for none, as nats-server does.
pub(super) fn parse_options<T>(body: &[u8], strictness: Strictness) -> Result<T, ApiError>
where
    T: DeserializeOwned,
{
    let is_json = matches!(body.trim_ascii_start().first(), Some(b'{' | b'['));
    let body = if is_json || strictness == Strictness::Strict { body } else { b"" };
    parse(body, &[], strictness)
}

/// Reads a body. An empty one is an empty object. `extra` are fields that are allowed and ignored.
pub(super) fn parse<T>(body: &[u8], extra: &[&str], strictness: Strictness) -> Result<T, ApiError>
where
    T: DeserializeOwned,
{
    let value = object(body)?;
    from_object(value, extra, strictness)
}

/// The body as an object; an empty body is an empty one.
pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    serde_json::from_slice(body).map_err(ApiError::invalid_json)
}

/// Reads a type from an object.
pub(super) fn from_object<T: DeserializeOwned>(
    mut value: Map<String, Value>,
    extra: &[&str],
    strictness: Strictness,
) -> Result<T, ApiError> {
    match strictness {
        Strictness::Strict => check(&value, fields_of::<T>(), extra)?,
        Strictness::Lenient => drop_nulls(&mut value),
    }
    serde_json::from_value(Value::Object(value)).map_err(ApiError::invalid_json)
}

/// Clients write `null` for what they leave out, at any depth.
fn drop_nulls(fields: &mut Map<String, Value>) {
    fields.retain(|_, value| !value.is_null());
    for value in fields.values_mut() {
        if let Value::Object(inner) = value {
            drop_nulls(inner);
        }
    }
}

/// Checks that an object has only known fields.
pub(super) fn check(
    value: &Map<String, Value>,
    known: &[&str],
    extra: &[&str],
) -> Result<(), ApiError> {
    let all = || known.iter().chain(extra).copied();
    match value.keys().find(|key| all().all(|known| known != key.as_str())) {
        None => Ok(()),
        Some(unknown) => Err(ApiError::invalid_json(match nearest(unknown, all()) {
            Some(near) => format!("unknown field \"{unknown}\"; did you mean \"{near}\"?"),
            None => format!("unknown field \"{unknown}\""),
        })),
    }
}

/// The word with the fewest edits from `word`, if it needs no more than a third of its letters.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (word.chars().count() / 3).max(1);
    known
        .map(|candidate| (edits(word, candidate), candidate))
        .filter(|(edits, _)| *edits <= allowed)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Letters to insert, delete or replace to get from one word to the other (Levenshtein).
fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, b) in row.iter_mut().zip(std::iter::once(None).chain(to.chars().map(Some))) {
            let above = *cell;
            left = match b {
                None => i + 1,
                Some(b) => (diagonal + usize::from(a != b)).min(above + 1).min(left + 1),
            };
            diagonal = above;
            *cell = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::stream::StreamConfig;

    #[test]
    fn a_struct_tells_its_fields() {
        let fields = fields_of::<StreamConfig>();
        assert!(fields.contains(&"max_msgs_per_subject") && fields.contains(&"dead_letters"));
    }

    #[test]
    fn edits_are_counted() {
        for (from, to, expected) in
            [("", "", 0), ("a", "", 1), ("", "ab", 2), ("kitten", "sitting", 3), ("abc", "abc", 0)]
        {
            assert_eq!(edits(from, to), expected, "{from} {to}");
        }
    }

    #[test]
    fn an_unknown_field_is_named_with_the_nearest() {
        let body = br#"{"max_mgs":5}"#;
        let error = parse::<StreamConfig>(body, &[], Strictness::Strict).unwrap_err();
        assert!(error.description.contains("did you mean \"max_msgs\""), "{error}");
        assert_eq!(error.err_code, 10025);
        parse::<StreamConfig>(body, &[], Strictness::Lenient).expect("ignored");
    }
}
