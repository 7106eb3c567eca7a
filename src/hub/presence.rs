//! Who is in which room, for those on this node: edges go out to the bus, steps come in, and what
//! they change is told at most every 100 ms.
//!
//! A user counts once however many connections he has. A connection that was lost, and not ended
//! by its client, counts for a while longer, so that coming back shows nothing.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    bus::{Bus, people::Signal},
    domain::{
        name::{RoomName, UserId},
        roster::{Applied, Change, LISTED_MAX, Roster, Snapshot, Step},
        user::User,
    },
    fanout::{
        dialect::{Dialect, Event},
        recent::Recent,
        teller::Teller,
    },
    shutdown::Tasks,
};

/// How long a lost connection still counts.
const GRACE: Duration = Duration::from_secs(10);
/// Least time between two events about one room's people.
const TOLD_EVERY: Duration = Duration::from_millis(100);
/// How long `typing` holds unless it is said again.
const TYPING_FOR: Duration = Duration::from_secs(5);
/// Least time between two signals that the same user types in the same room.
const TYPING_EVERY: Duration = Duration::from_secs(2);
/// A roster that could not be read is read again after this time.
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
    bus: Arc<dyn Bus>,
    recent: Recent,
    tasks: Tasks,
    state: Mutex<State>,
    work: Notify,
    read: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Connections of one user in one room.
    tabs: HashMap<(RoomName, UserId), u32>,
    rooms: HashMap<RoomName, Held>,
    /// Connections that were lost, and when they stop counting. Oldest first.
    lost: VecDeque<(Instant, RoomName, UserId)>,
    typing: HashMap<(RoomName, UserId), Typing>,
    /// When this node told the others last that somebody types.
    said_typing: HashMap<(RoomName, UserId), Instant>,
    /// Rooms whose roster must be read, and not before when.
    unread: Vec<(Instant, RoomName)>,
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
    /// What the clients have not been told yet.
    change: Option<Change>,
}

#[derive(Debug)]
struct Typing {
    user: User,
    until: Instant,
}

impl Presence {
    pub fn new(bus: Arc<dyn Bus>, recent: Recent, tasks: Tasks) -> Self {
        Self(Arc::new(Inner {
            bus,
            recent,
            tasks,
            state: Mutex::default(),
            work: Notify::new(),
            read: Notify::new(),
        }))
    }

    /// A connection of this user is in the room.
    pub fn enter(&self, room: &RoomName, user: &User) {
        let mut state = self.state();
        let tabs = state.tabs.entry((room.clone(), user.id.clone())).or_default();
        *tabs += 1;
        if *tabs > 1 {
            return;
        }
        let held = state.rooms.entry(room.clone()).or_default();
        held.users += 1;
        if held.users == 1 {
            state.unread.push((Instant::now(), room.clone()));
        }
        drop(state);
        self.0.bus.attend(room.clone(), user.clone());
        self.0.work.notify_one();
    }

    /// A connection of this user is in the room no more, and its client wanted that.
    pub fn leave(&self, room: &RoomName, user: &UserId) {
        self.state().leave(room, user, self.0.bus.as_ref());
    }

    /// The same for one that was lost: it may come back.
    pub fn lost(&self, room: &RoomName, user: &UserId) {
        let until = Instant::now() + GRACE;
        self.state().lost.push_back((until, room.clone(), user.clone()));
        self.0.work.notify_one();
    }

    /// A user has another name or picture.
    pub fn rename(&self, user: &User) {
        let mut state = self.state();
        let rooms: Vec<RoomName> = state
            .tabs
            .keys()
            .filter(|(_, known)| *known == user.id)
            .map(|(room, _)| room.clone())
            .collect();
        state.renamed(user);
        // Under the lock, as a leave is: a late word would count him for ever.
        for room in rooms {
            self.0.bus.attend(room, user.clone());
        }
    }

    /// This user types, or stops. `false`: nobody needs to hear it again.
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
    pub fn hear(&self, signal: Signal) {
        let mut state = self.state();
        if state.heard.len() == HEARD_MAX {
            state.heard.clear();
            tracing::warn!(max = HEARD_MAX, "dropped signals that came too fast");
            drop(state);
            (0..self.0.bus.partitions()).for_each(|partition| self.doubt(partition));
            return;
        }
        state.heard.push(signal);
        drop(state);
        self.0.work.notify_one();
    }

    async fn act_on(&self, signal: Signal, teller: &Teller) {
        match signal {
            Signal::Presence { room, version, joined, left, count } => {
                self.step(&room, Step { version, joined, left, count });
            }
            Signal::Typing { room, user, typing } => {
                if teller.reaches(&room, Dialect::Native) && self.hear_typing(&room, &user, typing)
                {
                    tell_typing(teller, &room, &user, typing).await;
                }
            }
            Signal::Read { user, room, seq } => {
                let event = Event::read(&room, &user, seq);
                teller.audience(&room, Dialect::Native, &event).await;
            }
            Signal::Profile { user } => {
                let rooms = self.state().renamed(&user);
                for room in rooms {
                    teller.only(&room, Dialect::Native, &Event::profile(&user)).await;
                }
            }
        }
    }

    /// Signals of this partition may have been missed.
    pub fn doubt(&self, partition: u16) {
        let now = Instant::now();
        let mut state = self.state();
        let State { rooms, unread, .. } = &mut *state;
        for (room, held) in rooms.iter_mut() {
            if self.0.bus.partition(room) == partition {
                held.roster.doubt();
                unread.push((now, room.clone()));
            }
        }
        drop(state);
        self.0.work.notify_one();
    }

