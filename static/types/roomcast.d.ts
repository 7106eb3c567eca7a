// The types of Roomcast's events, for the generics of socket.io-client. They are made from the
// types of the server. To renew them: cargo test --lib renew_the_types -- --ignored

/** A position in the log. */
export interface At {
  epoch: string;
  seq: number;
}

/** A stable word for programs: clients branch on it. */
export type Code =
  | "bad_request"
  | "too_large"
  | "not_joined"
  | "forbidden"
  | "not_found"
  | "too_many"
  | "taken"
  | "conflict"
  | "busy"
  | "unavailable"
  | "unconfirmed";

/** A change of an earlier message, as `delete` tells it. */
export interface DeleteEvent {
  room: string;
  epoch: string;
  seq: number;
  id: string;
  /** The `seq` of the message that changed. */
  of: number;
  from: Sender;
  /** Milliseconds since 1970. */
  at: number;
}

/** The message to change: the same fields in each of these requests. */
export interface DeleteRequest {
  room: string;
  epoch: string;
  /** The `seq` of the message to change. */
  of: number;
  /** The client's own name for the change: with it, a retry counts once. */
  id?: string;
}

/** The answer to `typing`. */
export interface DoneAck {
  ok: true;
}

/** A change of an earlier message, as `edit` tells it. */
export interface EditEvent {
  room: string;
  epoch: string;
  seq: number;
  id: string;
  /** The `seq` of the message that changed. */
  of: number;
  from: Sender;
  /** Milliseconds since 1970. */
  at: number;
  text: string;
}

/** The message to change: the same fields in each of these requests. */
export interface EditRequest {
  room: string;
  epoch: string;
  /** The `seq` of the message to change. */
  of: number;
  text: string;
  /** The client's own name for the change: with it, a retry counts once. */
  id?: string;
}

/** Who is not told a message. */
export type Except = "me";

/** A hole that the log could not fill: messages `from ..= to` never reached this node. */
export interface GapEvent {
  room: string;
  epoch: string;
  from: number;
  to: number;
}

/** The argument of `history`. */
export interface HistoryRequest {
  room: string;
  after?: At;
  before?: At;
  limit?: number;
}

/** The answer to `join`. */
export interface JoinAck {
  ok: true;
  room: string;
  epoch: string;
  seq: number;
  /** Whether `messages` and `changes` are everything between the client's position and this one. */
  recovered: boolean;
  messages: NativeMessage[];
  /** Changes of messages, of these and of earlier ones. Left out when there are none. */
  changes?: ListedChange[];
  /** Users in the room; left out while the number is not known. */
  count?: number;
  /** The users, unless there are too many. */
  members?: NativeUser[];
}

/** The argument of `join`. */
export interface JoinRequest {
  room: string;
  /** The last position that the client has. */
  after?: At;
}

/** The answer to `leave`. */
export interface LeaveAck {
  ok: true;
  room: string;
}

/** The argument of `leave`. */
export interface LeaveRequest {
  room: string;
}

/** A change among those that a client missed. */
export type ListedChange = ListedEdit | ListedDelete | ListedReact;

/** A change of an earlier message, as `delete` told it, in a list. */
export interface ListedDelete {
  room: string;
  epoch: string;
  seq: number;
  id: string;
  /** The `seq` of the message that changed. */
  of: number;
  from: Sender;
  /** Milliseconds since 1970. */
  at: number;
  type: "delete";
}

/** A change of an earlier message, as `edit` told it, in a list. */
export interface ListedEdit {
  room: string;
  epoch: string;
  seq: number;
  id: string;
  /** The `seq` of the message that changed. */
  of: number;
  from: Sender;
  /** Milliseconds since 1970. */
  at: number;
  text: string;
  type: "edit";
}

/** A change of an earlier message, as `react` told it, in a list. */
export interface ListedReact {
  room: string;
  epoch: string;
  seq: number;
  id: string;
  /** The `seq` of the message that changed. */
  of: number;
  from: Sender;
  /** Milliseconds since 1970. */
  at: number;
  emoji: string;
  on: boolean;
  type: "react";
}

export interface ListedRoom {
  room: string;
  count: number;
  seq: number;
  /**
   * The user's read mark, and how many messages of others come after it. Left out when the user
   * is not in the room or has no mark.
   */
  read?: number;
  unread?: number;
}

/** The answer to `history`. */
export interface NativeHistoryAck {
  ok: true;
  room: string;
  epoch: string;
  /** The end of the log: later messages come as events. */
  seq: number;
  messages: NativePageMessage[];
  more: boolean;
  trimmed: boolean;
}

