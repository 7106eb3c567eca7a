//! Carries out presence on this node: sends joins and leaves to the store, takes signals from it,
//! and emits the changes to clients in batches.
//!
//! `domain::presence` decides who counts and which events are emitted. This file has the lock, the
//! tasks and the calls. A user counts once, however many connections it has.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::{Notify, futures::OwnedNotified},
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    delivery::{broadcaster::Broadcaster, replay::ReplayBuffer},
    dialects::dialect::LiveEvent,
    domain::{
        name::UserId,
        presence::{PresenceSettings, PresenceState, TypingChange},
        record::PassedEvent,
        room::{RoomKind, RoomName},
        roster::{LISTED_MAX, RosterSnapshot, RosterStep},
        user::User,
        visibility::audience,
    },
    shutdown::Tasks,
    store::{
        Store,
        presence::{Members, Signal},
    },
};

/// Rosters that are read at a time.
const READS_AT_ONCE: usize = 16;
/// Pause before a roster that could not be read is read again. It keeps its place among the reads
/// until then: if one roster cannot be read, most others cannot either.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Signals that may wait to be emitted.
const SIGNALS_MAX: usize = 65_536;
/// Accounts that are listed as online; of more, clients keep the last list.
const ONLINE_ACCOUNTS_MAX: u32 = 5_000;
const ONLINE_ACCOUNTS_EVERY: Duration = Duration::from_secs(1);
/// How long a join waits for the roster.
const READ_MAX: Duration = Duration::from_secs(2);

/// A clonable handle.
#[derive(Debug, Clone)]
pub struct Presence(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    replay: ReplayBuffer,
    tasks: Tasks,
    settings: PresenceSettings,
    shared: Mutex<Shared>,
    /// Wakes the task that emits changes.
    work: Notify,
    /// Wakes the task that reads rosters.
    asked: Notify,
    /// Wakes the task that tells which accounts are online.
    accounts: Notify,
}

#[derive(Debug)]
struct Shared {
    state: PresenceState,
    /// Joins that wait until the roster of a room is known.
    waiting: HashMap<RoomName, Arc<Notify>>,
    /// Read marks that were not emitted to clients yet.
    reads: Vec<(UserId, RoomName, u64)>,
    /// Events that were not passed on to clients yet.
    passed: Vec<PassedEvent>,
}

impl Presence {
    pub fn new(
        store: Store,
        replay: ReplayBuffer,
        tasks: Tasks,
        settings: PresenceSettings,
    ) -> Self {
        let state = PresenceState::new(settings);
        let (waiting, reads, passed) = (HashMap::new(), Vec::new(), Vec::new());
        let shared = Mutex::new(Shared { state, waiting, reads, passed });
        let (work, asked, accounts) = (Notify::new(), Notify::new(), Notify::new());
        Self(Arc::new(Inner { store, replay, tasks, settings, shared, work, asked, accounts }))
    }

    /// A connection of this user is in the room.
    pub fn enter(&self, room: &RoomName, user: &User) {
        // The store is called under the lock: a late `add` would count the user for ever.
        let mut shared = self.shared();
        if shared.state.enter(room, &user.id) {
            self.0.store.presence.add(room.clone(), user.clone());
            self.0.asked.notify_one();
        }
    }

    /// A connection of this user has left the room because its client asked to.
    pub fn leave(&self, room: &RoomName, user: &UserId) {
        let mut shared = self.shared();
        if shared.state.leave(room, user) {
            self.0.store.presence.remove(room.clone(), user.clone());
            shared.wake(room);
        }
    }

    /// A connection of this user in the room was lost. It may come back.
    pub fn lost(&self, room: &RoomName, user: &UserId) {
        self.shared().state.lost(room, user, now());
        self.0.work.notify_one();
    }

    /// A user of this node has another name or picture.
    pub fn rename(&self, user: &User) {
        let mut shared = self.shared();
        for room in shared.state.rename(user) {
            self.0.store.presence.add(room, user.clone());
        }
    }

    /// A user of this node starts or stops typing. Other nodes are told, unless they know it.
    pub fn types(&self, room: RoomName, user: User, typing: bool) {
        let change = TypingChange { room, user, typing };
        let mut shared = self.shared();
        if shared.state.types(change.clone(), now()) {
            self.publish(change);
        } else {
            self.0.work.notify_one();
        }
    }

