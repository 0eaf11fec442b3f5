//! The consumers of a stream: by name, and by what they want.
//!
//! Each has a place of its own, so that a message finds whom it is for without comparing names.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::broker::member::Member;
use crate::broker::subject_tree::SubjectTree;
use crate::model::request::ConnectionId;

/// Where a consumer is kept. It stays the same until the consumer leaves; another may have it then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::broker) struct Place(pub(in crate::broker) usize);

/// What the order of turns depends on.
#[derive(Debug)]
pub(in crate::broker) struct Seat {
    pub(in crate::broker) place: Place,
    /// Where the consumer's messages go: to whoever pulled last. None of a push consumer, whose messages
    /// go by a subject.
    pub(in crate::broker) connection: ConnectionId,
    /// Whether somebody in this place waits for a turn.
    pub(in crate::broker) waits: bool,
}

/// More consumers that want a subject are not remembered: to tell so many costs far more than to find them.
const MAX_REMEMBERED: usize = 16;

/// Who wanted a subject when that was looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::broker) struct Wanting {
    /// What [`Consumers::generation`] was then.
    generation: u64,
    /// `None` if there were too many, and before anybody was there.
    places: Option<Box<[Place]>>,
}

/// Messages that a consumer waits to be told of: until it has its turn, or somebody looks at it. A thousand
/// members lie in thousands of pages, of which each is slow to come to; their seats lie in a few.
#[derive(Debug, Default)]
struct News {
    /// Where the first row begins.
    first: u64,
    /// The sequence behind the last row.
    next: u64,
    /// Of which `len` are used. As many as a consumer gathers that is one of a thousand under load; two
    /// cache lines.
    rows: [Row; 27],
    len: u16,
}

/// So many sequences in a row, and how many lie between them and the row before.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    gap: u16,
    count: u16,
}

impl News {
    /// Notes `count` messages in a row that ends at `last`, behind all that were noted. False if there is no
    /// room for them.
    fn add(&mut self, count: u64, last: u64) -> bool {
        let first = last.saturating_add(1).saturating_sub(count);
        if self.len == 0 {
            (self.first, self.next) = (first, first);
        }
        let gap = first.checked_sub(self.next).and_then(|gap| u16::try_from(gap).ok());
        let (Some(gap), Ok(count)) = (gap, u16::try_from(count)) else { return false };
        let rows = self.rows.split_at_mut_checked(usize::from(self.len));
        let Some((used, free)) = rows else { return false };
        let longer = |row: &Row| row.count.checked_add(count).filter(|_| gap == 0);
        if let Some((row, count)) = used.last_mut().and_then(|row| longer(row).map(|n| (row, n))) {
            row.count = count;
        } else if let Some(row) = free.first_mut() {
            *row = Row { gap, count };
            self.len += 1;
        } else {
            return false;
        }
        self.next = last.saturating_add(1);
        true
    }

    fn tell(&mut self, member: &mut Member) {
        let mut next = self.first;
        for Row { gap, count } in self.rows.iter().take(usize::from(std::mem::take(&mut self.len)))
        {
            next += u64::from(*gap) + u64::from(*count);
            member.consumer.appended(u64::from(*count), next - 1);
        }
    }
}

#[derive(Debug)]
struct Kept {
    name: Arc<str>,
    seat: Seat,
    news: News,
    /// `None` while the consumer has its turn, and in a place that is free. Boxed, because a member is
    /// large.
    member: Option<Box<Member>>,
}

