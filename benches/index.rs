//! Why sled keeps the order and files keep the bytes: the figures of decision 1, measured again.
//!
//! `cargo bench --bench index`, with `CLAUDEBUS_BENCH_MIB` (default 512) for the amount of data. Uses
//! a temporary directory: set `TMPDIR` to the disk in question. Without `--bench` (as under `cargo
//! test --benches`) it runs through everything once with little data.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(clippy::print_stdout)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use claudebus_storage::Record;
use claudebus_storage::disk::real::RealDisk;
use claudebus_storage::log::{Compression, Filter, ReadRequest};
use claudebus_storage::segment::{
    BlockCache, ReadStats, Segment, SegmentId, SegmentMeta, SegmentWriter, verify,
};

mod workload;
use workload::{Numbers, Payload, STREAM};

/// Says to the child process what to fill before it dies.
const FILL: &str = "CLAUDEBUS_BENCH_FILL";

fn main() {
    if let Ok(path) = std::env::var(FILL) {
        fill_and_die(Path::new(&path));
    }
    let real = std::env::args().any(|argument| argument == "--bench");
    let asked = std::env::var("CLAUDEBUS_BENCH_MIB").ok().and_then(|text| text.parse().ok());
    let mib: u64 = asked.unwrap_or(if real { 512 } else { 2 });
    let keys: u64 = if real { 1_000_000 } else { 10_000 };
    println!("{mib} MiB of records, {keys} keys\n");
    for (name, payload, size) in
        [("JSON events", Payload::Json, 560), ("random 128 B", Payload::Random(128), 146)]
    {
        let records = workload::records(payload, (mib << 20) / size);
        bulk(name, &records);
    }
    upserts(keys);
    killed(mib);
    flips(if real { 40 } else { 4 });
}

/// Wall and processor time of `work`.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration, Option<f64>) {
    let (start, cpu) = (Instant::now(), processor_seconds());
    let result = work();
    let cpu = processor_seconds().zip(cpu).map(|(after, before)| after - before);
    (result, start.elapsed(), cpu)
}

/// User and system time of this process so far, where the system tells.
fn processor_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

fn line(what: &str, bytes: u64, wall: Duration, cpu: Option<f64>, stored: Option<u64>) {
    let rate = bytes as f64 / 1e6 / wall.as_secs_f64();
    let cpu =
        cpu.map_or(String::new(), |cpu| format!("{:6.2} CPU s/GB", cpu / (bytes as f64 / 1e9)));
    let stored = stored.map_or(String::new(), |stored| {
        format!("  stored 1 : {:.2}", bytes as f64 / stored as f64)
    });
    println!("  {what:<44} {rate:7.0} MB/s {cpu}{stored}");
}

fn size_of(directory: &Path) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let meta = entry.metadata().unwrap();
        bytes += if meta.is_dir() { size_of(&entry.path()) } else { meta.len() };
    }
    bytes
}

fn open_sled(path: &Path) -> sled::Db {
    let config = sled::Config::new().path(path).flush_every_ms(None);
    config.cache_capacity(64 << 20).open().unwrap()
}

fn write_segment(disk: &RealDisk, records: &[Record], compression: Compression) -> SegmentMeta {
    let mut pace = |_| Ok(());
    let mut writer = SegmentWriter::create(disk, SegmentId(1), &mut pace).unwrap();
    for record in records {
        writer.add(STREAM, compression, record).unwrap();
    }
    writer.finish().unwrap()
}

