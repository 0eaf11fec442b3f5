// Streams: what they keep, what they refuse, and how it is read again.

import assert from "node:assert/strict";

import { headers, nanos } from "@nats-io/nats-core";

import { all, check, data, eventually, numbers, refused, take, WAIT } from "../bench.mjs";

check("streams are made, changed, listed and deleted", async (bench) => {
  const { jsm, name, subject } = bench;
  const made = await bench.stream({
    description: "a test",
    max_msgs: 100,
    max_age: nanos(60_000),
    metadata: { owner: "tests" },
  });
  assert.equal(made.config.name, name);
  assert.equal(made.config.max_msgs, 100);
  assert.equal(made.config.max_age, nanos(60_000));
  assert.equal(made.config.metadata.owner, "tests");
  assert.equal(made.state.messages, 0);
  const changed = await jsm.streams.update(name, { max_msgs: 5, subjects: [`${subject}.>`, `${subject}x`] });
  assert.equal(changed.config.max_msgs, 5);
  assert.equal(changed.config.description, "a test");
  const info = await jsm.streams.info(name);
  assert.deepEqual(info.config, changed.config);
  assert.equal(info.created, made.created);
  assert.ok((await all(jsm.streams.names())).includes(name));
  assert.deepEqual(await all(jsm.streams.names(`${subject}.a`)), [name]);
  assert.deepEqual((await all(jsm.streams.list(`${subject}x`))).map((s) => s.config.name), [name]);
  assert.equal(await jsm.streams.find(`${subject}.a`), name);
  await refused(jsm.streams.update(name, { retention: "workqueue", storage: "file" }), 10052);
  assert.equal(await jsm.streams.delete(name), true);
  await refused(jsm.streams.info(name), 10059);
  await refused(jsm.streams.delete(name), 10059);
});

check("a stream that cannot be is refused", async (bench) => {
  const { jsm, name, subject } = bench;
  await bench.stream();
  await bench.stream();
  await refused(bench.stream({ max_msgs: 1 }), 10058);
  const overlaps = { name: `${name}_2`, subjects: [`${subject}.a`], storage: "memory" };
  await refused(jsm.streams.add(overlaps), 10065);
  await assert.rejects(jsm.streams.add({ ...overlaps, name: "a.b" }), /name/i);
});

check("a publish is acknowledged with its sequence", async (bench) => {
  const { js, jsm, name, subject } = bench;
  await bench.stream();
  const together = numbers(200).map((n) => js.publish(`${subject}.a`, n, { timeout: WAIT }));
  const acks = await Promise.all(together);
  assert.deepEqual(acks.map((ack) => ack.seq), numbers(200, 1).map(Number));
  assert.ok(acks.every((ack) => ack.stream === name && !ack.duplicate));
  const { state } = await jsm.streams.info(name, { subjects_filter: ">" });
  assert.deepEqual([state.messages, state.first_seq, state.last_seq], [200, 1, 200]);
  assert.deepEqual(state.subjects, { [`${subject}.a`]: 200 });
  await assert.rejects(js.publish(`${subject}-nowhere`, "", { timeout: WAIT, retries: 1 }));
});

check("a message with an id that was there is not stored again", async (bench) => {
  const { js, jsm, name, subject } = bench;
  await bench.stream({ duplicate_window: nanos(60_000) });
  const first = await js.publish(`${subject}.a`, "x", { msgID: "1" });
  const again = await js.publish(`${subject}.b`, "y", { msgID: "1" });
  const other = await js.publish(`${subject}.a`, "z", { msgID: "2" });
  assert.deepEqual([first.seq, again.seq, other.seq], [1, 1, 2]);
  assert.deepEqual([first.duplicate, again.duplicate, other.duplicate], [false, true, false]);
  assert.equal((await jsm.streams.info(name)).state.messages, 2);
});

