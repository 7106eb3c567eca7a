// Unmodified socket.io-client against the classic contract: emit "user-message", hear "message".

import assert from "node:assert/strict";
import { test } from "node:test";
import { io } from "socket.io-client";
import { Bench, freePort, ownId, pause, send, until } from "./lib.mjs";

const TRANSPORTS = {
  "polling only": { transports: ["polling"] },
  "websocket only": { transports: ["websocket"] },
  "the default upgrade": {},
};

const VALUES = [
  "text",
  "",
  "Grüße, 世界, \u{1F680}, and a\nline break",
  { text: "object", nested: { list: [1, { deep: null }], yes: true } },
  42,
  -0.5,
  null,
  true,
  [],
  [1, "two", [3, {}]],
];

const heard = (client, expected) =>
  until(`a client heard ${expected.length} messages`, () => client.heard.length >= expected.length)
    .then(() => assert.deepEqual(client.heard, expected));

for (const [name, options] of Object.entries(TRANSPORTS)) {
  test(`any JSON reaches everybody unchanged, the sender too: ${name}`, async (t) => {
    const bench = new Bench(t);
    const node = await bench.node();
    const sender = await bench.client(node, options);
    const other = await bench.client(node, options);
    if (name === "the default upgrade") {
      await until("it is upgraded", () => sender.io.engine.transport.name === "websocket");
    }

    for (const value of VALUES) sender.emit("user-message", value);
    await heard(other, VALUES);
    await heard(sender, VALUES);

    for (const [n, value] of VALUES.entries()) {
      const ack = await send(sender, value);
      assert.equal(ack.ok, true);
      assert.equal(ack.room, "lobby");
      assert.equal(ack.seq, VALUES.length + n + 1);
    }
    await heard(other, [...VALUES, ...VALUES]);
    await heard(sender, [...VALUES, ...VALUES]);
  });

  test(`5 000 messages in one burst stay in order on both nodes: ${name}`, async (t) => {
    const bench = new Bench(t);
    const { a, b } = await bench.pair();
    const sender = await bench.client(a, options);
    const others = await Promise.all(
      [a, b].flatMap((node) =>
        Object.values(TRANSPORTS).map((transport) => bench.client(node, transport)),
      ),
    );
    const expected = Array.from({ length: 5_000 }, (_, n) => `message ${n}`);
    for (const text of expected) sender.emit("user-message", text);
    for (const client of [sender, ...others]) {
      await until("the whole burst is heard", () => client.heard.length >= expected.length, 30_000);
      assert.deepEqual(client.heard, expected);
    }
  });
}

test("wrong input is answered in words and ends nothing", async (t) => {
  const bench = new Bench(t);
  const node = await bench.node();
  const client = await bench.client(node);
  const { id } = client;
  const errors = [];
  client.on("error", (error) => errors.push(error.code));

  for (const [args, code] of [
    [[], "bad_request"],
    [[new Uint8Array([1, 2, 3])], "bad_request"],
    [[{ file: new Uint8Array([1]) }], "bad_request"],
    [["x".repeat(40_000)], "too_large"],
  ]) {
    const ack = await send(client, ...args);
    assert.equal(ack.ok, false);
    assert.equal(ack.error.code, code);
    assert.ok(ack.error.message.length > 5);
    client.emit("user-message", ...args);
    await until("the error event", () => errors.at(-1) === code);
    errors.length = 0;
  }
  assert.equal((await send(client, "still here")).ok, true);
  await heard(client, ["still here"]);
  assert.equal(client.id, id);
});

test("a retry with the same id shows once, also through the other node", async (t) => {
  const bench = new Bench(t);
  const { a, b } = await bench.pair();
  const auth = { token: "the-same-person" };
  const first = await bench.client(a, { auth });
  const second = await bench.client(b, { auth });
  const id = ownId("my-id");
  const ack = await send(first, "once", id);
  assert.equal(ack.id, id);
  for (const client of [first, second]) {
    const again = await send(client, "once", id);
    assert.deepEqual([again.epoch, again.seq, again.at], [ack.epoch, ack.seq, ack.at]);
  }
  await send(second, "after");
  await heard(first, ["once", "after"]);
  await heard(second, ["once", "after"]);
});

test("the client's own retries get every message there, once and in order", async (t) => {
  const bench = new Bench(t);
  const data = bench.directory();
  const listen = `127.0.0.1:${await freePort()}`;
  const node = await bench.node({ listen, data });
  const options = { auth: { token: "retrying" }, retries: 20, ackTimeout: 1_000 };
  const client = await bench.client(node, options);
  const expected = Array.from({ length: 200 }, (_, n) => `r${n}`);
  const acks = expected.map((text) => client.emitWithAck("user-message", text, ownId(`id-${text}`)));
  await until("some are there", () => client.heard.length > 20);
  await node.stop("SIGKILL");
  const again = await bench.node({ listen, data });
  assert.ok((await Promise.all(acks)).every((ack) => ack.ok));
  const history = await (await bench.client(again)).emitWithAck("history", {
    room: "lobby",
    limit: 200,
  });
  assert.deepEqual(history.messages.map((message) => message.body), expected);
  assert.equal(history.more, false);
});