    fn publish(&self, TypingChange { room, user, typing }: TypingChange) {
        self.0.store.presence.publish(Signal::Typing { room, user, typing });
    }

    /// Handles a signal of a node, this one included.
    pub fn on_event(&self, signal: Signal) {
        let mut shared = self.shared();
        let waiting = shared.state.signals_waiting() + shared.reads.len() + shared.passed.len();
        match signal {
            Signal::Presence { room, version, joined, left, count } => {
                if room.kind() == RoomKind::Accounts {
                    self.ask_online_accounts();
                }
                shared.state.step(&room, RosterStep { version, joined, left, count });
                shared.wake(&room);
                self.0.asked.notify_one();
            }
            // A dropped signal of this kind does no harm: the next one repeats it, and no state
            // depends on it.
            _ if waiting >= SIGNALS_MAX => {
                return tracing::warn!(max = SIGNALS_MAX, "dropped a signal that came too fast");
            }
            Signal::Typing { room, user, typing } => {
                shared.state.hear_typing(TypingChange { room, user, typing });
            }
            Signal::Profile { user } => shared.state.hear_profile(&user),
            Signal::Read { user, room, seq } => shared.reads.push((user, room, seq)),
            Signal::Event(passed) => shared.passed.push(*passed),
        }
        drop(shared);
        self.0.work.notify_one();
    }

    /// Signals of this partition may have been missed.
    pub fn invalidate(&self, partition: u16) {
        let log = &self.0.store.log;
        self.shared().state.invalidate(|room| log.partition(room) == partition);
        self.ask_online_accounts();
        self.0.asked.notify_one();
    }

    /// Waits until the roster of a room is known, but not for long.
    pub async fn known(&self, room: &RoomName) {
        if let Some(known) = self.still_unknown(room)
            && timeout(READ_MAX, known).await.is_err()
        {
            tracing::debug!(%room, "the roster of a room is not known yet");
        }
    }

    fn still_unknown(&self, room: &RoomName) -> Option<OwnedNotified> {
        let mut shared = self.shared();
        if !shared.state.is_unknown(room) {
            return None;
        }
        let known = shared.waiting.entry(room.clone()).or_default();
        Some(Arc::clone(known).notified_owned())
    }

    /// The number of users in a room and, unless there are too many, which ones: as the room's
    /// clients were told. If that is not known, the next event has all of them.
    pub fn members(&self, room: &RoomName) -> Option<(u32, Vec<User>)> {
        self.shared().state.members(room)
    }

    /// The accounts that are online may have changed, or a client does not know them yet.
    pub fn ask_online_accounts(&self) {
        self.0.accounts.notify_one();
    }

    /// Tells the clients of this node which accounts are online: at most once a second.
    pub async fn tell_online_accounts(self, broadcaster: Broadcaster) {
        let (tasks, room) = (self.0.tasks.clone(), RoomName::accounts());
        loop {
            tokio::select! {
                () = tasks.stopping() => return,
                () = self.0.accounts.notified() => {}
            }
            if broadcaster.is_heard(&room) {
                match self.0.store.presence.members(room.clone(), ONLINE_ACCOUNTS_MAX).await {
                    // Of more, none are listed.
                    Ok(Members { count, users, .. }) if count as usize == users.len() => {
                        let ids: Vec<UserId> = users.into_iter().map(|user| user.id).collect();
                        let event = LiveEvent::OnlineAccounts(&ids);
                        broadcaster.live(std::slice::from_ref(&room), None, &event).await;
                    }
                    Ok(_) => tracing::debug!("too many accounts are online to list them"),
                    Err(error) => {
                        tracing::debug!(%error, "it is not known which accounts are online");
                        self.ask_online_accounts();
                    }
                }
            }
            tokio::select! {
                () = tasks.stopping() => return,
                () = sleep(ONLINE_ACCOUNTS_EVERY) => {}
            }
        }
    }

