"""Messages that nobody stores: subjects, queue groups, requests, the end of subscriptions."""

import asyncio
import time

import nats.errors

from .bench import WAIT, Case, eventually, flushed, numbers


class Core(Case):
    async def test_the_server_says_what_it_is(self):
        version = self.nc.connected_server_version
        self.assertGreaterEqual((version.major, version.minor), (2, 9))
        self.assertGreaterEqual(self.nc.max_payload, 1 << 20)
        self.assertGreater(self.nc.client_id, 0)
        self.assertEqual(self.nc.client_ip, "127.0.0.1")
        self.assertLess(await self.nc.rtt(), WAIT)

    async def test_publish_and_subscribe(self):
        sub = await self.nc.subscribe(f"{self.subject}.a")
        await self.nc.publish(f"{self.subject}.a", b"hello", reply="to.me")
        await self.nc.publish(f"{self.subject}.A", b"not this")
        await self.nc.publish(f"{self.subject}.a", b"")
        first, second = [await sub.next_msg(timeout=WAIT) for _ in range(2)]
        self.assertEqual((first.subject, first.reply, first.data),
                         (f"{self.subject}.a", "to.me", b"hello"))
        self.assertEqual((second.data, second.headers, second.reply), (b"", None, ""))
        await self.nothing_more(sub)

    async def test_messages_of_one_publisher_come_in_order(self):
        other = await self.connect()
        sub = await self.nc.subscribe(f"{self.subject}.>")
        await flushed(self.nc)
        for n in range(5_000):
            await other.publish(f"{self.subject}.{n % 7}", str(n).encode())
        await flushed(other)
        self.assertEqual(await self.next_data(sub, 5_000), numbers(5_000))

    async def test_wildcards(self):
        s = self.subject
        patterns = [f"{s}.*", f"{s}.>", f"{s}.*.c", "*.b.c", f"{s}.b.c"]
        subs = {pattern: await self.nc.subscribe(pattern) for pattern in patterns}
        sent = [f"{s}", f"{s}.a", f"{s}.b", f"{s}.b.c", f"{s}.b.d", f"{s}.b.c.d"]
        for subject in sent:
            await self.nc.publish(subject)
        await flushed(self.nc)
        came = {}
        for pattern, sub in subs.items():
            came[pattern] = [(await sub.next_msg(timeout=WAIT)).subject[len(s):]
                             for _ in range(sub.pending_msgs)]
        self.assertEqual(came, {
            f"{s}.*": [".a", ".b"],
            f"{s}.>": [".a", ".b", ".b.c", ".b.d", ".b.c.d"],
            f"{s}.*.c": [".b.c"],
            "*.b.c": [".b.c"],
            f"{s}.b.c": [".b.c"],
        })

    async def test_each_message_goes_to_one_of_a_queue_group(self):
        other = await self.connect()
        members = [await nc.subscribe(self.subject, queue=queue)
                   for queue in ("red", "blue") for nc in (self.nc, other, other)]
        plain = await self.nc.subscribe(self.subject)
        await flushed(other)
        for n in range(120):
            await self.nc.publish(self.subject, str(n).encode())
        await flushed(self.nc)
        await flushed(other)
        for group in members[:3], members[3:]:
            shares = [await self.next_data(member, member.pending_msgs) for member in group]
            self.assertEqual(sorted(sum(shares, []), key=int), numbers(120))
            self.assertTrue(all(shares), "every member has a share")
        self.assertEqual(await self.next_data(plain, 120), numbers(120))

    async def test_requests_and_replies(self):
        other = await self.connect()

        async def answer(msg):
            await msg.respond(b"re: " + msg.data)

        await other.subscribe(f"{self.subject}.*", cb=answer)
        await flushed(other)
        requests = [self.nc.request(f"{self.subject}.{n}", str(n).encode(), timeout=WAIT)
                    for n in range(200)]
        answers = [answer.data.decode() for answer in await asyncio.gather(*requests)]
        self.assertEqual(answers, [f"re: {n}" for n in range(200)])

    async def test_a_request_with_an_inbox_of_its_own(self):
        async def answer(msg):
            for n in range(3):
                await self.nc.publish(msg.reply, str(n).encode())

        await self.nc.subscribe(self.subject, cb=answer)
        answer = await self.nc.request(self.subject, timeout=WAIT, old_style=True)
        self.assertEqual(answer.data, b"0")

    async def test_a_request_to_nobody_is_refused_at_once(self):
        began = time.monotonic()
        with self.assertRaises(nats.errors.NoRespondersError):
            await self.nc.request(f"{self.subject}.nobody", timeout=WAIT)
        self.assertLess(time.monotonic() - began, WAIT / 2)
        # As it is where the last one has gone.
        sub = await self.nc.subscribe(f"{self.subject}.nobody")
        await sub.unsubscribe()
        with self.assertRaises(nats.errors.NoRespondersError):
            await self.nc.request(f"{self.subject}.nobody", timeout=WAIT)

    async def test_a_request_without_an_answer_times_out(self):
        await self.nc.subscribe(self.subject)
        with self.assertRaises(nats.errors.TimeoutError):
            await self.nc.request(self.subject, timeout=0.2)

    async def test_headers(self):
        sub = await self.nc.subscribe(self.subject)
        headers = {"Trace-Id": "00-ab", "lower": "a: b; c=d", "X-Empty": "", "X-Text": "grün 緑"}
        await self.nc.publish(self.subject, b"with", headers=headers)
        await self.nc.publish(self.subject, headers={"Only": "headers"})
        await self.nc.publish(self.subject, b"without")
        came = [await sub.next_msg(timeout=WAIT) for _ in range(3)]
        self.assertEqual([msg.headers for msg in came], [headers, {"Only": "headers"}, None])
        self.assertEqual([msg.data for msg in came], [b"with", b"", b"without"])

    async def test_unsubscribe(self):
        sub = await self.nc.subscribe(self.subject)
        await self.nc.publish(self.subject, b"before")
        self.assertEqual(await self.next_data(sub, 1), ["before"])
        await sub.unsubscribe()
        other = await self.nc.subscribe(self.subject)
        await self.nc.publish(self.subject, b"after")
        self.assertEqual(await self.next_data(other, 1), ["after"])
        self.assertEqual(sub.pending_msgs, 0)

    async def test_auto_unsubscribe_after_so_many_in_all(self):
        got = []

        async def take(msg):
            got.append(msg.data.decode())

        sub = await self.nc.subscribe(self.subject, cb=take)
        for n in range(2):
            await self.nc.publish(self.subject, str(n).encode())
        await eventually(lambda: len(got) == 2, "the first two")
        await sub.unsubscribe(limit=5)
        for n in range(2, 10):
            await self.nc.publish(self.subject, str(n).encode())
        await flushed(self.nc)
        await eventually(lambda: len(got) >= 5, "five in all")
        # The server itself has forgotten the subscription.
        with self.assertRaises(nats.errors.NoRespondersError):
            await self.nc.request(self.subject, timeout=WAIT)
        self.assertEqual(got, numbers(5))

    async def test_drain_of_a_subscription_hands_over_what_came(self):
        other, got, go_on = await self.connect(), [], asyncio.Event()

        async def take(msg):
            await asyncio.wait_for(go_on.wait(), WAIT)
            got.append(msg.data.decode())

        async def is_forgotten():
            try:
                await other.request(self.subject, timeout=0.05)
            except nats.errors.NoRespondersError:
                return True
            except nats.errors.TimeoutError:
                return False

        sub = await self.nc.subscribe(self.subject, cb=take)
        for n in range(20):
            await self.nc.publish(self.subject, str(n).encode())
        await flushed(self.nc)
        draining = asyncio.create_task(sub.drain())
        await eventually(is_forgotten, "the server has forgotten the subscription")
        self.assertEqual((got, draining.done()), ([], False))
        go_on.set()
        await asyncio.wait_for(draining, WAIT)
        self.assertEqual(got[:20], numbers(20))

    async def test_drain_of_a_connection_loses_nothing(self):
        other, got = await self.connect(), []

        async def take(msg):
            got.append(msg.data.decode())
            await other.publish(f"{self.subject}.done", msg.data)

        done = await self.nc.subscribe(f"{self.subject}.done")
        await other.subscribe(self.subject, cb=take)
        await flushed(other)
        for n in range(100):
            await self.nc.publish(self.subject, str(n).encode())
        await flushed(self.nc)
        await asyncio.wait_for(other.drain(), WAIT)
        self.assertTrue(other.is_closed)
        self.assertEqual(await self.next_data(done, 100), numbers(100))

    async def test_the_largest_message(self):
        sub = await self.nc.subscribe(self.subject)
        payload = bytes(range(256)) * (self.nc.max_payload // 256)
        await self.nc.publish(self.subject, payload)
        self.assertEqual((await sub.next_msg(timeout=WAIT)).data, payload)
        with self.assertRaises(nats.errors.MaxPayloadError):
            await self.nc.publish(self.subject, payload + b"1")

    async def test_echo_off(self):
        quiet = await self.connect(no_echo=True)
        own = await quiet.subscribe(self.subject)
        others = await self.nc.subscribe(self.subject)
        await flushed(quiet)
        await flushed(self.nc)
        await quiet.publish(self.subject, b"from the quiet one")
        self.assertEqual(await self.next_data(others, 1), ["from the quiet one"])
        await self.nc.publish(self.subject, b"from the other")
        self.assertEqual(await self.next_data(own, 1), ["from the other"])

    async def test_a_verbose_and_pedantic_connection(self):
        verbose = await self.connect(verbose=True, pedantic=True)
        sub = await verbose.subscribe(f"{self.subject}.*")
        for n in range(10):
            await verbose.publish(f"{self.subject}.a", str(n).encode())
        self.assertEqual(await self.next_data(sub, 10), numbers(10))
