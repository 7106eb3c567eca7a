// People with the official socket.io-client, unmodified, for the chaos test (tests/it/chaos.rs):
// each lives on its own and tells what happens, one line of JSON each, over a connection to the test.

import { connect } from "node:net";
import { createInterface } from "node:readline";
import { io } from "socket.io-client";
import { ownId } from "./lib.mjs";

const { port, pauseMaxMs, people } = JSON.parse(process.argv[2]);
const ACK_MS = 4_000;
const RETRIES = 3;

const control = connect(port, "127.0.0.1");
let aheadMs = 0;
let settling = false;
let settle;
const settled = new Promise((resolve) => (settle = resolve));

const now = () => performance.now() + aheadMs;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const between = (low, high) => low + Math.floor(Math.random() * (high - low + 1));

class ReconnectingClient {
  #who;
  #name;
  #native;
  #rooms;
  #retries;
  #socket;
  #joined = false;
  #said = 0;

  constructor(who, { name, url, token, transports, dialect, retries, rooms }) {
    this.#who = who;
    this.#name = name;
    this.#native = dialect === "native";
    this.#rooms = rooms;
    this.#retries = retries;
    const patience = retries ? { retries: RETRIES, ackTimeout: ACK_MS } : {};
    const how = { forceNew: true, transports, auth: { token }, query: { dialect } };
    const socket = io(url, { ...how, ...patience });
    this.#socket = socket;
    socket.on("connect", () => {
      this.#tell("connect", { id: socket.id, recovered: Boolean(socket.recovered) });
      this.#joined &&= socket.recovered;
      if (!this.#joined) this.#join(socket.id);
    });
    socket.on("disconnect", (reason, more) => {
      this.#tell("disconnect", { reason: `${reason} ${more?.description ?? ""}`.trim() });
    });
    socket.on("connect_error", (error) => {
      this.#tell("connect_error", { reason: `${error.message} ${error.description ?? ""}` });
    });
    socket.onAny((name, ...args) => this.#tell("event", { name, args }));
  }

  async talk() {
    await Promise.race([settled, pause(between(0, pauseMaxMs))]);
    while (!settling) {
      const id = `${this.#name}-${this.#said++}`;
      const room = this.#rooms[between(0, this.#rooms.length - 1)];
      const begun = Math.round(now());
      while (!(await this.#say(id, room, begun))) await pause(between(100, 300));
      await Promise.race([settled, pause(between(pauseMaxMs / 4, pauseMaxMs))]);
    }
    this.#tell("settled", {});
  }

  /** Whether it was stored; without a sure answer nobody knows. */
  async #say(id, room, begun) {
    const at = now();
    const ack = await this.#ask(...this.#speech(room, id, begun)).catch(() => undefined);
    this.#tell("answer", { id, room, at, ack });
    return ack?.ok === true;
  }

  /** Into all rooms, unless the session is another one by then. */
  async #join(session) {
    for (const room of this.#native ? this.#rooms : []) {
      while (!(await this.#ask("join", { room }).catch(() => undefined))?.ok) {
        if (this.#socket.id !== session) return;
        await pause(between(100, 300));
      }
    }
    if (this.#socket.id !== session) return;
    this.#joined = true;
    this.#tell("joined", {});
  }

  /** A retry has the same content: it says when the first attempt was made. */
  #speech(room, id, begun) {
    const body = { id, at: begun };
    if (!this.#native) return ["user-message", body, ownId(id)];
    return ["send", { room, text: JSON.stringify(body), id }];
  }

  #ask(...args) {
    const socket = this.#retries ? this.#socket : this.#socket.timeout(ACK_MS);
    return socket.emitWithAck(...args);
  }

  #tell(what, more) {
    control.write(`${JSON.stringify({ who: this.#who, what, ...more })}\n`);
  }
}

// The test is over, or has died.
control.on("close", () => process.exit());
createInterface({ input: control }).on("line", (line) => {
  const told = JSON.parse(line);
  if (told.settle) settle((settling = true));
  if (told.now === undefined) return;
  aheadMs = told.now - performance.now();
  for (const [who, person] of people.entries()) new ReconnectingClient(who, person).talk();
});
