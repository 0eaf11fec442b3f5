//! A client of bare frames: what the protocol document describes, without the SDK.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use claudebus::client::transport::{Reader, Transport, Writer};
use claudebus::server::RunningServer;
use claudebus::wire::native::{
    ALPN, ClientFrame, Decoder, Hello, MessagesWriter, Output, ServerFrame, Welcome,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::AsyncReadExt;

/// How long anything may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A connection that trusts the server's authority.
pub(crate) async fn connect(server: &RunningServer) -> quinn::Connection {
    let address = server.quic_address().expect("the server listens for QUIC");
    connect_to(address, server.authority_pem().expect("it has an authority"), ALPN)
        .await
        .expect("a connection")
}

pub(crate) async fn connect_to(
    address: SocketAddr,
    authority_pem: &str,
    alpn: &[u8],
) -> Result<quinn::Connection, quinn::ConnectionError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(tls));
    endpoint.connect_with(config, address, "localhost").unwrap().await
}

/// One stream of frames.
pub(crate) struct Frames {
    reader: Reader,
    writer: Writer,
    decoder: Decoder,
}

impl Frames {
    pub(crate) async fn open(transport: &Transport) -> Self {
        let (reader, writer) = transport.open().await.expect("a stream");
        Self { reader, writer, decoder: Decoder::new(2 << 20) }
    }

    pub(crate) async fn send(&mut self, frame: &ClientFrame) {
        let mut out = Output::new();
        frame.encode(&mut out);
        self.send_output(&mut out).await;
    }

    pub(crate) async fn send_output(&mut self, out: &mut Output) {
        for chunk in out.take() {
            self.send_bytes(chunk).await;
        }
    }

    pub(crate) async fn send_bytes(&mut self, bytes: Bytes) {
        self.writer.write_bytes(bytes).await.expect("the stream takes bytes");
    }

    pub(crate) async fn publish(&mut self, first: u64, messages: &[(&str, &str)]) {
        let mut writer = MessagesWriter::new();
        for (subject, payload) in messages {
            writer.push(subject, "", b"", payload.as_bytes());
        }
        let mut out = Output::new();
        writer.numbered(first).encode(&mut out);
        self.send_output(&mut out).await;
    }

    /// The next frame, or nothing if the server finished the stream.
    pub(crate) async fn try_next(&mut self) -> Option<ServerFrame> {
        tokio::time::timeout(LIMIT, async {
            loop {
                if let Some(frame) = self.decoder.next_frame().expect("well formed") {
                    return Some(ServerFrame::decode(frame).expect("well formed"));
                }
                match self.reader.read_buf(self.decoder.buffer()).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                }
            }
        })
        .await
        .expect("an answer in time")
    }

    pub(crate) async fn next(&mut self) -> ServerFrame {
        self.try_next().await.expect("a frame")
    }

    pub(crate) async fn finish(&mut self) {
        self.writer.finish().await;
    }
}

/// The control stream after the greeting.
pub(crate) struct Control {
    pub(crate) frames: Frames,
    pub(crate) welcome: Welcome,
    next_id: u64,
}

pub(crate) fn hello(token: Option<&str>) -> ClientFrame {
    ClientFrame::Hello(Hello {
        minor: 0,
        name: "test".into(),
        version: "1".into(),
        token: token.map(Into::into),
    })
}

impl Control {
    pub(crate) async fn greet(transport: &Transport) -> Self {
        let mut frames = Frames::open(transport).await;
        frames.send(&hello(None)).await;
        let ServerFrame::Welcome(welcome) = frames.next().await else { panic!("no WELCOME") };
        Self { frames, welcome, next_id: 1 }
    }

    /// A request's answer; an error as its body.
    pub(crate) async fn request(&mut self, operation: &str, body: &str) -> Result<String, String> {
        let id = self.next_id;
        self.next_id += 1;
        let body = Bytes::copy_from_slice(body.as_bytes());
        let operation = operation.to_owned();
        self.frames.send(&ClientFrame::Request { id, operation, body }).await;
        let mut text = String::new();
        loop {
            match self.frames.next().await {
                ServerFrame::Response { id: answered, ok, more, body } => {
                    assert_eq!(answered, id);
                    text.push_str(std::str::from_utf8(&body).unwrap());
                    if !more {
                        return if ok { Ok(text) } else { Err(text) };
                    }
                }
                other => panic!("not an answer: {other:?}"),
            }
        }
    }
}