test("what a person publishes with redis-cli shows up on both nodes", async (t) => {
  const bench = new Bench(t);
  const { redis, a, b } = await bench.pair();
  const clients = [await bench.client(a), await bench.client(b, { transports: ["polling"] })];
  const publish = async (text) => assert.equal(await redis.cli("PUBLISH", "rc:{0}", text), "2");
  await publish("plain text, typed by hand");
  await publish('{"name":"Operator","text":"back in five minutes"}');
  await publish("17");
  for (const client of clients) {
    await heard(client, [
      "plain text, typed by hand",
      { name: "Operator", text: "back in five minutes" },
      17,
    ]);
  }
  assert.equal((await send(clients[0], "a stored one")).ok, true);
  await until("it goes on", () => clients[1].heard.at(-1) === "a stored one");
});

test("SUBSCRIBE shows readable JSON", async (t) => {
  const bench = new Bench(t);
  const { redis, a } = await bench.pair();
  const lines = await redis.watch("rc:{0}");
  const client = await bench.client(a);
  await send(client, { text: "grüße", n: 7 });
  await until("a line of JSON with the message", () =>
    lines.some((line) => {
      try {
        return JSON.stringify(JSON.parse(line)).includes('{"text":"grüße","n":7}');
      } catch {
        return false;
      }
    }));
});

test("a page of an allowed origin may connect, another may not", async (t) => {
  const bench = new Bench(t);
  const node = await bench.node({ args: ["--cors-origin", "https://chat.example.org"] });
  const polling = `${node.url}/socket.io/?EIO=4&transport=polling`;
  for (const transports of [["polling"], ["websocket"]]) {
    const from = (Origin) => ({ transports, extraHeaders: { Origin }, reconnection: false });
    const client = await bench.client(node, from("https://chat.example.org"));
    assert.equal((await send(client, "hello from afar")).ok, true);
    const stranger = io(node.url, { forceNew: true, ...from("https://evil.example.net") });
    bench.onEnd(() => stranger.disconnect());
    const outcome = await new Promise((resolve) => {
      stranger.once("connect", () => resolve("connected"));
      stranger.once("connect_error", () => resolve("refused"));
    });
    assert.equal(outcome, "refused");
  }
  const headers = { Origin: "https://chat.example.org" };
  const answer = await fetch(polling, { headers });
  assert.equal(answer.headers.get("access-control-allow-origin"), headers.Origin);
  assert.equal(answer.headers.get("access-control-allow-credentials"), "true");
  const asked = await fetch(polling, {
    method: "OPTIONS",
    headers: { ...headers, "Access-Control-Request-Method": "POST" },
  });
  assert.equal(asked.ok, true);
  assert.equal(asked.headers.get("access-control-allow-origin"), headers.Origin);
  assert.match(asked.headers.get("access-control-allow-methods"), /POST/);
});

test("with Redis killed sends are refused, and within 2 s of its return the chat goes on", async (t) => {
  const bench = new Bench(t);
  const { redis, a, b } = await bench.pair();
  const clients = [await bench.client(a), await bench.client(b)];
  const ids = clients.map((client) => client.id);
  assert.equal((await send(clients[0], "before")).ok, true);
  await heard(clients[1], ["before"]);

  for (const round of [1, 2]) {
    await redis.kill();
    for (const [n, node] of [a, b].entries()) {
      await until("/readyz says 503", async () => (await node.ready()) === 503);
      const ack = await send(clients[n], "into the void");
      assert.equal(ack.ok, false);
      assert.equal(ack.error.code, "unavailable");
    }
    // Long enough for a reconnect that waits ever longer to show itself.
    if (round === 2) await pause(5_000);
    await redis.start();
    const back = performance.now();
    for (const node of [a, b]) {
      await until("/readyz says 200", async () => (await node.ready()) === 200);
    }
    assert.ok(performance.now() - back < 2_000, `${performance.now() - back} ms`);
    for (const [n, client] of clients.entries()) {
      assert.equal((await send(client, `round ${round} of ${n}`)).ok, true);
    }
  }
  const all = ["before", "round 1 of 0", "round 1 of 1", "round 2 of 0", "round 2 of 1"];
  for (const client of clients) await heard(client, all);
  assert.deepEqual(clients.map((client) => client.id), ids, "nobody was disconnected");
});

test("SIGTERM closes transports, so that clients come back by themselves", async (t) => {
  const bench = new Bench(t);
  const data = bench.directory();
  const listen = `127.0.0.1:${await freePort()}`;
  const node = await bench.node({ listen, data });
  const clients = await Promise.all(
    Object.values(TRANSPORTS).map((options) => bench.client(node, options)),
  );
  const reasons = clients.map(
    (client) => new Promise((resolve) => client.once("disconnect", resolve)),
  );
  const started = performance.now();
  const { code } = await node.stop("SIGTERM");
  assert.equal(code, 0);
  assert.ok(performance.now() - started < 9_000, "well within the deadline");
  for (const reason of await Promise.all(reasons)) {
    assert.notEqual(reason, "io server disconnect", "this client would not reconnect");
  }
  await bench.node({ listen, data });
  for (const client of clients) await until("it is back", () => client.connected);
  assert.equal((await send(clients[0], "again")).ok, true);
  for (const client of clients) await heard(client, ["again"]);
});
