// Key-value buckets.

import assert from "node:assert/strict";

import { Kvm, KvWatchInclude } from "@nats-io/kv";

import { all, check, eventually, refused, take } from "../bench.mjs";

/** A bucket in memory, which is gone after the test. */
async function bucket(bench, options = {}) {
  const kv = await new Kvm(bench.js).create(bench.name, { storage: "memory", ...options });
  bench.gone(() => kv.destroy());
  return kv;
}

/** What an entry is, for comparing. */
const brief = (entry) => [entry.key, entry.operation, entry.string(), entry.revision];

check("values are put and got", async (bench) => {
  const kv = await bucket(bench, { history: 5 });
  assert.equal(await kv.get("a"), null);
  assert.equal(await kv.put("a", "1"), 1);
  assert.equal(await kv.put("a", "2"), 2);
  assert.equal(await kv.put("path/to=some.key_1", Uint8Array.of(0, 255)), 3);
  const entry = await kv.get("a");
  assert.deepEqual(brief(entry), ["a", "PUT", "2", 2]);
  assert.equal(entry.bucket, bench.name);
  assert.ok(Math.abs(entry.created.getTime() - Date.now()) < 60_000);
  assert.deepEqual(brief(await kv.get("a", { revision: 1 })), ["a", "PUT", "1", 1]);
  assert.equal(await kv.get("a", { revision: 3 }), null);
  assert.deepEqual([...(await kv.get("path/to=some.key_1")).value], [0, 255]);
});

check("who changes a value may say which one", async (bench) => {
  const kv = await bucket(bench);
  assert.equal(await kv.create("a", "1"), 1);
  await refused(kv.create("a", "2"), 10071);
  assert.equal(await kv.update("a", "2", 1), 2);
  await refused(kv.update("a", "3", 1), 10071);
  await refused(kv.put("a", "3", { previousSeq: 1 }), 10071);
  await refused(kv.delete("a", { previousSeq: 1 }), 10071);
  await kv.delete("a", { previousSeq: 2 });
  assert.equal(await kv.create("a", "4"), 4, "a key that was deleted may be made");
  await kv.purge("a");
  assert.equal(await kv.create("a", "6"), 6);
});

check("a deleted value leaves a marker, a purged one nothing else", async (bench) => {
  const kv = await bucket(bench, { history: 10 });
  await kv.put("a", "1");
  await kv.put("a", "2");
  await kv.delete("a");
  assert.deepEqual(brief(await kv.get("a")), ["a", "DEL", "", 3]);
  const history = async (options) => (await all(await kv.history(options))).map(brief);
  const before = [["a", "PUT", "1", 1], ["a", "PUT", "2", 2], ["a", "DEL", "", 3]];
  assert.deepEqual(await history({ key: "a" }), before);
  await kv.put("b", "x");
  assert.deepEqual(await history(), [...before, ["b", "PUT", "x", 4]]);
  await kv.purge("a");
  assert.deepEqual(await history({ key: "a" }), [["a", "PURGE", "", 5]]);
  assert.deepEqual(await all(await kv.keys()), ["b"]);
});

check("history is as long as it may be", async (bench) => {
  const kv = await bucket(bench, { history: 3 });
  for (let n = 0; n < 6; n++) await kv.put("a", String(n));
  const history = (await all(await kv.history({ key: "a" }))).map((entry) => entry.string());
  assert.deepEqual(history, ["3", "4", "5"]);
});

check("keys are listed, by pattern too", async (bench) => {
  const kv = await bucket(bench);
  assert.deepEqual(await all(await kv.keys()), []);
  for (const key of ["a.x", "a.y", "b.x", "gone"]) await kv.put(key, key);
  await kv.delete("gone");
  assert.deepEqual((await all(await kv.keys())).sort(), ["a.x", "a.y", "b.x"]);
  assert.deepEqual((await all(await kv.keys("a.*"))).sort(), ["a.x", "a.y"]);
  assert.deepEqual((await all(await kv.keys(["*.x", "a.y"]))).sort(), ["a.x", "a.y", "b.x"]);
});

