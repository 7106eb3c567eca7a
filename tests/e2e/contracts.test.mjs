// The calls that the frontends of public tutorials make, each as it stands there, on two nodes with
// one Redis: the sender on one, who listens on the other.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { io } from "socket.io-client";
import { Bench, freePort, send, until } from "./lib.mjs";

const OFFSET = /^[0-9a-f-]+-[0-9a-z_]+(\.\d+)*$/;

/** Without what stands behind the arguments: an offset, or null where a text would be the last. */
function shown([event, ...args]) {
  const last = args.at(-1);
  const isEnd = last === null || (typeof last === "string" && OFFSET.test(last));
  return [event, ...(isEnd ? args.slice(0, -1) : args)];
}

/** Keeps every event that comes, as the frontend's handlers see it. */
function listening(socket) {
  socket.told = [];
  socket.raw = [];
  socket.onAny((...event) => {
    socket.raw.push(event);
    socket.told.push(shown(event));
  });
  return socket;
}

const joined = async (bench, node, options) => listening(await bench.client(node, options));

const told = async (socket, events) => {
  await until(`${events.length} events`, () => socket.told.length >= events.length).catch(() => {});
  assert.deepEqual(socket.told, events);
};

const ask = (socket, ...event) => socket.timeout(5_000).emitWithAck(...event);

/** Loses the connection as a network does, and comes back. */
async function cut(socket) {
  const before = socket.io.engine.id;
  socket.io.engine.close();
  await until("it is back", () => socket.connected && socket.io.engine.id !== before);
}

/** What a page of another node hears that only listens, and what comes back to the sender. */
async function stage(t) {
  const bench = new Bench(t);
  const { a, b } = await bench.pair();
  const sender = await joined(bench, a);
  const listener = await joined(bench, b);
  return { bench, a, b, sender, listener };
}

/** Everything that was sent before has come, to all. */
async function ends(...sockets) {
  for (const socket of sockets) {
    await until("the end is heard", () => socket.told.at(-1)?.[1] === "the end");
    socket.told.pop();
  }
}

test("messages that hold JSON as text", async (t) => {
  const { sender, listener } = await stage(t);
  sender.emit("event:message", { message: "hello \"you\"" });
  const expected = [["message", "{\"message\":\"hello \\\"you\\\"\"}"]];
  for (const socket of [sender, listener]) await told(socket, expected);
  assert.deepEqual(JSON.parse(listener.told[0][1]), { message: "hello \"you\"" });
});

test("user-message comes back as message, with and without a room in the second place", async (t) => {
  const { sender, listener } = await stage(t);
  sender.emit("user-message", "one");
  const acks = [];
  for (let n = 0; n < 3; n += 1) acks.push(await ask(sender, "user-message", "hello", "general"));
  assert.deepEqual(acks.map(({ ok }) => ok), [true, true, true]);
  assert.equal(new Set(acks.map(({ seq }) => seq)).size, 3);
  const expected = ["one", "hello", "hello", "hello"].map((text) => ["message", text]);
  for (const socket of [sender, listener]) await told(socket, expected);
});

test("the official get-started: a client offset, retries, and a connection lost before the ack", async (t) => {
  const bench = new Bench(t);
  const { a, b } = await bench.pair();
  const listener = await joined(bench, b);
  const road = await bench.road(a);
  const options = { auth: { serverOffset: 0 }, ackTimeout: 10_000, retries: 3 };
  const page = await joined(bench, road, options);
  page.on("chat message", (_text, serverOffset) => (page.auth.serverOffset = serverOffset));
  let counter = 0;
  const say = (text) => page.emit("chat message", text, `${page.id}-${counter++}`);
  const texts = [];
  const expected = () => texts.map((text) => ["chat message", text]);
  for (const [n, next] of [b, a, b, a].entries()) {
    texts.push(`before ${n}`);
    say(`before ${n}`);
    await told(page, expected());
    road.mute();
    texts.push(`unanswered ${n}`);
    say(`unanswered ${n}`);
    await told(listener, expected());
    assert.equal(page.told.length, texts.length - 1);
    road.redirect(next);
    road.cut();
    await told(page, expected());
    assert.equal(page.recovered, true);
    assert.match(page.auth.serverOffset, OFFSET);
  }
  texts.push("after");
  say("after");
  for (const socket of [page, listener]) await told(socket, expected());
});

