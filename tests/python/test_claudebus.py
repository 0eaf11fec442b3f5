"""Runs claudebus.py against a real server, to show that docs/protocol.md is enough to write a client.

    python tests/python/test_claudebus.py target/debug/claudebus

Every test has a server of its own. Exits with 1 if a test fails.
"""

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from contextlib import asynccontextmanager
from pathlib import Path

import claudebus
from claudebus import AGAIN, NEVER, Body, Ended, Message, Refused, Stored, connect

WAIT = 30.0  # seconds any one answer may take, and a server's start
TEST = 120.0  # seconds one test may take
ACK_WAIT = 1_000_000_000  # ns, of the consumers here: what is not acknowledged comes again soon

BINARY = None  # the claudebus binary, from the command line
ORDERS = {"subjects": ["orders.>"], "allow_direct": True}
BILL = {"config": {"durable_name": "bill", "ack_policy": "explicit", "ack_wait": ACK_WAIT}}
TESTS = []


def test(function):
    TESTS.append(function)
    return function


class Server:
    """The binary, serving one data directory; it can be killed and started again."""

    def __init__(self, folder):
        self.folder, self.process = folder, None

    async def start(self, **settings):
        ready = self.folder / "ready.json"
        ready.unlink(missing_ok=True)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("CLAUDEBUS_")}
        environment = kept | settings | {
            "XDG_CONFIG_HOME": str(self.folder), "CLAUDEBUS_CONTEXT": str(self.folder / "context.json")}
        with open(self.folder / "server.log", "ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                BINARY, "serve", "--data", str(self.folder / "data"), "--quic", "127.0.0.1:0",
                "--nats", "off", "--http", "off", "--ready-file", str(ready), stdout=log, stderr=log,
                env=environment)
        limit = time.monotonic() + WAIT
        while not ready.exists():
            assert self.process.returncode is None, f"the server ended\n{self.log()}"
            assert time.monotonic() < limit, f"the server is not ready after {WAIT} s\n{self.log()}"
            await asyncio.sleep(0.01)
        self.ready = json.loads(ready.read_text())

    async def stop(self, how=signal.SIGKILL):
        if self.process.returncode is None:
            self.process.send_signal(how)
            await asyncio.wait_for(self.process.wait(), WAIT)

    def connect(self, token=None):
        return connect(self.ready["quic"], self.ready["ca"], token)

    def log(self):
        return (self.folder / "server.log").read_text(errors="replace")


@asynccontextmanager
async def running(**settings):
    """A server in a temporary directory, with settings from the environment."""
    with tempfile.TemporaryDirectory(prefix="claudebus-python-") as folder:
        server = Server(Path(folder))
        await server.start(**settings)
        try:
            yield server
        except BaseException:
            print(server.log()[-4000:], file=sys.stderr)
            raise
        finally:
            await server.stop()


@asynccontextmanager
async def connected():
    """A client of a new server that has the stream ORDERS with the consumer `bill`."""
    async with running() as server, server.connect() as bus:
        await bus.request("STREAM.CREATE.ORDERS", ORDERS)
        await bus.request("CONSUMER.CREATE.ORDERS.bill", BILL)
        yield bus


async def refusal(awaitable):
    """The error an answer must be, as (code, err_code)."""
    try:
        answer = await asyncio.wait_for(awaitable, WAIT)
    except Refused as error:
        return error.code, error.err_code
    raise AssertionError(f"an error was expected, not {answer}")


async def end_of(stream):
    """Why the stream ended, which it must."""
    await asyncio.wait_for(stream.over.wait(), WAIT)
    return stream.reason


async def publish(bus, messages, **how):
    """Publishes, and returns what each counter was answered."""
    publisher = await bus.publisher(**how)
    answers = await publisher.publish(messages)
    await asyncio.wait_for(asyncio.wait(answers.values()), WAIT)
    await publisher.finish()
    return {counter: answer.exception() or answer.result() for counter, answer in answers.items()}


