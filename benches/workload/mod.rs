//! Records as benches write them, the same in every run.

use claudebus_storage::{NewRecord, Record, StreamId};

/// The stream of all records here.
pub(crate) const STREAM: StreamId = StreamId(1);

/// Numbers that look random (xorshift64*), from a seed.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.next() as usize % of.len()]
    }
}

/// What the payloads are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Payload {
    /// An order event of about 600 bytes, as services write them.
    Json,
    /// This many bytes that no compression shrinks.
    Random(usize),
}

/// Records 1 to `count`, on a hundred subjects, a microsecond apart.
pub(crate) fn records(payload: Payload, count: u64) -> Vec<Record> {
    let mut numbers = Numbers::new(42);
    (1..=count)
        .map(|seq| {
            let body = match payload {
                Payload::Json => json(seq, &mut numbers).into_bytes(),
                Payload::Random(length) => (0..length.div_ceil(8))
                    .flat_map(|_| numbers.next().to_le_bytes())
                    .take(length)
                    .collect(),
            };
            let new = NewRecord {
                subject: &format!("orders.{:02}.placed", numbers.next() % 100),
                headers: b"",
                payload: &body,
                time: 1_750_000_000_000_000_000 + seq * 1000,
                expires: None,
                message_id: None,
            };
            Record::copy_of(seq, &new)
        })
        .collect()
}

fn json(seq: u64, numbers: &mut Numbers) -> String {
    let mut items = String::new();
    for number in 0..1 + numbers.next() % 3 {
        if number > 0 {
            items.push(',');
        }
        items.push_str(&format!(
            r#"{{"sku":"SKU-{:05}","quantity":{},"unit_price":{{"amount":"{}.{:02}","currency":"EUR"}}}}"#,
            numbers.next() % 20_000,
            1 + numbers.next() % 4,
            numbers.next() % 300,
            numbers.next() % 100,
        ));
    }
    format!(
        concat!(
            r#"{{"specversion":"1.0","id":"{:016x}","source":"/shop/checkout","type":"com.example.order.placed","#,
            r#""time":"2026-03-14T09:{:02}:{:02}.{:06}Z","datacontenttype":"application/json","data":{{"order_id":{},"#,
            r#""customer":{{"id":{},"country":"{}","tier":"{}"}},"status":"{}","payment":{{"method":"{}","#,
            r#""authorised":true}},"items":[{}]}}}}"#
        ),
        numbers.next(),
        numbers.next() % 60,
        numbers.next() % 60,
        numbers.next() % 1_000_000,
        seq,
        numbers.next() % 50_000,
        numbers.pick(&["DE", "FR", "NL", "PL", "ES", "IT"]),
        numbers.pick(&["standard", "silver", "gold"]),
        numbers.pick(&["placed", "paid", "shipped"]),
        numbers.pick(&["card", "paypal", "invoice"]),
        items,
    )
}

/// Subjects and payloads together, in bytes.
pub(crate) fn bytes(records: &[Record]) -> u64 {
    records.iter().map(|record| record.data().len() as u64).sum()
}
