//! One connection's memberships in its session: its rooms, and the moment from which each is live.
//!
//! What a client is told of a room comes in two ways that never overlap: the answer to its join
//! has what lies before the position where its membership begins, events have everything after.
//! That position is stored with the session, so a recovery goes on exactly where events ended.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, Weak,
    atomic::{AtomicBool, Ordering},
};

use crate::chat::{
    Arrival, Chat, Until,
    cutover::{Cutover, JoinResult},
    told_in, wants,
};
use crate::{
    delivery::replay::Entry,
    dialects::{Dialect, Event},
    domain::{
        message::Position,
        name::{PublicId, RoomName, UserId},
    },
    store::sessions::{Holder, Joined, SessionRecord},
    transport::{Sid, connect_reply::ConnectReplyGuard},
};

/// One connection's hold on its session. The session waits for its client when this is dropped.
#[derive(Debug)]
pub struct Memberships {
    chat: Chat,
    holder: Holder,
    sid: Sid,
    dialect: Dialect,
    public_id: PublicId,
    user: UserId,
    places: Mutex<MembershipList>,
    /// One save at a time; what changes meanwhile goes into the next.
    saving: tokio::sync::Mutex<()>,
    is_stale: AtomicBool,
    _connect_reply: ConnectReplyGuard,
}

#[derive(Debug)]
struct MembershipList {
    all: Vec<Membership>,
    /// The client has said good-bye. Whoever connects next on this connection is another one, and
    /// nothing is for him.
    has_disconnected: bool,
    /// How many joins there were: a room may be left and joined again while a join is under way.
    joins: u64,
}

/// A room of a memberships.
#[derive(Debug)]
struct Membership {
    joined: Joined,
    state: MembershipState,
    /// Whether he is counted among the room's people.
    is_counted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MembershipState {
    /// Waits for the cutover after the CONNECT reply.
    Restoring,
    /// Waits for the cutover of this join.
    Joining(u64),
    /// What is delivered reaches the socket.
    Live,
}

/// What a join finds.
#[derive(Debug)]
struct Began {
    /// From where on the client hears of the room.
    since: Option<Position>,
    /// The number of the join, if the room is a new one.
    join: Option<u64>,
    /// Whether the client was told already what is said there.
    is_heard: bool,
}

impl Memberships {
    pub(super) fn new(
        chat: Chat,
        arrival: &Arrival<'_>,
        public_id: PublicId,
        holder: Holder,
        record: SessionRecord,
        connect_reply: ConnectReplyGuard,
    ) -> Arc<Self> {
        let place =
            |joined| Membership { joined, state: MembershipState::Restoring, is_counted: false };
        let all = record.rooms.into_iter().map(place).collect();
        Arc::new(Self {
            chat,
            holder,
            sid: arrival.sid,
            dialect: arrival.dialect,
            public_id,
            user: record.user,
            places: Mutex::new(MembershipList { all, has_disconnected: false, joins: 0 }),
            saving: tokio::sync::Mutex::new(()),
            is_stale: AtomicBool::new(true),
            _connect_reply: connect_reply,
        })
    }

    pub fn public_id(&self) -> &PublicId {
        &self.public_id
    }

    pub fn user(&self) -> &UserId {
        &self.user
    }

    pub fn rooms(&self) -> Vec<RoomName> {
        let places = self.places();
        let joined = places.all.iter().map(|place| &place.joined.room);
        joined.filter(|room| !room.is_personal()).cloned().collect()
    }

    /// Brings the session's rooms live.
    pub(super) fn enter(self: &Arc<Self>, until: Until) {
        self.add_presence();
        for (partition, after) in until {
            let entered = move |memberships: &Self, cutover: Cutover| {
                let is_here = |place: &Membership| {
                    place.state == MembershipState::Restoring
                        && memberships.partition(&place.joined.room) == partition
                };
                memberships.tell(&cutover, is_here);
                memberships.tell_lost(&cutover, is_here);
                memberships.go_live(is_here);
            };
            let rooms = {
                let places = self.places();
                let here = places.all.iter().map(|place| &place.joined);
                told_in(&self.public_id, here.filter(|it| self.partition(&it.room) == partition))
            };
            let (chat, memberships) = (self.chat.clone(), Arc::downgrade(self));
            self.spawn("enter", async move {
                chat.cut_over(memberships, (partition, &rooms), after, None, entered).await;
            });
        }
    }

    /// Whether the log of this room was ever reached. Once it was, that stays so.
    pub fn has_begun(&self, room: &RoomName) -> bool {
        self.chat.0.replay.position(self.partition(room)).is_some()
    }

