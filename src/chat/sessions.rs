//! Admit a client: a new session, or its old one with what it missed.
//!
//! A returning client gets what it missed in three parts without a hole: with its CONNECT reply
//! what was delivered until then, after it what was delivered meanwhile, and from then on live
//! events. The last two meet at the cutover, so no record is lost or comes twice.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::{Chat, Connection, acquire};
use crate::{
    delivery::{
        replay::{
            TooOld,
            tail::{Missed, ReplayEntry},
        },
        subscriptions::Recipient,
    },
    dialects::{
        DialectId,
        offset::{ClientOffset, Offset, OffsetCursor, OffsetVector, ShownEvents, VECTOR_BYTES_MAX},
    },
    domain::{
        name::{PublicId, UserId},
        position::Position,
        record::{Change, Entry},
        room::RoomName,
        visibility::{JoinedRoom, is_own_direct, listens_in, sees},
    },
    store::{
        error::ReadError,
        sessions::{Holder, SessionKey, SessionRecord},
    },
    transport::{Sid, connect_reply::ConnectReply},
};

/// Most bytes that one returning client is replayed. A client that missed more gets a new session.
const REPLAY_BYTES_MAX: usize = 16 << 20;
/// The limit for all clients that have not received their replay yet, in KiB.
pub(super) const REPLAY_KIB_MAX: usize = 128 << 10;
/// How long a client waits for its part of that budget. Then it must connect again.
const REPLAY_WAIT_MAX: Duration = Duration::from_secs(5);
/// Clients that are admitted at a time. When all clients of a dead node return at once, the others
/// wait here, where they cost almost nothing, and live traffic continues.
pub(super) const ADMISSIONS_MAX: usize = 64;

/// The session and the offset that a returning client sends.
#[derive(Debug)]
pub struct Returning {
    pub key: SessionKey,
    /// The last event that the client has; `None`: it has none.
    pub offset: Option<ClientOffset>,
}

/// A client that asks to be admitted.
pub struct Arrival<'a> {
    pub recipient: Recipient,
    pub returning: Option<Returning>,
    /// The user of a client whose session has this key.
    pub user: &'a (dyn Fn(&SessionKey) -> UserId + Sync),
    /// Whether the client's connection is still open.
    pub is_here: &'a (dyn Fn() -> bool + Sync),
}

/// A session that was recovered, and what its client missed.
struct Recovery {
    record: SessionRecord,
    frames: Bytes,
    until: ReplayedUpTo,
}

/// The position up to which a client was replayed, by partition. `None`: no position was known.
pub(super) type ReplayedUpTo = Vec<(u16, Option<Position>)>;

impl Chat {
    /// Gives a client its session, and the session's key, before it is told that it is connected.
    /// When the log cannot be read, a returning client must try again: a new session would hide
    /// that it missed something.
    pub async fn admit(
        &self,
        arrival: Arrival<'_>,
    ) -> Result<(Arc<Connection>, SessionKey), ReadError> {
        let _permit = acquire(&self.0.admissions).await;
        // A closed connection must not take the session away from a newer connection of the client.
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
        let recovery = recovery.unwrap_or_else(|| self.new_session(&arrival, &key));
        let Recovery { record, frames, until } = recovery;
        let public_id = key.public_id();
        let reply = ConnectReply::new(public_id.as_str(), key.as_str(), frames);
        let admission = self.0.subscriptions.admit(arrival.recipient, reply);
        if arrival.recipient.dialect.features().presence {
            self.register(&record.user).await;
        }
        let sid = arrival.recipient.sid;
        let connection =
            Connection::new(self.clone(), &arrival, public_id, holder, record, admission);
        self.0.held.lock().insert(holder, sid);
        if connection.save().await.is_err() {
            tracing::debug!("a session begins that is not stored yet");
        }
        self.0.restoring.lock().insert(sid, (Arc::downgrade(&connection), until));
        Ok((connection, key))
    }

