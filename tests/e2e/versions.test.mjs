// Official clients of other versions, unmodified: each chats, and each is told what it cannot have.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Bench, until } from "./lib.mjs";

/** From 4.6 on a client comes back by itself with what it missed. */
const VERSIONS = [
  { name: "socket.io-client-3.1", recovers: false },
  { name: "socket.io-client-4.0", recovers: false },
  { name: "socket.io-client-4.5", recovers: false },
  { name: "socket.io-client-4.6", recovers: true },
  { name: "socket.io-client-4.7", recovers: true },
  { name: "socket.io-client", recovers: true },
];

async function clientOf(name) {
  const module = await import(name);
  return module.io ?? module.default.io ?? module.default;
}

for (const { name, recovers } of VERSIONS) {
  for (const transports of [["polling", "websocket"], ["polling"], ["websocket"]]) {
    test(`${name} chats over ${transports}`, async (t) => {
      const bench = new Bench(t);
      const node = await bench.node();
      const io = await clientOf(name);
      const socket = io(node.url, { transports, forceNew: true, reconnectionDelay: 10 });
      bench.onEnd(() => socket.close());
      const heard = [];
      socket.on("message", (text) => heard.push(text));
      await until("it is connected", () => socket.connected);
      const ack = await new Promise((resolve) => socket.emit("user-message", "one", resolve));
      assert.equal(ack.ok, true);
      await until("it hears itself", () => heard.length === 1);

      const before = socket.id;
      socket.io.engine.close();
      const isOpen = () => socket.io.engine.readyState === "open";
      await until("it is back", () => socket.connected && isOpen());
      assert.equal(socket.id === before, recovers, "the session is the same if it recovers");
      await new Promise((resolve) => socket.emit("user-message", "two", resolve));
      await until("it hears the rest", () => heard.length >= 2);
      assert.deepEqual(heard, ["one", "two"]);
    });
  }
}

test("a client of version 2 is refused at once, and the log says why", async (t) => {
  const bench = new Bench(t);
  const node = await bench.node();
  const io = await clientOf("socket.io-client-2.5");
  const started = performance.now();
  const socket = io(node.url, { forceNew: true, reconnection: false });
  bench.onEnd(() => socket.close());
  await new Promise((resolve, reject) => {
    socket.on("connect", () => reject(new Error("it connected")));
    socket.on("connect_error", resolve);
  });
  assert.ok(performance.now() - started < 2_000, "it does not wait for its own timeout");
  const hint = "EIO=4 is spoken here";
  await until("the log says it", () => node.log.some((line) => line.includes(hint)));
});