test("the same client offset with another text is refused", async (t) => {
  const { sender, listener } = await stage(t);
  const offset = `${sender.id}-0`;
  const first = await ask(sender, "chat message", "one", offset);
  assert.equal(first.ok, true);
  assert.equal((await ask(sender, "chat message", "one", offset)).seq, first.seq);
  const other = await ask(sender, "chat message", "two", offset);
  assert.equal(other.error.code, "conflict");
  assert.equal((await ask(sender, "user-message", "one", offset)).error.code, "conflict");
  sender.emit("chat message", "the end");
  await ends(sender, listener);
  for (const socket of [sender, listener]) await told(socket, [["chat message", "one"]]);
});

for (const [name, room] of Object.entries({
  "by name": "attic",
  "by {room}": { room: "attic" },
  "by {roomId}": { roomId: "attic" },
  "by {roomid}": { roomid: "attic" },
})) {
  test(`rooms ${name}: who sends draws its own message, and who is outside hears nothing`, async (t) => {
    const { bench, a, sender, listener } = await stage(t);
    const outside = await joined(bench, a);
    for (const socket of [sender, listener]) assert.equal((await ask(socket, "join_room", room)).ok, true);
    const author = { room: "attic", author: "Ann", message: "drawn", time: "10:30" };
    const plain = { message: "plain", room: "attic" };
    const byId = { roomId: "attic", message: "by id" };
    for (const message of [author, plain, byId]) sender.emit("send_message", message);
    const back = { username: "Ann", room: "attic", message: "waits", __createdtime__: 1 };
    sender.emit("send_message", back);
    sender.emit("msg_send", { roomid: "attic", msg: "msg" });
    const shared = [["receive_message", back], ["msg_rcvd", { roomid: "attic", msg: "msg" }]];
    const drawn = [author, plain, byId].map((message) => ["receive_message", message]);
    await told(listener, [...drawn, ...shared]);
    await told(sender, shared);
    assert.equal((await ask(listener, "leave_room", room)).ok, true);
    assert.equal((await ask(sender, "send_message", plain)).ok, true);
    sender.emit("msg_send", { msg: "the end" });
    await until("the end", () => [sender, listener, outside].every(({ told }) => told.at(-1)?.[1].msg === "the end"));
    assert.deepEqual(outside.told.length, 1);
    assert.deepEqual(listener.told.length, 6);
  });
}

test("a room whose join is acked with a text, (text, room), and a public socket id", async (t) => {
  const { bench, a, b, sender, listener } = await stage(t);
  const outside = await joined(bench, b);
  const said = await new Promise((resolve) => listener.emit("join-room", "attic", resolve));
  assert.equal(said, "Joined attic");
  sender.emit("send-message", "in the attic", "attic");
  sender.emit("send-message", "for all", "");
  sender.emit("send-message", "to one", listener.id);
  const unknown = await ask(sender, "send-message", "to nobody", "0".repeat(32));
  assert.equal(unknown.error.code, "not_found");
  sender.emit("user-message", "the end");
  await ends(sender, listener, outside);
  const received = (text) => ["receive-message", text];
  await told(listener, ["in the attic", "for all", "to one"].map(received));
  await told(outside, [received("for all")]);
  await told(sender, []);
  // The id is the same on the other node, and what was said to it meanwhile is not lost.
  const road = await bench.road(b);
  const far = await joined(bench, road);
  const { id } = far;
  await ask(sender, "send-message", "first", id);
  await told(far, [received("first")]);
  road.redirect(a);
  road.cut();
  await until("it noticed", () => !far.connected);
  await ask(sender, "send-message", "meanwhile", id);
  await until("it is back", () => far.connected);
  assert.deepEqual([far.recovered, far.id], [true, id]);
  await ask(sender, "send-message", "last", id);
  await told(far, ["first", "meanwhile", "last"].map(received));
});

test("{room, message} to a room and to a socket id", async (t) => {
  const { sender, listener } = await stage(t);
  assert.equal(await ask(listener, "join-room", "attic"), "Joined attic");
  sender.emit("message", { room: "attic", message: "to the room" });
  sender.emit("message", { room: listener.id, message: "to one" });
  assert.equal((await ask(sender, "message", { room: "", message: "x" })).error.code, "bad_request");
  sender.send("the end");
  await ends(sender, listener);
  const both = (text) => [["receive-message", text], ["received-message", text]];
  await told(listener, [...both("to the room"), ...both("to one")]);
  await told(sender, []);
});

