//! Mirrors and sources: what is copied is what the origin had, once, whatever happens between.

mod doubt;
mod model;

use claudebus_storage::Pressure;

use super::*;
use crate::model::api::PurgeOptions;
use crate::model::stream::{
    Discard, Republish, Retention, StreamSource, StreamSourceInfo, SubjectTransform,
};
use crate::model::time::Timestamp;

fn of(name: &str) -> StreamSource {
    StreamSource { name: name.into(), ..StreamSource::default() }
}

fn filtered(name: &str, filter: &str) -> StreamSource {
    StreamSource { filter_subject: filter.into(), ..of(name) }
}

fn mapped(name: &str, src: &str, dest: &str) -> StreamSource {
    let transform = SubjectTransform { src: src.into(), dest: dest.into() };
    StreamSource { subject_transforms: vec![transform], ..of(name) }
}

fn mirror(name: &str, origin: StreamSource) -> StreamConfig {
    StreamConfig { mirror: Some(origin), ..named(name, &[]) }
}

fn sourced(name: &str, sources: &[StreamSource]) -> StreamConfig {
    StreamConfig { sources: sources.to_vec(), ..named(name, &[]) }
}

/// A stream `O` of `o.>` with these messages, each in a turn and a moment of its own.
fn origin(subjects: &[&str]) -> Bench {
    let mut bench = Bench::new();
    bench.create(named("O", &["o.>"])).unwrap();
    publish(&mut bench, subjects);
    bench
}

fn publish(bench: &mut Bench, subjects: &[&str]) {
    for subject in subjects {
        bench.pass(Duration::from_millis(10));
        bench.request(subject, &[], &format!("body of {subject}"));
    }
}

fn delete(bench: &mut Bench, stream: &str, seq: u64) {
    bench.api(ApiRequest::MessageDelete { stream: stream.into(), seq, no_erase: true }).unwrap();
}

fn purge(bench: &mut Bench, stream: &str) {
    let options = PurgeOptions::default();
    bench.api(ApiRequest::StreamPurge { stream: stream.into(), options }).unwrap();
}

/// A message as it is stored: sequence, time, subject, headers and body.
type Held = (u64, u64, String, String, Vec<u8>);

fn held(bench: &Bench, stream: &str) -> Vec<Held> {
    let id = bench.broker.catalog.id_of(stream).unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let records = bench.broker.log.records(id);
    records
        .map(|r| (r.seq, r.time, r.subject().to_owned(), text(r.headers()), r.payload().to_vec()))
        .collect()
}

fn subjects(bench: &Bench, stream: &str) -> Vec<(u64, String)> {
    held(bench, stream).into_iter().map(|(seq, _, subject, ..)| (seq, subject)).collect()
}

fn at(seq: u64, subject: &str) -> (u64, String) {
    (seq, subject.to_owned())
}

/// First and last sequence.
fn span(bench: &mut Bench, stream: &str) -> (u64, u64) {
    let state = bench.info(stream).state;
    (state.first_seq, state.last_seq)
}

#[test]
fn a_mirror_has_what_its_origin_has_at_the_same_places() {
    let mut bench = origin(&["o.0", "o.1", "o.2", "o.3", "o.4"]);
    for seq in [1, 3, 5] {
        delete(&mut bench, "O", seq);
    }
    let created = bench.create(mirror("M", of("O"))).unwrap();
    assert!(created.config.subjects.is_empty() && created.config.duplicate_window.is_zero());
    let info = StreamSourceInfo { name: "O".into(), active: -1, ..StreamSourceInfo::default() };
    assert_eq!(created.mirror, Some(info), "nothing is copied yet");
    assert_eq!(held(&bench, "M"), held(&bench, "O"));
    // What the origin has lost at its end is not known to a mirror, as in nats-server.
    assert_eq!(span(&mut bench, "M"), (2, 4));
    bench.request("o.5", &[("X", "y"), ("Nats-Expected-Last-Sequence", "5")], "six");
    bench.request("o.6", &[("Nats-Msg-Id", "7"), ("Nats-Rollup", "sub")], "refused");
    bench.request("o.6", &[("Nats-Msg-Id", "7")], "seven");
    let [.., six, seven] = &*held(&bench, "M") else { panic!("two more") };
    let headers = "NATS/1.0\r\nX: y\r\n\r\n";
    assert_eq!((six.0, six.3.as_str(), six.4.as_slice()), (6, headers, b"six".as_slice()));
    assert_eq!(Some(seven), held(&bench, "O").last());
    let info = bench.info("M");
    assert_eq!(info.mirror.as_ref().map(|m| (m.lag, m.active)), Some((0, 0)));
    assert!(info.sources.is_empty());
}

