"""A client of the claudebus message broker, after docs/protocol.md and nothing else.

    async with connect("127.0.0.1:4222", ca="tls/ca.pem") as bus:
        await bus.request("STREAM.CREATE.ORDERS", {"subjects": ["orders.>"]})
        publisher = await bus.publisher()
        answers = await publisher.publish([Message("orders.new", b"one")])
        print(await answers[1])                   # Stored(stream='ORDERS', sequence=1, ...)
        await bus.request("CONSUMER.CREATE.ORDERS.bill", {"config": {"ack_policy": "explicit"}})
        consumer = await bus.consumer("ORDERS", "bill")
        async for message in consumer.pull(10, expires=1.0):
            await consumer.ack_durably([message.sequence])

It does not connect again by itself: publish what was not answered on a new connection, under the
same producer id and counters, and it is stored once. Messages that are not stored are left out.
"""

import asyncio
import itertools
import json
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aioquic.asyncio import QuicConnectionProtocol, connect as quic_connect
from aioquic.buffer import Buffer, encode_uint_var as varint
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration

HELLO, REQUEST, OPEN_PUBLISHER, PUBLISH = 0x01, 0x02, 0x10, 0x11
WELCOME, REFUSED, RESPONSE, RESPONSE_MESSAGE = 0x81, 0x82, 0x83, 0x84
PUBLISHER_READY, PUBLISHED, STREAM_NAME, REFUSED_MESSAGE = 0x90, 0x91, 0x92, 0x93
OPEN_CONSUMER, PULL, RAISE, CANCEL, ACK = 0x20, 0x21, 0x22, 0x23, 0x24
CONSUMER_READY, DELIVER, STATUS, ACK_CONFIRMED, GAP = 0xA0, 0xA1, 0xA2, 0xA3, 0xA4
DONE, AGAIN, WORKING, NEVER = 1, 2, 3, 4  # what an ACK says of deliveries
FRAME_BYTES = 64 * 1024  # of messages in a PUBLISH frame, unless one message is larger
WINDOW = 16_384  # messages a publisher has under way before it waits for answers
FIRST_FRAME_BYTES = 16_384  # the largest frame taken before WELCOME tells max_frame


class Refused(Exception):
    """An error from the server: `code` (HTTP's kind), `err_code` (exact; 0: a pull's status)."""

    def __init__(self, code, err_code, text):
        super().__init__(f"{text} ({code}/{err_code})")
        self.code, self.err_code, self.text = code, err_code, text


class Ended(Exception):
    """The stream or connection is over. `args`: the error code, or None after FIN; and a text."""


@dataclass
class Message:
    """A message; those to be published have the first three fields only."""

    subject: str
    payload: bytes = b""
    headers: bytes = b""  # a whole block
    stream: str = ""
    sequence: int = 0  # in the stream; names the message in acknowledgements
    consumer_sequence: int = 0
    attempts: int = 0
    time: int = 0  # when it was stored, in nanoseconds since 1970
    pending: int = 0  # messages still to be delivered for the first time after this one
    payload_left_out: bool = False


@dataclass
class Stored:
    """The answer to a published message. Sequence 0: too long ago to be known."""

    stream: str
    sequence: int
    duplicate: bool


def frame(kind, *fields):
    """A frame of the type `kind`. Its fields: int is a varint, str a text, bytes are as they are."""
    encode = {int: varint, str: lambda s: varint(len(s.encode())) + s.encode(), bytes: bytes}
    body = b"".join(encode[type(value)](value) for value in fields)
    return varint(1 + len(body)) + bytes([kind]) + body


def header_block(headers):
    """The header block of a dict, empty if there are none."""
    lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    return f"NATS/1.0\r\n{lines}\r\n".encode() if headers else b""


def message_fields(message, previous_subject=None):
    """One message of PUBLISH, the subject left out if it is that of the message before."""
    same, headers = message.subject == previous_subject, message.headers
    subject = b"" if same else message.subject.encode()
    lengths = b"" if same else varint(len(subject))
    lengths += (varint(len(headers)) if headers else b"") + varint(len(message.payload))
    return bytes([same | bool(headers) << 1]) + lengths + subject + headers + message.payload


