//! Connecting over QUIC: sockets, transport settings, handshake.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::{EndpointConfig, MtuDiscoveryConfig, TransportConfig, VarInt};

use super::address::Address;
use super::error::ConnectError;
use super::tls::{self, Trust};
use super::transport::Transport;
use crate::wire::native::ALPN;

/// Datagram size on the loopback interface. With segmentation offload ten of them must fit the
/// 65,507 bytes of one send, so that nothing above 6,550 ever leaves.
const LOOPBACK_MTU: u16 = 6500;

/// Largest datagram over other networks: what an Ethernet frame carries.
const NETWORK_MTU: u16 = 1452;

/// Unread bytes of one stream. 2 MiB: more than rate times round trip at full speed, and few enough
/// pieces for quinn's limit of 1,024 gaps.
const STREAM_WINDOW: u32 = 2 << 20;

/// Unread bytes of a connection. 16 MiB: several streams at full window, and a bound on memory.
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Sent bytes that await acknowledgement by the peer's kernel. 8 MiB, as the publish window.
const SEND_WINDOW: u64 = 8 << 20;

/// What is asked of the kernel for each socket. 4 MiB: the default of 208 KiB holds fewer than a
/// hundred datagrams, and drops are invisible. The kernel may give less.
const SOCKET_BUFFER: usize = 4 << 20;

/// Settings that the user may change.
#[derive(Clone, Debug)]
pub(super) struct QuicOptions {
    pub(super) trust: Trust,
    pub(super) connect_timeout: Duration,
    pub(super) idle_timeout: Duration,
}

/// Connects to the first of the address's IP addresses that answers.
pub(super) async fn connect(
    address: &Address,
    options: &QuicOptions,
) -> Result<Transport, ConnectError> {
    let tls = tls::client_config(&options.trust, ALPN)?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    let resolved = resolve(address).await?;
    let loopback = resolved.iter().all(|ip| ip.ip().is_loopback());
    config.transport_config(Arc::new(transport(loopback, options.idle_timeout)));
    let mut failure = None;
    for socket in resolved {
        let attempt = connect_to(socket, address, config.clone(), loopback);
        let result = match tokio::time::timeout(options.connect_timeout, attempt).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::Timeout {
                address: address.to_string(),
                after: options.connect_timeout,
            }),
        };
        match result {
            Ok(transport) => return Ok(transport),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| ConnectError::Resolve {
        address: address.to_string(),
        reason: "the name has no IP address".to_owned(),
    }))
}

/// The IP addresses; IPv4 first, as servers on one machine bind to that.
async fn resolve(address: &Address) -> Result<Vec<SocketAddr>, ConnectError> {
    let found = tokio::net::lookup_host((address.host.as_str(), address.port)).await;
    let mut found: Vec<_> = found
        .map_err(|error| ConnectError::Resolve {
            address: address.to_string(),
            reason: error.to_string(),
        })?
        .collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    Ok(found)
}

async fn connect_to(
    to: SocketAddr,
    address: &Address,
    config: quinn::ClientConfig,
    loopback: bool,
) -> Result<Transport, ConnectError> {
    let socket_error = |source| ConnectError::Socket { address: address.to_string(), source };
    let endpoint = endpoint(to, loopback).map_err(socket_error)?;
    let failed = |reason: String| ConnectError::Handshake { address: address.to_string(), reason };
    let connecting = endpoint
        .connect_with(config, to, &address.host)
        .map_err(|error| failed(error.to_string()))?;
    let connection = connecting.await.map_err(|error| failed(error.to_string()))?;
    Ok(Transport::Quic(connection))
}

fn endpoint(to: SocketAddr, loopback: bool) -> io::Result<quinn::Endpoint> {
    let local: SocketAddr = match (to.is_ipv6(), loopback) {
        (false, true) => (Ipv4Addr::LOCALHOST, 0).into(),
        (false, false) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        (true, true) => (Ipv6Addr::LOCALHOST, 0).into(),
        (true, false) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(local),
        socket2::Type::DGRAM,
        Some(socket2::Protocol::UDP),
    )?;
    for (asked, set, got) in [
        ("receive", socket.set_recv_buffer_size(SOCKET_BUFFER), socket.recv_buffer_size()),
        ("send", socket.set_send_buffer_size(SOCKET_BUFFER), socket.send_buffer_size()),
    ] {
        // A small buffer costs speed, not correctness.
        if set.is_err() || got.as_ref().is_ok_and(|got| *got < SOCKET_BUFFER) {
            tracing::debug!(asked, wanted = SOCKET_BUFFER, ?got, "the kernel gave a small buffer");
        }
    }
    socket.bind(&local.into())?;
    socket.set_nonblocking(true)?;
    let mut config = EndpointConfig::default();
    let largest = if loopback { LOOPBACK_MTU } else { NETWORK_MTU + 20 };
    config.max_udp_payload_size(largest).map_err(io::Error::other)?;
    quinn::Endpoint::new(config, None, socket.into(), Arc::new(quinn::TokioRuntime))
}

/// Transport settings: bounded windows everywhere, large datagrams on loopback only.
fn transport(loopback: bool, idle: Duration) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        // The server opens no streams.
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .send_fairness(false)
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(idle / 3))
        .max_idle_timeout(idle.try_into().ok());
    let mut mtu = MtuDiscoveryConfig::default();
    if loopback {
        mtu.upper_bound(LOOPBACK_MTU);
        let mut congestion = quinn::congestion::CubicConfig::default();
        congestion.initial_window(1 << 20);
        let mut acks = quinn::AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(VarInt::from_u32(20));
        config
            .initial_mtu(LOOPBACK_MTU)
            .initial_rtt(Duration::from_millis(10))
            .ack_frequency_config(Some(acks))
            .congestion_controller_factory(Arc::new(congestion));
    } else {
        mtu.upper_bound(NETWORK_MTU);
    }
    config.mtu_discovery_config(Some(mtu));
    config
}
