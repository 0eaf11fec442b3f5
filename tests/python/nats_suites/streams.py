"""Publishing to streams, and the streams themselves."""

import asyncio
import time

import nats.errors
import nats.js.errors

from .bench import WAIT, Case, eventually, numbers


class Publish(Case):
    async def test_an_acknowledgement_says_where(self):
        await self.stream()
        acks = [await self.js.publish(f"{self.subject}.a", b"x") for _ in range(3)]
        self.assertEqual([(ack.stream, ack.seq, ack.duplicate) for ack in acks],
                         [(self.name, n, None) for n in (1, 2, 3)])

    async def test_a_message_id_is_stored_once(self):
        await self.stream(duplicate_window=60)
        for repeated in (None, True, True):
            ack = await self.js.publish(
                f"{self.subject}.a", b"x", headers={"Nats-Msg-Id": "the same"})
            self.assertEqual((ack.seq, ack.duplicate), (1, repeated))
        ack = await self.js.publish(f"{self.subject}.a", b"x", headers={"Nats-Msg-Id": "another"})
        self.assertEqual((ack.seq, ack.duplicate), (2, None))
        self.assertEqual((await self.js.stream_info(self.name)).state.messages, 2)

    async def test_an_atomic_batch(self):
        await self.stream(allow_atomic=True)
        subject = f"{self.subject}.a"
        for number in (1, 2):
            headers = {"Nats-Batch-Id": "u", "Nats-Batch-Sequence": str(number)}
            answer = await self.nc.request(subject, b"x", timeout=WAIT, headers=headers)
            self.assertEqual(answer.data, b"")
        self.assertEqual((await self.js.stream_info(self.name)).state.messages, 0)
        headers = {"Nats-Batch-Id": "u", "Nats-Batch-Sequence": "3", "Nats-Batch-Commit": "1"}
        ack = await self.js.publish(subject, b"x", headers=headers)
        self.assertEqual((ack.seq, ack.batch_id, ack.batch_size), (3, "u", 3))
        await self.refused(self.js.publish(subject, b"x", headers=headers), 400, 10176)
        self.assertEqual((await self.js.stream_info(self.name)).state.messages, 3)

    async def test_a_counter(self):
        await self.stream(allow_msg_counter=True)
        large = 10 ** 40
        for increment, total in ((5, 5), (-7, -2), (large, large - 2)):
            ack = await self.js.publish(
                f"{self.subject}.a", headers={"Nats-Incr": str(increment)})
            self.assertEqual(int(ack.val), total)
        await self.refused(self.js.publish(f"{self.subject}.a", b"x"), 400, 10169)

    async def test_the_stream_that_is_expected(self):
        await self.stream()
        await self.js.publish(f"{self.subject}.a", stream=self.name)
        await self.refused(self.js.publish(f"{self.subject}.a", stream="OTHER"), 400, 10060)
        self.assertEqual((await self.js.stream_info(self.name)).state.last_seq, 1)

    async def expect(self, header, value, last="a"):
        return await self.js.publish(f"{self.subject}.{last}", headers={header: str(value)})

    async def test_the_last_sequence_that_is_expected(self):
        await self.stream()
        self.assertEqual((await self.expect("Nats-Expected-Last-Sequence", 0)).seq, 1)
        self.assertEqual((await self.expect("Nats-Expected-Last-Sequence", 1)).seq, 2)
        error = await self.refused(self.expect("Nats-Expected-Last-Sequence", 1), 400, 10071)
        self.assertEqual(error.description, "wrong last sequence: 2")

    async def test_the_last_sequence_of_the_subject_that_is_expected(self):
        await self.stream()
        header = "Nats-Expected-Last-Subject-Sequence"
        await self.publish(2)
        self.assertEqual((await self.expect(header, 0, "b")).seq, 3)
        self.assertEqual((await self.expect(header, 2, "a")).seq, 4)
        error = await self.refused(self.expect(header, 4, "b"), 400, 10071)
        self.assertEqual(error.description, "wrong last sequence: 3")

    async def test_the_last_message_id_that_is_expected(self):
        await self.stream()
        await self.expect("Nats-Msg-Id", "one")
        await self.expect("Nats-Expected-Last-Msg-Id", "one")
        await self.expect("Nats-Msg-Id", "two")
        await self.refused(self.expect("Nats-Expected-Last-Msg-Id", "one"), 400, 10070)

    async def test_a_subject_without_a_stream(self):
        with self.assertRaises(nats.js.errors.NoStreamResponseError):
            await self.js.publish(f"{self.subject}.a", timeout=WAIT)

    async def test_many_at_a_time(self):
        await self.stream()
        futures = [await self.js.publish_async(f"{self.subject}.a", str(n).encode())
                   for n in range(500)]
        await asyncio.wait_for(self.js.publish_async_completed(), WAIT)
        self.assertEqual([future.result().seq for future in futures], list(range(1, 501)))
        missing = await self.js.publish_async(f"not.{self.subject}")
        with self.assertRaises(nats.js.errors.NoStreamResponseError):
            await asyncio.wait_for(missing, WAIT)

    async def test_a_message_of_the_core_is_stored_too(self):
        await self.stream()
        sub = await self.nc.subscribe(f"{self.subject}.a")
        await self.nc.publish(f"{self.subject}.a", b"core", headers={"K": "v"})
        self.assertEqual(await self.next_data(sub, 1), ["core"])

        async def stored():
            return (await self.js.stream_info(self.name)).state.messages == 1

        await eventually(stored, "the message is in the stream")
        msg = await self.js.get_msg(self.name, 1)
        self.assertEqual((msg.data, msg.headers), (b"core", {"K": "v"}))

    async def test_a_message_that_is_too_large(self):
        await self.stream(max_msg_size=100)
        await self.js.publish(f"{self.subject}.a", bytes(100))
        await self.refused(self.js.publish(f"{self.subject}.a", bytes(101)), 400, 10054)

    async def test_a_full_stream_that_takes_no_more(self):
        await self.stream(max_msgs=2, discard="new")
        await self.publish(2)
        await self.refused(self.js.publish(f"{self.subject}.a"), 503, 10077)

    async def test_a_rollup_replaces_what_was_before(self):
        await self.stream(allow_rollup_hdrs=True)
        await self.publish(3, "a")
        await self.publish(2, "b")
        await self.expect("Nats-Rollup", "sub", "a")
        info = await self.js.stream_info(self.name, subjects_filter=">")
        self.assertEqual(info.state.subjects, {f"{self.subject}.a": 1, f"{self.subject}.b": 2})


