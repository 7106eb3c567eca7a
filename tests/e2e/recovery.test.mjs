// Connection state recovery as an unmodified socket.io-client sees it, and the tutorial's own way.

import assert from "node:assert/strict";
import { test } from "node:test";
import { io } from "socket.io-client";
import { Bench, freePort, ownId, send, until } from "./lib.mjs";

const TRANSPORTS = {
  "polling only": { transports: ["polling"] },
  "websocket only": { transports: ["websocket"] },
  "the default upgrade": {},
};

/** Loses the transport as a network does; the client comes back by itself. */
function cut(socket) {
  socket.io.engine.close();
  return until("the client noticed", () => !socket.connected);
}

const back = (socket) => until("the client is back", () => socket.connected);
const heard = (socket, expected) =>
  until(`a client heard ${expected.length}`, () => socket.heard.length >= expected.length)
    .then(() => assert.deepEqual(socket.heard, expected));

for (const [name, options] of Object.entries(TRANSPORTS)) {
  test(`a client that comes back gets what it missed, once and in order: ${name}`, async (t) => {
    const bench = new Bench(t);
    const node = await bench.node();
    const away = await bench.client(node, { ...options, reconnectionDelay: 400 });
    const talker = await bench.client(node, options);
    const order = [];
    away.on("connect", () => order.push("connect"));
    away.on("message", (text) => order.push(text));
    assert.equal(away.recovered, false);
    const { id } = away;
    assert.notEqual(id, away.io.engine.id, "the Engine.IO session is not shown");

    await send(talker, "before");
    await heard(away, ["before"]);
    await cut(away);
    for (const text of ["one", "two", "three"]) await send(talker, text);
    await back(away);
    assert.equal(away.recovered, true);
    assert.equal(away.id, id, "the same public id");
    await heard(away, ["before", "one", "two", "three"]);
    await send(talker, "after");
    await heard(away, ["before", "one", "two", "three", "after"]);

    // Again, and this time before it heard anything new.
    await cut(away);
    await back(away);
    assert.equal(away.recovered, true);
    await send(away, "mine");
    await heard(away, ["before", "one", "two", "three", "after", "mine"]);
  });
}

test("one that heard nothing yet gets everything since it connected", async (t) => {
  const bench = new Bench(t);
  const node = await bench.node();
  const talker = await bench.client(node);
  await send(talker, "too early for the other");
  const away = await bench.client(node, { transports: ["websocket"], reconnectionDelay: 400 });
  await cut(away);
  await send(talker, "missed");
  await back(away);
  assert.equal(away.recovered, true);
  await heard(away, ["missed"]);
});

test("a session moves to another node, also when its own is killed", async (t) => {
  const bench = new Bench(t);
  const redis = await bench.redis();
  const port = await freePort();
  const listen = `127.0.0.1:${port}`;
  const [a, b] = await Promise.all([
    bench.node({ redis: redis.url, listen }),
    bench.node({ redis: redis.url }),
  ]);
  for (const node of [a, b]) await until("it is ready", async () => (await node.ready()) === 200);
  const away = await bench.client(a, { transports: ["websocket"], reconnectionDelayMax: 300 });
  const talker = await bench.client(b);
  await send(talker, "before");
  await heard(away, ["before"]);
  const { id } = away;

  await a.stop("SIGKILL");
  await until("the client noticed", () => !away.connected);
  for (let n = 0; n < 50; n += 1) await send(talker, `missed ${n}`);
  // Another process at the same address: it has never seen this client.
  await bench.node({ redis: redis.url, listen });
  await back(away);
  assert.equal(away.recovered, true);
  assert.equal(away.id, id);
  const missed = Array.from({ length: 50 }, (_, n) => `missed ${n}`);
  await heard(away, ["before", ...missed]);
});

test("a restart of a single node with a file keeps sessions", async (t) => {
  const bench = new Bench(t);
  const listen = `127.0.0.1:${await freePort()}`;
  const data = bench.directory();
  const node = await bench.node({ listen, data });
  const away = await bench.client(node, { reconnectionDelayMax: 300 });
  await send(away, "stored");
  await heard(away, ["stored"]);
  await node.stop("SIGKILL");
  await until("the client noticed", () => !away.connected);
  const again = await bench.node({ listen, data });
  await back(away);
  assert.equal(away.recovered, true);
  await send(await bench.client(again), "new");
  await heard(away, ["stored", "new"]);
});

test("an unknown session begins anew, and says so", async (t) => {
  const bench = new Bench(t);
  const node = await bench.node({ args: ["--recovery-window", "1s"] });
  const away = await bench.client(node, { reconnection: false });
  const { id } = away;
  await send(away, "x");
  await cut(away);
  await new Promise((resolve) => setTimeout(resolve, 2_500));
  away.connect();
  await back(away);
  assert.equal(away.recovered, false);
  assert.notEqual(away.id, id);
});

test("retries of the official client show once, over a lost connection", async (t) => {
  const bench = new Bench(t);
  const node = await bench.node();
  const witness = await bench.client(node);
  const sender = await bench.client(node, { retries: 5, ackTimeout: 300, auth: { token: "me" } });
  const acks = [];
  for (let n = 0; n < 20; n += 1) {
    sender.emit("user-message", `m${n}`, ownId(`id-${n}`), (error, ack) => acks.push(error ?? ack));
    if (n % 5 === 4) sender.io.engine.close();
  }
  await until("all are acked", () => acks.length === 20);
  assert.ok(acks.every((ack) => ack.ok), JSON.stringify(acks));
  const expected = Array.from({ length: 20 }, (_, n) => `m${n}`);
  await heard(witness, expected);
  await heard(sender, expected);
});

test("the tutorial's own way: auth.serverOffset and a client offset in the ack", async (t) => {
  const bench = new Bench(t);
  const node = await bench.node();
  const talker = await bench.client(node);
  // A page that keeps its offset itself, as over a reload, where no session comes back.
  const { seq, epoch } = await send(talker, "seen");
  await send(talker, "missed");
  const page = io(node.url, { forceNew: true, auth: { serverOffset: seq } });
  bench.onEnd(() => page.disconnect());
  await until("it is connected", () => page.connected);
  const history = await page.timeout(5_000).emitWithAck("history", {
    room: "lobby",
    after: { epoch, seq },
  });
  assert.deepEqual(history.messages.map(({ body }) => body), ["missed"]);
});
