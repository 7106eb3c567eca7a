//! Who is in which room, for those on this node: edges go out to the bus, steps come in, and what
//! they change is told at most every 100 ms.
//!
//! A user counts once however many connections he has. A connection that was lost, and not ended
//! by its client, counts for a while longer, so that coming back shows nothing.

use std::{
    collections::{BTreeMap, HashMap, VecDeque, hash_map::Entry as Slot},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tokio::{
    sync::{Notify, futures::OwnedNotified},
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    delivery::{broadcaster::Broadcaster, replay::ReplayBuffer},
    dialects::{Dialect, Event},
    domain::{
        name::UserId,
        room::RoomName,
        roster::{LISTED_MAX, Roster, RosterChange, RosterSnapshot, RosterStep, RosterUpdate},
        user::User,
    },
    shutdown::Tasks,
    store::{
        Store,
        presence::{Members, PresenceStore, Signal},
    },
};

/// How long a lost connection still counts.
const GRACE: Duration = Duration::from_secs(10);
/// Least time between two events about one room's people.
const TOLD_EVERY: Duration = Duration::from_millis(100);
/// How long `typing` holds unless it is said again.
const TYPING_FOR: Duration = Duration::from_secs(5);
/// Least time between two signals that the same user types in the same room.
const TYPING_EVERY: Duration = Duration::from_secs(2);
/// Rosters that are read at a time.
const READS_AT_ONCE: usize = 16;
/// A roster that could not be read is read again after this time. Until then nothing else is read in
/// its place: where one cannot be read the others mostly cannot either.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Signals that may wait to be looked at.
const HEARD_MAX: usize = 65_536;
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
    state: Mutex<State>,
    /// There is something to tell.
    work: Notify,
    /// A roster must be read.
    asked: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// How many connections each user has in each room.
    tabs: HashMap<UserId, Vec<(RoomName, u32)>>,
    rooms: HashMap<RoomName, Held>,
    /// Connections that were lost, and when they stop counting. Oldest first.
    lost: VecDeque<(Instant, RoomName, UserId)>,
    typing: HashMap<(RoomName, UserId), Typing>,
    /// When this node told the others last that somebody types.
    said_typing: HashMap<(RoomName, UserId), Instant>,
    /// Rooms whose roster must be read, by the number of the request.
    unread: BTreeMap<u64, RoomName>,
    /// Numbers given so far, to requests and to what voids their answers.
    numbers: u64,
    /// What came and was not looked at yet.
    heard: Vec<Signal>,
}

/// A room that somebody on this node is in.
#[derive(Debug, Default)]
struct Held {
    /// Users of this node.
    users: u32,
    roster: Roster,
    is_known: bool,
    /// Tells when it is, or when nobody here is in the room any more.
    known: Arc<Notify>,
    /// Somebody here was answered before the roster was known: it is told when it is.
    is_owed: bool,
    /// Its place in `unread`.
    asked: Option<u64>,
    /// Of the invalidate, or the entering, since which reads count. One that was begun before may be of
    /// a store that is gone.
    since: u64,
    /// What the clients have not been told yet.
    change: Option<RosterChange>,
}

#[derive(Debug)]
struct Typing {
    user: User,
    until: Instant,
}

impl Presence {
    pub fn new(store: Store, replay: ReplayBuffer, tasks: Tasks) -> Self {
        Self(Arc::new(Inner {
            store,
            replay,
            tasks,
            state: Mutex::default(),
            work: Notify::new(),
            asked: Notify::new(),
        }))
    }

    /// A connection of this user is in the room.
    pub fn enter(&self, room: &RoomName, user: &User) {
        let mut state = self.state();
        let own = state.tabs.entry(user.id.clone()).or_default();
        if let Some((_, tabs)) = own.iter_mut().find(|(known, _)| known == room) {
            *tabs += 1;
            return;
        }
        own.reserve_exact(1);
        own.push((room.clone(), 1));
        let held = state.rooms.entry(room.clone()).or_default();
        held.users += 1;
        if held.users == 1 {
            state.invalidate(room);
        }
        drop(state);
        self.0.store.presence.add(room.clone(), user.clone());
        self.0.asked.notify_one();
    }

