// Texts of the page: message bodies, times, states and errors. No DOM, no network.

const timeFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const dayFormat = new Intl.DateTimeFormat(undefined, {
  weekday: "long",
  day: "numeric",
  month: "long",
  year: "numeric",
});

const DAY_MS = 24 * 60 * 60 * 1000;

export const time = (at) => timeFormat.format(at);

/** Names the local day; two times are on the same day when this text is equal. */
export function day(at) {
  const name = new Date(at).toDateString();
  if (name === new Date().toDateString()) return "Today";
  if (name === new Date(Date.now() - DAY_MS).toDateString()) return "Yesterday";
  return dayFormat.format(at);
}

const NAME_FIELDS = ["name", "username", "user", "sender", "author"];
const TEXT_FIELDS = ["text", "message", "msg"];

/**
 * Any JSON may come: programs send objects, and a person with redis-cli can publish anything.
 * @returns {{name?: string, text: string, kind: "text" | "json"}}
 */
export function readable(body) {
  if (typeof body === "string" && body.trim() !== "") return { text: body, kind: "text" };
  if (body !== null && typeof body === "object") {
    const text = firstString(body, TEXT_FIELDS);
    if (text !== undefined) return { name: firstString(body, NAME_FIELDS), text, kind: "text" };
  }
  return { text: JSON.stringify(body) ?? "(nothing)", kind: "json" };
}

function firstString(object, fields) {
  const field = fields.find((name) => typeof object[name] === "string" && object[name] !== "");
  return field && object[field];
}

const ERRORS = {
  disconnected: "no connection",
  unanswered: "no answer yet",
  unavailable: "the message store is away",
  unconfirmed: "not confirmed yet",
  busy: "the server is busy",
  rate_limited: "too many messages at once",
  too_large: "the message is too long",
  forbidden: "you may not write here",
  unauthorized: "you are not signed in",
};

/** Why a message was not sent yet, after "Not sent: " or "Waiting to send: ". */
export function reason(error) {
  return ERRORS[error.code] ?? (error.message || "something went wrong");
}

/** The state in the header, and the text below if something is wrong. */
export const STATES = {
  connecting: { label: "Connecting" },
  connected: { label: "Connected" },
  away: {
    label: "Server away",
    hint: "The server cannot be reached. Trying again; what you write is sent when it is back.",
  },
  offline: {
    label: "Offline",
    hint: "This device seems to be offline. What you write is sent when it is back.",
  },
  store: {
    label: "Store away",
    hint: "The message store is away. Trying again; what you write is sent when it is back.",
  },
};

export const newMessages = (count) =>
  count === 1 ? "1 new message ↓" : `${count} new messages ↓`;

export const gap = (from, to) =>
  from === to ? "A message is missing here" : `Up to ${to - from + 1} messages are missing here`;

export const trimmed = "Older messages in between are no longer kept";

export const newEpochReplaced = "The message log was started anew; some messages may be gone";

export const newEpoch = "The message log was started anew. What is above is from before";