    /// The client was told that it is connected: its rooms go live.
    pub fn restore(&self, sid: Sid) {
        let restoring = self.0.restoring.lock().remove(&sid);
        if let Some((connection, until)) = restoring
            && let Some(connection) = connection.upgrade()
        {
            connection.restore(until);
        }
    }

    /// Another connection has claimed this session, so the one here is closed.
    pub(super) fn superseded(&self, holder: Holder) {
        let sid = self.0.held.lock().get(&holder).copied();
        if let Some(sid) = sid {
            self.0.subscriptions.close_superseded(sid);
        }
    }

    /// The connection has ended: its session can be recovered from now on.
    pub(super) fn release(&self, connection: &Connection) {
        let holder = connection.holder;
        if connection.recipient.dialect.features().presence {
            self.unregister(&connection.user);
        }
        self.0.subscriptions.unaddress(&connection.public_id, holder);
        self.0.held.lock().remove(&holder);
        // A client that leaves the namespace and enters it again keeps its socket.
        let mut restoring = self.0.restoring.lock();
        let sid = connection.recipient.sid;
        if restoring.get(&sid).is_some_and(|(one, _)| std::ptr::eq(one.as_ptr(), connection)) {
            restoring.remove(&sid);
        }
        drop(restoring);
        self.0.store.sessions.release(connection.public_id.clone(), holder);
    }

    fn new_session(&self, arrival: &Arrival<'_>, key: &SessionKey) -> Recovery {
        let user = (arrival.user)(key);
        let lobby = arrival.recipient.dialect.features().joins_lobby.then(RoomName::lobby);
        let since = |room: &RoomName| self.0.replay.position(self.partition(room));
        let accounts = arrival.recipient.dialect.features().joins_accounts;
        let accounts = accounts.then(RoomName::accounts);
        let rooms = lobby.into_iter().chain([RoomName::personal(&user)]).chain(accounts);
        let rooms: Vec<JoinedRoom> =
            rooms.map(|room| JoinedRoom { since: since(&room), room }).collect();
        let mut until = BTreeMap::new();
        for JoinedRoom { room, since } in &rooms {
            // The first one is the earliest.
            until.entry(self.partition(room)).or_insert_with(|| since.clone());
        }
        let until = until.into_iter().collect();
        Recovery {
            record: SessionRecord { user, rooms, profile: None, me: None },
            frames: Bytes::new(),
            until,
        }
    }

    /// `None`: the session is unknown or another user's, or not everything it missed can be
    /// replayed.
    async fn recover(
        &self,
        arrival: &Arrival<'_>,
        returning: &Returning,
        holder: Holder,
    ) -> Result<Option<Recovery>, ReadError> {
        let user = (arrival.user)(&returning.key);
        let session = returning.key.public_id();
        let sessions = &self.0.store.sessions;
        let Some(mut record) = sessions.claim(session.clone(), holder, user).await? else {
            return Ok(None);
        };
        let dialect = arrival.recipient.dialect;
        if record.profile.as_deref().is_some_and(|profile| profile != dialect.name()) {
            tracing::debug!(?dialect, "a client came back in another dialect");
            sessions.release(session, holder);
            return Ok(None);
        }
        self.add_personal_room(&mut record);
        let offset = returning.offset.as_ref();
        let who = (&session, &record.user);
        let why = match self.missed_frames(who, &record.rooms, offset, dialect).await {
            Ok((frames, until)) => return Ok(Some(Recovery { record, frames, until })),
            Err(why) => why,
        };
        // No connection uses the session. Without this release it would live as long as this node.
        sessions.release(session, holder);
        match why {
            TooOld::Read(error) => Err(error),
            TooOld::Gone | TooOld::TooMuch => {
                tracing::debug!(%why, "a session cannot be recovered");
                Ok(None)
            }
        }
    }

    /// A session that an older release stored may have no personal room.
    fn add_personal_room(&self, record: &mut SessionRecord) {
        let personal = RoomName::personal(&record.user);
        if !record.rooms.iter().any(|joined| joined.room == personal) {
            let since = self.0.replay.position(self.partition(&personal));
            record.rooms.push(JoinedRoom { room: personal, since });
        }
    }

