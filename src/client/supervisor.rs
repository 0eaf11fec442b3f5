//! The task that keeps a client's connection: connects, greets, serves requests, and connects again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::control::{Control, Greeted, MAX_WAITING_REQUESTS, greet};
use super::error::ConnectError;
use super::event::{ConnectionEvent, Events};
use super::link::{Link, Up};
use super::options::{ClientBuilder, Target};
use super::{Client, quic};

/// What a connection within the process is called.
const IN_PROCESS: &str = "this process";

/// Connects for the first time and leaves the connection to a task of its own.
pub(super) async fn start(options: ClientBuilder, target: Target) -> Result<Client, ConnectError> {
    let (address, greeted) = establish(&options, &target).await?;
    let link = Link::new();
    if let Some(callback) = options.on_event.clone() {
        let mut events = Events::new(link.events());
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                callback(&event);
                if matches!(event, ConnectionEvent::Closed { .. }) {
                    return;
                }
            }
        });
    }
    let (sender, requests) = mpsc::channel(MAX_WAITING_REQUESTS);
    link.set_up(up(1, &greeted));
    link.tell(ConnectionEvent::Connected { address });
    let supervisor = Supervisor {
        link: Arc::clone(&link),
        control: Control::new(requests),
        options: options.clone(),
        target,
        epoch: 1,
    };
    tokio::spawn(supervisor.run(greeted));
    Ok(Client::new(link, sender, options))
}

fn up(epoch: u64, greeted: &Greeted) -> Up {
    Up { epoch, transport: greeted.transport.clone(), welcome: Arc::clone(&greeted.welcome) }
}

async fn establish(
    options: &ClientBuilder,
    target: &Target,
) -> Result<(String, Greeted), ConnectError> {
    let (address, transport) = match target {
        Target::Given(transport) => (IN_PROCESS.to_owned(), transport.clone()),
        Target::Network => {
            let (address, quic_options) = options.resolve()?;
            (address.to_string(), quic::connect(&address, &quic_options).await?)
        }
    };
    let token = options.token.clone();
    let greeted = greet(transport, &address, &options.name, token, options.request_timeout).await?;
    Ok((address, greeted))
}

struct Supervisor {
    link: Arc<Link>,
    control: Control,
    options: ClientBuilder,
    target: Target,
    epoch: u64,
}

impl Supervisor {
    async fn run(mut self, mut greeted: Greeted) {
        let link = Arc::clone(&self.link);
        let closed = drained(&link, self.options.close_timeout);
        tokio::pin!(closed);
        loop {
            let transport = greeted.transport.clone();
            let reason = tokio::select! {
                biased;
                () = &mut closed => {
                    link.set_closed("closed by the application");
                    transport.close("closed by the application");
                    return;
                }
                reason = transport.closed() => reason,
                error = self.control.run(&mut greeted) => {
                    // The connection's own reason says more than a broken stream's.
                    let reason = transport.closed();
                    let own = tokio::time::timeout(Duration::from_millis(20), reason).await;
                    own.unwrap_or_else(|_| error.to_string())
                }
            };
            transport.close("the control stream broke");
            link.set_down();
            self.control.disconnected();
            tracing::warn!(reason, "the connection is lost");
            link.tell(ConnectionEvent::Disconnected { reason: reason.clone() });
            if matches!(self.target, Target::Given(_)) {
                return link.set_closed(&reason);
            }
            let again = tokio::select! {
                biased;
                () = &mut closed => Err("closed by the application".to_owned()),
                again = self.reconnect() => again,
            };
            match again {
                Ok(new) => greeted = new,
                Err(reason) => return link.set_closed(&reason),
            }
        }
    }

    /// Tries until it works, or until trying is pointless.
    async fn reconnect(&mut self) -> Result<Greeted, String> {
        let policy = self.options.reconnect;
        let mut attempt = 0;
        let mut wait = policy.delay(1, rand::random());
        loop {
            attempt += 1;
            tokio::time::sleep(wait).await;
            let error = match establish(&self.options, &self.target).await {
                Ok((address, greeted)) => {
                    self.epoch += 1;
                    self.link.set_up(up(self.epoch, &greeted));
                    tracing::info!(address, attempt, "connected again");
                    self.link.tell(ConnectionEvent::Reconnected { address, attempts: attempt });
                    return Ok(greeted);
                }
                Err(error) => error,
            };
            let reason = error.to_string();
            if matches!(error, ConnectError::Refused { .. }) {
                return Err(reason);
            }
            if policy.attempts.is_some_and(|most| attempt >= most) {
                return Err(format!("gave up after {attempt} attempts: {reason}"));
            }
            wait = policy.delay(attempt + 1, rand::random());
            self.link.tell(ConnectionEvent::AttemptFailed { attempt, reason, retry_in: wait });
        }
    }
}

/// Waits until the client is being closed and everything in flight is done, or too late.
async fn drained(link: &Link, limit: Duration) {
    link.closing().await;
    // Too late is not worse than never.
    let _ = tokio::time::timeout(limit, link.drained()).await;
}
