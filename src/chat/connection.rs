//! One client's connection as the chat sees it: its session, its rooms, and what it has in flight.
//!
//! A connection holds its session for as long as it lives. Dropping it releases the session, ends
//! the delivery to its rooms and starts the grace period of its presence.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use parking_lot::Mutex;

use super::{Arrival, Chat, membership_list::MembershipList, messages::PendingAppends};
use crate::{
    delivery::subscriptions::Recipient,
    domain::{
        name::{PublicId, UserId},
        record::Body,
        reject::{Code, Reject},
        room::RoomName,
        visibility::may_use,
    },
    store::sessions::{Holder, SessionRecord},
    transport::registry::Admission,
};

/// Requests without an append, such as `join` or `history`, that one connection, or one user without
/// a connection, may have in flight.
const REQUESTS_MAX: u32 = 8;

#[derive(Debug)]
pub struct Connection {
    pub(super) chat: Chat,
    pub(super) holder: Holder,
    pub(super) recipient: Recipient,
    pub(super) public_id: PublicId,
    pub(super) user: UserId,
    pub(super) memberships: Mutex<MembershipList>,
    /// Held while memberships are stored: one change after the other, in the client's order.
    pub(super) saving: tokio::sync::Mutex<()>,
    /// Whether the memberships have changed since they were last stored.
    pub(super) is_stale: AtomicBool,
    pub(super) pending: Mutex<PendingAppends>,
    /// What a rule table made the session remember as `$me`: a JSON value.
    pub(super) me: Mutex<Option<Body>>,
    requests: Arc<RequestCounts>,
    _admission: Admission,
}

/// The user of a request, and the connection through which they ask, if there is one.
#[derive(Debug, Clone, Copy)]
pub struct Actor<'a> {
    pub user: &'a UserId,
    pub connection: Option<&'a Arc<Connection>>,
}

/// Permission for one request that is not answered yet. Dropping it allows the next one.
#[derive(Debug)]
#[must_use = "dropping it says that the request is answered"]
pub struct Permit {
    requests: Arc<RequestCounts>,
    counter: fn(&RequestCounts) -> &AtomicU32,
}

/// Requests of one connection, or of one user without a connection, that are not answered yet.
#[derive(Debug, Default)]
pub(super) struct RequestCounts {
    appends: AtomicU32,
    requests: AtomicU32,
}

/// The counts of users that ask without a connection. The entry of a user with no request in flight
/// goes before the map grows, so the map has at most twice as many entries as such users at a time.
#[derive(Debug, Default)]
pub(super) struct Visitors(Mutex<HashMap<UserId, Weak<RequestCounts>>>);

impl Visitors {
    fn requests(&self, user: &UserId) -> Arc<RequestCounts> {
        let mut visitors = self.0.lock();
        if let Some(requests) = visitors.get(user).and_then(Weak::upgrade) {
            return requests;
        }
        // Each entry is looked at once for every time that the map doubles.
        if visitors.len() == visitors.capacity() {
            visitors.retain(|_, requests| requests.strong_count() > 0);
        }
        let requests = Arc::default();
        visitors.insert(user.clone(), Arc::downgrade(&requests));
        requests
    }
}

impl RequestCounts {
    /// A permit for a message that waits to be stored.
    fn begin_append(self: Arc<Self>, max: u32) -> Result<Permit, Reject> {
        self.begin(|counts| &counts.appends, max).ok_or_else(|| {
            Reject::new(Code::Busy, "too many messages wait for their ack; wait for some")
        })
    }

    /// A permit for any other request that waits for the store.
    fn begin_request(self: Arc<Self>) -> Result<Permit, Reject> {
        self.begin(|counts| &counts.requests, REQUESTS_MAX).ok_or_else(|| {
            let why = format!(
                "{REQUESTS_MAX} requests wait for their answer; send the next one after an answer"
            );
            Reject::new(Code::Busy, why)
        })
    }

    fn begin(
        self: Arc<Self>,
        counter: fn(&RequestCounts) -> &AtomicU32,
        max: u32,
    ) -> Option<Permit> {
        let one_more = |count| (count < max).then_some(count + 1);
        counter(&self).fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        Some(Permit { requests: self, counter })
    }
}

