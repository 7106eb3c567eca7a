//! Which users of this node are in which room, who types there, and what of it the clients have
//! not been told yet.
//!
//! Nothing here awaits, locks or reads a clock: `now` comes in, what the caller must do goes out.
//! No operation for one user or one room looks at the other rooms of the node, because a node can
//! hold tens of thousands of them. Only `invalidate`, which is rare, does.

mod expiring;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque, hash_map::Entry},
    time::{Duration, Instant},
};

use crate::domain::{
    name::UserId,
    presence::expiring::Expiring,
    room::RoomName,
    roster::{LISTED_MAX, Roster, RosterChange, RosterSnapshot, RosterStep, RosterUpdate},
    user::User,
};

/// The times of presence. Tests make them short.
#[derive(Debug, Clone, Copy)]
pub struct PresenceSettings {
    /// How long a lost connection still counts.
    pub grace: Duration,
    /// Least time between two events about the users of one room, or about one user who types.
    pub told_every: Duration,
    /// How long `typing` holds unless it is repeated.
    pub typing_for: Duration,
    /// Least time between two signals that the same user types in the same room.
    pub typing_every: Duration,
}

impl Default for PresenceSettings {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(10),
            told_every: Duration::from_millis(100),
            typing_for: Duration::from_secs(5),
            typing_every: Duration::from_secs(2),
        }
    }
}

/// A user starts or stops to type in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypingChange {
    pub room: RoomName,
    pub user: User,
    pub typing: bool,
}

#[derive(Debug)]
pub struct PresenceState {
    settings: PresenceSettings,
    /// How many connections each user of this node has in each room.
    connections: HashMap<UserId, Vec<(RoomName, u32)>>,
    rooms: HashMap<RoomName, OccupiedRoom>,
    /// The rooms of this node whose roster has the user.
    listed: HashMap<UserId, HashSet<RoomName>>,
    /// Connections that were lost, and when they stop counting. Oldest first.
    lost: VecDeque<(Instant, RoomName, UserId)>,
    /// Rooms with an untold change. A room that was left and entered again may be here twice.
    changed: Vec<RoomName>,
    /// Listed users whose new profile is not told yet.
    profiles: HashMap<UserId, User>,
    /// The last signal of each user in each room that the clients have not been told yet.
    heard_typing: HashMap<(RoomName, UserId), TypingChange>,
    /// Users who type, as the clients have been told.
    typing: Expiring<User>,
    /// What this node published last about its own users.
    published: Expiring<Published>,
    /// What it publishes next, because the last signal was too recent.
    unpublished: HashMap<(RoomName, UserId), TypingChange>,
    /// Rooms whose roster must be read, by the number of the request.
    rosters_to_read: BTreeMap<u64, RoomName>,
    /// Numbers given so far, to requests and to invalidations.
    numbers: u64,
}

/// A room that a user of this node is in.
#[derive(Debug, Default)]
struct OccupiedRoom {
    /// Users of this node.
    users: u32,
    roster: Roster,
    is_known: bool,
    /// A join was answered before the roster was known: the client is told all of it later.
    is_owed: bool,
    /// Its place in `rosters_to_read`.
    asked: Option<u64>,
    /// Number of the last invalidation, or of the first entry. Reads that began before it are
    /// discarded: they may be of a store that is gone.
    valid_from_number: u64,
    /// What the clients have not been told yet.
    untold: Option<RosterChange>,
}

#[derive(Debug)]
struct Published {
    typing: bool,
    at: Instant,
}

impl PresenceState {
    pub fn new(settings: PresenceSettings) -> Self {
        Self {
            settings,
            connections: HashMap::new(),
            rooms: HashMap::new(),
            listed: HashMap::new(),
            lost: VecDeque::new(),
            changed: Vec::new(),
            profiles: HashMap::new(),
            heard_typing: HashMap::new(),
            typing: Expiring::default(),
            published: Expiring::default(),
            unpublished: HashMap::new(),
            rosters_to_read: BTreeMap::new(),
            numbers: 0,
        }
    }

