// Consumers: pulled, pushed, ordered; and what acknowledgements do.

import assert from "node:assert/strict";

import { AckPolicy, DeliverPolicy, JsHeaders } from "@nats-io/jetstream";
import { createInbox, headers, nanos } from "@nats-io/nats-core";

import {
  all, check, data, eventually, inTime, numbers, pause, refused, SOON, take, WAIT,
} from "../bench.mjs";

/** A consumer that is acknowledged explicitly. */
async function durable(bench, config = {}) {
  const all = { durable_name: "d", ack_policy: AckPolicy.Explicit, ...config };
  await bench.jsm.consumers.add(bench.name, all);
  return bench.js.consumers.get(bench.name, all.durable_name ?? all.name);
}

check("consumers are made, changed, listed and deleted", async (bench) => {
  const { jsm, name, subject } = bench;
  await bench.stream();
  const config = {
    durable_name: "d",
    ack_policy: AckPolicy.Explicit,
    ack_wait: nanos(5_000),
    filter_subjects: [`${subject}.a`, `${subject}.b`],
    metadata: { owner: "tests" },
  };
  const made = await jsm.consumers.add(name, config);
  assert.equal(made.name, "d");
  assert.equal(made.stream_name, name);
  assert.deepEqual(made.config.filter_subjects, config.filter_subjects);
  assert.equal(made.config.metadata.owner, "tests");
  const changed = await jsm.consumers.update(name, "d", { max_deliver: 7 });
  assert.equal(changed.config.max_deliver, 7);
  assert.equal(changed.config.ack_wait, nanos(5_000));
  await jsm.consumers.add(name, { name: "ephemeral", ack_policy: AckPolicy.None });
  const names = (await all(jsm.consumers.list(name))).map((info) => info.name);
  assert.deepEqual(names.sort(), ["d", "ephemeral"]);
  await refused(jsm.consumers.update(name, "d", { deliver_policy: DeliverPolicy.New }), 10012);
  assert.equal(await jsm.consumers.delete(name, "d"), true);
  await refused(jsm.consumers.info(name, "d"), 10014);
  await refused(jsm.consumers.delete(name, "d"), 10014);
});

check("messages are fetched one by one and in batches", async (bench) => {
  const { name } = bench;
  await bench.stream();
  const consumer = await durable(bench);
  assert.equal(await consumer.next({ expires: 1_000 }), null);
  await bench.publish(25);
  const first = await consumer.next();
  assert.equal(first.string(), "0");
  assert.deepEqual([first.seq, first.redelivered, first.info.stream], [1, false, name]);
  assert.deepEqual([first.info.deliverySequence, first.info.pending], [1, 24]);
  assert.equal(await first.ackAck(), true);
  const batch = await all(await consumer.fetch({ max_messages: 10, expires: WAIT }));
  assert.deepEqual(data(batch), numbers(10, 1));
  batch.forEach((message) => message.ack());
  // The time is over before there are as many as were asked for.
  const rest = await all(await consumer.fetch({ max_messages: 50, expires: 1_000 }));
  assert.deepEqual(data(rest), numbers(14, 11));
  for (const message of rest) await message.ackAck();
  const info = await consumer.info();
  assert.deepEqual([info.num_ack_pending, info.num_pending, info.ack_floor.stream_seq], [0, 0, 25]);
});

check("batches may be limited by bytes", async (bench) => {
  const { js, subject } = bench;
  await bench.stream();
  for (let n = 0; n < 10; n++) await js.publish(`${subject}.a`, new Uint8Array(1_000));
  const consumer = await durable(bench);
  let count = 0;
  const batch = await consumer.fetch({ max_bytes: 5_000, expires: 1_000 });
  await assert.rejects(inTime((async () => {
    for await (const _ of batch) count++;
  })(), "the end of a batch"), { code: 409 });
  assert.equal(count, 4);
});

