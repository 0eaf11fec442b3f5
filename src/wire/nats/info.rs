//! INFO: what a server says about itself.

use std::ops::Not;

use serde::Serialize;

/// The fields of INFO, in nats-server's order. What does not apply is left out, never null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Info {
    /// Names the server; unique.
    pub server_id: String,
    /// The server's name, for people.
    pub server_name: String,
    /// A semantic version, by which clients decide what they may use.
    pub version: String,
    /// 1: INFO may come at any time.
    pub proto: u32,
    /// Where the server listens.
    pub host: String,
    /// The port that it listens on.
    pub port: u16,
    /// Headers are understood.
    pub headers: bool,
    /// CONNECT must say who the client is.
    #[serde(skip_serializing_if = "Not::not")]
    pub auth_required: bool,
    /// The client must start TLS before CONNECT.
    #[serde(skip_serializing_if = "Not::not")]
    pub tls_required: bool,
    /// The client must have a certificate.
    #[serde(skip_serializing_if = "Not::not")]
    pub tls_verify: bool,
    /// The client may start TLS before CONNECT.
    #[serde(skip_serializing_if = "Not::not")]
    pub tls_available: bool,
    /// Bytes of headers and payload that a message may have.
    pub max_payload: u64,
    /// Streams and consumers are understood.
    #[serde(skip_serializing_if = "Not::not")]
    pub jetstream: bool,
    /// The number of this connection.
    pub client_id: u64,
    /// The client's address as the server sees it.
    pub client_ip: String,
    /// What a client with a key signs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// The domain of streams and consumers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The server is about to stop: clients should go elsewhere.
    #[serde(skip_serializing_if = "Not::not")]
    pub ldm: bool,
    /// The INFO that follows the first PONG.
    #[serde(skip_serializing_if = "Not::not")]
    pub connect_info: bool,
    /// The account that the client is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_account: Option<String>,
    /// The level of the API of streams and consumers.
    pub api_lvl: u32,
}

/// What every server of this kind says; the names, the address and the limits are empty.
impl Default for Info {
    fn default() -> Self {
        Self {
            server_id: String::new(),
            server_name: String::new(),
            version: String::new(),
            proto: 1,
            host: String::new(),
            port: 0,
            headers: true,
            auth_required: false,
            tls_required: false,
            tls_verify: false,
            tls_available: false,
            max_payload: 0,
            jetstream: true,
            client_id: 0,
            client_ip: String::new(),
            nonce: None,
            domain: None,
            ldm: false,
            connect_info: false,
            remote_account: None,
            api_lvl: 0,
        }
    }
}
