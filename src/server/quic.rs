//! The QUIC endpoint: its socket, its transport settings, and how handshakes are bounded.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{EndpointConfig, MtuDiscoveryConfig, TransportConfig, VarInt};

use super::error::{StartError, TlsError};
use super::limits::ServerLimits;
use super::tls::Identity;

/// Datagram size on the loopback interface. With segmentation offload ten of them must fit the
/// 65,507 bytes of one send, so that nothing above 6,550 ever leaves.
const LOOPBACK_MTU: u16 = 6500;

/// Largest datagram over other networks: what an Ethernet frame carries.
const NETWORK_MTU: u16 = 1452;

/// What is asked of the kernel for the socket. 4 MiB: the default of 208 KiB holds fewer than a
/// hundred datagrams, and drops are invisible. The kernel may give less.
const SOCKET_BUFFER: usize = 4 << 20;

/// Bytes of a connection id: too many to be guessed, as few as quinn's own.
const ID_BYTES: usize = 8;

/// Bytes of one connection that is not accepted yet. 64 KiB: a client's first flight.
const INCOMING_BUFFER: u64 = 64 << 10;

/// Binds the endpoint.
pub(super) fn bind(
    address: SocketAddr,
    identity: &Identity,
    limits: &ServerLimits,
) -> Result<quinn::Endpoint, StartError> {
    let config = server_config(address, identity, limits)?;
    bind_socket(address, config, identity).map_err(|source| StartError::Bind {
        what: "QUIC",
        address,
        source,
    })
}

/// What a certificate that was made anew is set by.
pub(super) fn server_config(
    address: SocketAddr,
    identity: &Identity,
    limits: &ServerLimits,
) -> Result<quinn::ServerConfig, TlsError> {
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(identity.quic_config()?));
    config
        .transport_config(Arc::new(transport(address.ip().is_loopback(), limits)))
        // Nothing here needs it, and it lets a peer make the server send to others.
        .migration(false)
        .max_incoming(limits.max_handshakes)
        .incoming_buffer_size(INCOMING_BUFFER)
        .incoming_buffer_size_total(INCOMING_BUFFER * 128);
    Ok(config)
}

fn bind_socket(
    address: SocketAddr,
    config: quinn::ServerConfig,
    identity: &Identity,
) -> io::Result<quinn::Endpoint> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::DGRAM,
        Some(socket2::Protocol::UDP),
    )?;
    size_buffers(&socket);
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    let mut endpoint = EndpointConfig::new(Arc::new(identity.reset_key()));
    endpoint.cid_generator(|| Box::new(RandomIds));
    let largest = if address.ip().is_loopback() { LOOPBACK_MTU } else { NETWORK_MTU + 20 };
    endpoint.max_udp_payload_size(largest).map_err(io::Error::other)?;
    quinn::Endpoint::new(endpoint, Some(config), socket.into(), Arc::new(quinn::TokioRuntime))
}

/// Connection ids that say nothing. Those of an earlier run are not refused out of hand: whoever uses
/// one is told that the connection is gone, and need not wait until it times out.
struct RandomIds;

impl quinn::ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        quinn::ConnectionId::new(&rand::random::<[u8; ID_BYTES]>())
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Asks for large buffers and tells what the kernel gave.
fn size_buffers(socket: &socket2::Socket) {
    for (direction, set, got, setting) in [
        (
            "receive",
            socket.set_recv_buffer_size(SOCKET_BUFFER),
            socket.recv_buffer_size(),
            "net.core.rmem_max",
        ),
        (
            "send",
            socket.set_send_buffer_size(SOCKET_BUFFER),
            socket.send_buffer_size(),
            "net.core.wmem_max",
        ),
    ] {
        let given = got.unwrap_or(0);
        if set.is_err() || given < SOCKET_BUFFER {
            tracing::warn!(
                direction,
                wanted = SOCKET_BUFFER,
                given,
                "the kernel gave a small UDP buffer, which costs speed; raise {setting}"
            );
        }
    }
}

/// How many streams QUIC grants so that a client can always have `max_streams` open. The grant is
/// renewed only when more than an eighth of it has ended, and being blocked does not renew it: with
/// a grant of no more than `max_streams`, a client that has nearly so many open, and opens and
/// finishes one after the other, would wait for ever.
fn granted_streams(max_streams: u32) -> u32 {
    max_streams.saturating_add(max_streams / 7)
}

/// Windows that bound memory, and datagrams as large as the path allows.
fn transport(loopback: bool, limits: &ServerLimits) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(granted_streams(limits.max_streams)))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(limits.stream_window))
        .receive_window(VarInt::from_u32(limits.connection_window))
        .send_window(limits.send_window)
        // Small streams leave whole and in the order they were written.
        .send_fairness(false)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(limits.idle_timeout.try_into().ok());
    let mut mtu = MtuDiscoveryConfig::default();
    if loopback {
        let mut congestion = quinn::congestion::CubicConfig::default();
        congestion.initial_window(1 << 20);
        mtu.upper_bound(LOOPBACK_MTU);
        config
            .initial_mtu(LOOPBACK_MTU)
            .initial_rtt(Duration::from_millis(10))
            .congestion_controller_factory(Arc::new(congestion));
    } else {
        mtu.upper_bound(NETWORK_MTU);
    }
    config.mtu_discovery_config(Some(mtu));
    config
}

#[cfg(test)]
mod tests {
    use super::granted_streams;

    #[test]
    fn the_part_of_the_grant_that_is_not_renewed_leaves_all_streams() {
        for max_streams in 1..10_000 {
            let granted = granted_streams(max_streams);
            assert!(granted - granted / 8 >= max_streams, "{max_streams}");
        }
    }
}
