// Starts what the tests need, on loopback and free ports, and ends all of it, whatever happens.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { connect as connectTcp, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { io } from "socket.io-client";

export const REPOSITORY = fileURLToPath(new URL("../../", import.meta.url));
const BINARY = process.env.ROOMCAST_BIN ?? join(REPOSITORY, "target/debug/roomcast");
const CHROMIUM = process.env.CHROMIUM_BIN ?? "/usr/bin/chromium";
const START_MS = 15_000;
const STOP_MS = 10_000;
const POLL_MS = 20;

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Asks until the answer is true-ish, and says what was waited for if it never is. */
export async function until(what, probe, withinMs = 10_000) {
  const deadline = performance.now() + withinMs;
  let last;
  for (;;) {
    try {
      last = await probe();
      if (last) return last;
    } catch (error) {
      last = error;
    }
    if (performance.now() > deadline) {
      throw new Error(`not within ${withinMs} ms: ${what} (last: ${String(last)})`);
    }
    await pause(POLL_MS);
  }
}

export async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** Everything a test starts; `t.after` ends it in reverse order, also when the test failed. */
export class Bench {
  #ends = [];

  constructor(t) {
    t.after(() => this.#endAll());
  }

  onEnd(end) {
    this.#ends.push(end);
  }

  directory() {
    const path = mkdtempSync(join(tmpdir(), "roomcast-e2e-"));
    this.onEnd(() => rmSync(path, { recursive: true, force: true, maxRetries: 5 }));
    return path;
  }

  /** Runs a program that dies with this process, even if this process is killed. */
  run(program, args, { cwd, env = {} } = {}) {
    const child = spawn("setpriv", ["--pdeathsig", "KILL", program, ...args], {
      stdio: ["ignore", "pipe", "pipe"],
      cwd,
      env: { ...process.env, ...env },
    });
    child.gone = once(child, "exit").then(([code, signal]) => ({ code, signal }));
    this.onEnd(() => end(child, "SIGKILL"));
    return child;
  }

  /** Runs a program to its end; throws with all that it printed if it fails. */
  async succeeds(program, args, options) {
    const child = this.run(program, args, options);
    let printed = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (chunk) => (printed += chunk));
    }
    const [code] = await once(child, "close");
    if (code !== 0) throw new Error(`${program} ${args.join(" ")} failed with ${code}:\n${printed}`);
  }

  async node({ listen = "127.0.0.1:0", data = "memory", redis, args = [] } = {}) {
    const options = ["--listen", listen, "--data", data, "--log-format", "json", ...args];
    if (redis) options.push("--redis", redis);
    const child = this.run(BINARY, options);
    child.stdout.resume();
    const log = [];
    const address = await new Promise((resolve, reject) => {
      const late = () => reject(new Error(`no "listening" line:\n${log.join("\n")}`));
      const timer = setTimeout(late, START_MS);
      child.gone.then(late);
      createInterface({ input: child.stderr }).on("line", (line) => {
        log.push(line);
        const fields = fieldsOf(line);
        if (fields?.message !== "listening") return;
        clearTimeout(timer);
        resolve(fields.address);
      });
    });
    return new Node(child, address, log);
  }

  /** Two nodes that share a Redis, both ready. */
  async pair(args = []) {
    const redis = await this.redis();
    const node = () => this.node({ redis: redis.url, args });
    const [a, b] = await Promise.all([node(), node()]);
    for (const one of [a, b]) {
      await until("both nodes are ready", async () => (await one.ready()) === 200);
    }
    return { redis, a, b };
  }

  /** A road to a node that can lose connections, or lead to another node. */
  async road(node) {
    const road = new Road(node.address);
    await road.start();
    this.onEnd(() => road.end());
    return road;
  }

  async redis(port) {
    const args = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"];
    const redis = new Redis(this, port ?? (await freePort()), this.directory(), args);
    await redis.start();
    return redis;
  }

  /** An unmodified client, connected. */
  async client(node, options = {}) {
    const socket = io(node.url, { forceNew: true, reconnectionDelay: 100, ...options });
    this.onEnd(() => socket.disconnect());
    socket.heard = [];
    socket.on("message", (...args) => socket.heard.push(args[0]));
    await until(`a client connected to ${node.url}`, () => socket.connected);
    return socket;
  }

  /** A browser of its own: no cookie, no cache, nothing kept. */
  async browser(args = []) {
    const { chromium } = await import("playwright-core");
    const context = await chromium.launchPersistentContext(this.directory(), {
      executablePath: CHROMIUM,
      args: [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        ...args,
      ],
    });
    this.onEnd(() => context.close());
    return context;
  }

  async #endAll() {
    for (const end of this.#ends.reverse()) await end();
  }
}

