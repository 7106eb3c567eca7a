//! Sending and changing messages: checked at once, appended in each connection's order.
//!
//! Before a message to one user or one connection, the store is asked whether they are known.
//! Before a change of a message, it is asked whether that message exists and who sent it. Later
//! requests of the same client, to any room, wait behind it, so the client's order stays.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::{Actor, Chat, Connection, connection::Permit, unavailable};
use crate::{
    clock,
    domain::{
        message::check_target,
        name::{MessageId, PublicId, UserId},
        page::Page,
        position::{Epoch, Position, Timestamp},
        record::{Draft, Entry},
        reject::{Code, Reject},
        request::{Destination, NewChange, NewMessage},
        room::{RoomKind, RoomName},
        user::User,
        visibility::{has_personal_room, may_enter},
    },
    store::{error::ReadError, log::AppendError},
};

/// How long this node trusts that a direct room is in the list of both its users; then it is listed
/// again.
const LISTED_FOR: Duration = Duration::from_secs(600);
/// Rooms of two users that one node remembers. Above it, all are forgotten.
const DIRECT_ROOMS_MAX: usize = 65_536;

/// A message or a change that is stored.
#[derive(Debug)]
pub struct Sent {
    pub room: RoomName,
    pub id: MessageId,
    pub position: Position,
    /// The time of the first attempt, if this was a retry.
    pub at: Timestamp,
}

type Done = Box<dyn FnOnce(Result<Sent, Reject>) + Send>;

/// Appends of one connection that wait while the store answers a question for an earlier one.
#[derive(Debug, Default)]
pub(super) struct PendingAppends {
    waiting: VecDeque<PendingAppend>,
    /// Whether a task is working on the queue.
    is_running: bool,
}

struct PendingAppend {
    draft: Draft,
    /// The epoch of the message that is changed.
    epoch: Option<Epoch>,
    /// The draft is refused if this is.
    after: Option<Preceding>,
    permit: Permit,
    done: Done,
}

/// A join or a leave that must succeed before a message of the same event is stored.
pub(super) type Preceding = BoxFuture<'static, Result<(), Reject>>;

/// Direct rooms that both users have in their list, and when they were listed.
pub(super) type ListedDirectRooms = HashMap<RoomName, Instant>;

impl Chat {
    /// Stores a message and announces it. `done` is called once, with its position or with the
    /// reason why it was not stored. Calls of one connection keep their order.
    pub fn send(
        &self,
        actor: Actor<'_>,
        message: NewMessage,
        done: impl FnOnce(Result<Sent, Reject>) + Send + 'static,
    ) {
        self.send_after(actor, message, None, done);
    }

    /// The same, once what precedes it has succeeded.
    pub(super) fn send_after(
        &self,
        actor: Actor<'_>,
        message: NewMessage,
        after: Option<Preceding>,
        done: impl FnOnce(Result<Sent, Reject>) + Send + 'static,
    ) {
        let NewMessage { to, id, repeatable, body, except_me, members_only, source, claimed_name } =
            message;
        let room = room_of(actor, to, members_only);
        let entry = Entry::Message(body);
        let permit = room.and_then(|room| Ok((self.begin_append(actor, &entry)?, room)));
        let (permit, room) = match permit {
            Ok(allowed) => allowed,
            Err(reject) => return done(Err(reject)),
        };
        let except = actor.connection.filter(|_| except_me).map(|one| one.public_id().clone());
        let draft = Draft::new(room, actor.user.clone(), id, clock::now(), entry);
        let name = claimed_name.map(|name| User::claimed_name(&name, actor.user));
        let draft = Draft { repeatable, except, source, name, ..draft };
        let done = Box::new(done);
        self.append(actor, PendingAppend { draft, epoch: None, after, permit, done });
    }

    /// Stores a change of an earlier message, in the same way.
    pub fn change(
        &self,
        actor: Actor<'_>,
        change: NewChange,
        done: impl FnOnce(Result<Sent, Reject>) + Send + 'static,
    ) {
        let NewChange { room, epoch, target_seq, change, id, repeatable } = change;
        let entry = Entry::Change { target_seq, change };
        let permit = actor.check_inside(&room).and_then(|()| self.begin_append(actor, &entry));
        let permit = match permit {
            Ok(permit) => permit,
            Err(reject) => return done(Err(reject)),
        };
        let draft = Draft::new(room, actor.user.clone(), id, clock::now(), entry);
        let (draft, done) = (Draft { repeatable, ..draft }, Box::new(done));
        let epoch = Some(epoch);
        self.append(actor, PendingAppend { draft, epoch, after: None, permit, done });
    }