def ranges(sequences):
    """The end of an ACK: how many ranges; of each the distance, and how many follow its first."""
    fields, runs, end = b"", [], 0
    for sequence in sorted(set(sequences)):
        if not runs or sequence > runs[-1][1] + 1:
            runs.append([sequence, sequence])
        runs[-1][1] = sequence
    for first, last in runs:
        fields, end = fields + varint(first - end) + varint(last - first), last
    return varint(len(runs)) + fields


class Body:
    """Reads fields one after the other. A ValueError tells that the peer's bytes are malformed."""

    def __init__(self, data):
        buffer = self.buffer = Buffer(data=data)
        self.u8, self.varint, self.bytes = buffer.pull_uint8, buffer.pull_uint_var, buffer.pull_bytes

    def left(self): return self.buffer.capacity - self.buffer.tell()
    def rest(self): return self.bytes(self.left())
    def text(self): return self.bytes(self.varint()).decode()
    def varints(self, count): return [self.varint() for _ in range(count)]
    def error(self): return Refused(*self.varints(2), self.text())
    def message_parts(self): return [self.bytes(size) for size in self.varints(3)]


class Connection(QuicConnectionProtocol):
    """aioquic's protocol. What it receives it gives to the Stream that it is for."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.streams, self.max_frame, self.reason = {}, FIRST_FRAME_BYTES, None

    def quic_event_received(self, event):
        if isinstance(event, events.StreamDataReceived):
            find = self.streams.pop if event.end_stream else self.streams.__getitem__
            find(event.stream_id).feed(event.data, event.end_stream)
        elif isinstance(event, events.StreamReset):
            self.streams[event.stream_id].fail(Ended(event.error_code, "the stream was reset"))
        elif isinstance(event, events.ConnectionTerminated):
            self.reason = Ended(event.error_code, event.reason_phrase or "the connection is over")
            for stream in self.streams.values():
                stream.fail(self.reason)

    def write(self, stream_id, data, fin=False):
        self._quic.send_stream_data(stream_id, data, end_stream=fin)
        self._transmit_soon()

    async def keep_alive(self):
        while True:
            await asyncio.sleep(10)  # the server gives up after 30 s without a packet
            self._quic.send_ping(0)
            self.transmit()


class Stream:
    """One QUIC stream: sends frames, and gives what arrives to whoever waits for it."""

    def __init__(self, connection, *first_frame):
        self.connection, self.id = connection, connection._quic.get_next_available_stream_id()
        self.buffer, self.waiting, self.tokens = bytearray(), {}, itertools.count(1)
        self.reason, self.over = connection.reason, asyncio.Event()
        connection.streams[self.id] = self
        self.opened = self.expect("opened")
        self.send(*first_frame)

    def send(self, *fields):
        """Sends a frame; an error if the stream is over."""
        if self.reason:
            raise self.reason
        self.connection.write(self.id, frame(*fields))

    def feed(self, data, fin):
        """Takes what arrived, frame by frame."""
        self.buffer += data
        try:
            while self.buffer and len(self.buffer) >= 1 << (self.buffer[0] >> 6):
                prefix = Body(bytes(self.buffer[:8]))
                size, start = prefix.varint(), prefix.buffer.tell()
                if not 0 < size <= self.connection.max_frame:
                    raise ValueError(f"a frame has a length of {size}")
                if len(self.buffer) < start + size:
                    break
                body = Body(bytes(self.buffer[start:start + size]))
                del self.buffer[:start + size]
                self.take(body.u8(), body)
                if body.left():
                    raise ValueError(f"{body.left()} bytes are left over at the end of a frame")
        except (ValueError, KeyError) as error:
            self.connection.close(0x01, str(error))
            self.fail(error)
        if fin:
            self.fail(Ended(None, "the server finished the stream"))

    def take(self, kind, body):
        """Takes one frame: here what all streams know."""
        if kind in (PUBLISHER_READY, CONSUMER_READY):
            self.settle("opened", self)
        elif kind == REFUSED:
            self.fail(body.error())
        else:
            raise ValueError(f"a frame of type {kind:#x} may not come here")

    def expect(self, key):
        """A future for the answer `key`."""
        future = self.waiting[key] = asyncio.get_running_loop().create_future()
        if self.reason:
            self.settle(key, self.reason)
        return future

    def settle(self, key, answer):
        """Gives an answer, or an exception, to whoever expects it."""
        future = self.waiting.pop(key, None)
        if future and not future.done():  # else nobody waits for it any more
            (future.set_exception if isinstance(answer, Exception) else future.set_result)(answer)
            future.exception()  # marks it as seen: nobody need wait for it

    def fail(self, reason):
        """Ends the stream; the first reason counts."""
        self.reason = self.reason or reason
        for key in list(self.waiting):
            self.settle(key, self.reason)
        self.over.set()

    async def finish(self):
        """Sends FIN, and waits until the server has answered everything and finished, too."""
        if not self.reason:
            self.connection.write(self.id, b"", fin=True)
        await self.over.wait()


class Client(Stream):
    """The control stream: requests. Opens the others."""

    def __init__(self, connection, hello):
        self.parts = {}  # beginnings of answers, by request
        super().__init__(connection, HELLO, json.dumps(hello).encode())

    async def request(self, operation, body=None):
        """Asks for an operation. The answer is a dict; that of DIRECT.GET is a Message."""
        number, json_text = next(self.tokens), b"" if body is None else json.dumps(body).encode()
        answer = self.expect(number)
        self.send(REQUEST, number, operation, json_text)
        return await answer

    async def publisher(self, producer_id=None, counter=1):
        """Opens a publisher: a new one, or one of before with the counter to go on with."""
        return await Publisher(self, producer_id or os.urandom(16), counter).opened

    async def consumer(self, stream, name):
        """Opens a consumer, which must exist."""
        return await Consumer(self.connection, stream, name).opened

    def take(self, kind, body):
        if kind == WELCOME:
            self.limits = json.loads(body.rest())["limits"]
            self.connection.max_frame = self.limits["max_frame"]
            self.settle("opened", self)
        elif kind == RESPONSE:
            number, flags = body.varint(), body.u8()
            self.parts[number] = self.parts.get(number, b"") + body.rest()
            if not flags & 2:
                answer = json.loads(self.parts.pop(number))
                if not flags & 1:
                    answer = Refused(answer["code"], answer["err_code"], answer["description"])
                self.settle(number, answer)
        elif kind == RESPONSE_MESSAGE:
            number, stream, (sequence, time) = body.varint(), body.text(), body.varints(2)
            subject, headers, payload = body.message_parts()
            self.settle(number, Message(subject.decode(), payload, headers, stream, sequence, time=time))
        else:
            super().take(kind, body)


class Publisher(Stream):
    """Stores messages. Counters tell a message from its repetition."""

    def __init__(self, client, producer_id, counter):
        self.producer_id, self.counter, self.names = producer_id, counter, {}
        self.max_batch = client.limits["max_batch_messages"]
        super().__init__(client.connection, OPEN_PUBLISHER, producer_id)

    async def publish(self, messages):
        """Sends messages; returns {counter: future of Stored, or Refused, for the message}."""
        answers, batch, size, previous = {}, [], 0, None
        for message in messages:
            fields = message_fields(message, previous)
            if len(batch) == self.max_batch or size + len(fields) > FRAME_BYTES:
                await self.flush(batch)
                fields, size = message_fields(message), 0
            batch.append(fields)
            answers[self.counter + len(batch) - 1] = self.expect(self.counter + len(batch) - 1)
            size, previous = size + len(fields), message.subject
        await self.flush(batch)
        return answers

    async def flush(self, batch):
        """Sends the messages collected as one frame. Waits while WINDOW ones are unanswered."""
        if batch:
            self.send(PUBLISH, self.counter, len(batch), b"".join(batch))
            self.counter += len(batch)
            batch.clear()
        while len(self.waiting) > WINDOW:
            await asyncio.wait([next(iter(self.waiting.values()))])  # the oldest

    def take(self, kind, body):
        if kind == STREAM_NAME:
            self.names |= {body.varint(): body.text()}
        elif kind == PUBLISHED:
            numbers = itertools.count(body.varint())
            while body.left():
                (count, alias, sequence), flags = body.varints(3), body.u8()
                for at in range(count):
                    self.settle(next(numbers), Stored(self.names[alias], sequence and sequence + at, flags == 1))
        elif kind == REFUSED_MESSAGE:
            self.settle(body.varint(), body.error())
        else:
            super().take(kind, body)


class Consumer(Stream):
    """Messages of a consumer, by pulls, and their acknowledgements."""

    def __init__(self, connection, stream, name):
        self.stream, self.pulls, self.gaps = stream, {}, []
        super().__init__(connection, OPEN_CONSUMER, stream, name)

    async def pull(self, batch, expires=30.0, no_wait=False, renew=False):
        """Asks for so many messages, and iterates over those that come in so many seconds, or are there
        now (`no_wait`). `renew`: goes on asking, so that at most `batch` messages wait here."""
        token, left, flags = next(self.tokens), batch, bytes([no_wait | renew << 1])
        self.send(PULL, token, batch, 0, 0 if no_wait else round(expires * 1e9), flags, 0)
        queue = self.pulls[token] = asyncio.Queue()
        try:
            while left and isinstance(item := await queue.get(), Message):
                yield item
                left -= 1
                if renew and left <= batch // 2:
                    self.send(RAISE, token, batch - left, 0)
                    left = batch
            if left and item:
                raise item
        finally:
            del self.pulls[token]
            self.reason or self.send(CANCEL, token)  # it may have ended already

    def ack(self, sequences, kind=DONE, delay=0.0, reason="", confirm=0):
        """Acknowledges messages by their sequences in the stream."""
        how = {AGAIN: [round(delay * 1e9)], NEVER: [reason]}.get(kind, [])
        self.send(ACK, bytes([kind]), *how, confirm, ranges(sequences))

    async def ack_durably(self, sequences, **how):
        """Acknowledges messages; returns when that is durable, or raises Refused."""
        confirmed = self.expect(token := next(self.tokens))
        self.ack(sequences, confirm=token, **how)
        await confirmed

    def take(self, kind, body):
        if kind == DELIVER:
            token, count, numbers = *body.varints(2), None
            for _ in range(count):
                flags = body.u8()  # 2: the numbers go on from those of the message before
                step = (body.varint(), 1, 1 - numbers[2], body.varint(), -1) if flags & 2 else None
                numbers = [a + b for a, b in zip(numbers, step)] if step else body.varints(5)
                subject, headers, payload = body.message_parts()
                of = (headers, self.stream, *numbers, flags & 1 > 0)
                self.arrived(token, Message(subject.decode(), payload, *of))
        elif kind == STATUS:
            token, code, text, _, flags = *body.varints(2), body.text(), body.varints(4), body.u8()
            if flags & 1:  # 100 is no end; after 404 and 408 nothing is wrong
                self.arrived(token, None if code in (404, 408) else Refused(code, 0, text))
        elif kind == GAP:  # the pull, first and last sequence that the server's disk lost, and where
            self.gaps.append((*body.varints(3), body.u8(), body.varint(), body.text(), body.text()))
        elif kind == ACK_CONFIRMED:
            self.settle(body.varint(), None if body.u8() else body.error())
        else:
            super().take(kind, body)

    def arrived(self, token, item):
        """Gives an item to a pull. None waits for one that was left: it will come again."""
        if token in self.pulls:
            self.pulls[token].put_nowait(item)

    def fail(self, reason):
        super().fail(reason)
        for token in self.pulls:
            self.arrived(token, self.reason)


@asynccontextmanager
async def connect(address, ca, token=None):
    """Connects to `host:port`. The authority in the PEM file `ca` must have signed its certificate."""
    host, _, port = address.rpartition(":")
    config = QuicConfiguration(alpn_protocols=["claudebus/1"], cafile=ca, idle_timeout=30.0)
    hello = {"minor": 0, "name": "claudebus.py", "version": "1.0"} | ({"token": token} if token else {})
    async with quic_connect(host, int(port), configuration=config, create_protocol=Connection) as quic:
        pings = asyncio.create_task(quic.keep_alive())
        try:
            yield await Client(quic, hello).opened
        finally:
            pings.cancel()
