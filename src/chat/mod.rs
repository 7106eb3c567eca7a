//! What Roomcast can do: one set of use cases that every face calls.
//!
//! A face (sockets, later HTTP) turns a request into a call here and the result into an answer.
//! Every call takes an `Actor`: the user who asks, and the connection, if there is one. Nothing
//! here knows a socket, a header or a client's format.
//!
//! - `messages`: send, edit, delete, react; in each connection's order
//! - `events`: what a row of the rule table makes of an event
//! - `queries`: history, search, rooms, read marks, profile, typing
//! - `memberships`: join, leave, restore after a recovery
//! - `accounts`: sign up, log in, messages between accounts
//! - `sessions`: admit a client, recover its session, take it over
//! - `users`, `presence`: who is online here, who is in which room

pub mod accounts;
mod connection;
mod cutover;
mod events;
mod membership_list;
mod memberships;
mod messages;
mod presence;
mod queries;
mod sessions;
#[cfg(test)]
mod tests;
mod users;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Weak, atomic::AtomicU64},
};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use self::{
    connection::Visitors,
    messages::ListedDirectRooms,
    presence::Presence,
    sessions::{ADMISSIONS_MAX, REPLAY_KIB_MAX, ReplayedUpTo},
    users::OnlineUser,
};
pub use self::{
    connection::{Actor, Connection},
    cutover::JoinResult,
    events::EventResult,
    messages::Sent,
    queries::{ListedRooms, Neighbourhood},
    sessions::{Arrival, Returning},
    users::user_of_token,
};
use crate::{
    delivery::{broadcaster::Broadcaster, replay::ReplayBuffer, subscriptions::Subscriptions},
    domain::{
        name::UserId,
        presence::PresenceSettings,
        reject::{Code, Reject},
        request::Limits,
        room::RoomName,
    },
    shutdown::Tasks,
    store::{NodeEvent, NodeEvents, Store, error::ReadError, presence::Signal, sessions::Holder},
    transport::Sid,
};

/// Clients that wait for the cutover at a time. The relay waits in the same queue with them.
const CUTOVERS_MAX: usize = 16;

/// A clonable handle.
#[derive(Debug, Clone)]
pub struct Chat(Arc<Inner>);

struct Inner {
    store: Store,
    limits: Limits,
    subscriptions: Subscriptions,
    replay: ReplayBuffer,
    tasks: Tasks,
    presence: Presence,
    /// The socket of each session that a connection of this node holds. Two connections that claim
    /// one session can both be here, with different holders.
    held: Mutex<HashMap<Holder, Sid>>,
    /// Connections whose clients are just being told that they are connected.
    restoring: Mutex<HashMap<Sid, (Weak<Connection>, ReplayedUpTo)>>,
    /// Memory, in KiB, for records that returning clients missed and have not received yet.
    replay_budget: Arc<Semaphore>,
    admissions: Semaphore,
    cutovers: Semaphore,
    /// Users with a connection here that takes part in presence.
    users: Mutex<HashMap<UserId, OnlineUser>>,
    /// How often all users had to be registered again.
    registrations: AtomicU64,
    visitors: Visitors,
    /// Rooms of two users that both users have in their list.
    listed_direct_rooms: Mutex<ListedDirectRooms>,
}

/// Counts of what is kept per connection, so that tests can see that it is freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Sessions that connections of this node hold.
    pub connections: usize,
    /// Those of them whose client is just being told that it is connected.
    pub restoring: usize,
    /// Clients whose CONNECT reply was not sent yet.
    pub connect_replies: usize,
    /// Rooms with a subscribed socket.
    pub rooms: usize,
    /// Sessions that can be addressed alone.
    pub addressed: usize,
}

impl Chat {
    pub fn new(
        store: Store,
        limits: Limits,
        subscriptions: Subscriptions,
        replay: ReplayBuffer,
        tasks: Tasks,
    ) -> Self {
        let settings = PresenceSettings::default();
        let presence = Presence::new(store.clone(), replay.clone(), tasks.clone(), settings);
        Self(Arc::new(Inner {
            store,
            limits,
            subscriptions,
            replay,
            tasks,
            presence,
            held: Mutex::default(),
            restoring: Mutex::default(),
            replay_budget: Arc::new(Semaphore::new(REPLAY_KIB_MAX)),
            admissions: Semaphore::new(ADMISSIONS_MAX),
            cutovers: Semaphore::new(CUTOVERS_MAX),
            users: Mutex::default(),
            registrations: AtomicU64::default(),
            visitors: Visitors::default(),
            listed_direct_rooms: Mutex::default(),
        }))
    }

    /// Starts to emit presence. Call it once, before any client connects.
    pub fn open(&self, broadcaster: Broadcaster) {
        let telling = self.0.presence.clone().tell_online_accounts(broadcaster.clone());
        self.0.tasks.spawn_vital("online accounts", telling);
        self.0.tasks.spawn_vital("presence", self.0.presence.clone().run(broadcaster));
        self.0.tasks.spawn_vital("rosters", self.0.presence.clone().read_rosters());
    }

    /// Handles the store's node events until the store or the node stops.
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
            NodeEvent::SessionTaken { holder, .. } => self.superseded(holder),
            NodeEvent::Signal(signal) => {
                if let Signal::Profile { user } = &signal {
                    self.apply_profile(user, None);
                }
                self.0.presence.on_event(signal);
            }
            NodeEvent::SignalsLost { partition } => {
                self.0.presence.invalidate(partition);
                // The store may have lost its content, and with it the users' lists of rooms.
                self.0.listed_direct_rooms.lock().clear();
                self.register_again();
            }
        }
    }

    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    pub fn counts(&self) -> Counts {
        Counts {
            connections: self.0.held.lock().len(),
            restoring: self.0.restoring.lock().len(),
            connect_replies: self.0.subscriptions.connect_replies_waiting(),
            rooms: self.0.subscriptions.rooms().len(),
            addressed: self.0.subscriptions.addressed_count(),
        }
    }

    fn partition(&self, room: &RoomName) -> u16 {
        self.0.store.log.partition(room)
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("store", &self.store).finish_non_exhaustive()
    }
}

async fn acquire(permits: &Semaphore) -> SemaphorePermit<'_> {
    permits.acquire().await.expect("the semaphore is never closed")
}

/// The answer to a request that the store could not serve; `what` is for the operator's log.
fn unavailable(what: &'static str) -> impl Fn(ReadError) -> Reject {
    move |error| {
        tracing::debug!(%error, "{what} failed");
        Reject::new(Code::Unavailable, "the log cannot be reached")
    }
}
