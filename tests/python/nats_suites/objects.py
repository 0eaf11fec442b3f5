"""Object stores."""

import base64
import hashlib
import io
import json

import nats.js.errors
from nats.js.api import ObjectMeta, ObjectMetaOptions
from nats.js.errors import BucketNotFoundError, NotFoundError, ObjectNotFoundError

from .bench import WAIT, Case

MEGABYTE = bytes(n % 251 for n in range(1 << 20))


class Objects(Case):
    async def bucket(self, name=None, **config):
        config = {"storage": "memory"} | config
        store = await self.js.create_object_store(name or self.name, **config)
        self.addAsyncCleanup(self.delete_stream, f"OBJ_{name or self.name}")
        return store

    async def chunks(self, store):
        """How many parts of objects are stored."""
        status = await self.js.stream_info(store._stream, subjects_filter="$O.*.C.>")
        return sum((status.state.subjects or {}).values())

    async def test_put_and_get_a_megabyte(self):
        store = await self.bucket(storage="file")
        info = await store.put("big", MEGABYTE)
        self.assertEqual((info.size, info.chunks), (1 << 20, 8))
        found = await store.get("big")
        self.assertEqual(found.data, MEGABYTE)
        digest = base64.urlsafe_b64encode(hashlib.sha256(MEGABYTE).digest()).decode()
        self.assertEqual(found.info.digest, f"SHA-256={digest}")

    async def test_put_and_get_of_files(self):
        store, into = await self.bucket(), io.BytesIO()
        await store.put("file", io.BytesIO(MEGABYTE[:200_000]))
        await store.get("file", writeinto=into)
        self.assertEqual(into.getvalue(), MEGABYTE[:200_000])

    async def test_an_empty_object(self):
        store = await self.bucket()
        info = await store.put("empty", b"")
        self.assertEqual((info.size, info.chunks), (0, 0))
        self.assertEqual((await store.get("empty")).data, b"")

    async def test_info(self):
        store = await self.bucket()
        meta = ObjectMeta(description="words", headers={"Color": "red"},
                          options=ObjectMetaOptions(max_chunk_size=10))
        await store.put("a name / with ümlauts", b"0123456789abcde", meta=meta)
        info = await store.get_info("a name / with ümlauts")
        self.assertEqual((info.name, info.bucket, info.size, info.chunks, info.description),
                         ("a name / with ümlauts", self.name, 15, 2, "words"))
        self.assertEqual((info.headers, info.options.max_chunk_size), ({"Color": "red"}, 10))
        with self.assertRaises(ObjectNotFoundError):
            await store.get_info("no such object")

    async def test_another_version_replaces_the_first(self):
        store = await self.bucket()
        await store.put("a", MEGABYTE[:300_000])
        self.assertEqual(await self.chunks(store), 3)
        await store.put("a", b"short")
        self.assertEqual((await store.get("a")).data, b"short")
        self.assertEqual(await self.chunks(store), 1)

    async def test_a_new_description_and_name(self):
        store = await self.bucket()
        await store.put("a", b"data")
        await store.update_meta("a", ObjectMeta(name="a", description="new"))
        self.assertEqual((await store.get_info("a")).description, "new")
        self.assertEqual((await store.get("a")).data, b"data")

    async def test_list(self):
        store = await self.bucket()
        with self.assertRaises(NotFoundError):
            await store.list()
        for name in "abc":
            await store.put(name, name.encode())
        await store.delete("b")
        listed = [(info.name, info.deleted) for info in await store.list()]
        self.assertEqual(sorted(listed), [("a", False), ("b", True), ("c", False)])

    async def test_delete(self):
        store = await self.bucket()
        await store.put("a", MEGABYTE[:300_000])
        await store.delete("a")
        with self.assertRaises(ObjectNotFoundError):
            await store.get("a")
        with self.assertRaises(ObjectNotFoundError):
            await store.delete("a")
        info = await store.get_info("a", show_deleted=True)
        self.assertEqual((info.deleted, info.size), (True, 0))
        self.assertEqual(await self.chunks(store), 0)
        await store.put("a", b"again")
        self.assertEqual((await store.get("a")).data, b"again")

    async def test_watch(self):
        store = await self.bucket()
        await store.put("before", b"1")
        watcher = await store.watch()
        seen = [(await watcher.updates(timeout=WAIT)).name, await watcher.updates(timeout=WAIT)]
        self.assertEqual(seen, ["before", None])
        await store.put("after", b"2")
        await store.delete("before")
        updates = [await watcher.updates(timeout=WAIT) for _ in range(2)]
        self.assertEqual([(info.name, info.deleted) for info in updates],
                         [("after", False), ("before", True)])
        await watcher.stop()

    async def test_watch_of_what_is_new(self):
        store = await self.bucket()
        await store.put("before", b"1")
        watcher = await store.watch(updates_only=True)
        await store.put("after", b"2")
        self.assertEqual((await watcher.updates(timeout=WAIT)).name, "after")
        await watcher.stop()

    async def test_a_sealed_store_stays_as_it_is(self):
        store = await self.bucket(ttl=3600)
        await store.put("a", b"data")
        await store.seal()
        status = await store.status()
        self.assertEqual((status.sealed, status.ttl), (True, 0))
        await self.refused(self.js.publish(f"$O.{self.name}.C.x", b"more"), 400, 10109)
        with self.assertRaises(nats.js.errors.APIError):
            await store.delete("a")
        self.assertEqual((await store.get("a")).data, b"data")

    async def test_a_link_leads_to_an_object_of_another_store(self):
        target, store = await self.bucket(f"{self.name}_2"), await self.bucket()
        await target.put("a", b"data of the other")
        # nats-py follows links, but has no call that makes one.
        link = {"name": "link", "bucket": self.name, "nuid": "x", "size": 0, "chunks": 0,
                "options": {"link": {"bucket": f"{self.name}_2", "name": "a"}}}
        name = base64.urlsafe_b64encode(b"link").decode()
        await self.js.publish(f"$O.{self.name}.M.{name}", json.dumps(link).encode(),
                              headers={"Nats-Rollup": "sub"})
        self.assertTrue((await store.get_info("link")).is_link())
        self.assertEqual((await store.get("link")).data, b"data of the other")

    async def test_the_store_itself(self):
        with self.assertRaises(BucketNotFoundError):
            await self.js.object_store(self.name)
        store = await self.bucket(description="for a test", ttl=3600, max_bytes=1 << 20)
        await store.put("a", b"data")
        status = await (await self.js.object_store(self.name)).status()
        self.assertEqual((status.bucket, status.description, status.ttl, status.storage_type),
                         (self.name, "for a test", 3600, "memory"))
        self.assertGreater(status.size, 4)
        self.assertTrue(await self.js.delete_object_store(self.name))
        with self.assertRaises(BucketNotFoundError):
            await self.js.object_store(self.name)
