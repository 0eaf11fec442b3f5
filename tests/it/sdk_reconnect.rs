//! The SDK over connections that break: nothing is lost, nothing is stored twice.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use claudebus::client::{
    AckPolicy, Client, ClientBuilder, ConnectionEvent, ConsumerConfig, Events, RequestError,
    StreamConfig,
};
use claudebus::server::{RunningServer, Server};
use tokio::net::UdpSocket;

/// Longer than anything here takes on the slowest machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A network between clients and server that can be cut.
struct Network {
    address: SocketAddr,
    cut: Arc<AtomicBool>,
}

impl Network {
    async fn before(server: SocketAddr) -> Self {
        let outside = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        let address = outside.local_addr().unwrap();
        let cut = Arc::new(AtomicBool::new(false));
        tokio::spawn(forward(outside, server, Arc::clone(&cut)));
        Self { address, cut }
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    fn heal(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

async fn forward(outside: Arc<UdpSocket>, server: SocketAddr, cut: Arc<AtomicBool>) {
    let mut inside = HashMap::<SocketAddr, Arc<UdpSocket>>::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let (len, client) = outside.recv_from(&mut buffer).await.unwrap();
        if cut.load(Ordering::SeqCst) {
            continue;
        }
        if let Entry::Vacant(entry) = inside.entry(client) {
            let socket = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
            socket.connect(server).await.unwrap();
            let back = (Arc::clone(&socket), Arc::clone(&outside), Arc::clone(&cut));
            tokio::spawn(async move {
                let (socket, outside, cut) = back;
                let mut buffer = vec![0; 65_536];
                while let Ok(len) = socket.recv(&mut buffer).await {
                    if !cut.load(Ordering::SeqCst) {
                        let _ = outside.send_to(&buffer[..len], client).await;
                    }
                }
            });
            entry.insert(socket);
        }
        let _ = inside[&client].send(&buffer[..len]).await;
    }
}

fn builder(address: SocketAddr, server: &RunningServer) -> ClientBuilder {
    Client::builder()
        .url(format!("quic://{address}"))
        .fingerprint(server.fingerprint().expect("it has a certificate").to_string())
        .idle_timeout(Duration::from_millis(600))
        .connect_timeout(Duration::from_millis(600))
}

async fn orders(client: &Client) {
    let config = StreamConfig {
        name: "ORDERS".into(),
        subjects: vec!["orders.>".into()],
        ..StreamConfig::default()
    };
    client.create_stream(config).await.unwrap();
}

async fn wait_for(events: &mut Events, wanted: fn(&ConnectionEvent) -> bool) {
    let wait = async {
        loop {
            let event = events.next().await.expect("the client is not closed");
            if wanted(&event) {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("the event comes");
}

fn lost(event: &ConnectionEvent) -> bool {
    matches!(event, ConnectionEvent::Disconnected { .. })
}

fn back(event: &ConnectionEvent) -> bool {
    matches!(event, ConnectionEvent::Reconnected { .. })
}

/// Publishes numbers, many in flight at any time, until told to stop; tells how many it will have
/// been before the last, how many are known to be stored, and all their sequences.
async fn publish_until(
    client: Client,
    stop: Arc<AtomicBool>,
    total: Arc<AtomicU64>,
    stored: Arc<AtomicU64>,
) -> BTreeSet<u64> {
    let publisher = client.publisher();
    let mut tickets = VecDeque::new();
    let mut sequences = BTreeSet::new();
    for number in 0.. {
        let last = stop.load(Ordering::SeqCst);
        if last {
            total.store(number + 1, Ordering::SeqCst);
        }
        tickets.push_back(publisher.publish("orders.new", number.to_string()).await.unwrap());
        if tickets.len() > 1000 {
            sequences.insert(tickets.pop_front().unwrap().await.unwrap().seq);
            stored.fetch_add(1, Ordering::SeqCst);
        }
        if last {
            break;
        }
    }
    for ticket in tickets {
        sequences.insert(ticket.await.unwrap().seq);
    }
    sequences
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_network_loses_nothing_and_doubles_nothing() {
    let server = Server::builder().quic_on_free_port().start().await.unwrap();
    let network = Network::before(server.quic_address().unwrap()).await;
    let client = builder(network.address, &server).connect().await.unwrap();
    let mut events = client.events();
    orders(&client).await;
    let consumer = client
        .create_consumer(
            "ORDERS",
            ConsumerConfig {
                durable_name: Some("billing".into()),
                ack_policy: AckPolicy::Explicit,
                ack_wait: Duration::from_secs(2),
                ..ConsumerConfig::default()
            },
        )
        .await
        .unwrap();
    let mut heard = client.subscribe("noise").await.unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let total = Arc::new(AtomicU64::new(u64::MAX));
    let stored = Arc::new(AtomicU64::new(0));
    let publishing = tokio::spawn(publish_until(
        client.clone(),
        Arc::clone(&stop),
        Arc::clone(&total),
        Arc::clone(&stored),
    ));
    let consuming = tokio::spawn({
        let total = Arc::clone(&total);
        async move {
            let mut messages = consumer.messages();
            let mut seen = BTreeSet::new();
            while (seen.len() as u64) < total.load(Ordering::SeqCst) {
                let delivery = messages.next().await.unwrap().unwrap();
                let number: u64 =
                    std::str::from_utf8(&delivery.payload()).unwrap().parse().unwrap();
                assert_eq!(delivery.seq(), number + 1, "stored in order, once");
                seen.insert(number);
                delivery.ack().await.unwrap();
            }
        }
    });
    for _ in 0..2 {
        // Only once messages flow again is there something in flight to lose.
        let before = stored.load(Ordering::SeqCst);
        let flows = async {
            while stored.load(Ordering::SeqCst) < before + 3000 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, flows).await.expect("messages flow");
        network.cut();
        wait_for(&mut events, lost).await;
        network.heal();
        wait_for(&mut events, back).await;
    }
    stop.store(true, Ordering::SeqCst);
    let sequences = tokio::time::timeout(LIMIT, publishing).await.expect("in time").unwrap();
    let total = total.load(Ordering::SeqCst);
    assert_eq!(sequences.len() as u64, total, "each has a sequence of its own");
    tokio::time::timeout(LIMIT, consuming).await.expect("in time").unwrap();
    let state = client.stream_info("ORDERS").await.unwrap().state;
    assert_eq!((state.messages, state.last_seq), (total, total));
    client.send("noise", "still here").await.unwrap();
    assert_eq!(heard.next().await.unwrap().payload(), "still here");
}

#[tokio::test]
async fn a_restarted_server_is_found_again_with_everything_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let start = |port| {
        Server::builder()
            .data_directory(dir.path())
            .quic((Ipv4Addr::LOCALHOST, port).into())
            .start()
    };
    let server = start(0).await.unwrap();
    let address = server.quic_address().unwrap();
    let client = builder(address, &server).connect().await.unwrap();
    let mut events = client.events();
    orders(&client).await;
    let consumer = client
        .create_consumer(
            "ORDERS",
            ConsumerConfig {
                durable_name: Some("billing".into()),
                ack_policy: AckPolicy::Explicit,
                ..ConsumerConfig::default()
            },
        )
        .await
        .unwrap();
    let mut messages = consumer.messages();
    let publisher = client.publisher();
    publisher.publish("orders.new", "before").await.unwrap().await.unwrap();
    let first = messages.next().await.unwrap().unwrap();
    first.ack_confirmed().await.unwrap();

    server.shutdown().await.unwrap();
    wait_for(&mut events, lost).await;
    let meanwhile = publisher.publish("orders.new", "meanwhile").await.unwrap();
    let asked = tokio::spawn({
        let client = client.clone();
        async move { client.stream_info("ORDERS").await }
    });
    let _server = start(address.port()).await.unwrap();
    wait_for(&mut events, back).await;
    let ack = tokio::time::timeout(LIMIT, meanwhile).await.expect("in time").unwrap();
    assert_eq!((ack.seq, ack.duplicate), (2, false));
    assert_eq!(messages.next().await.unwrap().unwrap().payload(), "meanwhile");
    let info = asked.await.unwrap().expect("what only asks is asked again");
    assert_eq!(info.config.name, "ORDERS");
}

#[tokio::test]
async fn a_request_that_may_have_been_done_says_so() {
    let server = Server::builder().quic_on_free_port().start().await.unwrap();
    let network = Network::before(server.quic_address().unwrap()).await;
    let client = builder(network.address, &server).connect().await.unwrap();
    orders(&client).await;
    network.cut();
    let error = client.delete_stream("ORDERS").await.unwrap_err();
    assert!(matches!(error, RequestError::Disconnected { .. }), "{error}");
    assert!(error.is_retryable());
    network.heal();
}

#[tokio::test]
async fn a_client_that_may_not_try_for_ever_closes() {
    let server = Server::builder().quic_on_free_port().start().await.unwrap();
    let policy = claudebus::client::ReconnectPolicy {
        attempts: Some(2),
        first: Duration::from_millis(1),
        ..Default::default()
    };
    let client = builder(server.quic_address().unwrap(), &server)
        .reconnect(policy)
        .connect_timeout(Duration::from_millis(50))
        .connect()
        .await
        .unwrap();
    let mut events = client.events();
    let publisher = client.publisher();
    server.shutdown().await.unwrap();
    wait_for(&mut events, |event| matches!(event, ConnectionEvent::Closed { .. })).await;
    assert!(publisher.publish("orders.new", "x").await.is_err());
}
