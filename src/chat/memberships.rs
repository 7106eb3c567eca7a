//! The rooms of one connection: join, leave, and the restore after a recovery.
//!
//! A client gets the records of a room in two ways that never overlap: the answer to its join has
//! those before the position where its membership begins, and events bring all later ones. That
//! position is stored with the session before the client is answered, so a recovery continues
//! exactly where the answer ended. A join or a leave that cannot be stored changes nothing.

use std::sync::{Arc, Weak, atomic::Ordering};

use super::{
    ReplayedUpTo,
    connection::Connection,
    cutover::{Cutover, JoinResult, Wanted},
    membership_list::{JoinStart, Membership, MembershipState},
};
use crate::{
    delivery::replay::tail::ReplayEntry,
    dialects::{
        dialect::LiveEvent,
        offset::{OffsetCursor, RecordOffset},
    },
    domain::{
        position::Position,
        record::{Entry, Record},
        reject::{Code, Reject},
        room::RoomName,
        visibility::{is_own_direct, listens_in, may_enter, sees},
    },
    store::sessions::SessionRecord,
};

/// A join that was accepted and must be carried out.
#[derive(Debug)]
struct Join {
    room: RoomName,
    partition: u16,
    /// The position up to which the client already has the room's records.
    after: Option<Position>,
    start: JoinStart,
    /// Whether the answer has what was said while the join was stored. Otherwise it comes as events.
    missed_in_answer: bool,
}

impl Connection {
    pub(super) fn has_joined(&self, room: &RoomName) -> bool {
        self.memberships.lock().open().any(|membership| membership.joined.room == *room)
    }

    /// The rooms that the client is in, without the personal room of its user.
    pub fn rooms(&self) -> Vec<RoomName> {
        let memberships = self.memberships.lock();
        let rooms = memberships.open().map(|membership| &membership.joined.room);
        rooms.filter(|room| !room.is_personal()).cloned().collect()
    }

    /// Joins a room. Accepted or refused at once; the result follows when the session is stored
    /// with the room and the records after `after` are known. Events continue where the result
    /// ends. Without an answer (`has_answer`) the client is told by events what was said meanwhile.
    pub fn join(
        self: &Arc<Self>,
        room: RoomName,
        after: Option<Position>,
        has_answer: bool,
        done: impl FnOnce(Result<JoinResult, Reject>) + Send + 'static,
    ) {
        let permit = may_enter(&self.user, &room).and_then(|()| self.begin_joining());
        let decided = permit.and_then(|permit| Ok((permit, self.begin_join(room, after)?)));
        let (permit, mut join) = match decided {
            Ok(decided) => decided,
            Err(reject) => return done(Err(reject)),
        };
        join.missed_in_answer &= has_answer;
        let connection = Arc::clone(self);
        self.spawn("join", async move {
            let result = connection.finish_join(join).await;
            drop(permit);
            done(result);
        });
    }

    fn begin_join(&self, room: RoomName, after: Option<Position>) -> Result<Join, Reject> {
        let partition = self.chat.partition(&room);
        let Some(now) = self.chat.0.replay.position(partition) else {
            return Err(Reject::new(Code::Unavailable, "the log is not known yet"));
        };
        let rooms_max = self.chat.0.limits.rooms_max;
        let start = self.memberships.lock().join(&room, now, rooms_max)?;
        self.is_stale.store(true, Ordering::Release);
        let missed_in_answer = self.recipient.dialect.features().join_has_missed;
        Ok(Join { room, partition, after, start, missed_in_answer })
    }

