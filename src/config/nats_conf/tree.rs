//! The tree that a file is: maps, lists and words, with their places.

use super::error::Place;

/// A value and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Value {
    pub(super) place: Place,
    pub(super) kind: Kind,
}

/// What a value is. What a word means is decided by the key it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// A text without quotes: a word, a number, a size, a duration, true or false.
    Word(String),
    /// A text in quotes or in a block.
    Text(String),
    List(Vec<Value>),
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) value: Value,
    /// Whether something refers to it as a variable, so that its key need not be known.
    pub(super) is_used: bool,
}

impl Value {
    /// The text of a word or a quoted text.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(text) | Kind::Text(text) => Some(text),
            Kind::List(_) | Kind::Map(_) => None,
        }
    }

    /// Values in this one, itself included.
    pub(super) fn count(&self) -> usize {
        match &self.kind {
            Kind::Word(_) | Kind::Text(_) => 1,
            Kind::List(list) => 1 + list.iter().map(Self::count).sum::<usize>(),
            Kind::Map(entries) => 1 + entries.iter().map(|e| e.value.count()).sum::<usize>(),
        }
    }

    /// What it is, for errors.
    pub(super) fn what(&self) -> String {
        match &self.kind {
            Kind::Word(text) | Kind::Text(text) => format!("`{text}`"),
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a map".to_owned(),
        }
    }
}