#[test]
fn a_mirror_takes_no_messages_of_its_own() {
    let mut bench = origin(&["o.1"]);
    bench.create(mirror("M", of("O"))).unwrap();
    let answer = bench.request("M", &[], "");
    assert!(answer.as_str().is_some_and(|text| text.contains("503")), "{answer}");
    assert_eq!(subjects(&bench, "M"), [at(1, "o.1")]);
}

#[test]
fn a_part_of_an_origin() {
    let mut bench = origin(&["o.1", "o.2", "o.3", "o.4"]);
    delete(&mut bench, "O", 1);
    let time = Timestamp(held(&bench, "O")[1].1);
    let from = |seq| StreamSource { opt_start_seq: seq, ..of("O") };
    let since = StreamSource { opt_start_time: Some(time), ..of("O") };
    bench.create(mirror("FILTER", filtered("O", "o.3"))).unwrap();
    bench.create(mirror("NONE", filtered("O", "none.x"))).unwrap();
    bench.create(mirror("SEQ", from(4))).unwrap();
    bench.create(mirror("LATER", from(9))).unwrap();
    bench.create(mirror("SINCE", since)).unwrap();
    let mut own = mirror("MAP", mapped("O", "o.2", "x.y"));
    own.subject_transform = Some(SubjectTransform { src: "x.>".into(), dest: "tt.>".into() });
    bench.create(own).unwrap();
    assert_eq!(subjects(&bench, "FILTER"), [at(3, "o.3")]);
    assert_eq!(subjects(&bench, "SEQ"), [at(4, "o.4")]);
    assert_eq!(subjects(&bench, "SINCE"), [at(3, "o.3"), at(4, "o.4")]);
    assert_eq!(subjects(&bench, "MAP"), [at(2, "tt.y")]);
    assert_eq!((span(&mut bench, "NONE"), span(&mut bench, "LATER")), ((2, 1), (9, 8)));
    publish(&mut bench, &["o.5", "o.6", "o.7", "o.8", "o.9"]);
    assert_eq!(subjects(&bench, "LATER"), [at(9, "o.9")]);
    assert_eq!(span(&mut bench, "FILTER"), (3, 3));
}

#[test]
fn a_source_says_where_its_messages_were() {
    let mut bench = origin(&["o.1", "o.2"]);
    let sources = [filtered("O", "o.2"), mapped("O", "o.*", "p.{{wildcard(1)}}.q")];
    bench.create(sourced("ALL", &[of("O")])).unwrap();
    bench.create(StreamConfig { sources: sources.to_vec(), ..named("S", &["own"]) }).unwrap();
    bench.create(sourced("SECOND", &[of("ALL")])).unwrap();
    bench.request("o.2", &[("X", "y"), ("Nats-Expected-Last-Sequence", "2")], "");
    bench.request("own", &[], "");
    let says = |bench: &Bench, stream: &str| -> Vec<(String, String)> {
        let messages = held(bench, stream).into_iter();
        let headers = messages.map(|(_, _, subject, headers, _)| {
            let line = headers.lines().find(|line| line.starts_with("Nats-Stream-Source: "));
            let line = line.unwrap_or(" -").rsplit_once(' ').unwrap().0.to_owned();
            (subject, line.replace("Nats-Stream-Source: ", ""))
        });
        headers.collect()
    };
    let pair = |subject: &str, words: &str| (subject.to_owned(), words.to_owned());
    let all = [pair("o.1", "O 1 > > o.1"), pair("o.2", "O 2 > > o.2"), pair("o.2", "O 3 > > o.2")];
    assert_eq!(says(&bench, "ALL"), all);
    let second =
        [pair("o.1", "ALL 1 > > o.1"), pair("o.2", "ALL 2 > > o.2"), pair("o.2", "ALL 3 > > o.2")];
    assert_eq!(says(&bench, "SECOND"), second);
    let mut both = says(&bench, "S");
    both.sort();
    let template = "p.{{wildcard(1)}}.q";
    assert_eq!(
        both,
        [
            pair("o.2", "O 2 o.2 > o.2"),
            pair("o.2", "O 3 o.2 > o.2"),
            pair("own", ""),
            pair("p.1.q", &format!("O 1 o.* {template} o.1")),
            pair("p.2.q", &format!("O 2 o.* {template} o.2")),
            pair("p.2.q", &format!("O 3 o.* {template} o.2")),
        ]
    );
    assert!(held(&bench, "ALL")[2].3.starts_with("NATS/1.0\r\nX: y\r\nNats-Stream-Source: O 3"));
    let info = bench.info("S");
    assert!(info.mirror.is_none() && info.config.duplicate_window.is_zero());
    let places: Vec<_> = info.sources.iter().map(|s| (s.seq, s.lag, s.active)).collect();
    assert_eq!(places, [(3, 0, 0), (3, 0, 0)]);
    assert_eq!(info.sources[0].filter_subject, "o.2");
    assert_eq!(info.sources[1].subject_transforms, sources[1].subject_transforms);
}