    /// A connection of this user is in the room. `true`: it is the first one, and the store must
    /// be told.
    pub fn enter(&mut self, room: &RoomName, user: &UserId) -> bool {
        let own = self.connections.entry(user.clone()).or_default();
        if let Some((_, connections)) = own.iter_mut().find(|(known, _)| known == room) {
            *connections += 1;
            return false;
        }
        own.reserve_exact(1);
        own.push((room.clone(), 1));
        let occupied = self.rooms.entry(room.clone()).or_default();
        occupied.users += 1;
        if occupied.users == 1 {
            self.invalidate_room(room);
        }
        true
    }

    /// A connection of this user is no longer in the room. `true`: it was the last one, and the
    /// store must be told.
    pub fn leave(&mut self, room: &RoomName, user: &UserId) -> bool {
        let Entry::Occupied(mut own) = self.connections.entry(user.clone()) else { return false };
        let Some(at) = own.get().iter().position(|(known, _)| known == room) else { return false };
        let (_, connections) = &mut own.get_mut()[at];
        *connections -= 1;
        if *connections > 0 {
            return false;
        }
        own.get_mut().swap_remove(at);
        if own.get().is_empty() {
            own.remove();
        }
        if let Some(occupied) = self.rooms.get_mut(room) {
            occupied.users -= 1;
            if occupied.users == 0 {
                self.forget(room);
            }
        }
        true
    }

    /// The same for a connection that was lost: it counts a while longer, because its client may
    /// come back.
    pub fn lost(&mut self, room: &RoomName, user: &UserId, now: Instant) {
        self.lost.push_back((now + self.settings.grace, room.clone(), user.clone()));
    }

    /// Users who are no longer in a room, because their lost connection did not come back. The
    /// store must be told.
    pub fn end_grace(&mut self, now: Instant) -> Vec<(RoomName, UserId)> {
        let mut gone = Vec::new();
        while self.lost.front().is_some_and(|(end, ..)| *end <= now)
            && let Some((_, room, user)) = self.lost.pop_front()
        {
            if self.leave(&room, &user) {
                gone.push((room, user));
            }
        }
        gone
    }

    /// A user of this node has another name or picture. Answers the rooms that the user is in: the
    /// store must be told for each.
    pub fn rename(&mut self, user: &User) -> Vec<RoomName> {
        let own = self.connections.get(&user.id).into_iter().flatten();
        let own: Vec<RoomName> = own.map(|(room, _)| room.clone()).collect();
        for room in &own {
            if let Some(occupied) = self.rooms.get_mut(room) {
                occupied.rename(user);
            }
        }
        own
    }

    /// A user of any node has another name or picture.
    pub fn hear_profile(&mut self, user: &User) {
        let Some(listed) = self.listed.get(&user.id) else { return };
        for room in listed {
            if let Some(occupied) = self.rooms.get_mut(room) {
                occupied.rename(user);
            }
        }
        self.profiles.insert(user.id.clone(), user.clone());
    }

    /// New profiles, each with the rooms whose clients know the user.
    pub fn take_profiles(&mut self) -> Vec<(User, Vec<RoomName>)> {
        let profiles = std::mem::take(&mut self.profiles).into_values();
        let with_rooms = |user: User| {
            let listed = self.listed.get(&user.id).into_iter().flatten();
            let rooms = listed.cloned().collect();
            (user, rooms)
        };
        profiles.map(with_rooms).collect()
    }

    /// A step of a room's roster came from the store.
    pub fn step(&mut self, room: &RoomName, step: RosterStep) {
        match self.update(room, step.count, |roster| roster.apply(step)) {
            Some(RosterUpdate::Changed(change)) => {
                self.tell(room, change);
                // Only a step that has everybody changes a roster that is not known.
                self.know(room);
            }
            Some(RosterUpdate::Missing) => self.ask(room),
            Some(RosterUpdate::Known) | None => {}
        }
    }

    /// A room's roster was read. `valid_from_number` is what `next_roster_to_read` answered for it.
    pub fn learn(&mut self, room: &RoomName, valid_from_number: u64, read: RosterSnapshot) {
        let occupied =
            self.rooms.get(room).filter(|occupied| occupied.valid_from_number == valid_from_number);
        let Some(is_told) = occupied.map(|it| it.is_known || it.is_owed) else { return };
        if let Some(RosterUpdate::Changed(change)) =
            self.update(room, read.count, |roster| roster.replace(read))
            && is_told
        {
            self.tell(room, change);
        }
        self.know(room);
    }