check("consuming goes on while more is published", async (bench) => {
  const { js, subject } = bench;
  await bench.stream();
  const consumer = await durable(bench);
  const messages = (await consumer.consume({ max_messages: 40 }))[Symbol.asyncIterator]();
  const taken = take(messages, 300);
  for (const n of numbers(300)) js.publish(`${subject}.a`, n);
  const came = await taken;
  assert.deepEqual(data(came), numbers(300));
  for (const message of came) message.ack();
  await messages.return();
  await eventually(async () => (await consumer.info()).num_ack_pending === 0, "all acks");
});

check("consuming with a callback, by two who share", async (bench) => {
  await bench.stream();
  const consumer = await durable(bench);
  const came = [];
  const callback = (message) => {
    came.push(message.string());
    message.ack();
  };
  const both = await Promise.all([0, 1].map(() => consumer.consume({ callback, max_messages: 10 })));
  await bench.publish(100);
  await eventually(() => came.length === 100, "all messages");
  assert.deepEqual(came.map(Number).sort((a, b) => a - b), numbers(100).map(Number));
  for (const messages of both) await messages.close();
});

check("what is refused comes again, later if that is said", async (bench) => {
  await bench.stream();
  await bench.publish(1);
  const consumer = await durable(bench);
  (await consumer.next()).nak();
  const second = await consumer.next();
  assert.deepEqual([second.string(), second.redelivered, second.info.deliveryCount], ["0", true, 2]);
  const before = Date.now();
  second.nak(500);
  const third = await consumer.next({ expires: WAIT });
  assert.equal(third.info.deliveryCount, 3);
  assert.ok(Date.now() - before >= 450, `after ${Date.now() - before} ms`);
  await third.ackAck();
});

check("what is terminated does not come again", async (bench) => {
  const { name, nc } = bench;
  await bench.stream();
  await bench.publish(1);
  const told = nc.subscribe(`$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.${name}.d`);
  const consumer = await durable(bench, { ack_wait: nanos(1_000) });
  (await consumer.next()).term("no good");
  const [advisory] = await take(told[Symbol.asyncIterator](), 1);
  assert.equal(advisory.json().reason, "no good");
  assert.equal(await consumer.next({ expires: 1_500 }), null);
  assert.equal((await consumer.info()).num_ack_pending, 0);
});

check("work in progress lengthens the time for an acknowledgement", async (bench) => {
  await bench.stream();
  await bench.publish(1);
  const consumer = await durable(bench, { ack_wait: nanos(1_000) });
  const first = await consumer.next();
  for (let n = 0; n < 4; n++) {
    await pause(500);
    first.working();
  }
  assert.equal((await consumer.info()).num_redelivered, 0);
  // Without it, it comes again.
  const again = await consumer.next({ expires: WAIT });
  assert.equal(again.info.deliveryCount, 2);
  await again.ackAck();
});

check("a message comes at most as often as it may", async (bench) => {
  const { name, nc } = bench;
  await bench.stream();
  await bench.publish(1);
  const told = nc.subscribe(`$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.${name}.d`);
  const consumer = await durable(bench, { max_deliver: 2, ack_wait: nanos(500) });
  for (const attempt of [1, 2]) {
    assert.equal((await consumer.next({ expires: WAIT })).info.deliveryCount, attempt);
  }
  assert.equal(await consumer.next({ expires: 2_000 }), null);
  const [advisory] = await take(told[Symbol.asyncIterator](), 1);
  assert.deepEqual([advisory.json().stream_seq, advisory.json().deliveries], [1, 2]);
});

check("acknowledging one acknowledges all before it, where that is the policy", async (bench) => {
  await bench.stream();
  await bench.publish(10);
  const consumer = await durable(bench, { ack_policy: AckPolicy.All });
  const batch = await all(await consumer.fetch({ max_messages: 8, expires: WAIT }));
  await batch[5].ackAck();
  const info = await consumer.info();
  assert.deepEqual([info.ack_floor.stream_seq, info.num_ack_pending], [6, 2]);
});

