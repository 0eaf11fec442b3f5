"""The event bus of an application, over JetStream: CloudEvents, durable consumers, three attempts.

It is as such an application writes it, with nats-py and nothing that is special to one server. Where
it has a comment, the obvious way to write the line fails, against any server.
"""

import asyncio
import json
import uuid
from datetime import datetime, timezone

import nats
from nats.js.api import ConsumerConfig

MAX_DELIVER = 3  # attempts, before an event is given up
GIVEN_UP = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}.{durable}"


class CloudEvent:
    """A CloudEvent 1.0: its attributes, which are read like those of a dict, and its data."""

    def __init__(self, attributes, data=None):
        self.attributes = {
            "specversion": "1.0",
            "id": str(uuid.uuid4()),
            "time": datetime.now(timezone.utc).isoformat(),
            **attributes,
        }
        self.data = data

    def __getitem__(self, name):
        return self.attributes[name]

    def __setitem__(self, name, value):
        self.attributes[name] = value

    def get(self, name, default=None):
        return self.attributes.get(name, default)

    def to_structured(self):
        """Headers and body in the structured mode."""
        body = self.attributes | {"datacontenttype": "application/json", "data": self.data}
        return {"content-type": "application/cloudevents+json"}, json.dumps(body).encode()

    @classmethod
    def from_json(cls, body):
        attributes = json.loads(body)
        return cls(attributes, attributes.pop("data", None))


class NATSEventBus:
    STREAMS = {
        "CLAUDE_EVENTS": "claude.>",
        "MCP_EVENTS": "mcp.>",
        "SYSTEM_EVENTS": "system.>",
        "AI_EVENTS": "ai.>",
    }

    def __init__(self, url):
        self.url = url
        self.nc = None
        self.js = None
        self.subscriptions = {}
        # The event loop itself holds only weak references to tasks: one that nobody else holds may
        # vanish while it waits, and its consumer falls silent.
        self.tasks = set()

    async def connect(self):
        """Connect to NATS with JetStream; create the streams, or find them as they are."""
        self.nc = await nats.connect(self.url)
        self.js = self.nc.jetstream()
        for stream_name, subjects in self.STREAMS.items():
            await self.js.add_stream(
                name=stream_name,
                subjects=[subjects],
                storage="file",
                retention="limits",
                max_msgs=100000,
                max_age=86400 * 7,  # 7 days
                duplicate_window=120,  # 2 min deduplication
            )

    async def publish(self, event, trace_id=None):
        """Publish a CloudEvent with tracing; the acknowledgement says where it is stored."""
        if trace_id:
            event["traceparent"] = trace_id
        headers, body = event.to_structured()
        if event.get("traceparent"):
            headers["traceparent"] = event["traceparent"]
        # `publish` has no argument for the message id: it is a header.
        headers["Nats-Msg-Id"] = event["id"]
        # The argument is `stream`. To expect one and the same stream of all events would refuse
        # those of the other three.
        return await self.js.publish(
            event["subject"], body, headers=headers, stream=self.stream_of(event["subject"])
        )

    async def subscribe(self, subject, handler, durable=None):
        """Call `handler` with each event, once if it does not fail, at most three times."""
        config = ConsumerConfig(
            deliver_policy="all",
            ack_policy="explicit",
            max_deliver=MAX_DELIVER,
            ack_wait=30,
        )
        # The durable name is an argument: if it stands in the configuration alone, nats-py asks for a
        # consumer with a name of its own choice besides, and servers refuse two different names. It
        # also looks for a consumer that is there already by this argument only.
        sub = await self.js.pull_subscribe(subject, durable=durable, config=config)
        self.subscriptions[subject] = (sub, handler)
        self._start(self._consume_loop(sub, handler))

    async def _consume_loop(self, sub, handler):
        """Consume messages with error handling."""
        while True:
            try:
                msgs = await sub.fetch(batch=10, timeout=1)
            except asyncio.TimeoutError:
                continue
            for msg in msgs:
                try:
                    await handler(CloudEvent.from_json(msg.data))
                except Exception:
                    # No dead letter is written here: an attempt that failed is not the last, and to
                    # write one at each leaves three. After the last one, the server tells.
                    await msg.nak()
                else:
                    await msg.ack()

    async def on_given_up(self, subject, durable, handler):
        """Call `handler` with each event that failed three times, and the number of attempts."""
        stream = self.stream_of(subject)

        async def advised(msg):
            advisory = json.loads(msg.data)
            raw = await self.js.get_msg(stream, advisory["stream_seq"])
            await handler(CloudEvent.from_json(raw.data), advisory["deliveries"])

        await self.nc.subscribe(GIVEN_UP.format(stream=stream, durable=durable), cb=advised)

    async def close(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.nc.close()

    def stream_of(self, subject):
        """The stream that keeps the subject."""
        category = subject.split(".")[0] + ".>"
        return next(name for name, subjects in self.STREAMS.items() if subjects == category)

    def _start(self, work):
        task = asyncio.create_task(work)
        self.tasks.add(task)