/** A message, as an event and in lists. */
export interface NativeMessage {
  room: string;
  epoch: string;
  seq: number;
  id: string;
  from: Sender;
  text: string;
  /** Milliseconds since 1970. */
  at: number;
}

/** A message as it is now. */
export interface NativePageMessage {
  room: string;
  epoch: string;
  seq: number;
  id: string;
  from: Sender;
  text: string;
  /** Milliseconds since 1970. */
  at: number;
  /** When the message was deleted. */
  deleted?: number;
  /** When the text was last changed. */
  edited?: number;
  /** The emoji of the oldest reaction comes first. Left out when there are none. */
  reactions?: Reactions[];
}

/** The answer to `search`. */
export interface NativeSearchAck {
  ok: true;
  room: string;
  epoch: string;
  messages: NativePageMessage[];
  more: boolean;
  /** Where the next search must go on: messages before it were not searched. */
  next?: number;
}

/** What others see of a user. */
export interface NativeUser {
  id: string;
  name: string;
  picture?: string;
}

/** The log began anew. */
export interface NoticeEvent {
  code: "new_epoch";
  message: string;
  epoch: string;
}

/** The answer to `history`. */
export interface PlainHistoryAck {
  ok: true;
  room: string;
  epoch: string;
  /** The end of the log: later messages come as events. */
  seq: number;
  messages: PlainPageMessage[];
  more: boolean;
  trimmed: boolean;
}

/** A message as it is now. */
export interface PlainPageMessage {
  room: string;
  epoch: string;
  seq: number;
  id: string;
  from: string;
  /** What was sent, which is any JSON; `null` when the message was deleted. */
  body: unknown;
  /** Milliseconds since 1970. */
  at: number;
  /** When the message was deleted. */
  deleted?: number;
  /** When the text was last changed. */
  edited?: number;
  /** The emoji of the oldest reaction comes first. Left out when there are none. */
  reactions?: Reactions[];
}

/** Users came to a room or left it. */
export interface PresenceEvent {
  room: string;
  joined: NativeUser[];
  left: NativeUser[];
  count: number;
}

/** The answer to `profile`. */
export interface ProfileAck {
  ok: true;
  user: NativeUser;
  /** The secret that makes a client the same user on every connection. */
  token: string;
}

/** A user has another name or picture. */
export interface ProfileEvent {
  user: NativeUser;
}

/** The argument of `profile`. */
export interface ProfileRequest {
  name?: string;
  picture?: string;
}

/** A change of an earlier message, as `react` tells it. */
export interface ReactEvent {
  room: string;
  epoch: string;
  seq: number;
  id: string;
  /** The `seq` of the message that changed. */
  of: number;
  from: Sender;
  /** Milliseconds since 1970. */
  at: number;
  emoji: string;
  on: boolean;
}

/** The message to change: the same fields in each of these requests. */
export interface ReactRequest {
  room: string;
  epoch: string;
  /** The `seq` of the message to change. */
  of: number;
  emoji: string;
  on: boolean;
  /** The client's own name for the change: with it, a retry counts once. */
  id?: string;
}

/** Everybody who reacts with one emoji. */
export interface Reactions {
  emoji: string;
  users: string[];
}

/** The answer to `read`: where the mark is now. */
export interface ReadAck {
  ok: true;
  room: string;
  seq: number;
}

/** A user's read mark moved. */
export interface ReadEvent {
  room: string;
  user: string;
  seq: number;
}

/** The argument of `read`. */
export interface ReadRequest {
  room: string;
  seq: number;
}

/** The answer to a request that was refused or failed. */
export interface RejectAck {
  ok: false;
  error: RejectEvent;
}

/** The same as an `error` event, for a client that asked for no ack. */
export interface RejectEvent {
  code: Code;
  message: string;
}

/** The answer to `rooms`. */
export interface RoomsAck {
  ok: true;
  rooms: ListedRoom[];
}

/** The argument of `rooms`. */
export type RoomsRequest = Record<string, never>;

/** The argument of `search`. */
export interface SearchRequest {
  room: string;
  text: string;
  /** Only messages with a smaller `seq` are found. */
  before?: number;
  limit?: number;
}

/** The argument of `send`: a room, a user or a connection. */
export type SendRequest = SendToRoom | SendToUser | SendToConnection;

export interface SendToConnection {
  text: string;
  /** The `socket.id` of a connection. */
  socket: string;
  except?: Except;
  /** The client's own name for the message: with it, a retry shows once. */
  id?: string;
}

export interface SendToRoom {
  text: string;
  room: string;
  except?: Except;
  /** The client's own name for the message: with it, a retry shows once. */
  id?: string;
}

