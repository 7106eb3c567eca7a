//! Users who are connected to this node in the native dialect, and what is kept of them.

use std::{
    collections::HashMap,
    sync::{MutexGuard, PoisonError},
};

use super::Hub;
use crate::{
    bus::{ReadError, people::Signal},
    domain::{
        name::{RoomName, UserId, UserName},
        user::{Picture, User},
    },
};

/// A user, and how many connections he has on this node.
#[derive(Debug)]
pub struct Person {
    user: User,
    seats: u32,
}

impl Hub {
    /// A user who is connected here in the native dialect.
    pub fn person(&self, id: &UserId) -> Option<User> {
        self.people().get(id).map(|person| person.user.clone())
    }

    /// Changes what others see of a user, if anything. `None`: another user has this name.
    pub async fn set_profile(
        &self,
        id: &UserId,
        name: Option<UserName>,
        picture: Option<Picture>,
    ) -> Result<Option<User>, ReadError> {
        let mut user = self.profile(id).await?;
        if name.is_none() && picture.is_none() {
            return Ok(Some(user));
        }
        user.name = name.unwrap_or(user.name);
        user.picture = picture.or(user.picture);
        if !self.0.bus.save_profile(user.clone()).await? {
            return Ok(None);
        }
        self.renamed(&user);
        Ok(Some(user))
    }

    /// Whoever is connected here is listed by his new name in the rooms that he is in.
    pub(super) fn renamed(&self, user: &User) {
        let is_here = match self.people().get_mut(&user.id) {
            Some(person) => {
                person.user = user.clone();
                true
            }
            None => false,
        };
        if is_here {
            self.0.presence.rename(user);
        }
    }

    /// Says that a user types in a room, or stops, unless that is known.
    pub fn types(&self, room: RoomName, id: &UserId, typing: bool) {
        if let Some(user) = self.person(id)
            && self.0.presence.types(&room, id, typing)
        {
            self.0.bus.signal(Signal::Typing { room, user, typing });
        }
    }

    /// What is known of a user; a new one is a guest.
    async fn profile(&self, id: &UserId) -> Result<User, ReadError> {
        if let Some(user) = self.0.bus.profile(id.clone()).await? {
            return Ok(user);
        }
        Ok(guest(id))
    }

    /// A connection of this user in the native dialect has come.
    pub(super) async fn meet(&self, id: &UserId) {
        // Without the log he is a guest for now, and is asked for again when he next comes.
        let (profile, _) = tokio::join!(self.profile(id), self.remember(id));
        let user = profile.unwrap_or_else(|error| {
            tracing::debug!(%error, "a profile cannot be read");
            guest(id)
        });
        let mut people = self.people();
        people.entry(id.clone()).or_insert(Person { user, seats: 0 }).seats += 1;
    }

    /// Keeps that he was here, so that others can write to him.
    async fn remember(&self, id: &UserId) {
        let marked = self.0.bus.mark_read(id.clone(), RoomName::personal(id), 0).await;
        if let Err(error) = marked {
            tracing::debug!(%error, "a user is not remembered yet");
        }
    }

    /// The log was away, and may have forgotten who was here.
    pub(super) fn meet_again(&self) {
        let hub = self.clone();
        self.0.tasks.spawn("meet again", async move {
            let everybody: Vec<UserId> = hub.people().keys().cloned().collect();
            for id in everybody {
                if hub.0.tasks.is_stopping() {
                    return;
                }
                hub.remember(&id).await;
            }
        });
    }

    /// Lists the room of two people for both, before one of them says something there. `false`:
    /// nobody has ever seen the other one.
    pub async fn open_direct(&self, room: &RoomName, own: &UserId) -> Result<bool, ReadError> {
        let people = room.people().unwrap_or_default();
        let other = people.into_iter().find(|id| *id != own.as_str()).unwrap_or(own.as_str());
        let Ok(other) = UserId::parse(other) else { return Ok(false) };
        let bus = &self.0.bus;
        if self.person(&other).is_none() && !bus.is_known(other.clone()).await? {
            return Ok(false);
        }
        tokio::try_join!(
            bus.mark_read(own.clone(), room.clone(), 0),
            bus.mark_read(other, room.clone(), 0),
        )?;
        Ok(true)
    }

    pub(super) fn part(&self, id: &UserId) {
        let mut people = self.people();
        if let Some(person) = people.get_mut(id) {
            person.seats -= 1;
            if person.seats == 0 {
                people.remove(id);
            }
        }
    }

    fn people(&self) -> MutexGuard<'_, HashMap<UserId, Person>> {
        self.0.people.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who has not said his name. Nobody is kept from calling himself the same.
fn guest(id: &UserId) -> User {
    let short: String = id.as_str().chars().take(6).collect();
    let name = UserName::parse(&format!("guest {short}")).expect("a short name without controls");
    User { id: id.clone(), name, picture: None }
}
