// The messages on the screen, in order, and the scroll position.
//
// Text from users becomes text nodes in cloned templates, never markup.

import * as words from "./words.js";

const ROWS_MAX = 2_000;
const NEAR_PX = 48;

/** Handlers: nearTop(), forgotOldest(), arrived(). */
export class Timeline {
  #log;
  #pending;
  #newButton;
  #empty;
  #templates;
  #handlers;
  /** The rows of the current epoch by their `seq`. */
  #rows = new Map();
  #atEnd = true;
  #unseen = 0;
  #scrollAsked = false;
  /** The scroll position that the last scroll to the end reached. */
  #endTop = 0;

  constructor(document, handlers) {
    const template = (id) => document.getElementById(id).content.firstElementChild;
    this.#log = document.getElementById("messages");
    this.#newButton = document.getElementById("newMessages");
    this.#empty = document.getElementById("empty");
    this.#templates = {
      message: template("messageTemplate"),
      divider: template("dividerTemplate"),
      pending: template("pendingTemplate"),
    };
    this.#handlers = handlers;
    this.#pending = document.createElement("div");
    this.#pending.className = "timeline-pending";
    this.#log.append(this.#pending);
    this.#log.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#newButton.addEventListener("click", () => this.scrollToEnd());
    // When a phone's keyboard opens or the screen turns, the newest message must stay visible.
    new ResizeObserver(() => this.#atEnd && this.scrollToEnd()).observe(this.#log);
  }

  /** Adds a stored message at its place; a message that is there already stays as it is. */
  insert({ seq, body, at, mine }) {
    const there = this.#rows.get(seq);
    if (there) {
      if (mine) there.classList.add("row-mine");
      return;
    }
    const row = this.#messageRow(body, at, mine);
    row.dataset.seq = seq;
    this.#rows.set(seq, row);
    this.#put(row, this.#placeOf(seq), mine);
  }

  /** Adds a message without a position at the end. */
  append({ body, at }) {
    this.#put(this.#messageRow(body, at, false), this.#pending, false);
  }

  appendDivider(text) {
    this.#put(this.#divider(text), this.#pending, true);
  }