@test
async def frames_are_those_of_the_document():
    messages = [Message("orders.new", b"one"), Message("orders.paid")]
    second = Message("orders.new", b"two", claudebus.header_block({"A": "1"}))
    fields = [claudebus.message_fields(message) for message in messages]
    fields.insert(1, claudebus.message_fields(second, "orders.new"))
    assert claudebus.frame(claudebus.PUBLISH, 1, 3, *fields) == bytes.fromhex(
        "39 11 01 03 00 0a 03 6f72646572732e6e6577 6f6e65"
        "03 12 03 4e4154532f312e300d0a413a20310d0a0d0a 74776f 00 0b 00 6f72646572732e70616964")
    assert claudebus.frame(claudebus.ACK, b"\x01", 0, claudebus.ranges([*range(1, 101), 102])) == (
        bytes.fromhex("09 24 01 00 02 01 4063 02 00"))
    assert Body(bytes.fromhex("bb9aca00")).varint() == 1_000_000_000


@test
async def a_thousand_messages_outlive_a_kill():
    async with running() as server:
        async with server.connect() as bus:
            created = await bus.request("STREAM.CREATE.ORDERS", ORDERS)
            assert created["did_create"] and created["config"]["name"] == "ORDERS", created
            await bus.request("CONSUMER.CREATE.ORDERS.bill", BILL)
            publisher, answers = await bus.publisher(), {}
            for first in range(1, 1001, 100):
                messages = [Message("orders.new", b"%d" % n) for n in range(first, first + 100)]
                answers |= await publisher.publish(messages)
            for counter in range(1, 1001):
                stored = await asyncio.wait_for(answers[counter], WAIT)
                assert stored == Stored("ORDERS", counter, False), (counter, stored)

            consumer = await bus.consumer("ORDERS", "bill")
            got = [message async for message in consumer.pull(1000)]
            assert [message.sequence for message in got] == [*range(1, 1001)]
            assert [message.consumer_sequence for message in got] == [*range(1, 1001)]
            assert all(m.payload == b"%d" % m.sequence and m.attempts == 1 for m in got)
            assert got[0].pending == 999 and got[-1].pending == 0, (got[0], got[-1])
            await asyncio.wait_for(consumer.ack_durably(range(1, 601)), WAIT)
            await server.stop(signal.SIGKILL)

        await server.start()
        async with server.connect() as bus:
            consumer = await bus.consumer("ORDERS", "bill")
            again = [message async for message in consumer.pull(400)]
            assert sorted(message.sequence for message in again) == [*range(601, 1001)]
            assert all(message.payload == b"%d" % message.sequence for message in again)
            await asyncio.wait_for(consumer.ack_durably(range(601, 1001)), WAIT)
            more = [message async for message in consumer.pull(1, expires=2 * ACK_WAIT / 1e9)]
            assert not more, more
            info = await bus.request("CONSUMER.INFO.ORDERS.bill")
            assert (info["num_pending"], info["num_ack_pending"]) == (0, 0), info
            assert info["ack_floor"]["stream_seq"] == 1000, info


@test
async def a_counter_is_stored_once():
    async with running() as server:
        producer, messages = bytes(range(16)), [Message("orders.new", b"%d" % n) for n in range(10)]
        async with server.connect() as bus:
            await bus.request("STREAM.CREATE.ORDERS", ORDERS)
            first = await publish(bus, messages, producer_id=producer)
            again = await publish(bus, messages, producer_id=producer)
            await server.stop(signal.SIGKILL)
        assert [s.sequence for s in first.values()] == [*range(1, 11)]
        expected = {counter: Stored("ORDERS", s.sequence, True) for counter, s in first.items()}
        assert again == expected, again

        await server.start()
        async with server.connect() as bus:
            messages.append(Message("orders.new"))
            after = await publish(bus, messages[6:], producer_id=producer, counter=7)
            new = after.pop(11)
            assert after == {n: expected[n] for n in range(7, 11)}, after
            assert new == Stored("ORDERS", 11, False), new
            other = await publish(bus, messages[:1], producer_id=bytes(16))
            assert other == {1: Stored("ORDERS", 12, False)}, other
            info = await bus.request("STREAM.INFO.ORDERS")
            assert info["state"]["messages"] == 12, info