    /// What was delivered to this session in these rooms after `offset`, as frames, and up to which
    /// position.
    async fn missed_frames(
        &self,
        (session, user): (&PublicId, &UserId),
        joined: &[JoinedRoom],
        offset: Option<&ClientOffset>,
        dialect: DialectId,
    ) -> Result<(Bytes, ReplayedUpTo), TooOld> {
        let replay = &self.0.replay;
        let rooms = listens_in(session, joined.iter().map(|joined| &joined.room));
        let shown = offset.and_then(|offset| offset.shown);
        let offset = offset.map(|offset| &offset.offset);
        let partitions: Vec<u16> = match offset {
            // Its digest is one of all partitions.
            Some(Offset::Vector(_)) => (0..self.0.store.log.partitions()).collect(),
            Some(Offset::Position(_)) | None => self.partitions(joined).collect(),
        };
        for partition in partitions {
            replay.begun(partition).await?;
        }
        let positions = replay.positions();
        let mut offsets = OffsetCursor::new(positions.as_deref().map(OffsetVector::new));
        let (mut until, mut parts) = (Vec::new(), Vec::new());
        for partition in self.partitions(joined) {
            let mut after = self.after(joined, offset, positions.as_deref(), partition)?;
            let is_here = |shown: &ShownEvents| shown.partition.is_none_or(|it| it == partition);
            let shown = shown.filter(is_here).map(|shown| (after.seq, shown.count));
            // The later events of that record are missing.
            after.seq -= u64::from(shown.is_some()).min(after.seq);
            offsets.set(partition, after.seq);
            let (mut entries, end) = loop {
                match replay.missed(partition, &after, &rooms) {
                    Missed::Entries { entries, end } => break (entries, end),
                    Missed::Ahead => {
                        replay.check_stored(partition, &after).await?;
                        break (Vec::new(), after);
                    }
                    Missed::Behind => replay.reach_back(partition, &after).await?,
                    Missed::OtherEpoch => return Err(TooOld::Gone),
                }
            };
            entries.retain(|entry| sees(session, joined.iter(), entry.record()));
            if !dialect.features().own_direct {
                entries.retain(|entry| !is_own_direct(user.as_str(), entry.record()));
            }
            if !dialect.features().changes {
                drop_deleted(&mut entries);
            }
            parts.push(MissedPart { partition, entries, end: end.seq, shown });
            until.push((partition, Some(end)));
        }
        // Before its later events are emitted, no offset can say that the client has a part of a
        // record.
        parts.sort_by_key(|part| part.shown.is_none());
        Ok((self.frames(&parts, offsets, dialect).await?, until))
    }

    /// The position after which a session receives records of a partition. `positions` are this
    /// node's.
    fn after(
        &self,
        joined: &[JoinedRoom],
        offset: Option<&Offset>,
        positions: Option<&[Position]>,
        partition: u16,
    ) -> Result<Position, TooOld> {
        match offset {
            None => self.since(joined, partition).ok_or(TooOld::Gone),
            Some(Offset::Position(offset)) => {
                // One position says nothing about the sequence of another partition.
                let is_one = self.partitions(joined).count() == 1;
                if is_one { Ok(offset.clone()) } else { Err(TooOld::Gone) }
            }
            Some(Offset::Vector(offset)) => {
                let positions = positions.ok_or(TooOld::Gone)?;
                let seq = OffsetVector::new(positions).seq_of(offset, partition);
                let epoch = positions.get(usize::from(partition)).map(|at| at.epoch.clone());
                let (epoch, seq) = epoch.zip(seq).ok_or(TooOld::Gone)?;
                // The last event can be much older than the memberships in this partition.
                let since = self.since(joined, partition).filter(|since| since.epoch == epoch);
                Ok(Position { epoch, seq: seq.max(since.map_or(0, |since| since.seq)) })
            }
        }
    }

