//! Performs what sessions decide about rooms: who takes up which session, and what he missed.
//!
//! A client that comes back gets what it missed in three pieces that fit: with its CONNECT reply
//! what was delivered until then, after it what came while it was being answered, and then it is
//! live. The last two register at the cutover of `replay`, so nothing is lost or shown twice.

mod cutover;
mod memberships;
mod presence;
#[cfg(test)]
mod tests;
mod users;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::timeout,
};

pub use crate::chat::{cutover::JoinResult, memberships::Memberships};
use crate::chat::{presence::Presence, users::OnlineUser};
use crate::{
    delivery::{
        broadcaster::Broadcaster,
        replay::{Entry, Missed, ReplayBuffer, TooOld},
        rooms::Rooms,
    },
    dialects::Dialect,
    domain::{
        message::{Message, Position},
        name::{PublicId, RoomName, UserId},
    },
    shutdown::Tasks,
    store::{
        NodeEvent, NodeEvents, ReadError, Store,
        presence::Signal,
        sessions::{Holder, Joined, SessionKey, SessionRecord},
    },
    transport::{Sid, connect_reply::ConnectReply, registry::Registry},
};

/// What one client is told of what it missed, in bytes; whoever missed more begins anew.
const MISSED_BYTES_MAX: usize = 16 << 20;
/// The same for all clients that have not taken it yet, in KiB.
const MISSED_KIB_MAX: usize = 128 << 10;
/// How long a client waits for its disconnect of that; then it must come again.
const MISSED_WAIT_MAX: Duration = Duration::from_secs(5);
/// Clients that are admitted at a time. When those of a dead node come all at once, the others wait
/// here, where they cost next to nothing, and live traffic goes on.
const ADMISSIONS_MAX: usize = 64;
/// Clients that wait for the cutover at a time: the relay waits in one line with them.
const CUTOVERS_MAX: usize = 16;

/// What a returning client says.
#[derive(Debug)]
pub struct Returning {
    pub key: SessionKey,
    /// The last event that it has; `None`: it has none.
    pub offset: Option<Position>,
}

/// A client that wants to come in.
pub struct Arrival<'a> {
    pub sid: Sid,
    pub dialect: Dialect,
    pub returning: Option<Returning>,
    /// Who he is, in a session of this key.
    pub user: &'a (dyn Fn(&SessionKey) -> UserId + Sync),
    /// Where he is when he begins.
    pub rooms: &'a [RoomName],
    /// Whether his connection is still there.
    pub is_here: &'a (dyn Fn() -> bool + Sync),
}

impl fmt::Debug for Arrival<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival").field("returning", &self.returning).finish_non_exhaustive()
    }
}

/// What is kept for connections, to see that it goes with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Sessions that connections of this node hold.
    pub seats: usize,
    /// Of these, the ones whose client is being told that it is connected.
    pub entering: usize,
    /// Clients whose CONNECT reply has not passed yet.
    pub connect_replies: usize,
    /// Rooms that somebody here is in.
    pub rooms: usize,
    /// Sessions that are reached one by one.
    pub seated: usize,
}

/// A clonable handle.
#[derive(Debug, Clone)]
pub struct Chat(Arc<Inner>);

struct Inner {
    store: Store,
    registry: Registry,
    replay: ReplayBuffer,
    rooms: Rooms,
    tasks: Tasks,
    /// Which connection a session is held by. Of two that want the same one, both may be here.
    held: Mutex<HashMap<Holder, Sid>>,
    /// Seats whose client is being told that it is connected.
    entering: Mutex<HashMap<Sid, (Weak<Memberships>, Until)>>,
    missed: Arc<Semaphore>,
    admissions: Semaphore,
    cutovers: Semaphore,
    presence: Presence,
    /// Who is connected here in the native dialect.
    people: Mutex<HashMap<UserId, OnlineUser>>,
    /// How often they had to be remembered again.
    registrations: AtomicU64,
}

/// A session taken up again, and what its client missed.
struct Recovery {
    record: SessionRecord,
    frames: Bytes,
    until: Until,
}