impl Kept {
    /// Who is there, and has been told everything.
    fn up_to_date(&mut self) -> Option<(&mut Seat, &mut Member)> {
        let member = self.member.as_deref_mut()?;
        self.news.tell(member);
        Some((&mut self.seat, member))
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub(in crate::broker) struct Consumers {
    names: BTreeMap<Arc<str>, Place>,
    kept: Vec<Kept>,
    free: Vec<Place>,
    wanted_by: SubjectTree<Place>,
    /// Raised whenever somebody joins or leaves; 0 while nobody has.
    generation: u64,
}

impl Consumers {
    pub(in crate::broker) fn len(&self) -> usize {
        self.names.len()
    }

    pub(in crate::broker) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The names, in order.
    pub(in crate::broker) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.names.keys()
    }

    /// What was appended lately may not be known to it yet.
    pub(in crate::broker) fn get(&self, name: &str) -> Option<&Member> {
        self.at(*self.names.get(name)?)
    }

    pub(in crate::broker) fn get_mut(&mut self, name: &str) -> Option<(&Arc<str>, &mut Member)> {
        let kept = self.kept.get_mut(self.names.get(name)?.0)?;
        kept.up_to_date()?;
        Some((&kept.name, kept.member.as_deref_mut()?))
    }

    /// All of them but one that has its turn, by name. See [`get`](Self::get).
    pub(in crate::broker) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Member)> {
        self.names.iter().filter_map(|(name, place)| Some((name, self.at(*place)?)))
    }

    /// All of them but one that has its turn, in no order.
    pub(in crate::broker) fn iter_mut(&mut self) -> impl Iterator<Item = (&mut Seat, &mut Member)> {
        self.kept.iter_mut().filter_map(Kept::up_to_date)
    }

    fn at(&self, place: Place) -> Option<&Member> {
        self.kept.get(place.0)?.member.as_deref()
    }

    /// Whether some consumer wants `subject`.
    pub(in crate::broker) fn has_interest(&self, subject: &str) -> bool {
        self.wanted_by.has_match(subject)
    }

    /// Who wants `subject`, to be remembered until [`is_current`](Self::is_current) says that others may.
    pub(in crate::broker) fn wanting(&self, subject: &str) -> Wanting {
        let mut places = Vec::new();
        self.wanted_by.matches(subject, &mut |place| {
            if places.len() <= MAX_REMEMBERED {
                places.push(*place);
            }
        });
        let places = (places.len() <= MAX_REMEMBERED).then(|| places.into_boxed_slice());
        Wanting { generation: self.generation, places }
    }

    /// Whether nobody joined or left since `wanting` was looked up.
    pub(in crate::broker) fn is_current(&self, wanting: &Wanting) -> bool {
        self.generation == wanting.generation
    }

    /// Calls `visit` for each consumer that wants `subject`.
    pub(in crate::broker) fn each_wanting(
        &mut self,
        subject: &str,
        mut visit: impl FnMut(&mut Seat, &mut Member),
    ) {
        self.each_kept(subject, None, |kept| {
            if let Some((seat, member)) = kept.up_to_date() {
                visit(seat, member);
            }
        });
    }

    /// Tells each consumer that wants `subject` of so many messages that end with the sequence `last`.
    /// Calls `stir` for each that may deliver now, and does not wait for that already.
    pub(in crate::broker) fn tell_appended(
        &mut self,
        (subject, count, last): (&str, u64, u64),
        remembered: Option<&Wanting>,
        mut stir: impl FnMut(&mut Seat),
    ) {
        self.each_kept(subject, remembered, |kept| {
            if kept.seat.waits && kept.member.is_some() && kept.news.add(count, last) {
                return;
            }
            let Some((seat, member)) = kept.up_to_date() else { return };
            member.consumer.appended(count, last);
            if !seat.waits && member.consumer.num_waiting() > 0 {
                stir(seat);
            }
        });
    }

    /// Calls `visit` for each place of a consumer that wants `subject`, by what is remembered of that if it
    /// still holds: what many consumers cost that want other subjects is one look-up at most.
    fn each_kept(
        &mut self,
        subject: &str,
        remembered: Option<&Wanting>,
        mut visit: impl FnMut(&mut Kept),
    ) {
        let remembered = remembered.filter(|wanting| self.is_current(wanting));
        let kept = &mut self.kept;
        let mut visit_place = |place: &Place| {
            if let Some(kept) = kept.get_mut(place.0) {
                visit(kept);
            }
        };
        match remembered.and_then(|wanting| wanting.places.as_deref()) {
            Some(places) => places.iter().for_each(visit_place),
            None => self.wanted_by.matches(subject, &mut visit_place),
        }
    }

