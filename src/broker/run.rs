//! Runs. A *run* is a row of messages of one subject in a batch: what depends on the subject alone is looked
//! up once for it, and consumers hear of its messages once. What becomes of each message is not decided here.

use std::sync::Arc;

use claudebus_storage::{Log, StreamId};
use rand::RngExt;

use super::Broker;
use super::router::Route;
use super::stream::{Rules, Stream, Wanting};
use super::turns::Turns;

/// What is looked up once for messages of one subject.
pub(super) struct Run<'a> {
    pub(super) subject: &'a str,
    /// What the stream stores them under, if that is another subject.
    pub(super) mapped: Option<Arc<str>>,
    pub(super) route: Arc<Route>,
    pub(super) stream: Option<StreamId>,
    /// What its stream says of new messages.
    pub(super) rules: Rules,
    /// What the last counter has come to.
    pub(super) total: Option<String>,
    /// The stream is on a disk that is full.
    pub(super) no_space: bool,
    time: u64,
    /// Messages stored by the run.
    pub(super) stored: u64,
    /// Those of them that consumers have heard of.
    pub(super) told: u64,
    /// Whether the last of them had no headers, and so no message id.
    pub(super) last_is_bare: bool,
    /// The sequence of the last, if it had no headers.
    pub(super) last_seq: u64,
}

impl Run<'_> {
    /// The subject that messages are stored under.
    pub(super) fn stored_as(&self) -> &str {
        self.mapped.as_deref().unwrap_or(self.subject)
    }

    /// When its messages are stored.
    pub(super) fn time(&self) -> u64 {
        self.time
    }
}

impl<L: Log> Broker<L> {
    /// Makes `run` the run of `subject`, ending another one.
    pub(super) fn turn_to<'a>(&mut self, run: &mut Option<Run<'a>>, subject: &'a str) {
        if run.as_ref().is_some_and(|run| run.subject == subject) {
            return;
        }
        self.end_run(run.as_ref());
        *run = Some(self.begin_run(subject, run.as_ref()));
    }

    /// Looks up what storing messages of `subject` needs; what depends on the stream alone is
    /// taken from the run before, if that led to the same one.
    pub(super) fn begin_run<'a>(&mut self, subject: &'a str, before: Option<&Run<'_>>) -> Run<'a> {
        let (mut route, is_used_again) = self.router.look_up(subject);
        if route.stream.is_none() && self.make_default_for(subject) {
            route = self.router.route(subject);
        }
        let mapped = self.map_subject(route.stream, subject);
        let consumers = route.stream.and_then(|id| Some(&self.catalog.get(id)?.consumers));
        // For a subject that is used once, to remember it costs more than it saves.
        if let Some(consumers) = consumers.filter(|them| !them.is_current(&route.wanting))
            && is_used_again
            && mapped.is_none()
        {
            route = self.router.learn(subject, route, consumers.wanting(subject));
        }
        if let Some(before) = before
            && before.stream == route.stream
        {
            let (stored, told, last_is_bare) = (0, 0, false);
            let total = None;
            return Run { subject, mapped, route, stored, told, last_is_bare, total, ..*before };
        }
        let stream = route.stream.and_then(|id| self.catalog.get(id));
        let last_time =
            route.stream.and_then(|id| self.log.stream(id)).map_or(0, |held| held.last_time);
        Run {
            subject,
            mapped,
            stream: stream.map(|stream| stream.id),
            rules: stream.map_or(Rules::NONE, |stream| stream.rules),
            total: None,
            no_space: stream.is_some_and(|stream| self.is_out_of_space(stream)),
            time: last_time.max(self.now.wall),
            stored: 0,
            told: 0,
            last_is_bare: false,
            last_seq: 0,
            route,
        }
    }

    /// After a run: consumers hear of the new messages, and limits are kept.
    pub(super) fn end_run(&mut self, run: Option<&Run<'_>>) {
        let Some((run, id)) = run.and_then(|run| Some((run, run.stream?))) else { return };
        let Some(stream) = self.catalog.get_mut(id) else { return };
        if run.stored == 0 {
            return;
        }
        list_as_appended(stream, &mut self.appended, &mut self.grown);
        let last = match run.last_is_bare {
            true => run.last_seq,
            false => self.log.stream(id).map_or(0, |held| held.last_seq),
        };
        if run.last_is_bare {
            stream.last_message_id.clear();
        }
        // What is remembered is who wants the subject that was asked for.
        let wanting = run.mapped.is_none().then_some(&run.route.wanting);
        let appended = (run.stored_as(), run.stored - run.told, last);
        tell_wanting(stream, appended, wanting, &mut self.turns);
        self.note_uncopied(id);
        if run.rules.per_subject {
            self.keep_subject_limit(id, run.stored_as());
        }
    }

    /// A stream was appended to.
    pub(super) fn note_appended(&mut self, id: StreamId) {
        if let Some(stream) = self.catalog.get_mut(id) {
            list_as_appended(stream, &mut self.appended, &mut self.grown);
        }
        self.note_uncopied(id);
    }

    /// A stream may hold more than its limits allow.
    pub(super) fn note_grown(&mut self, id: StreamId) {
        if let Some(stream) = self.catalog.get_mut(id) {
            list_as_grown(stream, &mut self.grown);
        }
    }

    /// The subject that a stream stores a message under, if that is another one.
    pub(super) fn map_subject(&mut self, id: Option<StreamId>, subject: &str) -> Option<Arc<str>> {
        let transform = self.catalog.get(id?)?.transform.as_ref()?;
        let rng = &mut self.rng;
        transform.apply(subject, &mut |below| rng.random_range(0..below)).map(Arc::from)
    }

    /// Tells consumers that messages of one subject were appended.
    pub(super) fn tell_appended(&mut self, id: StreamId, subject: &str, count: u64) {
        let last = self.log.stream(id).map_or(0, |held| held.last_seq);
        if let Some(stream) = self.catalog.get_mut(id) {
            tell_wanting(stream, (subject, count, last), None, &mut self.turns);
        }
    }
}

fn list_as_appended(stream: &mut Stream, appended: &mut Vec<StreamId>, grown: &mut Vec<StreamId>) {
    if !std::mem::replace(&mut stream.in_appended, true) {
        appended.push(stream.id);
    }
    if stream.rules.limits {
        list_as_grown(stream, grown);
    }
}

fn list_as_grown(stream: &mut Stream, grown: &mut Vec<StreamId>) {
    if !std::mem::replace(&mut stream.in_grown, true) {
        grown.push(stream.id);
    }
}

/// Tells consumers that so many messages of one subject were appended, and which was the last; with what is
/// remembered of who wants the subject.
fn tell_wanting(
    stream: &mut Stream,
    (subject, count, last): (&str, u64, u64),
    wanting: Option<&Wanting>,
    turns: &mut Turns,
) {
    let Stream { id, consumers, .. } = stream;
    if count == 0 || consumers.is_empty() {
        return;
    }
    consumers.tell_appended((subject, count, last), wanting, |seat| turns.add(*id, seat));
}
