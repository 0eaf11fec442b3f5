"""Push consumers: durable, shared by a queue group, ordered."""

import asyncio

import nats.errors
import nats.js.errors
from nats.js.api import ConsumerConfig

from .bench import WAIT, Case, eventually, flushed, numbers


class Push(Case):
    async def test_a_callback_acknowledges(self):
        await self.stream()
        await self.publish(5)
        got = []

        async def take(msg):
            got.append((msg.subject, msg.data.decode(), msg.metadata.sequence.consumer))

        sub = await self.js.subscribe(f"{self.subject}.*", cb=take)

        async def all_settled():
            info = await sub.consumer_info()
            return info.ack_floor.stream_seq == 5 and info.num_ack_pending == 0

        await eventually(all_settled, "all are acknowledged")
        self.assertEqual(got, [(f"{self.subject}.a", str(n), n + 1) for n in range(5)])
        await self.publish(1, "b")
        await eventually(lambda: len(got) == 6, "one more")

    async def test_without_acknowledgement_it_comes_again(self):
        await self.stream()
        await self.publish(1)
        sub = await self.js.subscribe(
            f"{self.subject}.a", config=ConsumerConfig(ack_wait=0.4), manual_ack=True)
        for attempt in 1, 2:
            msg = await sub.next_msg(timeout=WAIT)
            self.assertEqual((msg.data, msg.metadata.num_delivered), (b"0", attempt))
        await msg.ack_sync(timeout=WAIT)
        self.assertEqual((await sub.consumer_info()).num_ack_pending, 0)

    async def test_a_durable_one_goes_on(self):
        await self.stream()
        await self.publish(4)
        config = ConsumerConfig(ack_wait=1)
        sub = await self.js.subscribe(f"{self.subject}.a", durable="d", config=config)
        for _ in range(2):
            await (await sub.next_msg(timeout=WAIT)).ack_sync(timeout=WAIT)
        self.assertTrue((await sub.consumer_info()).push_bound)
        with self.assertRaises(nats.js.errors.Error):
            await self.js.subscribe(f"{self.subject}.a", durable="d")
        # Two are handed out and never acknowledged.
        self.assertEqual(await self.next_data(sub, 2), ["2", "3"])
        await sub.unsubscribe()

        async def is_free():
            return not (await self.js.consumer_info(self.name, "d")).push_bound

        await eventually(is_free, "nobody is bound to it")
        await self.publish(1)
        other = (await self.connect()).jetstream(timeout=WAIT)
        sub = await other.subscribe(f"{self.subject}.a", durable="d")
        came = set()
        while len(came) < 3:
            msg = await sub.next_msg(timeout=WAIT)
            came.add((msg.data.decode(), msg.metadata.sequence.stream))
            await msg.ack()
        self.assertEqual(came, {("2", 3), ("3", 4), ("0", 5)})

    async def test_a_queue_group_shares(self):
        await self.stream()
        other = await self.connect()
        seen = {1: [], 2: [], 3: []}
        for member, nc in (1, self.nc), (2, other), (3, other):
            async def take(msg, member=member):
                seen[member].append(msg.data.decode())

            js = nc.jetstream(timeout=WAIT)
            sub = await js.subscribe(f"{self.subject}.a", "workers", cb=take)
        await flushed(other)
        await self.publish(150)

        async def settled():
            info = await sub.consumer_info()
            return info.ack_floor.stream_seq == 150 and info.num_ack_pending == 0

        await eventually(settled, "all are acknowledged")
        self.assertEqual(sorted(sum(seen.values(), []), key=int), numbers(150))
        self.assertTrue(all(seen.values()), "every member has a share")
        info = await sub.consumer_info()
        self.assertEqual((info.config.deliver_group, info.name), ("workers", "workers"))

    async def test_no_more_than_max_ack_pending(self):
        await self.stream()
        await self.publish(4)
        sub = await self.js.subscribe(f"{self.subject}.a", config=ConsumerConfig(max_ack_pending=2))
        first, _ = [await sub.next_msg(timeout=WAIT) for _ in range(2)]
        await self.nothing_more(sub)
        await first.ack()
        self.assertEqual(await self.next_data(sub, 1), ["2"])
        await self.nothing_more(sub)

    async def test_headers_alone(self):
        await self.stream()
        await self.js.publish(f"{self.subject}.a", b"12345", headers={"Color": "red"})
        sub = await self.js.subscribe(f"{self.subject}.a", headers_only=True)
        msg = await sub.next_msg(timeout=WAIT)
        self.assertEqual((msg.data, msg.headers), (b"", {"Color": "red", "Nats-Msg-Size": "5"}))

    async def test_where_delivery_starts(self):
        await self.stream()
        await self.publish(2, "a")
        await self.publish(2, "b")
        for policy, came in ("all", "0101"), ("last", "1"), ("last_per_subject", "11"):
            sub = await self.js.subscribe(
                f"{self.subject}.*", deliver_policy=policy, ordered_consumer=True)
            self.assertEqual("".join(await self.next_data(sub, len(came))), came)
            await self.nothing_more(sub)
            await sub.unsubscribe()

    async def test_heartbeats_and_flow_control(self):
        await self.stream()
        payload = bytes(16 << 10)
        for _ in range(50):
            futures = [await self.js.publish_async(f"{self.subject}.a", payload) for _ in range(10)]
            await asyncio.gather(*futures)
        sub = await self.js.subscribe(
            f"{self.subject}.a", idle_heartbeat=0.3, flow_control=True,
            config=ConsumerConfig(ack_policy="none"))
        for seq in range(1, 501):
            msg = await sub.next_msg(timeout=WAIT)
            self.assertEqual((msg.metadata.sequence.stream, msg.data), (seq, payload))
        # Heartbeats are nothing a subscriber sees, and they make no errors.
        await self.nothing_more(sub)

    async def test_ordered(self):
        await self.stream()
        await self.publish(300)
        sub = await self.js.subscribe(f"{self.subject}.a", ordered_consumer=True)
        self.assertEqual(await self.next_data(sub, 300), numbers(300))
        await self.js.publish(f"{self.subject}.a", b"new")
        self.assertEqual(await self.next_data(sub, 1), ["new"])
        config = (await sub.consumer_info()).config
        self.assertEqual((config.ack_policy, config.max_deliver, config.flow_control),
                         ("none", 1, True))

    async def test_ordered_goes_on_when_its_consumer_is_gone(self):
        await self.stream()
        await self.publish(3)
        sub = await self.js.subscribe(
            f"{self.subject}.a", ordered_consumer=True, idle_heartbeat=0.3)
        self.assertEqual(await self.next_data(sub, 3), numbers(3))
        before = sub._consumer
        await self.js.delete_consumer(self.name, before)
        await self.publish(3)
        self.assertEqual(await self.next_data(sub, 3), numbers(3))
        self.assertNotEqual(sub._consumer, before)
        await self.nothing_more(sub)

    async def test_a_consumer_ends_with_its_subscriber(self):
        await self.stream()
        sub = await self.js.subscribe(f"{self.subject}.a", inactive_threshold=0.3)
        self.assertEqual((await self.js.stream_info(self.name)).state.consumer_count, 1)
        await sub.unsubscribe()

        async def is_gone():
            return (await self.js.stream_info(self.name)).state.consumer_count == 0

        await eventually(is_gone, "the consumer is deleted")