test("private messages to a socket id and to a user", async (t) => {
  const { bench, a, b, sender } = await stage(t);
  const auth = { token: "bob" };
  const bobs = [await joined(bench, a, { auth }), await joined(bench, b, { auth })];
  const native = await bench.client(a, { auth, query: { dialect: "native" } });
  const { id } = (await ask(native, "profile", {})).user;
  sender.emit("private message", { content: "psst", to: bobs[1].id });
  sender.emit("private-message", { content: "to all of you", to: id });
  sender.emit("user-message", "the end");
  await ends(sender, ...bobs);
  const toUser = ["private-message", { content: "to all of you", to: id }];
  await told(bobs[0], [toUser]);
  await told(bobs[1], [["private message", { content: "psst", to: bobs[1].id }], toUser]);
  await told(sender, [toUser]);
});

test("typing is heard on the other node and not by its sender, and is not stored", async (t) => {
  const { bench, a, sender, listener } = await stage(t);
  const outside = await joined(bench, a);
  for (const socket of [sender, listener]) await ask(socket, "join_room", "attic");
  const kinds = [[{ roomid: "attic" }], [{ roomId: "attic", name: "Ann" }], [{ room: "attic" }, "Ann"]];
  for (const args of kinds) assert.deepEqual(await ask(sender, "typing", ...args), { ok: true });
  assert.deepEqual(await ask(sender, "typing", "Ann"), { ok: true });
  const expected = [["someone_typing"], ["typing", kinds[1][0]], ["typing", ...kinds[2]], ["typing", "Ann"]];
  await until("it is told", () => listener.told.length >= expected.length);
  assert.deepEqual(listener.told, expected);
  assert.ok(listener.raw.every((event) => typeof event.at(-1) !== "string"), JSON.stringify(listener.raw));
  await until("outside", () => outside.told.length >= 1);
  assert.deepEqual(outside.told, [["typing", "Ann"]]);
  await cut(listener);
  assert.equal(listener.recovered, true);
  sender.emit("user-message", "the end");
  await ends(sender, listener);
  assert.deepEqual(listener.told, expected, "a replay has no typing");
  assert.deepEqual(sender.told, []);
  for (const room of ["lobby", "attic"]) {
    const { messages } = await ask(listener, "history", { room });
    assert.deepEqual(messages.map(({ body }) => body), room === "lobby" ? ["the end"] : []);
  }
});

test("a name is remembered from the join, also on the other node", async (t) => {
  const { bench, a, b, listener } = await stage(t);
  listener.emit("joinRoom", { username: "Bob", room: "attic" });
  const road = await bench.road(a);
  const ann = await joined(bench, road);
  ann.emit("joinRoom", { username: "Ann", room: "attic" });
  ann.emit("chatMessage", "one");
  await until("one is heard", () => ann.told.length === 1);
  road.redirect(b);
  road.cut();
  await until("it noticed", () => !ann.connected);
  await until("it is back", () => ann.connected);
  assert.equal(ann.recovered, true);
  ann.emit("chatMessage", "two");
  await until("two is heard", () => ann.told.length === 2);
  await until("the other hears, too", () => listener.told.length >= 1);
  for (const [event, { username, text, time }] of ann.told) {
    assert.deepEqual([event, username], ["message", "Ann"]);
    assert.ok(["one", "two"].includes(text));
    assert.ok(Math.abs(Date.now() - time) < 60_000, `${time}`);
  }
  assert.deepEqual(listener.told.at(-1), ann.told[1]);
});

test("the basics profile greets, and ticks every two seconds; its client is still recovered", async (t) => {
  const { bench, a, b, sender } = await stage(t);
  const road = await bench.road(b);
  const times = [];
  const page = listening(io(road.url, { forceNew: true, query: { profile: "basics" } }));
  bench.onEnd(() => page.disconnect());
  page.on("fromServer", () => times.push(performance.now()));
  await until("ticks", () => times.length >= 3);
  assert.deepEqual(page.told[0], ["welcome", "Welcome to the server"]);
  assert.deepEqual(page.told.slice(1, 3), [["fromServer"], ["fromServer"]]);
  for (const n of [1, 2]) assert.ok(Math.abs(times[n] - times[n - 1] - 2_000) < 700, `${times}`);
  page.emit("fromClient");
  const isMessage = ([event]) => event === "message";
  const texts = () => page.told.filter(isMessage).map(([, text]) => text);
  for (const next of [a, b]) {
    await send(sender, `to ${next.url}`);
    await until("it is heard", () => texts().includes(`to ${next.url}`));
    const ticks = times.length;
    await until("a tick", () => times.length > ticks);
    assert.equal(page.raw.at(-1).at(-1), null);
    road.redirect(next);
    road.cut();
    await until("it noticed", () => !page.connected);
    await send(sender, `missed ${next.url}`);
    await until("it is back", () => page.connected);
    assert.equal(page.recovered, true);
    await until("a greeting", () => page.told.at(-1)?.[0] === "welcome");
  }
  // It is cut behind the greeting, too.
  await cut(page);
  assert.equal(page.recovered, true);
  await send(sender, "the end");
  await until("the end", () => texts().includes("the end"));
  const urls = [a, b].flatMap(({ url }) => [`to ${url}`, `missed ${url}`]);
  assert.deepEqual(texts(), [...urls, "the end"]);
});

