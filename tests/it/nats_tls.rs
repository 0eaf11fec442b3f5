//! TLS for NATS clients: after INFO or before it, with certificates of clients or without.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use crate::nats_wire::{Server, Wire, publish};

/// An authority made for a test.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate and its key, in PEM.
    fn sign(&self, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// A client's certificate with this e-mail address and common name.
    pub(crate) fn client(&self, address: Option<&str>, common: &str) -> (String, String) {
        self.sign(|params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            let address = address.map(|text| SanType::Rfc822Name(text.try_into().unwrap()));
            params.subject_alt_names = address.into_iter().collect();
            params.distinguished_name.push(DnType::CommonName, common);
        })
    }
}

/// A client's side: whom it trusts, and what it shows.
pub(crate) fn client(
    authority: &str,
    shown: Option<&(String, String)>,
) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match shown {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    })
}

/// Files of certificates, and configurations that name them.
pub(crate) struct Files {
    folder: tempfile::TempDir,
    pub(crate) authority: Authority,
}

impl Files {
    pub(crate) fn new() -> Self {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let (certificate, key) = authority.sign(|_| {});
        for (name, pem) in [("ca", &authority.pem), ("cert", &certificate), ("key", &key)] {
            std::fs::write(folder.path().join(name), pem).unwrap();
        }
        Self { folder, authority }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn both(&self, ours: &str, real: &str, users: &str) -> Vec<Server> {
        let (cert, key, ca) = (self.path("cert"), self.path("key"), self.path("ca"));
        let yaml = format!(
            "server: {{nats_tls: {{cert: {cert}, key: {key}, {}}}}}\nusers: {users}",
            ours.replace("{ca}", &ca)
        );
        let configuration = format!(
            "tls {{ cert_file: \"{cert}\", key_file: \"{key}\", {} }}\nauthorization {{ users = {} }}",
            real.replace("{ca}", &ca),
            users.replace("name:", "user:"),
        );
        Server::both(&yaml, &configuration)
    }

    pub(crate) fn trusting(&self) -> Arc<rustls::ClientConfig> {
        client(&self.authority.pem, None)
    }
}

const ANN: &str = "[{name: ann, password: secret}]";

fn ann() -> Value {
    json!({"user": "ann", "pass": "secret"})
}

/// What is said to a client that goes on although it is not let in, with an alert or without.
fn is_closed(wire: &mut Wire) -> bool {
    wire.send("PING\r\n");
    let said = wire.until("<never>");
    said == "<closed>"
}

#[test]
fn connections_are_secured_after_info() {
    let files = Files::new();
    for server in files.both("verify: off", "", ANN) {
        let wire = Wire::open(&server.address());
        assert_eq!(wire.info["tls_required"], true, "{}", server.name());
        assert!(wire.info.get("tls_verify").is_none(), "{}", server.name());
        let mut wire = wire.secure(files.trusting());
        assert_eq!(wire.connect(&ann()), "", "{}", server.name());
        assert_eq!(
            wire.ask(&("SUB a 1\r\n".to_owned() + &publish("a", "", "x"))),
            "MSG a 1 1\r\nx\r\n"
        );
        let large = "x".repeat(300_000);
        let said = wire.ask(&publish("a", "", &large));
        assert_eq!(said, format!("MSG a 1 300000\r\n{large}\r\n"));
        // TLS replaces no password.
        let mut wire = Wire::open(&server.address()).secure(files.trusting());
        assert_eq!(wire.connect(&json!({})), "-ERR 'Authorization Violation'\r\n<closed>");
    }
}

/// CVE-2021-32026 and its like: a connection without TLS where there must be one.
#[test]
fn nothing_is_taken_that_is_not_secured() {
    let files = Files::new();
    for server in files.both("verify: off", "", ANN) {
        let mut wire = Wire::open(&server.address());
        wire.send("CONNECT {\"user\":\"ann\",\"pass\":\"secret\",\"verbose\":false}\r\nPING\r\n");
        let mut bytes = Vec::new();
        wire.rest(&mut bytes);
        assert!(!bytes.windows(4).any(|part| part == b"PONG"), "{}: {bytes:?}", server.name());
    }
}

#[test]
fn connections_are_secured_before_info() {
    let files = Files::new();
    for server in files.both("handshake: first", "handshake_first: true", ANN) {
        let mut wire = Wire::before_info(&server.address()).secure(files.trusting());
        wire.send("");
        wire.read_info();
        assert_eq!(wire.connect(&ann()), "", "{}", server.name());
    }
}

#[test]
fn clients_show_certificates_of_an_authority_that_is_trusted() {
    let files = Files::new();
    let stranger = Authority::new();
    let late = files.authority.sign(|params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    });
    let early = files.authority.sign(|params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(2999, 1, 1);
        params.not_after = rcgen::date_time_ymd(3000, 1, 1);
    });
    let of_server = files.authority.sign(|params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    for server in files.both("ca: {ca}, verify: on", "ca_file: \"{ca}\", verify: true", ANN) {
        let secure = |shown| {
            let config = client(&files.authority.pem, shown);
            Wire::open(&server.address()).secure(config)
        };
        let good = files.authority.client(None, "somebody");
        let mut wire = secure(Some(&good));
        assert_eq!(wire.info["tls_verify"], true, "{}", server.name());
        assert_eq!(wire.connect(&ann()), "", "{}", server.name());
        let forged = stranger.client(Some("ann"), "ann");
        for (what, shown) in [
            ("nothing", None),
            ("a stranger's", Some(&forged)),
            ("one that has expired", Some(&late)),
            ("one that is not valid yet", Some(&early)),
            ("a server's", Some(&of_server)),
        ] {
            assert!(is_closed(&mut secure(shown)), "{} takes {what}", server.name());
        }
    }
}