    async fn finish_join(self: Arc<Self>, join: Join) -> Result<JoinResult, Reject> {
        let Join { room, partition, after, start, missed_in_answer } = join;
        let JoinStart { since, number, receives_events_already } = start;
        if let Err(reject) = self.save().await {
            self.undo_join(&room, number);
            return Err(reject);
        }
        let chat = self.chat.clone();
        self.add_presence();
        let has_members = self.recipient.dialect.features().presence;
        if has_members {
            chat.0.presence.known(&room).await;
        }
        let asked = after.is_some();
        let (from, fallback) = match after {
            Some(after) => (Some(after), since.clone()),
            // Everything since the membership began came as events.
            None if receives_events_already => (chat.0.replay.position(partition), None),
            None => (since.clone(), None),
        };
        let client = Arc::downgrade(&self);
        // Held only between awaits, so that nothing here keeps a closed connection alive.
        drop(self);
        let mut result = None;
        let mut has_moved = false;
        let joined = |connection: &Self, cutovers: &[Cutover]| {
            let [cutover] = cutovers else { return };
            if let Some(number) = number {
                if missed_in_answer {
                    has_moved = !receives_events_already
                        && connection.start_membership_at_cutover(number, cutover);
                } else if !receives_events_already {
                    connection.emit_joined(number, cutover);
                }
                connection.go_live(|one| one.state == MembershipState::Joining(number));
            }
            let live_after = match receives_events_already {
                true if asked => cutover.live_after(since),
                true => since,
                // Records that came while the join was stored belong in the answer. As events
                // their offsets would be below those that the client has from other rooms.
                false => cutover.end.clone(),
            };
            let mut joined = cutover.join_result(&connection.public_id, &room, live_after, asked);
            if !missed_in_answer {
                joined.missed.clear();
            }
            result = Some(joined);
        };
        let wanted = Wanted::new(partition, vec![room.clone()], from).with_fallback(fallback);
        chat.cut_over(Weak::clone(&client), vec![wanted], joined).await;
        let ended = || Reject::new(Code::Unavailable, "the connection has ended");
        let (Some(result), Some(connection)) = (result, client.upgrade()) else {
            return Err(ended());
        };
        if has_moved && let Err(reject) = connection.save().await {
            connection.undo_join(&room, number);
            return Err(reject);
        }
        // Between two presence events, so that the next one continues from this answer.
        let _cutover = chat.0.replay.cutover().await;
        let members = if has_members { chat.0.presence.members(&room) } else { None };
        Ok(JoinResult { members, ..result })
    }

    /// Lets the membership of this join start at the end of the cutover, which its answer reaches.
    /// Returns whether the room has records between the former start and that position.
    fn start_membership_at_cutover(&self, number: u64, cutover: &Cutover) -> bool {
        let mut memberships = self.memberships.lock();
        let is_it = |one: &&mut Membership| one.state == MembershipState::Joining(number);
        let Some(membership) = memberships.all.iter_mut().find(is_it) else { return false };
        let has_moved = {
            let joined = || std::iter::once(&membership.joined);
            let is_between =
                |entry: &Arc<ReplayEntry>| sees(&self.public_id, joined(), entry.record());
            cutover.entries.iter().any(is_between)
        };
        membership.joined.since = cutover.end.clone();
        if has_moved {
            self.is_stale.store(true, Ordering::Release);
        }
        has_moved
    }

    /// Emits what was said while the join was stored. The client may have later events of other
    /// rooms, and at the cutover it has all of them: so its new offset is the end of the cutover,
    /// and it comes with the last of these events.
    fn emit_joined(&self, number: u64, cutover: &Cutover) {
        let memberships = self.memberships.lock();
        if memberships.has_disconnected {
            return;
        }
        let is_it = |one: &&Membership| one.state == MembershipState::Joining(number);
        let Some(membership) = memberships.all.iter().find(is_it) else { return };
        let joined = || std::iter::once(&membership.joined);
        let is_missed = |entry: &&Arc<ReplayEntry>| {
            let record = entry.record();
            matches!(record.entry, Entry::Message(_)) && sees(&self.public_id, joined(), record)
        };
        let mut missed = cutover.entries.iter().filter(is_missed).peekable();
        while let Some(entry) = missed.next() {
            let end = cutover.end.as_ref().filter(|_| missed.peek().is_none());
            let offset = match end {
                Some(end) => self.chat.0.replay.offsets().pass(cutover.partition, end).only_last(),
                None => RecordOffset::none(),
            };
            self.chat.0.subscriptions.emit_stored(self.recipient, entry.record(), &offset);
        }
    }

    /// The store has not accepted the join: the former memberships are restored.
    fn undo_join(self: &Arc<Self>, room: &RoomName, number: Option<u64>) {
        if number.is_some() && self.memberships.lock().begin_leave(room).is_ok() {
            self.finish_leave(room);
            self.save_again();
        }
    }

