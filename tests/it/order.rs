//! Order by key and by priority, through the real binary and the SDK.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use claudebus::client::{AckPolicy, Client, ConsumerConfig, StreamConfig};
use claudebus::server::Server;

use crate::serving::Serving;

#[tokio::test(flavor = "multi_thread")]
async fn many_workers_keep_the_order_of_each_key() {
    let server = Server::builder().start().await.unwrap();
    let client = Client::builder().connect_over(server.connect()).await.unwrap();
    let stream =
        StreamConfig { name: "S".into(), subjects: vec!["s.>".into()], ..Default::default() };
    client.create_stream(stream).await.unwrap();
    let publisher = client.publisher();
    for n in 0..1000 {
        drop(publisher.publish(format!("s.{}", n % 7), n.to_string()).await.unwrap());
    }
    publisher.flush().await.unwrap();
    let config = ConsumerConfig {
        durable_name: Some("c".into()),
        name: Some("c".into()),
        ack_policy: AckPolicy::Explicit,
        order_by: Some("subject".into()),
        ..Default::default()
    };
    client.create_consumer("S", config).await.unwrap();
    let busy: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let seen: Arc<Mutex<BTreeMap<String, Vec<u64>>>> = Arc::default();
    let workers: Vec<_> = (0..5)
        .map(|_| {
            let (client, busy, seen) = (client.clone(), Arc::clone(&busy), Arc::clone(&seen));
            tokio::spawn(async move {
                let consumer = client.consumer("S", "c").await.unwrap();
                loop {
                    let fetch = consumer.fetch(3).expires(Duration::from_millis(500));
                    let deliveries = fetch.await.unwrap();
                    if deliveries.is_empty() {
                        return;
                    }
                    for delivery in deliveries {
                        let key = delivery.subject().to_owned();
                        assert!(busy.lock().unwrap().insert(key.clone()), "{key} is at work twice");
                        tokio::task::yield_now().await;
                        seen.lock().unwrap().entry(key.clone()).or_default().push(delivery.seq());
                        busy.lock().unwrap().remove(&key);
                        delivery.ack().await.unwrap();
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(seen.values().map(Vec::len).sum::<usize>(), 1000);
    assert!(seen.values().all(|seqs| seqs.is_sorted()), "{seen:?}");
    server.shutdown().await.unwrap();
}

#[test]
fn the_urgent_ones_come_first_and_held_ones_survive_a_kill() {
    let mut server = Serving::start();
    server.ok(&["stream", "create", "S", "--subjects", "s.>"]);
    for (text, priority) in [("a", "0"), ("b", "9"), ("c", "5")] {
        server.ok(&["publish", "s.x", text, "-H", &format!("Claudebus-Priority: {priority}")]);
    }
    server.ok(&["consumer", "create", "S", "urgent", "--by-priority"]);
    server.ok(&["consumer", "create", "S", "ordered", "--order-by", "subject"]);
    let next = |server: &Serving, consumer: &str| {
        let next = ["consumer", "next", "S", consumer, "--format", "raw"];
        server.ok(&next)
    };
    assert_eq!(next(&server, "urgent"), "b\n");
    assert_eq!(next(&server, "ordered"), "a\n");
    server.signal("-KILL");
    server.ended();
    server.begin(&[], &[]);
    server.until_ready();
    assert_eq!(next(&server, "urgent"), "c\n");
    assert_eq!(next(&server, "urgent"), "a\n");
    assert_eq!(next(&server, "ordered"), "b\n");
    assert_eq!(next(&server, "ordered"), "c\n");
}
