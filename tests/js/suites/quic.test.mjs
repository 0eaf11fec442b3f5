// What nats.js writes is read over QUIC, by the `claudebus` program, and the reverse.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { promisify } from "node:util";

import { AckPolicy } from "@nats-io/jetstream";
import { headers } from "@nats-io/nats-core";

import { all, check, data, numbers, WAIT } from "../bench.mjs";

const [PROGRAM] = JSON.parse(process.env.SERVER_COMMAND);

const QUIC = ["--server", process.env.QUIC_URL, "--ca", process.env.QUIC_CA, "--output", "json"];

/** What a command prints: its lines as JSON. */
async function claudebus(...argv) {
  const { stdout } = await promisify(execFile)(PROGRAM, [...argv, ...QUIC], { timeout: 2 * WAIT });
  return stdout.trim().split("\n").filter(Boolean).map((line) => JSON.parse(line));
}

check("a stream written by both is read by both, in order and with headers", async (bench) => {
  const { js, name, subject } = bench;
  await bench.stream({ storage: "file" });
  for (let n = 0; n < 10; n += 2) {
    const sent = headers();
    sent.append("Number", String(n));
    sent.append("Number", "again");
    sent.set("x-CaSe", "größer: ↑");
    const ack = await js.publish(`${subject}.nats`, String(n), { headers: sent, msgID: `id-${n}` });
    assert.equal(ack.seq, n + 1);
    const [stored] = await claudebus(
      "publish", `${subject}.quic`, String(n + 1),
      "-H", `Number:${n + 1}`, "-H", "Number:again", "-H", "x-CaSe:größer: ↑", "--id", `id-${n + 1}`,
    );
    assert.equal(stored.seq, n + 2, JSON.stringify(stored));
  }
  // Ids are the stream's, whoever sent them.
  assert.equal((await js.publish(`${subject}.nats`, "", { msgID: "id-1" })).duplicate, true);
  const overQuic = await claudebus("subscribe", "--stream", name, "--count", "10");
  assert.deepEqual(overQuic.map((message) => message.seq), numbers(10, 1).map(Number));
  const overNats = await all(await (await js.consumers.get(name)).fetch({ max_messages: 10, expires: WAIT }));
  assert.deepEqual(data(overNats), numbers(10));
  for (const [n, message] of overNats.entries()) {
    assert.equal(message.subject, `${subject}.${n % 2 ? "quic" : "nats"}`);
    assert.deepEqual(message.headers.values("Number"), [String(n), "again"]);
    assert.equal(message.headers.get("x-CaSe"), "größer: ↑");
    const other = overQuic[n];
    assert.equal(other.subject, message.subject);
    assert.equal(other.payload, String(n), JSON.stringify(other));
    assert.deepEqual(other.headers, {
      Number: [String(n), "again"],
      "Nats-Msg-Id": [`id-${n}`],
      "x-CaSe": ["größer: ↑"],
    });
  }
});

check("a consumer is shared", async (bench) => {
  const { js, jsm, name } = bench;
  await bench.stream();
  await bench.publish(10);
  await jsm.consumers.add(name, { durable_name: "shared", ack_policy: AckPolicy.Explicit });
  const consumer = await js.consumers.get(name, "shared");
  for (let n = 0; n < 10; n += 5) {
    const batch = await all(await consumer.fetch({ max_messages: 2, expires: WAIT }));
    assert.deepEqual(data(batch), numbers(2, n));
    for (const message of batch) await message.ackAck();
    const rest = await claudebus("subscribe", "--stream", name, "--durable", "shared", "--count", "3");
    assert.deepEqual(rest.map((message) => message.payload), numbers(3, n + 2));
  }
  const { ack_floor, num_pending } = await consumer.info();
  assert.deepEqual([ack_floor.stream_seq, num_pending], [10, 0]);
});

check("core messages and requests pass from one protocol to the other", async (bench) => {
  const { nc, subject } = bench;
  const sub = nc.subscribe(`${subject}.ask`, {
    callback: (_, message) => message.respond(`re: ${message.string()}`),
  });
  await nc.flush();
  const [answer] = await claudebus("request", `${subject}.ask`, "hello");
  assert.equal(answer.payload, "re: hello", JSON.stringify(answer));
  assert.equal(sub.getReceived(), 1);
});