@test
async def a_refused_message_leaves_the_others():
    async with connected() as bus:
        headers = claudebus.header_block({"Nats-Expected-Last-Sequence": "7"})
        answers = await publish(bus, [
            Message("orders.new"), Message("nobody.captures"), Message("orders.new", b"", headers),
            Message("orders.*"), Message("orders.new")])
        assert answers[1] == Stored("ORDERS", 1, False) and answers[5] == Stored("ORDERS", 2, False), answers
        errors = [(answers[n].code, answers[n].err_code) for n in (2, 3, 4)]
        assert errors == [(404, 10055), (400, 10071), (400, 20001)], answers
        message_id = claudebus.header_block({"Nats-Msg-Id": "a"})
        answers = await publish(bus, [Message("orders.new", b"x", message_id)] * 2)
        assert answers == {1: Stored("ORDERS", 3, False), 2: Stored("ORDERS", 3, True)}, answers


@test
async def requests_are_answered():
    async with connected() as bus:
        assert bus.limits["max_batch_messages"] >= 1 and bus.limits["max_streams"] == 256, bus.limits
        names = await bus.request("STREAM.NAMES")
        assert names["streams"] == ["ORDERS"] and names["total"] == 1, names
        headers = claudebus.header_block({"A": "1"})
        await publish(bus, [Message("orders.new", b"one"), Message("orders.new", b"two", headers)])
        for subject, body in (("", {"seq": 2}), (".orders.new", None)):
            message = await bus.request("DIRECT.GET.ORDERS" + subject, body)
            found = (message.stream, message.sequence, message.subject, message.payload, message.headers)
            assert found == ("ORDERS", 2, "orders.new", b"two", headers), message
            assert abs(message.time / 1e9 - time.time()) < 60, message
        assert await refusal(bus.request("DIRECT.GET.ORDERS", {"seq": 9})) == (404, 10037)
        info, account, *missing = await asyncio.gather(
            bus.request("STREAM.INFO.ORDERS"), bus.request("INFO"),
            refusal(bus.request("STREAM.INFO.NONE")), refusal(bus.request("CONSUMER.INFO.ORDERS.none")),
            refusal(bus.request("NO.SUCH")), refusal(bus.request("STREAM.CREATE.A", {"subjectz": []})),
            refusal(bus.request("STREAM.CREATE.OTHER", ORDERS)))
        assert info["state"]["messages"] == 2 and account["streams"] == 1, (info, account)
        assert missing == [(404, 10059), (404, 10014), (400, 20005), (400, 10025), (400, 10065)], missing
        many = {f"k{n}": "v" * 1000 for n in range(60)}
        for n in range(6):
            await bus.request(f"STREAM.CREATE.MANY{n}", {"subjects": [f"many{n}"], "metadata": many})
        streams = await bus.request("STREAM.LIST")  # more than 256 KiB, in parts
        assert sorted(len(s["config"]["metadata"]) for s in streams["streams"])[1:] == [60] * 6, streams
        assert (await bus.request("STREAM.PURGE.ORDERS", {"keep": 1}))["purged"] == 1
        assert (await bus.request("CONSUMER.DELETE.ORDERS.bill"))["success"]
        assert (await bus.request("STREAM.DELETE.ORDERS"))["success"]
        assert await refusal(bus.request("STREAM.INFO.ORDERS")) == (404, 10059)