    /// A connection of this user is in the room no more, and its client wanted that.
    pub fn leave(&self, room: &RoomName, user: &UserId) {
        self.state().leave(room, user, &*self.0.store.presence);
    }

    /// The same for one that was lost: it may come back.
    pub fn lost(&self, room: &RoomName, user: &UserId) {
        let until = Instant::now() + GRACE;
        self.state().lost.push_back((until, room.clone(), user.clone()));
        self.0.work.notify_one();
    }

    /// A user who is here has another name or picture.
    pub fn rename(&self, user: &User) {
        let State { tabs, rooms, .. } = &mut *self.state();
        let Some(own) = tabs.get(&user.id) else { return };
        // Under the lock, as a leave is: a late word would count him for ever.
        for (room, _) in own {
            if let Some(held) = rooms.get_mut(room) {
                held.rename(user);
            }
            self.0.store.presence.add(room.clone(), user.clone());
        }
    }

    /// This user types, or stops. `false`: nobody needs to on_event it again.
    pub fn types(&self, room: &RoomName, user: &UserId, typing: bool) -> bool {
        let key = (room.clone(), user.clone());
        let now = Instant::now();
        let mut state = self.state();
        if !typing {
            return state.said_typing.remove(&key).is_some();
        }
        let is_said = state.said_typing.get(&key).is_some_and(|said| *said + TYPING_EVERY > now);
        if !is_said {
            state.said_typing.insert(key, now);
        }
        !is_said
    }

    /// Takes what other nodes, or this one, have said. What is too much for this node is dropped,
    /// and rosters are read anew.
    pub fn on_event(&self, signal: Signal) {
        let mut state = self.state();
        if state.heard.len() == HEARD_MAX {
            state.heard.clear();
            tracing::warn!(max = HEARD_MAX, "dropped signals that came too fast");
            drop(state);
            (0..self.0.store.log.partitions()).for_each(|partition| self.invalidate(partition));
            return;
        }
        state.heard.push(signal);
        drop(state);
        self.0.work.notify_one();
    }

    async fn act_on(&self, signal: Signal, broadcaster: &Broadcaster) {
        match signal {
            Signal::Presence { room, version, joined, left, count } => {
                self.step(&room, RosterStep { version, joined, left, count });
            }
            Signal::Typing { room, user, typing } => {
                if broadcaster.reaches(&room, Dialect::Native)
                    && self.hear_typing(&room, &user, typing)
                {
                    tell_typing(broadcaster, &room, &user, typing).await;
                }
            }
            Signal::Read { user, room, seq } => {
                let event = Event::read(&room, &user, seq);
                broadcaster.audience(&room, Dialect::Native, &event).await;
            }
            Signal::Profile { user } => {
                let mut listed = Vec::new();
                for (room, held) in &mut self.state().rooms {
                    if held.rename(&user) {
                        listed.push(room.clone());
                    }
                }
                for room in listed {
                    broadcaster.only(&room, Dialect::Native, &Event::profile(&user)).await;
                }
            }
        }
    }

    /// Signals of this partition may have been missed.
    pub fn invalidate(&self, partition: u16) {
        let mut state = self.state();
        let is_meant = |room: &&RoomName| self.0.store.log.partition(room) == partition;
        let rooms: Vec<RoomName> = state.rooms.keys().filter(is_meant).cloned().collect();
        rooms.iter().for_each(|room| state.invalidate(room));
        drop(state);
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
        let state = self.state();
        let held = state.rooms.get(room).filter(|held| !held.is_known)?;
        Some(Arc::clone(&held.known).notified_owned())
    }