check("consumers begin where they are told", async (bench) => {
  const { subject } = bench;
  await bench.stream();
  await bench.publish(5);
  await bench.publish(5, "b");
  const seqs = async (config) => {
    const consumer = await durable(bench, { durable_name: undefined, ...config });
    const batch = await all(await consumer.fetch({ max_messages: 20, expires: 1_000 }));
    return batch.map((message) => message.seq);
  };
  const from = { deliver_policy: DeliverPolicy.StartSequence, opt_start_seq: 8 };
  const lasts = { deliver_policy: DeliverPolicy.LastPerSubject, filter_subject: `${subject}.>` };
  const both = { filter_subjects: [`${subject}.a`, `${subject}.c`] };
  assert.deepEqual(await Promise.all([
    seqs({ name: "last", deliver_policy: DeliverPolicy.Last }),
    seqs({ name: "new", deliver_policy: DeliverPolicy.New }),
    seqs({ name: "from", ...from }),
    seqs({ name: "lasts", ...lasts }),
    seqs({ name: "filtered", ...both }),
  ]), [[10], [], [8, 9, 10], [5, 10], [1, 2, 3, 4, 5]]);
});

check("ordered consumers bring everything in order", async (bench) => {
  const { js, name, subject } = bench;
  await bench.stream();
  await bench.publish(100);
  const pulled = await js.consumers.get(name);
  const iterator = (await pulled.consume({ max_messages: 20 }))[Symbol.asyncIterator]();
  assert.deepEqual(data(await take(iterator, 100)), numbers(100));
  await js.publish(`${subject}.b`, "more");
  assert.deepEqual(data(await take(iterator, 1)), ["more"]);
  await iterator.return();
  const from = { filter_subjects: [`${subject}.a`], opt_start_seq: 90, deliver_policy: "by_start_sequence" };
  const fetched = await (await js.consumers.get(name, from)).fetch({ max_messages: 5, expires: WAIT });
  assert.deepEqual(data(await all(fetched)), numbers(5, 89));
});

check("an ordered consumer is made again when it is gone", async (bench) => {
  const { js, jsm, name, subject } = bench;
  await bench.stream();
  await bench.publish(10);
  const consumer = await js.consumers.get(name);
  const messages = await consumer.consume({ idle_heartbeat: 1_000, expires: 2_000 });
  const iterator = messages[Symbol.asyncIterator]();
  assert.deepEqual(data(await take(iterator, 10)), numbers(10));
  assert.equal(await jsm.consumers.delete(name, (await consumer.info(true)).name), true);
  await js.publish(`${subject}.a`, "after");
  assert.deepEqual(data(await take(iterator, 1)), ["after"]);
  await iterator.return();
});

check("pushed messages arrive and are acknowledged", async (bench) => {
  const { js, jsm, name } = bench;
  await bench.stream();
  await bench.publish(50);
  await jsm.consumers.add(name, {
    durable_name: "p",
    ack_policy: AckPolicy.Explicit,
    deliver_subject: createInbox(),
    idle_heartbeat: nanos(1_000),
    flow_control: true,
  });
  const consumer = await js.consumers.getPushConsumer(name, "p");
  const came = [];
  const messages = await consumer.consume({
    callback: (message) => {
      came.push(message.string());
      message.ack();
    },
  });
  const told = messages.status()[Symbol.asyncIterator]();
  await eventually(async () => (await consumer.info()).ack_floor.stream_seq === 50, "all acks");
  assert.deepEqual(came, numbers(50));
  await inTime((async () => {
    for (;;) if ((await told.next()).value.type === "heartbeat") return;
  })(), "a sign of life");
  assert.equal((await consumer.info()).push_bound, true);
  await messages.close();
  await eventually(async () => !(await consumer.info()).push_bound, "nobody listens");
});

check("a group shares what is pushed to it", async (bench) => {
  const { js, jsm, name } = bench;
  await bench.stream();
  const deliver = createInbox();
  const config = {
    durable_name: "p",
    ack_policy: AckPolicy.Explicit,
    deliver_subject: deliver,
    deliver_group: "workers",
  };
  await jsm.consumers.add(name, config);
  const came = [];
  const callback = (message) => {
    came.push(message.string());
    message.ack();
  };
  const bound = { deliver_subject: deliver, deliver_group: "workers", callback };
  const consumers = await Promise.all([0, 1].map(() => js.consumers.getBoundPushConsumer(bound)));
  const both = await Promise.all(consumers.map((consumer) => consumer.consume({ callback })));
  await bench.publish(100);
  await eventually(() => came.length === 100, "all messages");
  await pause(SOON);
  assert.equal(new Set(came).size, 100);
  assert.equal(came.length, 100);
  for (const messages of both) await messages.close();
});

