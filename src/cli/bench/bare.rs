//! What the machine itself allows: a bare write and sync, and bare QUIC, without a broker.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quinn::{AckFrequencyConfig, EndpointConfig, MtuDiscoveryConfig, TransportConfig, VarInt};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::sample::{Latencies, Latency};
use crate::cli::exit::{Exit, Failure};

/// Bytes of one write.
const BLOCK: usize = 4096;
/// Bytes of the file that is overwritten.
const FILE: usize = 16 << 20;
/// Bytes of a question and of its answer.
const QUESTION: usize = 128;

/// Bytes handed to QUIC at a time.
const PIECE: usize = 64 << 10;
/// Unread bytes of a stream, as between the broker and its clients.
const WINDOW: u32 = 2 << 20;
/// Datagram size on the loopback interface, as between the broker and its clients.
const MTU: u16 = 6500;

/// What the peer does before it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    Nothing,
    /// It overwrites a block and syncs it: the least that a server does which loses nothing.
    Sync,
}

impl Before {
    /// A byte of which questions consist.
    fn byte(self) -> u8 {
        match self {
            Self::Nothing => b'q',
            Self::Sync => b's',
        }
    }
}
/// A file that was filled with zeros, to be overwritten block by block.
struct Blocks {
    file: File,
    next: u64,
}

impl Blocks {
    /// The file has no name by which it could be left behind.
    fn create(folder: &Path) -> std::io::Result<Self> {
        let path = folder.join(format!("claudebus-bench-{:016x}.sync", rand::random::<u64>()));
        let mut file = File::create_new(&path)?;
        std::fs::remove_file(&path)?;
        file.write_all(&vec![0; FILE])?;
        file.sync_all()?;
        Ok(Self { file, next: 0 })
    }

    /// Overwrites the next block, and syncs it.
    fn overwrite(&mut self) -> std::io::Result<()> {
        self.file.seek(SeekFrom::Start(self.next * BLOCK as u64 % FILE as u64))?;
        self.next += 1;
        self.file.write_all(&[0x5a; BLOCK])?;
        self.file.sync_data()
    }
}

/// How long it takes to overwrite a block of a file that was filled with zeros, and to sync it.
pub(super) fn sync(folder: &Path, count: u64) -> Result<Latency, Failure> {
    let mut blocks = Blocks::create(folder)?;
    let mut latencies = Latencies::new()?;
    for _ in 0..count {
        let began = Instant::now();
        blocks.overwrite()?;
        latencies.add(began.elapsed());
    }
    Latencies::merge(vec![latencies])
}

/// Bare QUIC on loopback between two threads, with the settings that the broker and its clients use.
pub(super) struct BareQuic {
    endpoint: quinn::Endpoint,
    server: SocketAddr,
    config: quinn::ClientConfig,
    /// What the peer overwrites.
    #[cfg(test)]
    blocks: Arc<Mutex<Blocks>>,
}

impl BareQuic {
    /// Starts a peer that answers, on a thread of its own. What it syncs lies in `folder`.
    pub(super) fn start(folder: &Path) -> Result<Self, Failure> {
        let blocks = Arc::new(Mutex::new(Blocks::create(folder)?));
        let overwritten = Arc::clone(&blocks);
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]);
        let made = made.map_err(failed)?;
        let certificate = CertificateDer::from(made.cert);
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(server_tls(&certificate, key)?));
        server.transport_config(transport());
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async move {
                let Ok(endpoint) = endpoint(Some(server)) else { return };
                if tell.send(endpoint.local_addr()).is_ok() {
                    answer(endpoint, &overwritten).await;
                }
            });
        });
        let server = told.recv().map_err(|_| failed("the bare QUIC server did not start"))??;
        let mut config = quinn::ClientConfig::new(Arc::new(client_tls(certificate)?));
        config.transport_config(transport());
        let endpoint = endpoint(None)?;
        Ok(Self {
            endpoint,
            server,
            config,
            #[cfg(test)]
            blocks,
        })
    }

    async fn connect(&self) -> Result<quinn::Connection, Failure> {
        let config = self.config.clone();
        let connecting = self.endpoint.connect_with(config, self.server, "localhost");
        connecting.map_err(failed)?.await.map_err(failed)
    }

    /// How long a question and its answer take, one at a time.
    pub(super) async fn round_trip(&self, count: u64, before: Before) -> Result<Latency, Failure> {
        let connection = self.connect().await?;
        let (mut to, mut from) = connection.open_bi().await.map_err(failed)?;
        let mut latencies = Latencies::new()?;
        let mut buffer = [before.byte(); QUESTION];
        for _ in 0..count {
            let began = Instant::now();
            to.write_all(&buffer).await.map_err(failed)?;
            from.read_exact(&mut buffer).await.map_err(failed)?;
            latencies.add(began.elapsed());
        }
        Latencies::merge(vec![latencies])
    }

    /// Bytes a second in one direction.
    pub(super) async fn throughput(&self, time: Duration) -> Result<f64, Failure> {
        let connection = self.connect().await?;
        let mut to = connection.open_uni().await.map_err(failed)?;
        let piece = vec![0x5a; PIECE];
        let (began, mut sent) = (Instant::now(), 0);
        while began.elapsed() < time {
            to.write_all(&piece).await.map_err(failed)?;
            sent += PIECE;
        }
        to.finish().map_err(failed)?;
        // The peer has all of it when it says so.
        to.stopped().await.map_err(failed)?;
        Ok(sent as f64 / began.elapsed().as_secs_f64())
    }
}