check("what a publish expects must be so", async (bench) => {
  const { js, name, subject } = bench;
  await bench.stream();
  const publish = (last, expect, msgID) =>
    js.publish(`${subject}.${last}`, "", { expect, msgID, timeout: WAIT });
  assert.equal((await publish("a", { streamName: name }, "m1")).seq, 1);
  await refused(publish("a", { streamName: "OTHER" }), 10060);
  assert.equal((await publish("a", { lastSequence: 1 })).seq, 2);
  await refused(publish("a", { lastSequence: 1 }), 10071);
  assert.equal((await publish("b", { lastSubjectSequence: 0 })).seq, 3);
  await refused(publish("a", { lastSubjectSequence: 1 }), 10071);
  assert.equal((await publish("a", { lastSubjectSequence: 2 }, "m4")).seq, 4);
  await refused(publish("a", { lastMsgID: "m1" }), 10070);
  assert.equal((await publish("a", { lastMsgID: "m4" })).seq, 5);
  const wild = { lastSubjectSequence: 5, lastSubjectSequenceSubject: `${subject}.*` };
  assert.equal((await publish("c", wild)).seq, 6);
  await refused(publish("c", wild), 10071);
});

check("limits hold", async (bench) => {
  const { js, jsm, name, subject } = bench;
  await bench.stream({ max_msgs_per_subject: 2, max_msg_size: 100 });
  await bench.publish(5);
  const { state } = await jsm.streams.info(name);
  assert.deepEqual([state.messages, state.first_seq, state.last_seq], [2, 4, 5]);
  await refused(js.publish(`${subject}.a`, new Uint8Array(101)), 10054);
  await jsm.streams.update(name, { discard: "new", max_msgs: 3 });
  await js.publish(`${subject}.b`);
  await refused(js.publish(`${subject}.c`), 10077);
});

check("messages may live shorter than their stream", async (bench) => {
  const { js, jsm, name, subject } = bench;
  await bench.stream({ allow_msg_ttl: true });
  await js.publish(`${subject}.a`, "short", { ttl: "1s" });
  await js.publish(`${subject}.b`, "long");
  assert.equal((await jsm.streams.info(name)).state.messages, 2);
  const isGone = async () => (await jsm.streams.info(name)).state.messages === 1;
  await eventually(isGone, "the first message is gone");
});

check("messages are read, deleted and purged", async (bench) => {
  const { js, jsm, name, subject } = bench;
  await bench.stream();
  await bench.publish(5);
  await bench.publish(5, "b");
  const sent = headers();
  sent.append("Key", "one");
  sent.append("Key", "two");
  await js.publish(`${subject}.c`, "with headers", { headers: sent });
  const read = await jsm.streams.getMessage(name, { seq: 11 });
  assert.equal(read.string(), "with headers");
  assert.equal(read.subject, `${subject}.c`);
  assert.deepEqual(read.header.values("Key"), ["one", "two"]);
  assert.ok(Math.abs(read.time.getTime() - Date.now()) < 60_000);
  const last = await jsm.streams.getMessage(name, { last_by_subj: `${subject}.a` });
  assert.deepEqual([last.seq, last.string()], [5, "4"]);
  const next = await jsm.streams.getMessage(name, { seq: 2, next_by_subj: `${subject}.b` });
  assert.equal(next.seq, 6);
  assert.equal(await jsm.streams.getMessage(name, { seq: 99 }), null);
  assert.equal(await jsm.streams.deleteMessage(name, 3), true);
  assert.equal(await jsm.streams.getMessage(name, { seq: 3 }), null);
  await assert.rejects(jsm.streams.deleteMessage(name, 3), (error) => error.code > 10_000);
  const { state } = await jsm.streams.info(name, { deleted_details: true });
  assert.deepEqual([state.num_deleted, state.deleted], [1, [3]]);
  assert.equal((await jsm.streams.purge(name, { filter: `${subject}.b`, keep: 2 })).purged, 3);
  assert.equal((await jsm.streams.purge(name, { seq: 5 })).purged, 3);
  assert.equal((await jsm.streams.purge(name)).purged, 4);
  assert.equal((await jsm.streams.info(name)).state.last_seq, 11);
});