check("ordered push consumers bring everything in order", async (bench) => {
  const { js, name, subject } = bench;
  await bench.stream();
  await bench.publish(100);
  const consumer = await js.consumers.getPushConsumer(name, { filter_subjects: [`${subject}.>`] });
  const messages = (await consumer.consume())[Symbol.asyncIterator]();
  assert.deepEqual(data(await take(messages, 100)), numbers(100));
  await js.publish(`${subject}.b`, "more");
  assert.deepEqual(data(await take(messages, 1)), ["more"]);
  await messages.return();
});

check("headers arrive, without payloads if that is wanted", async (bench) => {
  const { js, subject } = bench;
  await bench.stream();
  const sent = headers();
  sent.append("Key", "one");
  sent.append("Key", "two");
  await js.publish(`${subject}.a`, "payload", { headers: sent, msgID: "id" });
  const whole = await (await durable(bench)).next();
  assert.deepEqual(whole.headers.values("Key"), ["one", "two"]);
  assert.equal(whole.headers.get("Nats-Msg-Id"), "id");
  const config = { durable_name: "h", headers_only: true };
  const bare = await (await durable(bench, config)).next();
  assert.deepEqual(bare.headers.values("Key"), ["one", "two"]);
  assert.equal(bare.headers.get(JsHeaders.MessageSizeHdr), "7");
  assert.equal(bare.data.length, 0);
});

check("a consumer that waits for acknowledgements gives no more", async (bench) => {
  await bench.stream();
  await bench.publish(10);
  const consumer = await durable(bench, { max_ack_pending: 3 });
  const batch = await all(await consumer.fetch({ max_messages: 10, expires: 1_000 }));
  assert.deepEqual(data(batch), numbers(3));
  for (const message of batch) await message.ackAck();
  assert.deepEqual(data([await consumer.next()]), ["3"]);
});

check("consumers pause and go on", async (bench) => {
  const { jsm, name } = bench;
  await bench.stream();
  await bench.publish(1);
  const consumer = await durable(bench);
  const paused = await jsm.consumers.pause(name, "d", new Date(Date.now() + 60_000));
  assert.equal(paused.paused, true);
  assert.equal(await consumer.next({ expires: 1_000 }), null);
  assert.equal((await jsm.consumers.resume(name, "d")).paused, false);
  assert.equal((await consumer.next({ expires: WAIT })).string(), "0");
});

check("who consumes learns that the consumer was deleted", async (bench) => {
  const { jsm, name } = bench;
  await bench.stream();
  const consumer = await durable(bench);
  const callback = () => {};
  const messages = await consumer.consume({ expires: 2_000, idle_heartbeat: 1_000, callback });
  const told = messages.status()[Symbol.asyncIterator]();
  const heard = inTime((async () => {
    for (;;) if ((await told.next()).value.type === "consumer_deleted") return;
  })(), "that it was deleted");
  await eventually(async () => (await consumer.info()).num_waiting > 0, "a pull waits");
  await jsm.consumers.delete(name, "d");
  await heard;
  await messages.close();
});

check("a work queue keeps what is not done", async (bench) => {
  const { jsm, name } = bench;
  await bench.stream({ retention: "workqueue" });
  await bench.publish(10);
  const consumer = await durable(bench);
  for (const message of await all(await consumer.fetch({ max_messages: 4, expires: WAIT }))) {
    await message.ackAck();
  }
  assert.equal((await jsm.streams.info(name)).state.messages, 6);
  const second = { durable_name: "second", ack_policy: AckPolicy.Explicit };
  await refused(jsm.consumers.add(name, second), 10099);
});
