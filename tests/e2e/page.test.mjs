// The page in a real browser, as people use it.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Bench, freePort, isOpen, pause, send, until } from "./lib.mjs";

const SHOTS = fileURLToPath(new URL("./shots/", import.meta.url));
mkdirSync(SHOTS, { recursive: true });

const DESKTOP = { width: 1100, height: 760 };
const PHONE = { width: 390, height: 780 };

/** A page of its own browser, connected. Whatever the page complains about fails the test. */
async function open(bench, node, viewport = DESKTOP) {
  const browser = await bench.browser();
  const page = browser.pages()[0] ?? (await browser.newPage());
  await page.setViewportSize(viewport);
  page.complaints = [];
  page.on("pageerror", (error) => page.complaints.push(String(error)));
  page.on("console", (line) => {
    // A server that is away is part of these tests; the browser logs each failed request.
    const expected = /Failed to load resource|WebSocket connection|ERR_CONNECTION/;
    if (line.type() === "error" && !expected.test(line.text())) page.complaints.push(line.text());
  });
  await page.goto(node.url);
  await connected(page);
  return page;
}

const state = (page) => page.locator("#state").innerText();

const connected = (page) =>
  until("the page says it is connected", async () => (await state(page)) === "Connected");

/** The texts of the messages on the page, from top to bottom; pending ones are not among them. */
const texts = (page) =>
  page.locator("#messages > .row .message-text").evaluateAll((all) => all.map((one) => one.textContent));

const pending = (page) => page.locator(".message-pending").count();

async function write(page, text) {
  await page.fill("#message", text);
  await page.click("#sendBtn");
}

const shows = (page, expected) =>
  until(`the page shows ${JSON.stringify(expected).slice(0, 200)}`, async () => {
    const shown = await texts(page);
    return JSON.stringify(shown) === JSON.stringify(expected) || Promise.reject(JSON.stringify(shown));
  });

const shot = (page, name) => page.screenshot({ path: join(SHOTS, `${name}.png`) });

test("two pages on two nodes chat, and a reload shows what was said", async (t) => {
  const bench = new Bench(t);
  const redis = await bench.redis();
  const nodes = await Promise.all([
    bench.node({ redis: redis.url }),
    bench.node({ redis: redis.url }),
  ]);
  const ann = await open(bench, nodes[0]);
  const ben = await open(bench, nodes[1], PHONE);

  await write(ann, "Hello from the first node");
  await shows(ben, ["Hello from the first node"]);
  await write(ben, "And hello from the second");
  const both = ["Hello from the first node", "And hello from the second"];
  await shows(ann, both);
  await shows(ben, both);
  assert.equal(await ann.inputValue("#message"), "");

  await ann.reload();
  await connected(ann);
  await shows(ann, both);
  const mine = await ann.locator(".row-mine .message-text").allTextContents();
  assert.deepEqual(mine, ["Hello from the first node"], "own messages are known after a reload");
  assert.equal(await pending(ann), 0);
  await shot(ann, "two-nodes");
  assert.deepEqual([...ann.complaints, ...ben.complaints], []);
});

test("what people write is text, whatever it looks like", async (t) => {
  const bench = new Bench(t);
  const node = await bench.node();
  const page = await open(bench, node);
  const markup = `<img src=x onerror="document.title='broken in'"> <b>&amp;</b>`;
  await write(page, markup);
  await shows(page, [markup]);

  const client = await bench.client(node);
  await send(client, { name: "<i>Zoë</i>", text: "<script>1</script>" });
  await send(client, { some: "object", n: 1 });
  await send(client, 17);
  await send(client, null);
  await shows(page, [markup, "<script>1</script>", '{"some":"object","n":1}', "17", "null"]);
  assert.equal(await page.locator("#messages img, #messages script, #messages b").count(), 0);
  assert.equal(await page.locator(".message-name:visible").allTextContents().then(String), "<i>Zoë</i>");
  assert.equal(await page.title(), "Roomcast");
  assert.deepEqual(page.complaints, []);
});