@test
async def all_streams_can_be_used_and_used_again():
    """WELCOME's max_streams can be open, however many were opened and finished before."""
    async with running() as server, server.connect() as bus:
        lasting = bus.limits["max_streams"] - 2  # and the control stream, and one more
        lasting = [await asyncio.wait_for(bus.publisher(), WAIT) for _ in range(lasting)]
        for _ in range(100):
            publisher = await asyncio.wait_for(bus.publisher(), WAIT)
            await asyncio.wait_for(publisher.finish(), WAIT)
        assert not any(publisher.reason for publisher in lasting)


async def waits(bus, pulls):
    """Returns once so many pulls wait."""
    while (await bus.request("CONSUMER.INFO.ORDERS.bill"))["num_waiting"] != pulls:
        await asyncio.sleep(0.01)


@test
async def pulls_end_as_documented():
    async with connected() as bus:
        consumer = await bus.consumer("ORDERS", "bill")
        started = time.monotonic()
        assert [m async for m in consumer.pull(5, no_wait=True)] == []
        assert time.monotonic() - started < 10, "no_wait waited"
        assert [m async for m in consumer.pull(5, expires=0.2)] == []
        await publish(bus, [Message("orders.new", b"%d" % n) for n in range(3)])
        assert [m.sequence async for m in consumer.pull(5, no_wait=True)] == [1, 2, 3]
        await consumer.ack_durably([1, 2, 3])
        await publish(bus, [Message("orders.new", b"%d" % n) for n in range(100)])
        got = []
        renewed = consumer.pull(8, renew=True)  # the credit is renewed by RAISE
        async for message in renewed:
            got.append(message.sequence)
            consumer.ack([message.sequence])
            if len(got) == 100:
                break
        assert got == [*range(4, 104)], got
        await renewed.aclose()
        await waits(bus, 0)
        waiting = asyncio.ensure_future(anext(consumer.pull(1)))
        await waits(bus, 1)
        await bus.request("CONSUMER.DELETE.ORDERS.bill")
        assert await refusal(waiting) == (409, 0)
        missing = [refusal(bus.consumer("ORDERS", "bill")), refusal(bus.consumer("NONE", "bill"))]
        assert await asyncio.gather(*missing) == [(404, 10014), (404, 10059)]


@test
async def deliveries_are_repeated_or_given_up():
    async with connected() as bus:
        consumer = await bus.consumer("ORDERS", "bill")
        await publish(bus, [Message("orders.new", b"bad")])
        assert (await anext(consumer.pull(1))).attempts == 1
        assert (await anext(consumer.pull(1))).attempts == 2  # after ack_wait
        consumer.ack([1], AGAIN)
        assert (await anext(consumer.pull(1))).attempts == 3
        started = time.monotonic()
        consumer.ack([1], AGAIN, delay=0.5)
        assert (await anext(consumer.pull(1))).attempts == 4
        assert time.monotonic() - started >= 0.5
        await consumer.ack_durably([1], kind=NEVER, reason="bad json")
        assert [m async for m in consumer.pull(1, expires=2 * ACK_WAIT / 1e9)] == []
        dead = await bus.request("DEAD.LIST.ORDERS")
        assert dead["total"] == 1, dead
        assert (await bus.request("STREAM.INFO.DLQ_ORDERS"))["state"]["messages"] == 1
        assert (await bus.request("DEAD.REQUEUE.ORDERS"))["settled"] == 1
        message = await anext(consumer.pull(1))
        assert (message.sequence, message.payload, message.attempts) == (2, b"bad", 1), message


class Messages(claudebus.Stream):
    """Messages that are not stored, as far as the test needs them."""

    def __init__(self, connection):
        self.arrived = asyncio.Queue()
        super().__init__(connection, 0x30)

    def publish(self, subject, payload, reply):
        fields = [len(subject), len(reply), len(payload), *(part.encode() for part in (subject, reply))]
        self.send(0x33, b"\x01", 1, b"\x04", *fields, payload)

    async def barrier(self):
        token = next(self.tokens)
        reached = self.expect(token)
        self.send(0x34, token)
        await asyncio.wait_for(reached, WAIT)

    def take(self, kind, body):
        if kind == 0xB0:
            self.settle("opened", self)
        elif kind == 0xB1:
            token, (subject, reply, headers) = body.varint(), body.message_parts()
            self.arrived.put_nowait((token, subject, reply, headers, body.rest()))
        elif kind == 0xB2:
            self.settle(body.varint(), None)
        else:
            super().take(kind, body)