/// Up to where a client was told what it missed, by partition. `None`: nothing was known of it.
type Until = Vec<(u16, Option<Position>)>;

impl Chat {
    pub fn new(
        store: Store,
        registry: Registry,
        replay: ReplayBuffer,
        rooms: Rooms,
        tasks: Tasks,
    ) -> Self {
        let presence = Presence::new(store.clone(), replay.clone(), tasks.clone());
        Self(Arc::new(Inner {
            store,
            registry,
            replay,
            rooms,
            tasks,
            presence,
            people: Mutex::default(),
            registrations: AtomicU64::default(),
            held: Mutex::default(),
            entering: Mutex::default(),
            missed: Arc::new(Semaphore::new(MISSED_KIB_MAX)),
            admissions: Semaphore::new(ADMISSIONS_MAX),
            cutovers: Semaphore::new(CUTOVERS_MAX),
        }))
    }

    /// Begins to tell clients who comes and goes. To be called once, before anybody comes.
    pub fn open(&self, broadcaster: Broadcaster) {
        self.0.tasks.spawn_vital("presence", self.0.presence.clone().run(broadcaster));
        self.0.tasks.spawn_vital("rosters", self.0.presence.clone().read_rosters());
    }

    /// Handles what the store tells beside the log, until the store or the node stops.
    pub async fn run(self, mut events: NodeEvents, tasks: Tasks) {
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.on_event(event),
                    None => return,
                },
                () = tasks.stopping() => return,
            }
        }
    }

    fn on_event(&self, event: NodeEvent) {
        match event {
            NodeEvent::SessionTaken { holder, .. } => self.lost(holder),
            NodeEvent::Signal(signal) => {
                if let Signal::Profile { user } = &signal {
                    self.apply_profile(user, None);
                }
                self.0.presence.on_event(signal);
            }
            NodeEvent::SignalsLost { partition } => {
                self.0.presence.invalidate(partition);
                self.register_again();
            }
        }
    }

    pub fn counts(&self) -> Counts {
        Counts {
            seats: self.held().len(),
            entering: self.entering().len(),
            connect_replies: self.0.registry.connect_replies_waiting(),
            rooms: self.0.rooms.all().len(),
            seated: self.0.rooms.count_seated(),
        }
    }

    /// Gives a client its session, and the session's key, before it is told that it is connected.
    /// When the log cannot be read, a client that comes back must try again: a new session would
    /// hide what it missed.
    pub async fn admit(
        &self,
        arrival: Arrival<'_>,
    ) -> Result<(Arc<Memberships>, SessionKey), ReadError> {
        let _turn = turn(&self.0.admissions).await;
        // It must not take its session away from a newer connection of the same client.
        if !(arrival.is_here)() {
            return Err(ReadError::Unavailable("the client did not wait".to_owned()));
        }
        let holder = Holder::random();
        let recovery = match &arrival.returning {
            Some(returning) => self.recover(&arrival, returning, holder).await?,
            None => None,
        };
        let key = match (&recovery, &arrival.returning) {
            (Some(_), Some(returning)) => returning.key.clone(),
            _ => SessionKey::random(),
        };
        let recovery = recovery.unwrap_or_else(|| self.begin(&arrival, &key));
        let Recovery { record, frames, until } = recovery;
        let public_id = key.public_id();
        let connect_reply = ConnectReply::new(public_id.as_str(), key.as_str(), frames);
        let connect_reply = self.0.registry.set_connect_reply(arrival.sid, connect_reply);
        if arrival.dialect == Dialect::Native {
            self.register(&record.user).await;
        }
        let memberships =
            Memberships::new(self.clone(), &arrival, public_id, holder, record, connect_reply);
        self.held().insert(holder, arrival.sid);
        memberships.save().await;
        self.entering().insert(arrival.sid, (Arc::downgrade(&memberships), until));
        Ok((memberships, key))
    }

    /// The client has been told that it is connected: its rooms go live.
    pub fn enter(&self, sid: Sid) {
        let entering = self.entering().remove(&sid);
        if let Some((memberships, until)) = entering
            && let Some(memberships) = memberships.upgrade()
        {
            memberships.enter(until);
        }
    }

    /// Another connection has this session now, and so the one here must go. No DISCONNECT, after
    /// which its client would stay away: a connection that was given up can be served late, after
    /// the one that its client uses.
    pub fn lost(&self, holder: Holder) {
        let sid = self.held().get(&holder).copied();
        if let Some(sid) = sid {
            self.0.registry.close(sid, 1008, "this session was taken up on another connection");
        }
    }

    fn begin(&self, arrival: &Arrival<'_>, key: &SessionKey) -> Recovery {
        let replay = &self.0.replay;
        let since = |room: &RoomName| replay.position(self.0.store.log.partition(room));
        let user = (arrival.user)(key);
        let personal = (arrival.dialect == Dialect::Native).then(|| RoomName::personal(&user));
        let rooms: Vec<Joined> = arrival
            .rooms
            .iter()
            .cloned()
            .chain(personal)
            .map(|room| Joined { since: since(&room), room })
            .collect();
        let until = rooms
            .iter()
            .map(|joined| (self.0.store.log.partition(&joined.room), joined.since.clone()))
            .collect();
        let record = SessionRecord { user, rooms };
        Recovery { record, frames: Bytes::new(), until }
    }

    /// `None`: the session is unknown or another's, or not all that was missed can be told.
    async fn recover(
        &self,
        arrival: &Arrival<'_>,
        returning: &Returning,
        holder: Holder,
    ) -> Result<Option<Recovery>, ReadError> {
        let user = (arrival.user)(&returning.key);
        let session = returning.key.public_id();
        let claimed = self.0.store.sessions.claim(session.clone(), holder, user).await;
        let Ok(Some(mut record)) = claimed else { return claimed.map(|_unknown| None) };
        self.fit(&mut record, arrival.dialect);
        let offset = returning.offset.as_ref();
        let why = match self.missed(&session, &record.rooms, offset, arrival.dialect).await {
            Ok((frames, until)) => return Ok(Some(Recovery { record, frames, until })),
            Err(why) => why,
        };
        // Nobody sits there. Otherwise it would be kept alive for as long as this node lives.
        self.0.store.sessions.release(session, holder);
        match why {
            TooOld::Read(error) => Err(error),
            TooOld::Gone | TooOld::TooMuch => {
                tracing::debug!(%why, "a session cannot be recovered");
                Ok(None)
            }
        }
    }

    /// A session may come back in another dialect: only native clients are told what others say to
    /// one person.
    fn fit(&self, record: &mut SessionRecord, dialect: Dialect) {
        let personal = RoomName::personal(&record.user);
        let is_there = record.rooms.iter().any(|joined| joined.room == personal);
        match dialect {
            Dialect::Plain => record.rooms.retain(|joined| joined.room != personal),
            Dialect::Native if is_there => {}
            Dialect::Native => {
                let since = self.0.replay.position(self.0.store.log.partition(&personal));
                record.rooms.push(Joined { room: personal, since });
            }
        }
    }

    /// What was delivered to this session in these rooms after `offset`, as frames, and until where.
    async fn missed(
        &self,
        session: &PublicId,
        joined: &[Joined],
        offset: Option<&Position>,
        dialect: Dialect,
    ) -> Result<(Bytes, Until), TooOld> {
        let replay = &self.0.replay;
        let rooms = told_in(session, joined.iter());
        let mut until = Vec::new();
        let mut entries = Vec::new();
        for partition in self.partitions(joined) {
            let after = self.after(joined, offset, partition)?;
            replay.begun(partition).await?;
            loop {
                match replay.missed(partition, &after, &rooms) {
                    Missed::Entries { entries: mut missed, end } => {
                        missed.retain(|entry| wants(session, joined.iter(), entry.message()));
                        entries.extend(missed);
                        until.push((partition, Some(end)));
                        break;
                    }
                    Missed::Pipeline => {
                        replay.check_stored(partition, &after).await?;
                        until.push((partition, Some(after)));
                        break;
                    }
                    Missed::Behind => replay.reach_back(partition, &after).await?,
                    Missed::OtherEpoch => return Err(TooOld::Gone),
                }
            }
        }
        Ok((self.frames(&entries, dialect).await?, until))
    }

    /// From where on a session hears a partition again.
    fn after(
        &self,
        joined: &[Joined],
        offset: Option<&Position>,
        partition: u16,
    ) -> Result<Position, TooOld> {
        if let Some(offset) = offset {
            // One position says nothing about the sequence of another partition.
            let is_one = self.partitions(joined).count() == 1;
            return if is_one { Ok(offset.clone()) } else { Err(TooOld::Gone) };
        }
        let here =
            joined.iter().filter(|joined| self.0.store.log.partition(&joined.room) == partition);
        // Where nothing was known of the log, or of its present epoch, nobody knows what came since.
        let since: Option<Vec<&Position>> = here.map(|joined| joined.since.as_ref()).collect();
        let since = since.ok_or(TooOld::Gone)?;
        let first = since.iter().min_by_key(|since| since.seq).ok_or(TooOld::Gone)?;
        let is_one = since.iter().all(|since| since.epoch == first.epoch);
        if is_one { Ok(Position::clone(first)) } else { Err(TooOld::Gone) }
    }

    /// Held in memory until the client has taken them, and so bounded for all of them together.
    async fn frames(&self, entries: &[Arc<Entry>], dialect: Dialect) -> Result<Bytes, TooOld> {
        let frames = || entries.iter().map(|entry| entry.frame(dialect, &self.0.registry));
        let size: usize = frames().map(Bytes::len).sum();
        if size > MISSED_BYTES_MAX {
            return Err(TooOld::TooMuch);
        }
        if size == 0 {
            return Ok(Bytes::new());
        }
        let kib = u32::try_from(size.div_ceil(1 << 10)).unwrap_or(u32::MAX);
        let permit = timeout(MISSED_WAIT_MAX, Arc::clone(&self.0.missed).acquire_many_owned(kib));
        let Ok(permit) = permit.await else {
            let why = "others have not taken yet what they missed";
            return Err(ReadError::Unavailable(why.to_owned()).into());
        };
        let mut all = Vec::with_capacity(size);
        frames().for_each(|frame| all.extend_from_slice(frame));
        let permit = permit.expect("the semaphore is never closed");
        Ok(Bytes::from_owner(Held { frames: all, _permit: permit }))
    }

    fn partitions(&self, joined: &[Joined]) -> impl Iterator<Item = u16> + use<> {
        let all: BTreeSet<u16> =
            joined.iter().map(|joined| self.0.store.log.partition(&joined.room)).collect();
        all.into_iter()
    }

    fn entering(&self) -> MutexGuard<'_, HashMap<Sid, (Weak<Memberships>, Until)>> {
        self.0.entering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Holder, Sid>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("store", &self.store).finish_non_exhaustive()
    }
}

