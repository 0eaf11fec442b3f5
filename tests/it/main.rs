//! Tests of the whole server, one module for each topic.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    missing_docs,
    reason = "tests stop at the first surprise"
)]

mod advisories;
mod async_nats;
mod browser;
mod cli;
mod cli_server;
mod idle;
mod later;
mod monitoring;
mod native;
mod nats;
mod nats_conf;
mod nats_login;
mod nats_server;
mod nats_tls;
mod nats_wire;
mod node;
mod order;
mod priority_groups;
mod python;
mod raw;
mod readme;
mod sdk;
mod sdk_reconnect;
mod serving;
mod stopping;
mod verify;
mod web_socket;
mod websocket;
