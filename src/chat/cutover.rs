//! The cutover from replay to live events: a moment in which nothing is delivered and everything
//! before it is known.
//!
//! Example: a client joins a room while messages 7 and 8 are on their way. The relay has delivered
//! 7 and waits. The client gets 7 from the replay buffer, is subscribed, and the relay goes on with
//! 8, which reaches the client as an event. Nothing is lost and nothing comes twice.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::sleep;

use super::{Chat, connection::Connection, turn};
use crate::{
    delivery::replay::{Missed, ReplayEntry, TooOld},
    domain::{
        name::PublicId,
        position::Position,
        room::RoomName,
        user::User,
        visibility::{JoinedRoom, sees},
    },
};

/// A log that cannot be read is tried again after this time.
const RETRY_EVERY: Duration = Duration::from_millis(200);

/// What the answer to a join says.
#[derive(Debug)]
pub struct JoinResult {
    /// What was delivered before `begin`: since the position that was asked for, or else since the
    /// join was asked for.
    pub missed: Vec<Arc<ReplayEntry>>,
    /// Whether a position was asked for, and `missed` is all since then.
    pub recovered: bool,
    /// Everything after it comes, or came already, as events.
    pub begin: Position,
    /// How many users are in the room and, unless they are too many, which.
    pub members: Option<(u32, Vec<User>)>,
}

/// What there is at the cutover.
pub(super) struct Cutover {
    /// Everything that was delivered there after `from`, until `end`.
    pub entries: Vec<Arc<ReplayEntry>>,
    /// `None`: the log was never reached.
    pub from: Option<Position>,
    pub end: Option<Position>,
    /// Where it was to begin, when that is out of reach.
    pub lost: Option<Position>,
}

/// The later of two positions of one epoch; otherwise the first, if there is one.
fn later(one: Option<Position>, other: Option<&Position>) -> Option<Position> {
    match (&one, other) {
        (Some(at), Some(other)) if at.epoch == other.epoch && at.seq < other.seq => {
            Some(other.clone())
        }
        _ => one,
    }
}

impl Cutover {
    /// Where the answer to a join ends, for a membership that begins at `since`.
    pub fn begin_after(&self, since: Option<Position>) -> Option<Position> {
        later(since, self.from.as_ref())
    }

    /// The answer to a session's join of `room` that ends at `begin`.
    pub fn join_result(
        &self,
        session: &PublicId,
        room: &RoomName,
        begin: Option<Position>,
        asked: bool,
    ) -> JoinResult {
        let in_reach = |at: &Position| self.end.as_ref().is_some_and(|end| end.epoch == at.epoch);
        let end = || self.end.clone().expect("only a room whose log has begun is joined");
        let begin = begin.filter(in_reach).unwrap_or_else(end);
        let joined = JoinedRoom { room: room.clone(), since: None };
        let is_before = |entry: &&Arc<ReplayEntry>| {
            let record = entry.record();
            record.position.seq <= begin.seq && sees(session, std::iter::once(&joined), record)
        };
        let missed = self.entries.iter().filter(is_before).cloned().collect();
        let recovered = asked && self.lost.is_none();
        JoinResult { missed, recovered, begin, members: None }
    }
}

impl Chat {
    /// Waits until everything after `from` in these rooms of one partition, or else after `instead`,
    /// can be replayed without a hole, and calls `told` while nothing is delivered.
    /// The connection is held only while nothing is awaited, so that one that has ended is not
    /// waited for.
    pub(super) async fn cut_over(
        &self,
        connection: Weak<Connection>,
        (partition, rooms): (u16, &[RoomName]),
        mut from: Option<Position>,
        mut instead: Option<Position>,
        told: impl FnOnce(&Connection, Cutover),
    ) {
        let replay = &self.0.replay;
        let mut lost = None;
        let mut is_lost = false;
        loop {
            let turn = turn(&self.0.cutovers).await;
            let cutover = replay.cutover().await;
            let Some(connection) = connection.upgrade() else { return };
            let end = replay.position(partition);
            // A log that was not known then was delivered from its first event on.
            from = from.or_else(|| self.0.store.log.began(partition));
            let Some(after) = &from else {
                return told(&connection, Cutover { entries: Vec::new(), from, end, lost });
            };
            let missed = replay.missed(partition, after, rooms);
            match missed {
                Missed::Entries { entries, end } => {
                    return told(&connection, Cutover { entries, from, end: Some(end), lost });
                }
                Missed::Behind | Missed::Ahead if !is_lost => {}
                Missed::OtherEpoch | Missed::Behind | Missed::Ahead => {
                    let wished = std::mem::replace(&mut from, instead.take());
                    lost = lost.or(wished);
                    is_lost = false;
                    if from.is_none() {
                        let entries = Vec::new();
                        let cutover = Cutover { entries, from: end.clone(), end, lost };
                        return told(&connection, cutover);
                    }
                    continue;
                }
            }
            drop(cutover);
            drop(turn);
            drop(connection);
            let reached = match missed {
                Missed::Behind => replay.reach_back(partition, after).await,
                _ => replay.reach(partition, after).await,
            };
            match reached {
                Ok(()) => {}
                Err(TooOld::Read(error)) => {
                    tracing::debug!(%error, "what a client missed is read again");
                    sleep(RETRY_EVERY).await;
                }
                Err(TooOld::Gone | TooOld::TooMuch) => is_lost = true,
            }
        }
    }
}
