//! Messages that cannot be compressed, published as fast as they are taken.

use std::error::Error;
use std::time::{Duration, Instant};

use claudebus::client::{Client, Publisher};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

/// Random bytes that payloads are slices of. 16 MiB: far more than a block, so that no block holds
/// the same bytes twice.
const POOL: usize = 16 << 20;
/// Publishes between two looks at the clock.
const BATCH: u64 = 1_000;
/// Time without progress after which a broker counts as full.
const STALLED: Duration = Duration::from_secs(2);

/// Makes messages of 128 bytes to 4 KiB: nine of ten are small, as events are.
#[derive(Debug)]
pub struct Load {
    pool: Vec<u8>,
    random: SmallRng,
    subjects: u64,
    /// Messages made.
    pub messages: u64,
    /// Their payload bytes.
    pub bytes: u64,
}

impl Load {
    /// Messages under so many subjects below `large.`.
    pub fn new(subjects: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(7);
        let mut pool = vec![0; POOL];
        random.fill(&mut pool[..]);
        Self { pool, random, subjects, messages: 0, bytes: 0 }
    }

    fn next(&mut self) -> (String, &[u8]) {
        let len = match self.random.random_range(0..10) {
            0 => self.random.random_range(640..=4096),
            _ => self.random.random_range(128..640),
        };
        let at = self.random.random_range(0..POOL - len);
        let subject = format!("large.{}", self.messages % self.subjects.max(1));
        self.messages += 1;
        self.bytes += len as u64;
        (subject, &self.pool[at..at + len])
    }

    async fn publish(&mut self, publisher: &Publisher, count: u64) -> Result<(), Box<dyn Error>> {
        for _ in 0..count {
            let (subject, payload) = self.next();
            // Failures are told by the flush.
            drop(publisher.publish(subject, payload).await?);
        }
        Ok(())
    }

    /// Publishes until so much was stored.
    pub async fn fill(
        &mut self,
        client: &Client,
        messages: u64,
        bytes: u64,
    ) -> Result<(), Box<dyn Error>> {
        let (publisher, began) = (client.publisher(), Instant::now());
        let mut said = 0;
        while self.messages < messages || self.bytes < bytes {
            self.publish(&publisher, BATCH).await?;
            if self.bytes / 1_000_000_000 > said {
                said = self.bytes / 1_000_000_000;
                println!("  {said} GB, {} messages, {:?}", self.messages, began.elapsed());
            }
        }
        publisher.flush().await?;
        Ok(())
    }

    /// Publishes until nothing more is taken. Returns how many bytes were.
    pub async fn until_stalled(&mut self, client: &Client) -> Result<u64, Box<dyn Error>> {
        let (publisher, before) = (client.publisher(), self.bytes);
        while let Ok(done) = tokio::time::timeout(STALLED, self.publish(&publisher, BATCH)).await {
            done?;
        }
        Ok(self.bytes - before)
    }
}
