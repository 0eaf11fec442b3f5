// What the suites share: a connection for each test, names that are its own, waits with limits.
//
//     NATS_URL=nats://127.0.0.1:4222 SERVER_KIND=claudebus node --test tests/js/suites/
//
// SERVER_KIND is `claudebus` or `nats-server`: what holds for one must hold for the other, and the suite
// of what only claudebus has runs for it alone. SERVER_COMMAND, a list in JSON, starts such a server:
// `{port}` in it is the port of its NATS listener, `{data}` the directory where it keeps its data.

import assert from "node:assert/strict";
import test from "node:test";

import { jetstream, jetstreamManager } from "@nats-io/jetstream";
import { nuid } from "@nats-io/nats-core";
import { connect } from "@nats-io/transport-node";

/** Milliseconds any one condition may take. */
export const WAIT = 10_000;
/** Milliseconds one test may take. */
const TEST = 30_000;
/** Milliseconds in which what must not come would have come. */
export const SOON = 300;

export const URL = process.env.NATS_URL;
export const KIND = process.env.SERVER_KIND;
export const COMMAND = JSON.parse(process.env.SERVER_COMMAND ?? "null");

/** The tests may run again on the same data, and several files run at once. */
const RUN = nuid.next().slice(-8);
let tests = 0;

/** What one test works with. */
export class Bench {
  /** Errors that the server told the clients, but for those that a test takes out. */
  errors = [];

  constructor(context, url) {
    this.context = context;
    this.url = url;
    /** Of streams and buckets. */
    this.name = `J${++tests}_${RUN}`;
    /** What subjects begin with. */
    this.subject = this.name.toLowerCase();
  }

  static async open(context, url = URL) {
    const bench = new Bench(context, url);
    bench.nc = await bench.connect();
    bench.js = jetstream(bench.nc, { timeout: WAIT });
    bench.jsm = await jetstreamManager(bench.nc, { timeout: WAIT });
    return bench;
  }

  /** One more connection, which ends with the test. */
  async connect(options = {}) {
    const nc = await connect({ servers: this.url, ...options });
    this.context.after(() => nc.close());
    this.listen(nc);
    return nc;
  }

  async listen(nc) {
    for await (const status of nc.status()) {
      if (status.type === "error") this.errors.push(status.error);
    }
  }

  /** A stream of `<subject>.>` in memory, which is gone after the test. */
  async stream(config = {}) {
    const info = await this.jsm.streams.add({
      name: this.name,
      subjects: [`${this.subject}.>`],
      storage: "memory",
      ...config,
    });
    this.gone(() => this.jsm.streams.delete(info.config.name));
    return info;
  }

  /** Removes something after the test, unless it or the connection is gone already. */
  gone(remove) {
    this.context.after(() => remove().catch(() => {}));
  }

  /** Publishes `0`, `1` and so on to `<subject>.<last>`. */
  async publish(count, last = "a") {
    for (let n = 0; n < count; n++) await this.js.publish(`${this.subject}.${last}`, String(n));
  }
}

/** A test with a connection. It fails if the server reports an error that it does not expect. */
export function check(name, run) {
  limited(name, async (context) => {
    const bench = await Bench.open(context);
    await run(bench);
    assert.deepEqual(bench.errors, [], "errors that the clients were told");
  });
}

/** A test that fails if it takes too long. */
export function limited(name, run, options = {}) {
  test(name, { timeout: TEST, ...options }, run);
}

/** What comes of it, unless that takes too long. */
export async function inTime(promise, what = "an answer") {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${WAIT} ms in vain for ${what}`)), WAIT);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Waits until the function returns something true, or a promise of that; returns that. */
export async function eventually(condition, what) {
  const limit = Date.now() + WAIT;
  for (;;) {
    const found = await condition();
    if (found) return found;
    if (Date.now() > limit) throw new Error(`waited ${WAIT} ms in vain: ${what}`);
    await pause(10);
  }
}

export function pause(millis) {
  return new Promise((resolve) => setTimeout(resolve, millis));
}

/** The next `count` values of an iterator, which goes on; fewer only if it ends. */
export async function take(iterator, count) {
  const values = [];
  while (values.length < count) {
    const { value, done } = await inTime(iterator.next(), `value ${values.length + 1} of ${count}`);
    if (done) break;
    values.push(value);
  }
  return values;
}

/** All values of an iterator that ends by itself. */
export async function all(iterable) {
  const values = [];
  await inTime((async () => {
    for await (const value of iterable) values.push(value);
  })(), "the end of an iterator");
  return values;
}

/** The server must answer with this error of JetStream. */
export async function refused(promise, code) {
  await assert.rejects(promise, (error) => {
    assert.equal(error.code, code, `${error.stack}`);
    return true;
  });
}

/** What `Bench.publish` publishes. */
export function numbers(count, first = 0) {
  return Array.from({ length: count }, (_, n) => String(first + n));
}

/** What messages say. */
export function data(messages) {
  return messages.map((message) => message.string());
}
