"""Key-value buckets."""

import asyncio

import nats.js.errors
from nats.js.errors import (
    BucketNotFoundError, KeyNotFoundError, KeyWrongLastSequenceError, NoKeysError)

from .bench import WAIT, Case, eventually


class KeyValue(Case):
    async def bucket(self, **config):
        bucket = await self.js.create_key_value(bucket=self.name, storage="memory", **config)
        self.addAsyncCleanup(self.delete_stream, f"KV_{self.name}")
        return bucket

    async def next_update(self, watcher):
        """Key, value and operation of an update, or the mark that the initial ones are over."""
        update = await watcher.updates(timeout=WAIT)
        return update and (update.key, update.value, update.operation)

    async def watched(self, watcher):
        """The initial updates."""
        found = []
        while (update := await self.next_update(watcher)) is not None:
            found.append(update)
        return found

    async def is_gone(self, kv, key):
        try:
            await kv.get(key)
        except KeyNotFoundError:
            return True
        return False

    async def test_put_and_get(self):
        kv = await self.bucket()
        self.assertEqual([await kv.put(key, key.encode()) for key in ("a", "a.b/c=_-", "a")],
                         [1, 2, 3])
        entry = await kv.get("a")
        self.assertEqual((entry.bucket, entry.key, entry.value, entry.revision),
                         (self.name, "a", b"a", 3))
        self.assertEqual((await kv.get("a.b/c=_-")).value, b"a.b/c=_-")
        with self.assertRaises(KeyNotFoundError):
            await kv.get("b")

    async def test_get_by_the_direct_way(self):
        kv = await self.bucket(direct=True, history=3)
        for value in b"one", b"two", b"":
            await kv.put("a.b", value)
        self.assertEqual((await kv.get("a.b")).value, None)  # what nats-py makes of an empty one
        self.assertEqual((await kv.get("a.b", revision=2)).value, b"two")
        await kv.delete("a.b")
        for key in "a.b", "b":
            with self.assertRaises(KeyNotFoundError):
                await kv.get(key)

    async def test_get_of_a_revision(self):
        kv = await self.bucket(history=2)
        for n in range(3):
            await kv.put("a", str(n).encode())
        await kv.put("b", b"other")
        self.assertEqual((await kv.get("a", revision=2)).value, b"1")
        for revision in 1, 4, 5:  # too old, of another key, not there yet
            with self.assertRaises(KeyNotFoundError):
                await kv.get("a", revision=revision)

    async def test_create(self):
        kv = await self.bucket()
        self.assertEqual(await kv.create("a", b"one"), 1)
        with self.assertRaises(KeyWrongLastSequenceError):
            await kv.create("a", b"two")
        await kv.delete("a")
        self.assertEqual(await kv.create("a", b"three"), 3)
        await kv.purge("a")
        self.assertEqual(await kv.create("a", b"four"), 5)
        self.assertEqual((await kv.get("a")).value, b"four")

    async def test_update_of_a_revision(self):
        kv = await self.bucket()
        await kv.put("other", b"")
        first = await kv.put("a", b"one")
        second = await kv.update("a", b"two", last=first)
        self.assertEqual((first, second), (2, 3))
        with self.assertRaises(KeyWrongLastSequenceError) as refusal:
            await kv.update("a", b"three", last=first)
        self.assertIn("wrong last sequence: 3", str(refusal.exception))
        self.assertEqual((await kv.get("a")).value, b"two")

    async def test_one_of_many_updates_wins(self):
        kv = await self.bucket()
        await kv.put("count", b"0")
        others = [(await self.connect()).jetstream(timeout=WAIT) for _ in range(3)]

        async def count_up(js, times):
            own = await js.key_value(self.name)
            while times:
                entry = await own.get("count")
                try:
                    await own.update("count", str(int(entry.value) + 1).encode(), entry.revision)
                except KeyWrongLastSequenceError:
                    continue
                times -= 1

        counting = asyncio.gather(*[count_up(js, 20) for js in others])
        await asyncio.wait_for(counting, WAIT)
        self.assertEqual((await kv.get("count")).value, b"60")

    async def test_delete(self):
        kv = await self.bucket(history=5)
        for value in b"one", b"two":
            await kv.put("a", value)
        with self.assertRaises(nats.js.errors.APIError):
            await kv.delete("a", last=1)
        self.assertTrue(await kv.delete("a", last=2))
        with self.assertRaises(KeyNotFoundError):
            await kv.get("a")
        history = [(entry.value, entry.operation) for entry in await kv.history("a")]
        self.assertEqual(history, [(b"one", None), (b"two", None), (b"", "DEL")])

    async def test_purge(self):
        kv = await self.bucket(history=5)
        for key in "aba":
            await kv.put(key, b"value")
        self.assertTrue(await kv.purge("a"))
        with self.assertRaises(KeyNotFoundError):
            await kv.get("a")
        history = [(entry.revision, entry.operation) for entry in await kv.history("a")]
        self.assertEqual(history, [(4, "PURGE")])
        self.assertEqual((await kv.status()).values, 2)

    async def test_keys(self):
        kv = await self.bucket()
        with self.assertRaises(NoKeysError):
            await kv.keys()
        for key in "a", "b.c", "b.d", "e":
            await kv.put(key, b"value")
        await kv.delete("a")
        await kv.purge("e")
        self.assertEqual(sorted(await kv.keys()), ["b.c", "b.d"])
        self.assertEqual(await kv.keys(filters=["d"]), ["b.d"])

    async def test_many_keys(self):
        kv = await self.bucket()
        keys = [f"key.{n:03}" for n in range(600)]
        for start in range(0, 600, 100):
            await asyncio.gather(*[kv.put(key, b"value") for key in keys[start:start + 100]])
        self.assertEqual(sorted(await kv.keys()), keys)

    async def test_history(self):
        kv = await self.bucket(history=3)
        for n in range(5):
            await kv.put("a", str(n).encode())
            await kv.put("b", b"")
        history = [(entry.value, entry.revision, entry.delta) for entry in await kv.history("a")]
        self.assertEqual(history, [(b"2", 5, 2), (b"3", 7, 1), (b"4", 9, 0)])
        with self.assertRaises(NoKeysError):
            await kv.history("c")

    async def test_watch(self):
        kv = await self.bucket(history=3)
        for key, value in ("a", b"1"), ("b", b"2"), ("a", b"3"):
            await kv.put(key, value)
        watcher = await kv.watchall()
        self.assertEqual(await self.watched(watcher), [("b", b"2", None), ("a", b"3", None)])
        await kv.put("c", b"4")
        await kv.delete("a")
        await kv.purge("b")
        came = [await self.next_update(watcher) for _ in range(3)]
        self.assertEqual(came, [("c", b"4", None), ("a", b"", "DEL"), ("b", b"", "PURGE")])
        await watcher.stop()

    async def test_watch_of_some_keys(self):
        kv = await self.bucket(history=3)
        for key in "a.x", "b.x", "a.y", "a.x":
            await kv.put(key, b"before")
        watcher = await kv.watch("a.*")
        self.assertEqual([key for key, *_ in await self.watched(watcher)], ["a.y", "a.x"])
        whole = await kv.watch("a.*", include_history=True)
        self.assertEqual([key for key, *_ in await self.watched(whole)], ["a.x", "a.y", "a.x"])
        for key in "b.x", "a.z":
            await kv.put(key, b"after")
        self.assertEqual(await self.next_update(watcher), ("a.z", b"after", None))
        await watcher.stop()
        await whole.stop()

    async def test_watch_of_an_empty_bucket(self):
        kv = await self.bucket()
        watcher = await kv.watchall(ignore_deletes=True)
        self.assertEqual(await self.watched(watcher), [])
        await kv.put("a", b"1")
        await kv.delete("a")
        await kv.put("a", b"2")
        came = [await self.next_update(watcher) for _ in range(2)]
        self.assertEqual(came, [("a", b"1", None), ("a", b"2", None)])
        await watcher.stop()

    async def test_watch_without_values(self):
        kv = await self.bucket()
        await kv.put("a", b"value")
        watcher = await kv.watchall(meta_only=True)
        self.assertEqual(await self.watched(watcher), [("a", b"", None)])
        await watcher.stop()

    async def test_entries_live_for_the_ttl(self):
        kv = await self.bucket(ttl=0.6)
        self.assertEqual((await kv.status()).ttl, 0.6)
        await kv.put("a", b"value")
        self.assertEqual((await kv.get("a")).value, b"value")
        await eventually(lambda: self.is_gone(kv, "a"), "the key is too old")
        with self.assertRaises(NoKeysError):
            await kv.keys()
        self.assertEqual(await kv.create("a", b"again"), 2)

    async def test_a_ttl_of_one_key(self):
        kv = await self.bucket()
        await kv.create("brief", b"value", msg_ttl=1)
        await kv.create("long", b"value", msg_ttl=600)
        self.assertEqual((await kv.get("brief")).value, b"value")
        await eventually(lambda: self.is_gone(kv, "brief"), "the key is too old")
        # To list keys while one goes is no good idea: nats-py waits for as many as were counted.
        self.assertEqual(await kv.keys(), ["long"])

    async def test_a_mark_where_a_key_grew_old(self):
        if ((await self.js.account_info()).api.level or 0) < 1:
            self.skipTest("the server does not claim that it can")
        kv = await self.bucket(limit_marker_ttl=60)
        self.assertEqual((await kv.status()).marker_ttl, 60)
        watcher = await kv.watchall()
        self.assertEqual(await self.watched(watcher), [])
        await kv.create("a", b"value", msg_ttl=1)
        came = [await self.next_update(watcher) for _ in range(2)]
        self.assertEqual(came, [("a", b"value", None), ("a", b"", "PURGE")])
        await watcher.stop()

    async def test_purge_of_the_marks_of_deleted_keys(self):
        kv = await self.bucket(history=3)
        for key in "abc":
            await kv.put(key, b"value")
        await kv.delete("a")
        await kv.purge("b")
        # Marks that are younger than the limit stay, without what was before them.
        await kv.purge_deletes(olderthan=3600)
        self.assertEqual((await kv.status()).values, 3)
        await kv.purge_deletes(olderthan=0)
        self.assertEqual((await kv.status()).values, 1)
        self.assertEqual(await kv.keys(), ["c"])

    async def test_status(self):
        kv = await self.bucket(history=7, ttl=3600, max_bytes=1 << 20, max_value_size=10)
        await kv.put("a", b"0123456789")
        with self.assertRaises(nats.js.errors.APIError):
            await kv.put("a", b"0123456789a")
        status = await kv.status()
        self.assertEqual((status.bucket, status.history, status.ttl, status.values),
                         (self.name, 7, 3600, 1))
        config = status.stream_info.config
        self.assertEqual((config.max_bytes, config.max_msg_size, config.discard),
                         (1 << 20, 10, "new"))
        self.assertEqual((config.deny_delete, config.allow_rollup_hdrs, config.allow_msg_ttl),
                         (True, True, True))

    async def test_the_bucket_itself(self):
        with self.assertRaises(BucketNotFoundError):
            await self.js.key_value(self.name)
        await (await self.bucket(history=3)).put("a", b"value")
        again = await self.js.create_key_value(bucket=self.name, storage="memory", history=3)
        self.assertEqual((await again.get("a")).value, b"value")
        other = self.js.create_key_value(bucket=self.name, storage="memory", history=4)
        await self.refused(other, 400, 10058)
        self.assertEqual((await (await self.js.key_value(self.name)).get("a")).value, b"value")
        self.assertTrue(await self.js.delete_key_value(self.name))
        with self.assertRaises(BucketNotFoundError):
            await self.js.key_value(self.name)
