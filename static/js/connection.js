// The socket: events come in, requests go out. The only file that knows socket.io-client.

import { io } from "/socket.io/socket.io.esm.min.js";

// The server writes its own path here and above, if that is another one.
const SOCKET_PATH = "/socket.io/";

const ANSWER_MS = 8_000;
const REFUSED_RETRY_MS = 5_000;
const RECONNECT_MS = { reconnectionDelay: 250, reconnectionDelayMax: 2_000 };

/** Why a request failed; `code` is the server's, or one of ours. */
export class AskError extends Error {
  constructor(code, message = "", retryAfterMs = undefined) {
    super(message);
    this.code = code;
    this.retryAfterMs = retryAfterMs;
  }
}

/** Handlers: up(), down(), refused(message), message(body, offset), gap(it), notice(it). */
export class Connection {
  #socket;

  constructor(token, handlers) {
    const socket = io({ path: SOCKET_PATH, auth: { token }, ...RECONNECT_MS });
    this.#socket = socket;
    socket.on("connect", handlers.up);
    socket.on("disconnect", () => {
      handlers.down();
      this.#connectAgain();
    });
    socket.on("connect_error", (error) => {
      handlers.refused(error.message);
      this.#connectAgain();
    });
    socket.on("message", handlers.message);
    socket.on("gap", handlers.gap);
    socket.on("notice", handlers.notice);
  }

  get connected() {
    return this.#socket.connected;
  }

  /** Returns the server's answer to `event`, or throws an AskError. Never queues. */
  async ask(event, ...args) {
    if (!this.connected) throw new AskError("disconnected");
    let answer;
    try {
      answer = await this.#socket.timeout(ANSWER_MS).emitWithAck(event, ...args);
    } catch {
      throw new AskError(this.connected ? "unanswered" : "disconnected");
    }
    if (answer?.ok) return answer;
    const { code = "unanswered", message, retry_after_ms } = answer?.error ?? {};
    throw new AskError(code, message, retry_after_ms);
  }

  // socket.io-client reconnects on its own, except after a refusal: then `active` is false.
  #connectAgain() {
    if (this.#socket.active) return;
    setTimeout(() => this.#socket.connect(), REFUSED_RETRY_MS);
  }
}
