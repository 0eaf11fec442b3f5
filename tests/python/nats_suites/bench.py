"""What the suites share: a connection for each test, names that are its own, waits with limits."""

import asyncio
import functools
import itertools
import os
import time
import unittest
from datetime import timedelta

import nats
import nats.js.errors
from nats.nuid import NUID

WAIT = 10.0  # seconds any one condition may take
TEST = 60.0  # seconds one test may take: some loops of nats-py have no limit of their own
SOON = 0.3  # seconds in which what must not come would have come

URL = os.environ["NATS_URL"]
KIND = os.environ["SERVER_KIND"]

RUN = NUID().next().decode()[-6:]  # the tests may run again on the same data
NUMBERS = itertools.count(1)


class Case(unittest.IsolatedAsyncioTestCase):
    """A test with a connection. It fails if the server reports an error that it does not expect."""

    def __init_subclass__(cls):
        for name, method in list(vars(cls).items()):
            if name.startswith("test_"):
                setattr(cls, name, limited(method))

    async def asyncSetUp(self):
        self.name = f"T{next(NUMBERS)}_{RUN}"  # of streams and buckets
        self.subject = self.name.lower()  # what subjects begin with
        self.errors = []
        self.nc = await self.connect()
        self.js = self.nc.jetstream(timeout=WAIT)

    async def asyncTearDown(self):
        self.assertEqual(self.errors, [], "errors that the client was told")

    async def connect(self, url=URL, **options):
        async def error(problem):
            self.errors.append(problem)

        nc = await nats.connect(url, error_cb=error, **options)
        self.addAsyncCleanup(nc.close)
        return nc

    async def stream(self, subjects=None, **config):
        """A stream of `<subject>.>` in memory, which is gone after the test."""
        subjects = subjects or [f"{self.subject}.>"]
        config = {"storage": "memory"} | config
        info = await self.js.add_stream(name=self.name, subjects=subjects, **config)
        self.addAsyncCleanup(self.delete_stream, self.name)
        return info

    async def delete_stream(self, name):
        if self.nc.is_closed:
            return
        try:
            await self.js.delete_stream(name)
        except nats.js.errors.NotFoundError:
            pass

    async def publish(self, count, last="a"):
        """Publishes `0`, `1` and so on to `<subject>.<last>`."""
        for n in range(count):
            await self.js.publish(f"{self.subject}.{last}", str(n).encode())

    async def refused(self, awaitable, code, err_code):
        """The server must answer with this error."""
        with self.assertRaises(nats.js.errors.APIError) as refusal:
            await awaitable
        answered = (refusal.exception.code, refusal.exception.err_code)
        self.assertEqual(answered, (code, err_code), refusal.exception.description)
        return refusal.exception

    async def nothing_more(self, sub):
        """Nothing comes on the subscription, once all that was sent before has come."""
        await flushed(self.nc)
        with self.assertRaises(nats.errors.TimeoutError):
            print(await sub.next_msg(timeout=SOON))

    async def next_data(self, sub, count):
        """What the next messages say."""
        return [(await sub.next_msg(timeout=WAIT)).data.decode() for _ in range(count)]


def limited(method):
    """The same test, which fails if it takes too long."""
    @functools.wraps(method)
    async def test(self):
        await asyncio.wait_for(method(self), TEST)

    return test


async def flushed(nc):
    """Waits until the server has done all that the client asked it for."""
    # The PING of a flush of nats-py overtakes the commands that wait to be written. They are
    # written by the time it is answered, so that the second one comes after them.
    await nc.flush()
    await nc.flush()


async def eventually(condition, what):
    """Waits until the function, or the coroutine function, returns something true; returns that."""
    limit = time.monotonic() + WAIT
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        if time.monotonic() > limit:
            raise AssertionError(f"waited {timedelta(seconds=WAIT)} in vain: {what}")
        await asyncio.sleep(0.01)


def numbers(count, first=0):
    """What `Case.publish` publishes."""
    return [str(n) for n in range(first, first + count)]