    /// Adds a room, whose log has begun. `told` is called when the session is stored with it, and
    /// with what was delivered there after `after`; events go on from where that ends.
    pub fn join(
        self: &Arc<Self>,
        room: RoomName,
        after: Option<Position>,
        told: impl FnOnce(JoinResult) + Send + 'static,
    ) {
        let partition = self.partition(&room);
        let since = self.chat.0.replay.position(partition);
        let Began { since, join, is_heard } = self.places().join(&room, since);
        if join.is_some() {
            self.add_presence();
        }
        let (chat, client) = (self.chat.clone(), Arc::downgrade(self));
        let is_native = self.dialect == Dialect::Native;
        self.spawn("join", async move {
            if is_native {
                chat.0.presence.known(&room).await;
            }
            let asked = after.is_some();
            let (from, instead) = match after {
                Some(after) => (Some(after), since.clone()),
                // Nothing is asked, and everything since then came as events.
                None if is_heard => (chat.0.replay.position(partition), None),
                None => (since.clone(), None),
            };
            let mut heard = None;
            let joined = |memberships: &Self, cutover: Cutover| {
                if let Some(join) = join {
                    // Its membership begins here: had it begun earlier, what the client has heard
                    // of other rooms meanwhile would be newer than what is to come.
                    let is_here =
                        |place: &Membership| place.state == MembershipState::Joining(join);
                    memberships.begin_at(cutover.end.as_ref(), is_here);
                    memberships.go_live(is_here);
                }
                let begin = if is_heard { since } else { cutover.end.clone() };
                heard = Some(cutover.heard(&memberships.public_id, &room, begin, asked));
            };
            let here = (partition, std::slice::from_ref(&room));
            chat.cut_over(Weak::clone(&client), here, from, instead, joined).await;
            let (Some(heard), Some(memberships)) = (heard, client.upgrade()) else { return };
            memberships.save().await;
            // Between two events about people: the next goes on from what is answered.
            let _cutover = chat.0.replay.cutover().await;
            told(JoinResult { people: chat.0.presence.members(&room), ..heard });
        });
    }

    /// Delivery ends at once. `told` is called when the session is stored without the room.
    pub fn leave(self: &Arc<Self>, room: &RoomName, told: impl FnOnce() + Send + 'static) {
        {
            let mut places = self.places();
            let is_meant = |place: &mut Membership| place.joined.room == *room;
            for place in places.all.extract_if(.., is_meant) {
                if place.is_live() {
                    self.chat.0.registry.leave(self.sid, self.dialect.room(room));
                    self.chat.0.rooms.leave(room, self.dialect);
                }
                if place.is_counted {
                    self.chat.0.presence.leave(room, &self.user);
                }
            }
        }
        self.is_stale.store(true, Ordering::Release);
        let memberships = Arc::clone(self);
        self.spawn("leave", async move {
            memberships.save().await;
            told();
        });
    }

    /// Stores the session as it is. One save serves all who wait for the same state.
    pub(super) async fn save(&self) {
        let _turn = self.saving.lock().await;
        if !self.is_stale.swap(false, Ordering::AcqRel) {
            return;
        }
        let record = SessionRecord {
            user: self.user.clone(),
            rooms: self.places().begun().map(|place| place.joined.clone()).collect(),
        };
        match self.chat.0.store.sessions.save(self.public_id.clone(), self.holder, record).await {
            Ok(true) => {}
            Ok(false) => self.chat.lost(self.holder),
            // The bus repeats what failed.
            Err(error) => tracing::debug!(%error, "a session is not stored yet"),
        }
    }

    /// What comes after this is for the client, and the session is stored with it next.
    fn begin_at(&self, position: Option<&Position>, which: impl Fn(&Membership) -> bool) {
        for place in self.places().all.iter_mut().filter(|place| which(place)) {
            place.joined.since = position.cloned();
        }
        self.is_stale.store(true, Ordering::Release);
    }

    /// Sends what was delivered meanwhile in these rooms.
    fn tell(&self, cutover: &Cutover, which: impl Fn(&Membership) -> bool) {
        let registry = &self.chat.0.registry;
        let places = self.places();
        if places.has_disconnected {
            return;
        }
        let joined = || places.all.iter().filter(|place| which(place)).map(|place| &place.joined);
        let heard = |entry: &&Arc<Entry>| wants(&self.public_id, joined(), entry.message());
        for entry in cutover.entries.iter().filter(heard) {
            if let Some(event) = Event::stored(entry.message(), self.dialect) {
                registry.emit(self.sid, &event);
            }
        }
    }

