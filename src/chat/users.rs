//! Users who are online on this node, and their profiles.

use std::{collections::HashMap, sync::atomic::Ordering, time::Duration};

use parking_lot::MutexGuard;
use sha2::{Digest, Sha256};
use tokio::time::sleep;

use super::Chat;
use crate::{
    domain::{
        name::{UserId, UserName},
        room::RoomName,
        user::{ProfilePatch, User},
    },
    random,
    store::error::ReadError,
};

/// Pause before a user that could not be registered is registered again.
const REGISTER_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// A user, and how many connections of this node belong to it.
#[derive(Debug)]
pub(super) struct OnlineUser {
    pub user: User,
    connections: u32,
    /// How often a profile was applied. 0: until then the user is shown as a guest.
    version: u64,
}

/// The user that a client with this token is. A token is a secret, so other users see only its
/// fingerprint.
pub fn user_of_token(token: &str) -> UserId {
    let digest = Sha256::digest(token.as_bytes());
    UserId::parse(&random::to_hex(&digest[..12])).expect("24 hex digits are a user id")
}

impl Chat {
    /// A user with a connection here that takes part in presence.
    pub fn online(&self, id: &UserId) -> Option<User> {
        self.users().get(id).map(|online| online.user.clone())
    }

    /// The name of such a user, if they have chosen one.
    pub(super) fn name(&self, id: &UserId) -> Option<UserName> {
        self.users().get(id).and_then(|online| online.user.said_name().cloned())
    }

    /// Changes the user's profile where it differs. `None`: another user has this name.
    pub(super) async fn patch_profile(
        &self,
        patch: ProfilePatch,
    ) -> Result<Option<User>, ReadError> {
        if patch.name.is_none() && patch.picture.is_none() {
            return self.profile(&patch.user).await.map(Some);
        }
        let version = self.users().get(&patch.user).map(|online| online.version);
        let user = self.0.store.profiles.patch(patch).await?;
        if let Some(user) = &user {
            self.apply_profile(user, version);
        }
        Ok(user)
    }

    /// Shows an online user under the new name in its rooms. A profile read at `read_at` is
    /// outdated if the version has changed since: the store reports every change, in order.
    pub(super) fn apply_profile(&self, user: &User, read_at: Option<u64>) {
        let mut users = self.users();
        let Some(online) = users.get_mut(&user.id) else { return };
        if read_at.is_some_and(|read_at| read_at != online.version) {
            return;
        }
        online.version += 1;
        online.user = user.clone();
        // Under the lock, so that no connection enters a room with a name that was just given up.
        self.0.presence.rename(user);
    }

    /// Tells the other users that a user starts or stops typing in a room, unless they know.
    pub(super) fn signal_typing(&self, room: RoomName, id: &UserId, typing: bool) {
        if let Some(user) = self.online(id) {
            self.0.presence.types(room, user, typing);
        }
    }

    /// The user's profile; a new user is a guest.
    pub(super) async fn profile(&self, id: &UserId) -> Result<User, ReadError> {
        let known = self.0.store.profiles.profile(id.clone()).await?;
        Ok(known.unwrap_or_else(|| User::guest(id.clone())))
    }

    /// Called when a connection of this user begins. The user is online before the profile is read,
    /// so that a change reported meanwhile is known to be newer than the profile read.
    pub(super) async fn register(&self, id: &UserId) {
        let version = {
            let mut users = self.users();
            let new = || OnlineUser { user: User::guest(id.clone()), connections: 0, version: 0 };
            let online = users.entry(id.clone()).or_insert_with(new);
            online.connections += 1;
            online.version
        };
        if version > 0 {
            self.mark_known(id).await;
            return;
        }
        match tokio::join!(self.profile(id), self.mark_known(id)).0 {
            Ok(user) => self.apply_profile(&user, Some(version)),
            // The user is a guest until its next connection, which reads the profile again.
            Err(error) => tracing::debug!(%error, "a profile cannot be read"),
        }
    }

    pub(super) fn unregister(&self, id: &UserId) {
        let mut users = self.users();
        if let Some(online) = users.get_mut(id) {
            online.connections -= 1;
            if online.connections == 0 {
                users.remove(id);
            }
        }
    }

    /// Records that the user was here, so that others can write to it. Returns whether that worked.
    async fn mark_known(&self, id: &UserId) -> bool {
        let marked = self.0.store.inbox.mark_read(id.clone(), RoomName::personal(id), 0).await;
        marked.inspect_err(|error| tracing::debug!(%error, "a user is not stored yet")).is_ok()
    }

    /// The store was unreachable, and may have lost which users were here.
    pub(super) fn register_again(&self) {
        let number = self.0.registrations.fetch_add(1, Ordering::Relaxed) + 1;
        let chat = self.clone();
        self.0.tasks.spawn("register again", async move {
            let everybody: Vec<UserId> = chat.users().keys().cloned().collect();
            for id in everybody {
                // Events may work again before writes do.
                while chat.online(&id).is_some() && !chat.mark_known(&id).await {
                    tokio::select! {
                        () = sleep(REGISTER_AGAIN_AFTER) => {}
                        () = chat.0.tasks.stopping() => return,
                    }
                }
                // The store was unreachable again, and a newer task does the same work.
                if chat.0.registrations.load(Ordering::Relaxed) != number {
                    return;
                }
            }
        });
    }

    pub(super) fn users(&self) -> MutexGuard<'_, HashMap<UserId, OnlineUser>> {
        self.0.users.lock()
    }
}