check("messages are read directly, one and many", async (bench) => {
  const { js, jsm, name, subject } = bench;
  await bench.stream({ allow_direct: true });
  for (const last of ["a", "b", "c"]) await bench.publish(10, last);
  const sent = headers();
  sent.set("Key", "value");
  await js.publish(`${subject}.d`, "last", { headers: sent });
  const one = await jsm.direct.getMessage(name, { seq: 31 });
  assert.deepEqual([one.seq, one.subject, one.string()], [31, `${subject}.d`, "last"]);
  assert.equal(one.header.get("Key"), "value");
  assert.ok(one.time instanceof Date);
  const latest = await jsm.direct.getMessage(name, { last_by_subj: `${subject}.b` });
  assert.deepEqual([latest.seq, latest.string()], [20, "9"]);
  const next = await jsm.direct.getMessage(name, { seq: 5, next_by_subj: `${subject}.c` });
  assert.equal(next.seq, 21);
  assert.equal(await jsm.direct.getMessage(name, { seq: 99 }), null);
  const batch = await all(await jsm.direct.getBatch(name, { seq: 5, batch: 8 }));
  assert.deepEqual(batch.map((message) => message.seq), numbers(8, 5).map(Number));
  assert.deepEqual(data(batch), [...numbers(6, 4), "0", "1"]);
  const filter = { seq: 1, batch: 3, next_by_subj: `${subject}.b` };
  const filtered = await all(await jsm.direct.getBatch(name, filter));
  assert.deepEqual(filtered.map((message) => message.seq), [11, 12, 13]);
  const multi = { multi_last: [`${subject}.a`, `${subject}.d`] };
  const lasts = await all(await jsm.direct.getLastMessagesFor(name, multi));
  assert.deepEqual(lasts.map((message) => message.seq), [10, 31]);
  const before = { multi_last: [`${subject}.*`], up_to_seq: 15 };
  const earlier = await all(await jsm.direct.getLastMessagesFor(name, before));
  assert.deepEqual(earlier.map((message) => message.seq), [10, 15]);
});

check("a rollup replaces what was there", async (bench) => {
  const { js, jsm, name, subject } = bench;
  await bench.stream({ allow_rollup_hdrs: true });
  await bench.publish(3);
  await bench.publish(3, "b");
  const of = headers();
  of.set("Nats-Rollup", "sub");
  await js.publish(`${subject}.a`, "all of a", { headers: of });
  assert.equal((await jsm.streams.info(name)).state.messages, 4);
  of.set("Nats-Rollup", "all");
  await js.publish(`${subject}.b`, "all", { headers: of });
  assert.equal((await jsm.streams.info(name)).state.messages, 1);
});

check("streams republish, transform, mirror and have sources", async (bench) => {
  const { js, jsm, name, nc, subject } = bench;
  const heard = nc.subscribe(`${subject}-again.>`)[Symbol.asyncIterator]();
  await bench.stream({
    republish: { src: `${subject}.>`, dest: `${subject}-again.>` },
    subject_transform: { src: `${subject}.old.*`, dest: `${subject}.new.{{wildcard(1)}}` },
  });
  const copies = [
    { name: `${name}_M`, mirror: { name } },
    { name: `${name}_S`, sources: [{ name, filter_subject: `${subject}.new.>` }] },
  ];
  for (const copy of copies) {
    await jsm.streams.add({ ...copy, storage: "memory" });
    bench.gone(() => jsm.streams.delete(copy.name));
  }
  await js.publish(`${subject}.old.x`, "moved");
  await js.publish(`${subject}.a`, "stays");
  const [moved, stays] = await take(heard, 2);
  assert.deepEqual([moved.subject, stays.subject], [`${subject}-again.new.x`, `${subject}-again.a`]);
  assert.equal(moved.headers.get("Nats-Sequence"), "1");
  for (const [copy, count] of [["M", 2], ["S", 1]]) {
    const has = async () => (await jsm.streams.info(`${name}_${copy}`)).state.messages === count;
    await eventually(has, `${count} messages in ${copy}`);
    const message = await jsm.streams.getMessage(`${name}_${copy}`, { seq: 1 });
    assert.deepEqual([message.subject, message.string()], [`${subject}.new.x`, "moved"]);
  }
});

check("the account's numbers add up", async (bench) => {
  const { jsm } = bench;
  await bench.stream();
  await bench.publish(3);
  const account = await jsm.getAccountInfo();
  assert.ok(account.streams >= 1 && account.memory > 0, JSON.stringify(account));
  assert.equal(account.limits.max_streams, -1);
});
