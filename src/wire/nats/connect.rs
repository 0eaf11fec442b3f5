//! CONNECT: what a client says about itself and wants.

use std::fmt;

use serde::Deserialize;

use super::error::ProtocolError;

/// The options of CONNECT. Each may be absent or null; unknown ones are ignored. The defaults are
/// nats-server's, and hold also before any CONNECT.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Option<Given>")]
pub struct Connect {
    /// Answer each operation with `+OK`. True by default.
    pub verbose: bool,
    /// Complain about subjects that are not valid to publish to. True by default.
    pub pedantic: bool,
    /// Deliver the client's own messages to its own subscriptions. True by default.
    pub echo: bool,
    /// The client understands headers, and may send them.
    pub headers: bool,
    /// The client wants to be told when nobody got its request. Needs `headers`.
    pub no_responders: bool,
    /// 1 if the client takes INFO at any time, otherwise 0. Others are the session's to refuse.
    pub protocol: i64,
    /// The client insists on TLS.
    pub tls_required: bool,
    /// User name.
    pub user: Option<String>,
    /// Password. Secret.
    pub pass: Option<String>,
    /// Token. Secret.
    pub auth_token: Option<String>,
    /// Public key of a user.
    pub nkey: Option<String>,
    /// Signature of the nonce of INFO. Secret.
    pub sig: Option<String>,
    /// Token of a user. Secret.
    pub jwt: Option<String>,
    /// The client's name, for people.
    pub name: Option<String>,
    /// The client's language.
    pub lang: Option<String>,
    /// The client's version.
    pub version: Option<String>,
}

/// The options as they are given.
#[derive(Default, Deserialize)]
struct Given {
    verbose: Option<bool>,
    pedantic: Option<bool>,
    echo: Option<bool>,
    headers: Option<bool>,
    no_responders: Option<bool>,
    protocol: Option<i64>,
    tls_required: Option<bool>,
    user: Option<String>,
    pass: Option<String>,
    auth_token: Option<String>,
    nkey: Option<String>,
    sig: Option<String>,
    jwt: Option<String>,
    name: Option<String>,
    lang: Option<String>,
    version: Option<String>,
}

impl From<Option<Given>> for Connect {
    fn from(given: Option<Given>) -> Self {
        let given = given.unwrap_or_default();
        Self {
            verbose: given.verbose.unwrap_or(true),
            pedantic: given.pedantic.unwrap_or(true),
            echo: given.echo.unwrap_or(true),
            headers: given.headers.unwrap_or_default(),
            no_responders: given.no_responders.unwrap_or_default(),
            protocol: given.protocol.unwrap_or_default(),
            tls_required: given.tls_required.unwrap_or_default(),
            user: given.user,
            pass: given.pass,
            auth_token: given.auth_token,
            nkey: given.nkey,
            sig: given.sig,
            jwt: given.jwt,
            name: given.name,
            lang: given.lang,
            version: given.version,
        }
    }
}

impl Default for Connect {
    fn default() -> Self {
        Self::from(None::<Given>)
    }
}

impl Connect {
    /// Reads the options, as leniently as nats-server: a key may come twice, the last one counts,
    /// and what is no text becomes U+FFFD.
    ///
    /// # Errors
    /// [`ProtocolError::Connect`] if they are not a JSON object, or one of them has another type.
    pub(super) fn from_json(text: &[u8]) -> Result<Self, ProtocolError> {
        serde_json::from_str(&String::from_utf8_lossy(text))
            .and_then(serde_json::from_value::<Self>)
            .map_err(|error| ProtocolError::Connect(error.to_string()))
    }
}

/// Without what is secret.
impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("verbose", &self.verbose)
            .field("pedantic", &self.pedantic)
            .field("echo", &self.echo)
            .field("headers", &self.headers)
            .field("no_responders", &self.no_responders)
            .field("protocol", &self.protocol)
            .field("tls_required", &self.tls_required)
            .field("user", &self.user)
            .field("nkey", &self.nkey)
            .field("name", &self.name)
            .field("lang", &self.lang)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Connect {
        Connect::from_json(text.as_bytes()).unwrap()
    }

    #[test]
    fn without_options_it_is_as_if_there_had_been_no_connect() {
        let none = Connect::default();
        assert!(none.verbose && none.pedantic && none.echo);
        assert!(!none.headers && !none.no_responders && !none.tls_required);
        assert_eq!(none.protocol, 0);
        for text in ["{}", "null", " { } ", r#"{"unknown":{"deep":[1]}}"#] {
            assert_eq!(read(text), none, "{text}");
        }
    }

    #[test]
    fn every_option_is_read() {
        let connect = read(
            r#"{"verbose":false,"pedantic":false,"echo":false,"headers":true,"no_responders":true,
                "protocol":1,"tls_required":true,"user":"u","pass":"p","auth_token":"t","nkey":"k",
                "sig":"s","jwt":"j","name":"n","lang":"l","version":"v"}"#,
        );
        let some = |text: &str| Some(text.to_string());
        let expected = Connect {
            verbose: false,
            pedantic: false,
            echo: false,
            headers: true,
            no_responders: true,
            protocol: 1,
            tls_required: true,
            user: some("u"),
            pass: some("p"),
            auth_token: some("t"),
            nkey: some("k"),
            sig: some("s"),
            jwt: some("j"),
            name: some("n"),
            lang: some("l"),
            version: some("v"),
        };
        assert_eq!(connect, expected);
    }

    #[test]
    fn null_is_the_same_as_nothing() {
        let connect = read(
            r#"{"verbose":null,"pedantic":null,"echo":null,"headers":null,"no_responders":null,
                "protocol":null,"tls_required":null,"user":null,"pass":null,"auth_token":null,
                "nkey":null,"sig":null,"jwt":null,"name":null,"lang":null,"version":null}"#,
        );
        assert_eq!(connect, Connect::default());
    }

    #[test]
    fn the_last_of_two_counts_and_what_is_no_text_is_replaced() {
        assert!(!read(r#"{"verbose":true,"verbose":false}"#).verbose);
        let connect = Connect::from_json(b"{\"name\":\"\xff\"}").unwrap();
        assert_eq!(connect.name.as_deref(), Some("\u{fffd}"));
    }

    #[test]
    fn what_is_not_an_object_of_options_is_refused() {
        for text in ["", "x", "[1]", "{", "{}x", r#"{"verbose":"a"}"#, r#"{"protocol":1.0}"#] {
            let refused = Connect::from_json(text.as_bytes());
            assert!(matches!(refused, Err(ProtocolError::Connect(_))), "{text} {refused:?}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let text = r#"{"user":"ann","pass":"5ecret","auth_token":"5ecret","sig":"5ecret",
                       "jwt":"5ecret"}"#;
        let printed = format!("{:?} {:#?}", read(text), read(text));
        assert!(printed.contains("ann") && !printed.contains("5ecret"), "{printed}");
    }
}
