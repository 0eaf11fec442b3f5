// Messages that nobody keeps: subjects, queue groups, requests, headers.

import assert from "node:assert/strict";

import { createInbox, headers, RequestError, TimeoutError } from "@nats-io/nats-core";

import { all, check, data, eventually, inTime, numbers, pause, SOON, take, WAIT } from "../bench.mjs";

check("messages arrive in order, at all who asked for their subject", async ({ nc, subject }) => {
  const patterns = [`${subject}.a`, `${subject}.*`, `${subject}.>`];
  const subs = patterns.map((pattern) => nc.subscribe(pattern)[Symbol.asyncIterator]());
  const other = nc.subscribe(`${subject}.b`);
  for (const number of numbers(500)) nc.publish(`${subject}.a`, number);
  for (const sub of subs) assert.deepEqual(data(await take(sub, 500)), numbers(500));
  assert.equal(other.getReceived(), 0);
});

check("a subscription ends after as many messages as it wanted", async ({ nc, subject }) => {
  const first = nc.subscribe(subject, { max: 3 });
  const later = nc.subscribe(subject);
  later.unsubscribe(2);
  for (const number of numbers(5)) nc.publish(subject, number);
  assert.deepEqual(data(await all(first)), numbers(3));
  assert.deepEqual(data(await all(later)), numbers(2));
});

check("callbacks are called, and time limits hold", async ({ nc, subject }) => {
  const came = [];
  nc.subscribe(subject, { callback: (error, message) => came.push(error ?? message.string()) });
  nc.publish(subject, "a");
  await eventually(() => came.length, "the callback");
  assert.deepEqual(came, ["a"]);
  const silent = nc.subscribe(`${subject}.silent`, { timeout: SOON });
  await assert.rejects(all(silent), TimeoutError);
});

check("a queue group shares messages; others get all", async (bench) => {
  const { subject } = bench;
  const counts = [0, 0, 0];
  for (const at of counts.keys()) {
    const nc = await bench.connect();
    nc.subscribe(subject, { queue: "workers", callback: () => counts[at]++ });
    await nc.flush();
  }
  let single = 0;
  bench.nc.subscribe(subject, { callback: () => single++ });
  for (let n = 0; n < 600; n++) bench.nc.publish(subject);
  await eventually(() => single === 600, "all messages");
  await eventually(() => counts.reduce((sum, count) => sum + count) === 600, "each once");
  assert.ok(counts.every((count) => count > 0), `${counts}`);
});

check("requests are answered", async (bench) => {
  const { nc, subject } = bench;
  const answering = await bench.connect();
  answering.subscribe(subject, {
    queue: "q",
    callback: (_, message) => message.respond(`re: ${message.string()}`),
  });
  await answering.flush();
  for (const options of [{ timeout: WAIT }, { timeout: WAIT, noMux: true }]) {
    assert.equal((await nc.request(subject, "hello", options)).string(), "re: hello");
  }
  const reply = createInbox();
  const own = { timeout: WAIT, noMux: true, reply };
  assert.equal((await nc.request(subject, "x", own)).subject, reply);
  const together = numbers(100).map((n) => nc.request(subject, n, { timeout: WAIT }));
  assert.deepEqual(data(await Promise.all(together)), numbers(100).map((n) => `re: ${n}`));
});

check("one request may have many answers", async (bench) => {
  const { nc, subject } = bench;
  for (const name of ["a", "b", "c"]) {
    nc.subscribe(subject, { callback: (_, message) => message.respond(name) });
  }
  nc.subscribe(`${subject}.end`, {
    callback: (_, message) => {
      message.respond("1");
      message.respond("2");
      message.respond();
    },
  });
  const count = { strategy: "count", maxMessages: 3, maxWait: WAIT };
  const answers = data(await all(await nc.requestMany(subject, "?", count)));
  assert.deepEqual(answers.sort(), ["a", "b", "c"]);
  const stall = { strategy: "stall", stall: SOON, maxWait: WAIT };
  assert.equal((await all(await nc.requestMany(subject, "?", stall))).length, 3);
  const sentinel = { strategy: "sentinel", maxWait: WAIT };
  const ended = data(await all(await nc.requestMany(`${subject}.end`, "?", sentinel)));
  assert.deepEqual(ended.slice(0, 2), ["1", "2"]);
});

check("who asks where nobody listens learns it at once", async ({ nc, subject }) => {
  for (const noMux of [false, true]) {
    const asked = nc.request(subject, "?", { timeout: WAIT, noMux });
    await assert.rejects(asked, (error) => error instanceof RequestError && error.isNoResponders());
  }
  const many = await nc.requestMany(subject, "?", { strategy: "timer", maxWait: WAIT });
  await assert.rejects(all(many), (error) => error.isNoResponders?.() ?? /503|responders/i.test(error));
});