    /// Emits changes to the clients, in batches.
    pub async fn run(self, broadcaster: Broadcaster) {
        let tasks = self.0.tasks.clone();
        loop {
            let next = self.shared().state.next(now());
            let next = next.map(Instant::from_std);
            tokio::select! {
                () = tasks.stopping() => return,
                () = self.0.work.notified() => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
            // Changes that come within this time are emitted together.
            tokio::select! {
                () = tasks.stopping() => return,
                () = sleep(self.0.settings.told_every) => {}
            }
            self.end_grace();
            let unpublished = self.shared().state.take_unpublished(now());
            unpublished.into_iter().for_each(|change| self.publish(change));
            self.tell_signals(&broadcaster).await;
            self.tell_changes(&broadcaster).await;
        }
    }

    fn end_grace(&self) {
        let mut shared = self.shared();
        for (room, user) in shared.state.end_grace(now()) {
            shared.wake(&room);
            self.0.store.presence.remove(room, user);
        }
    }

    async fn tell_signals(&self, broadcaster: &Broadcaster) {
        let (reads, passed, profiles, typing) = {
            let mut shared = self.shared();
            let has_clients = |room: &RoomName| broadcaster.reaches(room);
            let typing = shared.state.take_typing(now(), has_clients);
            let reads = std::mem::take(&mut shared.reads);
            let passed = std::mem::take(&mut shared.passed);
            (reads, passed, shared.state.take_profiles(), typing)
        };
        for passed in passed {
            broadcaster.passed_on(&passed).await;
        }
        for (user, room, seq) in reads {
            let event = LiveEvent::Read { room: &room, user: &user, seq };
            broadcaster.live(&audience(&room).collect::<Vec<_>>(), None, &event).await;
        }
        for (user, rooms) in profiles {
            broadcaster.live(&rooms, None, &LiveEvent::Profile(&user)).await;
        }
        for TypingChange { room, user, typing } in typing {
            let event = LiveEvent::Typing { room: &room, user: &user, typing };
            let rooms: Vec<RoomName> = audience(&room).collect();
            broadcaster.live(&rooms, Some(&user.id), &event).await;
        }
    }

    /// Runs at the cutover: a joining client gets the roster from either before or after this.
    async fn tell_changes(&self, broadcaster: &Broadcaster) {
        if !self.shared().state.has_changes() {
            return;
        }
        let _cutover = self.0.replay.cutover().await;
        let changes = self.shared().state.take_changes();
        for (room, change) in &changes {
            let event = LiveEvent::Presence { room, change };
            broadcaster.live(std::slice::from_ref(room), None, &event).await;
        }
    }

    /// Reads the rosters that must be read, in the order of the requests. A room whose roster
    /// cannot be read delays no other room.
    pub async fn read_rosters(self) {
        let next = async |()| Some((self.next_roster_to_read().await, ()));
        let reading = stream::unfold((), next)
            .for_each_concurrent(READS_AT_ONCE, |(room, number)| self.read_roster(room, number));
        tokio::select! {
            () = reading => {}
            () = self.0.tasks.stopping() => {}
        }
    }

    async fn next_roster_to_read(&self) -> (RoomName, u64) {
        loop {
            if let Some(next) = self.shared().state.next_roster_to_read() {
                return next;
            }
            self.0.asked.notified().await;
        }
    }

    async fn read_roster(&self, room: RoomName, number: u64) {
        match self.0.store.presence.members(room.clone(), LISTED_MAX).await {
            Ok(Members { version, count, users }) => {
                let mut shared = self.shared();
                shared.state.learn(&room, number, RosterSnapshot { version, count, users });
                shared.wake(&room);
                self.0.work.notify_one();
            }
            Err(error) => {
                tracing::debug!(%room, %error, "a roster cannot be read; trying again later");
                sleep(READ_AGAIN_AFTER).await;
                self.shared().state.ask(&room);
            }
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.0.shared.lock()
    }
}

impl Shared {
    /// Wakes the joins that wait for this room, if its roster is known or no user of this node is
    /// in it any more.
    fn wake(&mut self, room: &RoomName) {
        if !self.state.is_unknown(room)
            && let Some(waiting) = self.waiting.remove(room)
        {
            waiting.notify_waiters();
        }
    }
}

/// The clock of the runtime, which tests can pause.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}
