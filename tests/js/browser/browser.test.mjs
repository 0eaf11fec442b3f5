// A real browser, without a window, opens pages that are served on loopback and that talk to a server
// over WebSocket.
//
// OPEN_URL is a server that lets everybody in, OWN_ORIGINS whether it minds where pages come from: pages of
// `friend.example` may connect, those of `foreign.example` may not. LOGIN_URL is one with the users below,
// TOKEN_URL one with a token.

import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";
import { chromium } from "playwright-core";

const { CHROMIUM, LOGIN_URL, OPEN_URL, OWN_ORIGINS, TOKEN_URL } = process.env;
const LIMIT = 60_000;

/** No sandbox, as tests may run as root in a container; and nothing is asked of hosts elsewhere. */
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
  "--host-resolver-rules=MAP *.example 127.0.0.1",
];

const numbers = (count, first = 0) => Array.from({ length: count }, (_, n) => first + n);

let site, browser, profile;

before(async () => {
  const entry = fileURLToPath(new URL("page.mjs", import.meta.url));
  // The object store takes node's own hashes where they are, which is not here.
  const options = { bundle: true, format: "esm", write: false, external: ["node:crypto"] };
  const built = await build({ entryPoints: [entry], ...options });
  const script = built.outputFiles[0].text;
  site = createServer((request, response) => {
    const isScript = request.url === "/page.js";
    response.setHeader("content-type", isScript ? "text/javascript" : "text/html");
    response.end(isScript ? script : '<!doctype html><script type="module" src="/page.js"></script>');
  }).listen(0, "127.0.0.1");
  await once(site, "listening");
  profile = mkdtempSync(join(tmpdir(), "chromium-"));
  const launched = { executablePath: CHROMIUM, headless: true, args: FLAGS };
  browser = await chromium.launchPersistentContext(profile, launched);
}, { timeout: LIMIT });

after(async () => {
  await browser?.close();
  site?.close();
  if (profile) rmSync(profile, { recursive: true, force: true });
});

/** Opens a page of a host, has it do something, and returns what came of it and what the browser said. */
async function visit(host, what, options) {
  const page = await browser.newPage();
  const said = [];
  page.on("console", (message) => said.push(message.text()));
  page.on("pageerror", (error) => said.push(String(error)));
  try {
    await page.goto(`http://${host}:${site.address().port}/`);
    await page.waitForFunction(() => globalThis.work, null, { timeout: LIMIT });
    const work = ([what, options]) => globalThis.work[what](options)
      .then((result) => ({ result }), (error) => ({ error: `${error.name}: ${error.message}` }));
    return { ...await page.evaluate(work, [what, options]), said };
  } finally {
    await page.close();
  }
}

/** The same, which must work. */
async function works(what, options, host = "127.0.0.1") {
  const { result, error, said } = await visit(host, what, options);
  assert.equal(error, undefined, said.join("\n"));
  return result;
}

test("a page publishes, subscribes and asks", { timeout: LIMIT }, async () => {
  const came = await works("core", { servers: OPEN_URL });
  assert.deepEqual(came.first, ["with headers", ["one", "größer ↑"]]);
  assert.deepEqual(came.numbers, numbers(1000));
  assert.equal(came.isWhole, true);
  assert.equal(came.answer, "re: hello");
  assert.equal(came.hasNoResponders, true);
  assert.ok(came.roundTrip >= 0);
});

test("a page writes a stream and consumes it", { timeout: LIMIT }, async () => {
  const came = await works("stream", { servers: OPEN_URL });
  assert.deepEqual(came.acks, numbers(100, 1));
  assert.deepEqual(came.again, [8, true]);
  assert.deepEqual(came.came, numbers(100).map(String));
  assert.deepEqual(came.inOrder, numbers(100).map(String));
  assert.deepEqual(came.settled, [100, 0]);
});

test("a page watches a bucket, and stores an object", { timeout: LIMIT }, async () => {
  const came = await works("buckets", { servers: OPEN_URL });
  const seen = [["a", "PUT", "1"], ["a", "PUT", "2"], ["a", "DEL", ""]];
  assert.deepEqual(came.seen, seen);
  assert.equal(came.refusal, 10071);
  assert.equal(came.isWhole, true);
});

/** What only a server does that minds where pages come from. */
const guarded = OWN_ORIGINS === "yes" ? test : () => {};

guarded("a page from elsewhere is refused, unless its host is allowed", { timeout: LIMIT }, async () => {
  const foreign = await visit("foreign.example", "core", { servers: OPEN_URL });
  assert.ok(foreign.error, "it was let in");
  assert.ok(foreign.said.some((line) => line.includes("403")), foreign.said.join("\n"));
  const friend = await works("core", { servers: OPEN_URL }, "friend.example");
  assert.equal(friend.answer, "re: hello");
});

test("a page logs in with a password", { timeout: LIMIT }, async () => {
  const user = { servers: LOGIN_URL, user: "ann", pass: "secret", permitted: "ann.a" };
  assert.deepEqual(await works("login", user), { refused: [] });
  const refused = [["PermissionViolationError", "bob.a"]];
  assert.deepEqual(await works("login", { ...user, forbidden: "bob.a" }), { refused });
  for (const wrong of [{ pass: "wrong" }, { user: "nobody" }, { user: undefined, pass: undefined }]) {
    assert.deepEqual(await works("login", { ...user, ...wrong }), { error: "AuthorizationError" });
  }
});

test("a page logs in with a key", { timeout: LIMIT }, async () => {
  const own = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
  const other = "SUAMK2FG4MI6UE3ACF3FK3OIQBCEIEZV7NSWFFEW63UXMRLFM2XLAXK4GY";
  const user = { servers: LOGIN_URL, seed: own, permitted: "kim", forbidden: "ann.a" };
  const refused = [["PermissionViolationError", "ann.a"]];
  assert.deepEqual(await works("login", user), { refused });
  assert.deepEqual(await works("login", { ...user, seed: other }), { error: "AuthorizationError" });
});

test("a page logs in with a token", { timeout: LIMIT }, async () => {
  const user = { servers: TOKEN_URL, token: "t0ken", permitted: "any" };
  assert.deepEqual(await works("login", user), { refused: [] });
  assert.deepEqual(await works("login", { ...user, token: "token" }), { error: "AuthorizationError" });
});
