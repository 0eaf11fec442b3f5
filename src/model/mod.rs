//! The nouns that all layers share: subjects, messages, configurations, requests, events, errors.
//!
//! Data and pure functions on it. It decides nothing, and knows no protocol: what a NATS client or a
//! QUIC client sends becomes a [`Request`](request::Request), and what the broker answers is an
//! [`Event`](event::Event), the same for both.

pub mod answer;
pub mod api;
pub mod archive;
pub mod batch;
pub mod consumer;
pub mod cron;
pub mod decimal;
pub mod duration;
pub mod error;
pub mod event;
pub mod fields;
pub mod headers;
pub mod limits;
pub mod request;
pub mod s2;
pub mod schedule;
pub mod stream;
pub mod subject;
pub mod time;
pub mod transform;