    /// Leaves a room. Accepted or refused at once; when the session is stored without the room,
    /// delivery ends and the result follows.
    pub fn leave(
        self: &Arc<Self>,
        room: RoomName,
        done: impl FnOnce(Result<(), Reject>) + Send + 'static,
    ) {
        let decided =
            may_enter(&self.user, &room).and_then(|()| self.memberships.lock().begin_leave(&room));
        if let Err(reject) = decided {
            return done(Err(reject));
        }
        self.is_stale.store(true, Ordering::Release);
        let connection = Arc::clone(self);
        self.spawn("leave", async move {
            let saved = connection.save().await;
            match saved {
                Ok(()) => connection.finish_leave(&room),
                Err(_) => connection.undo_leave(&room),
            }
            done(saved);
        });
    }

    fn finish_leave(&self, room: &RoomName) {
        let mut memberships = self.memberships.lock();
        // A room that was joined again meanwhile stays.
        let has_left = |one: &mut Membership| one.is_leaving && one.joined.room == *room;
        for membership in memberships.all.extract_if(.., has_left) {
            if membership.is_live() {
                self.chat.0.subscriptions.unsubscribe(self.recipient, room);
            }
            if membership.is_counted {
                self.chat.0.presence.leave(room, &self.user);
            }
        }
    }

    fn undo_leave(self: &Arc<Self>, room: &RoomName) {
        for membership in &mut self.memberships.lock().all {
            membership.is_leaving &= membership.joined.room != *room;
        }
        self.save_again();
    }

    /// Stores the current state of the session. One save serves all callers that wait for the same
    /// state.
    pub(super) async fn save(&self) -> Result<(), Reject> {
        let _turn = self.saving.lock().await;
        if !self.is_stale.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let rooms =
            self.memberships.lock().open().map(|membership| membership.joined.clone()).collect();
        let (user, me) = (self.user.clone(), self.me());
        let profile = Some(self.recipient.dialect.name().into());
        let record = SessionRecord { user, rooms, profile, me };
        let sessions = &self.chat.0.store.sessions;
        match sessions.save(self.public_id.clone(), self.holder, record).await {
            Ok(true) => return Ok(()),
            Ok(false) => self.chat.superseded(self.holder),
            Err(error) => tracing::debug!(%error, "a session is not stored"),
        }
        self.is_stale.store(true, Ordering::Release);
        Err(Reject::new(Code::Unavailable, "the session cannot be stored now; nothing changed"))
    }

    /// Stores the session without a caller that waits. After an undone change too: the store retries
    /// failed saves, and must not bring the undone change back.
    pub(super) fn save_again(self: &Arc<Self>) {
        self.is_stale.store(true, Ordering::Release);
        let connection = Arc::clone(self);
        self.spawn("save again", async move {
            if connection.save().await.is_err() {
                tracing::debug!("a session is stored when the store is back");
            }
        });
    }

    /// Lets the rooms of a new or recovered session go live, after the client was told that it is
    /// connected.
    pub(super) fn restore(self: &Arc<Self>, until: ReplayedUpTo) {
        self.add_presence();
        let wanted = until.into_iter().map(|(partition, after)| {
            let memberships = self.memberships.lock();
            let here = memberships.all.iter().map(|membership| &membership.joined.room);
            let here = here.filter(|room| self.chat.partition(room) == partition);
            Wanted::new(partition, listens_in(&self.public_id, here), after)
        });
        let wanted = wanted.collect();
        let (chat, client) = (self.chat.clone(), Arc::downgrade(self));
        self.spawn("restore", async move {
            chat.cut_over(client, wanted, Self::restored).await;
        });
    }

    /// Called at the cutover of all partitions in which the session has rooms.
    fn restored(&self, cutovers: &[Cutover]) {
        // In these partitions the client has everything up to its CONNECT reply; in the others it
        // has no rooms.
        let mut offsets = self.chat.0.replay.offsets();
        for Cutover { partition, from, .. } in cutovers {
            from.iter().for_each(|from| offsets.set(*partition, from.seq));
        }
        let is_restoring = |membership: &Membership| membership.state == MembershipState::Restoring;
        for cutover in cutovers {
            let is_here = |membership: &Membership| {
                is_restoring(membership)
                    && self.chat.partition(&membership.joined.room) == cutover.partition
            };
            self.emit_missed(cutover, &mut offsets, is_here);
            self.emit_unreachable(cutover, is_here);
        }
        self.go_live(is_restoring);
        if !self.memberships.lock().has_disconnected {
            self.chat.0.subscriptions.emit(self.recipient, &LiveEvent::Hello);
        }
        if self.recipient.dialect.features().joins_accounts {
            self.chat.0.presence.ask_online_accounts();
        }
    }

