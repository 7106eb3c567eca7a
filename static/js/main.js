// Creates the parts of the page and connects them.

import { Connection } from "./connection.js";
import { SentIds, token } from "./keep.js";
import { Outbox } from "./outbox.js";
import { Room } from "./room.js";
import { Status } from "./status.js";
import { Timeline } from "./timeline.js";

const ROOM = "lobby";
const RECOVER_MS = 1_000;

const sentIds = new SentIds();
const status = new Status(document);
const ask = (event, ...args) => connection.ask(event, ...args);

const timeline = new Timeline(document, {
  nearTop: () => readBefore(),
  forgotOldest: () => room.forgotOldest(),
  arrived: () => status.unread(),
});

const room = new Room(ROOM, ask, timeline, {
  isMine: (id) => sentIds.has(id),
  seen: (id) => outbox.seen(id),
  seenAt: (position) => outbox.seenAt(position),
  lost: () => recover(),
});

const outbox = new Outbox(ask, timeline, () => room.position, {
  claim: (position) => room.claim(position),
  sent: (id) => sentIds.add(id),
  stored: () => status.store(false),
  trouble: (error) => recoverSoon(error),
  overdue: () => recover(),
});

const connection = new Connection(token(), {
  up: () => {
    status.connected();
    room.hold();
    recover();
  },
  down: () => status.away(),
  refused: (message) => status.away(isRefusal(message) ? message : null),
  message: (body, offset) => room.takeLive(body, offset),
  gap: (it) => room.takeGap(it),
  notice: ({ code, message }) => {
    // The history shows the other changes.
    if (code === "new_epoch") recover();
    else timeline.appendDivider(message);
  },
});

let recovering = null;

/**
 * Reads what was missed, then sends what is waiting: a message that was stored is not sent again.
 */
async function recover() {
  clearTimeout(recovering);
  try {
    if (!(await room.catchUp(outbox.earliest()))) return;
  } catch (error) {
    recoverSoon(error);
    return;
  }
  timeline.showEmpty();
  if (outbox.waiting === 0) status.store(false);
  outbox.flush();
  if (timeline.isShort) await readBefore();
}

function recoverSoon(error) {
  // The next connection starts its own recovery.
  if (!connection.connected) return;
  if (error.code === "unavailable") status.store(true);
  clearTimeout(recovering);
  recovering = setTimeout(recover, Math.max(RECOVER_MS, error.retryAfterMs ?? 0));
}

async function readBefore() {
  try {
    await room.readBefore();
  } catch {
    // The next scroll to the top asks for older messages again.
  }
}

/** "xhr poll error" and similar texts come from the transport, not from the server. */
const isRefusal = (message) => !/^(xhr|websocket|timeout|transport|parse|server error)/.test(message);

const input = document.getElementById("message");
document.getElementById("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = input.value.trim();
  if (text === "") return;
  input.value = "";
  input.focus();
  timeline.scrollToEnd();
  outbox.write(text);
});
