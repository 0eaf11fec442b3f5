//! What a client may do: which subjects it may publish and subscribe to, and which messages it may
//! get. Rules mean what they mean in nats-server's configuration.
//!
//! Pure functions on text. Who a client is, is not decided here, nor what happens to one that asks for
//! too much.

mod grant;
mod replies;
mod rules;
#[cfg(test)]
mod tests;

pub use grant::{Grant, Responses};
pub use replies::Replies;
pub use rules::{PublishRules, SubscribeRules, Target};
