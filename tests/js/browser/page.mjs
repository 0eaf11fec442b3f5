// What the web page of the browser tests does: each function connects, works, and returns what came of it
// as plain values, which the test looks at.

import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { headers, nkeyAuthenticator, nuid, wsconnect } from "@nats-io/nats-core";
import { Kvm } from "@nats-io/kv";
import { Objm } from "@nats-io/obj";

const WAIT = 10_000;

async function connected(options, work) {
  const nc = await wsconnect({ maxReconnectAttempts: 0, ...options });
  try {
    return await work(nc);
  } finally {
    await nc.close();
  }
}

/** The next values of an iterator, which goes on. */
async function take(iterator, count) {
  const values = [];
  while (values.length < count) values.push((await iterator.next()).value);
  return values;
}

/** The iterator of what can be iterated over once. */
const each = (iterable) => iterable[Symbol.asyncIterator]();

/** Messages, queue groups, requests, headers, and a message as large as one may be. */
function core(options) {
  return connected(options, async (nc) => {
    const subject = nuid.next();
    const sub = each(nc.subscribe(`${subject}.*`));
    const sent = headers();
    sent.append("Key", "one");
    sent.append("Key", "größer ↑");
    nc.publish(`${subject}.a`, "with headers", { headers: sent });
    for (let n = 0; n < 1000; n++) nc.publish(`${subject}.a`, String(n));
    const [first, ...numbers] = await take(sub, 1001);
    const large = new Uint8Array(nc.info.max_payload).map((_, at) => at * 7 % 251);
    nc.publish(`${subject}.large`, large);
    const [came] = await take(sub, 1);
    nc.subscribe(`${subject}-ask`, { queue: "q", callback: (_, m) => m.respond(`re: ${m.string()}`) });
    const answer = await nc.request(`${subject}-ask`, "hello", { timeout: WAIT });
    const nobody = await nc.request(`${subject}-nobody`, "", { timeout: WAIT }).catch((error) => error);
    return {
      first: [first.string(), first.headers.values("Key")],
      numbers: numbers.map((message) => Number(message.string())),
      isWhole: came.data.length === large.length && came.data.every((byte, at) => byte === large[at]),
      answer: answer.string(),
      hasNoResponders: nobody.isNoResponders?.(),
      roundTrip: await nc.rtt(),
    };
  });
}

/** A stream that is written, consumed, and read by an ordered consumer. */
function stream(options) {
  return connected(options, async (nc) => {
    const name = nuid.next();
    const js = jetstream(nc, { timeout: WAIT });
    const jsm = await jetstreamManager(nc, { timeout: WAIT });
    await jsm.streams.add({ name, subjects: [`${name}.>`], storage: "memory" });
    const acks = [];
    for (let n = 0; n < 100; n++) acks.push(await js.publish(`${name}.a`, String(n), { msgID: `id-${n}` }));
    const again = await js.publish(`${name}.a`, "", { msgID: "id-7" });
    await jsm.consumers.add(name, { durable_name: "d", ack_policy: AckPolicy.Explicit });
    const consumer = await js.consumers.get(name, "d");
    const messages = each(await consumer.consume({ max_messages: 30 }));
    const came = await take(messages, 100);
    for (const message of came) await message.ackAck();
    await messages.return();
    const ordered = each(await (await js.consumers.get(name)).consume());
    const inOrder = await take(ordered, 100);
    await ordered.return();
    const { ack_floor, num_ack_pending } = await consumer.info();
    await jsm.streams.delete(name);
    return {
      acks: acks.map((ack) => ack.seq),
      again: [again.seq, again.duplicate],
      came: came.map((message) => message.string()),
      inOrder: inOrder.map((message) => message.string()),
      settled: [ack_floor.stream_seq, num_ack_pending],
    };
  });
}

/** A bucket that is watched while it changes, and an object. */
function buckets(options) {
  return connected(options, async (nc) => {
    const js = jetstream(nc, { timeout: WAIT });
    const kv = await new Kvm(js).create(nuid.next(), { history: 5, storage: "memory" });
    await kv.put("a", "1");
    const watch = each(await kv.watch());
    await kv.put("a", "2");
    const refusal = await kv.create("a", "x").catch((error) => error.code);
    await kv.delete("a");
    const seen = (await take(watch, 3)).map((e) => [e.key, e.operation, e.string()]);
    const os = await new Objm(js).create(nuid.next(), { storage: "memory" });
    const content = new Uint8Array(300_000).map((_, at) => at * 7 % 251);
    await os.putBlob({ name: "object" }, content);
    const read = await os.getBlob("object");
    await Promise.all([kv.destroy(), os.destroy()]);
    return { seen, refusal, isWhole: read.every((byte, at) => byte === content[at]) };
  });
}

/** Logs in, and publishes to two subjects. What was refused, by name of the error and its subject. */
async function login({ seed, forbidden, permitted, ...options }) {
  if (seed) options.authenticator = nkeyAuthenticator(new TextEncoder().encode(seed));
  try {
    return await connected(options, async (nc) => {
      const refused = [];
      (async () => {
        for await (const status of nc.status()) {
          if (status.type === "error") refused.push([status.error.name, status.error.subject]);
        }
      })();
      nc.publish(permitted, "");
      if (forbidden) nc.publish(forbidden, "");
      await nc.flush();
      return { refused };
    });
  } catch (error) {
    return { error: error.name };
  }
}

globalThis.work = { buckets, core, login, stream };
