//! The tokens of a mapping's template: what they say, and what they make of a subject.

use super::{Problem, TransformError};

/// A token of a template. Places are those of a subject's tokens, from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Itself.
    Text(Box<str>),
    /// The token at a place.
    Wildcard(usize),
    /// A number below `buckets` that follows from the tokens at some places; from the whole subject if
    /// there are none.
    Partition { buckets: u32, places: Vec<usize> },
    /// A number below this, drawn each time.
    Random(u32),
    /// The token at a place, in pieces between separators.
    Split { place: usize, separator: Box<str> },
    /// The token at a place, cut.
    Cut { place: usize, cut: Cut, length: usize },
}

/// How a token is cut, at a length in bytes. Shorter tokens stay whole, and so do those in which a
/// character would be cut in two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// In two, after the first bytes.
    SplitFromLeft,
    /// In two, before the last bytes.
    SplitFromRight,
    /// In slices, the last one being shorter.
    SliceFromLeft,
    /// In slices, the first one being shorter.
    SliceFromRight,
    /// The first bytes are kept.
    Left,
    /// The last bytes are kept.
    Right,
}

/// The functions that cut, by the words of their names.
const CUTS: [(&[&str], Cut); 6] = [
    (&["split", "from", "left"], Cut::SplitFromLeft),
    (&["split", "from", "right"], Cut::SplitFromRight),
    (&["slice", "from", "left"], Cut::SliceFromLeft),
    (&["slice", "from", "right"], Cut::SliceFromRight),
    (&["left"], Cut::Left),
    (&["right"], Cut::Right),
];

fn wrong(problem: Problem, token: impl Into<String>) -> TransformError {
    TransformError::Token { problem, token: token.into() }
}

/// Whether a token can only be a function.
fn is_function(token: &str) -> bool {
    token.len() > 4 && token.starts_with("{{") && token.ends_with("}}")
}

/// The function's name and what stands between its parentheses.
fn call(token: &str) -> Option<(&str, &str)> {
    let inner = token.strip_prefix("{{")?.strip_suffix("}}")?.trim();
    let (name, arguments) = inner.strip_suffix(')')?.split_once('(')?;
    Some((name.trim_end(), arguments))
}

/// Whether `name` is these words, each written small or with a capital letter.
fn is_named(name: &str, words: &[&str]) -> bool {
    let mut rest = name;
    for word in words {
        let Some((head, tail)) = rest.split_at_checked(word.len()) else { return false };
        let first_differs = head.get(1..) == word.get(1..) && head.eq_ignore_ascii_case(word);
        if !first_differs {
            return false;
        }
        rest = tail;
    }
    rest.is_empty()
}

/// Arguments are separated by commas and the white space behind them.
fn arguments(text: &str) -> Vec<&str> {
    let mut parts = text.split(',');
    let first = parts.next().into_iter();
    first.chain(parts.map(|part| part.trim_start_matches(char::is_whitespace))).collect()
}

/// Looks through a template's tokens before it is read.
///
/// # Errors
/// A token that cannot be one, or a function that there is not.
pub(super) fn check_tokens(template: &str) -> Result<(), TransformError> {
    let mut is_over = false;
    for token in template.split('.') {
        if token.is_empty() || is_over {
            return Err(TransformError::Destination);
        }
        if is_function(token) {
            let name = call(token).map_or("", |(name, _)| name);
            let known = ["wildcard", "partition", "random", "split"];
            if !known.iter().any(|word| is_named(name, &[word]))
                && !CUTS.iter().any(|(words, _)| is_named(name, words))
            {
                return Err(wrong(Problem::UnknownFunction, token));
            }
        } else if token == ">" {
            is_over = true;
        } else if token.contains(char::is_whitespace) {
            return Err(TransformError::Destination);
        }
    }
    Ok(())
}

/// Reads a token. `wildcards` are the places of the pattern's `*`; `None` if the pattern matches one
/// subject only.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(token: &str, wildcards: Option<&[usize]>) -> Result<Part, TransformError> {
    if let Some(index) = token.strip_prefix('$').and_then(|digits| digits.parse::<i64>().ok()) {
        return Ok(Part::Wildcard(place(token, index, wildcards)?));
    }
    let Some((name, text)) = call(token).filter(|_| is_function(token)) else {
        return Ok(Part::Text(Box::from(token)));
    };
    let arguments = arguments(text);
    let number = |text: &str| {
        let number: Result<i64, _> = text.trim_matches(' ').parse();
        number.map_err(|_| wrong(Problem::InvalidArgument, token))
    };
    let size = |text: &str| {
        i32::try_from(number(text)?).map_err(|_| wrong(Problem::InvalidArgument, token))
    };
    if is_named(name, &["wildcard"]) {
        return match arguments.as_slice() {
            [""] | [] => Err(wrong(Problem::TooFewArguments, token)),
            [index] => Ok(Part::Wildcard(place(token, number(index)?, wildcards)?)),
            _ => Err(wrong(Problem::TooManyArguments, token)),
        };
    }
    if is_named(name, &["partition"]) {
        let (buckets, indices) = arguments.split_first().unwrap_or((&"", &[]));
        // A negative number of partitions is a large one, as in nats-server.
        let buckets = size(buckets)?.cast_unsigned();
        let indices: Vec<i64> =
            indices.iter().map(|index| number(index)).collect::<Result<_, _>>()?;
        let places = indices.into_iter().map(|index| place(token, index, wildcards));
        return Ok(Part::Partition { buckets, places: places.collect::<Result<_, _>>()? });
    }
    if is_named(name, &["random"]) {
        return match arguments.as_slice() {
            [bound] => Ok(Part::Random(size(bound)?.unsigned_abs())),
            // So says nats-server.
            _ => Err(wrong(Problem::TooFewArguments, token)),
        };
    }
    let (index, argument) = match arguments.as_slice() {
        [index, argument] => (*index, *argument),
        [] | [_] => return Err(wrong(Problem::TooFewArguments, token)),
        _ => return Err(wrong(Problem::TooManyArguments, token)),
    };
    let index = number(index)?;
    if let Some((_, cut)) = CUTS.iter().find(|(words, _)| is_named(name, words)) {
        let length = usize::try_from(size(argument)?).unwrap_or(0);
        return Ok(Part::Cut { place: place(token, index, wildcards)?, cut: *cut, length });
    }
    if argument.contains([' ', '.']) {
        return Err(wrong(Problem::InvalidArgument, token));
    }
    Ok(Part::Split { place: place(token, index, wildcards)?, separator: Box::from(argument) })
}

