// One room as this page shows it: every stored message once, in the order of positions.
//
// Live messages that come while history is being read are held, then merged by position, so that
// none is missing and none is shown twice. What was missed is always read from the server.

import * as words from "./words.js";

const FIRST_PAGE = 50;
const CATCH_UP_PAGE = 200;
const HELD_MAX = 1_000;

/** The last part of an offset is the sequence; an epoch may itself contain a `-`. */
export function parseOffset(offset) {
  if (typeof offset !== "string") return null;
  const cut = offset.lastIndexOf("-");
  const seq = Number(offset.slice(cut + 1));
  return cut > 0 && Number.isSafeInteger(seq) ? { epoch: offset.slice(0, cut), seq } : null;
}

/** Handlers: isMine(id), seen(id), seenAt(position) -> mine, lost(): a catch-up is needed. */
export class Room {
  #name;
  #ask;
  #timeline;
  #handlers;
  #epoch = null;
  /** Everything up to this `seq` was shown; null until the first page was read. */
  #caughtUp = null;
  #pastEpochs = new Set();
  #moreBefore = false;
  #readingBefore = false;
  /** Live messages that wait for the history before them; null when none is being read. */
  #held = null;
  #heldTooMany = false;
  #turn = 0;

  constructor(name, ask, timeline, handlers) {
    this.#name = name;
    this.#ask = ask;
    this.#timeline = timeline;
    this.#handlers = handlers;
  }

  get position() {
    return this.#caughtUp === null ? null : { epoch: this.#epoch, seq: this.#caughtUp };
  }

  /** From now on, until `catchUp` has ended, live messages are held. */
  hold() {
    this.#held ??= [];
  }

  /** Takes a live event. An event without a position is not stored, so it is shown at once. */
  takeLive(body, offset) {
    const position = parseOffset(offset);
    if (position === null) {
      this.#timeline.append({ body, at: Date.now() });
      return;
    }
    const message = { ...position, body, at: Date.now() };
    if (this.#held === null) {
      this.#show(message);
    } else if (this.#held.length < HELD_MAX) {
      this.#held.push(message);
    } else {
      // The message is stored, so the history has it as well.
      this.#heldTooMany = true;
    }
  }

  takeGap({ room, epoch, from, to }) {
    if (room !== undefined && room !== this.#name) return;
    if (epoch === this.#epoch) this.#timeline.insertDivider(to, words.gap(from, to));
  }

  /** Whether the message at this position is shown. If so, it is marked as one of ours. */
  claim({ epoch, seq }) {
    return epoch === this.#epoch && this.#timeline.markMine(seq);
  }

  /**
   * Reads what was missed, then shows the held messages. `since` reaches further back than what was
   * shown, for messages of ours that may have been stored or not. Returns false when a later call
   * has taken over.
   */
  async catchUp(since = null) {
    const turn = ++this.#turn;
    this.hold();
    try {
      let again = since;
      do {
        this.#heldTooMany = false;
        await this.#readAfter(turn, again);
        again = null;
      } while (turn === this.#turn && this.#heldTooMany);
    } finally {
      if (turn === this.#turn) this.#release();
    }
    return turn === this.#turn;
  }

  async readBefore() {
    const oldest = this.#timeline.oldestSeq();
    if (!this.#moreBefore || this.#readingBefore || oldest === null) return;
    this.#readingBefore = true;
    try {
      const before = { epoch: this.#epoch, seq: oldest };
      const answer = await this.#history({ before, limit: FIRST_PAGE });
      if (answer.epoch !== this.#epoch) return;
      this.#moreBefore = answer.more;
      this.#timeline.keepPlace(() => answer.messages.forEach((one) => this.#place(one, true)));
    } finally {
      this.#readingBefore = false;
    }
  }

  /** The timeline has removed its oldest rows; they can be read again. */
  forgotOldest() {
    this.#moreBefore = true;
  }

  async #readAfter(turn, since) {
    let from = since?.epoch === this.#epoch ? Math.min(since.seq, this.#caughtUp) : this.#caughtUp;
    for (;;) {
      const query =
        from === null
          ? { limit: FIRST_PAGE }
          : { after: { epoch: this.#epoch, seq: from }, limit: CATCH_UP_PAGE };
      const answer = await this.#history(query);
      if (turn !== this.#turn) return;
      if (this.#epoch !== null && answer.epoch !== this.#epoch) {
        await this.#startOver(turn);
        return;
      }
      this.#epoch = answer.epoch;
      if (from === null) this.#moreBefore = answer.more;
      else if (answer.trimmed) this.#timeline.appendDivider(words.trimmed);
      for (const message of answer.messages) this.#place(message, from === null);
      const last = answer.messages.at(-1)?.seq ?? from ?? answer.seq;
      this.#caughtUp = Math.max(this.#caughtUp ?? 0, last);
      if (from === null || !answer.more || answer.messages.length === 0) return;
      from = last;
    }
  }

  /**
   * Handles a new epoch: positions of the old one say nothing about it. A short log is shown below
   * the old messages; a long one replaces them, as after a reload.
   */
  async #startOver(turn) {
    const answer = await this.#history({ limit: FIRST_PAGE });
    if (turn !== this.#turn) return;
    this.#pastEpochs.add(this.#epoch);
    this.#epoch = answer.epoch;
    this.#moreBefore = answer.more;
    if (answer.more) this.#timeline.clear();
    else this.#timeline.beginBelow(words.newEpoch);
    answer.messages.forEach((message) => this.#place(message, true));
    if (answer.more) this.#timeline.appendDivider(words.newEpochReplaced);
    this.#caughtUp = answer.messages.at(-1)?.seq ?? answer.seq;
  }

  #release() {
    const held = this.#held ?? [];
    this.#held = null;
    held.forEach((message) => this.#show(message));
  }

  #show(message) {
    if (this.#pastEpochs.has(message.epoch)) return;
    // If history cannot be read, the chat continues with live messages.
    this.#epoch ??= message.epoch;
    if (message.epoch !== this.#epoch) {
      this.hold();
      this.#held.push(message);
      this.#handlers.lost();
      return;
    }
    this.#place(message, false);
    if (this.#caughtUp !== null) this.#caughtUp = Math.max(this.#caughtUp, message.seq);
  }

  #place(message, older) {
    const { epoch = this.#epoch, seq, id, body, at } = message;
    const mine =
      id === undefined ? this.#handlers.seenAt({ epoch, seq }) : this.#handlers.isMine(id);
    if (mine && id !== undefined) this.#handlers.seen(id);
    const oldest = this.#timeline.oldestSeq();
    if (!older && oldest !== null && seq < oldest) return;
    this.#timeline.insert({ seq, body, at, mine });
  }

  #history(query) {
    return this.#ask("history", { room: this.#name, ...query });
  }
}
