//! The index against the segments' own tables, and what it does when it cannot be trusted.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;

use super::*;
use crate::log::{Compression, Filter, ReadRequest};
use crate::record::Record;
use crate::segment::testing::{Directory, open, record, write};
use crate::segment::{ReadStats, SegmentMeta};

const GO: &dyn Fn() -> bool = &|| false;

fn request(stream: StreamId, from: u64) -> ReadRequest {
    ReadRequest {
        stream,
        from,
        to: u64::MAX,
        since: 0,
        max_records: usize::MAX,
        max_bytes: usize::MAX,
    }
}

fn read(segment: &Segment, stream: StreamId, filter: &Filter, from: u64) -> (Vec<Record>, u64) {
    let (mut out, stats) = (Vec::new(), ReadStats::default());
    let next = segment.read(&request(stream, from), filter, &|_| false, &mut out, &stats).unwrap();
    (out, next)
}

/// Two segments of two streams, with `subjects` subjects.
fn sample(disk: &Directory, subjects: u64) -> Vec<Arc<SegmentMeta>> {
    let part = |id: u64| {
        let mut records = Vec::new();
        for stream in 1..=2u64 {
            for seq in id * 400..id * 400 + 400 {
                let subject = format!("s.{}", seq % subjects);
                records.push((StreamId(stream), record(seq, &subject, &[seq as u8; 800])));
            }
        }
        write(disk, id, Compression::Lz4, &records)
    };
    vec![part(1), part(2)]
}

fn opened(disk: &Directory, metas: &[Arc<SegmentMeta>]) -> Vec<Arc<Segment>> {
    metas.iter().map(|meta| Arc::new(open(disk, meta, 0))).collect()
}

/// Makes the index agree with these segments.
fn update(
    index: &Index,
    segments: &[Arc<Segment>],
    stop: &dyn Fn() -> bool,
) -> Result<Updated, IndexError> {
    let listed: Vec<SegmentId> = segments.iter().map(|segment| segment.meta().id).collect();
    let open = |id| segments.iter().find(|segment| segment.meta().id == id).cloned();
    index.update(&listed, &open, stop)
}

/// Whether the index answers for the middle of the segment.
fn knows(index: &Index, meta: &SegmentMeta) -> bool {
    let range = &meta.streams[0];
    index.block(meta.id, range.stream, range.first_seq + range.count / 2).is_some()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn answers_are_those_of_the_tables(
        plan in prop::collection::vec((1u64..4, 0u64..3, 0u64..20, 0usize..4000), 1..300),
        from in 0u64..300,
    ) {
        let disk = Directory::new();
        let mut next = [0u64; 4];
        let mut records = Vec::new();
        for (stream, gap, subject, size) in plan {
            next[stream as usize] += 1 + gap;
            let seq = next[stream as usize];
            records.push((StreamId(stream), record(seq, &format!("s.{subject}"), &vec![seq as u8; size])));
        }
        records.sort_by_key(|(stream, record)| (*stream, record.seq));
        let meta = write(&disk, 1, Compression::Lz4, &records);
        let plain = Arc::new(open(&disk, &meta, 0));
        let index = Arc::new(Index::new(&disk.path("")));
        update(&index, &[Arc::clone(&plain)], GO).unwrap();
        let stats = ReadStats::default();
        for range in &meta.streams {
            let mut blocks = Vec::new();
            plain.blocks(range.stream, &stats, &mut |block| blocks.push(block)).unwrap();
            for seq in range.first_seq.saturating_sub(2)..range.last_seq + 2 {
                let table = blocks.iter().find(|b| (b.first_seq..=b.last_seq).contains(&seq));
                prop_assert_eq!(index.block(meta.id, range.stream, seq), table.copied());
            }
            let (count, subjects) = plain.density(range.stream, &stats).unwrap();
            plain.subject_values(range.stream, &stats, &mut |text, value| {
                let found = index.subject(meta.id, range.stream, text);
                let expected = (subjects * RECORDS_PER_SUBJECT_MIN <= count).then(|| value.to_vec());
                assert_eq!(found, expected);
                Some(())
            }).unwrap();
            let with = open(&disk, &meta, 0).with_locator(Arc::clone(&index) as Arc<dyn BlockLocator>);
            for pattern in ["s.3", "s.*", ">", "nothing", "s.1*"] {
                let filter = Filter::any_of([pattern]);
                prop_assert_eq!(
                    read(&with, range.stream, &filter, from),
                    read(&plain, range.stream, &filter, from)
                );
            }
        }
    }
}

#[test]
fn a_clean_close_is_trusted() {
    let disk = Directory::new();
    let metas = sample(&disk, 5);
    let segments = opened(&disk, &metas);
    let index = Index::new(&disk.path(""));
    assert!(!knows(&index, &metas[0]), "it knows nothing before the first update");
    let updated = update(&index, &segments, GO).unwrap();
    assert_eq!(updated, Updated { added: 2, removed: 0, complete: true });
    index.close().unwrap();
    assert!(!knows(&index, &metas[0]));
    let index = Index::new(&disk.path(""));
    assert_eq!(
        update(&index, &segments, GO).unwrap(),
        Updated { complete: true, ..Updated::default() }
    );
    assert!(knows(&index, &metas[0]) && knows(&index, &metas[1]));
}

#[test]
fn an_unclean_index_is_built_again() {
    let disk = Directory::new();
    let metas = sample(&disk, 5);
    let segments = opened(&disk, &metas);
    let index = Index::new(&disk.path(""));
    update(&index, &segments, GO).unwrap();
    drop(index);
    let index = Index::new(&disk.path(""));
    assert_eq!(update(&index, &segments, GO).unwrap().added, 2);
    assert!(knows(&index, &metas[1]));
    assert_eq!(std::fs::read_dir(disk.path("trash")).unwrap().count(), 0, "the trash is emptied");
}

