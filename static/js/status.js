// The state of the connection, in the header, below the messages and in the tab's title.

import { STATES } from "./words.js";

export class Status {
  #document;
  #title;
  #connection = "connecting";
  #storeAway = false;
  #refusal = null;
  #unread = 0;

  constructor(document) {
    this.#document = document;
    this.#title = document.title;
    document.addEventListener("visibilitychange", () => this.#read());
    addEventListener("online", () => this.#show());
    addEventListener("offline", () => this.#show());
    this.#show();
  }

  connected() {
    this.#connection = "connected";
    this.#refusal = null;
    this.#show();
  }

  /** `refusal` is the server's text, if the server has refused the connection. */
  away(refusal = null) {
    this.#connection = "away";
    this.#refusal = refusal;
    this.#show();
  }

  store(isAway) {
    this.#storeAway = isAway;
    this.#show();
  }

  unread() {
    if (!this.#document.hidden) return;
    this.#unread += 1;
    this.#document.title = `(${this.#unread}) ${this.#title}`;
  }

  #read() {
    if (this.#document.hidden) return;
    this.#unread = 0;
    this.#document.title = this.#title;
  }

  // A device without a network can still reach a server on itself, so the connection state is
  // checked first.
  get #state() {
    if (this.#connection === "connected") return this.#storeAway ? "store" : "connected";
    if (this.#connection === "away" && !navigator.onLine) return "offline";
    return this.#connection;
  }

  #show() {
    const state = this.#state;
    const { label, hint } = STATES[state];
    const header = this.#document.getElementById("state");
    const below = this.#document.getElementById("hint");
    header.dataset.state = state;
    header.firstElementChild.textContent = label;
    below.textContent = this.#refusal ?? hint ?? "";
    below.hidden = below.textContent === "";
  }
}
