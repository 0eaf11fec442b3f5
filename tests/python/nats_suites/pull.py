"""Pull consumers: fetching, the kinds of acknowledgement, limits, and where delivery starts."""

import asyncio
import json
import time

import nats.errors
import nats.js.errors
from nats.js.api import ConsumerConfig

from .bench import SOON, WAIT, Case, eventually, numbers


class Pull(Case):
    async def consumer(self, count=0, **config):
        """A durable pull consumer of a new stream with so many messages."""
        await self.stream()
        await self.publish(count)
        return await self.subscribe(**config)

    async def subscribe(self, durable="d", subject=None, **config):
        return await self.js.pull_subscribe(
            subject or f"{self.subject}.>", durable, self.name, ConsumerConfig(**config))

    async def empty(self, sub, batch=1):
        """Nothing can be fetched."""
        # nats-py has a class of its own for that, but does not always raise it.
        with self.assertRaises(asyncio.TimeoutError):
            await sub.fetch(batch, timeout=SOON)

    async def advisories(self, kind):
        return await self.nc.subscribe(f"$JS.EVENT.ADVISORY.CONSUMER.{kind}.{self.name}.d")

    async def test_fetch(self):
        sub = await self.consumer(10)
        msgs = await sub.fetch(4, timeout=WAIT)
        self.assertEqual([msg.data.decode() for msg in msgs], numbers(4))
        for n, msg in enumerate(msgs, 1):
            meta = msg.metadata
            self.assertEqual((meta.stream, meta.consumer, meta.num_delivered), (self.name, "d", 1))
            self.assertEqual((meta.sequence.stream, meta.sequence.consumer, meta.num_pending),
                             (n, n, 10 - n))
            self.assertLess(abs(meta.timestamp.timestamp() - time.time()), 600)
            self.assertEqual(msg.subject, f"{self.subject}.a")
            await msg.ack()
        one = await sub.fetch(timeout=WAIT)
        self.assertEqual([msg.data.decode() for msg in one], ["4"])

    async def test_fetch_of_more_than_there_is(self):
        sub = await self.consumer(3)
        began = time.monotonic()
        self.assertEqual(len(await sub.fetch(100, timeout=WAIT)), 3)
        self.assertLess(time.monotonic() - began, WAIT / 2)

    async def test_fetch_of_nothing(self):
        sub = await self.consumer()
        for batch in 1, 10:
            began = time.monotonic()
            await self.empty(sub, batch)
            self.assertGreater(time.monotonic() - began, SOON * 0.8)

    async def waits(self, sub):
        """The server knows of a fetch."""
        async def knows():
            return (await sub.consumer_info()).num_waiting == 1

        await eventually(knows, "the server knows of the fetch")

    async def test_fetch_waits_for_what_comes(self):
        sub = await self.consumer()
        # Of many, it goes on waiting for the others until its time is over.
        for batch, timeout in (1, WAIT), (10, 1):
            fetching = asyncio.create_task(sub.fetch(batch, timeout=timeout))
            await self.waits(sub)
            await self.publish(1)
            [msg] = await fetching
            self.assertEqual(msg.data, b"0")
            await msg.ack_sync(timeout=WAIT)

    async def test_fetch_with_heartbeats(self):
        sub = await self.consumer()
        with self.assertRaises(nats.js.errors.FetchTimeoutError):
            # That it is this error tells that heartbeats came.
            await sub.fetch(1, timeout=1, heartbeat=0.2)
        await self.publish(1)
        self.assertEqual(len(await sub.fetch(1, timeout=WAIT, heartbeat=0.2)), 1)

    async def test_a_consumer_that_is_not_there(self):
        sub = await self.consumer(1)
        await self.js.delete_consumer(self.name, "d")
        began = time.monotonic()
        with self.assertRaises(nats.js.errors.ServiceUnavailableError):
            await sub.fetch(1, timeout=WAIT)
        self.assertLess(time.monotonic() - began, WAIT / 2)

    async def test_who_waits_is_told_that_the_consumer_is_deleted(self):
        sub = await self.consumer()
        # By hand: a fetch of nats-py keeps it to itself, and waits until its time is over.
        told = await self.nc.subscribe(f"{self.subject}-told")
        next_message = f"$JS.API.CONSUMER.MSG.NEXT.{self.name}.d"
        await self.nc.publish(next_message, b'{"batch": 5}', reply=f"{self.subject}-told")
        await self.waits(sub)
        await self.js.delete_consumer(self.name, "d")
        msg = await told.next_msg(timeout=WAIT)
        self.assertEqual((msg.headers["Status"], msg.headers["Description"]),
                         ("409", "Consumer Deleted"))

    async def test_workers_share_a_consumer(self):
        first = await self.consumer(200)
        other = (await self.connect()).jetstream(timeout=WAIT)
        second = await other.pull_subscribe_bind("d", self.name)
        seen = []

        async def work(sub):
            share = 0
            while len(seen) < 200:
                try:
                    for msg in await sub.fetch(7, timeout=1):
                        seen.append(msg.data.decode())
                        share += 1
                        await msg.ack_sync(timeout=WAIT)
                except asyncio.TimeoutError:
                    pass
            return share

        shares = await asyncio.wait_for(asyncio.gather(work(first), work(second)), WAIT)
        self.assertEqual(sorted(seen, key=int), numbers(200))
        self.assertTrue(all(shares), "both had a share")

    async def test_ack_sync_is_confirmed(self):
        sub = await self.consumer(2)
        for left, msg in zip((1, 0), await sub.fetch(2, timeout=WAIT)):
            await msg.ack_sync(timeout=WAIT)
            info = await sub.consumer_info()
            self.assertEqual(info.num_ack_pending, left)
        self.assertEqual((info.ack_floor.stream_seq, info.ack_floor.consumer_seq), (2, 2))
        with self.assertRaises(nats.errors.MsgAlreadyAckdError):
            await msg.ack()

    async def test_ack_all(self):
        sub = await self.consumer(5, ack_policy="all")
        msgs = await sub.fetch(5, timeout=WAIT)
        await msgs[3].ack_sync(timeout=WAIT)
        info = await sub.consumer_info()
        self.assertEqual((info.num_ack_pending, info.ack_floor.stream_seq), (1, 4))

    async def test_nak_comes_again_at_once(self):
        sub = await self.consumer(2)
        [first] = await sub.fetch(1, timeout=WAIT)
        await first.nak()
        msgs = await sub.fetch(1, timeout=WAIT) + await sub.fetch(1, timeout=WAIT)
        # A request may overtake the nak before it, so that the new message comes first.
        again, new = sorted(msgs, key=lambda msg: msg.data)
        self.assertEqual((again.data, again.metadata.num_delivered), (b"0", 2))
        self.assertEqual((new.data, new.metadata.num_delivered), (b"1", 1))
        self.assertEqual([msg.metadata.sequence.consumer for msg in msgs], [2, 3])

    async def test_nak_with_a_delay(self):
        sub = await self.consumer(1)
        [msg] = await sub.fetch(1, timeout=WAIT)
        began = time.monotonic()
        await msg.nak(delay=0.8)
        await self.empty(sub)
        [again] = await sub.fetch(1, timeout=WAIT)
        self.assertGreaterEqual(time.monotonic() - began, 0.8)
        self.assertEqual((again.data, again.metadata.num_delivered), (b"0", 2))

    async def test_what_is_not_acknowledged_comes_again(self):
        sub = await self.consumer(1, ack_wait=0.5)
        for attempt in 1, 2, 3:
            [msg] = await sub.fetch(1, timeout=WAIT)
            self.assertEqual((msg.data, msg.metadata.num_delivered), (b"0", attempt))
        info = await sub.consumer_info()
        self.assertEqual((info.num_redelivered, info.num_ack_pending), (1, 1))

    async def test_in_progress_asks_for_more_time(self):
        sub = await self.consumer(2, ack_wait=0.6)
        slow, _ = await sub.fetch(2, timeout=WAIT)
        attempts = []
        while len(attempts) < 2:
            await slow.in_progress()
            try:
                [again] = await sub.fetch(1, timeout=0.15)
            except asyncio.TimeoutError:
                continue
            attempts.append((again.data, again.metadata.num_delivered))
        # The other one came twice more meanwhile.
        self.assertEqual(attempts, [(b"1", 2), (b"1", 3)])
        await slow.ack_sync(timeout=WAIT)

    async def test_term_ends_a_message(self):
        sub = await self.consumer(1, ack_wait=0.5)
        [msg] = await sub.fetch(1, timeout=WAIT)
        await msg.term()

        async def settled():
            return (await sub.consumer_info()).num_ack_pending == 0

        await eventually(settled, "the message is settled")
        with self.assertRaises(asyncio.TimeoutError):
            await sub.fetch(1, timeout=1)
        self.assertEqual((await self.js.stream_info(self.name)).state.messages, 1)

    async def test_max_deliver(self):
        sub = await self.consumer(2, max_deliver=2, ack_wait=0.4)
        advised = await self.advisories("MAX_DELIVERIES")
        for attempt in 1, 2:
            msgs = await sub.fetch(1, timeout=WAIT) + await sub.fetch(1, timeout=WAIT)
            self.assertEqual({(msg.data, msg.metadata.num_delivered) for msg in msgs},
                             {(b"0", attempt), (b"1", attempt)})
        await msgs[0].ack_sync(timeout=WAIT)
        with self.assertRaises(asyncio.TimeoutError):
            await sub.fetch(1, timeout=1.2)
        advisory = json.loads((await advised.next_msg(timeout=WAIT)).data)
        self.assertEqual(advisory["type"], "io.nats.jetstream.advisory.v1.max_deliver")
        self.assertEqual((advisory["stream"], advisory["consumer"]), (self.name, "d"))
        self.assertEqual((advisory["stream_seq"], advisory["deliveries"]),
                         (msgs[1].metadata.sequence.stream, 2))
        await self.nothing_more(advised)

    async def test_backoff(self):
        sub = await self.consumer(1, max_deliver=3, backoff=[0.2, 0.9])
        times = []
        for _ in range(3):
            await sub.fetch(1, timeout=WAIT)
            times.append(time.monotonic())
        self.assertLess(times[1] - times[0], times[2] - times[1])
        self.assertGreaterEqual(times[2] - times[1], 0.85)

    async def test_max_ack_pending(self):
        sub = await self.consumer(5, max_ack_pending=2)
        msgs = await sub.fetch(1, timeout=WAIT) + await sub.fetch(1, timeout=WAIT)
        await self.empty(sub)
        await msgs[0].ack()
        [third] = await sub.fetch(1, timeout=WAIT)
        self.assertEqual(third.data, b"2")
        await self.empty(sub)
        info = await sub.consumer_info()
        self.assertEqual((info.num_ack_pending, info.num_pending), (2, 2))

    async def test_filters(self):
        await self.stream()
        for last in "abcab":
            await self.publish(1, last)
        one = await self.subscribe("one", f"{self.subject}.b")
        two = await self.subscribe(
            "two", filter_subjects=[f"{self.subject}.a", f"{self.subject}.c"])
        for sub, seqs in (one, [2, 5]), (two, [1, 3, 4]):
            msgs = await sub.fetch(10, timeout=WAIT)
            self.assertEqual([msg.metadata.sequence.stream for msg in msgs], seqs)
        info = await two.consumer_info()
        self.assertEqual(info.config.filter_subjects, [f"{self.subject}.a", f"{self.subject}.c"])

    async def test_where_delivery_starts(self):
        await self.stream()
        for last in "abcab":
            await self.publish(1, last)
        since = (await self.js.get_msg(self.name, 4)).time
        policies = {
            "all": ({"deliver_policy": "all"}, [1, 2, 3, 4, 5]),
            "last": ({"deliver_policy": "last"}, [5]),
            "each": ({"deliver_policy": "last_per_subject"}, [3, 4, 5]),
            "from": ({"deliver_policy": "by_start_sequence", "opt_start_seq": 3}, [3, 4, 5]),
            # nats-py cuts the time to microseconds, so that the message itself is not before it.
            "since": ({"deliver_policy": "by_start_time", "opt_start_time": since}, [4, 5]),
            "new": ({"deliver_policy": "new"}, []),
        }
        subs = {name: await self.subscribe(name, **config)
                for name, (config, _) in policies.items()}
        await self.publish(1, "d")
        for name, (_, seqs) in policies.items():
            msgs = await subs[name].fetch(10, timeout=WAIT)
            self.assertEqual([msg.metadata.sequence.stream for msg in msgs], seqs + [6], name)

    async def test_a_durable_consumer_goes_on(self):
        sub = await self.consumer(4)
        for msg in await sub.fetch(2, timeout=WAIT):
            await msg.ack_sync(timeout=WAIT)
        await sub.unsubscribe()
        other = (await self.connect()).jetstream(timeout=WAIT)
        sub = await other.pull_subscribe(f"{self.subject}.>", "d", self.name)
        msgs = await sub.fetch(10, timeout=WAIT)
        self.assertEqual([msg.data.decode() for msg in msgs], numbers(2, 2))

    async def test_an_ephemeral_consumer(self):
        await self.stream()
        await self.publish(2)
        sub = await self.js.pull_subscribe(f"{self.subject}.a")
        self.assertEqual(len(await sub.fetch(2, timeout=WAIT)), 2)
        info = await sub.consumer_info()
        self.assertEqual((info.stream_name, info.config.durable_name), (self.name, None))

    async def test_an_ephemeral_consumer_that_nobody_uses_is_deleted(self):
        await self.stream()
        info = await self.js.add_consumer(
            self.name, ConsumerConfig(name="brief", inactive_threshold=0.3))
        self.assertEqual(info.config.inactive_threshold, 0.3)

        async def is_gone():
            return not await self.js.consumers_info(self.name)

        await eventually(is_gone, "the consumer is deleted")
        await self.refused(self.js.consumer_info(self.name, "brief"), 404, 10014)

    async def test_consumers_are_listed_changed_and_deleted(self):
        await self.consumer(3, description="first", max_deliver=5)
        info = await self.js.consumer_info(self.name, "d")
        config = info.config
        self.assertEqual((config.durable_name, config.description, config.max_deliver),
                         ("d", "first", 5))
        self.assertEqual((config.ack_policy, config.deliver_policy, config.replay_policy),
                         ("explicit", "all", "instant"))
        self.assertEqual((config.ack_wait, config.max_ack_pending, config.max_waiting),
                         (30, 1000, 512))
        self.assertEqual((info.num_pending, info.num_ack_pending, info.num_waiting), (3, 0, 0))
        config.description, config.max_deliver = "second", 7
        changed = (await self.js.add_consumer(self.name, config)).config
        self.assertEqual((changed.description, changed.max_deliver), ("second", 7))
        config.ack_policy = "none"
        with self.assertRaises(nats.js.errors.APIError):
            await self.js.add_consumer(self.name, config)
        names = [info.name for info in await self.js.consumers_info(self.name)]
        self.assertEqual(names, ["d"])
        self.assertTrue(await self.js.delete_consumer(self.name, "d"))
        await self.refused(self.js.delete_consumer(self.name, "d"), 404, 10014)
        self.assertEqual((await self.js.stream_info(self.name)).state.consumer_count, 0)

    async def test_a_consumer_by_the_old_subject(self):
        await self.stream()
        await self.publish(1)
        info = await self.js.add_consumer(self.name, durable_name="old", ack_policy="explicit")
        self.assertEqual((info.name, info.config.durable_name, info.num_pending), ("old", "old", 1))
        sub = await self.js.pull_subscribe_bind("old", self.name)
        self.assertEqual(len(await sub.fetch(1, timeout=WAIT)), 1)

    async def test_what_is_refused(self):
        await self.stream()
        absent = self.js.add_consumer("NO_SUCH_STREAM", durable_name="d")
        await self.refused(absent, 404, 10059)
        # A name in the request that is not the durable one.
        config = ConsumerConfig(name="one", durable_name="other")
        await self.refused(self.js.add_consumer(self.name, config), 400, 10017)

    async def test_a_paused_consumer(self):
        if ((await self.js.account_info()).api.level or 0) < 1:
            self.skipTest("the server does not claim that it can")
        sub = await self.consumer(1)
        pause = await self.js.pause_consumer(self.name, "d", "2099-01-01T00:00:00Z")
        self.assertTrue(pause.paused)
        await self.empty(sub)
        self.assertFalse((await self.js.resume_consumer(self.name, "d")).paused)
        self.assertEqual(len(await sub.fetch(1, timeout=WAIT)), 1)

    async def test_a_consumer_that_is_reset(self):
        sub = await self.consumer(3)
        got = await sub.fetch(3, timeout=WAIT)
        await got[0].ack_sync()
        reset = await self.js.reset_consumer(self.name, "d")
        self.assertEqual((reset.reset_seq, reset.info.num_pending), (2, 2))
        again = await sub.fetch(2, timeout=WAIT)
        self.assertEqual([msg.metadata.sequence.stream for msg in again], [2, 3])
        self.assertEqual([msg.metadata.sequence.consumer for msg in again], [1, 2])
        reset = await self.js.reset_consumer(self.name, "d", seq=3)
        self.assertEqual((reset.reset_seq, reset.info.num_pending), (3, 1))