#[test]
fn copies_go_on_where_they_were_after_a_restart() {
    let mut bench = origin(&["o.1", "o.2"]);
    bench.create(mirror("M", of("O"))).unwrap();
    bench.create(sourced("S", &[of("O"), mapped("M", "o.1", "p")])).unwrap();
    for round in 3..8 {
        bench.broker.log_mut().slow_reads(round % 2 == 0);
        // Cut in the middle of a turn: what was appended is there, and the copies may not be.
        bench.handle(A, Request::Send { batch: batch(&["o.1", "o.2"]), echo: true });
        if round > 4 {
            bench.broker.commit();
        }
        bench = bench.restarted(BrokerOptions::default());
        assert_eq!(held(&bench, "M"), held(&bench, "O"), "round {round}");
        let origin = held(&bench, "O");
        let copied = subjects(&bench, "S");
        let count = |subject: &str| copied.iter().filter(|(_, own)| own == subject).count();
        let firsts = origin.iter().filter(|message| message.2 == "o.1").count();
        assert_eq!((count("o.1"), count("p")), (firsts, firsts), "round {round}");
        assert_eq!(copied.len(), origin.len() + firsts, "round {round}");
    }
    // What was purged from the copies is not copied again.
    purge(&mut bench, "S");
    purge(&mut bench, "M");
    let last = span(&mut bench, "O").1;
    let mut bench = bench.restarted(BrokerOptions::default());
    assert!(subjects(&bench, "S").is_empty() && subjects(&bench, "M").is_empty());
    publish(&mut bench, &["o.2"]);
    assert_eq!(subjects(&bench, "M"), [at(last + 1, "o.2")]);
    assert_eq!(subjects(&bench, "S").len(), 1);
}

#[test]
fn what_becomes_of_the_origin_leaves_the_copies_alone() {
    let mut bench = origin(&["o.1", "o.2", "o.3"]);
    bench.create(mirror("M", of("O"))).unwrap();
    bench.create(sourced("S", &[of("O")])).unwrap();
    purge(&mut bench, "O");
    publish(&mut bench, &["o.4"]);
    let four = [at(1, "o.1"), at(2, "o.2"), at(3, "o.3"), at(4, "o.4")];
    assert_eq!((subjects(&bench, "M"), subjects(&bench, "S")), (four.to_vec(), four.to_vec()));
    bench.api(ApiRequest::StreamDelete { stream: "O".into() }).unwrap();
    let info = bench.info("M");
    assert_eq!(info.mirror.map(|m| (m.lag, m.active)), Some((0, -1)));
    assert_eq!(bench.info("S").sources[0].active, -1);
    // Another stream of that name: a mirror waits for the sequences it has not, a source begins anew.
    bench.create(named("O", &["o.>"])).unwrap();
    publish(&mut bench, &["o.a", "o.b"]);
    assert_eq!(subjects(&bench, "M"), four);
    assert_eq!(subjects(&bench, "S")[4..], [at(5, "o.a"), at(6, "o.b")]);
    let mut bench = bench.restarted(BrokerOptions::default());
    publish(&mut bench, &["o.c", "o.d", "o.e"]);
    assert_eq!(subjects(&bench, "M")[4..], [at(5, "o.e")]);
    assert_eq!(subjects(&bench, "S").len(), 9);
    // A copy need not wait for its origin.
    bench.create(mirror("EARLY", of("LATER"))).unwrap();
    bench.create(named("LATER", &["later"])).unwrap();
    bench.request("later", &[], "");
    assert_eq!(subjects(&bench, "EARLY"), [at(1, "later")]);
}

