//! Lame duck mode, as nats-server calls it: a server that is going to stop takes no new clients, tells those that it
//! has, and sends them away one after the other, so that they find other servers without a rush.

use std::time::Duration;

use crate::server::RunningServer;

/// How a server is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// At once.
    Stop,
    /// Once its clients have had time to go elsewhere.
    LameDuck,
}

/// Enters the mode at once. The future ends when the last NATS client was sent away, which is without delay if there
/// is none; `closing` is called when the first one goes, after the grace period.
pub(super) fn send_away<F: FnOnce()>(
    server: &RunningServer,
    grace: Duration,
    closing: F,
) -> impl Future<Output = ()> + use<F> {
    let clients = server.stop_accepting();
    let leaving = server.close_nats_clients();
    async move {
        if clients > 0 {
            tokio::time::sleep(grace).await;
            closing();
            leaving.await;
        }
    }
}