/// The same records through sled and into a segment, and back.
fn bulk(name: &str, records: &[Record]) {
    let bytes = workload::bytes(records);
    println!("{name}: {} records, {} MB", records.len(), bytes / 1_000_000);
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("sled");
    let database = open_sled(&path);
    let ((), wall, cpu) = timed(|| {
        for chunk in records.chunks(1000) {
            let mut batch = sled::Batch::default();
            for record in chunk {
                batch.insert(&record.seq.to_be_bytes(), record.data().as_ref());
            }
            database.apply_batch(batch).unwrap();
        }
        database.flush().unwrap();
    });
    line("sled, batches of 1000 records, one flush", bytes, wall, cpu, Some(size_of(&path)));
    let (read, wall, cpu) =
        timed(|| database.iter().map(|entry| entry.unwrap().1.len() as u64).sum());
    assert_eq!(bytes, read);
    line("sled, read all", bytes, wall, cpu, None);
    drop(database);
    blocks_in_sled(&root.path().join("blocks"), records, bytes);

    let disk = RealDisk::open(root.path().join("files")).unwrap();
    fs::create_dir(root.path().join("files/segments")).unwrap();
    for (name, compression) in [("lz4", Compression::Lz4), ("zstd", Compression::Zstd)] {
        let (meta, wall, cpu) = timed(|| write_segment(&disk, records, compression));
        let what = format!("segment, {name}, fdatasync each MiB");
        line(&what, bytes, wall, cpu, Some(meta.length));
        let meta = Arc::new(meta);
        let (read, wall, cpu) = timed(|| read_segment(&disk, &meta));
        assert_eq!(bytes, read);
        line(&format!("segment, {name}, read all and check"), bytes, wall, cpu, None);
        fs::remove_file(root.path().join("files").join(meta.id.path())).unwrap();
    }
    println!();
}

/// The best case for sled: 64 KB of records, one after the other, as one value.
fn blocks_in_sled(path: &Path, records: &[Record], bytes: u64) {
    let database = open_sled(path);
    let ((), wall, cpu) = timed(|| {
        let mut block = Vec::with_capacity(80 << 10);
        for record in records {
            block.extend_from_slice(record.data());
            if block.len() >= 64 << 10 {
                database.insert(record.seq.to_be_bytes(), block.as_slice()).unwrap();
                block.clear();
            }
        }
        database.insert([0xff; 8], block.as_slice()).unwrap();
        database.flush().unwrap();
    });
    line("sled, blocks of 64 KB as values", bytes, wall, cpu, Some(size_of(path)));
    let (read, wall, cpu) =
        timed(|| database.iter().map(|entry| entry.unwrap().1.len() as u64).sum());
    assert_eq!(bytes, read);
    line("sled, blocks of 64 KB, read all", bytes, wall, cpu, None);
}

fn read_segment(disk: &RealDisk, meta: &Arc<SegmentMeta>) -> u64 {
    let segment = Segment::open(disk, meta, &Arc::new(BlockCache::new(256 << 10))).unwrap();
    let mut request = ReadRequest {
        stream: STREAM,
        from: 1,
        to: u64::MAX,
        since: 0,
        max_records: 1000,
        max_bytes: usize::MAX,
    };
    let (stats, mut out, mut bytes) = (ReadStats::default(), Vec::new(), 0);
    while request.from <= meta.streams[0].last_seq {
        let next = segment.read(&request, &Filter::all(), &|_| false, &mut out, &stats);
        request.from = next.unwrap();
        bytes += workload::bytes(&out);
        out.clear();
    }
    bytes
}

