//! How a server starts again and stops, and what it tells about itself.

use std::time::Duration;

use claudebus::client::LocalServer;
use claudebus::client::transport::Transport;
use claudebus::model::request::ProducerId;
use claudebus::server::{Ready, RunningServer, Server, ServerBuilder, StartError, Stopped};
use claudebus::wire::native::{ClientFrame, PullFrame, ServerFrame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::raw::{Control, Frames, LIMIT, connect};

async fn start(builder: ServerBuilder) -> RunningServer {
    builder.quic_on_free_port().start().await.expect("the server starts")
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = start(Server::builder().data_directory(&data)).await;
    let fingerprint = server.fingerprint();
    let transport = Transport::Quic(connect(&server).await);
    let mut control = Control::greet(&transport).await;
    control.request("STREAM.CREATE.ORDERS", r#"{"subjects":["orders.>"]}"#).await.unwrap();
    let mut publisher = Frames::open(&transport).await;
    publisher.send(&ClientFrame::OpenPublisher { producer: ProducerId(1) }).await;
    publisher.publish(1, &[("orders.a", "one"), ("orders.b", "two")]).await;
    while !matches!(publisher.next().await, ServerFrame::Published { .. }) {}
    assert_eq!(server.shutdown().await.unwrap(), Stopped::Clean);

    let server = start(Server::builder().data_directory(&data)).await;
    assert_eq!(server.fingerprint(), fingerprint);
    let transport = Transport::Quic(connect(&server).await);
    let mut control = Control::greet(&transport).await;
    let info = control.request("STREAM.INFO.ORDERS", "").await.unwrap();
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["state"]["messages"], 2, "{info}");
    let mut publisher = Frames::open(&transport).await;
    publisher.send(&ClientFrame::OpenPublisher { producer: ProducerId(1) }).await;
    publisher.publish(1, &[("orders.a", "one"), ("orders.b", "two")]).await;
    loop {
        if let ServerFrame::Published { ranges, .. } = publisher.next().await {
            assert!(ranges[0].duplicate && ranges[0].seq == 1 && ranges[0].count == 2);
            break;
        }
    }
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_directory_in_use_is_refused_and_free_after_a_failed_start() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(Server::builder().data_directory(dir.path())).await;
    let error = Server::builder().data_directory(dir.path()).start().await.unwrap_err();
    assert!(matches!(error, StartError::Directory(_)), "{error}");
    let taken = server.quic_address().unwrap();
    let other = tempfile::tempdir().unwrap();
    let error = Server::builder().data_directory(other.path()).quic(taken).start().await;
    let error = error.unwrap_err();
    assert!(matches!(error, StartError::Bind { what: "QUIC", .. }), "{error}");
    start(Server::builder().data_directory(other.path())).await.shutdown().await.unwrap();
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_clean_stop_tells_waiting_pulls_and_every_stream() {
    let server = start(Server::builder()).await;
    let transport = Transport::Quic(connect(&server).await);
    let mut control = Control::greet(&transport).await;
    control.request("STREAM.CREATE.ORDERS", r#"{"subjects":["orders.>"]}"#).await.unwrap();
    control.request("CONSUMER.CREATE.ORDERS.bill", r#"{"config":{}}"#).await.unwrap();
    let mut consumer = Frames::open(&transport).await;
    let open = ClientFrame::OpenConsumer { stream: "ORDERS".into(), consumer: "bill".into() };
    consumer.send(&open).await;
    let expires = Some(Duration::from_secs(60));
    let pull = PullFrame { token: 3, batch: 1, expires, ..PullFrame::default() };
    consumer.send(&ClientFrame::Pull(pull)).await;
    assert_eq!(consumer.next().await, ServerFrame::ConsumerReady);
    // Answered after the pull is known, as both come in order on the broker's thread.
    while !control
        .request("CONSUMER.INFO.ORDERS.bill", "")
        .await
        .unwrap()
        .contains("num_waiting\":1")
    {}
    let stopping = tokio::spawn(server.shutdown());
    let ServerFrame::Status(status) = consumer.next().await else { panic!("no STATUS") };
    assert_eq!((status.token, status.status.code), (3, 409));
    assert_eq!(status.status.text, "Server Shutdown");
    for frames in [&mut consumer, &mut control.frames] {
        let ServerFrame::Refused(error) = frames.next().await else { panic!("no REFUSED") };
        assert_eq!(error.err_code, 20009);
        assert_eq!(frames.try_next().await, None);
    }
    let stopped = tokio::time::timeout(LIMIT, stopping).await.expect("stopped in time");
    assert_eq!(stopped.unwrap().unwrap(), Stopped::Clean);
}

async fn http(server: &RunningServer, path: &str, host: &str) -> String {
    let address = server.http_address().unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_server_tells_how_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (ready, context) = (dir.path().join("ready.json"), dir.path().join("context.json"));
    let server = Server::builder()
        .data_directory(dir.path().join("data"))
        .quic_on_free_port()
        .http("127.0.0.1:0".parse().unwrap())
        .http_host("bus.example")
        .ready_file(&ready)
        .context_file(&context)
        .start()
        .await
        .unwrap();
    let told: Ready = serde_json::from_slice(&std::fs::read(&ready).unwrap()).unwrap();
    assert_eq!(told.quic, server.quic_address());
    assert_ne!(told.quic.unwrap().port(), 0);
    assert!(told.ca.unwrap().is_file());
    let local = LocalServer::read(context.clone()).unwrap().unwrap();
    assert_eq!(local.url, format!("quic://{}", server.quic_address().unwrap()));

    let health = http(&server, "/healthz", "localhost:1").await;
    assert!(health.starts_with("HTTP/1.1 200") && health.ends_with("ok\n"), "{health}");
    assert!(http(&server, "/healthz", "BUS.example").await.starts_with("HTTP/1.1 200"));
    assert!(http(&server, "/healthz", "evil.example").await.starts_with("HTTP/1.1 403"));
    let transport = server.connect();
    let _control = Control::greet(&transport).await;
    let stats = http(&server, "/stats", "127.0.0.1").await;
    let body = stats.split("\r\n\r\n").nth(1).unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["connections"], 1, "{body}");
    assert_eq!(body["durability"], "sync");
    server.shutdown().await.unwrap();
    assert!(!context.exists() && !ready.exists());
}