    /// Says what cannot be sent any more.
    fn tell_lost(&self, cutover: &Cutover, which: impl Fn(&Membership) -> bool) {
        let (Some(lost), Some(end)) = (&cutover.lost, &cutover.end) else { return };
        let registry = &self.chat.0.registry;
        let places = self.places();
        if places.has_disconnected {
            return;
        }
        if lost.epoch != end.epoch {
            return registry.emit(self.sid, &Event::new_epoch(&end.epoch));
        }
        for place in places.all.iter().filter(|place| which(place)) {
            let gap = Event::gap(&place.joined.room, &end.epoch, lost.seq + 1, end.seq);
            registry.emit(self.sid, &gap);
        }
    }

    /// Counts the user among the people of his rooms.
    fn add_presence(&self) {
        if self.dialect != Dialect::Native {
            return;
        }
        let people = self.chat.people();
        let Some(person) = people.get(&self.user) else { return };
        let is_new =
            |place: &&mut Membership| !place.is_counted && !place.joined.room.is_personal();
        for place in self.places().all.iter_mut().filter(is_new) {
            place.is_counted = true;
            self.chat.0.presence.enter(&place.joined.room, &person.user);
        }
    }

    /// The client says good-bye: it counts no more, and does not come back soon.
    pub fn disconnect(&self) {
        let mut places = self.places();
        places.has_disconnected = true;
        self.chat.0.rooms.unseat(&self.public_id, self.holder);
        for place in places.all.iter_mut().filter(|place| place.is_counted) {
            place.is_counted = false;
            self.chat.0.presence.leave(&place.joined.room, &self.user);
        }
    }

    /// From now on what is delivered in these rooms reaches the client.
    fn go_live(&self, which: impl Fn(&Membership) -> bool) {
        let mut places = self.places();
        if places.has_disconnected {
            return;
        }
        for place in places.all.iter_mut().filter(|place| which(place)) {
            let room = &place.joined.room;
            self.chat.0.registry.join(self.sid, self.dialect.room(room));
            self.chat.0.rooms.enter(room, self.dialect);
            if room.is_personal() {
                self.chat.0.rooms.seat(&self.public_id, self.holder, self.sid);
            }
            place.state = MembershipState::Live;
        }
    }

    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let tasks = self.chat.0.tasks.clone();
        self.chat.0.tasks.spawn(name, async move {
            tokio::select! {
                () = task => {}
                () = tasks.stopping() => {}
            }
        });
    }

    fn partition(&self, room: &RoomName) -> u16 {
        self.chat.0.store.log.partition(room)
    }

    fn places(&self) -> MutexGuard<'_, MembershipList> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Memberships {
    fn drop(&mut self) {
        for place in self.places().all.iter().filter(|place| place.is_live()) {
            self.chat.0.rooms.leave(&place.joined.room, self.dialect);
        }
        for place in self.places().all.iter().filter(|place| place.is_counted) {
            self.chat.0.presence.lost(&place.joined.room, &self.user);
        }
        if self.dialect == Dialect::Native {
            self.chat.disconnect(&self.user);
            self.chat.0.rooms.unseat(&self.public_id, self.holder);
        }
        self.chat.held().remove(&self.holder);
        // A client that says good-bye and connects again has the same session id.
        let mut entering = self.chat.entering();
        if entering
            .get(&self.sid)
            .is_some_and(|(memberships, _)| std::ptr::eq(memberships.as_ptr(), self))
        {
            entering.remove(&self.sid);
        }
        drop(entering);
        self.chat.0.store.sessions.release(self.public_id.clone(), self.holder);
    }
}

impl MembershipList {
    /// Without those whose membership waits for its begin.
    fn begun(&self) -> impl Iterator<Item = &Membership> {
        self.all.iter().filter(|place| !matches!(place.state, MembershipState::Joining(_)))
    }

    fn join(&mut self, room: &RoomName, since: Option<Position>) -> Began {
        let place_in =
            |is_it: &dyn Fn(&RoomName) -> bool| self.all.iter().find(|it| is_it(&it.joined.room));
        let known = place_in(&|joined| joined == room);
        let heard = place_in(&|joined| joined.is_personal() && joined.hears(room)).or(known);
        let is_heard = heard.is_some();
        let since = heard.map_or(since, |place| place.joined.since.clone());
        if known.is_some() {
            return Began { since, join: None, is_heard };
        }
        self.joins += 1;
        let joined = Joined { room: room.clone(), since: since.clone() };
        // Most clients are in one room or two.
        self.all.reserve_exact(1);
        self.all.push(Membership {
            joined,
            state: MembershipState::Joining(self.joins),
            is_counted: false,
        });
        Began { since, join: Some(self.joins), is_heard }
    }
}

impl Membership {
    fn is_live(&self) -> bool {
        self.state == MembershipState::Live
    }
}
