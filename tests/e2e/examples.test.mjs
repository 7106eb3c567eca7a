// Each example is installed, built and started as its README says, and then people use it.

import assert from "node:assert/strict";
import { cpSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { Bench, REPOSITORY, freePort, send, until } from "./lib.mjs";

const EXAMPLES = join(REPOSITORY, "examples");
const NOT_COPIED = /\/(node_modules|dist|\.next)$/;

function copy(bench, name) {
  const dir = bench.directory();
  cpSync(join(EXAMPLES, name), dir, { recursive: true, filter: (path) => !NOT_COPIED.test(path) });
  return dir;
}

/** A copy of an example that `npm` has installed, checked and built. */
async function built(bench, name, env) {
  const cwd = copy(bench, name);
  await bench.succeeds("npm", ["ci", "--prefer-offline"], { cwd });
  await bench.succeeds("npm", ["run", "check"], { cwd });
  await bench.succeeds("npm", ["run", "build"], { cwd, env });
  return cwd;
}

/** Serves what was built, and answers the address of its page. */
async function serves(bench, cwd, args) {
  const port = await freePort();
  const server = bench.run("node", [...args, String(port)], { cwd });
  server.stdout.resume();
  server.stderr.resume();
  const url = `http://localhost:${port}/`;
  await until(`${url} answers`, async () => (await fetch(url)).ok, 30_000);
  return url;
}

const preview = (bench, cwd) =>
  serves(bench, cwd, ["node_modules/vite/bin/vite.js", "preview", "--strictPort", "--port"]);

async function open(bench, url, args) {
  const page = await (await bench.browser(args)).newPage();
  page.complaints = [];
  page.on("pageerror", (error) => page.complaints.push(String(error)));
  page.on("console", (line) => line.type() === "error" && page.complaints.push(line.text()));
  await page.goto(url);
  return page;
}

const shows = (page, expected) =>
  until(`the page shows ${expected}`, async () => {
    const shown = await page.locator("ul > li").allTextContents();
    return String(shown) === String(expected) || Promise.reject(String(shown));
  });

/** The page talks with an unmodified client, and shows each message once, its own too. */
async function chats(bench, node, page) {
  const other = await bench.client(node);
  await until("the page is connected", async () => {
    await send(other, "anybody there?");
    return (await page.locator("ul > li").count()) > 0;
  });
  // Whatever was sent before this has arrived when this is shown.
  await send(other, "now");
  const last = page.locator("ul > li").last();
  await until("the page shows the last one", async () => (await last.innerText()) === "now");
  const before = await page.locator("ul > li").allTextContents();
  await page.fill("input", "from the page");
  await page.click("button");
  await shows(page, [...before, "from the page"]);
  await send(other, "<b>to the page</b>");
  await shows(page, [...before, "from the page", "<b>to the page</b>"]);
  assert.deepEqual(other.heard.slice(-2), ["from the page", "<b>to the page</b>"]);
  assert.equal(await page.inputValue("input"), "");
  assert.deepEqual(page.complaints, []);
}

test("html: the page on port 9000 chats", async (t) => {
  const bench = new Bench(t);
  const node = await bench.node({ args: ["--static", join(EXAMPLES, "html")] });
  // Port 9000 of this machine may be taken; for this browser it is the node's port.
  const rule = `--host-resolver-rules=MAP localhost:9000 ${node.address}`;
  const page = await open(bench, "http://localhost:9000/", [rule]);
  for (const id of ["messages", "message", "sendBtn"]) {
    assert.equal(await page.locator(`#${id}`).count(), 1, id);
  }
  await chats(bench, node, page);
});

test("react: the built page chats from an origin of its own", async (t) => {
  const bench = new Bench(t);
  const node = await bench.node();
  const cwd = await built(bench, "react", { VITE_ROOMCAST_URL: node.url });
  const page = await open(bench, await preview(bench, cwd));
  await page.getByText("Connected").waitFor();
  await chats(bench, node, page);
});

test("next: the built page chats from an origin of its own", async (t) => {
  const bench = new Bench(t);
  const node = await bench.node();
  const env = { NEXT_PUBLIC_ROOMCAST_URL: node.url, NEXT_TELEMETRY_DISABLED: "1" };
  const cwd = await built(bench, "next", env);
  const page = await open(bench, await serves(bench, cwd, ["node_modules/next/dist/bin/next", "start", "-p"]));
  await page.getByText("Connected").waitFor();
  await chats(bench, node, page);
});

test("react-rooms: people in one room hear each other, and nobody else does", async (t) => {
  const bench = new Bench(t);
  const node = await bench.node();
  const url = await preview(bench, await built(bench, "react-rooms", { VITE_ROOMCAST_URL: node.url }));
  const enter = async (name, room) => {
    const page = await open(bench, url);
    await page.fill("[placeholder=Name]", name);
    await page.fill("[placeholder=Room]", room);
    await page.click("button");
    await page.getByRole("heading", { name: `Room ${room}` }).waitFor();
    return page;
  };
  const write = async (page, text) => {
    await page.fill("[placeholder=Message]", text);
    await page.click("button");
  };
  const ann = await enter("Ann", "attic");
  const ben = await enter("Ben", "attic");
  const eve = await enter("Eve", "cellar");

  await write(ann, "hello");
  await shows(ben, ["Ann hello"]);
  await write(ben, "hi Ann");
  await write(eve, "anybody here?");
  await write(ann, "bye");
  // Each shows its own message itself, and the server does not send it again.
  const all = ["Ann hello", "Ben hi Ann", "Ann bye"];
  await shows(ben, all);
  await shows(ann, all);
  await shows(eve, ["Eve anybody here?"]);
  for (const page of [ann, ben, eve]) assert.deepEqual(page.complaints, []);
});

/** The bot answers in its room, in direct messages, and again after its server was away. */
async function answersPing(bench, program, args, cwd) {
  const listen = `127.0.0.1:${await freePort()}`;
  const first = await bench.node({ listen });
  const env = { ROOMCAST_URL: first.url, ROOMCAST_ROOM: "attic" };
  const bot = bench.run(program, args, { cwd, env });
  const said = [];
  for (const input of [bot.stdout, bot.stderr]) {
    createInterface({ input }).on("line", (line) => said.push(line));
  }
  const joins = () => said.filter((line) => line === "in attic").length;
  const joined = (times) =>
    until(`the bot joined ${times} times`, () => joins() === times || Promise.reject(said.join("\n")), 20_000);

  await joined(1);
  await asks(bench, first);
  await first.stop();
  const second = await bench.node({ listen });
  await joined(2);
  await asks(bench, second);
}

async function asks(bench, node) {
  const ann = await bench.client(node, { query: { dialect: "native" } });
  const ask = (event, body) => ann.timeout(10_000).emitWithAck(event, body);
  await ask("profile", { name: "Ann" });
  // The newest members come with the next event.
  const members = [];
  ann.on("presence", ({ joined }) => members.push(...joined));
  members.push(...(await ask("join", { room: "attic" })).members);
  const bot = await until("the bot is a member", () => members.find(({ name }) => name === "pingbot"));
  const talk = () => ann.heard.map(({ room, text }) => [room, text]);

  await ask("send", { room: "attic", text: "hello" });
  await ask("send", { room: "attic", text: "!ping" });
  await until("the bot answers in the room", () => ann.heard.length >= 3);
  const { room } = await ask("send", { to: bot.id, text: "!ping" });
  await until("the bot answers alone", () => ann.heard.length >= 5);
  assert.deepEqual(talk(), [
    ["attic", "hello"],
    ["attic", "!ping"],
    ["attic", "pong, Ann"],
    [room, "!ping"],
    [room, "pong, Ann"],
  ]);
  ann.disconnect();
}

test("bot-node: the bot answers", async (t) => {
  const bench = new Bench(t);
  const cwd = copy(bench, "bot-node");
  // The tests have the same client, so this one needs no registry.
  symlinkSync(join(REPOSITORY, "tests/e2e/node_modules"), join(cwd, "node_modules"));
  await answersPing(bench, "node", ["bot.js"], cwd);
});

test("bot-python: the bot answers", async (t) => {
  const bench = new Bench(t);
  const cwd = copy(bench, "bot-python");
  await bench.succeeds("python3", ["-m", "venv", ".venv"], { cwd });
  await bench.succeeds(".venv/bin/pip", ["install", "--quiet", "-r", "requirements.txt"], { cwd });
  await answersPing(bench, ".venv/bin/python", ["bot.py"], cwd);
});