test("a restart of the server is said, survived, and neither loses nor doubles a message", async (t) => {
  const bench = new Bench(t);
  const data = bench.directory();
  const listen = `127.0.0.1:${await freePort()}`;
  const first = await bench.node({ listen, data });
  const ann = await open(bench, first);
  const ben = await open(bench, first);
  await write(ann, "before");
  await shows(ben, ["before"]);

  await first.stop();
  await until("the page says so", async () => (await state(ann)) === "Server away");
  assert.match(await ann.locator("#hint").innerText(), /cannot be reached/);
  await write(ann, "while away 1");
  await write(ann, "while away 2");
  await until("both are shown as waiting", async () => (await pending(ann)) === 2);
  assert.deepEqual(await texts(ann), ["before"]);
  await shot(ann, "server-away");

  await bench.node({ listen, data });
  const all = ["before", "while away 1", "while away 2"];
  await shows(ann, all);
  await shows(ben, all);
  await connected(ann);
  assert.equal(await pending(ann), 0);
  await until("the hint is gone", async () => !(await ann.locator("#hint").isVisible()));
  await ben.reload();
  await shows(ben, all);
  assert.deepEqual([...ann.complaints, ...ben.complaints], []);
});

test("a page that comes, reloads and loses its server in a burst shows every message once", async (t) => {
  const bench = new Bench(t);
  const data = bench.directory();
  const listen = `127.0.0.1:${await freePort()}`;
  const first = await bench.node({ listen, data });
  const page = await open(bench, first);
  const sender = await bench.client(first, { transports: ["websocket"] });

  const expected = Array.from({ length: 1_500 }, (_, n) => `m${n}`);
  const burst = async (from, to) => {
    const acks = [];
    for (const text of expected.slice(from, to)) {
      acks.push(send(sender, text));
      if (acks.length % 25 === 0) await pause(1);
    }
    assert.ok((await Promise.all(acks)).every((ack) => ack.ok));
  };

  // A page that loads in the midst has the newest 50 and everything after them.
  const flood = burst(0, 600);
  await until("the burst is under way", async () => (await texts(page)).length > 50);
  await page.reload();
  await flood;
  await until("the newest is shown", async () => (await texts(page)).at(-1) === "m599");
  const shown = await texts(page);
  assert.deepEqual(shown, expected.slice(600 - shown.length, 600));

  // While the page is cut off, 900 more are sent: more than four pages of history.
  await page.context().setOffline(true);
  await first.stop();
  const second = await bench.node({ listen, data });
  await until("the sender is back", () => sender.connected);
  const late = burst(600, 1_500);
  await until("messages were missed", () => sender.heard.length > 700);
  await page.context().setOffline(false);
  await late;
  await until("the newest is shown", async () => (await texts(page)).at(-1) === "m1499", 20_000);
  assert.deepEqual(await texts(page), expected.slice(600 - shown.length));
  assert.equal(await second.ready(), 200);

  // Older ones come when they are scrolled to.
  await until("all of it can be scrolled to", async () => {
    await page.locator("#messages").evaluate((log) => (log.scrollTop = 0));
    return (await texts(page)).length === expected.length;
  }, 30_000);
  assert.deepEqual(await texts(page), expected);
  assert.deepEqual(page.complaints, []);
});

test("a message whose answer was lost is recognised, and shows once", async (t) => {
  const bench = new Bench(t);
  const node = await bench.node();
  const page = await open(bench, node);
  const client = await bench.client(node);
  node.child.kill("SIGSTOP");
  await write(page, "was it stored?");
  await until("it is shown as pending", async () => (await pending(page)) === 1);
  await page.context().setOffline(true);
  await until("the page is cut off", async () => (await state(page)) === "Offline");
  node.child.kill("SIGCONT");
  await until("it was stored", () => client.heard.includes("was it stored?"), 20_000);
  assert.equal(await pending(page), 1);
  await page.context().setOffline(false);
  await connected(page);
  await shows(page, ["was it stored?"]);
  await until("it is not pending", async () => (await pending(page)) === 0);
  assert.equal(await page.locator(".row-mine").count(), 1);
  await write(page, "next");
  await shows(page, ["was it stored?", "next"]);
  await until("both are heard", () => client.heard.length >= 2);
  assert.deepEqual(client.heard, ["was it stored?", "next"]);
  assert.deepEqual(page.complaints, []);
});