class Node {
  constructor(child, address, log) {
    Object.assign(this, { child, address, log, url: `http://${address}` });
  }

  /** The status of `/readyz`, or 0 if nobody answers. */
  async ready() {
    try {
      return (await fetch(`${this.url}/readyz`)).status;
    } catch {
      return 0;
    }
  }

  stop(signal = "SIGTERM") {
    return end(this.child, signal);
  }
}

class Road {
  #server = createServer((client) => this.#carry(client));
  #connections = new Set();
  #isMute = false;

  constructor(address) {
    this.address = address;
  }

  async start() {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    this.url = `http://127.0.0.1:${this.#server.address().port}`;
  }

  /** Where new connections go from now on. */
  redirect(node) {
    this.address = node.address;
  }

  /** What clients send still arrives, and no answer comes back, until the next cut. */
  mute() {
    this.#isMute = true;
  }

  cut() {
    for (const connection of this.#connections) connection.destroy();
    this.#isMute = false;
  }

  end() {
    this.cut();
    this.#server.close();
  }

  #carry(client) {
    const [host, port] = this.address.split(":");
    const server = connectTcp(Number(port), host);
    for (const [from, to] of [[client, server], [server, client]]) {
      this.#connections.add(from);
      from.on("error", () => {});
      from.on("data", (chunk) => {
        if (from === client || !this.#isMute) to.write(chunk);
      });
      from.on("close", () => {
        this.#connections.delete(from);
        to.destroy();
      });
    }
  }
}

class Redis {
  constructor(bench, port, directory, args) {
    Object.assign(this, { bench, port, directory, args, url: `redis://127.0.0.1:${port}` });
  }

  async start() {
    const { port, directory, args } = this;
    this.child = this.bench.run("redis-server", ["--port", port, "--dir", directory, ...args]);
    this.child.stdout.resume();
    this.child.stderr.resume();
    await until("redis-server answers", async () => (await this.cli("PING")) === "PONG");
  }

  kill() {
    return end(this.child, "SIGKILL");
  }

  /** What a person types into redis-cli. */
  async cli(...words) {
    const child = this.bench.run("redis-cli", ["-p", this.port, ...words]);
    child.stderr.resume();
    let text = "";
    child.stdout.on("data", (chunk) => (text += chunk));
    await once(child, "close");
    return text.trim();
  }

  /** `SUBSCRIBE` as a person sees it: the lines, as they come. */
  async watch(channel) {
    const child = this.bench.run("redis-cli", ["-p", this.port, "SUBSCRIBE", channel]);
    child.stderr.resume();
    const lines = [];
    createInterface({ input: child.stdout }).on("line", (line) => lines.push(line));
    await until("SUBSCRIBE is confirmed", () => lines.includes(channel));
    return lines;
  }
}

async function end(child, signal) {
  if (child.exitCode !== null || child.signalCode !== null) return child.gone;
  child.kill(signal);
  const timer = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
  const result = await child.gone;
  clearTimeout(timer);
  return result;
}

function fieldsOf(line) {
  try {
    return JSON.parse(line).fields;
  } catch {
    return undefined;
  }
}

/** A message id of this name, in a form that the rule table takes for one. */
export const ownId = (name) => Buffer.from(name).toString("hex").padStart(16, "0");

/** The ack of a `user-message`. */
export const send = (socket, ...args) => socket.timeout(10_000).emitWithAck("user-message", ...args);

export async function isOpen(port) {
  const socket = connectTcp(port, "127.0.0.1");
  const open = await once(socket, "connect").then(
    () => true,
    () => false,
  );
  socket.destroy();
  return open;
}

for (const path of [BINARY, CHROMIUM]) {
  if (!existsSync(path)) throw new Error(`${path} is missing: run "make test", which gets it`);
}