    /// A consumer's seat, also while it has its turn.
    pub(in crate::broker) fn seat_mut(&mut self, name: &str) -> Option<&mut Seat> {
        Some(&mut self.kept.get_mut(self.names.get(name)?.0)?.seat)
    }

    /// Takes a consumer out. Until it is put back it has its name and its interest, and cannot
    /// be looked at.
    pub(in crate::broker) fn take(&mut self, name: &str) -> Option<(Place, Box<Member>)> {
        let place = *self.names.get(name)?;
        let kept = self.kept.get_mut(place.0)?;
        kept.up_to_date()?;
        Some((place, kept.member.take()?))
    }

    /// Takes whoever is in a place for its turn, for which nobody waits there any more.
    pub(in crate::broker) fn begin_turn(
        &mut self,
        place: Place,
    ) -> Option<(Arc<str>, Box<Member>)> {
        let kept = self.kept.get_mut(place.0)?;
        kept.seat.waits = false;
        kept.up_to_date()?;
        Some((Arc::clone(&kept.name), kept.member.take()?))
    }

    /// Puts a consumer back after its turn.
    pub(in crate::broker) fn put_back(&mut self, place: Place, member: Box<Member>) {
        if let Some(kept) = self.kept.get_mut(place.0) {
            kept.member = Some(member);
        }
    }

    /// A consumer joins the stream. None of that name may be there.
    pub(in crate::broker) fn join(&mut self, name: Arc<str>, member: Box<Member>) {
        self.generation += 1;
        let place = self.free.pop().unwrap_or(Place(self.kept.len()));
        for pattern in member.patterns() {
            self.wanted_by.insert(pattern, place);
        }
        let before = self.kept.get(place.0);
        // The turn of who was there before is the newcomer's.
        let waits = before.is_some_and(|kept| kept.seat.waits);
        let seat = Seat { place, connection: ConnectionId::default(), waits };
        let news = News::default();
        let kept = Kept { name: Arc::clone(&name), seat, news, member: Some(member) };
        match self.kept.get_mut(place.0) {
            Some(free) => *free = kept,
            None => self.kept.push(kept),
        }
        self.names.insert(name, place);
    }