class Streams(Case):
    async def test_create(self):
        info = await self.stream(
            storage="file", max_msgs=10, max_bytes=1 << 20, max_age=3600.5, max_msg_size=1 << 16,
            max_msgs_per_subject=3, duplicate_window=90, allow_direct=True, deny_delete=True,
            description="for a test", metadata={"owner": "tests"}, retention="limits")
        for info in info, await self.js.stream_info(self.name):
            config = info.config
            self.assertEqual((config.name, config.subjects), (self.name, [f"{self.subject}.>"]))
            self.assertEqual((config.storage, config.retention, config.discard),
                             ("file", "limits", "old"))
            self.assertEqual((config.max_msgs, config.max_bytes, config.max_msg_size),
                             (10, 1 << 20, 1 << 16))
            self.assertEqual((config.max_age, config.duplicate_window), (3600.5, 90))
            self.assertEqual((config.max_msgs_per_subject, config.num_replicas), (3, 1))
            self.assertEqual((config.allow_direct, config.deny_delete, config.description),
                             (True, True, "for a test"))
            self.assertEqual(config.metadata["owner"], "tests")
            state = info.state
            self.assertEqual((state.messages, state.bytes, state.first_seq, state.last_seq,
                              state.consumer_count), (0, 0, 0, 0, 0))

    async def test_create_again(self):
        await self.stream(max_msgs=10)
        await self.publish(1)
        again = await self.js.add_stream(
            name=self.name, subjects=[f"{self.subject}.>"], max_msgs=10, storage="memory")
        self.assertEqual(again.state.messages, 1)
        other = self.js.add_stream(
            name=self.name, subjects=[f"{self.subject}.>"], max_msgs=11, storage="memory")
        await self.refused(other, 400, 10058)

    async def test_subjects_of_another_stream(self):
        await self.stream()
        subjects = [f"{self.subject}.*.c"]
        other = self.js.add_stream(name=f"{self.name}_2", subjects=subjects, storage="memory")
        await self.refused(other, 400, 10065)

    async def test_update(self):
        config = (await self.stream()).config
        await self.publish(5)
        config.max_msgs = 3
        config.subjects = [f"{self.subject}.a", f"{self.subject}-other"]
        info = await self.js.update_stream(config)
        self.assertEqual((info.config.max_msgs, info.state.messages, info.state.first_seq),
                         (3, 3, 3))
        await self.js.publish(f"{self.subject}-other")
        with self.assertRaises(nats.js.errors.NoStreamResponseError):
            await self.js.publish(f"{self.subject}.b", timeout=WAIT)
        config.storage = "file"
        with self.assertRaises(nats.js.errors.APIError):
            await self.js.update_stream(config)

    async def test_info_counts_by_subject(self):
        await self.stream()
        await self.publish(3, "a")
        await self.publish(2, "b")
        info = await self.js.stream_info(self.name, subjects_filter=f"{self.subject}.a")
        self.assertEqual(info.state.subjects, {f"{self.subject}.a": 3})
        self.assertEqual((info.state.messages, info.state.first_seq, info.state.last_seq),
                         (5, 1, 5))
        self.assertGreater(info.state.bytes, 5)

    async def test_purge(self):
        await self.stream()

        async def left():
            state = (await self.js.stream_info(self.name, subjects_filter=">")).state
            counts = state.subjects or {}
            return state.first_seq, state.messages, [
                counts.get(f"{self.subject}.{last}", 0) for last in "ab"]

        await self.publish(4, "a")
        await self.publish(4, "b")
        await self.js.purge_stream(self.name, subject=f"{self.subject}.a", keep=1)
        self.assertEqual(await left(), (4, 5, [1, 4]))
        await self.js.purge_stream(self.name, seq=6)
        self.assertEqual(await left(), (6, 3, [0, 3]))
        await self.js.purge_stream(self.name, subject=f"{self.subject}.b")
        await self.publish(1)
        await self.js.purge_stream(self.name)
        self.assertEqual(await left(), (10, 0, [0, 0]))

    async def test_delete(self):
        await self.stream()
        self.assertTrue(await self.js.delete_stream(self.name))
        await self.refused(self.js.stream_info(self.name), 404, 10059)
        await self.refused(self.js.delete_stream(self.name), 404, 10059)
        with self.assertRaises(nats.js.errors.NoStreamResponseError):
            await self.js.publish(f"{self.subject}.a", timeout=WAIT)
        await self.stream()
        self.assertEqual((await self.js.stream_info(self.name)).state.last_seq, 0)

    async def test_get_a_message(self):
        await self.stream()
        await self.publish(2, "a")
        await self.js.publish(f"{self.subject}.b", b"\x00\xff", headers={"Color": "a: b"})
        await self.publish(1, "a")
        msg = await self.js.get_msg(self.name, 3)
        self.assertEqual((msg.subject, msg.seq, msg.data, msg.headers),
                         (f"{self.subject}.b", 3, b"\x00\xff", {"Color": "a: b"}))
        self.assertLess(abs(msg.time.timestamp() - time.time()), 600)
        last = await self.js.get_last_msg(self.name, f"{self.subject}.a")
        self.assertEqual((last.seq, last.data, last.headers), (4, b"0", None))
        following = await self.js.get_msg(self.name, 2, f"{self.subject}.b", next=True)
        self.assertEqual(following.seq, 3)
        await self.refused(self.js.get_msg(self.name, 9), 404, 10037)
        await self.refused(self.js.get_last_msg(self.name, f"{self.subject}.c"), 404, 10037)

    async def test_get_a_message_directly(self):
        await self.stream(allow_direct=True)
        await self.publish(2, "a")
        await self.js.publish(f"{self.subject}.b", b"", headers={"Color": "red"})
        msg = await self.js.get_msg(self.name, 1, direct=True)
        self.assertEqual((msg.subject, msg.seq, msg.data), (f"{self.subject}.a", 1, b"0"))
        self.assertLess(abs(msg.time.timestamp() - time.time()), 600)
        last = await self.js.get_last_msg(self.name, f"{self.subject}.b", direct=True)
        self.assertEqual((last.seq, last.data, last.headers["Color"]), (3, None, "red"))
        following = await self.js.get_msg(self.name, 2, f"{self.subject}.*", True, True)
        self.assertEqual(following.seq, 2)
        with self.assertRaises(nats.js.errors.NotFoundError):
            await self.js.get_msg(self.name, 9, direct=True)
        with self.assertRaises(nats.errors.NoRespondersError):
            await self.js.get_msg("NO_SUCH_STREAM", 1, direct=True)

    async def test_delete_a_message(self):
        await self.stream()
        await self.publish(3)
        self.assertTrue(await self.js.delete_msg(self.name, 2))
        await self.refused(self.js.get_msg(self.name, 2), 404, 10037)
        state = (await self.js.stream_info(self.name)).state
        self.assertEqual((state.messages, state.num_deleted), (2, 1))
        await self.refused(self.js.delete_msg(self.name, 2), 400, 10043)

    async def test_limits(self):
        await self.stream(max_msgs_per_subject=2, max_msgs=3)
        await self.publish(3, "a")
        await self.publish(2, "b")
        info = await self.js.stream_info(self.name, subjects_filter=">")
        self.assertEqual(info.state.subjects, {f"{self.subject}.a": 1, f"{self.subject}.b": 2})
        self.assertEqual((info.state.first_seq, info.state.last_seq), (3, 5))

    async def test_messages_grow_old(self):
        await self.stream(max_age=0.5)
        await self.publish(3)

        async def empty():
            return (await self.js.stream_info(self.name)).state.messages == 0

        await eventually(empty, "all are too old")
        self.assertEqual((await self.js.stream_info(self.name)).state.last_seq, 3)

    async def test_streams_are_found(self):
        await self.stream()
        found = await self.js.find_stream_name_by_subject(f"{self.subject}.*.c")
        self.assertEqual(found, self.name)
        with self.assertRaises(nats.js.errors.NotFoundError):
            await self.js.find_stream_name_by_subject(f"{self.subject}")
        names = [info.config.name for info in await self.js.streams_info()]
        self.assertIn(self.name, names)
        listed = [info.config.name for info in await self.js.streams_info_iterator()]
        self.assertIn(self.name, listed)

    async def test_the_account_is_counted(self):
        before = await self.js.account_info()
        await self.stream()
        await self.js.add_consumer(self.name, durable_name="d")
        after = await self.js.account_info()
        self.assertEqual((after.streams - before.streams, after.consumers - before.consumers),
                         (1, 1))
        self.assertGreater(after.api.total, before.api.total)

    async def test_a_work_queue_forgets_what_is_done(self):
        await self.stream(retention="workqueue")
        await self.publish(3)
        sub = await self.js.pull_subscribe(f"{self.subject}.>", durable="work")
        for msg in (await sub.fetch(3, timeout=WAIT))[:2]:
            await msg.ack_sync(timeout=WAIT)
        state = (await self.js.stream_info(self.name)).state
        self.assertEqual((state.messages, state.first_seq), (1, 3))
        another = self.js.add_consumer(self.name, durable_name="other")
        await self.refused(another, 400, 10099)

    async def test_an_interest_stream_keeps_what_somebody_waits_for(self):
        await self.stream(retention="interest")
        self.assertEqual((await self.js.publish(f"{self.subject}.a", b"nobody")).seq, 1)
        subs = [await self.js.pull_subscribe(f"{self.subject}.>", durable=name) for name in "xy"]
        await self.publish(2)
        for left, sub in (2, subs[0]), (0, subs[1]):
            msgs = await sub.fetch(2, timeout=WAIT)
            self.assertEqual([msg.data.decode() for msg in msgs], numbers(2))
            for msg in msgs:
                await msg.ack_sync(timeout=WAIT)
            state = (await self.js.stream_info(self.name)).state
            self.assertEqual((state.messages, state.last_seq), (left, 3))