async fn turn(turns: &Semaphore) -> SemaphorePermit<'_> {
    turns.acquire().await.expect("the semaphore is never closed")
}

/// Frames, and the memory that they were allowed.
struct Held {
    frames: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.frames
    }
}

/// Whether a session that is in these rooms is told of a message. It hears what is said to itself
/// alone for as long as it hears what is said to its user.
/// Where a session that is in these rooms is told something.
fn told_in<'a>(session: &PublicId, joined: impl Iterator<Item = &'a Joined>) -> Vec<RoomName> {
    let mut rooms: Vec<RoomName> = joined.map(|joined| joined.room.clone()).collect();
    if rooms.iter().any(RoomName::is_personal) {
        rooms.extend(RoomName::socket(session));
    }
    rooms
}

fn wants<'a>(
    session: &PublicId,
    mut joined: impl Iterator<Item = &'a Joined>,
    message: &Message,
) -> bool {
    let is_own = message.room.session().as_ref() == Some(session);
    message.except.as_ref() != Some(session)
        && joined.any(|joined| {
            let from = joined.since.as_ref().filter(|since| since.epoch == message.position.epoch);
            (joined.room.hears(&message.room) || is_own && joined.room.is_personal())
                && from.is_none_or(|since| since.seq < message.position.seq)
        })
}
