// Messages written here that the room has not shown yet.
//
// A message keeps its id until it is seen in the room, so sending it again is always safe: the
// server stores it once. Messages are sent in the order in which they were written.

import { AskError } from "./connection.js";
import { randomId } from "./keep.js";
import * as words from "./words.js";

/** Errors that a retry can solve. */
const PASSING = new Set([
  "disconnected",
  "unanswered",
  "unavailable",
  "unconfirmed",
  "busy",
  "rate_limited",
]);
/** A message that comes back within this time is never shown as pending. */
const SHOWN_AFTER_MS = 200;
/** A message was stored, but no event for it came for this long: the page has missed something. */
const OVERDUE_MS = 3_000;

/** Handlers: claim(position) -> shown, sent(id), stored(), trouble(error), overdue(). */
export class Outbox {
  #ask;
  #rows;
  #position;
  #handlers;
  #entries = new Map();

  /** `rows` shows pending lines; `position()` is the newest position that the room has shown. */
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
    // Sends all waiting messages, because they were written before this one.
    this.flush();
  }

  /** Sends all waiting messages again, in the order in which they were written. */
  flush() {
    for (const entry of this.#entries.values()) {
      if (entry.state === "waiting") this.#send(entry);
    }
  }

  /** The position to read from, so that a message whose answer was lost is found in the history. */
  earliest() {
    const tried = [...this.#entries.values()].filter((entry) => entry.since !== null);
    return tried[0]?.since ?? null;
  }

  /** The history contains this message. */
  seen(id) {
    const entry = this.#entries.get(id);
    if (entry) this.#settle(entry);
  }

  /** A live message has this position. Returns whether it is one of ours. */
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