#[test]
fn a_flipped_bit_after_a_clean_close_is_noticed() {
    let disk = Directory::new();
    let metas = sample(&disk, 5);
    let segments = opened(&disk, &metas);
    let index = Index::new(&disk.path(""));
    update(&index, &segments, GO).unwrap();
    index.close().unwrap();
    let path = disk.path("index/sled/db");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() / 3;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let index = Index::new(&disk.path(""));
    assert_eq!(update(&index, &segments, GO).unwrap().added, 2, "built again");
    assert!(knows(&index, &metas[0]));
}

#[test]
fn rubbish_in_its_place_is_put_away() {
    let disk = Directory::new();
    let metas = sample(&disk, 5);
    std::fs::create_dir_all(disk.path("index/sled")).unwrap();
    std::fs::write(disk.path("index/sled/db"), b"rubbish").unwrap();
    std::fs::write(disk.path("index/CLEAN"), b"rubbish").unwrap();
    let index = Index::new(&disk.path(""));
    assert_eq!(update(&index, &opened(&disk, &metas), GO).unwrap().added, 2);
}

#[test]
fn a_build_goes_on_where_it_was_stopped() {
    let disk = Directory::new();
    let metas = sample(&disk, 5);
    let segments = opened(&disk, &metas);
    let index = Index::new(&disk.path(""));
    let asked = std::cell::Cell::new(0);
    let after = |limit: u32| {
        asked.set(0);
        let asked = &asked;
        move || {
            asked.set(asked.get() + 1);
            asked.get() > limit
        }
    };
    // Each stream asks once for itself and once for its blocks, so 4 asks are the first segment.
    let updated = update(&index, &segments, &after(4)).unwrap();
    assert_eq!(updated, Updated { added: 1, removed: 0, complete: false });
    let updated = update(&index, &segments, GO).unwrap();
    assert_eq!(updated, Updated { added: 1, removed: 0, complete: true });
}

#[test]
fn a_merged_away_segment_is_forgotten() {
    let disk = Directory::new();
    let metas = sample(&disk, 5);
    let segments = opened(&disk, &metas);
    let index = Index::new(&disk.path(""));
    update(&index, &segments, GO).unwrap();
    let updated = update(&index, &segments[1..], GO).unwrap();
    assert_eq!(updated, Updated { added: 0, removed: 1, complete: true });
    assert!(!knows(&index, &metas[0]));
    assert_eq!(index.subject(metas[0].id, StreamId(1), "s.1"), None);
    assert!(knows(&index, &metas[1]));
    assert!(index.subject(metas[1].id, StreamId(1), "s.1").is_some());
}

#[test]
fn streams_where_every_subject_is_new_stay_out() {
    let disk = Directory::new();
    let metas = sample(&disk, 400);
    let index = Index::new(&disk.path(""));
    update(&index, &opened(&disk, &metas), GO).unwrap();
    assert!(knows(&index, &metas[0]));
    assert_eq!(index.subject(metas[0].id, StreamId(1), "s.1"), None);
}

#[test]
fn a_damaged_segment_is_left_out_and_named() {
    let disk = Directory::new();
    let metas = sample(&disk, 5);
    let segments = opened(&disk, &metas);
    // The directory stands before the trailer of 64 bytes.
    let path = disk.path(&metas[0].id.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() - 64 - 20;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let index = Index::new(&disk.path(""));
    let error = update(&index, &segments, GO).unwrap_err();
    assert!(
        matches!(&error, IndexError::Segment { segment, .. } if *segment == metas[0].id),
        "{error}"
    );
    assert!(knows(&index, &metas[1]), "the other one is indexed");
}

/// A locator that is always wrong about the place.
struct Liar;

impl BlockLocator for Liar {
    fn block(&self, _segment: SegmentId, _stream: StreamId, seq: u64) -> Option<BlockEntry> {
        Some(BlockEntry {
            first_seq: seq,
            last_seq: seq + 5,
            first_time: 0,
            last_time: u64::MAX,
            offset: seq * 1_000_003,
            length: u32::MAX,
            count: 6,
        })
    }

    fn subject(&self, _: SegmentId, _: StreamId, _: &str) -> Option<Vec<u8>> {
        None
    }
}

#[test]
fn a_wrong_place_is_looked_up_in_the_table() {
    let disk = Directory::new();
    let metas = sample(&disk, 5);
    let plain = open(&disk, &metas[0], 0);
    let with = open(&disk, &metas[0], 0).with_locator(Arc::new(Liar));
    let all = Filter::all();
    assert_eq!(read(&with, StreamId(1), &all, 1), read(&plain, StreamId(1), &all, 1));
}

#[test]
fn only_what_is_missing_is_opened() {
    let disk = Directory::new();
    let metas = sample(&disk, 4);
    let segments = opened(&disk, &metas);
    let index = Index::new(&disk.path(""));
    update(&index, &segments[..1], GO).unwrap();
    let listed: Vec<SegmentId> = metas.iter().map(|meta| meta.id).collect();
    let asked = std::cell::RefCell::new(Vec::new());
    let open = |id| {
        asked.borrow_mut().push(id);
        segments.iter().find(|segment| segment.meta().id == id).cloned()
    };
    assert_eq!(index.update(&listed, &open, GO).unwrap().added, 1);
    assert_eq!(
        index.update(&listed, &open, GO).unwrap(),
        Updated { complete: true, ..Updated::default() }
    );
    assert_eq!(*asked.borrow(), listed[1..]);
}
