//! Publishing to consumers of disjoint parts, and to many streams, while they receive.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, pull},
    context::{ContextBuilder, PublishAckFuture},
    stream,
};
use futures_util::StreamExt as _;

use super::{Nats, SETTLE, connect, failed};
use crate::cli::bench::spread::{Amount, Part, Spread, Sums, Taking, stream_name, stream_subjects};
use crate::cli::exit::Failure;

/// Messages in flight: as many as our own client allows.
const IN_FLIGHT: usize = 32_768;
/// Messages that consumers ask for at a time: all of them together, and each at least.
const FETCHED: usize = 16_384;
const LEAST_FETCHED: usize = 64;

impl Nats {
    /// Publishes for so long while consumers of all parts, which share `connections`, receive.
    pub(in crate::cli::bench) async fn publish_and_take(
        &self,
        spread: &Spread,
        connections: usize,
        duration: Duration,
    ) -> Result<Sums, Failure> {
        let result = self.measure_spread(spread, connections, duration).await;
        for number in 0..spread.streams {
            // One that was not made needs no deletion; the error of that is told.
            let _ = self.jetstream.delete_stream(stream_name(number)).await;
        }
        result
    }

    async fn measure_spread(
        &self,
        spread: &Spread,
        connections: usize,
        duration: Duration,
    ) -> Result<Sums, Failure> {
        let mut contexts = Vec::new();
        while contexts.len() < connections {
            contexts.push(jetstream::new(connect(&self.url).await?));
        }
        let began = Instant::now();
        for number in 0..spread.streams {
            let config = stream::Config {
                name: stream_name(number),
                subjects: vec![stream_subjects(number)],
                storage: stream::StorageType::File,
                ..Default::default()
            };
            self.jetstream.create_stream(config).await.map_err(failed)?;
        }
        let (mut taking, parts) = (Taking::none(), spread.parts(false));
        let fetched = (FETCHED / parts.len().max(1)).max(LEAST_FETCHED);
        for (part, context) in parts.iter().zip(contexts.iter().cycle()) {
            let consumer = open(context, part).await?;
            let messages = consumer.stream().max_messages_per_batch(fetched).messages().await;
            let messages = messages.map_err(failed)?;
            taking.add(|received| take(messages, received));
        }
        let ready = began.elapsed();
        let context = ContextBuilder::new().timeout(SETTLE).max_ack_inflight(IN_FLIGHT + 1);
        let context = context.build(connect(&self.url).await?);
        let began = Instant::now();
        let published = publish(&context, spread, Amount::Time(duration)).await?;
        taking.wait_all(published).await?;
        Ok(Sums { published, taken: began.elapsed(), ready })
    }
}

async fn open(context: &jetstream::Context, part: &Part) -> Result<super::PullConsumer, Failure> {
    let config = pull::Config {
        ack_policy: AckPolicy::None,
        filter_subject: part.filter.clone().unwrap_or_default(),
        inactive_threshold: SETTLE,
        // As it is fastest; ours are kept.
        memory_storage: true,
        ..Default::default()
    };
    let stream = stream_name(part.stream);
    context.create_consumer_on_stream(config, stream).await.map_err(failed)
}

async fn take(mut messages: pull::Stream, received: Arc<AtomicU64>) -> Result<(), Failure> {
    while let Some(message) = messages.next().await {
        message.map_err(failed)?;
        received.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Publishes with as many messages in flight as may be, and waits for all to be acknowledged.
async fn publish(
    context: &jetstream::Context,
    spread: &Spread,
    amount: Amount,
) -> Result<u64, Failure> {
    let (payloads, began) = (spread.payloads(), Instant::now());
    let (mut subject, mut done) = (String::new(), 0);
    let mut in_flight: VecDeque<PublishAckFuture> = VecDeque::with_capacity(IN_FLIGHT);
    while !amount.is_reached(done, began) {
        if in_flight.len() == IN_FLIGHT
            && let Some(oldest) = in_flight.pop_front()
        {
            oldest.into_future().await.map_err(failed)?;
        }
        spread.subject(done, &mut subject);
        let ack = context.publish(subject.clone(), payloads.get(done)).await;
        in_flight.push_back(ack.map_err(failed)?);
        done += 1;
    }
    for ack in in_flight {
        ack.into_future().await.map_err(failed)?;
    }
    Ok(done)
}
