//! Which rooms a connection is in, as a list that says what follows from a change.
//!
//! Nothing here awaits, locks or reaches the store: `memberships.rs` does that.

use crate::domain::{
    position::Position,
    reject::{Code, Reject},
    room::RoomName,
    visibility::{JoinedRoom, hears, not_joined},
};

#[derive(Debug)]
pub struct MembershipList {
    pub all: Vec<Membership>,
    /// The client has left the namespace. The next session on this connection is another one, and
    /// must get nothing that was meant for this one.
    pub has_disconnected: bool,
    /// Numbers the joins: a room may be left and joined again while a join is in flight.
    joins: u64,
}

/// A room that a connection has joined.
#[derive(Debug)]
pub struct Membership {
    pub joined: JoinedRoom,
    pub state: MembershipState,
    /// A leave is being stored: the client counts as outside already, but still receives events.
    pub is_leaving: bool,
    /// Whether the user is counted among the room's members.
    pub is_counted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MembershipState {
    /// Waits for the cutover after the CONNECT reply.
    Restoring,
    /// Waits for the cutover of this join.
    Joining(u64),
    /// The room's events reach the socket.
    Live,
}

/// The state of the room when a join begins.
#[derive(Debug)]
pub struct JoinStart {
    /// The client has, or gets as events, what is in the room after this position.
    pub since: Option<Position>,
    /// The number of the join, if the membership is a new one.
    pub number: Option<u64>,
    /// Whether the client receives the room's events already.
    pub receives_events_already: bool,
}

impl MembershipList {
    pub fn restored(rooms: Vec<JoinedRoom>) -> Self {
        let restoring = |joined| Membership {
            joined,
            state: MembershipState::Restoring,
            is_leaving: false,
            is_counted: false,
        };
        let all = rooms.into_iter().map(restoring).collect();
        Self { all, has_disconnected: false, joins: 0 }
    }

    /// The memberships that are not being left.
    pub fn open(&self) -> impl Iterator<Item = &Membership> {
        self.all.iter().filter(|membership| !membership.is_leaving)
    }

    /// Adds a room, unless it is there already.
    pub fn join(
        &mut self,
        room: &RoomName,
        now: Position,
        rooms_max: usize,
    ) -> Result<JoinStart, Reject> {
        let told_by = |one: &&Membership| one.joined.room != *room && hears(&one.joined.room, room);
        let personal = self.open().find(told_by).map(|one| one.joined.since.clone());
        if let Some(known) = self.all.iter_mut().find(|one| one.joined.room == *room) {
            known.is_leaving = false;
            let since = personal.unwrap_or_else(|| known.joined.since.clone());
            return Ok(JoinStart { since, number: None, receives_events_already: true });
        }
        let joined = self.open().filter(|one| !one.joined.room.is_personal()).count();
        if joined >= rooms_max {
            let why = format!("this connection is in {joined} rooms; leave one");
            return Err(Reject::new(Code::TooMany, why));
        }
        self.joins += 1;
        let joined = JoinedRoom { room: room.clone(), since: Some(now.clone()) };
        // Most clients are in one or two rooms, so the vector must not reserve more.
        self.all.reserve_exact(1);
        let state = MembershipState::Joining(self.joins);
        self.all.push(Membership { joined, state, is_leaving: false, is_counted: false });
        let receives_events_already = personal.is_some();
        let since = personal.unwrap_or(Some(now));
        Ok(JoinStart { since, number: Some(self.joins), receives_events_already })
    }

    pub fn begin_leave(&mut self, room: &RoomName) -> Result<(), Reject> {
        let is_it = |one: &&mut Membership| one.joined.room == *room && !one.is_leaving;
        let membership = self.all.iter_mut().find(is_it).ok_or_else(|| not_joined(room))?;
        membership.is_leaving = true;
        Ok(())
    }
}

impl Membership {
    pub fn is_live(&self) -> bool {
        self.state == MembershipState::Live
    }
}
