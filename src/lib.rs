//! claudebus: a self-contained, durable event broker.
//!
//! The layers, lowest first; imports only run downward, and `tests/architecture.rs` holds them to it:
//! [`access`] (who may do what), [`model`] (nouns), `wire` (codecs), `broker` (decisions), `session` (protocol state), `client`
//! (the SDK), `server` (the shell: sockets, clock, threads), `config` and `cli`.

pub mod access;
pub mod broker;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "cli")]
pub mod config;
pub mod model;
#[cfg(feature = "server")]
pub mod server;
pub mod session;
pub mod wire;
