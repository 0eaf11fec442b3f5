//! Compares what the broker holds with what the oracle knows, while nothing is in flight.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use claudebus::client::{AckPolicy, Client, ConsumerConfig, DeadOptions, RequestError, StreamInfo};

use super::book::Presence;
use super::oracle::{DeadLetter, add};
use super::payload::next;
use super::scenario::{CONSUMERS, LINES, Rule, Style};
use super::work::Shared;

/// How much is read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// So many messages of each stream.
    Sample(usize),
    /// Everything.
    Full,
}

/// Longest time for limits to be enforced, and for messages whose time is over to become dead
/// letters.
const SETTLE: Duration = Duration::from_secs(10);
/// Messages asked for at the same time.
const AT_ONCE: usize = 64;
/// Dead letters of one page.
const PAGE: u64 = 256;

/// Checks every stream. Nothing may be in flight.
///
/// # Errors
/// The first request that failed; the check is not complete then.
pub async fn check(
    shared: &Shared,
    client: &Client,
    depth: Depth,
    random: &mut u64,
) -> Result<(), RequestError> {
    for (index, line) in LINES.iter().enumerate() {
        let oracle = &shared.oracle;
        {
            let book = oracle.book(index);
            oracle.judge(line.stream, book.check_answered());
            oracle.judge(line.stream, book.check_gaps());
        }
        let (info, presence) = counts(shared, client, index, depth).await?;
        let last = oracle.book(index).last_seq();
        if info.state.last_seq != last {
            oracle.violated(format_args!(
                "{}: its last sequence is {}, and {last} was acknowledged",
                line.stream, info.state.last_seq
            ));
        }
        if let Rule::Bytes(most) = line.rule
            && info.state.bytes > most
        {
            let bytes = info.state.bytes;
            oracle.violated(format_args!("{}: {bytes} bytes of {most}", line.stream));
        }
        if let Rule::Full(most) | Rule::Count(most) = line.rule
            && info.state.messages > most
        {
            let messages = info.state.messages;
            oracle.violated(format_args!("{}: {messages} messages of {most}", line.stream));
        }
        let by_consumers = matches!(line.rule, Rule::WorkQueue | Rule::Interest);
        match depth {
            Depth::Full if !by_consumers => read_all(shared, client, index, &presence).await?,
            _ => read_some(shared, client, (index, depth), &presence, random).await?,
        }
    }
    temporary_streams(shared, client).await
}