check("watchers see what is there, then what changes", async (bench) => {
  const kv = await bucket(bench, { history: 5 });
  await kv.put("a", "1");
  await kv.put("a", "2");
  await kv.put("b", "1");
  const watch = async (options) => (await kv.watch(options))[Symbol.asyncIterator]();
  const [everything, one, updates, old, quiet] = [
    await watch(),
    await watch({ key: "a" }),
    await watch({ include: KvWatchInclude.UpdatesOnly }),
    await watch({ key: ["a"], include: KvWatchInclude.AllHistory }),
    await watch({ ignoreDeletes: true }),
  ];
  assert.deepEqual((await take(everything, 2)).map(brief), [["a", "PUT", "2", 2], ["b", "PUT", "1", 3]]);
  assert.deepEqual((await take(old, 2)).map(brief), [["a", "PUT", "1", 1], ["a", "PUT", "2", 2]]);
  await kv.put("a", "3");
  await kv.delete("b");
  await kv.purge("a");
  await kv.put("c", "1");
  const changes = [
    ["a", "PUT", "3", 4], ["b", "DEL", "", 5], ["a", "PURGE", "", 6], ["c", "PUT", "1", 7],
  ];
  const seen = await take(everything, 4);
  assert.deepEqual(seen.map(brief), changes);
  assert.ok(seen.every((entry) => entry.isUpdate));
  assert.deepEqual((await take(updates, 4)).map(brief), changes);
  const ofA = [["a", "PUT", "2", 2], ["a", "PUT", "3", 4], ["a", "PURGE", "", 6]];
  assert.deepEqual((await take(one, 3)).map(brief), ofA);
  // What is purged is told all the same.
  const kept = [["a", "PUT", "2", 2], ["b", "PUT", "1", 3], changes[0], changes[2], changes[3]];
  assert.deepEqual((await take(quiet, 5)).map(brief), kept);
  const again = await watch({ resumeFromRevision: 5 });
  assert.deepEqual((await take(again, 3)).map(brief), changes.slice(1));
});

check("values live as long as the bucket or their own time says", async (bench) => {
  const kv = await bucket(bench, { markerTTL: 2_000 });
  const watch = (await kv.watch())[Symbol.asyncIterator]();
  await kv.create("short", "x", "1s");
  await kv.put("long", "y");
  assert.deepEqual((await take(watch, 2)).map(brief), [["short", "PUT", "x", 1], ["long", "PUT", "y", 2]]);
  // The server says itself that it is gone.
  const [marker] = await take(watch, 1);
  assert.deepEqual([marker.key, marker.operation], ["short", "PURGE"]);
  assert.equal((await kv.status()).markerTTL, 2_000);
  await kv.purge("long", { ttl: "1s" });
  const isEmpty = async () => (await kv.status()).values === 0;
  await eventually(isEmpty, "the markers are gone");
});

check("a bucket whose values get old", async (bench) => {
  const kv = await bucket(bench, { ttl: 1_000 });
  await kv.put("a", "1");
  assert.equal((await kv.status()).ttl, 1_000);
  await eventually(async () => (await kv.get("a")) === null, "it is gone");
});

check("buckets tell of themselves", async (bench) => {
  const options = {
    history: 4, description: "a test", max_bytes: 1_000_000, maxValueSize: 10,
    metadata: { owner: "tests" }, compression: true,
  };
  const kv = await bucket(bench, options);
  await kv.put("a", "1");
  await kv.put("b", "1");
  const status = await kv.status();
  assert.deepEqual(
    [status.bucket, status.values, status.history, status.description, status.max_bytes],
    [bench.name, 2, 4, "a test", 1_000_000],
  );
  assert.deepEqual([status.maxValueSize, status.storage, status.replicas], [10, "memory", 1]);
  assert.equal(status.metadata.owner, "tests");
  assert.equal(status.compression, true);
  assert.ok(status.size > 0);
  await refused(kv.put("a", "01234567890"), 10054);
  const listed = await all(new Kvm(bench.js).list());
  assert.ok(listed.some((found) => found.bucket === bench.name));
  const opened = await new Kvm(bench.js).open(bench.name);
  assert.equal((await opened.get("a")).string(), "1");
});

check("deleted keys are tidied away", async (bench) => {
  const kv = await bucket(bench, { history: 5 });
  for (const key of ["a", "b"]) await kv.put(key, "1");
  await kv.delete("a");
  await kv.purgeDeletes(0);
  assert.equal((await kv.status()).values, 1);
  assert.deepEqual(await all(await kv.keys()), ["b"]);
});

check("a bucket may hold copies of what another has", async (bench) => {
  const kv = await bucket(bench);
  await kv.put("a", "1");
  const options = { storage: "memory", sources: [{ name: bench.name }] };
  const copy = await new Kvm(bench.js).create(`${bench.name}_C`, options);
  bench.gone(() => copy.destroy());
  const watch = (await copy.watch())[Symbol.asyncIterator]();
  assert.deepEqual((await take(watch, 1)).map(brief), [["a", "PUT", "1", 1]]);
  await kv.put("b", "2");
  assert.deepEqual((await take(watch, 1)).map(brief), [["b", "PUT", "2", 2]]);
  assert.equal((await copy.get("b")).string(), "2");
});
