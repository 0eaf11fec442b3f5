//! From the located tree to serde types, with errors that know their place.

use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};

use super::expand::join;
use super::located::{Kind, Node};

/// What is wrong, and where. The place is filled in by the innermost value that knows it.
#[derive(Debug)]
pub(super) struct DecodeError {
    pub(super) path: String,
    pub(super) line: u64,
    pub(super) problem: Problem,
}

/// What is wrong.
#[derive(Debug)]
pub(super) enum Problem {
    /// A key or a choice that is not known.
    Unknown { what: &'static str, word: String, known: Vec<String> },
    /// Anything else, as a sentence.
    Other(String),
}

impl DecodeError {
    fn new(problem: Problem) -> Self {
        Self { path: String::new(), line: 0, problem }
    }

    /// Fills in the place unless it is known already.
    fn at(mut self, path: &str, line: u64) -> Self {
        if self.line == 0 {
            path.clone_into(&mut self.path);
            self.line = line;
        }
        self
    }
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::new(Problem::Other(message.to_string()))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::unknown("key", field, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::unknown("value", variant, expected)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom(format_args!("the key `{field}` is missing"))
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let found = match found {
            de::Unexpected::Unit => "nothing".to_owned(),
            de::Unexpected::Str(text) => format!("`{text}`"),
            de::Unexpected::Seq => "a list".to_owned(),
            de::Unexpected::Map => "a section".to_owned(),
            other => other.to_string(),
        };
        Self::custom(format_args!("found {found}, expected {expected}"))
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(found, expected)
    }
}

impl DecodeError {
    fn unknown(what: &'static str, word: &str, known: &[&str]) -> Self {
        let known = known.iter().map(|&word| word.to_owned()).collect();
        Self::new(Problem::Unknown { what, word: word.to_owned(), known })
    }
}

/// A node on its way into a type.
pub(super) struct Decoder<'a> {
    pub(super) node: &'a Node,
    pub(super) path: String,
}

impl Decoder<'_> {
    /// Parses a scalar as a number, and says which numbers would do.
    fn number<N: std::str::FromStr>(
        &self,
        expected: impl std::fmt::Display,
    ) -> Result<N, DecodeError> {
        let found = match &self.node.kind {
            Kind::Scalar(text) => match text.replace('_', "").parse() {
                Ok(number) => return Ok(number),
                Err(_) => format!("`{text}`"),
            },
            Kind::Null => "nothing".to_owned(),
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a section".to_owned(),
        };
        let problem = Problem::Other(format!("found {found}, expected {expected}"));
        Err(DecodeError::new(problem).at(&self.path, self.node.line))
    }
}

/// Forwards one integer type.
macro_rules! integers {
    ($($method:ident $visit:ident $type:ident),*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            let number: $type = self.number(format_args!("a whole number from {} to {}", $type::MIN, $type::MAX))?;
            visitor.$visit(number).map_err(|e: DecodeError| e.at(&self.path, self.node.line))
        })*
    };
}

impl<'de> Deserializer<'de> for Decoder<'_> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let (path, line) = (self.path, self.node.line);
        let placed = |e: DecodeError| e.at(&path, line);
        match &self.node.kind {
            Kind::Null => visitor.visit_unit().map_err(placed),
            Kind::Scalar(text) => visitor.visit_str(text).map_err(placed),
            Kind::List(list) => visitor
                .visit_seq(Items { list: list.iter(), path: &path, index: 0 })
                .map_err(placed),
            Kind::Map(entries) => {
                let entries = Entries { entries: entries.iter(), path: &path, value: None };
                visitor.visit_map(entries).map_err(placed)
            }
        }
    }

    integers! {
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64, deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let number: f64 = self.number("a number")?;
        visitor.visit_f64(number).map_err(|e: DecodeError| e.at(&self.path, self.node.line))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let value: bool = self.number("true or false")?;
        visitor.visit_bool(value).map_err(|e: DecodeError| e.at(&self.path, self.node.line))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.node.kind {
            Kind::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    /// A section whose keys are all commented out is an empty section.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match self.node.kind {
            Kind::Null => {
                let empty = Node { line: self.node.line, kind: Kind::Map(Vec::new()) };
                Decoder { node: &empty, path: self.path }.deserialize_any(visitor)
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let (path, line) = (self.path, self.node.line);
        let Kind::Scalar(word) = &self.node.kind else {
            let why = format!("expected one of {}", variants.join(", "));
            return Err(DecodeError::new(Problem::Other(why)).at(&path, line));
        };
        let word: de::value::StrDeserializer<'_, DecodeError> = word.as_str().into_deserializer();
        visitor.visit_enum(word).map_err(|e| e.at(&path, line))
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map
        identifier ignored_any
    }
}

/// The items of a list.
struct Items<'a> {
    list: std::slice::Iter<'a, Node>,
    path: &'a str,
    index: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        let Some(node) = self.list.next() else { return Ok(None) };
        let path = format!("{}[{}]", self.path, self.index);
        self.index += 1;
        seed.deserialize(Decoder { node, path: path.clone() })
            .map_err(|e| e.at(&path, node.line))
            .map(Some)
    }
}

/// The entries of a map.
struct Entries<'a> {
    entries: std::slice::Iter<'a, (String, u64, Node)>,
    path: &'a str,
    value: Option<&'a (String, u64, Node)>,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, DecodeError> {
        let Some(entry) = self.entries.next() else { return Ok(None) };
        self.value = Some(entry);
        let key: de::value::StrDeserializer<'_, DecodeError> = entry.0.as_str().into_deserializer();
        seed.deserialize(key).map_err(|e| e.at(self.path, entry.1)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, DecodeError> {
        let Some((key, _, node)) = self.value.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        let path = join(self.path, key);
        seed.deserialize(Decoder { node, path: path.clone() }).map_err(|e| e.at(&path, node.line))
    }
}
