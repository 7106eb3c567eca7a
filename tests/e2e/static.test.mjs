// The user's own page from --static, as a tutorial writes it, beside the chat page at /roomcast/.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Bench, until } from "./lib.mjs";

const TUTORIAL = `<!doctype html>
<title>Tutorial</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="style.css">
<ul id="list"></ul>
<form id="form"><input id="input"><button>Send</button></form>
<script src="/socket.io/socket.io.js"></script>
<script>
  const socket = io();
  document.getElementById("form").addEventListener("submit", (event) => {
    event.preventDefault();
    socket.emit("user-message", document.getElementById("input").value);
  });
  socket.on("message", (text) => {
    const item = document.createElement("li");
    item.textContent = text;
    document.getElementById("list").append(item);
  });
</script>`;

async function open(bench, url) {
  const page = await (await bench.browser()).newPage();
  page.complaints = [];
  page.on("pageerror", (error) => page.complaints.push(String(error)));
  page.on("console", (line) => line.type() === "error" && page.complaints.push(line.text()));
  page.on("response", (answer) => answer.status() >= 400 && page.complaints.push(answer.url()));
  await page.goto(url);
  return page;
}

const shows = (page, texts, expected) =>
  until(`the page shows ${expected}`, async () => {
    const shown = await page.locator(texts).allTextContents();
    return String(shown) === String(expected) || Promise.reject(String(shown));
  });

test("a tutorial's page from --static chats with the page at /roomcast/", async (t) => {
  const bench = new Bench(t);
  const dir = bench.directory();
  writeFileSync(join(dir, "index.html"), TUTORIAL);
  writeFileSync(join(dir, "style.css"), "#list { color: rgb(1, 2, 3) }");
  const node = await bench.node({ args: ["--static", dir] });
  const own = await open(bench, node.url);
  // Without the slash, as people type it.
  const ours = await open(bench, `${node.url}/roomcast`);
  await until("ours is connected", async () => (await ours.locator("#state").innerText()) === "Connected");
  assert.equal(new URL(ours.url()).pathname, "/roomcast/");
  assert.equal(await own.locator("#list").evaluate((it) => getComputedStyle(it).color), "rgb(1, 2, 3)");

  await own.fill("#input", "from the tutorial");
  await own.click("button");
  await shows(ours, "#messages .message-text", ["from the tutorial"]);
  await ours.fill("#message", "from our page");
  await ours.click("#sendBtn");
  const both = ["from the tutorial", "from our page"];
  await shows(own, "#list > li", both);
  await shows(ours, "#messages .message-text", both);
  // A style sheet of ours has been applied, so relative URLs were found below /roomcast/.
  assert.equal(await ours.locator(".header-inner").evaluate((it) => getComputedStyle(it).display), "flex");
  assert.deepEqual([...own.complaints, ...ours.complaints], []);
});