#[test]
fn a_work_queue_is_emptied_by_who_copies_it() {
    let mut bench = Bench::new();
    let queue =
        |name, subjects| StreamConfig { retention: Retention::WorkQueue, ..named(name, subjects) };
    bench.create(queue("Q", &["q.>"])).unwrap();
    publish(&mut bench, &["q.1", "q.2"]);
    bench.create(mirror("M", of("Q"))).unwrap();
    publish(&mut bench, &["q.3"]);
    assert!(bench.seqs("Q").is_empty());
    assert_eq!(bench.seqs("M"), [1, 2, 3]);
    bench.create(queue("PART", &["p.>"])).unwrap();
    bench.create(sourced("S", &[filtered("PART", "p.1")])).unwrap();
    publish(&mut bench, &["p.1", "p.2", "p.1"]);
    assert_eq!((bench.seqs("PART"), bench.seqs("S")), (vec![2], vec![1, 2]));
}

#[test]
fn who_copies_has_an_interest() {
    let mut bench = Bench::new();
    let interest = StreamConfig { retention: Retention::Interest, ..named("I", &["i.>"]) };
    bench.create(interest).unwrap();
    publish(&mut bench, &["i.1"]);
    bench.create(sourced("S", &[filtered("I", "i.1")])).unwrap();
    publish(&mut bench, &["i.1", "i.2"]);
    assert!(bench.seqs("I").is_empty(), "copied, and wanted by nobody");
    assert_eq!(bench.seqs("S"), [1]);
    // A consumer has its time, and so has a copy.
    bench.consumer("I", durable("c")).unwrap();
    publish(&mut bench, &["i.1"]);
    assert_eq!((bench.seqs("I"), bench.seqs("S")), (vec![4], vec![1, 2]));
    bench.broker.log_mut().set_pressure(Pressure::High);
    publish(&mut bench, &["i.1"]);
    assert_eq!(bench.pull("I", "c", 2).len(), 2);
    bench.ack("I", "c", (4, 5), AckKind::Ack);
    assert_eq!((bench.seqs("I"), bench.seqs("S")), (vec![5], vec![1, 2]));
    let mut bench = bench.restarted(BrokerOptions::default());
    bench.broker.log_mut().set_pressure(Pressure::Normal);
    bench.pass(Duration::from_secs(1));
    assert_eq!((bench.seqs("I"), bench.seqs("S")), (Vec::<u64>::new(), vec![1, 2, 3]));
    // When nobody copies any more, nobody waits for it.
    bench.broker.log_mut().set_pressure(Pressure::High);
    publish(&mut bench, &["i.1"]);
    assert_eq!(bench.pull("I", "c", 1).len(), 1);
    bench.ack("I", "c", (6, 6), AckKind::Ack);
    assert_eq!(bench.seqs("I"), [6]);
    bench.api(ApiRequest::StreamDelete { stream: "S".into() }).unwrap();
    assert!(bench.seqs("I").is_empty());
}

#[test]
fn a_full_copy_waits_for_room() {
    let mut bench = origin(&["o.1", "o.2", "o.3", "o.4"]);
    let full = |config: StreamConfig| StreamConfig { max_msgs: 2, discard: Discard::New, ..config };
    bench.create(full(sourced("S", &[of("O")]))).unwrap();
    bench.create(full(mirror("M", of("O")))).unwrap();
    bench.create(StreamConfig { max_msgs: 2, ..mirror("LAST", of("O")) }).unwrap();
    assert_eq!((bench.seqs("S"), bench.seqs("M")), (vec![1, 2], vec![1, 2]));
    assert_eq!(bench.seqs("LAST"), [3, 4]);
    assert_eq!(bench.info("S").sources[0].lag, 2);
    delete(&mut bench, "S", 1);
    delete(&mut bench, "M", 1);
    bench.pass(Duration::from_secs(1));
    assert_eq!((bench.seqs("S"), bench.seqs("M")), (vec![2, 3], vec![2, 3]));
    // A disk that cannot be read just now is read again.
    bench.broker.log_mut().fail_reads(true);
    publish(&mut bench, &["o.5"]);
    assert_eq!(bench.seqs("LAST"), [3, 4]);
    bench.broker.log_mut().fail_reads(false);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.seqs("LAST"), [4, 5]);
}