    /// How many people are in a room and, if not too many, who: what its clients have been told.
    /// Where that is not known the next event has all of them.
    pub fn members(&self, room: &RoomName) -> Option<(u32, Vec<User>)> {
        let mut state = self.state();
        let held = state.rooms.get_mut(room)?;
        if !held.is_known {
            held.is_owed = true;
            return None;
        }
        let untold = held.change.as_ref();
        let joined = |user: &User| untold.is_some_and(|change| change.has_joined(&user.id));
        let mut users: Vec<User> =
            held.roster.users().filter(|user| !joined(user)).cloned().collect();
        users.extend(untold.into_iter().flat_map(RosterChange::left).cloned());
        let (count, told) = (held.roster.count(), u32::try_from(users.len()).unwrap_or(u32::MAX));
        Some((if count.max(told) <= LISTED_MAX { told } else { count }, users))
    }

    fn step(&self, room: &RoomName, step: RosterStep) {
        let mut state = self.state();
        let Some(held) = state.rooms.get_mut(room) else { return };
        match held.roster.apply(step) {
            RosterUpdate::Changed(change) => {
                held.tell(change);
                // Nothing but a step that has everybody changes a roster that is not known.
                held.know();
                self.0.work.notify_one();
            }
            RosterUpdate::Known => {}
            RosterUpdate::Missing => {
                state.ask(room);
                self.0.asked.notify_one();
            }
        }
    }

    /// Whether that is news.
    fn hear_typing(&self, room: &RoomName, user: &User, typing: bool) -> bool {
        let key = (room.clone(), user.id.clone());
        let mut state = self.state();
        if typing {
            let until = Instant::now() + TYPING_FOR;
            state.typing.insert(key, Typing { user: user.clone(), until }).is_none()
        } else {
            state.typing.remove(&key).is_some()
        }
    }

