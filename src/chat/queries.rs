//! Requests that are not messages: history, search, rooms, read marks, profiles, typing.
//!
//! Each call is checked when it is made, in the client's order; the future that it returns only
//! waits for the store.

use super::{Actor, Chat, unavailable};
use crate::{
    domain::{
        message::Message,
        name::UserName,
        page::Page,
        position::Position,
        reject::{Code, Reject},
        request::PageRequest,
        room::{RoomKind, RoomName},
        roster::LISTED_MAX,
        search::Search,
        user::{Picture, ProfilePatch, User},
    },
    store::{
        error::ReadError,
        inbox::Unread,
        log::{History, RoomSummary},
        presence::Members,
        search::Found,
    },
};

/// Bytes of bodies and reactions in one page: far below what may be queued for a client.
pub(super) const PAGE_BYTES_MAX: usize = 256 << 10;
/// Rooms in a list, and separately rooms of two users.
const ROOMS_MAX: u32 = 500;
const DIRECT_ROOMS_MAX: usize = 200;

/// Rooms, and the read marks of those that the user is in.
#[derive(Debug)]
pub struct ListedRooms {
    pub rooms: Vec<RoomSummary>,
    pub marks: Vec<Unread>,
}

/// Messages on both sides of a position, oldest first.
#[derive(Debug)]
pub struct Neighbourhood {
    /// The end of the log.
    pub top: Position,
    pub messages: Vec<Message>,
    /// Whether the room has messages before these, and after them.
    pub older: bool,
    pub newer: bool,
    /// Whether messages after the position were already deleted, or the position is of another
    /// epoch: then these are the newest messages.
    pub trimmed: bool,
}

impl Chat {
    /// One page of a room's messages, as they are now.
    pub fn history(
        &self,
        actor: Actor<'_>,
        request: PageRequest,
    ) -> impl Future<Output = Result<History, Reject>> + Send + use<> {
        let permit = actor.check_inside(&request.room).and_then(|()| actor.begin_request(self));
        let chat = self.clone();
        async move {
            let _permit = permit?;
            chat.page(request).await.map_err(unavailable("history"))
        }
    }

    /// A position of another epoch says nothing about this log. Then the answer is the newest page,
    /// marked as one with a gap before it.
    async fn page(&self, request: PageRequest) -> Result<History, ReadError> {
        let PageRequest { room, page, limit, epoch } = request;
        let log = &self.0.store.log;
        let mut history = log.history(room.clone(), page, limit).await?;
        history.fit(page, PAGE_BYTES_MAX);
        if epoch.is_none_or(|epoch| epoch == history.top.epoch) {
            return Ok(history);
        }
        let mut newest = log.history(room, Page::Newest, limit).await?;
        newest.fit(Page::Newest, PAGE_BYTES_MAX);
        Ok(History { trimmed: true, ..newest })
    }

    /// The message at a position of a room and those on both sides of it: at most `limit`, half of
    /// them after the position.
    pub fn around(
        &self,
        actor: Actor<'_>,
        room: RoomName,
        position: Position,
        limit: u32,
    ) -> impl Future<Output = Result<Neighbourhood, Reject>> + Send + use<> {
        let permit = actor.check_inside(&room).and_then(|()| actor.begin_request(self));
        let chat = self.clone();
        async move {
            let _permit = permit?;
            chat.neighbourhood(room, position, limit).await.map_err(unavailable("history"))
        }
    }

    async fn neighbourhood(
        &self,
        room: RoomName,
        position: Position,
        limit: u32,
    ) -> Result<Neighbourhood, ReadError> {
        let log = &self.0.store.log;
        let half = limit / 2;
        let before = Page::Before(position.seq.saturating_add(1));
        let mut older = log.history(room.clone(), before, limit - half).await?;
        if older.top.epoch != position.epoch {
            let mut newest = log.history(room, Page::Newest, limit).await?;
            newest.fit(Page::Newest, PAGE_BYTES_MAX);
            let History { top, messages, more, trimmed: _ } = newest;
            return Ok(Neighbourhood { top, messages, older: more, newer: false, trimmed: true });
        }
        let after = Page::After(position.seq);
        let mut newer = log.history(room, after, half.max(1)).await?;
        if newer.top.epoch != position.epoch {
            return Err(ReadError::Unavailable("the log was lost just now".to_owned()));
        }
        newer.more |= newer.messages.len() > half as usize;
        newer.messages.truncate(half as usize);
        older.fit(before, PAGE_BYTES_MAX / 2);
        newer.fit(after, PAGE_BYTES_MAX / 2);
        let mut messages = older.messages;
        messages.append(&mut newer.messages);
        Ok(Neighbourhood {
            top: newer.top,
            messages,
            older: older.more,
            newer: newer.more,
            trimmed: newer.trimmed,
        })
    }