    /// What changed in each room since this was called last.
    pub fn take_changes(&mut self) -> Vec<(RoomName, RosterChange)> {
        let changed = std::mem::take(&mut self.changed).into_iter();
        let untold = changed.filter_map(|room| {
            let change = self.rooms.get_mut(&room)?.untold.take()?;
            Some((room, change))
        });
        untold.filter(|(_, change)| !change.is_empty()).collect()
    }

    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Whether this node is in the room and its roster is not known yet.
    pub fn is_unknown(&self, room: &RoomName) -> bool {
        self.rooms.get(room).is_some_and(|occupied| !occupied.is_known)
    }

    /// How many users are in a room and, if they are not too many, which: what its clients have
    /// been told. `None`: that is not known yet, and the room's next event has all of them.
    pub fn members(&mut self, room: &RoomName) -> Option<(u32, Vec<User>)> {
        let occupied = self.rooms.get_mut(room)?;
        if !occupied.is_known {
            occupied.is_owed = true;
            return None;
        }
        let (roster, untold) = (&occupied.roster, occupied.untold.as_ref());
        let joined = |user: &User| untold.is_some_and(|change| change.has_joined(&user.id));
        let mut users: Vec<User> = roster.users().filter(|user| !joined(user)).cloned().collect();
        users.extend(untold.into_iter().flat_map(RosterChange::left).cloned());
        let (count, told) = (roster.count(), u32::try_from(users.len()).unwrap_or(u32::MAX));
        Some((if count.max(told) <= LISTED_MAX { told } else { count }, users))
    }

    /// A user of this node types, or stops. `true`: this must be published now.
    pub fn types(&mut self, change: TypingChange, now: Instant) -> bool {
        let place = (change.room.clone(), change.user.id.clone());
        let last = self.published.get(&place);
        let is_repeated = match last {
            Some(last) if last.typing == change.typing => {
                !last.typing || last.at + self.settings.typing_every > now
            }
            Some(_) => false,
            None => !change.typing,
        };
        if is_repeated {
            self.unpublished.remove(&place);
            return false;
        }
        if last.is_some_and(|last| last.at + self.settings.told_every > now) {
            self.unpublished.insert(place, change);
            return false;
        }
        self.set_published(place, change.typing, now);
        true
    }

    /// What of it must be published now, because there was no time for it before.
    pub fn take_unpublished(&mut self, now: Instant) -> Vec<TypingChange> {
        while self.published.pop_ended(now).is_some() {}
        let all = std::mem::take(&mut self.unpublished);
        for (place, change) in &all {
            self.set_published(place.clone(), change.typing, now);
        }
        all.into_values().collect()
    }

    fn set_published(&mut self, place: (RoomName, UserId), typing: bool, now: Instant) {
        self.published.set(place, now + self.settings.typing_for, Published { typing, at: now });
    }

    /// A user of any node types, or stops. The last of several such signals counts.
    pub fn hear_typing(&mut self, change: TypingChange) {
        self.heard_typing.insert((change.room.clone(), change.user.id.clone()), change);
    }

    /// What differs from what the clients have been told last, in rooms that have clients here.
    pub fn take_typing(
        &mut self,
        now: Instant,
        has_clients: impl Fn(&RoomName) -> bool,
    ) -> Vec<TypingChange> {
        let end = now + self.settings.typing_for;
        let mut untold = Vec::new();
        for (place, change) in std::mem::take(&mut self.heard_typing) {
            let was_typing = if change.typing && has_clients(&change.room) {
                self.typing.set(place, end, change.user.clone()).is_some()
            } else if !change.typing {
                self.typing.remove(&place).is_some()
            } else {
                continue;
            };
            if was_typing != change.typing {
                untold.push(change);
            }
        }
        while let Some(((room, _), user)) = self.typing.pop_ended(now) {
            untold.push(TypingChange { room, user, typing: false });
        }
        untold
    }

