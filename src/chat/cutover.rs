//! The cutover between what a client is told at once and what comes to it as events: a moment in which
//! nothing is delivered, and everything before it is known.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::sleep;

use crate::chat::{Chat, memberships::Memberships, turn};
use crate::{
    delivery::replay::{Entry, Missed, TooOld},
    domain::{
        message::Position,
        name::{PublicId, RoomName},
        user::User,
    },
};

/// A log that cannot be read is tried again after this time.
const RETRY_EVERY: Duration = Duration::from_millis(200);

/// What the answer to a join says.
#[derive(Debug)]
pub struct JoinResult {
    /// What was delivered before `begin`: since the position that was asked for, or else since the
    /// join was asked for.
    pub missed: Vec<Arc<Entry>>,
    /// Whether a position was asked for, and `missed` is all since then.
    pub recovered: bool,
    /// Everything after it comes, or came already, as events.
    pub begin: Position,
    /// How many people are in the room and, if they are not too many, who.
    pub people: Option<(u32, Vec<User>)>,
}

/// What there is at the cutover.
pub(super) struct Cutover {
    /// Everything that was delivered there after `from`, until `end`.
    pub entries: Vec<Arc<Entry>>,
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
    /// What the answer to a session's join of `room` says whose membership begins at `since`.
    pub fn heard(
        &self,
        session: &PublicId,
        room: &RoomName,
        since: Option<Position>,
        asked: bool,
    ) -> JoinResult {
        let in_reach = |at: &Position| self.end.as_ref().is_some_and(|end| end.epoch == at.epoch);
        let begin = if asked { later(since, self.from.as_ref()) } else { since };
        let end = || self.end.clone().expect("only a room whose log has begun is joined");
        let begin = begin.filter(in_reach).unwrap_or_else(end);
        let is_before = |entry: &&Arc<Entry>| {
            let message = entry.message();
            message.room == *room
                && message.position.seq <= begin.seq
                && message.except.as_ref() != Some(session)
        };
        let missed = self.entries.iter().filter(is_before).cloned().collect();
        let recovered = asked && self.lost.is_none();
        JoinResult { missed, recovered, begin, people: None }
    }
}

impl Chat {
    /// Waits until everything after `from`, or else after `instead`, can be told without a hole to
    /// those in these rooms of one partition,
    /// and calls `told` while nothing is delivered.
    /// A client that has gone is not waited for, and so held only while nothing is awaited.
    pub(super) async fn cut_over(
        &self,
        memberships: Weak<Memberships>,
        (partition, rooms): (u16, &[RoomName]),
        mut from: Option<Position>,
        mut instead: Option<Position>,
        told: impl FnOnce(&Memberships, Cutover),
    ) {
        let replay = &self.0.replay;
        let mut lost = None;
        let mut is_lost = false;
        loop {
            let turn = turn(&self.0.cutovers).await;
            let cutover = replay.cutover().await;
            let Some(memberships) = memberships.upgrade() else { return };
            let end = replay.position(partition);
            // Where the log was not known before, this node has heard all of it since it is.
            from = from.or_else(|| self.0.store.log.began(partition));
            let Some(after) = &from else {
                return told(&memberships, Cutover { entries: Vec::new(), from, end, lost });
            };
            let missed = replay.missed(partition, after, rooms);
            match missed {
                Missed::Entries { entries, end } => {
                    return told(&memberships, Cutover { entries, from, end: Some(end), lost });
                }
                Missed::Behind | Missed::Pipeline if !is_lost => {}
                Missed::OtherEpoch | Missed::Behind | Missed::Pipeline => {
                    let wished = std::mem::replace(&mut from, instead.take());
                    lost = lost.or(wished);
                    is_lost = false;
                    if from.is_none() {
                        let entries = Vec::new();
                        return told(
                            &memberships,
                            Cutover { entries, from: end.clone(), end, lost },
                        );
                    }
                    continue;
                }
            }
            drop(cutover);
            drop(turn);
            drop(memberships);
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