@test
async def messages_that_are_not_stored_find_subscriptions():
    async with connected() as bus:
        messages = await Messages(bus.connection).opened
        messages.send(0x31, 1, "greet.>", "")
        messages.send(0x31, 2, "orders.>", "")
        await messages.barrier()
        messages.publish("greet.all", b"hi", "inbox.1")
        messages.publish("nobody", b"hi", "orders.inbox")
        messages.publish("orders.new", b"stored", "")
        await messages.barrier()
        got = [await asyncio.wait_for(messages.arrived.get(), WAIT) for _ in range(3)]
        assert (1, b"greet.all", b"inbox.1", b"", b"hi") in got, got
        assert (2, b"orders.new", b"", b"", b"stored") in got, got
        assert [m[3][:12] for m in got if m[1] == b"orders.inbox"] == [b"NATS/1.0 503"], got
        assert (await bus.request("STREAM.INFO.ORDERS"))["state"]["messages"] >= 1
        messages.send(0x32, 1, 0)
        await messages.barrier()
        messages.publish("greet.all", b"late", "")
        await messages.barrier()
        assert messages.arrived.empty(), messages.arrived
        messages.send(0x31, 3, "not..a pattern", "")
        assert isinstance(await end_of(messages), Refused)
        assert await bus.request("STREAM.NAMES")


HELLO = b'{"minor":0,"name":"test","version":"1.0"}'
MALFORMED, TOO_LARGE, UNEXPECTED, CLIENT_REFUSED, HELLO_TIMEOUT, SHUTDOWN = 1, 2, 3, 4, 5, 7


class Ignored:
    """Stands for a stream whose frames do not matter."""

    def feed(self, *_): pass
    def fail(self, *_): pass


@test
async def malformed_frames_are_refused():
    """Each closes the connection with the code of section 8, and harms no other connection."""
    control, publisher, consumer = (claudebus.frame(kind, *fields) for kind, fields in (
        (claudebus.REQUEST, (1, "INFO")), (claudebus.OPEN_PUBLISHER, (bytes(16),)),
        (claudebus.OPEN_CONSUMER, ("ORDERS", "bill"))))
    cases = [
        ("control", b"\x01\x7f", MALFORMED),  # an unknown type
        ("control", b"\x00", MALFORMED),  # no type
        ("control", control[:1] + b"\x02\x01\x09INFO", MALFORMED),  # a text longer than its frame
        ("control", claudebus.frame(claudebus.REQUEST, 1, b"\x02\xff\xfe"), MALFORMED),  # not UTF-8
        ("control", claudebus.varint(1 << 30) + b"\x02", TOO_LARGE),
        ("control", publisher, UNEXPECTED),
        ("control", claudebus.frame(claudebus.HELLO, HELLO), UNEXPECTED),  # a second one
        ("first", claudebus.frame(claudebus.PULL, 1, 1, 0, 0, b"\x00", 0), UNEXPECTED),
        ("first", publisher[:-1], None),  # half a frame is only waited for
        ("publisher", claudebus.frame(claudebus.PUBLISH, 1, 0), MALFORMED),  # no messages
        ("publisher", claudebus.frame(claudebus.PUBLISH, 1, 1, b"\x80\x00\x00"), MALFORMED),  # a flag
        ("publisher", claudebus.frame(claudebus.PUBLISH, 1, 1, b"\x00\x0aab"), MALFORMED),
        ("publisher", consumer, UNEXPECTED),
        ("consumer", claudebus.frame(claudebus.CANCEL, 1, b"\x00"), MALFORMED),  # left over
        ("consumer", claudebus.frame(claudebus.PULL, 1, 1, 0, 0, b"\x04", 0), MALFORMED),  # a flag
        ("consumer", claudebus.frame(claudebus.ACK, b"\x09", 0, 1, 1, 0), MALFORMED),  # a kind
    ]
    first_frame = {"control": b"", "first": b"", "publisher": publisher, "consumer": consumer}
    async with running() as server, server.connect() as witness:
        await witness.request("STREAM.CREATE.ORDERS", ORDERS)
        await witness.request("CONSUMER.CREATE.ORDERS.bill", BILL)
        for stream, data, code in cases:
            async with server.connect() as bus:
                number = 0 if stream == "control" else 4
                bus.connection.streams.setdefault(4, Ignored())
                bus.connection.write(number, first_frame[stream] + data)
                if code is None:
                    assert await bus.request("INFO")
                else:
                    await asyncio.wait_for(bus.connection.wait_closed(), WAIT)
                    reason = bus.connection.reason
                    assert isinstance(reason, Ended) and reason.args[0] == code, (stream, data, reason)
        assert await witness.request("INFO")


