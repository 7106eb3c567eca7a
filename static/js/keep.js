// What this browser stores between visits: the user's token, and which messages it sent.

const TOKEN_KEY = "roomcast.token";
const SENT_KEY = "roomcast.sent";
const SENT_MAX = 500;

// crypto.randomUUID is missing on a page served over plain http from another machine.
export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Without storage the chat still works, but after a reload this browser is another user.
function read(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

function write(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // Storage is full or forbidden. The chat works without it.
  }
}

/** The same after a reload and a reconnect, so a retry comes from the same user. */
export function token() {
  const kept = read(TOKEN_KEY);
  if (kept) return kept;
  const fresh = randomId();
  write(TOKEN_KEY, fresh);
  return fresh;
}

/** The ids of the messages sent from this browser, the newest `SENT_MAX` of them. */
export class SentIds {
  #ids = new Set(parse(read(SENT_KEY)));

  has(id) {
    return this.#ids.has(id);
  }

  add(id) {
    // Another tab may have stored ids since.
    this.#ids = new Set([...parse(read(SENT_KEY)), ...this.#ids, id].slice(-SENT_MAX));
    write(SENT_KEY, JSON.stringify([...this.#ids]));
  }
}

function parse(json) {
  try {
    const ids = JSON.parse(json ?? "[]");
    return Array.isArray(ids) ? ids : [];
  } catch {
    return [];
  }
}
