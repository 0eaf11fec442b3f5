//! Limits of the shell, each with a name, a default and a reason.

use std::time::Duration;

/// What the shell bounds. Defaults by [`ServerLimits::default`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// Connections at once. 4,096: with the windows below, the bound on memory for the network.
    pub max_connections: usize,
    /// Connections of NATS clients at once. 65,536, as nats-server, and of the files that the process may open
    /// 1,024, or half of fewer, are left to everything else. Each costs some kilobytes while it is idle.
    pub max_nats_connections: usize,
    /// How often a NATS client that is silent is asked for a sign of life. 2 min, as nats-server; the
    /// third question in a row without an answer ends the connection.
    pub ping_interval: Duration,
    /// Time for a NATS client to say who it is, where it must. 2 s, as nats-server.
    pub login_timeout: Duration,
    /// How long a NATS client may take nothing of what is sent to it. 10 s, as nats-server: it is
    /// closed as a slow consumer then.
    pub write_timeout: Duration,
    /// Streams that a client may have open on one connection. 256: one for each publisher and
    /// consumer of a program, of which some have a hundred.
    pub max_streams: u32,
    /// Unread bytes of one stream, in bytes. 1 MiB: more than rate times round trip at full
    /// speed, and an eighth of the connection's, so that streams that are held back leave room
    /// for acknowledgements.
    pub stream_window: u32,
    /// Unread bytes of one connection, in bytes. 8 MiB.
    pub connection_window: u32,
    /// Bytes of one connection that were sent and not acknowledged by the peer's kernel. 4 MiB.
    pub send_window: u64,
    /// Time without a packet after which a connection is over. 30 s; clients keep it alive.
    pub idle_timeout: Duration,
    /// Time for HELLO from the end of the handshake. 2 s: a peer that cannot do it in that time
    /// holds memory for nothing.
    pub hello_timeout: Duration,
    /// Handshakes at once. 1,024; more are refused.
    pub max_handshakes: usize,
    /// Handshakes at once from which addresses are verified by a round trip first. 64: normal load
    /// never gets there, a flood of forged addresses does.
    pub retry_above: usize,
    /// HTTP connections at once. 256: some dashboards and probes; more wait.
    pub max_http_connections: usize,
    /// An HTTP connection ends when it is not answered for so long: it asks for nothing, or too slowly.
    /// 15 s: longer than anyone takes to send a request, shorter than a supervisor waits for a restart.
    pub http_patience: Duration,
    /// Batches of requests that wait for the broker. 256: enough to fill a group of the journal.
    pub input_queue: usize,
    /// Bytes of answers and deliveries of one stream that wait for the client before its frames
    /// are no longer read, in bytes. 3 MiB: the deliveries it may have, a message, and some.
    pub max_unsent: usize,
    /// Time from the announcement that the server is going to stop to its end, for NATS clients in lame duck
    /// mode. 2 min, as nats-server.
    pub lame_duck_duration: Duration,
    /// How much of that passes before the first of them is sent away. 10 s, as nats-server: other servers
    /// that are told to stop meanwhile are not connected to.
    pub lame_duck_grace_period: Duration,
    /// Time for a clean stop before connections are cut and the checkpoint is skipped. 10 s.
    pub stop_timeout: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            max_nats_connections: 65_536,
            ping_interval: Duration::from_secs(120),
            login_timeout: Duration::from_secs(2),
            write_timeout: Duration::from_secs(10),
            max_streams: 256,
            stream_window: 1 << 20,
            connection_window: 8 << 20,
            send_window: 4 << 20,
            idle_timeout: Duration::from_secs(30),
            hello_timeout: Duration::from_secs(2),
            max_handshakes: 1024,
            retry_above: 64,
            max_http_connections: 256,
            http_patience: Duration::from_secs(15),
            input_queue: 256,
            max_unsent: 3 << 20,
            lame_duck_duration: Duration::from_secs(120),
            lame_duck_grace_period: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(10),
        }
    }
}