    /// Waits until the roster of a room is known, but not for long.
    pub async fn known(&self, room: &RoomName) {
        let known = async {
            loop {
                let read = self.0.read.notified();
                if self.state().rooms.get(room).is_none_or(|held| held.is_known) {
                    return;
                }
                read.await;
            }
        };
        if timeout(READ_MAX, known).await.is_err() {
            tracing::debug!(%room, "the roster of a room is not known yet");
        }
    }

    /// How many people are in a room and, if not too many, who: what its clients have been told.
    pub fn members(&self, room: &RoomName) -> Option<(u32, Vec<User>)> {
        let state = self.state();
        let held = state.rooms.get(room).filter(|held| held.is_known)?;
        let untold = held.change.as_ref();
        let joined = |user: &User| untold.is_some_and(|change| change.has_joined(&user.id));
        let mut users: Vec<User> =
            held.roster.users().filter(|user| !joined(user)).cloned().collect();
        users.extend(untold.into_iter().flat_map(Change::left).cloned());
        Some((held.roster.count(), users))
    }

    fn step(&self, room: &RoomName, step: Step) {
        let mut state = self.state();
        let Some(held) = state.rooms.get_mut(room) else { return };
        match held.roster.apply(step) {
            Applied::Changed(change) => held.tell(change),
            Applied::Known => return,
            Applied::Missing => state.unread.push((Instant::now(), room.clone())),
        }
        drop(state);
        self.0.work.notify_one();
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

    pub async fn run(self, teller: Teller) {
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
                self.act_on(signal, &teller).await;
            }
            self.end_what_is_over(&teller).await;
            self.read_rosters().await;
            self.tell_changes(&teller).await;
        }
    }

    async fn end_what_is_over(&self, teller: &Teller) {
        let now = Instant::now();
        let silent = {
            let mut state = self.state();
            while let Some((until, ..)) = state.lost.front()
                && *until <= now
                && let Some((_, room, user)) = state.lost.pop_front()
            {
                state.leave(&room, &user, self.0.bus.as_ref());
            }
            state.said_typing.retain(|_, said| *said + TYPING_FOR > now);
            let over = |_: &(RoomName, UserId), typing: &mut Typing| typing.until <= now;
            state.typing.extract_if(over).collect::<Vec<_>>()
        };
        for ((room, _), typing) in silent {
            tell_typing(teller, &room, &typing.user, false).await;
        }
    }

    async fn read_rosters(&self) {
        let now = Instant::now();
        let due: BTreeSet<RoomName> = {
            let mut state = self.state();
            let due = state.unread.extract_if(.., |(at, _)| *at <= now);
            due.map(|(_, room)| room).collect()
        };
        for room in due {
            match self.0.bus.members(room.clone(), LISTED_MAX).await {
                Ok(read) => {
                    let mut state = self.state();
                    let Some(held) = state.rooms.get_mut(&room) else { continue };
                    let (version, count, users) = (read.version, read.count, read.users);
                    if let Applied::Changed(change) =
                        held.roster.replace(Snapshot { version, count, users })
                    {
                        // Nobody was told anything of a room that was not known.
                        if held.is_known {
                            held.tell(change);
                        }
                    }
                    held.is_known = true;
                }
                Err(error) => {
                    tracing::debug!(%room, %error, "a roster is read again later");
                    self.state().unread.push((now + READ_AGAIN_AFTER, room));
                }
            }
        }
        self.0.read.notify_waiters();
    }

    /// At the seam: whoever joins is told the roster as of before or after this, never between.
    async fn tell_changes(&self, teller: &Teller) {
        let _seam = self.0.recent.seam().await;
        let changes: Vec<(RoomName, Change)> = {
            let mut state = self.state();
            let changed = state.rooms.iter_mut();
            changed.filter_map(|(room, held)| Some((room.clone(), held.change.take()?))).collect()
        };
        for (room, change) in changes.iter().filter(|(_, change)| !change.is_empty()) {
            teller.only(room, Dialect::Native, &Event::presence(room, change)).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn tell_typing(teller: &Teller, room: &RoomName, user: &User, typing: bool) {
    teller.others(room, Dialect::Native, &user.id, &Event::typing(room, user, typing)).await;
}

impl Held {
    fn tell(&mut self, change: Change) {
        match &mut self.change {
            Some(untold) => untold.merge(change),
            None => self.change = Some(change),
        }
    }
}

impl State {
    fn leave(&mut self, room: &RoomName, user: &UserId, bus: &dyn Bus) {
        let key = (room.clone(), user.clone());
        let Some(tabs) = self.tabs.get_mut(&key) else { return };
        *tabs -= 1;
        if *tabs > 0 {
            return;
        }
        self.tabs.remove(&key);
        if let Some(held) = self.rooms.get_mut(room) {
            held.users -= 1;
            if held.users == 0 {
                self.rooms.remove(room);
            }
        }
        bus.unattend(room.clone(), user.clone());
    }

    /// The rooms on this node in which a user is listed, with his new name from now on.
    fn renamed(&mut self, user: &User) -> Vec<RoomName> {
        let mut rooms = self.rooms.iter_mut();
        let mut listed = Vec::new();
        for (room, held) in &mut rooms {
            if held.roster.rename(user) {
                listed.push(room.clone());
            }
            if let Some(change) = &mut held.change {
                change.rename(user);
            }
        }
        listed
    }

    /// When there is something to do next.
    fn next(&self) -> Option<Instant> {
        let lost = self.lost.front().map(|(until, ..)| *until);
        let typing = self.typing.values().map(|typing| typing.until).min();
        let unread = self.unread.iter().map(|(at, _)| *at).min();
        let untold = self.rooms.values().any(|held| held.change.is_some());
        let now = untold.then(Instant::now);
        [lost, typing, unread, now].into_iter().flatten().min()
    }
}
