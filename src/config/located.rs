//! A YAML document as a tree that knows the line of every key and value.

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// One value with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Line in the file, from 1.
    pub line: u64,
    /// The value.
    pub kind: Kind,
}

/// What a value is. Scalars keep their text; whoever reads them says what it must mean.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// `null`, `~` or nothing.
    Null,
    /// Text, a number or a boolean.
    Scalar(String),
    /// A list.
    List(Vec<Node>),
    /// Keys with their line and value, in the order of the file.
    Map(Vec<(String, u64, Node)>),
}

impl Node {
    /// Reads one document. An empty one is an empty map.
    ///
    /// # Errors
    /// The line (from 1, if known) and what the parser says.
    pub fn parse(yaml: &str) -> Result<Self, (Option<u64>, String)> {
        let options = serde_saphyr::options! {
            with_snippet: false,
            strict_booleans: true,
            duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
            non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::AsString,
        };
        let read = serde_saphyr::from_str_with_options::<Spanned<Kind>>(yaml, options);
        match read.map(Self::from) {
            Ok(Self { kind: Kind::Null, line }) => Ok(Self { kind: Kind::Map(Vec::new()), line }),
            Ok(node) => Ok(node),
            Err(error) => Err((error.location().map(|l| l.line()), error.to_string())),
        }
    }

    /// The value under `key`, if this is a map that has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|(k, _, _)| k == key).map(|(_, _, v)| v),
            _ => None,
        }
    }
}

impl From<Spanned<Kind>> for Node {
    fn from(spanned: Spanned<Kind>) -> Self {
        Self { line: spanned.referenced.line(), kind: spanned.value }
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KindVisitor)
    }
}

/// Builds a [`Kind`] from whatever the parser found.
struct KindVisitor;

impl<'de> Visitor<'de> for KindVisitor {
    type Value = Kind;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Kind, D::Error> {
        inner.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::Scalar(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
        Ok(Kind::Scalar(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
        Ok(Kind::Scalar(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Kind, E> {
        Ok(Kind::Scalar(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Kind, E> {
        Ok(Kind::Scalar(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Kind, E> {
        // Debug keeps the exponent of 1e308 instead of 309 digits.
        Ok(Kind::Scalar(format!("{value:?}")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Kind, E> {
        Ok(Kind::Scalar(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Kind, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element::<Spanned<Kind>>()? {
            list.push(item.into());
        }
        Ok(Kind::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<Kind>>()? {
            let line = key.referenced.line();
            let Kind::Scalar(key) = key.value else {
                return Err(de::Error::custom("a key must be a word"));
            };
            entries.push((key, line, map.next_value::<Spanned<Kind>>()?.into()));
        }
        Ok(Kind::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_know_their_lines() {
        let node = Node::parse("a: 1\nb:\n  - x: 7d\n  - ~\n").unwrap();
        assert_eq!(node.get("a").unwrap().kind, Kind::Scalar("1".into()));
        let Kind::List(list) = &node.get("b").unwrap().kind else { panic!("{node:?}") };
        assert_eq!(list[0].get("x").unwrap(), &Node { line: 3, kind: Kind::Scalar("7d".into()) });
        assert_eq!(list[1], Node { line: 4, kind: Kind::Null });
        let Kind::Map(entries) = &node.kind else { panic!("{node:?}") };
        assert_eq!((entries[1].0.as_str(), entries[1].1), ("b", 2));
    }

    #[test]
    fn absurd_scalars_keep_their_text() {
        for (yaml, text) in [
            ("a: 1e308", "1e308"),
            ("a: -1", "-1"),
            ("a: .nan", ".nan"),
            ("a: off", "off"),
            ("a: 99999999999999999999999999999999999999999999", "1e44"),
        ] {
            let node = Node::parse(yaml).unwrap();
            assert_eq!(node.get("a").unwrap().kind, Kind::Scalar(text.into()), "{yaml}");
        }
    }

    #[test]
    fn what_is_not_yaml_names_its_line() {
        let (line, why) = Node::parse("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(line.is_some_and(|line| line >= 2), "{line:?} {why}");
        let (_, why) = Node::parse("a: 1\na: 2\n").unwrap_err();
        assert!(why.contains('a'), "{why}");
        assert!(Node::parse("? [1, 2]\n: 3\n").is_err());
        assert_eq!(Node::parse("# nothing\n").unwrap().kind, Kind::Map(Vec::new()));
    }

    #[test]
    fn deep_nesting_ends_in_an_error_not_in_the_stack() {
        assert!(Node::parse(&"[".repeat(100_000)).is_err());
    }
}
