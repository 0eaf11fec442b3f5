//! Writing and reading whole segments, against the naive answer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::testing::{Directory, open, record, write};
use super::*;
use crate::disk::Disk;
use crate::log::{Compression, Filter, ReadRequest};
use crate::record::{NewRecord, Record};

const S: StreamId = StreamId(3);

fn everything(stream: StreamId) -> ReadRequest {
    ReadRequest {
        stream,
        from: 1,
        to: u64::MAX,
        since: 0,
        max_records: usize::MAX,
        max_bytes: usize::MAX,
    }
}

fn read_all(segment: &Segment, request: &ReadRequest, filter: &Filter) -> Vec<Record> {
    let mut out = Vec::new();
    let stats = ReadStats::default();
    segment.read(request, filter, &|_| false, &mut out, &stats).unwrap();
    out
}

fn compression() -> impl Strategy<Value = Compression> {
    prop_oneof![Just(Compression::Off), Just(Compression::Lz4), Just(Compression::Zstd)]
}

/// Records of up to three streams, with gaps, times that stand still, a few large payloads.
fn records(most: usize) -> impl Strategy<Value = Vec<(StreamId, Record)>> {
    let subject = prop_oneof![
        "[a-c]{1}\\.[a-d]{1}",
        "[a-c]{1}\\.[a-d]{1}\\.[a-z]{1,9}",
        Just("x".to_owned())
    ];
    let payload = prop_oneof![
        20 => (0usize..300, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
        20 => prop::collection::vec(any::<u8>(), 0..2000),
        1 => (60_000usize..70_000, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
    ];
    let expires = prop::option::weighted(0.2, 0u64..50_000);
    let one = (1u64..4, 0u64..3, 0u64..900, subject, payload, expires, any::<bool>());
    prop::collection::vec(one, 1..most).prop_map(|list| {
        let mut next: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        let mut out: Vec<(StreamId, Record)> = Vec::new();
        for (stream, gap, step, subject, payload, expires, headers) in list {
            let (seq, time) = next.entry(stream).or_insert((0, 1_000_000));
            *seq += 1 + gap;
            *time += step;
            let new = NewRecord {
                subject: &subject,
                headers: if headers { b"NATS/1.0\r\nA: b\r\n\r\n" } else { b"" },
                payload: &payload,
                time: *time,
                expires: expires.map(|after| *time + after),
                message_id: None,
            };
            out.push((StreamId(stream), Record::copy_of(*seq, &new)));
        }
        out.sort_by_key(|(stream, record)| (*stream, record.seq));
        out
    })
}

fn of(records: &[(StreamId, Record)], stream: StreamId) -> Vec<Record> {
    records.iter().filter(|(s, _)| *s == stream).map(|(_, record)| record.clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_was_written_comes_back(compression in compression(), records in records(300)) {
        let disk = Directory::new();
        let meta = write(&disk, 1, compression, &records);
        let segment = open(&disk, &meta, 1 << 20);
        prop_assert_eq!(fs::metadata(disk.path(&meta.id.path())).unwrap().len(), meta.length);
        for range in &meta.streams {
            let expected = of(&records, range.stream);
            prop_assert_eq!(range.count, expected.len() as u64);
            prop_assert_eq!(range.first_seq, expected[0].seq);
            prop_assert_eq!(range.last_seq, expected[expected.len() - 1].seq);
            prop_assert_eq!(range.bytes, expected.iter().map(|r| r.data().len() as u64).sum::<u64>());
            let mut expiries: Vec<_> =
                expected.iter().filter_map(|r| Some((r.expires?, r.seq))).collect();
            expiries.sort_unstable();
            let stats = ReadStats::default();
            prop_assert_eq!(range.next_expiry, expiries.first().map(|(time, _)| *time));
            prop_assert_eq!(segment.expiries(range.stream, &stats).unwrap(), expiries);
            prop_assert_eq!(read_all(&segment, &everything(range.stream), &Filter::all()), expected);
        }
    }

    #[test]
    fn filtered_reads_are_the_naive_ones(
        records in records(400),
        patterns in prop::collection::vec(
            prop_oneof!["[a-c]\\.[a-d]", "[a-c]\\.\\*", "\\*\\.[a-d]\\.>", "[a-c]\\.>", Just("x".to_owned())], 1..4),
        from in 0u64..200, width in 0u64..800, since in 0u64..100_000,
        page in (1usize..40, 1usize..5000),
        deleted in prop::collection::btree_set(0u64..900, 0..60),
        cache in prop_oneof![Just(0usize), Just(1 << 20)],
    ) {
        let disk = Directory::new();
        let meta = write(&disk, 1, Compression::Lz4, &records);
        let segment = open(&disk, &meta, cache);
        let filter = Filter::any_of(patterns.iter().map(String::as_str));
        let is_deleted = |seq| deleted.contains(&seq);
        let stats = ReadStats::default();
        for range in &meta.streams {
            let naive: Vec<Record> = of(&records, range.stream)
                .into_iter()
                .filter(|r| filter.matches(r.subject()))
                .collect();
            let expected: Vec<Record> = naive
                .iter()
                .filter(|r| r.seq >= from && r.seq <= from + width)
                .filter(|r| r.time >= 1_000_000 + since && !is_deleted(r.seq))
                .cloned()
                .collect();
            let mut request = ReadRequest {
                stream: range.stream,
                from,
                to: from + width,
                since: 1_000_000 + since,
                max_records: page.0,
                max_bytes: page.1,
            };
            let mut found = Vec::new();
            while request.from <= request.to.min(range.last_seq) {
                let before = found.len();
                let next = segment.read(&request, &filter, &is_deleted, &mut found, &stats).unwrap();
                prop_assert!(next > request.from, "a read goes on");
                prop_assert!(found.len() - before <= page.0);
                request.from = next;
            }
            prop_assert_eq!(found, expected);
            let count = segment.count(range.stream, &filter, 1, u64::MAX, &stats).unwrap();
            prop_assert_eq!(count, Some(naive.len() as u64));
            let mut subjects: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
            for r in &naive {
                let entry = subjects.entry(r.subject().to_owned()).or_insert((0, r.seq, r.seq));
                *entry = (entry.0 + 1, entry.1, r.seq);
            }
            let mut listed = BTreeMap::new();
            segment.subjects(range.stream, &filter, &stats, &mut |text, entry| {
                let seen = listed.insert(text.to_owned(), (entry.count, entry.first, entry.last));
                assert!(seen.is_none(), "{text} was visited twice");
            }).unwrap();
            prop_assert_eq!(listed, subjects);
        }
    }
}

#[test]
fn a_filtered_read_reads_exactly_the_blocks_with_matches() {
    let disk = Directory::new();
    // 200 blocks of 64 records; the rare subject stands in three of them, the often one in all.
    let records: Vec<_> = (1..=12_800u64)
        .map(|seq| {
            let subject = match seq {
                70 | 71 | 5000 | 12_800 => "rare.one".to_owned(),
                _ if seq % 7 == 0 => "often.one".to_owned(),
                _ => format!("other.{}", seq % 1000),
            };
            (S, record(seq, &subject, &[seq as u8; 1000]))
        })
        .collect();
    let meta = write(&disk, 1, Compression::Lz4, &records);
    let segment = open(&disk, &meta, 0);
    let mut blocks = Vec::new();
    segment.blocks(S, &ReadStats::default(), &mut |block| blocks.push(block)).unwrap();
    assert!(blocks.len() > 150, "{}", blocks.len());
    for pattern in ["rare.one", "rare.*", "often.>", "other.17", "other.1*", "*.9", "none"] {
        let filter = Filter::any_of([pattern]);
        let holding = blocks
            .iter()
            .filter(|block| {
                records.iter().any(|(_, r)| {
                    (block.first_seq..=block.last_seq).contains(&r.seq)
                        && filter.matches(r.subject())
                })
            })
            .count();
        let (stats, mut out) = (ReadStats::default(), Vec::new());
        let end = segment.read(&everything(S), &filter, &|_| false, &mut out, &stats).unwrap();
        assert_eq!(end, 12_801);
        assert_eq!(stats.blocks_read.load(Ordering::Relaxed), holding as u64, "{pattern}");
        assert_eq!(out.len(), records.iter().filter(|(_, r)| filter.matches(r.subject())).count());
    }
}

#[test]
fn a_few_records_do_not_keep_their_blocks_in_memory() {
    let directory = Directory::new();
    let stream = StreamId(1);
    let subject = |seq: u64| if seq.is_multiple_of(100) { "rare" } else { "common" };
    let records: Vec<_> =
        (1..=400).map(|seq| (stream, record(seq, subject(seq), &[7; 100]))).collect();
    let meta = write(&directory, 1, Compression::Off, &records);
    let segment = open(&directory, &meta, 0);
    for (wanted, count, is_alone) in [("rare", 4, true), ("common", 396, false)] {
        let found = read_all(&segment, &everything(stream), &Filter::any_of([wanted]));
        assert_eq!(found.len(), count);
        // A buffer that nobody else holds can be written to.
        let alone = found.iter().all(|record| record.data().is_unique());
        assert_eq!(alone, is_alone, "{wanted}");
    }
}

fn is_wanted(seq: u64) -> bool {
    seq % 1000 < 200
}

/// So many records, of which those that [`is_wanted`] names have the subject `wanted`.
fn scattered(directory: &Directory, stream: StreamId, count: u64) -> Segment {
    let subject = |seq| if is_wanted(seq) { "wanted" } else { "other" };
    let records: Vec<_> =
        (1..=count).map(|seq| (stream, record(seq, subject(seq), &[7; 300]))).collect();
    let meta = write(directory, 1, Compression::Off, &records);
    open(directory, &meta, 0)
}

#[test]
fn blocks_with_matches_are_announced_once_and_no_others() {
    let (directory, stream) = (Directory::new(), StreamId(1));
    let segment = scattered(&directory, stream, 100_000);
    let filter = Filter::any_of(["wanted"]);
    let found = read_all(&segment, &everything(stream), &filter);
    assert_eq!(found.len(), 100 * 200);
    let mut places = Vec::new();
    let wanted = |first: u64, last: u64| (first..=last).any(is_wanted);
    let mut visit = |block: BlockEntry| {
        if wanted(block.first_seq, block.last_seq) {
            places.push((block.offset, u64::from(block.length)));
        }
    };
    segment.blocks(stream, &ReadStats::default(), &mut visit).unwrap();
    assert!(places.len() > 2 * super::read::AHEAD);
    assert_eq!(*directory.announced.lock().unwrap(), places);
    directory.announced.lock().unwrap().clear();
    for whole in [Filter::all(), Filter::any_of(["*"])] {
        assert_eq!(read_all(&segment, &everything(stream), &whole).len(), 100_000);
        assert!(directory.announced.lock().unwrap().is_empty(), "the system sees a row by itself");
    }
}

#[test]
fn a_read_of_one_record_announces_no_more() {
    let (directory, stream) = (Directory::new(), StreamId(1));
    let segment = scattered(&directory, stream, 10_000);
    let request = ReadRequest { max_records: 1, ..everything(stream) };
    let (filter, mut out) = (Filter::any_of(["wanted"]), Vec::new());
    segment.read(&request, &filter, &|_| false, &mut out, &ReadStats::default()).unwrap();
    assert_eq!((out.len(), directory.announced.lock().unwrap().len()), (1, 1));
}

#[test]
fn a_literal_look_up_in_a_large_table_reads_a_few_pages() {
    let disk = Directory::new();
    let records: Vec<_> = (1..=50_000u64)
        .map(|seq| (S, record(seq, &format!("device.{:08}", seq * 7919 % 50_000), b"x")))
        .collect();
    let meta = write(&disk, 1, Compression::Lz4, &records);
    let segment = open(&disk, &meta, 0);
    let (stats, mut out) = (ReadStats::default(), Vec::new());
    let filter = Filter::any_of(["device.00012345"]);
    segment.read(&everything(S), &filter, &|_| false, &mut out, &stats).unwrap();
    assert_eq!(out.len(), 1);
    assert_eq!(stats.blocks_read.load(Ordering::Relaxed), 1);
    let bytes = stats.bytes_read.load(Ordering::Relaxed);
    assert!(bytes < 128 * 1024, "{bytes} bytes read of {}", meta.length);
}

#[test]
fn dead_and_old_blocks_are_not_read() {
    let disk = Directory::new();
    let records: Vec<_> = (1..=1000u64).map(|seq| (S, record(seq, "a", &[1; 1000]))).collect();
    let meta = write(&disk, 1, Compression::Off, &records);
    let segment = open(&disk, &meta, 0);
    let (stats, mut out) = (ReadStats::default(), Vec::new());
    segment.read(&everything(S), &Filter::all(), &|seq| seq < 900, &mut out, &stats).unwrap();
    assert_eq!(out.len(), 101);
    assert!(stats.blocks_read.load(Ordering::Relaxed) <= 8);
    let request = ReadRequest { since: records[899].1.time, ..everything(S) };
    let (stats, mut out) = (ReadStats::default(), Vec::new());
    segment.read(&request, &Filter::all(), &|_| false, &mut out, &stats).unwrap();
    assert_eq!(out.len(), 101);
    assert!(stats.blocks_read.load(Ordering::Relaxed) <= 8);
}

#[test]
fn a_filter_that_pages_is_worked_out_once() {
    let disk = Directory::new();
    let records: Vec<_> =
        (1..=20_000u64).map(|seq| (S, record(seq, &format!("a.{seq}"), b"x"))).collect();
    let meta = write(&disk, 1, Compression::Lz4, &records);
    let segment = open(&disk, &meta, 16 << 20);
    let filter = Filter::any_of(["*.7", "*.77", "a.1999*", "*.19999"]);
    let (stats, mut out) = (ReadStats::default(), Vec::new());
    segment.read(&everything(S), &filter, &|_| false, &mut out, &stats).unwrap();
    assert_eq!(out.len(), 3);
    segment.read(&everything(S), &filter, &|_| false, &mut out, &stats).unwrap();
    let before = stats.bytes_read.load(Ordering::Relaxed);
    segment.read(&everything(S), &filter, &|_| false, &mut out, &stats).unwrap();
    assert_eq!(stats.bytes_read.load(Ordering::Relaxed), before, "the cache answers");
}

#[test]
fn records_out_of_order_are_refused() {
    let disk = Directory::new();
    let mut pace = |_| Ok(());
    let mut writer = SegmentWriter::create(&disk, SegmentId(1), &mut pace).unwrap();
    let lz4 = Compression::Lz4;
    writer.add(StreamId(2), lz4, &record(5, "a", b"")).unwrap();
    assert!(writer.add(StreamId(2), lz4, &record(5, "a", b"")).is_err());
    assert!(writer.add(StreamId(1), lz4, &record(6, "a", b"")).is_err());
}

#[test]
fn the_writer_syncs_at_least_every_mebibyte() {
    let disk = Directory::new();
    let mut steps = Vec::new();
    let mut pace = |bytes| {
        steps.push(bytes);
        Ok(())
    };
    let mut writer = SegmentWriter::create(&disk, SegmentId(1), &mut pace).unwrap();
    for seq in 1..=10 {
        writer.add(S, Compression::Off, &record(seq, "a", &[7; 700_000])).unwrap();
    }
    let meta = writer.finish().unwrap();
    assert!(steps.iter().all(|bytes| *bytes <= SYNC_BYTES as u64));
    assert_eq!(steps.iter().sum::<u64>(), meta.length);
    assert!(steps.len() >= 7);
}

#[test]
fn a_pace_that_fails_abandons_the_file() {
    let disk = Directory::new();
    let mut pace = |_| Err(std::io::ErrorKind::Interrupted.into());
    let mut writer = SegmentWriter::create(&disk, SegmentId(1), &mut pace).unwrap();
    writer.add(S, Compression::Off, &record(1, "a", b"")).unwrap();
    assert_eq!(writer.finish().unwrap_err().kind(), std::io::ErrorKind::Interrupted);
}

#[test]
fn another_file_of_the_same_name_is_noticed() {
    let disk = Directory::new();
    let first = write(&disk, 1, Compression::Off, &[(S, record(1, "a", b"one"))]);
    disk.remove(&first.id.path()).unwrap();
    write(&disk, 1, Compression::Off, &[(S, record(1, "a", b"two"))]);
    let error = Segment::open(&disk, &first, &Default::default()).err().unwrap();
    assert!(error.to_string().contains("another file"), "{error}");
}

#[test]
fn a_newer_major_is_refused_untouched() {
    let disk = Directory::new();
    let meta = write(&disk, 1, Compression::Off, &[(S, record(1, "a", b"one"))]);
    let path = disk.path(&meta.id.path());
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() - 16;
    bytes[at] = 2;
    fs::write(&path, &bytes).unwrap();
    let error = Segment::open(&disk, &meta, &Default::default()).err().unwrap();
    assert_eq!(error, SegmentError::Newer { file: meta.id.path(), major: 2 });
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn damage_is_confined_to_its_block() {
    let disk = Directory::new();
    let records: Vec<_> = (1..=1000u64).map(|seq| (S, record(seq, "a", &[1; 1000]))).collect();
    let meta = write(&disk, 1, Compression::Off, &records);
    let mut blocks = Vec::new();
    let segment = open(&disk, &meta, 0);
    segment.blocks(S, &ReadStats::default(), &mut |block| blocks.push(block)).unwrap();
    let bad = blocks[5];
    let path = disk.path(&meta.id.path());
    let mut bytes = fs::read(&path).unwrap();
    bytes[bad.offset as usize + 500] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let (stats, mut out) = (ReadStats::default(), Vec::new());
    let next = segment.read(&everything(S), &Filter::all(), &|_| false, &mut out, &stats).unwrap();
    assert_eq!(next, bad.first_seq, "what was read before the damage is the answer");
    assert_eq!(out.len() as u64, bad.first_seq - 1);
    let request = ReadRequest { from: next, ..everything(S) };
    let error = segment.read(&request, &Filter::all(), &|_| false, &mut out, &stats).unwrap_err();
    let ReadError::Damaged { stream, first, last, file, offset } = error else { panic!("{error}") };
    assert_eq!((stream, first, last), (S, bad.first_seq, bad.last_seq));
    assert_eq!((file, offset), (meta.id.path(), bad.offset));
    let request = ReadRequest { from: last + 1, ..everything(S) };
    out.clear();
    assert_eq!(segment.read(&request, &Filter::all(), &|_| false, &mut out, &stats).unwrap(), 1001);
    assert_eq!(out.len() as u64, 1000 - bad.last_seq);
}

/// Flips each byte of a small file of three streams; whatever is then read is either an error or
/// exactly what was written.
#[test]
fn no_flipped_byte_gives_wrong_data() {
    let disk = Directory::new();
    let mut records = Vec::new();
    for stream in 1..=3u64 {
        for seq in 1..=12u64 {
            let payload =
                format!("{{\"order\":{seq},\"state\":\"paid\",\"state_before\":\"placed\"}}");
            let new = NewRecord {
                subject: if seq % 3 == 0 { "orders.eu" } else { "orders.us" },
                headers: b"",
                payload: payload.as_bytes(),
                time: 1000 + seq,
                expires: (seq == 4).then_some(5000),
                message_id: None,
            };
            records.push((StreamId(stream), Record::copy_of(seq, &new)));
        }
    }
    let meta = write(&disk, 1, Compression::Lz4, &records);
    let path = disk.path(&meta.id.path());
    let good = fs::read(&path).unwrap();
    let filter = Filter::any_of(["orders.eu"]);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        fs::write(&path, &bad).unwrap();
        let Ok(segment) = Segment::open(&disk, &meta, &Default::default()) else {
            continue;
        };
        for range in &meta.streams {
            for filter in [&Filter::all(), &filter] {
                let (stats, mut out) = (ReadStats::default(), Vec::new());
                let request = everything(range.stream);
                if segment.read(&request, filter, &|_| false, &mut out, &stats).is_ok() {
                    let mut expected = of(&records, range.stream);
                    expected.retain(|r| filter.matches(r.subject()));
                    assert_eq!(out, expected, "byte {at}");
                }
                if let Ok(count) = segment.count(range.stream, filter, 1, 99, &stats) {
                    assert_eq!(count, Some(if filter.is_all() { 12 } else { 4 }), "byte {at}");
                }
            }
            if let Ok(expiries) = segment.expiries(range.stream, &ReadStats::default()) {
                assert_eq!(expiries, [(5000, 4)], "byte {at}");
            }
        }
    }
}

/// The records of the example in `storage/README.md`.
fn example() -> Vec<(StreamId, Record)> {
    let new = |subject, time, expires, payload| NewRecord {
        subject,
        headers: b"",
        payload,
        time,
        expires,
        message_id: None,
    };
    let first = new("orders.eu", 1000, None, b"{\"id\":1}".as_slice());
    let second = new("orders.us", 1500, Some(9000), b"{\"id\":2}".as_slice());
    vec![(StreamId(7), Record::copy_of(41, &first)), (StreamId(7), Record::copy_of(43, &second))]
}

/// The bytes after each address of the README's dump.
fn documented() -> Vec<u8> {
    let text = include_str!("../../README.md");
    let dump = text.split_once("```hex\n").expect("the README has a dump").1;
    let dump = dump.split_once("```").expect("the dump ends").0;
    let bytes = dump.lines().filter_map(|line| line.split_once(": ")).flat_map(|(_, line)| {
        let bytes = line.split("  ").next().unwrap_or_default();
        bytes.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap())
    });
    bytes.collect()
}

#[test]
fn the_documented_example_is_a_segment() {
    let disk = Directory::new();
    let records = example();
    fs::write(disk.path(&SegmentId(1).path()), documented()).unwrap();
    let meta = Arc::new(SegmentMeta::read(&disk, SegmentId(1)).unwrap());
    let verified = verify(&disk, &meta, &mut |damage| panic!("{damage}"));
    assert_eq!((verified.blocks, verified.records), (1, 2));
    let segment = open(&disk, &meta, 0);
    assert_eq!(
        read_all(&segment, &everything(StreamId(7)), &Filter::all()),
        of(&records, StreamId(7))
    );
    // And it is what this version writes.
    let written = write(&disk, 2, Compression::Off, &records);
    assert_eq!(written.length, meta.length);
    disk.remove(&meta.id.path()).unwrap();
    write(&disk, 1, Compression::Off, &records);
    assert_eq!(fs::read(disk.path(&meta.id.path())).unwrap(), documented());
}