    fn begin_append(&self, actor: Actor<'_>, entry: &Entry) -> Result<Permit, Reject> {
        let (bytes, max) = (entry.bytes(), self.0.limits.message_bytes_max);
        if bytes > max {
            let why = format!("the message has {bytes} bytes; at most {max} are allowed");
            return Err(Reject::new(Code::TooLarge, why));
        }
        actor.begin_append(self)
    }

    fn append(&self, actor: Actor<'_>, mut append: PendingAppend) {
        let draft = &mut append.draft;
        let has_profile = |one: &Arc<Connection>| one.recipient.dialect.features().presence;
        if draft.name.is_none() && actor.connection.is_none_or(has_profile) {
            draft.name = self.name(&draft.from);
        }
        let is_change = matches!(draft.entry, Entry::Change { .. });
        let is_named = draft.room.kind() == RoomKind::Named;
        let must_ask = is_change || !is_named && !self.is_listed(&draft.room);
        let must_wait = must_ask || append.after.is_some();
        let Some(connection) = actor.connection else {
            let chat = self.clone();
            return self.0.tasks.spawn("append", async move { chat.append_visiting(append).await });
        };
        let mut pending = connection.pending.lock();
        if !must_wait && !pending.is_running {
            drop(pending);
            return self.submit(append.draft, append.permit, append.done);
        }
        pending.waiting.push_back(append);
        if !std::mem::replace(&mut pending.is_running, true) {
            let (chat, connection) = (self.clone(), Arc::clone(connection));
            self.0.tasks.spawn("pending appends", async move {
                while let Some(append) = connection.next_append() {
                    chat.append_checked(append).await;
                }
            });
        }
    }

    /// Appends for a user without a connection, whose name this node may not know.
    async fn append_visiting(&self, mut append: PendingAppend) {
        if append.draft.name.is_none() {
            let profile = self.profile(&append.draft.from).await;
            match profile.map_err(unavailable("reading a profile")) {
                Ok(user) => append.draft.name = user.said_name().cloned(),
                Err(reject) => return (append.done)(Err(reject)),
            }
        }
        self.append_checked(append).await;
    }

    async fn append_checked(&self, append: PendingAppend) {
        let PendingAppend { draft, epoch, after, permit, done } = append;
        let preceded = match after {
            Some(after) => after.await,
            None => Ok(()),
        };
        let allowed = match (preceded, &draft.entry) {
            (Err(reject), _) => Err(reject),
            (Ok(()), Entry::Change { target_seq, .. }) => {
                self.check_target(&draft, *target_seq, epoch).await
            }
            (Ok(()), Entry::Message(_)) => self.check_destination(&draft).await,
        };
        match allowed {
            Ok(()) => self.submit(draft, permit, done),
            Err(reject) => {
                drop(permit);
                done(Err(reject));
            }
        }
    }

    fn submit(&self, draft: Draft, permit: Permit, done: Done) {
        let (room, id) = (draft.room.clone(), draft.id.clone());
        let settle = Box::new(move |outcome: Result<_, AppendError>| {
            drop(permit);
            let sent = |stored: crate::domain::record::Stored| Sent {
                room,
                id,
                position: stored.position,
                at: stored.at,
            };
            done(outcome.map(sent).map_err(not_appended));
        });
        self.0.store.log.append(draft, settle);
    }

    async fn check_destination(&self, draft: &Draft) -> Result<(), Reject> {
        match draft.room.kind() {
            RoomKind::Socket { session } => {
                let session = PublicId::parse(session).map_err(|_not_an_id| no_connection())?;
                let reached =
                    self.is_reached(session).await.map_err(unavailable("a session's read"))?;
                if reached { Ok(()) } else { Err(no_connection()) }
            }
            RoomKind::Direct { .. } if !self.is_listed(&draft.room) => {
                let listed = self.list_for_both(&draft.room, &draft.from).await;
                let listed = listed.map_err(unavailable("opening a room of two users"))?;
                if listed { Ok(()) } else { Err(no_user()) }
            }
            RoomKind::Named
            | RoomKind::Accounts
            | RoomKind::Direct { .. }
            | RoomKind::Personal { .. }
            | RoomKind::Malformed => Ok(()),
        }
    }

