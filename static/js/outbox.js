// What was written here and has not come back yet.
//
// A message keeps its id until it is seen in the room, so sending it again is always safe: the
// server stores it once. The order of writing is kept.

import { AskError } from "./connection.js";
import { randomId } from "./keep.js";
import * as words from "./words.js";

/** Trying again can help with these, and only with these. */
const PASSING = new Set([
  "disconnected",
  "unanswered",
  "unavailable",
  "unconfirmed",
  "busy",
  "rate_limited",
]);
/** A message that is quickly back is never shown as pending. */
const SHOWN_AFTER_MS = 200;
/** Stored but not heard for so long: something was missed. */
const OVERDUE_MS = 3_000;

/** Handlers: claim(position) -> shown, sent(id), stored(), trouble(error), overdue(). */
export class Outbox {
  #ask;
  #rows;
  #position;
  #handlers;
  #entries = new Map();

  /** `rows` shows pending lines; `position()` says how far the room was seen. */
  constructor(ask, rows, position, handlers) {
    this.#ask = ask;
    this.#rows = rows;
    this.#position = position;
    this.#handlers = handlers;
  }

  get waiting() {
    return [...this.#entries.values()].filter((entry) => entry.state === "waiting").length;
  }

  write(text) {
    const entry = { id: randomId(), text, state: "waiting", since: null, stored: null, row: null };
    this.#entries.set(entry.id, entry);
    this.#handlers.sent(entry.id);
    setTimeout(() => this.#showPending(entry), SHOWN_AFTER_MS);
    // Not this one alone: what waits already was written before it.
    this.flush();
  }

  /** Sends again whatever is waiting, in the order written. */
  flush() {
    for (const entry of this.#entries.values()) {
      if (entry.state === "waiting") this.#send(entry);
    }
  }

  /** Where to read from, so that a message whose answer was lost is recognised. */
  earliest() {
    const tried = [...this.#entries.values()].filter((entry) => entry.since !== null);
    return tried[0]?.since ?? null;
  }

  /** The history has this message. */
  seen(id) {
    const entry = this.#entries.get(id);
    if (entry) this.#settle(entry);
  }

  /** A live message has this position: is it ours? */
  seenAt({ epoch, seq }) {
    for (const entry of this.#entries.values()) {
      if (entry.stored?.epoch !== epoch || entry.stored.seq !== seq) continue;
      this.#settle(entry);
      return true;
    }
    return false;
  }

  async #send(entry) {
    entry.state = "sending";
    entry.since ??= this.#position();
    this.#update(entry, "Sending");
    try {
      const { epoch, seq } = await this.#ask("user-message", entry.text, entry.id);
      this.#stored(entry, { epoch, seq });
    } catch (error) {
      if (!(error instanceof AskError)) throw error;
      this.#failed(entry, error);
    }
  }

  #stored(entry, position) {
    this.#handlers.stored();
    if (!this.#entries.has(entry.id)) return;
    if (this.#handlers.claim(position)) {
      this.#settle(entry);
      return;
    }
    entry.state = "stored";
    entry.stored = position;
    setTimeout(() => {
      if (this.#entries.has(entry.id)) this.#handlers.overdue();
    }, OVERDUE_MS);
  }

  #failed(entry, error) {
    if (!this.#entries.has(entry.id)) return;
    if (PASSING.has(error.code)) {
      entry.state = "waiting";
      this.#update(entry, `Waiting to send: ${words.reason(error)}`);
      this.#handlers.trouble(error);
    } else {
      entry.state = "failed";
      this.#showPending(entry);
      this.#update(entry, `Not sent: ${words.reason(error)}`);
    }
  }

  #showPending(entry) {
    if (entry.row !== null || !this.#entries.has(entry.id)) return;
    entry.row = this.#rows.addPending(entry.text, {
      retry: () => this.#send(entry),
      discard: () => this.#settle(entry),
    });
    this.#update(entry, entry.status);
  }

  #update(entry, status) {
    entry.status = status;
    if (entry.row !== null) this.#rows.updatePending(entry.row, status, entry.state === "failed");
  }

  #settle(entry) {
    this.#entries.delete(entry.id);
    entry.row?.remove();
  }
}