@test
async def a_bad_hello_is_refused():
    async with running() as server:
        for data, code in ((b"\x03\x01{}", MALFORMED), (b"", HELLO_TIMEOUT),
                           (claudebus.frame(claudebus.REQUEST, 1, "INFO"), UNEXPECTED)):
            host, _, port = server.ready["quic"].rpartition(":")
            config = claudebus.QuicConfiguration(
                alpn_protocols=["claudebus/1"], cafile=server.ready["ca"])
            async with claudebus.quic_connect(host, int(port), configuration=config,
                                              create_protocol=claudebus.Connection) as quic:
                quic.streams[0] = Ignored()
                quic.write(0, data)
                await asyncio.wait_for(quic.wait_closed(), WAIT)
                assert quic.reason.args[0] == code, (data, quic.reason)


@test
async def a_stopping_server_says_so():
    async with running() as server, server.connect() as bus:
        await bus.request("STREAM.CREATE.ORDERS", ORDERS)
        await bus.request("CONSUMER.CREATE.ORDERS.bill", BILL)
        consumer, publisher = await bus.consumer("ORDERS", "bill"), await bus.publisher()
        waiting = asyncio.ensure_future(anext(consumer.pull(1)))
        while (await bus.request("CONSUMER.INFO.ORDERS.bill"))["num_waiting"] != 1:
            await asyncio.sleep(0.01)
        await server.stop(signal.SIGTERM)
        assert await refusal(waiting) == (409, 0)
        for stream in (bus, publisher, consumer):
            reason = await end_of(stream)
            assert isinstance(reason, Refused) and reason.err_code == 20009, (stream, reason)
        assert bus.connection.reason.args[0] == SHUTDOWN, bus.connection.reason


@test
async def a_foreign_certificate_is_not_trusted():
    async with running() as server, running() as other:
        try:
            async with connect(server.ready["quic"], other.ready["ca"]):
                raise AssertionError("the certificate of another authority was trusted")
        except ConnectionError:
            pass


@test
async def a_token_is_wanted_where_one_is_set():
    async with running(CLAUDEBUS_AUTH_TOKEN="secret") as server:
        async with server.connect("secret") as bus:
            assert await bus.request("INFO")
        for token in (None, "wrong"):
            try:
                async with server.connect(token):
                    raise AssertionError(f"let in with the token {token}")
            except Refused as error:
                assert (error.code, error.err_code) == (401, 20011), error


async def main():
    failed = 0
    for function in TESTS:
        started = time.monotonic()
        try:
            await asyncio.wait_for(function(), TEST)
            print(f"ok      {function.__name__} ({time.monotonic() - started:.1f} s)", flush=True)
        except Exception:
            failed += 1
            traceback.print_exc()
            print(f"FAILED  {function.__name__}", flush=True)
    print(f"{len(TESTS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    BINARY = sys.argv[1]
    sys.exit(asyncio.run(main()))