#[test]
fn damage_of_the_origin_is_passed_over() {
    let mut bench = origin(&["o.1", "o.2", "o.3", "o.4", "o.5"]);
    let id = bench.broker.catalog.id_of("O").unwrap();
    bench.broker.log_mut().damage(id, 2, 3);
    bench.create(mirror("M", of("O"))).unwrap();
    bench.create(sourced("S", &[of("O")])).unwrap();
    assert_eq!(bench.seqs("M"), [1, 4, 5]);
    assert_eq!(subjects(&bench, "S"), [at(1, "o.1"), at(2, "o.4"), at(3, "o.5")]);
}

#[test]
fn a_copy_keeps_the_rules_of_its_own_stream() {
    let mut bench = Bench::new();
    let origin =
        StreamConfig { allow_rollup_hdrs: true, allow_msg_ttl: true, ..named("O", &["o.>"]) };
    bench.create(origin).unwrap();
    let rules = |config: StreamConfig| StreamConfig {
        allow_rollup_hdrs: true,
        allow_msg_ttl: true,
        duplicate_window: Duration::from_secs(60),
        ..config
    };
    bench.create(rules(sourced("S", &[of("O")]))).unwrap();
    bench.create(rules(mirror("M", of("O")))).unwrap();
    bench.create(mirror("PLAIN", of("O"))).unwrap();
    bench.request("o.1", &[("Nats-TTL", "5s"), ("Nats-Msg-Id", "1")], "");
    bench.request("o.2", &[], "");
    bench.request("o.2", &[("Nats-Rollup", "sub")], "");
    for stream in ["O", "M", "S"] {
        assert_eq!(bench.seqs(stream), [1, 3], "{stream}");
    }
    assert_eq!(bench.seqs("PLAIN"), [1, 2, 3]);
    bench.pass(Duration::from_secs(6));
    for stream in ["O", "M", "S"] {
        assert_eq!(bench.seqs(stream), [3], "{stream}");
    }
    assert_eq!(bench.seqs("PLAIN"), [1, 2, 3]);
    // Another stream's message of a known id is a duplicate; a mirror has what its origin has.
    bench.create(named("P", &["p"])).unwrap();
    let mut config = bench.info("S").config;
    config.sources.push(of("P"));
    bench.api(ApiRequest::StreamUpdate(Box::new(config))).unwrap();
    bench.request("p", &[("Nats-Msg-Id", "1")], "");
    bench.request("p", &[("Nats-Msg-Id", "2")], "");
    assert_eq!(subjects(&bench, "S"), [at(3, "o.2"), at(4, "p")]);
    assert_eq!(bench.info("S").sources[1].seq, 2);
}

#[test]
fn what_is_copied_is_published_and_delivered() {
    let mut bench = origin(&[]);
    let republish = Some(Republish { src: ">".into(), dest: "r.>".into(), headers_only: false });
    bench.create(StreamConfig { republish, ..mirror("M", of("O")) }).unwrap();
    bench.consumer("M", durable("c")).unwrap();
    bench.create(mirror("MM", of("M"))).unwrap();
    bench.handle(B, subscribe(9, "r.>"));
    bench.turn();
    bench.events.clear();
    bench.handle(A, Request::Send { batch: batch(&["o.1"]), echo: true });
    bench.turn();
    let heard = messages(&bench.events, B);
    assert_eq!(heard.iter().map(|(_, m)| &*m.subject).collect::<Vec<_>>(), [b"r.o.1"]);
    assert_eq!(bench.pull("M", "c", 5).len(), 1);
    assert_eq!(held(&bench, "MM"), held(&bench, "O"));
}