    /// A consumer leaves the stream.
    pub(in crate::broker) fn leave(&mut self, name: &str) -> Option<Box<Member>> {
        let (place, member) = self.take(name)?;
        self.generation += 1;
        self.names.remove(name);
        self.free.push(place);
        for pattern in member.patterns() {
            self.wanted_by.remove(pattern, &place);
        }
        Some(member)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use claudebus_storage::StreamId;

    use super::*;
    use crate::broker::consumer::{Consumer, Start};
    use crate::model::consumer::ConsumerConfig;
    use crate::model::event::ConsumerPath;
    use crate::model::time::{Now, Timestamp};

    fn member(name: &str, filter: &str) -> Box<Member> {
        let path = Arc::new(ConsumerPath { stream: "S".into(), consumer: name.into() });
        let config =
            ConsumerConfig { filter_subject: Some(filter.into()), ..ConsumerConfig::default() };
        let now = Now { monotonic: std::time::Duration::ZERO, wall: 0 };
        let consumer = Consumer::new(path, config, Timestamp(1), Start::default(), now);
        Box::new(Member::new(StreamId(1), consumer))
    }

    fn wanting(consumers: &mut Consumers, subject: &str) -> Vec<String> {
        let mut names = Vec::new();
        consumers.each_wanting(subject, |_, member| {
            names.push(member.consumer.path().consumer.clone());
        });
        names
    }

    #[test]
    fn who_takes_the_place_of_another_wants_nothing_of_what_that_wanted() {
        let mut consumers = Consumers::default();
        consumers.join("a".into(), member("a", "x.*"));
        consumers.join("b".into(), member("b", "*.1"));
        assert_eq!(wanting(&mut consumers, "x.1"), ["a", "b"]);
        assert!(consumers.leave("a").is_some() && consumers.leave("a").is_none());
        consumers.join("c".into(), member("c", "y.>"));
        assert_eq!(consumers.kept.len(), 2, "the place is used again");
        assert_eq!(wanting(&mut consumers, "x.1"), ["b"]);
        assert_eq!(wanting(&mut consumers, "y.1"), ["c", "b"]);
        assert!(!consumers.has_interest("x.2") && consumers.get("a").is_none());
        assert_eq!(consumers.names().map(|name| &**name).collect::<Vec<_>>(), ["b", "c"]);
    }

    #[test]
    fn who_has_its_turn_keeps_its_name_and_its_interest() {
        let mut consumers = Consumers::default();
        consumers.join("a".into(), member("a", "x"));
        let (place, member) = consumers.take("a").unwrap();
        assert!(consumers.take("a").is_none() && consumers.get("a").is_none());
        assert!(consumers.has_interest("x") && consumers.len() == 1);
        assert!(wanting(&mut consumers, "x").is_empty() && consumers.iter().next().is_none());
        consumers.put_back(place, member);
        assert_eq!(wanting(&mut consumers, "x"), ["a"]);
        assert_eq!(consumers.iter_mut().count(), 1);
    }

    #[test]
    fn who_waits_for_a_turn_knows_everything_when_it_is_looked_at() {
        let mut consumers = Consumers::default();
        consumers.join("waits".into(), member("waits", "x"));
        consumers.join("knows".into(), member("knows", "x"));
        consumers.seat_mut("waits").unwrap().waits = true;
        let state = |consumers: &Consumers, name| {
            let text = format!("{:?}", consumers.get(name).unwrap().consumer);
            text.replace(name, "")
        };
        // (how many, in a row that ends where)
        let rows =
            (0..90).map(|n| (1 + n % 4, 100 * n + 50)).chain((0..70).map(|n| (1, 10_000 + n)));
        let far =
            [(1, 90_000), (200_000, 300_000), (65_000, 365_000), (600, 365_600), (1, 365_601)];
        for (row, (count, last)) in rows.chain(far).enumerate() {
            consumers.tell_appended(("x", count, last), None, |_| {});
            // It is told now and then although nobody looks.
            if row % 40 == 20 {
                assert_ne!(state(&consumers, "waits"), state(&consumers, "knows"), "{last}");
                consumers.get_mut("waits").unwrap();
                assert_eq!(state(&consumers, "waits"), state(&consumers, "knows"), "{last}");
            }
        }
        consumers.get_mut("waits").unwrap();
        assert_eq!(state(&consumers, "waits"), state(&consumers, "knows"));
        let (place, _) = consumers.take("waits").unwrap();
        consumers.tell_appended(("x", 1, 900), None, |_| {});
        assert_eq!(consumers.kept[place.0].news.len, 0, "who is not there is told nothing");
    }

    #[test]
    fn what_is_remembered_of_a_subject_holds_until_somebody_joins_or_leaves() {
        let mut consumers = Consumers::default();
        let told = |consumers: &mut Consumers, wanting: &Wanting| {
            let mut names = Vec::new();
            consumers.each_kept("x.1", Some(wanting), |kept| names.push(kept.name.to_string()));
            names
        };
        let nobody = Wanting::default();
        assert!(consumers.is_current(&nobody) && told(&mut consumers, &nobody).is_empty());
        consumers.join("a".into(), member("a", "x.*"));
        let only = consumers.wanting("x.1");
        assert!(consumers.is_current(&only) && !consumers.is_current(&nobody));
        consumers.join("b".into(), member("b", "*.1"));
        assert!(!consumers.is_current(&only));
        for wanting in [&nobody, &only, &consumers.wanting("x.1")] {
            assert_eq!(told(&mut consumers, wanting), ["a", "b"]);
        }
        let both = consumers.wanting("x.1");
        assert!(consumers.leave("a").is_some() && !consumers.is_current(&both));
        assert_eq!(told(&mut consumers, &both), ["b"]);
        // More than are remembered are told as well.
        for number in 0..MAX_REMEMBERED {
            consumers.join(format!("c{number}").into(), member(&format!("c{number}"), "x.1"));
        }
        let many = consumers.wanting("x.1");
        assert!(many.places.is_none() && consumers.is_current(&many));
        assert_eq!(told(&mut consumers, &many).len(), MAX_REMEMBERED + 1);
    }
}