    /// Emits what was delivered meanwhile in these rooms of one partition.
    fn emit_missed(
        &self,
        cutover: &Cutover,
        offsets: &mut OffsetCursor,
        which: impl Fn(&Membership) -> bool,
    ) {
        let memberships = self.memberships.lock();
        if memberships.has_disconnected {
            return;
        }
        let joined = || {
            let chosen = memberships.all.iter().filter(|membership| which(membership));
            chosen.map(|membership| &membership.joined)
        };
        let tells_own = self.recipient.dialect.features().own_direct;
        let is_told = |record: &Record| tells_own || !is_own_direct(self.user.as_str(), record);
        for entry in &cutover.entries {
            if sees(&self.public_id, joined(), entry.record()) && is_told(entry.record()) {
                let offset = offsets.pass(cutover.partition, &entry.record().position);
                self.chat.0.subscriptions.emit_stored(self.recipient, entry.record(), &offset);
            }
        }
        cutover.end.iter().for_each(|end| offsets.set(cutover.partition, end.seq));
    }

    /// Reports records that can no longer be replayed.
    fn emit_unreachable(&self, cutover: &Cutover, which: impl Fn(&Membership) -> bool) {
        let (Some(first), Some(end)) = (&cutover.first_unreachable, &cutover.end) else { return };
        let subscriptions = &self.chat.0.subscriptions;
        let memberships = self.memberships.lock();
        if memberships.has_disconnected {
            return;
        }
        if first.epoch != end.epoch {
            return subscriptions.emit(self.recipient, &LiveEvent::NewEpoch(&end.epoch));
        }
        for membership in memberships.all.iter().filter(|membership| which(membership)) {
            let room = &membership.joined.room;
            let (epoch, from, to) = (&end.epoch, first.seq + 1, end.seq);
            let gap = LiveEvent::Gap { room, epoch, from, to };
            subscriptions.emit(self.recipient, &gap);
        }
    }

    /// Counts the user as a member of its rooms.
    fn add_presence(&self) {
        if !self.recipient.dialect.features().presence {
            return;
        }
        let users = self.chat.users();
        let Some(online) = users.get(&self.user) else { return };
        let mut memberships = self.memberships.lock();
        let is_new = |one: &&mut Membership| {
            !one.is_counted && !one.is_leaving && !one.joined.room.is_personal()
        };
        for membership in memberships.all.iter_mut().filter(is_new) {
            membership.is_counted = true;
            self.chat.0.presence.enter(&membership.joined.room, &online.user);
        }
    }

    /// The client has left the namespace on purpose: it stops counting at once, without a grace
    /// period.
    pub fn disconnect(&self) {
        let mut memberships = self.memberships.lock();
        memberships.has_disconnected = true;
        self.chat.0.subscriptions.unaddress(&self.public_id, self.holder);
        for membership in memberships.all.iter_mut().filter(|membership| membership.is_counted) {
            membership.is_counted = false;
            self.chat.0.presence.leave(&membership.joined.room, &self.user);
        }
    }

    /// From now on the events of these rooms reach the client.
    fn go_live(&self, which: impl Fn(&Membership) -> bool) {
        let subscriptions = &self.chat.0.subscriptions;
        let mut memberships = self.memberships.lock();
        if memberships.has_disconnected {
            return;
        }
        for membership in memberships.all.iter_mut().filter(|membership| which(membership)) {
            let room = &membership.joined.room;
            subscriptions.subscribe(self.recipient, room);
            if room.is_personal() {
                subscriptions.address(&self.public_id, self.holder, self.recipient);
            }
            membership.state = MembershipState::Live;
        }
    }

    /// The connection has ended.
    pub(super) fn leave_all(&self) {
        for membership in &self.memberships.lock().all {
            if membership.is_live() {
                self.chat.0.subscriptions.forget(self.recipient, &membership.joined.room);
            }
            if membership.is_counted {
                self.chat.0.presence.lost(&membership.joined.room, &self.user);
            }
        }
    }
}
