"""Writes the certificates, keys and configurations that nats-py's tests need into a folder.

    python files.py FOLDER
"""

import os
import subprocess
import sys
from pathlib import Path

import nkeys

CONFIGURATIONS = {
    "conf/ws.conf": "websocket { port: 8080, no_tls: true }\n",
    "conf/ws_tls.conf": """
websocket {
  port: 8081
  tls { cert_file: "certs/server-cert.pem", key_file: "certs/server-key.pem", ca_file: "certs/ca.pem" }
}
""",
    "conf/tls_handshake_first.conf": """
port: 4224
tls {
  cert_file: "certs/server-cert.pem"
  key_file: "certs/server-key.pem"
  ca_file: "certs/ca.pem"
  handshake_first: true
  verify: true
}
""",
    "conf/no_auth_user.conf": """
accounts {
  a { users = [{ user: foo, pass: foo, permissions {
    subscribe { allow: ["foo", "_INBOX.>"], deny: ["bar"] }
    publish { allow: ["foo", "_INBOX.>"], deny: ["bar"] }
  }}]}
  b { users = [{ user: bar, pass: bar, permissions {
    subscribe { allow: ["bar"], deny: [">"] }
    publish { allow: ["bar"], deny: [">"] }
  }}]}
}
no_auth_user: foo
""",
    "conf/js-limits.conf": """
jetstream { domain: "test-domain" }
no_auth_user: foo
accounts { A {
  users: [{ user: foo }]
  jetstream {
    max_mem: 64MB, max_file: 32MB, max_streams: 10, max_consumers: 20, max_ack_pending: 100
    memory_max_stream_bytes: 2048, store_max_stream_bytes: 4096, max_stream_bytes: true
  }
}}
""",
    "nkeys/nkeys_server.conf": """
accounts { acme { users [{
  nkey = "KEY"
  permissions {
    subscribe { allow: ["help", "_INBOX.>"], deny: ["foo"] }
    publish { allow: ["help", "_INBOX.>"], deny: ["foo"] }
  }
}]}}
""",
}


def openssl(folder, *arguments):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def certificates(folder):
    """An authority, and certificates of a server on this machine and of a client."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3650"]
    openssl(folder, "req", "-x509", *key, "-subj", "/CN=authority", "-keyout", "ca-key.pem",
            "-out", "ca.pem", "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip
    for name in ("server", "client"):
        extensions = "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1\n"
        (folder / "extensions").write_text(extensions)
        openssl(folder, "req", *key[:-2], "-subj", f"/CN={name}",
                "-keyout", f"{name}-key.pem", "-out", "request.pem")  # fmt: skip
        openssl(folder, "x509", "-req", "-in", "request.pem", "-days", "3650", "-CA", "ca.pem",
                "-CAkey", "ca-key.pem", "-CAcreateserial", "-extfile", "extensions",
                "-out", f"{name}-cert.pem")  # fmt: skip


def seed():
    """The seed of a new user's key, and its public part."""
    text = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    return text, nkeys.from_seed(bytearray(text)).public_key


def main(folder):
    for path in ("certs", "conf", "nkeys"):
        (folder / path).mkdir(parents=True, exist_ok=True)
    certificates(folder / "certs")
    secret, public = seed()
    (folder / "nkeys/foo-user.nk").write_bytes(secret)
    for path, text in CONFIGURATIONS.items():
        (folder / path).write_text(text.replace("KEY", public.decode()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