    /// Where the first membership in a partition begins. `None`: that is unknown, or the
    /// memberships began in several epochs, and so nobody knows which records came since.
    fn since(&self, joined: &[JoinedRoom], partition: u16) -> Option<Position> {
        let here = joined.iter().filter(|joined| self.partition(&joined.room) == partition);
        let since: Option<Vec<&Position>> = here.map(|joined| joined.since.as_ref()).collect();
        let since = since?;
        let first = since.iter().min_by_key(|since| since.seq)?;
        let is_one = since.iter().all(|since| since.epoch == first.epoch);
        is_one.then(|| Position::clone(first))
    }

    /// The frames stay in memory until the client has received them, so one budget bounds all
    /// clients.
    async fn frames(
        &self,
        parts: &[MissedPart],
        mut offsets: OffsetCursor,
        dialect: DialectId,
    ) -> Result<Bytes, TooOld> {
        let longer = if offsets.is_shared() { 0 } else { VECTOR_BYTES_MAX };
        let entries = parts.iter().flat_map(|part| &part.entries);
        let frames = entries.map(|entry| entry.frames(dialect)).filter(|one| !one.is_empty());
        let size: usize = frames.map(|frames| frames.len() + longer).sum();
        if size > REPLAY_BYTES_MAX {
            return Err(TooOld::TooMuch);
        }
        if size == 0 {
            return Ok(Bytes::new());
        }
        let kib = u32::try_from(size.div_ceil(1 << 10)).unwrap_or(u32::MAX);
        let budget = Arc::clone(&self.0.replay_budget);
        let Ok(permit) = timeout(REPLAY_WAIT_MAX, budget.acquire_many_owned(kib)).await else {
            let why = "other clients have not taken yet what they missed";
            return Err(ReadError::Unavailable(why.to_owned()).into());
        };
        let mut all = Vec::with_capacity(size);
        for MissedPart { partition, entries, end, shown } in parts {
            for entry in entries {
                let position = &entry.record().position;
                let skipped = shown.filter(|(seq, _)| *seq == position.seq).map(|(_, count)| count);
                // A vector is this client's own: another client has received other records of other
                // partitions.
                let offset = offsets.pass(*partition, position);
                if skipped.is_none() && offsets.is_shared() {
                    all.extend_from_slice(entry.frames(dialect));
                } else {
                    let skipped = skipped.unwrap_or_default();
                    all.extend_from_slice(&entry.frames_with(dialect, &offset, skipped));
                }
            }
            offsets.set(*partition, *end);
        }
        let permit = permit.expect("the semaphore is never closed");
        Ok(Bytes::from_owner(BudgetedFrames { frames: all, _permit: permit }))
    }

    fn partitions(&self, joined: &[JoinedRoom]) -> impl Iterator<Item = u16> + use<> {
        let all: BTreeSet<u16> = joined.iter().map(|joined| self.partition(&joined.room)).collect();
        all.into_iter()
    }
}

impl fmt::Debug for Arrival<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival").field("returning", &self.returning).finish_non_exhaustive()
    }
}

/// What one session missed in one partition.
struct MissedPart {
    partition: u16,
    entries: Vec<Arc<ReplayEntry>>,
    /// After this part the client has everything up to here.
    end: u64,
    /// The seq of the record that the client has a part of, and how many of its events.
    shown: Option<(u64, usize)>,
}

/// Removes messages that were deleted meanwhile.
fn drop_deleted(entries: &mut Vec<Arc<ReplayEntry>>) {
    let deleted: HashSet<u64> = entries
        .iter()
        .filter_map(|entry| match entry.record().entry {
            Entry::Change { target_seq, change: Change::Delete } => Some(target_seq),
            _ => None,
        })
        .collect();
    if !deleted.is_empty() {
        entries.retain(|entry| !deleted.contains(&entry.record().position.seq));
    }
}

/// Frames, and the permit for the memory that they use.
struct BudgetedFrames {
    frames: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for BudgetedFrames {
    fn as_ref(&self) -> &[u8] {
        &self.frames
    }
}