const RULES = `
[profile.shout]
say = ["shout", { text = "$text", room = "$room" }]
[profile.shout.on]
say = { out = ["said", "$*"] }
[profile.lines]
say = ["line", "$room: $text"]
[profile.lines.on]
line = { out = [["line", "$1"], ["count", "$2"]] }
[origins]
"http://shout.example" = "shout"
`;

test("five profiles and native clients in one lobby, each hears the others in its own way", async (t) => {
  const bench = new Bench(t);
  const redis = await bench.redis();
  const file = join(bench.directory(), "rules.toml");
  writeFileSync(file, RULES);
  const pinned = `127.0.0.1:${await freePort()}`;
  const args = ["--events", file, "--cors-origin", "http://shout.example"];
  const a = await bench.node({ redis: redis.url, args: [...args, "--listen", `${pinned}=turbo`] });
  const b = await bench.node({ redis: redis.url, args: [...args, "--profile", "lines"] });
  for (const node of [a, b]) await until("it is ready", async () => (await node.ready()) === 200);
  const extraHeaders = { Origin: "http://shout.example" };
  // The profile of a listener, of the query, of the page's origin, and of the node.
  const speakers = {
    plain: [await joined(bench, a), "chat message", "from plain"],
    turbo: [await joined(bench, { url: `http://${pinned}` }), "event:message", { message: "from turbo" }],
    shout: [await joined(bench, b, { extraHeaders }), "say", "from shout", 2],
    lines: [await joined(bench, b), "line", "from lines", 7],
    native: [await joined(bench, a, { query: { dialect: "native" } }), "send", { room: "lobby", text: "from native" }],
  };
  const basics = await joined(bench, a, { query: { profile: "basics" } });
  const second = {
    plain: await joined(bench, b, { query: { profile: "plain" } }),
    turbo: await joined(bench, b, { query: { profile: "turbo" } }),
    shout: await joined(bench, a, { extraHeaders }),
    lines: await joined(bench, a, { query: { profile: "lines" } }),
    native: await joined(bench, b, { query: { dialect: "native" } }),
  };
  for (const native of [speakers.native[0], second.native]) await ask(native, "join", { room: "lobby" });
  for (const [socket, ...event] of Object.values(speakers)) assert.equal((await ask(socket, ...event)).ok, true);

  const names = Object.keys(speakers);
  const told = {
    plain: (name) => [["message", `from ${name}`]],
    basics: (name) => [["message", `from ${name}`]],
    turbo: (name) => [["message", `{"message":"from ${name}"}`]],
    shout: (name) => [["shout", { room: "lobby", text: `from ${name}` }]],
    lines: (name) => [["line", `lobby: from ${name}`]],
    native: (name) => [["message", `from ${name}`]],
  };
  const own = {
    plain: [["chat message", "from plain"]],
    turbo: told.turbo("turbo"),
    shout: [["said", "from shout", 2]],
    lines: [["line", "from lines"], ["count", 7]],
    native: told.native("native"),
  };
  const others = ["fromServer", "welcome", "presence"];
  const messages = (socket) => socket.told
    .filter(([event]) => !others.includes(event))
    .map(([event, first, ...more]) => [event, socket.isNative ? first.text : first, ...more]);
  for (const socket of [speakers.native[0], second.native]) socket.isNative = true;
  const all = [...names.map((name) => [name, speakers[name][0]]), ...Object.entries(second), ["basics", basics]];
  for (const [profile, socket] of all) {
    const expected = names.flatMap((name) => (name === profile ? own[name] : told[profile](name)));
    await until(`${profile} hears all`, () => messages(socket).length >= expected.length).catch(() => {});
    assert.deepEqual(messages(socket), expected, profile);
  }
});

test("an unknown event is answered, with an ack and without", async (t) => {
  const { a, sender } = await stage(t);
  const ack = await ask(sender, "new message", "hello");
  assert.equal(ack.error.code, "bad_request");
  assert.match(ack.error.message, /'new message'.*row/);
  sender.emit("new message", "hello");
  await until("an error", () => sender.told.length === 1);
  assert.deepEqual(sender.told[0], ["error", ack.error]);
  const warned = a.log.filter((line) => line.includes("new message"));
  assert.equal(warned.length, 1, warned.join("\n"));
});
