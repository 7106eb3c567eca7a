//! The cutover from replay to live events: a moment in which nothing is delivered, so that
//! everything before it is known.
//!
//! Example: a client joins a room while messages 7 and 8 are being delivered. The relay has
//! delivered 7 and waits. The client gets 7 from the replay buffer and is subscribed. Then the
//! relay delivers 8, which reaches the client as an event. No message is lost or comes twice.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::sleep;

use super::{Chat, acquire, connection::Connection};
use crate::{
    delivery::replay::{
        TooOld,
        tail::{Missed, ReplayEntry},
    },
    domain::{
        name::PublicId,
        position::Position,
        room::RoomName,
        user::User,
        visibility::{JoinedRoom, sees},
    },
};

/// Pause before a log that cannot be read is read again.
const RETRY_EVERY: Duration = Duration::from_millis(200);

/// The result of a join.
#[derive(Debug)]
pub struct JoinResult {
    /// What was delivered up to `live_after`: after the client's position if it gave one, otherwise
    /// after the join was requested.
    pub missed: Vec<Arc<ReplayEntry>>,
    /// Whether the client gave a position and `missed` is everything since then.
    pub recovered: bool,
    /// The client has, or gets as events, everything after this position.
    pub live_after: Position,
    /// How many users are in the room and, unless there are too many, which ones.
    pub members: Option<(u32, Vec<User>)>,
}

/// A partition in which a client is to go live.
pub(super) struct Wanted {
    partition: u16,
    rooms: Vec<RoomName>,
    /// The client needs every record after this. `None`: the log was not known at that time.
    from: Option<Position>,
    /// The position to use when `from` is out of reach.
    fallback: Option<Position>,
    /// The first position that was out of reach, if there was one.
    first_unreachable: Option<Position>,
    /// `from` was found to be out of reach; `fallback` is used next.
    from_is_unreachable: bool,
}

impl Wanted {
    pub fn new(partition: u16, rooms: Vec<RoomName>, from: Option<Position>) -> Self {
        Self {
            partition,
            rooms,
            from,
            fallback: None,
            first_unreachable: None,
            from_is_unreachable: false,
        }
    }

    pub fn with_fallback(self, fallback: Option<Position>) -> Self {
        Self { fallback, ..self }
    }
}

/// The records of one partition that a client gets at the cutover.
pub(super) struct Cutover {
    pub partition: u16,
    /// Everything that was delivered in the rooms after `from`, up to `end`.
    pub entries: Vec<Arc<ReplayEntry>>,
    /// `None`: the log was never reached.
    pub from: Option<Position>,
    pub end: Option<Position>,
    /// The first position that was out of reach, if there was one.
    pub first_unreachable: Option<Position>,
}

/// The later of two positions of one epoch; otherwise the first one, if there is one.
fn later(one: Option<Position>, other: Option<&Position>) -> Option<Position> {
    match (&one, other) {
        (Some(at), Some(other)) if at.epoch == other.epoch && at.seq < other.seq => {
            Some(other.clone())
        }
        _ => one,
    }
}

impl Cutover {
    /// The position where the answer to a join ends, for a membership that begins at `since`.
    pub fn live_after(&self, since: Option<Position>) -> Option<Position> {
        later(since, self.from.as_ref())
    }

    /// The answer to a session's join of `room` that ends at `live_after`.
    pub fn join_result(
        &self,
        session: &PublicId,
        room: &RoomName,
        live_after: Option<Position>,
        asked: bool,
    ) -> JoinResult {
        let in_reach = |at: &Position| self.end.as_ref().is_some_and(|end| end.epoch == at.epoch);
        let end = || self.end.clone().expect("only a room whose log has begun is joined");
        let live_after = live_after.filter(in_reach).unwrap_or_else(end);
        let joined = JoinedRoom { room: room.clone(), since: None };
        let is_before = |entry: &&Arc<ReplayEntry>| {
            let record = entry.record();
            record.position.seq <= live_after.seq && sees(session, std::iter::once(&joined), record)
        };
        let missed = self.entries.iter().filter(is_before).cloned().collect();
        let recovered = asked && self.first_unreachable.is_none();
        JoinResult { missed, recovered, live_after, members: None }
    }
}

impl Chat {
    /// Waits until every wanted partition can be replayed without a hole, then calls `at_cutover`
    /// while nothing is delivered. All partitions go live in one moment, because an event's offset
    /// covers all of them.
    ///
    /// The connection is held only between awaits, so that nothing here keeps a closed one alive.
    pub(super) async fn cut_over(
        &self,
        connection: Weak<Connection>,
        mut wanted: Vec<Wanted>,
        at_cutover: impl FnOnce(&Connection, &[Cutover]),
    ) {
        let replay = &self.0.replay;
        loop {
            let permit = acquire(&self.0.cutovers).await;
            let cutover = replay.cutover().await;
            let Some(connection) = connection.upgrade() else { return };
            let find = |one: &mut Wanted| self.find(one).map_err(|why| (one.partition, why));
            let found: Result<Vec<Cutover>, _> = wanted.iter_mut().map(find).collect();
            let (partition, (after, missed)) = match found {
                Ok(found) => return at_cutover(&connection, &found),
                Err(missing) => missing,
            };
            drop(cutover);
            drop(permit);
            drop(connection);
            let reached = match missed {
                Missed::Behind => replay.reach_back(partition, &after).await,
                _ => replay.reach(partition, &after).await,
            };
            match reached {
                Ok(()) => {}
                Err(TooOld::Read(error)) => {
                    tracing::debug!(%error, "what a client missed cannot be read; trying again");
                    sleep(RETRY_EVERY).await;
                }
                Err(TooOld::Gone | TooOld::TooMuch) => {
                    let here = wanted.iter_mut().filter(|one| one.partition == partition);
                    here.for_each(|one| one.from_is_unreachable = true);
                }
            }
        }
    }

    /// The records of one partition, while the cutover is held. On error, the log must first be
    /// read, or delivered, from the returned position.
    fn find(&self, wanted: &mut Wanted) -> Result<Cutover, (Position, Missed)> {
        let partition = wanted.partition;
        let end = self.0.replay.position(partition);
        loop {
            let first_unreachable = wanted.first_unreachable.clone();
            if wanted.from.is_none() && first_unreachable.is_some() {
                let from = end.clone();
                return Ok(Cutover {
                    partition,
                    entries: Vec::new(),
                    from,
                    end,
                    first_unreachable,
                });
            }
            // If the log was unknown at that time, every record since `began` was delivered here.
            let began = || self.0.store.log.began(partition);
            wanted.from = wanted.from.take().or_else(began);
            let Some(after) = wanted.from.clone() else {
                return Ok(Cutover {
                    partition,
                    entries: Vec::new(),
                    from: None,
                    end,
                    first_unreachable,
                });
            };
            match self.0.replay.missed(partition, &after, &wanted.rooms) {
                Missed::Entries { entries, end } => {
                    let (from, end) = (Some(after), Some(end));
                    return Ok(Cutover { partition, entries, from, end, first_unreachable });
                }
                missed @ (Missed::Behind | Missed::Ahead) if !wanted.from_is_unreachable => {
                    return Err((after, missed));
                }
                Missed::OtherEpoch | Missed::Behind | Missed::Ahead => {
                    let wished = std::mem::replace(&mut wanted.from, wanted.fallback.take());
                    wanted.first_unreachable = wanted.first_unreachable.take().or(wished);
                    wanted.from_is_unreachable = false;
                }
            }
        }
    }
}