#[test]
fn changes_of_what_is_copied() {
    let mut bench = origin(&["o.1"]);
    let update = |bench: &mut Bench, config| bench.api(ApiRequest::StreamUpdate(Box::new(config)));
    let with = |sources: &[StreamSource]| StreamConfig {
        subjects: vec!["s".into()],
        ..sourced("S", sources)
    };
    bench.create(with(&[of("O")])).unwrap();
    update(&mut bench, with(&[])).unwrap();
    publish(&mut bench, &["o.2"]);
    assert_eq!(subjects(&bench, "S"), [at(1, "o.1")]);
    // It goes on where it was, also after a restart; one of other subjects begins anew.
    let mut bench = bench.restarted(BrokerOptions::default());
    update(&mut bench, with(&[of("O")])).unwrap();
    bench.turn();
    assert_eq!(subjects(&bench, "S"), [at(1, "o.1"), at(2, "o.2")]);
    update(&mut bench, with(&[filtered("O", "o.1")])).unwrap();
    bench.turn();
    assert_eq!(subjects(&bench, "S")[2..], [at(3, "o.1")]);
    // A mirror stays one of its origin, or becomes a stream like others.
    bench.create(mirror("M", of("O"))).unwrap();
    let refused = update(&mut bench, mirror("M", of("S"))).unwrap_err();
    assert_eq!((refused.code, refused.err_code), (400, 10055));
    assert_eq!(update(&mut bench, mirror("S", of("O"))).unwrap_err().err_code, 10055);
    update(&mut bench, named("M", &["m"])).unwrap();
    publish(&mut bench, &["o.3"]);
    assert_eq!(bench.request("m", &[], "")["seq"], 3);
    assert!(bench.info("M").mirror.is_none());
    assert_eq!(subjects(&bench, "M"), [at(1, "o.1"), at(2, "o.2"), at(3, "m")]);
    // A stream that is deleted leaves nothing behind.
    bench.api(ApiRequest::StreamDelete { stream: "S".into() }).unwrap();
    assert!(bench.broker.log.states(state::COPIES).is_empty());
}

#[test]
fn what_cannot_be_copied() {
    let mut bench = Bench::new();
    let small = StreamConfig { max_msg_size: 1000, allow_direct: true, ..named("O", &["o.>"]) };
    bench.create(small).unwrap();
    let mut code = |config| bench.create(config).map_or_else(|error| error.err_code, |_| 0);
    assert_eq!(code(StreamConfig { max_msg_size: 10, ..mirror("M", of("O")) }), 10030);
    assert_eq!(code(StreamConfig { max_msg_size: 10, ..sourced("S", &[of("O")]) }), 10046);
    assert_eq!(code(mirror("M", of("M"))), 10052);
    assert_eq!(code(mirror("M", filtered("O", "o..x"))), 10049);
    assert_eq!(code(sourced("S", &[filtered("O", "o..x")])), 10049);
    assert_eq!(code(StreamConfig { subjects: vec!["m".into()], ..mirror("M", of("O")) }), 10034);
    assert_eq!(code(sourced("A", &[of("B")])), 0);
    assert_eq!(code(sourced("B", &[of("C")])), 0);
    assert_eq!(code(mirror("C", of("A"))), 10052, "a circle");
    assert_eq!(code(mirror("M", of("O"))), 0);
    assert!(bench.info("M").config.mirror_direct, "as its origin");
}

#[test]
fn a_mirror_answers_for_an_origin_that_is_gone() {
    let mut bench = origin(&["o.1"]);
    let mut config = bench.info("O").config;
    config.allow_direct = true;
    bench.api(ApiRequest::StreamUpdate(Box::new(config))).unwrap();
    bench.create(mirror("M", of("O"))).unwrap();
    bench.api(ApiRequest::StreamDelete { stream: "O".into() }).unwrap();
    let options = crate::model::api::MessageGetOptions { seq: 1, ..Default::default() };
    let get = ApiRequest::MessageGet { stream: "O".into(), options, direct: true };
    match bench.api(get) {
        Ok(ApiResponse::Direct { stream, record, .. }) => {
            assert_eq!((stream.as_str(), record.subject()), ("M", "o.1"));
        }
        other => panic!("{other:?}"),
    }
}
