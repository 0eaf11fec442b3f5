"""The servers that the test suite of nats-py starts.

The suite's source distribution holds its tests, but not the module `tests.utils` that they import, nor
certificates, keys and configurations. This is such a module, written for the tests' use of it: each test
class has the servers it expects, `nats-server` being whatever the PATH finds under that name.
"""

import asyncio
import functools
import http.client
import os
import shutil
import ssl
import subprocess
import tempfile
import time
import unittest
import unittest.mock  # A test takes for granted that somebody has done that.
from pathlib import Path

FILES = Path(os.environ["CLIENT_TEST_FILES"])
HOST = "127.0.0.1"
#: Longest wait for a server that starts, in seconds.
START = 10
#: What a test and a long one may take, in seconds: the suite's own limits.
LIMIT, LONG_LIMIT = 5, 10

ROUTES = [f"nats://{HOST}:{port}" for port in (6223, 6224, 6225)]


def get_config_file(name):
    return str(FILES / name)


class NATSD:
    """A server: a port, a port for monitoring, and flags."""

    def __init__(self, port=4222, http_port=8222, flags=(), config=None, with_jetstream=False):
        self.port, self.http_port = port, http_port
        self.flags = list(flags)
        self.config = config
        self.store_dir = tempfile.mkdtemp() if with_jetstream else None
        self.proc = None

    def command(self):
        command = ["nats-server", "-p", str(self.port), "-m", str(self.http_port), "-a", HOST]
        command += self.flags
        if self.store_dir:
            command += ["-js", f"-sd={self.store_dir}"]
        if self.config:
            command += ["--config", get_config_file(self.config)]
        return command

    def start(self):
        log = os.environ.get("CLIENT_TEST_LOG")
        with open(log or os.devnull, "a") as talk:
            self.proc = subprocess.Popen(self.command(), stdout=talk, stderr=talk, cwd=FILES)
        return self.proc

    def stop(self):
        if self.proc is not None and self.proc.returncode is None:
            self.proc.kill()
            self.proc.wait()

    def remove(self):
        self.stop()
        if self.store_dir:
            shutil.rmtree(self.store_dir, ignore_errors=True)

    def monitor_answers(self):
        connection = http.client.HTTPConnection(f"{HOST}:{self.http_port}", timeout=START)
        try:
            connection.request("GET", "/varz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


def start_natsd(server):
    server.start()
    limit = time.monotonic() + START
    while not server.monitor_answers():
        if server.proc.poll() is not None:
            raise RuntimeError(f"{server.command()} ended with {server.proc.returncode}")
        if time.monotonic() > limit:
            raise RuntimeError(f"{server.command()} does not start")
        time.sleep(0.02)


def tls_flags():
    certs = functools.partial(os.path.join, FILES, "certs")
    return [
        "--tls",
        "--tlscert", certs("server-cert.pem"),
        "--tlskey", certs("server-key.pem"),
        "--tlsverify",
        "--tlscacert", certs("ca.pem"),
    ]  # fmt: skip


def client_tls():
    context = ssl.create_default_context(purpose=ssl.Purpose.SERVER_AUTH)
    context.load_verify_locations(get_config_file("certs/ca.pem"))
    context.load_cert_chain(
        certfile=get_config_file("certs/client-cert.pem"),
        keyfile=get_config_file("certs/client-key.pem"),
    )
    return context


def login(user, password):
    return ["--user", user, "--pass", password]


def cluster(port, routes):
    listen = ["--cluster_listen", f"nats://{HOST}:{port}"]
    return listen + ["--routes", ",".join(routes), "--cluster_name", "CLUSTER"]


class ServerTestCase(unittest.TestCase):
    """Starts `servers()` before each test, and kills them after it."""

    #: How many of them run from the beginning; all if not given.
    running = None
    tls = False

    def servers(self):
        raise NotImplementedError

    def setUp(self):
        self.loop = asyncio.new_event_loop()
        self.addCleanup(self.loop.close)
        self.server_pool = self.servers()
        for server in self.server_pool:
            self.addCleanup(server.remove)
        for server in self.server_pool[: self.running]:
            start_natsd(server)
        self.natsd = self.server_pool[0]
        if self.tls:
            self.ssl_ctx = client_tls()


class SingleServerTestCase(ServerTestCase):
    def servers(self):
        return [NATSD()]


class MultiServerAuthTestCase(ServerTestCase):
    def servers(self):
        return [
            NATSD(4223, 8223, login("foo", "bar")),
            NATSD(4224, 8224, login("hoge", "fuga")),
        ]


class MultiServerAuthTokenTestCase(ServerTestCase):
    def servers(self):
        tokens = {4223: "token", 4224: "token", 4225: "secret"}
        return [NATSD(port, port + 4000, ["--auth", token]) for port, token in tokens.items()]


class TLSServerTestCase(ServerTestCase):
    tls = True

    def servers(self):
        return [NATSD(4224, flags=tls_flags())]


class TLSServerHandshakeFirstTestCase(ServerTestCase):
    tls = True

    def servers(self):
        return [NATSD(4224, config="conf/tls_handshake_first.conf")]


class MultiTLSServerAuthTestCase(ServerTestCase):
    tls = True

    def servers(self):
        return [
            NATSD(4223, 8223, login("foo", "bar") + tls_flags()),
            NATSD(4224, 8224, login("hoge", "fuga") + tls_flags()),
        ]


class ClusteringTestCase(ServerTestCase):
    running = 1

    def servers(self):
        ports = (4223, 4224, 4225)
        return [NATSD(port, port + 4000, cluster(port + 2000, ROUTES)) for port in ports]


class ClusteringDiscoveryAuthTestCase(ServerTestCase):
    def servers(self):
        flags = login("foo", "bar")
        ports = (4223, 4224, 4225)
        routes = ROUTES[:1]
        return [NATSD(port, port + 4000, flags + cluster(port + 2000, routes)) for port in ports]


class NkeysServerTestCase(ServerTestCase):
    def servers(self):
        return [NATSD(config="nkeys/nkeys_server.conf")]


class TrustedServerTestCase(ServerTestCase):
    def servers(self):
        return [NATSD(config="nkeys/resolver_preload.conf")]


class SingleJetStreamServerTestCase(ServerTestCase):
    def servers(self):
        return [NATSD(with_jetstream=True)]


class SingleWebSocketServerTestCase(ServerTestCase):
    def servers(self):
        return [NATSD(config="conf/ws.conf")]


class SingleWebSocketTLSServerTestCase(ServerTestCase):
    tls = True

    def servers(self):
        return [NATSD(flags=tls_flags(), config="conf/ws_tls.conf")]


class SingleJetStreamServerLimitsTestCase(ServerTestCase):
    def servers(self):
        return [NATSD(with_jetstream=True, config="conf/js-limits.conf")]


class NoAuthUserServerTestCase(ServerTestCase):
    def servers(self):
        return [NATSD(4555, config="conf/no_auth_user.conf")]


def limited(seconds):
    def decorate(test):
        @functools.wraps(test)
        def run(case, *args, **keywords):
            asyncio.set_event_loop(case.loop)
            return asyncio.run(asyncio.wait_for(test(case, *args, **keywords), seconds))

        return run

    return decorate


async_test = limited(LIMIT)
async_long_test = limited(LONG_LIMIT)
