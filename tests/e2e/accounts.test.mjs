// The calls of the MERN chat tutorial's frontend, in real browsers, page and server on one
// origin or on two ports. fetch stands in for axios: both send the cookie.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Bench, pause, until } from "./lib.mjs";

const PAGE = `<!doctype html>
<title>Chat</title>
<link rel="icon" href="data:,">
<script src="/socket.io/socket.io.js"></script>
<script>
  const SERVER = new URLSearchParams(location.search).get("server") ?? "";
  const app = { authUser: null, onlineUsers: [], messages: [], socket: null };
  async function call(method, path, data) {
    const body = data && JSON.stringify(data);
    const headers = body ? { "Content-Type": "application/json" } : {};
    const answer = await fetch(SERVER + "/api" + path, { method, headers, body, credentials: "include" });
    const json = await answer.json();
    if (!answer.ok) throw new Error(json.message);
    return json;
  }
  function connectSocket() {
    const socket = io(SERVER || "/", { query: { userId: app.authUser._id } });
    socket.connect();
    app.socket = socket;
    socket.on("getOnlineUsers", (userIds) => { app.onlineUsers = userIds; });
    socket.on("newMessage", (message) => { app.messages = [...app.messages, message]; });
  }
  async function start(path, data) {
    app.authUser = await call(data ? "POST" : "GET", path, data);
    connectSocket();
    return app.authUser._id;
  }
  async function logout() {
    await call("POST", "/auth/logout");
    app.socket.disconnect();
  }
</script>`;

const PNG =
  "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

async function open(bench, url) {
  const page = await (await bench.browser()).newPage();
  await page.goto(url);
  return page;
}

const signUp = (page, name) =>
  page.evaluate(
    ([name]) => start("/auth/signup", { fullName: name, email: name + "@example.org", password: "secret1" }),
    [name],
  );

const online = (page, ids) =>
  until(`${ids.length} are online`, async () => {
    const listed = await page.evaluate(() => app.onlineUsers);
    return String([...listed].sort()) === String([...ids].sort()) || Promise.reject(String(listed));
  });

test("two browsers sign up, chat with a picture, come back and log out", async (t) => {
  const bench = new Bench(t);
  const dir = bench.directory();
  writeFileSync(join(dir, "index.html"), PAGE);
  const node = await bench.node({ args: ["--accounts", "on", "--static", dir] });
  const [ann, bob] = [await open(bench, node.url), await open(bench, node.url)];
  const [annId, bobId] = [await signUp(ann, "Ann"), await signUp(bob, "Bob")];
  await online(ann, [annId, bobId]);
  await online(bob, [annId, bobId]);
  await assert.rejects(signUp(ann, "Bob"), /Email already exists/);

  const users = await ann.evaluate(() => call("GET", "/messages/users"));
  assert.deepEqual(users.map((user) => [user._id, user.fullName]), [[bobId, "Bob"]]);
  const sent = await ann.evaluate(
    ([to, image]) => call("POST", "/messages/send/" + to, { text: "hi", image }),
    [bobId, PNG],
  );
  const heard = await until("bob hears it", () => bob.evaluate(() => app.messages[0]));
  assert.deepEqual(heard, sent);
  assert.deepEqual(await ann.evaluate(() => app.messages), []);
  const width = await bob.evaluate(async ([url]) => {
    const picture = new Image();
    picture.src = url;
    await picture.decode();
    return picture.naturalWidth;
  }, [heard.image]);
  assert.equal(width, 1);

  // A reload: the cookie is still there, and so are the messages.
  await bob.reload();
  assert.equal(await bob.evaluate(() => start("/auth/check")), bobId);
  await online(bob, [annId, bobId]);
  const kept = await bob.evaluate(([id]) => call("GET", "/messages/" + id), [annId]);
  assert.deepEqual(kept, [sent]);
  await ann.evaluate(([to]) => call("POST", "/messages/send/" + to, { text: "again" }), [bobId]);
  const again = await until("bob hears it", () => bob.evaluate(() => app.messages[0]));
  assert.equal(again.text, "again");

  await bob.evaluate(() => logout());
  await online(ann, [annId]);
  await assert.rejects(bob.evaluate(() => start("/auth/check")), /Unauthorized/);
});

// As with Vite's development server: the polling handshake has no cookie, the upgrade has it.
test("a page of another port proves its account with the upgrade to a websocket", async (t) => {
  const bench = new Bench(t);
  const dir = bench.directory();
  writeFileSync(join(dir, "index.html"), PAGE);
  const pages = await bench.node({ args: ["--static", dir] });
  const node = await bench.node({ args: ["--accounts", "on"] });
  const url = `${pages.url}/?server=${encodeURIComponent(node.url)}`;
  const [ann, bob] = [await open(bench, url), await open(bench, url)];
  const [annId, bobId] = [await signUp(ann, "Ann"), await signUp(bob, "Bob")];
  await online(ann, [annId, bobId]);
  const sent = await ann.evaluate(([to]) => call("POST", "/messages/send/" + to, { text: "hi" }), [bobId]);
  assert.deepEqual(await until("bob hears it", () => bob.evaluate(() => app.messages[0])), sent);

  // A page that says it is Bob hears who is online, and no message.
  const eve = await open(bench, url);
  await eve.evaluate(([id]) => { app.authUser = { _id: id }; connectSocket(); }, [bobId]);
  await online(eve, [annId, bobId]);
  await ann.evaluate(([to]) => call("POST", "/messages/send/" + to, { text: "secret" }), [bobId]);
  await until("bob hears it", () => bob.evaluate(() => app.messages[1]));
  await pause(300);
  assert.deepEqual(await eve.evaluate(() => app.messages), []);
});