    pub async fn run(self, broadcaster: Broadcaster) {
        let tasks = self.0.tasks.clone();
        loop {
            let next = self.state().next();
            tokio::select! {
                () = tasks.stopping() => return,
                () = self.0.work.notified() => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
            // Whatever else comes in this time is told together.
            tokio::select! {
                () = tasks.stopping() => return,
                () = tokio::time::sleep(TOLD_EVERY) => {}
            }
            let heard = std::mem::take(&mut self.state().heard);
            for signal in heard {
                self.act_on(signal, &broadcaster).await;
            }
            self.end_what_is_over(&broadcaster).await;
            self.tell_changes(&broadcaster).await;
        }
    }

    async fn end_what_is_over(&self, broadcaster: &Broadcaster) {
        let now = Instant::now();
        let silent = {
            let mut state = self.state();
            while let Some((until, ..)) = state.lost.front()
                && *until <= now
                && let Some((_, room, user)) = state.lost.pop_front()
            {
                state.leave(&room, &user, &*self.0.store.presence);
            }
            state.said_typing.retain(|_, said| *said + TYPING_FOR > now);
            let over = |_: &(RoomName, UserId), typing: &mut Typing| typing.until <= now;
            state.typing.extract_if(over).collect::<Vec<_>>()
        };
        for ((room, _), typing) in silent {
            tell_typing(broadcaster, &room, &typing.user, false).await;
        }
    }

    /// Reads the rosters that must be read, those first that were asked for first. What one room
    /// waits for holds up no other.
    pub async fn read_rosters(self) {
        let next = async |()| Some((self.next_unread().await, ()));
        let reading = stream::unfold((), next)
            .for_each_concurrent(READS_AT_ONCE, |(room, since)| self.read_roster(room, since));
        tokio::select! {
            () = reading => {}
            () = self.0.tasks.stopping() => {}
        }
    }

    async fn next_unread(&self) -> (RoomName, u64) {
        loop {
            if let Some(next) = self.state().next_unread() {
                return next;
            }
            self.0.asked.notified().await;
        }
    }

    async fn read_roster(&self, room: RoomName, since: u64) {
        match self.0.store.presence.members(room.clone(), LISTED_MAX).await {
            Ok(read) => self.know(&room, since, read),
            Err(error) => {
                tracing::debug!(%room, %error, "a roster is read again later");
                sleep(READ_AGAIN_AFTER).await;
                self.state().ask(&room);
            }
        }
    }

    /// A roster has been read.
    fn know(&self, room: &RoomName, since: u64, read: Members) {
        let mut state = self.state();
        let held = state.rooms.get_mut(room).filter(|held| held.since == since);
        let Some(held) = held else { return };
        let Members { version, count, users } = read;
        if let RosterUpdate::Changed(change) =
            held.roster.replace(RosterSnapshot { version, count, users })
        {
            // Otherwise nobody was told anything of it.
            if held.is_known || held.is_owed {
                held.tell(change);
            }
        }
        held.know();
        self.0.work.notify_one();
    }

    /// At the cutover: whoever joins is told the roster as of before or after this, never between.
    async fn tell_changes(&self, broadcaster: &Broadcaster) {
        let _cutover = self.0.replay.cutover().await;
        let changes: Vec<(RoomName, RosterChange)> = {
            let mut state = self.state();
            let changed = state.rooms.iter_mut();
            changed.filter_map(|(room, held)| Some((room.clone(), held.change.take()?))).collect()
        };
        for (room, change) in changes.iter().filter(|(_, change)| !change.is_empty()) {
            broadcaster.only(room, Dialect::Native, &Event::presence(room, change)).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn tell_typing(broadcaster: &Broadcaster, room: &RoomName, user: &User, typing: bool) {
    broadcaster.others(room, Dialect::Native, &user.id, &Event::typing(room, user, typing)).await;
}

impl Held {
    fn know(&mut self) {
        (self.is_known, self.is_owed) = (true, false);
        self.known.notify_waiters();
    }

    /// Lists a user by his new name, if he is listed.
    fn rename(&mut self, user: &User) -> bool {
        if let Some(change) = &mut self.change {
            change.rename(user);
        }
        self.roster.rename(user)
    }

    fn tell(&mut self, change: RosterChange) {
        match &mut self.change {
            Some(untold) => untold.merge(change),
            None => self.change = Some(change),
        }
    }
}

impl State {
    /// The roster of this room is read, sooner or later.
    fn ask(&mut self, room: &RoomName) {
        let Some(held) = self.rooms.get_mut(room) else { return };
        if held.asked.is_none() {
            self.numbers += 1;
            held.asked = Some(self.numbers);
            self.unread.insert(self.numbers, room.clone());
        }
    }

    /// The same, and whatever is being read of it counts no more.
    fn invalidate(&mut self, room: &RoomName) {
        self.numbers += 1;
        if let Some(held) = self.rooms.get_mut(room) {
            held.since = self.numbers;
            held.roster.invalidate();
        }
        self.ask(room);
    }

    /// A room whose roster is to be read now, and since when that counts.
    fn next_unread(&mut self) -> Option<(RoomName, u64)> {
        let (_, room) = self.unread.pop_first()?;
        let held = self.rooms.get_mut(&room)?;
        held.asked = None;
        Some((room, held.since))
    }

    fn leave(&mut self, room: &RoomName, user: &UserId, store: &dyn PresenceStore) {
        let Slot::Occupied(mut own) = self.tabs.entry(user.clone()) else { return };
        let Some(at) = own.get().iter().position(|(known, _)| known == room) else { return };
        let (_, tabs) = &mut own.get_mut()[at];
        *tabs -= 1;
        if *tabs > 0 {
            return;
        }
        own.get_mut().swap_remove(at);
        if own.get().is_empty() {
            own.remove();
        }
        if let Some(held) = self.rooms.get_mut(room) {
            held.users -= 1;
            if held.users == 0
                && let Some(held) = self.rooms.remove(room)
            {
                held.known.notify_waiters();
                held.asked.and_then(|asked| self.unread.remove(&asked));
            }
        }
        store.remove(room.clone(), user.clone());
    }

    /// When there is something to do next.
    fn next(&self) -> Option<Instant> {
        let lost = self.lost.front().map(|(until, ..)| *until);
        let typing = self.typing.values().map(|typing| typing.until).min();
        let untold = self.rooms.values().any(|held| held.change.is_some());
        let now = untold.then(Instant::now);
        [lost, typing, now].into_iter().flatten().min()
    }
}
