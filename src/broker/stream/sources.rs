//! A stream that another one copies from: what is copied, and how far it is.
//!
//! It reads nothing itself; [`copying`](crate::broker::copying) does.

use std::sync::Arc;

use claudebus_storage::StreamId;
use claudebus_storage::log::Filter;

use crate::model::stream::StreamSource;
use crate::model::transform::Transform;

/// Digits of what tells streams of one name apart.
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Where messages are copied from, and how far that is.
#[derive(Debug)]
pub(in crate::broker) struct Source {
    /// The name of the origin.
    pub(in crate::broker) origin: Arc<str>,
    /// Its name, the subjects that are copied and what they become: what tells it from others of its
    /// stream.
    pub(in crate::broker) key: Arc<str>,
    pub(in crate::broker) filter: Filter,
    transforms: Vec<Transform>,
    /// The first sequence that is copied; zero for all.
    pub(in crate::broker) start_seq: u64,
    /// Messages from then on are copied, in nanoseconds since the Unix epoch; zero for all.
    pub(in crate::broker) since: u64,
    /// The origin that the following are about: another one of its name begins anew.
    pub(in crate::broker) from: Option<StreamId>,
    /// All of the origin below this was copied or is not wanted.
    pub(in crate::broker) next: u64,
    /// The sequence, in the origin, of the last message that was copied.
    pub(in crate::broker) copied: u64,
    /// Whether a job is at work.
    pub(in crate::broker) is_busy: bool,
}

fn or_all(subject: &str) -> &str {
    if subject.is_empty() { ">" } else { subject }
}

/// What tells the sources of one stream apart, as nats-server composes it: the origin's name, which
/// subjects, and what they become.
pub(in crate::broker) fn key_of(source: &StreamSource) -> String {
    let transforms = &source.subject_transforms;
    if transforms.is_empty() {
        return format!("{} {} >", source.name, or_all(&source.filter_subject));
    }
    let list = |texts: Vec<&str>| texts.join(",");
    format!(
        "{} {} {}",
        source.name,
        list(transforms.iter().map(|transform| or_all(&transform.src)).collect()),
        list(transforms.iter().map(|transform| or_all(&transform.dest)).collect()),
    )
}

impl Source {
    /// A source whose configuration was checked.
    pub(in crate::broker) fn new(config: &StreamSource) -> Self {
        let transforms = &config.subject_transforms;
        let filter = if transforms.is_empty() {
            Filter::any_of([or_all(&config.filter_subject)])
        } else {
            Filter::any_of(transforms.iter().map(|transform| or_all(&transform.src)))
        };
        let since = config.opt_start_time.filter(|_| config.opt_start_seq == 0);
        Self {
            origin: Arc::from(config.name.as_str()),
            key: Arc::from(key_of(config)),
            filter,
            transforms: transforms
                .iter()
                .filter_map(|transform| {
                    Transform::new(&transform.src, &transform.dest).ok().flatten()
                })
                .collect(),
            start_seq: config.opt_start_seq,
            since: since.map_or(0, |time| time.0),
            from: None,
            next: 0,
            copied: 0,
            is_busy: false,
        }
    }

    /// Whether both copy the same.
    pub(in crate::broker) fn is_like(&self, other: &Self) -> bool {
        self.key == other.key && self.start_seq == other.start_seq && self.since == other.since
    }

    /// Whether a message of the origin is still to be copied.
    pub(in crate::broker) fn wants(&self, origin: StreamId, seq: u64, subject: &str) -> bool {
        self.filter.matches(subject) && (self.from != Some(origin) || self.next <= seq)
    }

    /// What a subject of the origin becomes.
    pub(in crate::broker) fn map(&self, subject: &str, draw: &mut dyn FnMut(u32) -> u32) -> String {
        let mapped = self.transforms.iter().find_map(|transform| transform.apply(subject, draw));
        mapped.unwrap_or_else(|| subject.to_owned())
    }

    /// The header of a copy: the origin's name, the sequence there, which subjects are copied, what they
    /// become, the subject there, and which stream of that name it was.
    pub(in crate::broker) fn header(&self, seq: u64, subject: &str, created: u64) -> String {
        let mut words = self.key.split(' ');
        let mut word = || words.next().unwrap_or_default();
        let (name, subjects, dest) = (word(), word(), word());
        format!("{name} {seq} {subjects} {dest} {subject} {}", mark(name, created))
    }
}

/// Eight digits that tell a stream from others of its name.
fn mark(name: &str, created: u64) -> String {
    let bytes = name.bytes().chain(created.to_le_bytes());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut digit = || {
        let at = usize::try_from(hash % 62).unwrap_or(0);
        hash /= 62;
        DIGITS.get(at).copied().map_or('0', char::from)
    };
    (0..8).map(|_| digit()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::stream::SubjectTransform;

    fn transform(src: &str, dest: &str) -> SubjectTransform {
        SubjectTransform { src: src.into(), dest: dest.into() }
    }

    #[test]
    fn a_copy_says_where_it_was() {
        let plain = StreamSource { name: "O".into(), ..StreamSource::default() };
        assert_eq!(key_of(&plain), "O > >");
        let some = StreamSource { filter_subject: "o.3".into(), ..plain.clone() };
        assert_eq!(key_of(&some), "O o.3 >");
        let mapped = StreamSource {
            subject_transforms: vec![transform("o.*", "p.$1"), transform("q", "")],
            ..plain
        };
        let source = Source::new(&mapped);
        let header = source.header(7, "o.1", 5);
        let (words, mark) = header.rsplit_once(' ').expect("words");
        assert_eq!((words, mark.len()), ("O 7 o.*,q p.$1,> o.1", 8));
        assert_ne!(source.header(7, "o.1", 6), header, "another stream of that name");
        assert_eq!(source.map("o.1", &mut |_| 0), "p.1");
        assert_eq!(source.map("q", &mut |_| 0), "q");
        assert!(source.filter.matches("q") && !source.filter.matches("o.1.2"));
    }
}