/// Compares the number of messages, after reading what died meanwhile. Returns what is there and
/// what must be.
async fn counts(
    shared: &Shared,
    client: &Client,
    index: usize,
    depth: Depth,
) -> Result<(StreamInfo, Vec<Presence>), RequestError> {
    let (oracle, line) = (&shared.oracle, &LINES[index]);
    let began = Instant::now();
    loop {
        dead_letters(shared, client, index, depth).await?;
        let info = client.stream_info(line.stream).await?;
        let presence = presence(shared, index);
        let count = |what| presence.iter().filter(|p| **p == what).count() as u64;
        let (must, may) = (count(Presence::Must), count(Presence::May));
        let held = info.state.messages;
        if (must..=must + may).contains(&held) {
            oracle.settled_after(began.elapsed());
            return Ok((info, presence));
        }
        // Messages become dead letters at any time, so a work queue may be ahead of its letters.
        // Those that must leave by a limit may have to be read from disk first.
        let waits = line.rule == Rule::WorkQueue || held > must + may;
        if !waits || began.elapsed() > SETTLE {
            oracle.violated(format_args!(
                "{}: it holds {held} messages ({} to {}); {must} to {} must be there",
                line.stream,
                info.state.first_seq,
                info.state.last_seq,
                must + may
            ));
            return Ok((info, presence));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What must be there now.
fn presence(shared: &Shared, index: usize) -> Vec<Presence> {
    let oracle = &shared.oracle;
    let book = oracle.book(index);
    book.presence(|seq| {
        let Some(name) = book.name(seq) else { return Presence::May };
        let consumers = CONSUMERS.iter().enumerate().filter(|(_, c)| c.line == index);
        let mut all = Presence::MustNot;
        for (number, consumer) in consumers.filter(|(_, c)| c.wants(name)) {
            let deliveries = oracle.consumer(number);
            let one = match consumer.style {
                Style::Confirmed if deliveries.is_settled(seq) => Presence::MustNot,
                Style::Confirmed if deliveries.is_unsure(seq) => Presence::May,
                // Its acknowledgement was not confirmed, so it may be under way for ever.
                Style::Streamed if deliveries.was_received(seq) => Presence::May,
                _ => return Presence::Must,
            };
            if one == Presence::May {
                all = Presence::May;
            }
        }
        all
    })
}

/// Reads the stream's dead letters: all, or those that are new.
async fn dead_letters(
    shared: &Shared,
    client: &Client,
    index: usize,
    depth: Depth,
) -> Result<(), RequestError> {
    let (oracle, stream) = (&shared.oracle, LINES[index].stream);
    if !CONSUMERS.iter().any(|c| c.line == index && c.max_deliver.is_some()) {
        return Ok(());
    }
    let mut from = match depth {
        Depth::Full => 1,
        Depth::Sample(_) => oracle.book(index).dead_read() + 1,
    };
    let mut seen: HashMap<(String, u64), u64> = HashMap::new();
    loop {
        let options = DeadOptions { from, limit: PAGE, ..DeadOptions::default() };
        let page = match client.dead_letters(stream, options).await {
            Ok(page) => page,
            // Nothing has died yet.
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        for letter in &page.letters {
            let payload = STANDARD.decode(&letter.message.data).unwrap_or_default();
            *seen.entry((letter.consumer.clone(), letter.stream_seq)).or_default() += 1;
            from = letter.seq + 1;
            let letter = DeadLetter {
                at: letter.seq,
                consumer: &letter.consumer,
                seq: letter.stream_seq,
                attempts: letter.attempts,
                subject: &letter.subject,
                payload: &payload,
            };
            oracle.dead(stream, &letter);
        }
        if (page.letters.len() as u64) < PAGE {
            break;
        }
    }
    oracle.dead_exactly_once(stream, &seen);
    oracle.book(index).set_dead_read(from - 1);
    if depth == Depth::Full {
        let known: u64 = (0..CONSUMERS.len())
            .filter(|c| CONSUMERS[*c].line == index)
            .map(|c| oracle.consumer(c).dead_count())
            .sum();
        if seen.len() as u64 != known {
            let now = seen.len();
            oracle.violated(format_args!("DLQ_{stream}: {now} of {known} dead letters are there"));
        }
    }
    Ok(())
}

/// Reads a whole stream through a consumer and compares every message.
async fn read_all(
    shared: &Shared,
    client: &Client,
    index: usize,
    presence: &[Presence],
) -> Result<(), RequestError> {
    let (oracle, stream) = (&shared.oracle, LINES[index].stream);
    let config = ConsumerConfig {
        name: Some("reading".to_owned()),
        ack_policy: AckPolicy::None,
        inactive_threshold: Duration::from_secs(60),
        ..ConsumerConfig::default()
    };
    let consumer = client.create_consumer(stream, config).await?;
    let mut there = vec![false; presence.len()];
    loop {
        let mut fetched = match consumer.fetch(1000).no_wait().await {
            Ok(fetched) => fetched,
            Err(error) => {
                oracle.violated(format_args!("{stream}: reading: {error}"));
                break;
            }
        };
        for delivery in &fetched {
            let (seq, payload) = (delivery.seq(), delivery.payload());
            add(&oracle.counters.read_back, 1);
            oracle.seen(index, seq, delivery.subject(), &payload);
            match there.get_mut(seq as usize) {
                Some(slot) if !*slot => *slot = true,
                Some(_) => oracle.violated(format_args!("{stream}: sequence {seq} came twice")),
                None => oracle.violated(format_args!("{stream}: sequence {seq} is unknown")),
            }
        }
        if fetched.pop().is_none_or(|last| last.pending() == 0) {
            break;
        }
    }
    for (seq, (there, presence)) in there.iter().zip(presence).enumerate().skip(1) {
        compare(shared, index, seq as u64, *there, *presence);
    }
    client.delete_consumer(stream, "reading").await
}

fn compare(shared: &Shared, index: usize, seq: u64, there: bool, presence: Presence) {
    let (oracle, stream) = (&shared.oracle, LINES[index].stream);
    let name = || oracle.book(index).name(seq).map(|name| name.to_string()).unwrap_or_default();
    match (there, presence) {
        (false, Presence::Must) => {
            oracle.violated(format_args!("{stream}: sequence {seq} ({}) is lost", name()));
        }
        (true, Presence::MustNot) => {
            oracle.violated(format_args!("{stream}: sequence {seq} ({}) is still there", name()));
        }
        _ => {}
    }
}

/// Asks for some messages by their sequence.
async fn read_some(
    shared: &Shared,
    client: &Client,
    (index, depth): (usize, Depth),
    presence: &[Presence],
    random: &mut u64,
) -> Result<(), RequestError> {
    let (oracle, last) = (&shared.oracle, presence.len() as u64 - 1);
    let mut wanted: Vec<u64> = match depth {
        Depth::Sample(count) if last > 0 => (0..count).map(|_| 1 + next(random) % last).collect(),
        Depth::Sample(_) => Vec::new(),
        Depth::Full => (1..=last).filter(|s| presence[*s as usize] != Presence::MustNot).collect(),
    };
    // The newest are what a crash would take.
    wanted.extend((1..=last).rev().take(20));
    wanted.retain(|seq| !oracle.book(index).is_left_out(*seq));
    for some in wanted.chunks(AT_ONCE) {
        let mut asked = tokio::task::JoinSet::new();
        for seq in some.iter().copied() {
            let client = client.clone();
            asked.spawn(async move { (seq, client.get_message(LINES[index].stream, seq).await) });
        }
        while let Some(answer) = asked.join_next().await {
            let Ok((seq, answer)) = answer else { continue };
            let there = match answer {
                Ok(message) => {
                    add(&shared.oracle.counters.read_back, 1);
                    shared.oracle.seen(index, seq, message.subject(), &message.payload());
                    true
                }
                Err(error) if error.is_not_found() => false,
                Err(error) => return Err(error),
            };
            let mut presence = presence[seq as usize];
            if !there && presence == Presence::Must && LINES[index].rule == Rule::Interest {
                // A streamed consumer goes on meanwhile. It is known to have received a message
                // before it acknowledges it, and so before the broker may delete it.
                presence = self::presence(shared, index)[seq as usize];
            }
            // What is asked for may become a dead letter before it is answered.
            let dies = LINES[index].rule == Rule::WorkQueue && !there;
            if !dies || presence != Presence::Must {
                compare(shared, index, seq, there, presence);
            } else {
                dead_letters(shared, client, index, Depth::Sample(0)).await?;
                let name = shared.oracle.book(index).name(seq);
                let dead = (0..CONSUMERS.len()).any(|c| {
                    CONSUMERS[c].line == index
                        && name.is_some_and(|name| CONSUMERS[c].wants(name))
                        && shared.oracle.consumer(c).is_dead(seq)
                });
                compare(shared, index, seq, dead, presence);
            }
        }
    }
    Ok(())
}

/// Checks that no deleted stream is back.
async fn temporary_streams(shared: &Shared, client: &Client) -> Result<(), RequestError> {
    let gone = shared.temporary.lock().await;
    for name in client.stream_names().await? {
        if gone.contains(&name) {
            shared.oracle.violated(format_args!("{name} was deleted and is back"));
        }
    }
    Ok(())
}

/// Waits until all consumers have delivered everything and nothing awaits acknowledgement.
pub async fn drained(
    shared: &Shared,
    client: &Client,
    limit: Duration,
) -> Result<(), RequestError> {
    let end = Instant::now() + limit;
    for line in CONSUMERS {
        loop {
            let info = client.consumer_info(line.stream(), line.name).await?;
            if info.num_pending == 0 && info.num_ack_pending == 0 {
                break;
            }
            if Instant::now() > end {
                shared.oracle.violated(format_args!(
                    "{}/{} still has {} to deliver and {} to be acknowledged ({:?})",
                    line.stream(),
                    line.name,
                    info.num_pending,
                    info.num_ack_pending,
                    info.idle
                ));
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

/// After everything is drained: each message was settled by each consumer that wants it.
pub fn settled(shared: &Shared) {
    let oracle = &shared.oracle;
    for (number, consumer) in CONSUMERS.iter().enumerate() {
        // Limits take messages from a stream before everybody has had them.
        if !matches!(LINES[consumer.line].rule, Rule::Keep | Rule::WorkQueue | Rule::Interest) {
            continue;
        }
        let (book, deliveries) = (oracle.book(consumer.line), oracle.consumer(number));
        let place = format!("{}/{}", consumer.stream(), consumer.name);
        for seq in 1..=book.last_seq() {
            let Some(name) = book.name(seq).filter(|name| consumer.wants(*name)) else { continue };
            let fine = match consumer.style {
                Style::Confirmed if consumer.fails_on(name) => deliveries.is_dead(seq),
                Style::Confirmed => deliveries.is_settled(seq) || deliveries.is_unsure(seq),
                Style::Streamed => deliveries.was_received(seq),
            };
            if !fine {
                oracle.violated(format_args!("{place}: sequence {seq} ({name}) never arrived"));
            }
        }
    }
}
