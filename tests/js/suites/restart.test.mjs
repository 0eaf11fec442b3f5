// A server that is killed and started again: clients come back by themselves, and all that was
// acknowledged is there.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { AckPolicy } from "@nats-io/jetstream";
import { Kvm } from "@nats-io/kv";
import { Objm } from "@nats-io/obj";

import {
  all, Bench, COMMAND, data, eventually, inTime, KIND, limited, numbers, pause, take, WAIT,
} from "../bench.mjs";

/** A server of its own: the same port and the same data each time it is started. */
class Server {
  static async free() {
    const listener = createServer().listen(0, "127.0.0.1");
    await once(listener, "listening");
    const { port } = listener.address();
    await new Promise((closed) => listener.close(closed));
    return new Server(port);
  }

  constructor(port) {
    this.port = port;
    this.folder = mkdtempSync(join(tmpdir(), "nats-js-"));
    const fill = (text) => text.replace("{port}", port).replace("{data}", join(this.folder, "data"));
    this.command = COMMAND.map(fill);
  }

  async start() {
    const log = openSync(join(this.folder, "log"), "a");
    this.process = spawn(this.command[0], this.command.slice(1), { stdio: ["ignore", log, log] });
    this.ended = once(this.process, "exit");
    await eventually(() => this.listens(), "the server is ready");
  }

  async listens() {
    const log = () => readFileSync(join(this.folder, "log"), "utf8");
    assert.equal(this.process.exitCode, null, log());
    const socket = connect(this.port, "127.0.0.1");
    const listens = await new Promise((resolve) => {
      socket.once("connect", () => resolve(true));
      socket.once("error", () => resolve(false));
    });
    socket.destroy();
    return listens;
  }

  async kill() {
    this.process.kill("SIGKILL");
    await this.ended;
  }
}

/** A test with a server of its own. */
function restarted(name, run) {
  const options = { skip: COMMAND === null && "SERVER_COMMAND says how to start a server" };
  limited(name, async (context) => {
    const server = await Server.free();
    await server.start();
    context.after(async () => {
      await server.kill();
      rmSync(server.folder, { recursive: true });
    });
    const bench = await Bench.open(context, `nats://127.0.0.1:${server.port}`);
    await run(bench, server);
  }, options);
}

/** Kills the server, starts it again, and waits until the client is back. */
async function again(bench, server) {
  const statuses = bench.nc.status()[Symbol.asyncIterator]();
  const is = (type) => inTime((async () => {
    for (;;) if ((await statuses.next()).value.type === type) return;
  })(), type);
  await server.kill();
  await is("disconnect");
  await server.start();
  await is("reconnect");
}

restarted("subscriptions and requests go on", async (bench, server) => {
  const { nc, subject } = bench;
  const sub = nc.subscribe(`${subject}.*`)[Symbol.asyncIterator]();
  const limit = nc.subscribe(`${subject}.*`, { max: 3 })[Symbol.asyncIterator]();
  nc.subscribe(`${subject}-request`, {
    queue: "q",
    callback: (_, message) => message.respond("answer"),
  });
  nc.publish(`${subject}.a`, "before");
  assert.deepEqual(data(await take(sub, 1)), ["before"]);
  await again(bench, server);
  assert.equal((await nc.request(`${subject}-request`, "", { timeout: WAIT })).string(), "answer");
  for (const number of numbers(5)) nc.publish(`${subject}.a`, number);
  assert.deepEqual(data(await take(sub, 5)), numbers(5));
  assert.deepEqual(data(await take(limit, 5)), ["before", "0", "1"], "three in all");
});

restarted("what was acknowledged is there, and each is stored once", async (bench, server) => {
  const { js, jsm, name, subject } = bench;
  const before = await bench.stream({ storage: "file" });
  const stored = new Map();
  const publish = async (n) => {
    while (!stored.has(n)) {
      const options = { msgID: `message-${n}`, timeout: 500 };
      const ack = await js.publish(`${subject}.a`, String(n), options).catch(() => pause(20));
      if (ack) stored.set(n, ack.seq);
    }
  };
  const half = (async () => {
    for (let n = 0; n < 200; n++) await publish(n);
  })();
  await eventually(() => stored.size >= 100, "half of them");
  await again(bench, server);
  await inTime(half, "the other half");
  const after = await jsm.streams.info(name);
  assert.deepEqual([after.config, after.created], [before.config, before.created]);
  assert.deepEqual([after.state.messages, after.state.last_seq], [200, 200]);
  for (const [n, seq] of stored) {
    assert.equal((await jsm.streams.getMessage(name, { seq })).string(), String(n));
  }
  const known = await js.publish(`${subject}.a`, "", { msgID: "message-0" });
  assert.deepEqual([known.seq, known.duplicate], [stored.get(0), true]);
});

restarted("who consumes goes on", async (bench, server) => {
  const { js, jsm, name, subject } = bench;
  await bench.stream({ storage: "file" });
  await jsm.consumers.add(name, { durable_name: "d", ack_policy: AckPolicy.Explicit });
  const came = [];
  const ordered = [];
  const messages = await (await js.consumers.get(name, "d")).consume({
    expires: 2_000,
    idle_heartbeat: 1_000,
    callback: (message) => {
      message.ackAck({ timeout: WAIT }).then(() => came.push(message.string()), () => {});
    },
  });
  const inOrder = await (await js.consumers.get(name)).consume({
    expires: 2_000,
    idle_heartbeat: 1_000,
    callback: (message) => ordered.push(message.string()),
  });
  await bench.publish(10);
  await eventually(() => came.length === 10 && ordered.length === 10, "the first ten");
  await again(bench, server);
  for (const number of numbers(10, 10)) await js.publish(`${subject}.a`, number, { timeout: WAIT });
  await eventually(() => ordered.at(-1) === "19", "the rest, in order");
  assert.deepEqual(ordered, numbers(20));
  await eventually(() => new Set(came).size === 20, "the rest");
  // A NATS server may forget what was acknowledged just before it was killed.
  if (KIND === "claudebus") assert.deepEqual(came, numbers(20));
  await Promise.all([messages.close(), inOrder.close()]);
});

restarted("buckets and stores are as they were, and watched on", async (bench, server) => {
  const kv = await new Kvm(bench.js).create("bucket", { history: 3 });
  const os = await new Objm(bench.js).create("store");
  const content = new Uint8Array(500_000).map((_, at) => at * 7 % 251);
  for (let n = 0; n < 3; n++) await kv.put("a", String(n));
  await kv.put("gone", "x");
  await kv.delete("gone");
  await os.putBlob({ name: "object" }, content);
  const watch = (await kv.watch())[Symbol.asyncIterator]();
  assert.deepEqual((await take(watch, 2)).map((entry) => entry.key), ["a", "gone"]);
  await again(bench, server);
  const history = (await all(await kv.history({ key: "a" }))).map((entry) => entry.string());
  assert.deepEqual(history, ["0", "1", "2"]);
  assert.deepEqual(await all(await kv.keys()), ["a"]);
  assert.equal(await kv.update("a", "3", 3), 6);
  assert.equal((await take(watch, 1))[0].string(), "3");
  assert.equal(Buffer.compare(await os.getBlob("object"), content), 0);
});
