"""The event bus of an application: each event once, and three attempts for those that fail."""

import asyncio
import json
import unittest

import nats.js.errors
from event_bus import MAX_DELIVER, CloudEvent, NATSEventBus

from .bench import KIND, URL, Case, eventually


class EventBus(Case):
    async def asyncSetUp(self):
        await super().asyncSetUp()
        for stream in NATSEventBus.STREAMS:
            self.addAsyncCleanup(self.delete_stream, stream)
            self.addAsyncCleanup(self.delete_stream, f"DLQ_{stream}")
        self.bus = await self.start()
        self.got = []

    async def asyncTearDown(self):
        # Before the cleanups, which go on with the connection that is still open.
        await self.bus.close()
        await super().asyncTearDown()

    async def start(self):
        bus = NATSEventBus(URL)
        await bus.connect()
        return bus

    def event(self, subject, data=None):
        return CloudEvent({"type": "test.event", "source": "/tests", "subject": subject}, data)

    async def take(self, event):
        self.got.append((event["subject"], event.data))

    async def settled(self, stream, durable):
        """Waits until nothing is left to do for the consumer."""
        async def nothing_left():
            info = await self.js.consumer_info(stream, durable)
            return info.num_pending == 0 and info.num_ack_pending == 0

        await eventually(nothing_left, "the consumer is done")

    async def test_each_event_comes_once(self):
        await self.bus.subscribe("claude.>", self.take, durable="all")
        events = [self.event(f"claude.task.{n % 3}", {"n": n}) for n in range(50)]
        acks = [await self.bus.publish(event) for event in events]
        self.assertEqual([(ack.stream, ack.seq) for ack in acks],
                         [("CLAUDE_EVENTS", n) for n in range(1, 51)])
        # A publisher that is not sure publishes again.
        acks = await asyncio.gather(*[self.bus.publish(event) for event in events])
        self.assertEqual([(ack.seq, ack.duplicate) for ack in acks],
                         [(n, True) for n in range(1, 51)])
        await self.settled("CLAUDE_EVENTS", "all")
        self.assertEqual(self.got, [(event["subject"], event.data) for event in events])

    async def test_every_category_has_its_stream(self):
        for category, stream in ("mcp", "MCP_EVENTS"), ("system", "SYSTEM_EVENTS"), ("ai", "AI_EVENTS"):
            await self.bus.subscribe(f"{category}.*", self.take, durable="worker")
            ack = await self.bus.publish(self.event(f"{category}.started", category))
            self.assertEqual(ack.stream, stream)
            await self.settled(stream, "worker")
        self.assertEqual(sorted(self.got), [(f"{category}.started", category)
                                            for category in ("ai", "mcp", "system")])

    async def test_an_event_is_stored_with_its_headers(self):
        event = self.event("claude.command.executed", {"text": "grün"})
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        ack = await self.bus.publish(event, trace_id=trace)
        msg = await self.js.get_msg("CLAUDE_EVENTS", ack.seq)
        self.assertEqual(msg.headers, {
            "content-type": "application/cloudevents+json",
            "traceparent": trace,
            "Nats-Msg-Id": event["id"],
            "Nats-Expected-Stream": "CLAUDE_EVENTS",
        })
        body = json.loads(msg.data)
        self.assertEqual((body["specversion"], body["traceparent"], body["data"]),
                         ("1.0", trace, {"text": "grün"}))

    async def test_a_worker_that_is_back_goes_on(self):
        await self.bus.subscribe("ai.>", self.take, durable="worker")
        await self.bus.publish(self.event("ai.model.retrained", 1))
        await self.settled("AI_EVENTS", "worker")
        await self.bus.close()
        self.bus = await self.start()
        await self.bus.publish(self.event("ai.model.retrained", 2))
        await self.bus.subscribe("ai.>", self.take, durable="worker")
        await self.settled("AI_EVENTS", "worker")
        self.assertEqual([data for _, data in self.got], [1, 2])

    async def fail_one(self, given_up=None):
        """Publishes three events of which the second fails each time; returns the attempts at it."""
        attempts = []

        async def handler(event):
            if event.data == "bad":
                attempts.append(event["id"])
                raise ValueError("this one cannot be handled")
            await self.take(event)

        if given_up:
            await self.bus.on_given_up("mcp.>", "worker", given_up)
        await self.bus.subscribe("mcp.>", handler, durable="worker")
        events = [self.event("mcp.server.error", data) for data in ("good", "bad", "better")]
        for event in events:
            await self.bus.publish(event, trace_id="00-ab-cd-01")
        await self.settled("MCP_EVENTS", "worker")
        self.assertEqual(attempts, [events[1]["id"]] * MAX_DELIVER)
        self.assertEqual(sorted(data for _, data in self.got), ["better", "good"])
        return events[1]

    async def test_an_event_that_fails_three_times_is_told_of(self):
        advised = await self.nc.subscribe("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>")
        given_up = []

        async def take(event, attempts):
            given_up.append((event["id"], event.data, attempts))

        bad = await self.fail_one(take)
        await eventually(lambda: given_up, "the application is told")
        self.assertEqual(given_up, [(bad["id"], "bad", MAX_DELIVER)])
        self.assertEqual((await advised.next_msg()).subject,
                         "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.MCP_EVENTS.worker")
        await self.nothing_more(advised)

    async def test_an_event_that_fails_once_is_no_dead_letter(self):
        failed = []

        async def handler(event):
            if not failed:
                failed.append(event.data)
                raise ValueError("not the first time")
            await self.take(event)

        await self.bus.subscribe("system.>", handler, durable="worker")
        await self.bus.publish(self.event("system.startup", "x"))
        await self.settled("SYSTEM_EVENTS", "worker")
        self.assertEqual((failed, self.got), (["x"], [("system.startup", "x")]))
        with self.assertRaises(nats.js.errors.NotFoundError):
            await self.js.get_last_msg("DLQ_SYSTEM_EVENTS", "$DLQ.SYSTEM_EVENTS.worker")

    @unittest.skipUnless(KIND == "claudebus", "a server that keeps dead letters")
    async def test_an_event_that_fails_three_times_is_a_dead_letter(self):
        bad = await self.fail_one()

        async def letter():
            try:
                return await self.js.get_last_msg("DLQ_MCP_EVENTS", "$DLQ.MCP_EVENTS.worker")
            except nats.js.errors.NotFoundError:
                return None

        msg = await eventually(letter, "the dead letter is there")
        event = CloudEvent.from_json(msg.data)
        self.assertEqual((event["id"], event.data), (bad["id"], "bad"))
        self.assertEqual((msg.headers["traceparent"], msg.headers["Claudebus-Dead-Subject"]),
                         ("00-ab-cd-01", "mcp.server.error"))
        self.assertEqual((msg.headers["Claudebus-Dead-Sequence"],
                          msg.headers["Claudebus-Dead-Attempts"]), ("2", "3"))
        self.assertEqual((await self.js.stream_info("DLQ_MCP_EVENTS")).state.messages, 1)
