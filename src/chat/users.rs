//! Users who are connected to this node in the native dialect, and what is kept of them.

use std::{
    collections::HashMap,
    sync::{MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::time::sleep;

use crate::chat::Chat;
use crate::{
    domain::{
        name::{PublicId, RoomName, UserId, UserName},
        user::{Patch, User},
    },
    store::{ReadError, presence::Signal, sessions::SessionRecord},
};

/// A user who could not be remembered is remembered after this time.
const REGISTER_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// A user, and how many connections he has on this node.
#[derive(Debug)]
pub struct OnlineUser {
    pub(super) user: User,
    seats: u32,
    /// How often this node has learnt what others see of him. 0: he is a guest until it does.
    learnt: u64,
}

impl Chat {
    /// A user who is connected here in the native dialect.
    pub fn person(&self, id: &UserId) -> Option<User> {
        self.people().get(id).map(|person| person.user.clone())
    }

    /// What such a user is called, if he has said it.
    pub fn name(&self, id: &UserId) -> Option<UserName> {
        self.people().get(id).and_then(|person| person.user.said_name().cloned())
    }

    /// Changes what others see of a user, if anything. `None`: another user has this name.
    pub async fn set_profile(&self, patch: Patch) -> Result<Option<User>, ReadError> {
        if patch.name.is_none() && patch.picture.is_none() {
            return self.profile(&patch.user).await.map(Some);
        }
        let learnt = self.people().get(&patch.user).map(|person| person.learnt);
        let user = self.0.store.profiles.patch(patch).await?;
        if let Some(user) = &user {
            self.apply_profile(user, learnt);
        }
        Ok(user)
    }

    /// Whoever is connected here is listed by his new name in the rooms that he is in. What was
    /// asked for when this node had learnt `asked_at` times of him is late if it has learnt more
    /// since: the bus tells every change, in order.
    pub(super) fn apply_profile(&self, user: &User, asked_at: Option<u64>) {
        let mut people = self.people();
        let Some(person) = people.get_mut(&user.id) else { return };
        if asked_at.is_some_and(|asked_at| asked_at != person.learnt) {
            return;
        }
        person.learnt += 1;
        person.user = user.clone();
        // Under the lock, so that nobody enters a room by a name that has just been given up.
        self.0.presence.rename(user);
    }

    /// Says that a user types in a room, or stops, unless that is known.
    pub fn types(&self, room: RoomName, id: &UserId, typing: bool) {
        if let Some(user) = self.person(id)
            && self.0.presence.types(&room, id, typing)
        {
            self.0.store.presence.publish(Signal::Typing { room, user, typing });
        }
    }

    /// What is known of a user; a new one is a guest.
    async fn profile(&self, id: &UserId) -> Result<User, ReadError> {
        if let Some(user) = self.0.store.profiles.profile(id.clone()).await? {
            return Ok(user);
        }
        Ok(User::guest(id.clone()))
    }

    /// A connection of this user in the native dialect has come. He is here before he is asked
    /// for: what is told of him meanwhile is newer than what is read.
    pub(super) async fn register(&self, id: &UserId) {
        let learnt = {
            let mut people = self.people();
            let new = || OnlineUser { user: User::guest(id.clone()), seats: 0, learnt: 0 };
            let person = people.entry(id.clone()).or_insert_with(new);
            person.seats += 1;
            person.learnt
        };
        if learnt > 0 {
            self.remember(id).await;
            return;
        }
        match tokio::join!(self.profile(id), self.remember(id)).0 {
            Ok(user) => self.apply_profile(&user, Some(learnt)),
            // He is a guest for now, and is asked for again when he next comes.
            Err(error) => tracing::debug!(%error, "a profile cannot be read"),
        }
    }

    /// Keeps that he was here, so that others can write to him. Answers whether that is done.
    async fn remember(&self, id: &UserId) -> bool {
        let marked = self.0.store.inbox.mark_read(id.clone(), RoomName::personal(id), 0).await;
        marked.inspect_err(|error| tracing::debug!(%error, "a user is not remembered yet")).is_ok()
    }

    /// The log was away, and may have forgotten who was here.
    pub(super) fn register_again(&self) {
        let number = self.0.registrations.fetch_add(1, Ordering::Relaxed) + 1;
        let chat = self.clone();
        self.0.tasks.spawn("register again", async move {
            let everybody: Vec<UserId> = chat.people().keys().cloned().collect();
            for id in everybody {
                // What is heard may be back before what is written.
                while chat.person(&id).is_some() && !chat.remember(&id).await {
                    tokio::select! {
                        () = sleep(REGISTER_AGAIN_AFTER) => {}
                        () = chat.0.tasks.stopping() => return,
                    }
                }
                // It was away again, and there is another one.
                if chat.0.registrations.load(Ordering::Relaxed) != number {
                    return;
                }
            }
        });
    }

    /// Lists the room of two people for both, before one of them says something there. `false`:
    /// nobody has ever seen the other one.
    pub async fn open_direct(&self, room: &RoomName, own: &UserId) -> Result<bool, ReadError> {
        let people = room.people().unwrap_or_default();
        let other = people.into_iter().find(|id| *id != own.as_str()).unwrap_or(own.as_str());
        let Ok(other) = UserId::parse(other) else { return Ok(false) };
        let store = &self.0.store;
        if self.person(&other).is_none() && !store.inbox.is_known(other.clone()).await? {
            return Ok(false);
        }
        tokio::try_join!(
            store.inbox.mark_read(own.clone(), room.clone(), 0),
            store.inbox.mark_read(other, room.clone(), 0),
        )?;
        Ok(true)
    }

    /// Whether a session of the native dialect hears what is said to it alone, now or when it comes
    /// back.
    pub async fn is_reached(&self, session: PublicId) -> Result<bool, ReadError> {
        if self.0.rooms.seated(&session).is_some() {
            return Ok(true);
        }
        let record = self.0.store.sessions.read(session).await?;
        let is_native =
            |record: SessionRecord| record.rooms.iter().any(|joined| joined.room.is_personal());
        Ok(record.is_some_and(is_native))
    }

    pub(super) fn disconnect(&self, id: &UserId) {
        let mut people = self.people();
        if let Some(person) = people.get_mut(id) {
            person.seats -= 1;
            if person.seats == 0 {
                people.remove(id);
            }
        }
    }

    pub(super) fn people(&self) -> MutexGuard<'_, HashMap<UserId, OnlineUser>> {
        self.0.people.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