impl Connection {
    pub(super) fn new(
        chat: Chat,
        arrival: &Arrival<'_>,
        public_id: PublicId,
        holder: Holder,
        record: SessionRecord,
        admission: Admission,
    ) -> Arc<Self> {
        Arc::new(Self {
            chat,
            holder,
            recipient: arrival.recipient,
            public_id,
            user: record.user,
            memberships: Mutex::new(MembershipList::restored(record.rooms)),
            saving: tokio::sync::Mutex::new(()),
            is_stale: AtomicBool::new(true),
            pending: Mutex::default(),
            me: Mutex::new(record.me),
            requests: Arc::default(),
            _admission: admission,
        })
    }

    pub fn public_id(&self) -> &PublicId {
        &self.public_id
    }

    pub fn user(&self) -> &UserId {
        &self.user
    }

    pub fn me(&self) -> Option<Body> {
        self.me.lock().clone()
    }

    pub fn actor(self: &Arc<Self>) -> Actor<'_> {
        Actor { user: &self.user, connection: Some(self) }
    }

    /// A permit for a request that waits for the store and appends nothing.
    pub(super) fn begin_request(&self) -> Result<Permit, Reject> {
        Arc::clone(&self.requests).begin_request()
    }

    /// A permit for a join. Clients of a rule table join all rooms of their user at once, and their
    /// joins read nothing, so they may be as many as messages.
    pub(super) fn begin_joining(&self) -> Result<Permit, Reject> {
        if self.recipient.dialect.features().join_has_missed {
            return self.begin_request();
        }
        Arc::clone(&self.requests).begin_append(self.chat.0.limits.in_flight_max)
    }

    /// Runs a task that ends with the node.
    pub(super) fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let tasks = self.chat.0.tasks.clone();
        self.chat.0.tasks.spawn(name, async move {
            tokio::select! {
                () = task => {}
                () = tasks.stopping() => {}
            }
        });
    }
}

impl<'a> Actor<'a> {
    /// A user that asks without a connection, for example by HTTP.
    pub fn user(user: &'a UserId) -> Self {
        Self { user, connection: None }
    }

    /// Checks that the actor may read and write in a room: it has joined it, or is one of the two
    /// users of the room. Without a connection every open room counts as joined.
    pub(super) fn check_inside(&self, room: &RoomName) -> Result<(), Reject> {
        let has_joined = || self.connection.is_none_or(|connection| connection.has_joined(room));
        may_use(self.user, room, has_joined)
    }

    pub(super) fn begin_append(&self, chat: &Chat) -> Result<Permit, Reject> {
        self.requests(chat).begin_append(chat.0.limits.in_flight_max)
    }

    pub(super) fn begin_request(&self, chat: &Chat) -> Result<Permit, Reject> {
        self.requests(chat).begin_request()
    }

    fn requests(&self, chat: &Chat) -> Arc<RequestCounts> {
        match self.connection {
            Some(connection) => Arc::clone(&connection.requests),
            None => chat.0.visitors.requests(self.user),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        (self.counter)(&self.requests).fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.leave_all();
        self.chat.release(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_without_a_connection_has_a_few_requests_at_a_time() {
        let (visitors, ann) = (Visitors::default(), UserId::parse("ann").unwrap());
        let request = |user: &UserId| visitors.requests(user).begin_request();
        let permits: Vec<Permit> = (0..REQUESTS_MAX).map(|_| request(&ann).unwrap()).collect();
        assert_eq!(request(&ann).unwrap_err().code, Code::Busy);
        assert!(request(&UserId::parse("bob").unwrap()).is_ok(), "another user");
        drop(permits);
        assert!(request(&ann).is_ok());
        let append = || visitors.requests(&ann).begin_append(2);
        let _two = [append().unwrap(), append().unwrap()];
        assert_eq!(append().unwrap_err().code, Code::Busy);
    }

    #[test]
    fn users_with_no_request_in_flight_are_forgotten() {
        let visitors = Visitors::default();
        let ann = visitors.requests(&UserId::parse("ann").unwrap());
        for number in 0..10_000 {
            drop(visitors.requests(&UserId::parse(&number.to_string()).unwrap()));
        }
        let known = visitors.0.lock();
        assert!(known.len() < 100, "{}", known.len());
        assert!(known.get("ann").is_some_and(|known| known.strong_count() == 1));
        drop(ann);
    }
}
