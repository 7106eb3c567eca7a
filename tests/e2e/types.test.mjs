// The types that the node serves, against what really goes over the wire: TypeScript checks every
// request, answer and event as a typed constant, and a validator checks them against the schemas.

import assert from "node:assert/strict";
import { readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import Ajv from "ajv";
import { Bench, REPOSITORY, send, until } from "./lib.mjs";

const MODULES = join(REPOSITORY, "tests/e2e/node_modules");
const NATIVE = { query: { dialect: "native" } };

/** Everything that was said: `{dialect, name, kind: "request" | "answer" | "event", args}`. */
class Wire {
  samples = [];

  add(dialect, kind, name, args) {
    this.samples.push({ dialect, kind, name, args });
  }

  async client(bench, node, dialect, options = {}) {
    const client = await bench.client(node, options);
    client.events = [];
    client.onAny((name, ...args) => {
      client.events.push(name);
      this.add(dialect, "event", name, args);
    });
    client.ask = async (name, argument) => {
      this.add(dialect, "request", name, [argument]);
      const answer = await client.timeout(10_000).emitWithAck(name, argument);
      this.add(dialect, "answer", name, [answer]);
      return answer;
    };
    client.gets = (name) => until(`the event ${name}`, () => client.events.includes(name), 30_000);
    return client;
  }

  native(bench, node, token) {
    return this.client(bench, node, "native", { ...NATIVE, auth: { token } });
  }

  names(kind) {
    const those = this.samples.filter((one) => one.dialect === "native" && one.kind === kind);
    return new Set(those.map(({ name }) => name));
  }

  codes() {
    return new Set(this.samples.map(({ args }) => args[0]?.error?.code).filter(Boolean));
  }
}

async function pair(bench) {
  const redis = await bench.redis();
  const nodes = [await bench.node({ redis: redis.url }), await bench.node({ redis: redis.url })];
  for (const node of nodes) await until("it is ready", async () => (await node.ready()) === 200);
  return { redis, nodes };
}

/** Ann and Bob on two nodes send every request, each with each of its forms. */
async function converse(bench, wire, [a, b]) {
  const ann = await wire.native(bench, a, "ann");
  const bob = await wire.native(bench, b, "bob");
  await ann.ask("profile", { name: "Ann", picture: "https://example.org/ann.png" });
  await ann.ask("join", { room: "attic" });
  await bob.ask("join", { room: "attic" });
  await ann.gets("presence");
  await bob.ask("profile", { name: "Bob" });
  await ann.gets("profile");
  const bobs = (await bob.ask("profile", {})).user.id;

  const first = await ann.ask("send", { room: "attic", text: "hello", id: "m1" });
  const { room, epoch } = first;
  const second = await ann.ask("send", { room, text: "not for me", except: "me" });
  const target = { room, epoch, of: first.seq };
  await bob.ask("react", { ...target, emoji: "👍", on: true });
  await ann.ask("edit", { ...target, text: "hello all", id: "c1" });
  await ann.ask("delete", { room, epoch, of: second.seq });
  await ann.ask("send", { to: bobs, text: "just for you" });
  await ann.ask("send", { socket: bob.id, text: "for this connection" });
  for (const name of ["message", "react", "edit", "delete"]) await bob.gets(name);

  await bob.ask("typing", { room, typing: true });
  await bob.ask("read", { room, seq: first.seq });
  for (const name of ["typing", "read"]) await ann.gets(name);
  await bob.ask("rooms", {});
  await bob.ask("history", { room });
  await bob.ask("history", { room, after: { epoch, seq: 0 }, limit: 1 });
  await bob.ask("history", { room, before: { epoch, seq: second.seq } });
  await bob.ask("search", { room, text: "hello" });
  const cat = await wire.native(bench, b, "cat");
  const joined = await cat.ask("join", { room, after: { epoch, seq: 0 } });
  assert.deepEqual(joined.changes.map(({ type }) => type), ["react", "edit", "delete"]);

  await ann.ask("send", { room, text: "another", id: "m1" });
  await bob.ask("edit", { ...target, text: "not mine" });
  await bob.ask("delete", { room, epoch, of: 999_999 });
  await bob.ask("profile", { name: "ann" });
  await bob.ask("send", { room: "cellar", text: "not there" });
  await bob.ask("send", { room, text: "x".repeat(40_000) });
  await bob.ask("search", { room, text: "" });
  bob.emit("send", { room: "cellar", text: "no ack" });
  await bob.gets("error");
  await cat.ask("leave", { room });
  return { ann, bob };
}

/** What a client of the default profile says and hears. */
async function converseInPlain(bench, wire, [a, b]) {
  const plain = await wire.client(bench, b, "plain");
  const other = await bench.client(a);
  for (const body of ["text", { any: ["JSON", null] }]) {
    const args = [body, "0123456789abcdef".slice(0, 15) + typeof body];
    wire.add("plain", "request", "user-message", args);
    wire.add("plain", "answer", "user-message", [await send(plain, ...args)]);
    await send(other, body);
  }
  await plain.gets("message");
  await plain.ask("history", { room: "lobby" });
  plain.emit("history", { room: "cellar" });
  await plain.gets("error");
  return plain;
}

/** Node b misses messages that the log forgets, and then the log is lost. */
async function lose(redis, [a, b], ann, hearers) {
  b.child.kill("SIGSTOP");
  await redis.cli("CLIENT", "KILL", "TYPE", "pubsub");
  let last;
  for (let n = 0; n < 6; n += 1) {
    last = await ann.timeout(10_000).emitWithAck("send", { room: "attic", text: `missed ${n}` });
  }
  await redis.cli("XTRIM", "rc:{0}:log", "MINID", String(last.seq));
  b.child.kill("SIGCONT");
  for (const hearer of hearers) await hearer.gets("gap");
  await until("it is ready", async () => (await b.ready()) === 200, 30_000);
  await redis.cli("FLUSHALL");
  for (const hearer of hearers) await hearer.gets("notice");
}

/** The TypeScript type of a sample, whose arguments are written as a tuple. */
function typeOf({ dialect, kind, name }) {
  const prefix = dialect === "plain" ? "Plain" : "";
  if (kind === "event") return `Parameters<${prefix}ServerToClientEvents["${name}"]>`;
  if (name === "user-message") return kind === "request" ? "[unknown, string]" : "[Answer<SentAck>]";
  const parameters = `Parameters<${prefix}ClientToServerEvents["${name}"]>`;
  return kind === "request" ? `[${parameters}[0]]` : `Parameters<${parameters}[1]>`;
}

/** The schema of a sample's first argument: of several, the one that has its fields. */
function schemaOf(document, sample) {
  const { payload } = document.channels[sample.name].messages[sample.kind];
  const resolve = ({ $ref, oneOf, ...rest }) => {
    if ($ref) return resolve(document.components.schemas[$ref.split("/").at(-1)]);
    return oneOf ? oneOf.flatMap(resolve) : [rest];
  };
  const [argument] = sample.args;
  const has = (properties, [name, value]) =>
    name in properties && (properties[name].const ?? value) === value;
  const fits = ({ properties = {} }) => Object.entries(argument).every((field) => has(properties, field));
  const fitting = resolve(payload.items[0]).filter(fits);
  assert.equal(fitting.length, 1, JSON.stringify(sample));
  return fitting[0];
}

/** Wrong variants of a sample: each field as null, each that must be there missing. */
function* broken(document, sample) {
  const [first, ...rest] = sample.args;
  for (const name of Object.keys(first)) yield [{ ...first, [name]: null }, ...rest];
  for (const name of schemaOf(document, sample).required ?? []) {
    const { [name]: _, ...without } = first;
    yield [without, ...rest];
  }
}

function checkTypes(bench, document, samples, declarations) {
  const dir = bench.directory();
  const write = (name, lines) => writeFileSync(join(dir, name), lines.join("\n"));
  const header = 'import type * as types from "./roomcast";';
  const named = (sample) => typeOf(sample).replace(/\b(Plain\w+|ServerTo\w+|ClientTo\w+|Answer|SentAck)\b/g, "types.$1");
  const constant = (sample, args, n) => `export const sample${n}: ${named(sample)} = ${JSON.stringify(args)};`;
  write("wire.ts", [header, ...samples.map((one, n) => constant(one, one.args, n))]);

  const native = samples.filter(({ dialect }) => dialect === "native");
  const wrong = native.flatMap((one) => {
    const [first, ...rest] = one.args;
    const extended = [{ ...first, noSuchField: 1 }, ...rest];
    return [extended, ...broken(document, one)].map((args) => [one, args]);
  });
  const expectsError = ([one, args], n) => `// @ts-expect-error\n${constant(one, args, n)}`;
  write("broken.ts", [header, ...wrong.map(expectsError)]);

  const manual = readFileSync(join(REPOSITORY, "docs/protocol.md"), "utf8");
  const [, example] = manual.match(/### Types\n[^]*?```ts\n([^]*?)```/);
  write("example.ts", [example]);
  write("use.ts", [USE]);
  write("roomcast.d.ts", [declarations]);
  write("package.json", ['{ "type": "module" }']);
  symlinkSync(MODULES, join(dir, "node_modules"));
  const options = ["--noEmit", "--strict", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler"];
  const files = ["wire.ts", "broken.ts", "example.ts", "use.ts"];
  return bench.succeeds("node", [join(MODULES, "typescript/bin/tsc"), ...options, ...files], { cwd: dir });
}

const USE = `
import { io, type Socket } from "socket.io-client";
import type * as types from "./roomcast";

const socket: Socket<types.ServerToClientEvents, types.ClientToServerEvents> = io();
const answer = await socket.emitWithAck("join", { room: "attic" });
if (answer.ok) {
  const names: string[] = (answer.members ?? []).map(({ name }) => name);
  const texts: string[] = answer.changes?.map((change) => (change.type === "edit" ? change.text : change.id)) ?? names;
  console.log(texts);
} else {
  const code: types.Code = answer.error.code;
  console.log(code);
}
socket.emit("send", { to: "9f03", text: "hello" }, (answer) => console.log(answer.ok && answer.seq));
socket.on("react", ({ emoji, on }, offset) => console.log(emoji.length, on === true, offset.length));
// @ts-expect-error
answer.members;
// @ts-expect-error
socket.emit("send", { text: "for nobody" }, () => {});
// @ts-expect-error
socket.emit("sned", { room: "attic", text: "hello" }, () => {});
// @ts-expect-error
socket.on("messages", () => {});

const plain: Socket<types.PlainServerToClientEvents, types.PlainClientToServerEvents> = io();
plain.emit("user-message", "hello");
plain.emit("user-message", { any: "JSON" }, "id");
plain.emit("user-message", "hello", (answer) => console.log(answer.ok && answer.seq));
plain.emit("user-message", "hello", "id", (answer) => console.log(answer.ok && answer.seq));
plain.on("message", (body: unknown, offset) => console.log(body, offset?.length));
`;

function checkSchemas(document, samples) {
  const ajv = new Ajv({ strict: false, validateFormats: false });
  ajv.addSchema(document, "document");
  for (const sample of samples.filter(({ dialect }) => dialect === "native")) {
    const path = `#/channels/${sample.name}/messages/${sample.kind}/payload`;
    const validate = ajv.getSchema(`document${path}`);
    const ok = validate(sample.args);
    assert.ok(ok, `${JSON.stringify(sample)}: ${ajv.errorsText(validate.errors)}`);
    for (const args of broken(document, sample)) {
      assert.ok(!validate(args), `${path} allows ${JSON.stringify(args)}`);
    }
  }
}

test("the types and the AsyncAPI document are those of the wire", async (t) => {
  const bench = new Bench(t);
  const { redis, nodes } = await pair(bench);
  const wire = new Wire();
  const { ann, bob } = await converse(bench, wire, nodes);
  const plain = await converseInPlain(bench, wire, nodes);
  await lose(redis, nodes, ann, [bob, plain]);

  const get = async (path) => (await fetch(`${nodes[0].url}${path}`)).text();
  const document = JSON.parse(await get("/types/asyncapi.json"));
  const operations = Object.keys(document.operations).map((name) => name.split("-"));
  const named = (kind) => new Set(operations.filter(([of]) => of === kind).map(([, name]) => name));
  for (const kind of ["request", "event"]) {
    assert.deepEqual([...wire.names(kind)].sort(), [...named(kind)].sort(), `not every ${kind}`);
  }
  assert.deepEqual(
    [...wire.codes()].sort(),
    ["bad_request", "conflict", "forbidden", "not_found", "not_joined", "taken", "too_large"],
  );
  checkSchemas(document, wire.samples);
  await checkTypes(bench, document, wire.samples, await get("/types/roomcast.d.ts"));
});
