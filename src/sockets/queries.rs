//! What a client of the native dialect asks about rooms and people, and what it is answered.

use std::sync::Arc;

use crate::sockets::{
    Connection, PAGE_BYTES_MAX, Reply,
    wire::{DoneAck, ProfileAck, ReadAck, RoomsAck, SearchAck},
};
use crate::{
    domain::{
        name::RoomName,
        search::Search,
        session::{Code, Reject},
        user::Patch,
    },
    store::{ReadError, inbox::Unread, log::RoomSummary},
};

/// Rooms in one list, and beside them rooms of two people.
const ROOMS_MAX: u32 = 500;
const DIRECT_ROOMS_MAX: usize = 200;

impl Connection {
    pub(super) fn list_rooms(self: &Arc<Self>, reply: Reply) {
        let connection = Arc::clone(self);
        self.tasks.spawn("rooms", async move {
            let listed = connection.rooms_and_marks().await;
            connection.answer(listed, reply, |(rooms, marks), reply| {
                reply.send(&RoomsAck::new(&rooms, &marks));
            });
        });
    }

    async fn rooms_and_marks(&self) -> Result<(Vec<RoomSummary>, Vec<Unread>), ReadError> {
        let user = self.memberships.user();
        let (mut rooms, direct) = tokio::try_join!(
            self.store.log.rooms(ROOMS_MAX),
            self.store.inbox.direct_rooms(user.clone())
        )?;
        let mut own = self.session().rooms().to_vec();
        own.retain(|room| room.people().is_none());
        own.extend(newest(direct).map(|summary| {
            let room = summary.room.clone();
            rooms.push(summary);
            room
        }));
        let marks = self.store.inbox.unread(user.clone(), own).await?;
        Ok((rooms, marks))
    }

    pub(super) fn search(self: &Arc<Self>, search: Search, reply: Reply) {
        let connection = Arc::clone(self);
        self.tasks.spawn("search", async move {
            let room = search.room.clone();
            let found = connection.store.search.search(search).await;
            connection.answer(found, reply, |mut found, reply| {
                found.fit(PAGE_BYTES_MAX);
                reply.send(&SearchAck::new(&room, &found));
            });
        });
    }

    pub(super) fn says_typing(&self, room: RoomName, typing: bool, reply: Reply) {
        self.chat.types(room, self.memberships.user(), typing);
        reply.send(&DoneAck::new());
    }

    pub(super) fn mark_read(self: &Arc<Self>, room: RoomName, seq: u64, reply: Reply) {
        let connection = Arc::clone(self);
        self.tasks.spawn("read", async move {
            let user = connection.memberships.user().clone();
            let marked = connection.store.inbox.mark_read(user, room.clone(), seq).await;
            connection.answer(marked, reply, |seq, reply| reply.send(&ReadAck::new(&room, seq)));
        });
    }

    pub(super) fn set_profile(self: &Arc<Self>, patch: Patch, reply: Reply) {
        let connection = Arc::clone(self);
        self.tasks.spawn("profile", async move {
            let set = connection.chat.set_profile(patch).await;
            let token = connection.token.clone();
            connection.answer(set, reply, |user, reply| match user {
                Some(user) => reply.send(&ProfileAck::new(&user, &token)),
                None => reply.reject(&Reject::new(Code::Taken, "another user has this name")),
            });
        });
    }

    /// The log has answered, or not.
    fn answer<T>(&self, outcome: Result<T, ReadError>, reply: Reply, send: impl FnOnce(T, Reply)) {
        self.session().read_settled();
        match outcome {
            Ok(answer) => send(answer, reply),
            Err(error) => {
                tracing::debug!(%error, "a request about rooms or people was not answered");
                reply.reject(&Reject::new(Code::Unavailable, "the log cannot be reached"));
            }
        }
    }
}

/// Rooms of two people as they stand in a list; both are always in it.
fn newest(mut rooms: Vec<(RoomName, u64)>) -> impl Iterator<Item = RoomSummary> {
    rooms.sort_unstable_by_key(|(_, seq)| std::cmp::Reverse(*seq));
    let summary = |(room, seq): (RoomName, u64)| RoomSummary { count: 2, room, seq };
    rooms.into_iter().take(DIRECT_ROOMS_MAX).map(summary)
}