    /// Signals that wait to be told.
    pub fn signals_waiting(&self) -> usize {
        self.heard_typing.len() + self.profiles.len()
    }

    /// When there is something to do next.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let is_due = self.has_changes() || self.signals_waiting() + self.unpublished.len() > 0;
        let lost = self.lost.front().map(|(end, ..)| *end);
        let ends = [lost, self.typing.next_end(), self.published.next_end()];
        ends.into_iter().flatten().chain(is_due.then_some(now)).min()
    }

    /// Steps of these rooms may have been missed.
    pub fn invalidate(&mut self, is_meant: impl Fn(&RoomName) -> bool) {
        let rooms: Vec<RoomName> =
            self.rooms.keys().filter(|room| is_meant(room)).cloned().collect();
        rooms.iter().for_each(|room| self.invalidate_room(room));
    }

    fn invalidate_room(&mut self, room: &RoomName) {
        self.numbers += 1;
        if let Some(occupied) = self.rooms.get_mut(room) {
            occupied.valid_from_number = self.numbers;
            occupied.roster.invalidate();
        }
        self.ask(room);
    }

    /// The roster of this room must be read.
    pub fn ask(&mut self, room: &RoomName) {
        let Some(occupied) = self.rooms.get_mut(room) else { return };
        if occupied.asked.is_none() {
            self.numbers += 1;
            occupied.asked = Some(self.numbers);
            self.rosters_to_read.insert(self.numbers, room.clone());
        }
    }

    /// A room whose roster is to be read now, the one first that was asked for first.
    pub fn next_roster_to_read(&mut self) -> Option<(RoomName, u64)> {
        let (_, room) = self.rosters_to_read.pop_first()?;
        let occupied = self.rooms.get_mut(&room)?;
        occupied.asked = None;
        Some((room, occupied.valid_from_number))
    }

    /// Changes a room's roster, and with it the index of listed users.
    fn update(
        &mut self,
        room: &RoomName,
        count: u32,
        change: impl FnOnce(&mut Roster) -> RosterUpdate,
    ) -> Option<RosterUpdate> {
        let roster = &mut self.rooms.get_mut(room)?.roster;
        // A room that becomes too large for a list drops its users without naming them.
        let dropped: Vec<UserId> = match count > LISTED_MAX {
            true => roster.users().map(|user| user.id.clone()).collect(),
            false => Vec::new(),
        };
        let applied = change(roster);
        if let RosterUpdate::Changed(change) = &applied {
            for user in change.joined() {
                self.listed.entry(user.id.clone()).or_default().insert(room.clone());
            }
            let gone = dropped.iter().chain(change.left().map(|user| &user.id));
            for user in gone.filter(|user| !roster.lists(user)) {
                unlist(&mut self.listed, user, room);
            }
        }
        Some(applied)
    }

    fn tell(&mut self, room: &RoomName, change: RosterChange) {
        let Some(occupied) = self.rooms.get_mut(room) else { return };
        match &mut occupied.untold {
            Some(untold) => untold.merge(change),
            None => {
                occupied.untold = Some(change);
                self.changed.push(room.clone());
            }
        }
    }

    fn know(&mut self, room: &RoomName) {
        if let Some(occupied) = self.rooms.get_mut(room) {
            (occupied.is_known, occupied.is_owed) = (true, false);
        }
    }

    /// No user of this node is in the room any more.
    fn forget(&mut self, room: &RoomName) {
        let Some(occupied) = self.rooms.remove(room) else { return };
        occupied.asked.and_then(|asked| self.rosters_to_read.remove(&asked));
        for user in occupied.roster.users() {
            unlist(&mut self.listed, &user.id, room);
        }
    }
}

fn unlist(listed: &mut HashMap<UserId, HashSet<RoomName>>, user: &UserId, room: &RoomName) {
    if let Some(rooms) = listed.get_mut(user) {
        rooms.remove(room);
        if rooms.is_empty() {
            listed.remove(user);
        }
    }
}

impl OccupiedRoom {
    /// Lists a user by the new name, if the user is listed.
    fn rename(&mut self, user: &User) {
        if let Some(untold) = &mut self.untold {
            untold.rename(user);
        }
        self.roster.rename(user);
    }
}