/// The place of the wildcard with this index, from 1. What is below 1 is the first token, as in
/// nats-server.
fn place(token: &str, index: i64, wildcards: Option<&[usize]>) -> Result<usize, TransformError> {
    let Some(wildcards) = wildcards else { return Err(wrong(Problem::OutOfRange, token)) };
    let Ok(index) = usize::try_from(index) else { return Ok(0) };
    let Some(at) = index.checked_sub(1) else { return Ok(0) };
    wildcards
        .get(at)
        .copied()
        .ok_or_else(|| wrong(Problem::OutOfRange, format!("{token}: [{index}]")))
}

impl Part {
    /// Adds what it makes of a subject, whose tokens are given too.
    pub(super) fn write(
        &self,
        subject: &str,
        tokens: &[&str],
        draw: &mut dyn FnMut(u32) -> u32,
        mapped: &mut String,
    ) {
        let at = |place: &usize| tokens.get(*place).copied().unwrap_or_default();
        match self {
            Self::Text(text) => mapped.push_str(text),
            Self::Wildcard(place) => mapped.push_str(at(place)),
            Self::Partition { buckets, places } => {
                let whole = if places.is_empty() { subject } else { "" };
                let bytes = places.iter().flat_map(|place| at(place).bytes()).chain(whole.bytes());
                mapped.push_str(&fnv1a(bytes).checked_rem(*buckets).unwrap_or(0).to_string());
            }
            Self::Random(0) => mapped.push('0'),
            Self::Random(bound) => mapped.push_str(&draw(*bound).to_string()),
            Self::Split { place, separator } => split(at(place), separator, mapped),
            Self::Cut { place, cut, length } => {
                let token = at(place);
                match cut.of(token, *length) {
                    Some(pieces) => mapped.push_str(&pieces.join(".")),
                    None => mapped.push_str(token),
                }
            }
        }
    }
}

impl Cut {
    /// The pieces of a token; `None` if it stays whole.
    fn of(self, token: &str, length: usize) -> Option<Vec<&str>> {
        if length == 0 || length >= token.len() {
            return None;
        }
        let from_right = token.len() - length;
        match self {
            Self::SplitFromLeft => {
                token.split_at_checked(length).map(|(left, right)| vec![left, right])
            }
            Self::SplitFromRight => {
                token.split_at_checked(from_right).map(|(left, right)| vec![left, right])
            }
            Self::SliceFromLeft => slices(token, length, length),
            Self::SliceFromRight => slices(token, length, token.len() % length),
            Self::Left => token.get(..length).map(|left| vec![left]),
            Self::Right => token.get(from_right..).map(|right| vec![right]),
        }
    }
}

/// Slices of a length, the first of `first` bytes unless that is nothing.
fn slices(token: &str, length: usize, first: usize) -> Option<Vec<&str>> {
    let mut pieces = Vec::new();
    let (mut rest, mut take) = (token, if first == 0 { length } else { first });
    while rest.len() > take {
        let (piece, tail) = rest.split_at_checked(take)?;
        pieces.push(piece);
        (rest, take) = (tail, length);
    }
    pieces.push(rest);
    Some(pieces)
}

/// Pieces between separators, joined as nats-server joins them: two separators in a row count once,
/// unless the token begins with more than one.
fn split(token: &str, separator: &str, mapped: &mut String) {
    let pieces: Vec<&str> = if separator.is_empty() {
        token.split("").filter(|piece| !piece.is_empty()).collect()
    } else {
        token.split(separator).collect()
    };
    for (at, piece) in pieces.iter().enumerate() {
        mapped.push_str(piece);
        let more = pieces.get(at + 1).is_some_and(|next| !next.is_empty());
        if more && !(at == 0 && piece.is_empty()) {
            mapped.push('.');
        }
    }
}

/// The 32-bit FNV-1a hash.
fn fnv1a(bytes: impl Iterator<Item = u8>) -> u32 {
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
