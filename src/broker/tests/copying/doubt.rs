//! Starts at which sequences of origins and copies are in doubt.

use claudebus_storage::NewRecord;
use claudebus_storage::log::{Losses, LostRange};

use super::*;

/// The broker after a start that found sequences in doubt, of the named streams from that of each on.
fn in_doubt(bench: &Bench, from: &[(&str, u64)]) -> Bench {
    let range = |(name, first): &(&str, u64)| LostRange {
        stream: bench.broker.catalog.id_of(name).unwrap(),
        first: *first,
        last: 9,
        file: "journal/1".into(),
        offset: 1,
        is_certain: false,
    };
    let mut log = bench.broker.log.reopened();
    log.lose(Losses { ranges: from.iter().map(range).collect(), missing: 0 });
    Bench::on(log, BrokerOptions::default(), bench.at)
}

/// A power loss took copies with it that the origin still has: the mirror copies them again, although as many
/// sequences may have been lost there as anywhere.
#[test]
fn a_mirror_copies_again_what_it_lost_in_doubt() {
    let mut bench = origin(&["o.a", "o.b"]);
    bench.create(mirror("M", of("O"))).unwrap();
    bench.turn();
    let origin = bench.broker.catalog.id_of("O").unwrap();
    let copied = bench.broker.log.records(origin).last().unwrap().clone();
    let record = NewRecord {
        subject: copied.subject(),
        headers: b"",
        payload: b"not copied",
        time: copied.time,
        expires: None,
        message_id: None,
    };
    bench.broker.log.append(origin, &record).unwrap();
    let mut bench = in_doubt(&bench, &[("O", 4), ("M", 3)]);
    publish(&mut bench, &["o.c"]);
    let wanted = [at(1, "o.a"), at(2, "o.b"), at(3, "o.b"), at(10, "o.c")];
    assert_eq!(subjects(&bench, "O"), wanted);
    assert_eq!(subjects(&bench, "M"), wanted);
    let gaps = |name: &str| {
        let id = bench.broker.catalog.id_of(name).unwrap();
        bench.broker.catalog.get(id).unwrap().gaps.len()
    };
    assert_eq!((gaps("O"), gaps("M")), (1, 1), "both are told of the doubt");
}

/// The origin went before the mirror could copy again what it lost: what it may have had is not given out anew.
#[test]
fn a_mirror_that_becomes_a_stream_gives_out_nothing_that_it_lost() {
    let mut bench = origin(&["o.a", "o.b"]);
    bench.create(mirror("M", of("O"))).unwrap();
    bench.turn();
    bench.api(ApiRequest::StreamDelete { stream: "O".into() }).unwrap();
    let bench = in_doubt(&bench, &[("M", 3)]);
    // The next start finds nothing in doubt any more.
    let mut bench = in_doubt(&bench, &[]);
    assert_eq!(bench.info("M").state.last_seq, 2);
    bench.api(ApiRequest::StreamUpdate(Box::new(named("M", &["m.>"])))).unwrap();
    publish(&mut bench, &["m.a"]);
    assert_eq!(subjects(&bench, "M"), [at(1, "o.a"), at(2, "o.b"), at(10, "m.a")]);
}