    async fn check_target(
        &self,
        draft: &Draft,
        target_seq: u64,
        epoch: Option<Epoch>,
    ) -> Result<(), Reject> {
        let page = Page::Before(target_seq.saturating_add(1));
        let history = self.0.store.log.history(draft.room.clone(), page, 1).await;
        let history = history.map_err(unavailable("reading the message to change"))?;
        let target = history.messages.last().filter(|message| {
            message.position.seq == target_seq
                && epoch.is_none_or(|epoch| epoch == history.top.epoch)
        });
        check_target(draft, target)
    }

    /// Whether both users of the room were found to have it in their list lately.
    fn is_listed(&self, room: &RoomName) -> bool {
        self.0.listed_direct_rooms.lock().get(room).is_some_and(|at| at.elapsed() < LISTED_FOR)
    }

    /// Lists the room for both of its users, before its first message. `false`: the other user was
    /// never here.
    async fn list_for_both(&self, room: &RoomName, own: &UserId) -> Result<bool, ReadError> {
        let RoomKind::Direct { first, second } = room.kind() else { return Ok(false) };
        let other = if first == own.as_str() { second } else { first };
        let Ok(other) = UserId::parse(other) else { return Ok(false) };
        let inbox = &self.0.store.inbox;
        if self.online(&other).is_none() && !inbox.is_known(other.clone()).await? {
            return Ok(false);
        }
        tokio::try_join!(
            inbox.mark_read(own.clone(), room.clone(), 0),
            inbox.mark_read(other, room.clone(), 0),
        )?;
        let mut listed = self.0.listed_direct_rooms.lock();
        if listed.len() >= DIRECT_ROOMS_MAX {
            listed.clear();
        }
        listed.insert(room.clone(), Instant::now());
        Ok(true)
    }

    /// Whether a session can receive messages that are addressed to it, now or after a recovery.
    async fn is_reached(&self, session: PublicId) -> Result<bool, ReadError> {
        if self.0.subscriptions.recipient(session.as_str()).is_some() {
            return Ok(true);
        }
        let record = self.0.store.sessions.read(session).await?;
        Ok(record.is_some_and(|record| {
            has_personal_room(record.rooms.iter().map(|joined| &joined.room))
        }))
    }
}

impl Connection {
    /// `None`: the queue is empty, and the next append need not wait.
    fn next_append(&self) -> Option<PendingAppend> {
        let mut pending = self.pending.lock();
        let next = pending.waiting.pop_front();
        pending.is_running = next.is_some();
        next
    }
}

impl std::fmt::Debug for PendingAppend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PendingAppend").field("draft", &self.draft).finish_non_exhaustive()
    }
}

/// The room that a message to `to` is written in.
pub(super) fn room_of(
    actor: Actor<'_>,
    to: Destination,
    members_only: bool,
) -> Result<RoomName, Reject> {
    match to {
        Destination::Room(room) if members_only => actor.check_inside(&room).map(|()| room),
        Destination::Room(room) => may_enter(actor.user, &room).map(|()| room),
        Destination::User(user) => RoomName::direct(actor.user, &user).ok_or_else(no_user),
        Destination::Connection(id) => RoomName::socket(&id).ok_or_else(no_connection),
    }
}

fn no_user() -> Reject {
    Reject::new(Code::NotFound, "there is no such user")
}

fn no_connection() -> Reject {
    Reject::new(Code::NotFound, "there is no such session")
}

fn not_appended(error: AppendError) -> Reject {
    let code = match error {
        AppendError::Unavailable => Code::Unavailable,
        AppendError::Unconfirmed => Code::Unconfirmed,
        AppendError::Conflict => Code::Conflict,
        AppendError::Busy => Code::Busy,
    };
    Reject::new(code, error.to_string())
}