/// How the handshake of a client went that has been greeted: whole, or cut short by an earlier one.
fn handshake(server: &Server, config: &Arc<rustls::ClientConfig>) -> rustls::HandshakeKind {
    let mut stream = std::net::TcpStream::connect(server.address()).unwrap();
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(0);
        let end = line.len() - 1;
        stream.read_exact(&mut line[end..]).unwrap();
    }
    let name = "localhost".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut tls = rustls::Stream::new(&mut client, &mut stream);
    tls.write_all(b"CONNECT {\"user\":\"ann\",\"pass\":\"secret\",\"verbose\":false}\r\nPING\r\n")
        .unwrap();
    // What the client is to remember comes before this.
    let mut said = [0; 6];
    tls.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"PONG\r\n");
    client.handshake_kind().unwrap()
}

/// CVE-2025-68121: what a listener remembered of a client let it in at another one.
#[test]
fn sessions_are_taken_up_only_where_they_began() {
    let files = Files::new();
    let shown = files.authority.client(None, "somebody");
    let config = client(&files.authority.pem, Some(&shown));
    let server = |verify| {
        let (cert, key, ca) = (files.path("cert"), files.path("key"), files.path("ca"));
        let clients = if verify { format!("ca: {ca}, verify: on") } else { "verify: off".into() };
        let tls = format!("{{cert: {cert}, key: {key}, {clients}}}");
        Server::ours(&format!("server: {{nats_tls: {tls}}}\nusers: {ANN}"))
    };
    let (lenient, other, strict) = (server(false), server(false), server(true));
    assert_eq!(handshake(&lenient, &config), rustls::HandshakeKind::Full);
    assert_eq!(handshake(&lenient, &config), rustls::HandshakeKind::Resumed);
    assert_eq!(handshake(&other, &config), rustls::HandshakeKind::Full);
    for _ in 0..2 {
        // Where certificates are asked for, each client shows its own each time.
        assert_eq!(handshake(&strict, &config), rustls::HandshakeKind::Full);
    }
}

#[test]
fn certificates_name_users() {
    let files = Files::new();
    let users =
        "[{name: cat@example.org, permissions: {publish: cat}}, {name: ann, password: secret}]";
    let yaml = format!(
        "server: {{nats_tls: {{cert: {}, key: {}, ca: {}, verify: map}}}}\nusers: {users}",
        files.path("cert"),
        files.path("key"),
        files.path("ca")
    );
    let server = Server::ours(&yaml);
    let secure = |address, common| {
        let config = client(&files.authority.pem, Some(&files.authority.client(address, common)));
        Wire::open(&server.address()).secure(config)
    };
    let violation = "-ERR 'Authorization Violation'\r\n<closed>";
    for mut wire in [
        secure(Some("cat@example.org"), "nobody"),
        secure(Some("other@example.org"), "cat@example.org"),
    ] {
        assert_eq!(wire.connect(&json!({})), "");
        assert_eq!(wire.ask(&publish("cat", "", "")), "");
        let said = wire.ask(&publish("dog", "", ""));
        assert_eq!(said, "-ERR 'Permissions Violation for Publish to \"dog\"'\r\n");
    }
    // CVE-2026-33248: parts of names, and names in other clothes, are not the name.
    for (address, common) in [
        (None, "nobody"),
        (Some("cat@example.org.evil"), "CN=cat@example.org"),
        (Some("xcat@example.org"), "cat@example"),
        (Some("CAT@example.org"), ""),
    ] {
        assert_eq!(secure(address, common).connect(&json!({})), violation, "{address:?} {common}");
    }
    let mut wire = secure(Some("cat@example.org"), "cat");
    assert_eq!(wire.connect(&ann()), violation, "who is certified is nobody else");
}

#[tokio::test]
async fn a_client_library_connects_with_the_servers_own_certificate() {
    let yaml = format!("server: {{nats_tls: {{cert: local}}}}\nusers: {ANN}");
    let server = tokio::task::spawn_blocking(move || Server::ours(&yaml)).await.unwrap();
    let Server::Ours(serving) = &server else { panic!("it is ours") };
    let ready = std::fs::read(serving.path("ready.json")).unwrap();
    let ready: Value = serde_json::from_slice(&ready).unwrap();
    let authority = ready["ca"].as_str().expect("the authority is named").to_owned();
    let connect = |authority: Option<&str>| {
        let options = async_nats::ConnectOptions::new()
            .connection_timeout(Duration::from_secs(20))
            .user_and_password("ann".to_owned(), "secret".to_owned());
        let options = match authority {
            Some(path) => options.add_root_certificates(Path::new(path).to_path_buf()),
            None => options,
        };
        let port = server.address().rsplit_once(':').unwrap().1.to_owned();
        options.connect(format!("tls://localhost:{port}"))
    };
    let connected = connect(Some(&authority)).await.unwrap();
    let mut heard = connected.subscribe("a").await.unwrap();
    connected.publish("a", "x".into()).await.unwrap();
    let message = futures_util::StreamExt::next(&mut heard).await.unwrap();
    assert_eq!(message.payload, "x");
    assert!(connect(None).await.is_err(), "an authority that is not trusted");
    drop(connected);
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
}