    /// The users in a room, on all nodes.
    pub fn members(
        &self,
        actor: Actor<'_>,
        room: RoomName,
    ) -> impl Future<Output = Result<Members, Reject>> + Send + use<> {
        let permit = actor.check_inside(&room).and_then(|()| actor.begin_request(self));
        let chat = self.clone();
        async move {
            let _permit = permit?;
            let members = chat.0.store.presence.members(room, LISTED_MAX).await;
            members.map_err(unavailable("reading the members of a room"))
        }
    }

    pub fn search(
        &self,
        actor: Actor<'_>,
        search: Search,
    ) -> impl Future<Output = Result<Found, Reject>> + Send + use<> {
        let permit = actor.check_inside(&search.room).and_then(|()| actor.begin_request(self));
        let chat = self.clone();
        async move {
            let _permit = permit?;
            let found = chat.0.store.search.search(search).await;
            let mut found = found.map_err(unavailable("search"))?;
            found.fit(PAGE_BYTES_MAX);
            Ok(found)
        }
    }

    /// Rooms that have members or messages, then the user's own rooms of two users.
    pub fn rooms(
        &self,
        actor: Actor<'_>,
    ) -> impl Future<Output = Result<ListedRooms, Reject>> + Send + use<> {
        let permit = actor.begin_request(self);
        let (chat, user) = (self.clone(), actor.user.clone());
        let mut own = actor.connection.map(|connection| connection.rooms()).unwrap_or_default();
        async move {
            let _permit = permit?;
            let store = &chat.0.store;
            let listed = tokio::try_join!(
                store.log.rooms(ROOMS_MAX),
                store.inbox.direct_rooms(user.clone())
            );
            let (mut rooms, direct) = listed.map_err(unavailable("listing rooms"))?;
            rooms.retain(|summary| summary.room.kind() != RoomKind::Accounts);
            own.retain(|room| !room.is_direct());
            for summary in newest(direct) {
                own.push(summary.room.clone());
                rooms.push(summary);
            }
            let marks = store.inbox.unread(user, own).await;
            Ok(ListedRooms { rooms, marks: marks.map_err(unavailable("counting unread"))? })
        }
    }

    /// Moves the user's mark in a room forward. Returns where it is then.
    pub fn mark_read(
        &self,
        actor: Actor<'_>,
        room: RoomName,
        seq: u64,
    ) -> impl Future<Output = Result<u64, Reject>> + Send + use<> {
        let permit = actor.check_inside(&room).and_then(|()| actor.begin_request(self));
        let (chat, user) = (self.clone(), actor.user.clone());
        async move {
            let _permit = permit?;
            let marked = chat.0.store.inbox.mark_read(user, room, seq).await;
            marked.map_err(unavailable("marking what was read"))
        }
    }

    /// Changes the user's profile; returns all of it. A `None` leaves that part as it is.
    pub fn set_profile(
        &self,
        actor: Actor<'_>,
        name: Option<UserName>,
        picture: Option<Picture>,
    ) -> impl Future<Output = Result<User, Reject>> + Send + use<> {
        let permit = actor.begin_request(self);
        let (chat, user) = (self.clone(), actor.user.clone());
        async move {
            let _permit = permit?;
            let set = chat.patch_profile(ProfilePatch { user, name, picture }).await;
            set.map_err(unavailable("changing a profile"))?
                .ok_or_else(|| Reject::new(Code::Taken, "another user has this name"))
        }
    }

    /// Tells the other users in a room that the user starts or stops typing.
    pub fn typing(&self, actor: Actor<'_>, room: RoomName, typing: bool) -> Result<(), Reject> {
        actor.check_inside(&room)?;
        self.signal_typing(room, actor.user, typing);
        Ok(())
    }
}

/// Rooms of two users as entries of a list, newest first. Both users count as members.
fn newest(mut rooms: Vec<(RoomName, u64)>) -> impl Iterator<Item = RoomSummary> {
    rooms.sort_unstable_by_key(|(_, seq)| std::cmp::Reverse(*seq));
    let summary = |(room, seq): (RoomName, u64)| RoomSummary { count: 2, room, seq };
    rooms.into_iter().take(DIRECT_ROOMS_MAX).map(summary)
}