test("a log that was lost is said by a line, and the chat goes on below it", async (t) => {
  const bench = new Bench(t);
  const listen = `127.0.0.1:${await freePort()}`;
  const first = await bench.node({ listen });
  const page = await open(bench, first);
  await write(page, "of the old log");
  await shows(page, ["of the old log"]);
  await first.stop("SIGKILL");
  await until("the page says so", async () => (await state(page)) === "Server away");
  await write(page, "written in between");

  const second = await bench.node({ listen });
  await connected(page);
  await shows(page, ["of the old log", "written in between"]);
  await send(await bench.client(second), "of the new log");
  const all = ["of the old log", "written in between", "of the new log"];
  await shows(page, all);
  const lines = await page.locator("#messages > .divider").allTextContents();
  assert.equal(lines.length, 1, String(lines));
  assert.match(lines[0], /started anew/);
  const order = await page
    .locator("#messages > .divider, #messages > .row .message-text")
    .allTextContents();
  assert.deepEqual(order, [all[0], lines[0], ...all.slice(1)]);
  await page.reload();
  await shows(page, all.slice(1));
  assert.deepEqual(page.complaints, []);
});

test("a log that was lost under a running server is said, too", async (t) => {
  const bench = new Bench(t);
  const redis = await bench.redis();
  const node = await bench.node({ redis: redis.url });
  await until("the node is ready", async () => (await node.ready()) === 200);
  const page = await open(bench, node);
  await write(page, "before");
  await shows(page, ["before"]);
  await redis.cli("FLUSHALL");
  await write(page, "after");
  await shows(page, ["before", "after"]);
  await until("the line is there", async () =>
    (await page.locator("#messages > .divider").allTextContents()).length === 1);
  await until("it is not pending", async () => (await pending(page)) === 0);
  for (let n = 0; n < 60; n += 1) await write(page, `more ${n}`);
  const more = Array.from({ length: 60 }, (_, n) => `more ${n}`);
  await shows(page, ["before", "after", ...more]);

  // A log longer than a page takes the place of the old one.
  await page.context().setOffline(true);
  await redis.cli("FLUSHALL");
  const client = await bench.client(node);
  const fresh = Array.from({ length: 70 }, (_, n) => `fresh ${n}`);
  for (const text of fresh) await send(client, text);
  await page.context().setOffline(false);
  await until("the new log is shown", async () => (await texts(page)).at(-1) === "fresh 69", 60_000);
  assert.deepEqual(await texts(page), fresh.slice(20));
  await page.locator("#messages").evaluate((log) => (log.scrollTop = 0));
  await shows(page, fresh);
  assert.match(await page.locator("#messages > .divider").innerText(), /started anew/);
  assert.deepEqual(page.complaints, []);
});

test("a hole that the log cannot fill is said where it is", async (t) => {
  const bench = new Bench(t);
  const redis = await bench.redis();
  const nodes = [await bench.node({ redis: redis.url }), await bench.node({ redis: redis.url })];
  for (const node of nodes) await until("it is ready", async () => (await node.ready()) === 200);
  const page = await open(bench, nodes[1]);
  await write(page, "before");
  await shows(page, ["before"]);

  // The page's node sleeps, loses its subscription, and wakes when the log has forgotten half.
  nodes[1].child.kill("SIGSTOP");
  await redis.cli("CLIENT", "KILL", "TYPE", "pubsub");
  const client = await bench.client(nodes[0]);
  const acks = [];
  for (let n = 0; n < 6; n += 1) acks.push(await send(client, `missed ${n}`));
  await redis.cli("XTRIM", "rc:{0}:log", "MINID", acks[4].seq);
  nodes[1].child.kill("SIGCONT");

  const there = ["before", "missed 4", "missed 5"];
  await shows(page, there);
  const order = await page
    .locator("#messages > .divider, #messages > .row .message-text")
    .allTextContents();
  assert.deepEqual(order, [there[0], "Up to 4 messages are missing here", ...there.slice(1)]);
  await shot(page, "gap");
  await write(page, "and on it goes");
  await shows(page, [...there, "and on it goes"]);
  // The room's history reaches further back than what nodes catch up from.
  await page.reload();
  await shows(page, ["before", ...acks.map((_, n) => `missed ${n}`), "and on it goes"]);
  assert.deepEqual(page.complaints, []);
});