/// sled as an index: small distinct keys.
fn upserts(keys: u64) {
    let root = tempfile::tempdir().unwrap();
    let mut numbers = Numbers::new(3);
    let key =
        |number: u64| format!("{:040x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into_bytes();
    let database = open_sled(root.path());
    println!("sled as an index, {keys} distinct keys of 40 bytes");
    let ((), wall, cpu) = timed(|| {
        for number in 0..keys {
            database.insert(key(number), &number.to_be_bytes()).unwrap();
        }
    });
    let each =
        cpu.map_or(String::new(), |cpu| format!(", {:.1} us CPU each", cpu * 1e6 / keys as f64));
    println!("  upserts  {:9.0} /s{each}", keys as f64 / wall.as_secs_f64());
    let (found, wall, _) = timed(|| {
        (0..keys).filter(|_| database.get(key(numbers.next() % keys)).unwrap().is_some()).count()
    });
    assert_eq!(found as u64, keys);
    println!("  gets     {:9.0} /s", keys as f64 / wall.as_secs_f64());
    drop(database);
    let (database, wall, _) = timed(|| open_sled(root.path()));
    println!(
        "  reopened after a clean close in {wall:.0?}, {} MB\n",
        size_of(root.path()) / 1_000_000
    );
    drop(database);
}

/// Opening after the process was killed: the child fills a database and dies.
fn killed(mib: u64) {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("sled");
    let died = Command::new(std::env::current_exe().unwrap())
        .env(FILL, &path)
        .env("CLAUDEBUS_BENCH_MIB", mib.to_string())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(!died.success());
    let bytes = size_of(&path);
    let (database, wall, _) = timed(|| open_sled(&path));
    println!("sled, opened after its process was killed: {wall:.0?} for {} MB", bytes / 1_000_000);
    drop(database);
    let disk = RealDisk::open(root.path().join("files")).unwrap();
    fs::create_dir(root.path().join("files/segments")).unwrap();
    let meta =
        Arc::new(write_segment(&disk, &workload::records(Payload::Json, 10_000), Compression::Lz4));
    let (_, wall, _) =
        timed(|| Segment::open(&disk, &meta, &Arc::new(BlockCache::default())).unwrap());
    println!("segment, opened at any time: {wall:.0?}, whatever its size\n");
}

fn fill_and_die(path: &Path) -> ! {
    let mib: u64 = std::env::var("CLAUDEBUS_BENCH_MIB").unwrap().parse().unwrap();
    let database = open_sled(path);
    for record in workload::records(Payload::Json, (mib << 20) / 560) {
        database.insert(record.seq.to_be_bytes(), record.data().as_ref()).unwrap();
    }
    database.flush().unwrap();
    std::process::abort()
}

/// One flipped bit in a closed file, at many places: what does who opens it say?
fn flips(places: u64) {
    let records = workload::records(Payload::Json, 20_000);
    let root = tempfile::tempdir().unwrap();
    let (good, bad) = (root.path().join("good"), root.path().join("bad"));
    let database = open_sled(&good);
    for record in &records {
        database.insert(record.seq.to_be_bytes(), record.data().as_ref()).unwrap();
    }
    database.flush().unwrap();
    drop(database);
    // Each refusal by a panic would otherwise print itself.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let (mut refused, mut wrong) = (0, 0);
    for place in 0..places {
        copy(&good, &bad);
        flip(&bad.join("db"), place, places);
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let config = sled::Config::new().path(&bad).flush_every_ms(None);
            let database = config.open().ok()?;
            Some(records.iter().all(|record| {
                database
                    .get(record.seq.to_be_bytes())
                    .is_ok_and(|found| found.as_deref() == Some(record.data()))
            }))
        }));
        match opened {
            Ok(Some(true)) => {}
            Ok(Some(false)) => wrong += 1,
            Ok(None) | Err(_) => refused += 1,
        }
        fs::remove_dir_all(&bad).unwrap();
    }
    std::panic::set_hook(hook);
    println!("one flipped bit at {places} places of a closed file");
    println!(
        "  sled     {refused} refused to open or panicked, {wrong} opened without a word and lacked records"
    );

    let disk = RealDisk::open(root.path().join("files")).unwrap();
    fs::create_dir(root.path().join("files/segments")).unwrap();
    let meta = Arc::new(write_segment(&disk, &records, Compression::Lz4));
    let path = root.path().join("files").join(meta.id.path());
    let original = fs::read(&path).unwrap();
    let (mut found, mut lost, mut most) = (0, 0, 0);
    for place in 0..places {
        flip(&path, place, places);
        let mut here = 0;
        let mut noticed = false;
        verify(&disk, &meta, &mut |damage| {
            noticed = true;
            here += damage.lost.map_or(0, |(_, first, last)| last - first + 1);
        });
        found += u64::from(noticed);
        lost += here;
        most = most.max(here);
        fs::write(&path, &original).unwrap();
    }
    println!(
        "  segment  {found} found; {} of {} records unreadable on average, {most} at most",
        lost / places,
        records.len()
    );
}

/// Flips one bit of the file, at one of `places` places spread over it.
fn flip(path: &Path, place: u64, places: u64) {
    let mut bytes = fs::read(path).unwrap();
    let at = (bytes.len() as u64 * (2 * place + 1) / (2 * places)) as usize;
    bytes[at] ^= 1 << (place % 8);
    fs::write(path, bytes).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.metadata().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