/// Sends back what comes on two-way streams, and swallows what comes on others.
async fn answer(endpoint: quinn::Endpoint, blocks: &Arc<Mutex<Blocks>>) {
    while let Some(incoming) = endpoint.accept().await {
        let Ok(connection) = incoming.await else { continue };
        let (other, blocks) = (connection.clone(), Arc::clone(blocks));
        tokio::spawn(async move {
            while let Ok((mut to, mut from)) = connection.accept_bi().await {
                let mut buffer = [0; QUESTION];
                while from.read_exact(&mut buffer).await.is_ok() {
                    // Nobody else is served by this thread.
                    if buffer.first() == Some(&Before::Sync.byte())
                        && !blocks.lock().is_ok_and(|mut blocks| blocks.overwrite().is_ok())
                    {
                        break;
                    }
                    if to.write_all(&buffer).await.is_err() {
                        break;
                    }
                }
            }
        });
        tokio::spawn(async move {
            while let Ok(mut from) = other.accept_uni().await {
                while let Ok(Some(_)) = from.read_chunk(PIECE, true).await {}
            }
        });
    }
}

fn endpoint(server: Option<quinn::ServerConfig>) -> std::io::Result<quinn::Endpoint> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let sized = socket2::SockRef::from(&socket);
    // Small buffers cost speed, not correctness.
    let _ = sized.set_recv_buffer_size(4 << 20);
    let _ = sized.set_send_buffer_size(4 << 20);
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(MTU).map_err(std::io::Error::other)?;
    quinn::Endpoint::new(config, server, socket, Arc::new(quinn::TokioRuntime))
}

fn transport() -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MTU);
    let mut congestion = quinn::congestion::CubicConfig::default();
    congestion.initial_window(1 << 20);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(20));
    config
        .stream_receive_window(VarInt::from_u32(WINDOW))
        .send_fairness(false)
        .initial_mtu(MTU)
        .mtu_discovery_config(Some(mtu))
        .initial_rtt(Duration::from_millis(10))
        .ack_frequency_config(Some(acks))
        .congestion_controller_factory(Arc::new(congestion));
    Arc::new(config)
}

fn server_tls(
    certificate: &CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
) -> Result<quinn::crypto::rustls::QuicServerConfig, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(failed)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .map_err(failed)?;
    config.try_into().map_err(failed)
}

fn client_tls(
    certificate: CertificateDer<'static>,
) -> Result<quinn::crypto::rustls::QuicClientConfig, Failure> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).map_err(failed)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(failed)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.try_into().map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_syncs_answers_and_carries() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(sync(dir.path(), 3).expect("a latency").p50 > 0);
        let quic = BareQuic::start(dir.path()).expect("a peer");
        for (before, written) in [(Before::Nothing, 0), (Before::Sync, 10)] {
            assert!(quic.round_trip(10, before).await.expect("answers").p50 > 0);
            assert_eq!(quic.blocks.lock().expect("no panic").next, written);
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0);
        let carried = quic.throughput(Duration::from_millis(50)).await;
        assert!(carried.expect("bytes") > 0.0);
    }
}
