// Object stores.

import assert from "node:assert/strict";

import { headers } from "@nats-io/nats-core";
import { Objm } from "@nats-io/obj";

import { check, eventually, inTime, refused, take } from "../bench.mjs";

/** A store in memory, which is gone after the test. */
async function store(bench, suffix = "", options = {}) {
  const name = bench.name + suffix;
  const os = await new Objm(bench.js).create(name, { storage: "memory", ...options });
  bench.gone(() => os.destroy());
  return os;
}

const bytes = (length) => new Uint8Array(length).map((_, at) => at * 7 % 251);

function stream(...parts) {
  return new ReadableStream({
    start(controller) {
      for (const part of parts) controller.enqueue(part);
      controller.close();
    },
  });
}

async function read(result) {
  const parts = [];
  await inTime((async () => {
    for await (const part of result.data) parts.push(part);
  })(), "all of an object");
  assert.ok(!await result.error);
  return Buffer.concat(parts);
}

check("objects are put and got, in chunks", async (bench) => {
  const os = await store(bench);
  const content = bytes(1_000_000);
  const meta = { name: "big one/with a path", description: "a test", metadata: { owner: "tests" } };
  meta.headers = headers();
  meta.headers.append("Key", "one");
  meta.headers.append("Key", "two");
  const put = await os.put(meta, stream(content.slice(0, 7), content.slice(7)));
  assert.deepEqual([put.name, put.size, put.deleted], [meta.name, 1_000_000, false]);
  assert.ok(put.chunks >= 7 && put.digest.startsWith("SHA-256="), JSON.stringify(put));
  const got = await os.get(meta.name);
  assert.equal(Buffer.compare(await read(got), content), 0);
  assert.deepEqual(got.info.headers.values("Key"), ["one", "two"]);
  assert.deepEqual([got.info.description, got.info.metadata.owner], ["a test", "tests"]);
  const blob = await os.getBlob(meta.name);
  assert.equal(Buffer.compare(blob, content), 0);
  assert.equal(await os.get("nothing"), null);
  assert.equal(await os.getBlob("nothing"), null);
});

check("objects may be empty, and chunks small", async (bench) => {
  const os = await store(bench);
  await os.putBlob({ name: "empty" }, new Uint8Array(0));
  assert.equal((await os.getBlob("empty")).length, 0);
  const info = await os.putBlob({ name: "small", options: { max_chunk_size: 10 } }, bytes(95));
  assert.equal(info.chunks, 10);
  assert.equal(Buffer.compare(await os.getBlob("small"), bytes(95)), 0);
});

check("a new object takes the place of the old one", async (bench) => {
  const os = await store(bench);
  const first = await os.putBlob({ name: "a" }, bytes(1_000));
  const second = await os.putBlob({ name: "a" }, bytes(2_000), { previousRevision: first.revision });
  assert.notEqual(second.nuid, first.nuid);
  await refused(os.putBlob({ name: "a" }, bytes(3), { previousRevision: first.revision }), 10071);
  assert.equal((await os.getBlob("a")).length, 2_000);
  const { streamInfo } = await os.status();
  assert.equal(streamInfo.state.messages, 2, "one chunk, one description");
});

check("objects are listed, described, renamed and deleted", async (bench) => {
  const os = await store(bench);
  await os.putBlob({ name: "a" }, bytes(10));
  await os.putBlob({ name: "b" }, bytes(20));
  const names = async () => (await os.list()).map((info) => info.name).sort();
  assert.deepEqual(await names(), ["a", "b"]);
  assert.equal((await os.info("a")).size, 10);
  assert.equal(await os.info("nothing"), null);
  await os.update("a", { name: "c", description: "renamed" });
  assert.deepEqual(await names(), ["b", "c"]);
  assert.equal((await os.info("c")).description, "renamed");
  assert.equal(Buffer.compare(await os.getBlob("c"), bytes(10)), 0);
  assert.ok((await os.delete("b")).success);
  assert.equal((await os.info("b")).deleted, true);
  assert.equal(await os.get("b"), null);
  assert.deepEqual(await names(), ["c"]);
});

check("watchers see objects come and go", async (bench) => {
  const os = await store(bench);
  await os.putBlob({ name: "a" }, bytes(10));
  const watch = (await os.watch({ includeHistory: true }))[Symbol.asyncIterator]();
  const [first] = await take(watch, 1);
  assert.equal(first.name, "a");
  await os.putBlob({ name: "b" }, bytes(10));
  await os.delete("a");
  const changes = (await take(watch, 2)).map((info) => [info.name, info.deleted === true]);
  assert.deepEqual(changes, [["b", false], ["a", true]]);
});

check("links lead to objects and to stores", async (bench) => {
  const os = await store(bench);
  const other = await store(bench, "_2");
  const info = await os.putBlob({ name: "a" }, bytes(100));
  const link = await other.link("to a", info);
  assert.deepEqual(link.options.link, { bucket: bench.name, name: "a" });
  assert.equal(Buffer.compare(await other.getBlob("to a"), bytes(100)), 0);
  const whole = await other.linkStore("to the store", os);
  assert.deepEqual(whole.options.link, { bucket: bench.name });
  await assert.rejects(other.link("to a link", link), /link/);
});

check("a sealed store changes no more", async (bench) => {
  const os = await store(bench);
  await os.putBlob({ name: "a" }, bytes(10));
  const sealed = await os.seal();
  assert.equal(sealed.sealed, true);
  await assert.rejects(os.putBlob({ name: "b" }, bytes(10)));
  await assert.rejects(os.delete("a"));
  assert.equal((await os.getBlob("a")).length, 10);
});

check("stores tell of themselves", async (bench) => {
  const os = await store(bench, "", { description: "a test", compression: true, max_bytes: 1_000_000 });
  await os.putBlob({ name: "a" }, bytes(1_000));
  const status = await os.status();
  assert.deepEqual([status.bucket, status.description, status.storage], [bench.name, "a test", "memory"]);
  assert.deepEqual([status.sealed, status.compression, status.backingStore], [false, true, "JetStream"]);
  assert.ok(status.size > 1_000);
  const names = [];
  for await (const found of new Objm(bench.js).list()) names.push(found.bucket);
  assert.ok(names.includes(bench.name));
  const opened = await new Objm(bench.js).open(bench.name);
  assert.equal((await opened.info("a")).size, 1_000);
  assert.equal(await os.destroy(), true);
  await eventually(async () => (await bench.jsm.streams.names().next()).length >= 0, "an answer");
});
