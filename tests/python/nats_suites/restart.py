"""A server that is killed with SIGKILL and started again: clients come back by themselves, and all
that was acknowledged is there.
"""

import asyncio
import json
import os
import socket
import subprocess
import tempfile
import unittest
from pathlib import Path

import nats.js.errors
from event_bus import CloudEvent, NATSEventBus
from nats.js.api import ConsumerConfig

from .bench import KIND, WAIT, Case, eventually, numbers

COMMAND = json.loads(os.environ.get("SERVER_COMMAND", "null"))
# A NATS server writes what consumers have done a while after it has confirmed it: what was
# acknowledged just before the kill may come again.
FORGETS = KIND == "nats-server"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """A server of its own: the same port and the same data each time it is started."""

    def __init__(self, folder):
        self.folder, self.port, self.process = Path(folder), free_port(), None
        self.url = f"nats://127.0.0.1:{self.port}"
        values = {"port": str(self.port), "data": str(self.folder / "data")}
        self.argv = []
        for argument in COMMAND:
            for name, value in values.items():
                argument = argument.replace("{" + name + "}", value)
            self.argv.append(argument)

    def start(self):
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def log(self):
        return (self.folder / "log").read_text(errors="replace")[-4000:]


@unittest.skipUnless(COMMAND, "SERVER_COMMAND says how to start a server that can be killed")
class Restart(Case):
    async def asyncSetUp(self):
        folder = tempfile.TemporaryDirectory(prefix="nats-restart-")
        self.addCleanup(folder.cleanup)
        self.server = Server(folder.name)
        self.server.start()
        self.addCleanup(self.server.kill)
        await eventually(self.is_listening, "the server is ready")
        self.came_back = asyncio.Semaphore(0)
        await super().asyncSetUp()

    async def asyncTearDown(self):
        # What clients are told while the server is away is no matter of these tests.
        self.errors.clear()
        await super().asyncTearDown()

    def is_listening(self):
        self.assertIsNone(self.server.process.poll(), self.server.log())
        try:
            socket.create_connection(("127.0.0.1", self.server.port), timeout=1).close()
        except ConnectionRefusedError:
            return False
        return True

    async def connect(self, **options):
        async def back():
            self.came_back.release()

        options = {"reconnect_time_wait": 0.05, "max_reconnect_attempts": -1} | options
        return await super().connect(self.server.url, reconnected_cb=back, **options)

    async def kill_and_start(self):
        self.server.kill()
        await eventually(lambda: not self.nc.is_connected, "the client has seen it")
        self.server.start()

    async def back(self):
        await asyncio.wait_for(self.came_back.acquire(), WAIT)

    async def test_subscriptions_and_requests_go_on(self):
        sub = await self.nc.subscribe(f"{self.subject}.*")

        async def answer(msg):
            await msg.respond(b"answer")

        await self.nc.subscribe(f"{self.subject}-request", queue="q", cb=answer)
        limited = await self.nc.subscribe(f"{self.subject}.*")
        await limited.unsubscribe(limit=3)
        await self.nc.publish(f"{self.subject}.a", b"before")
        self.assertEqual(await self.next_data(sub, 1), ["before"])
        self.assertEqual(await self.next_data(limited, 1), ["before"])
        await self.kill_and_start()
        # What is published meanwhile goes out when the client is back.
        await self.nc.publish(f"{self.subject}.a", b"meanwhile")
        await self.back()
        self.assertEqual(await self.next_data(sub, 1), ["meanwhile"])
        answered = await self.nc.request(f"{self.subject}-request", timeout=WAIT)
        self.assertEqual(answered.data, b"answer")
        for n in range(3):
            await self.nc.publish(f"{self.subject}.a", str(n).encode())
        self.assertEqual(await self.next_data(sub, 3), numbers(3))
        # Three in all, over both connections.
        self.assertEqual(await self.next_data(limited, 2), ["meanwhile", "0"])
        self.assertEqual(limited.pending_msgs, 0)

    async def test_what_was_acknowledged_is_there(self):
        await self.stream(storage="file")
        await self.publish(100)
        before = await self.js.stream_info(self.name)
        msg = await self.js.get_msg(self.name, 50)
        await self.kill_and_start()
        await self.back()
        after = await self.js.stream_info(self.name)
        self.assertEqual((after.config, after.created), (before.config, before.created))
        self.assertEqual((after.state.messages, after.state.bytes, after.state.last_seq),
                         (100, before.state.bytes, 100))
        self.assertEqual(await self.js.get_msg(self.name, 50), msg)
        self.assertEqual((await self.js.publish(f"{self.subject}.a")).seq, 101)

    async def test_a_publisher_that_goes_on_publishes_each_once(self):
        await self.stream(storage="file")
        stored, half, killed = {}, asyncio.Event(), asyncio.Event()

        async def publish_all():
            for n in range(200):
                if n == 100:
                    half.set()
                    await killed.wait()
                while n not in stored:
                    headers = {"Nats-Msg-Id": f"message-{n}"}
                    try:
                        ack = await self.js.publish(
                            f"{self.subject}.a", str(n).encode(), timeout=0.5, headers=headers)
                        stored[n] = ack.seq
                    except (asyncio.TimeoutError, nats.js.errors.NoStreamResponseError):
                        continue  # it is on its way back

        publishing = asyncio.create_task(publish_all())
        await asyncio.wait_for(half.wait(), WAIT)
        await self.kill_and_start()
        killed.set()
        await asyncio.wait_for(publishing, WAIT)
        self.assertEqual((await self.js.stream_info(self.name)).state.messages, 200)
        for n in 0, 99, 100, 199:
            self.assertEqual((await self.js.get_msg(self.name, stored[n])).data, str(n).encode())
        # The ids of before are still known.
        again = await self.js.publish(f"{self.subject}.a", headers={"Nats-Msg-Id": "message-0"})
        self.assertEqual((again.seq, again.duplicate), (stored[0], True))

    async def test_a_consumer_goes_on(self):
        await self.stream(storage="file")
        await self.publish(10)
        sub = await self.js.pull_subscribe(
            f"{self.subject}.a", "d", config=ConsumerConfig(ack_wait=1))
        msgs = await sub.fetch(6, timeout=WAIT)
        for msg in msgs[:4]:
            await msg.ack_sync(timeout=WAIT)
        await self.kill_and_start()
        await self.back()
        came = []

        async def all_settled():
            try:
                for msg in await sub.fetch(10, timeout=0.5):
                    came.append((msg.data.decode(), msg.metadata.num_delivered))
                    await msg.ack_sync(timeout=WAIT)
            except (asyncio.TimeoutError, nats.js.errors.ServiceUnavailableError):
                pass
            return (await sub.consumer_info()).ack_floor.stream_seq == 10

        await eventually(all_settled, "all are acknowledged")
        if FORGETS:
            self.assertLessEqual(set(numbers(6, 4)), {data for data, _ in came})
            return
        # None that was acknowledged; and the attempts are still counted.
        new = [(n, 1) for n in numbers(4, 6)]
        self.assertEqual(sorted(came), [("4", 2), ("5", 2)] + new)

    async def test_an_ordered_consumer_goes_on(self):
        await self.stream(storage="file")
        await self.publish(3)
        sub = await self.js.subscribe(
            f"{self.subject}.a", ordered_consumer=True, idle_heartbeat=0.3)
        self.assertEqual(await self.next_data(sub, 3), numbers(3))
        await self.kill_and_start()
        await self.back()
        await self.js.publish(f"{self.subject}.a", b"after")
        self.assertEqual(await self.next_data(sub, 1), ["after"])

    async def test_buckets_are_as_they_were(self):
        kv = await self.js.create_key_value(bucket=self.name, history=3)
        for n in range(3):
            await kv.put("a", str(n).encode())
        await kv.put("gone", b"value")
        await kv.delete("gone")
        store = await self.js.create_object_store(self.name)
        await store.put("object", bytes(1 << 20))
        await self.kill_and_start()
        await self.back()
        self.assertEqual([entry.value for entry in await kv.history("a")], [b"0", b"1", b"2"])
        self.assertEqual(await kv.keys(), ["a"])
        self.assertEqual(await kv.update("a", b"3", last=3), 6)
        self.assertEqual((await store.get("object")).data, bytes(1 << 20))

    async def test_the_event_bus_goes_on(self):
        bus, got = NATSEventBus(self.server.url), []
        await bus.connect()
        self.addAsyncCleanup(bus.close)

        async def take(event):
            got.append(event.data)

        await bus.subscribe("claude.>", take, durable="worker")
        attributes = {"type": "test.event", "source": "/tests", "subject": "claude.task.started"}
        await bus.publish(CloudEvent(attributes, "before"))
        await eventually(lambda: got, "the first event")

        async def all_settled():
            info = await self.js.consumer_info("CLAUDE_EVENTS", "worker")
            return info.num_ack_pending == 0

        await eventually(all_settled, "its acknowledgement")
        await self.kill_and_start()
        await self.back()
        await eventually(lambda: bus.nc.is_connected, "the bus is back")
        await bus.publish(CloudEvent(attributes, "after"))
        await eventually(lambda: "after" in got, "the second event")
        came = list(dict.fromkeys(got)) if FORGETS else got
        self.assertEqual(came, ["before", "after"])