check("an answer that does not come in time is an error", async ({ nc, subject }) => {
  nc.subscribe(subject, { callback: () => {} });
  const asked = nc.request(subject, "?", { timeout: SOON });
  await assert.rejects(asked, (error) =>
    error instanceof TimeoutError || error.cause instanceof TimeoutError);
});

check("headers arrive as they were sent", async ({ nc, subject }) => {
  const sub = nc.subscribe(subject)[Symbol.asyncIterator]();
  const sent = headers();
  sent.append("Several", "one");
  sent.append("Several", "two");
  sent.set("x-CaSe", "kept: as it is ");
  sent.set("Empty", "");
  sent.set("Unicode", "größer ↑");
  nc.publish(subject, Uint8Array.of(0, 255, 13, 10), { headers: sent });
  nc.publish(subject, "", { headers: sent });
  nc.publish(subject, "without");
  const [both, empty, without] = await take(sub, 3);
  assert.deepEqual([...both.data], [0, 255, 13, 10]);
  assert.equal(empty.data.length, 0);
  for (const { headers: came } of [both, empty]) {
    assert.deepEqual(came.keys().sort(), ["Empty", "Several", "Unicode", "x-CaSe"]);
    assert.deepEqual(came.values("Several"), ["one", "two"]);
    assert.equal(came.get("x-CaSe"), sent.get("x-CaSe"));
    assert.equal(came.get("Unicode"), "größer ↑");
    assert.equal(came.get("Empty"), "");
    assert.equal(came.code, 0);
  }
  assert.equal(without.headers, undefined);
});

check("payloads may be empty, and as large as INFO says", async ({ nc, subject }) => {
  const sub = nc.subscribe(subject)[Symbol.asyncIterator]();
  const large = new Uint8Array(nc.info.max_payload).map((_, at) => at * 7 % 251);
  nc.publish(subject);
  nc.publish(subject, large);
  const [empty, whole] = await take(sub, 2);
  assert.equal(empty.data.length, 0);
  assert.equal(Buffer.compare(whole.data, large), 0);
});

check("who wants no echo gets none", async (bench) => {
  const { subject } = bench;
  const quiet = await bench.connect({ noEcho: true });
  const sub = quiet.subscribe(subject);
  await quiet.flush();
  quiet.publish(subject, "own");
  await quiet.flush();
  bench.nc.publish(subject, "of another");
  const [first] = await take(sub[Symbol.asyncIterator](), 1);
  assert.equal(first.string(), "of another");
});

check("connections may be verbose and pedantic", async (bench) => {
  const nc = await bench.connect({ verbose: true, pedantic: true, name: "chatty" });
  const sub = nc.subscribe(bench.subject)[Symbol.asyncIterator]();
  for (const number of numbers(20)) nc.publish(bench.subject, number);
  assert.deepEqual(data(await take(sub, 20)), numbers(20));
  assert.ok(await nc.rtt() >= 0);
});

check("what has been asked for is delivered before a connection drains", async (bench) => {
  const { subject } = bench;
  const nc = await bench.connect();
  const came = [];
  nc.subscribe(subject, { callback: (_, message) => came.push(message.string()) });
  const worker = nc.subscribe(`${subject}.q`, { queue: "q", callback: () => {} });
  await nc.flush();
  for (const number of numbers(200)) bench.nc.publish(subject, number);
  await bench.nc.flush();
  await inTime(worker.drain(), "a drained subscription");
  await inTime(worker.closed, "its end");
  const last = bench.nc.subscribe(`${subject}.last`)[Symbol.asyncIterator]();
  await bench.nc.flush();
  nc.publish(`${subject}.last`, "out");
  await inTime(nc.drain(), "a drained connection");
  assert.deepEqual(came, numbers(200));
  assert.ok(nc.isClosed());
  assert.deepEqual(data(await take(last, 1)), ["out"]);
});

check("a drained member of a group leaves its messages to the others", async (bench) => {
  const { subject } = bench;
  const leaving = await bench.connect();
  const staying = await bench.connect();
  let count = 0;
  for (const nc of [leaving, staying]) {
    nc.subscribe(subject, { queue: "q", callback: () => count++ });
    await nc.flush();
  }
  for (let n = 0; n < 100; n++) bench.nc.publish(subject);
  await bench.nc.flush();
  await inTime(leaving.drain(), "a drained connection");
  for (let n = 0; n < 100; n++) bench.nc.publish(subject);
  await eventually(() => count === 200, "each message once");
  await pause(SOON);
  assert.equal(count, 200);
});

check("a client that connects anew has its subscriptions again", async ({ nc, subject }) => {
  const sub = nc.subscribe(subject)[Symbol.asyncIterator]();
  nc.publish(subject, "before");
  await nc.flush();
  await inTime(nc.reconnect(), "the connection");
  await eventually(() => nc.flush().then(() => true, () => false), "the connection");
  nc.publish(subject, "after");
  assert.deepEqual(data(await take(sub, 2)), ["before", "after"]);
});