test("a refused message says why, and a reader who scrolled up is not moved", async (t) => {
  const bench = new Bench(t);
  const node = await bench.node();
  const client = await bench.client(node);
  for (let n = 0; n < 40; n += 1) await send(client, `line ${n}`);
  const page = await open(bench, node);
  await until("the history is shown", async () => (await texts(page)).length === 40);

  await write(page, "x".repeat(40_000));
  await until("the refusal is shown", async () =>
    (await page.locator(".message-status").innerText()).includes("too long"));
  await shot(page, "refused");
  await page.getByRole("button", { name: "Discard" }).click();
  assert.equal(await pending(page), 0);

  const log = page.locator("#messages");
  await log.evaluate((it) => (it.scrollTop = 300));
  await send(client, "while reading above");
  const button = page.locator("#newMessages");
  await until("the button is there", () => button.isVisible());
  assert.match(await button.innerText(), /1 new message/);
  assert.equal(await log.evaluate((it) => it.scrollTop), 300);
  await button.click();
  await until("the end is shown", () =>
    log.evaluate((it) => it.scrollHeight - it.scrollTop - it.clientHeight < 2));
  assert.equal(await button.isVisible(), false);
  assert.deepEqual(page.complaints, []);
});

test("the store away is said, and what was written then is sent once it is back", async (t) => {
  const bench = new Bench(t);
  const redis = await bench.redis();
  const node = await bench.node({ redis: redis.url });
  const page = await open(bench, node);
  await write(page, "before");
  await shows(page, ["before"]);

  await redis.kill();
  await until("nobody listens", async () => !(await isOpen(redis.port)));
  await write(page, "while the store was away");
  await until("the page says so", async () => (await state(page)) === "Store away");
  await shot(page, "store-away");
  await redis.start();
  await shows(page, ["before", "while the store was away"]);
  await connected(page);
  assert.equal(await pending(page), 0);
  assert.deepEqual(page.complaints, []);
});

test("it looks well in light and dark, on a desk and in a hand", async (t) => {
  const bench = new Bench(t);
  const node = await bench.node();
  const page = await open(bench, node);
  const client = await bench.client(node);
  await send(client, { name: "Operator", text: "Good morning! Is the second node up already?" });
  await write(page, "Yes, since half past eight. Nobody noticed the move.");
  await until("it is shown", async () => (await texts(page)).length === 2);
  await send(client, { name: "Operator", text: "Then I can restart the first one." });
  await send(client, { name: "On call", text: "Please do, I am watching. What I write now waits for it and is sent when it is back, once and in order." });
  await send(client, { deploy: "node-1", state: "draining", clients: 214 });
  await write(page, "Looks good from here.");
  await until("all are shown", async () => (await texts(page)).length === 6);

  const log = page.locator("#messages");
  for (const colorScheme of ["light", "dark"]) {
    for (const [name, viewport] of Object.entries({ desktop: DESKTOP, phone: PHONE })) {
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      await page.setViewportSize(viewport);
      await until("the newest is in sight", () =>
        log.evaluate((it) => it.scrollHeight - it.scrollTop - it.clientHeight < 2));
      await shot(page, `${name}-${colorScheme}`);
    }
  }

  await send(client, "a-very-long-word".repeat(40));
  await send(client, { json: "x".repeat(900) });
  await until("all are shown", async () => (await texts(page)).length === 8);
  const sideways = await log.evaluate((it) => it.scrollWidth - it.clientWidth);
  assert.equal(sideways, 0, "long words wrap, on a phone too");
  assert.deepEqual(page.complaints, []);
});