export interface SendToUser {
  text: string;
  /** The id of a user. */
  to: string;
  except?: Except;
  /** The client's own name for the message: with it, a retry shows once. */
  id?: string;
}

/** The user that sent a message, under the name that it had then. */
export interface Sender {
  id: string;
  name: string;
}

/** The answer to a request that stores something: a message, or a change of one. */
export interface SentAck {
  ok: true;
  id: string;
  room: string;
  epoch: string;
  seq: number;
  /** Milliseconds since 1970. */
  at: number;
}

/** Another user types, or stopped. */
export interface TypingEvent {
  room: string;
  user: NativeUser;
  typing: boolean;
}

/** The argument of `typing`. */
export interface TypingRequest {
  room: string;
  typing: boolean;
}

/** The answer to a request: `answer.ok` tells which of the two it is. */
export type Answer<T> = T | RejectAck;

/** Takes the answer to a request. */
export type Ack<T> = (answer: Answer<T>) => void;

/** What a client of the native dialect receives. */
export interface ServerToClientEvents {
  /** Somebody sent a message. */
  message: (event: NativeMessage, offset: string) => void;
  /** A message has another text. */
  edit: (event: EditEvent, offset: string) => void;
  /** A message is gone, and its reactions with it. */
  delete: (event: DeleteEvent, offset: string) => void;
  /** A user reacts to a message, or no longer does. */
  react: (event: ReactEvent, offset: string) => void;
  /** Users came to a room or left it. */
  presence: (event: PresenceEvent) => void;
  /** Another user types, or stopped. */
  typing: (event: TypingEvent) => void;
  /** A user's read mark moved. */
  read: (event: ReadEvent) => void;
  /** A user has another name or picture. */
  profile: (event: ProfileEvent) => void;
  /** Messages were not delivered and cannot be replayed. */
  gap: (event: GapEvent) => void;
  /** The log began anew. */
  notice: (event: NoticeEvent) => void;
  /** A request without an ack was refused. */
  error: (event: RejectEvent) => void;
}

/** What a client of the native dialect sends. */
export interface ClientToServerEvents {
  /** Stores a message in a room, for a user, or for one connection. */
  send: (argument: SendRequest, ack: Ack<SentAck>) => void;
  /** Changes the text of an own message. */
  edit: (argument: EditRequest, ack: Ack<SentAck>) => void;
  /** Deletes an own message. */
  delete: (argument: DeleteRequest, ack: Ack<SentAck>) => void;
  /** Puts an emoji on a message, or takes it back. */
  react: (argument: ReactRequest, ack: Ack<SentAck>) => void;
  /** Joins a room, and answers what was missed there. */
  join: (argument: JoinRequest, ack: Ack<JoinAck>) => void;
  /** Leaves a room. */
  leave: (argument: LeaveRequest, ack: Ack<LeaveAck>) => void;
  /** Reads a room page by page. */
  history: (argument: HistoryRequest, ack: Ack<NativeHistoryAck>) => void;
  /** Finds messages in the history of a room. */
  search: (argument: SearchRequest, ack: Ack<NativeSearchAck>) => void;
  /** Lists rooms, with read marks and unread counts. */
  rooms: (argument: RoomsRequest, ack: Ack<RoomsAck>) => void;
  /** Tells the others in a room that the user types. */
  typing: (argument: TypingRequest, ack: Ack<DoneAck>) => void;
  /** Moves the user's read mark forward. */
  read: (argument: ReadRequest, ack: Ack<ReadAck>) => void;
  /** Changes or reads the user's name and picture. */
  profile: (argument: ProfileRequest, ack: Ack<ProfileAck>) => void;
}

/** What a client of the profile `plain`, the default, receives. */
export interface PlainServerToClientEvents {
  /** Somebody sent a message: what was sent, and the offset, or `null` if it is not stored. */
  message: (body: unknown, offset: string | null) => void;
  /** Messages were not delivered and cannot be replayed. */
  gap: (event: GapEvent) => void;
  /** The log began anew. */
  notice: (event: NoticeEvent) => void;
  /** A request without an ack was refused. */
  error: (event: RejectEvent) => void;
}

/** What a client of the profile `plain`, the default, sends. */
export interface PlainClientToServerEvents {
  /** Stores a message in the lobby. With an `id`, a retry shows once. */
  "user-message": (
    ...args:
      | [body: unknown]
      | [body: unknown, id: string]
      | [body: unknown, ack: Ack<SentAck>]
      | [body: unknown, id: string, ack: Ack<SentAck>]
  ) => void;
  /** Reads a room page by page. */
  history: (argument: HistoryRequest, ack: Ack<PlainHistoryAck>) => void;
}