  insertDivider(seq, text) {
    if (this.#rows.has(seq)) return;
    const divider = this.#divider(text);
    divider.dataset.seq = seq;
    this.#rows.set(seq, divider);
    this.#put(divider, this.#placeOf(seq), true);
  }

  clear() {
    while (this.#log.firstElementChild !== this.#pending) this.#log.firstElementChild.remove();
    this.#rows.clear();
  }

  /** A new epoch begins: its messages all come below this line. */
  beginBelow(text) {
    this.#rows.clear();
    const divider = this.#divider(text);
    divider.dataset.begins = "";
    this.#put(divider, this.#pending, true);
  }

  /** Whether the message is shown. If so, it is marked as one of ours. */
  markMine(seq) {
    const row = this.#rows.get(seq);
    row?.classList.add("row-mine");
    return row !== undefined;
  }

  /** The smallest `seq` of the current epoch on the screen, or null. */
  oldestSeq() {
    let oldest = null;
    for (let row = this.#log.lastElementChild; row; row = row.previousElementSibling) {
      if ("begins" in row.dataset) break;
      if ("seq" in row.dataset) oldest = row;
    }
    return oldest && Number(oldest.dataset.seq);
  }

  /** Changes rows above the visible part without moving what the reader sees. */
  keepPlace(change) {
    const fromEnd = this.#log.scrollHeight - this.#log.scrollTop;
    change();
    this.#log.scrollTop = this.#log.scrollHeight - fromEnd;
  }

  /** There is nothing to scroll, so a scroll cannot ask for older messages. */
  get isShort() {
    return this.#log.scrollHeight <= this.#log.clientHeight;
  }

  showEmpty() {
    this.#empty.hidden = this.#log.childElementCount > 1;
  }

  scrollToEnd() {
    this.#atEnd = true;
    if (this.#scrollAsked) return;
    // Many messages in one frame cause only one layout.
    this.#scrollAsked = true;
    requestAnimationFrame(() => {
      this.#scrollAsked = false;
      // The reader may have scrolled up since.
      if (!this.#atEnd) return this.#offerUnseen();
      this.#log.scrollTop = this.#log.scrollHeight;
      this.#endTop = this.#log.scrollTop;
      this.#sawAll();
    });
  }

  addPending(text, { retry, discard }) {
    const row = this.#templates.pending.cloneNode(true);
    part(row, "text").textContent = text;
    part(row, "retry").addEventListener("click", retry);
    part(row, "discard").addEventListener("click", discard);
    this.#pending.append(row);
    this.#empty.hidden = true;
    if (this.#atEnd) this.scrollToEnd();
    return row;
  }

  updatePending(row, status, failed) {
    row.querySelector(".message").dataset.state = failed ? "failed" : "waiting";
    part(row, "status").textContent = status;
    part(row, "retry").hidden = !failed;
    part(row, "discard").hidden = !failed;
  }

  #messageRow(body, at, mine) {
    const row = this.#templates.message.cloneNode(true);
    const { name, text, kind } = words.readable(body);
    row.classList.toggle("row-mine", mine);
    row.dataset.day = words.day(at);
    part(row, "text").textContent = text;
    part(row, "text").dataset.kind = kind;
    part(row, "name").textContent = name ?? "";
    part(row, "name").hidden = name === undefined;
    part(row, "time").textContent = words.time(at);
    part(row, "time").dateTime = new Date(at).toISOString();
    return row;
  }

  #divider(text) {
    const divider = this.#templates.divider.cloneNode(true);
    divider.textContent = text;
    divider.dataset.kind = "trouble";
    return divider;
  }

  /** The element before which `seq` belongs; nearly always the end. */
  #placeOf(seq) {
    let place = this.#pending;
    for (let row = place.previousElementSibling; row; row = row.previousElementSibling) {
      if ("begins" in row.dataset) break;
      if (!("seq" in row.dataset)) continue;
      if (Number(row.dataset.seq) < seq) break;
      place = row;
    }
    return place;
  }

  #put(row, place, quiet) {
    this.#log.insertBefore(row, place);
    this.#empty.hidden = true;
    showDay(row);
    showDay(nextMessage(row));
    const isNew = place === this.#pending && !quiet;
    if (isNew) this.#unseen += 1;
    if (this.#atEnd) {
      this.scrollToEnd();
      this.#trim();
    } else {
      this.#offerUnseen();
    }
    if (isNew) this.#handlers.arrived();
  }

  #trim() {
    if (this.#log.childElementCount <= ROWS_MAX) return;
    while (this.#log.childElementCount > ROWS_MAX) {
      const oldest = this.#log.firstElementChild;
      const seq = Number(oldest.dataset.seq);
      if (this.#rows.get(seq) === oldest) this.#rows.delete(seq);
      oldest.remove();
    }
    showDay(this.#log.firstElementChild);
    this.#handlers.forgotOldest();
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#log;
    // A scroll to the end is about to happen, so this is not the reader's move.
    const behind = this.#scrollAsked && scrollTop >= this.#endTop;
    if (!behind) this.#atEnd = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    if (this.#atEnd) this.#sawAll();
    if (scrollTop < NEAR_PX) this.#handlers.nearTop();
  }

  #offerUnseen() {
    this.#newButton.textContent = words.newMessages(this.#unseen);
    this.#newButton.hidden = this.#unseen === 0;
  }

  #sawAll() {
    this.#unseen = 0;
    this.#newButton.hidden = true;
  }
}

const part = (row, name) => row.querySelector(`[data-part="${name}"]`);

function sibling(row, step) {
  let other = row?.[step];
  while (other && !("day" in other.dataset)) other = other[step];
  return other;
}

const nextMessage = (row) => sibling(row, "nextElementSibling");

/** The day is shown above its first message. */
function showDay(row) {
  if (!row || !("day" in row.dataset)) return;
  const before = sibling(row, "previousElementSibling");
  part(row, "day").textContent = row.dataset.day;
  part(row, "day").hidden = before?.dataset.day === row.dataset.day;
}
