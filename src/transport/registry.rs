//! All connections of the node: which session has which lane and rooms, and what waits for them.
//!
//! Locks nest in this order: a flush queue, a shard, a lane. The engine may drop a socket, and with
//! it an `Admission`, under its own lock; so nothing here asks the engine while a shard is locked.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use socketioxide_core::{
    Sid,
    adapter::{BroadcastFlags, BroadcastOptions, Room},
    packet::Packet,
};
use tokio::sync::Notify;

use crate::{
    shutdown::Tasks,
    transport::{
        close::CloseReason,
        connect_reply::{self, ConnectReply},
        connection::Shard,
        flush::queue::{FlushQueue, Outgoing, TO_ONE_OR_ALL},
        lane::{Busy, Effects, Ended, InFlight, Lane},
        namespace::Namespace,
        packet,
        sessions::EngineSessions,
        settings::{TransportCounters, TransportSettings},
        supervisor::inbox::SupervisorQueue,
    },
};

/// A clonable handle.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    settings: TransportSettings,
    counters: TransportCounters,
    /// One for each flush task, so that flush tasks do not share a lock.
    shards: Box<[Mutex<Shard>]>,
    queues: Box<[FlushQueue]>,
    namespace: Namespace,
    inbox: SupervisorQueue,
    sessions: EngineSessions,
    /// Numbers admissions.
    admissions: AtomicU64,
    somebody_left: Notify,
    tasks: Tasks,
}

/// A session's place in the namespace. When it is dropped the session is in no room any more, and
/// its connect reply, if it still waits, is forgotten.
#[derive(Debug)]
pub struct Admission {
    registry: Registry,
    sid: Sid,
    number: u64,
}

impl Registry {
    pub(super) fn new(settings: TransportSettings, tasks: &Tasks) -> Self {
        let flush_tasks = settings.flush_tasks.max(1);
        Self(Arc::new(Inner {
            settings: TransportSettings { flush_tasks, ..settings },
            counters: TransportCounters::default(),
            shards: (0..flush_tasks).map(|_| Mutex::default()).collect(),
            queues: (0..flush_tasks).map(|_| FlushQueue::default()).collect(),
            namespace: Namespace::default(),
            inbox: SupervisorQueue::default(),
            sessions: EngineSessions::new(settings.sessions_max),
            admissions: AtomicU64::new(0),
            somebody_left: Notify::new(),
            tasks: tasks.clone(),
        }))
    }

    pub fn settings(&self) -> &TransportSettings {
        &self.0.settings
    }

    pub fn counters(&self) -> &TransportCounters {
        &self.0.counters
    }

    /// Sessions that have a lane now.
    pub fn count(&self) -> u64 {
        // In this order the difference is never below zero.
        let closed = self.0.counters.closed.load(Ordering::Acquire);
        self.0.counters.opened.load(Ordering::Acquire) - closed
    }

    pub fn sessions(&self) -> &EngineSessions {
        &self.0.sessions
    }

    /// Whether the engine has this session.
    pub fn has_session(&self, sid: Sid) -> bool {
        self.0.sessions.polls(sid) || self.lane(sid).is_some()
    }

    /// The session's lane. A polling session has none.
    pub fn lane(&self, sid: Sid) -> Option<Arc<Lane>> {
        self.shard_of(sid).lane(sid).cloned()
    }

    /// The lanes of some sessions of one shard, in their order.
    pub(super) fn lanes(&self, shard: usize, sids: &[Sid]) -> Vec<Option<Arc<Lane>>> {
        self.0.shards[shard].lock().lanes(sids)
    }

    /// Counts a request of this session until the guard is dropped. `None`: the session polls, and
    /// nothing can be held back.
    pub fn begin(&self, sid: Sid) -> Result<Option<InFlight>, Busy> {
        self.lane(sid).map(|lane| lane.begin(&self.0.settings)).transpose()
    }

    /// Sends a packet to one socket, in one order with every broadcast and every other `send`.
    /// Acks and replies go this way: what goes through the engine's own queue has no order
    /// relative to what goes through a lane. The request that the packet answers, if any, is in
    /// flight until the packet is delivered. Never waits: requests in flight bound their answers.
    pub fn send(&self, sid: Sid, packet: Packet, answers: Option<InFlight>) {
        let outgoing = Outgoing::new(packet, BroadcastOptions::new(sid), answers);
        self.queue_of(sid).push(outgoing);
    }

    /// An event for one socket, in the same order.
    pub fn emit(&self, sid: Sid, event: &str, arguments: &impl Serialize) {
        self.send(sid, packet::event(event, arguments), None);
    }

    /// The same for an event that another client caused: it waits while a flush is far behind, as
    /// broadcasts do.
    pub async fn emit_when_not_full(&self, sid: Sid, event: &str, arguments: &impl Serialize) {
        self.broadcast(packet::event(event, arguments), BroadcastOptions::new(sid)).await;
    }

    /// Queues a packet for all sockets of the audience. Waits only while a flush is far behind.
    pub(super) async fn broadcast(&self, packet: Packet, audience: BroadcastOptions) {
        for queue in &self.0.queues {
            loop {
                let drained = queue.drained.notified();
                if !queue.is_full() || self.0.tasks.is_stopping() {
                    break;
                }
                drained.await;
            }
        }
        let outgoing = Outgoing::new(packet, audience, None);
        for queue in &self.0.queues {
            queue.push(Arc::clone(&outgoing));
        }
    }

    /// Admits a session to the namespace. `reply` is what the client is told in place of the
    /// engine's CONNECT reply. Keep the admission for as long as the socket.
    pub fn admit(&self, sid: Sid, reply: Option<ConnectReply>) -> Admission {
        let number = self.0.admissions.fetch_add(1, Ordering::Relaxed) + 1;
        self.shard_of(sid).admit(sid, number, reply);
        Admission { registry: self.clone(), sid, number }
    }

    /// To be called when the session was admitted, before the engine sends its CONNECT reply.
    /// Nothing that is broadcast may reach the client before that reply, also when the client comes
    /// back on a connection on which it has left: what waits for this connection alone was meant
    /// for the session before.
    pub fn entering(&self, sid: Sid) {
        let mut queue = self.queue_of(sid).lock();
        if let Some(lane) = self.lane(sid) {
            lane.entering(queue.first);
        }
        queue.join(sid, TO_ONE_OR_ALL);
    }

    /// Adds the socket to a room: it gets what is broadcast from now on, and nothing older that is
    /// still on its way. A member stays one, and misses nothing.
    pub fn join(&self, sid: Sid, room: Room) {
        let mut queue = self.queue_of(sid).lock();
        if !self.shard_of(sid).join(sid, &room) {
            return;
        }
        if self.is_connected(sid) {
            queue.join(sid, room);
        } else {
            // It has left its rooms before this, and will not leave them again.
            self.leave_all(sid);
        }
    }

    /// Takes the socket out of a room, at once.
    pub fn leave(&self, sid: Sid, room: &str) {
        self.shard_of(sid).leave(sid, room);
    }

    /// Takes the socket out of all rooms: it has left the namespace.
    pub fn leave_all(&self, sid: Sid) {
        self.shard_of(sid).leave_all(sid);
    }

    /// How many sockets are in a room.
    pub fn sockets_in(&self, room: &'static str) -> usize {
        let mut audience = BroadcastOptions::default();
        audience.rooms.push(room.into());
        (0..self.0.shards.len()).map(|shard| self.audience(shard, &audience).len()).sum()
    }

    /// Whether the session is in the namespace.
    pub fn is_connected(&self, sid: Sid) -> bool {
        self.0.namespace.is_connected(sid)
    }

    /// Whether the session is in any namespace.
    pub fn is_in_any_namespace(&self, sid: Sid) -> bool {
        self.0.namespace.is_in_any(sid)
    }

    pub fn has_connect_reply(&self, sid: Sid) -> bool {
        self.shard_of(sid).has_connect_reply(sid)
    }

    /// How many clients have not been told yet that they are connected.
    pub fn connect_replies_waiting(&self) -> usize {
        self.0.shards.iter().map(|shard| shard.lock().connect_replies()).sum()
    }

    /// The body of a poll, with the session's connect reply in place of the engine's.
    pub fn replace_connect_reply(&self, sid: Sid, payload: Bytes) -> Bytes {
        if !connect_reply::is_in(&payload) {
            return payload;
        }
        let reply = self.shard_of(sid).take_connect_reply(sid);
        match reply {
            Some(reply) => reply.into_payload(&payload),
            None => payload,
        }
    }

    /// Ends one session's transport. The client sees a lost connection.
    pub fn close(&self, sid: Sid, reason: CloseReason) {
        match self.lane(sid) {
            Some(lane) => self.close_lane(&lane, reason),
            None => self.0.inbox.end_session(sid),
        }
    }

    /// Ends a lane, whether it belongs to a session or not.
    pub(super) fn close_lane(&self, lane: &Arc<Lane>, reason: CloseReason) {
        self.carry_out(lane, lane.close(reason));
    }

    /// Ends every transport, so that clients go to another node.
    pub fn close_all(&self) {
        for shard in &self.0.shards {
            let sids: Vec<Sid> = shard.lock().sids().collect();
            for sid in sids {
                self.close(sid, CloseReason::GoingAway);
            }
        }
    }

    /// Waits until everything that was broadcast or sent has reached its lanes and queues.
    pub async fn delivered(&self) {
        for queue in &self.0.queues {
            loop {
                let drained = queue.drained.notified();
                if queue.is_idle() {
                    break;
                }
                drained.await;
            }
        }
    }

    /// Waits until no lane is left, and all last bytes are written.
    pub async fn emptied(&self) {
        loop {
            let somebody_left = self.0.somebody_left.notified();
            if self.count() == 0 && !self.0.inbox.is_busy() {
                return;
            }
            somebody_left.await;
        }
    }

    /// Does what a lane has asked for.
    pub(super) fn carry_out(&self, lane: &Arc<Lane>, effects: Effects) {
        if effects.is_none() {
            return;
        }
        if effects.watch {
            self.0.inbox.watch(Arc::clone(lane));
        }
        if let Some(ended) = effects.ended {
            self.ended(*ended);
        }
        if let Some(sid) = effects.opened {
            self.opened(sid, lane);
        }
        if let Some(sid) = effects.connected {
            self.queue_of(sid).push_connected(sid);
        }
    }

    fn ended(&self, ended: Ended) {
        let Ended { sid, reason, bytes_waiting, farewell } = ended;
        if let Some(farewell) = farewell {
            self.0.inbox.farewell(farewell);
        }
        let counters = &self.0.counters;
        let counter = match reason {
            CloseReason::TooSlow => &counters.cut_backlog,
            CloseReason::Stalled => &counters.cut_stall,
            CloseReason::MessageTooBig => &counters.cut_too_large,
            CloseReason::NotConnected
            | CloseReason::GoingAway
            | CloseReason::SessionEnded
            | CloseReason::DuplicateWebsocket
            | CloseReason::SessionTaken
            | CloseReason::TryAgainLater => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        // The id lets others post into a polling session, but a lane's session no longer polls.
        tracing::info!(?reason, bytes_waiting, session = ?sid, "cut a client's connection");
    }

    /// The session has this lane, or will have it when its upgrade is through. `false`: it has
    /// another one.
    pub(super) fn opened(&self, sid: Sid, lane: &Arc<Lane>) -> bool {
        let is_new = self.shard_of(sid).open(sid, lane);
        if is_new {
            self.0.counters.opened.fetch_add(1, Ordering::Release);
        }
        is_new
    }

    /// The engine has given up its end of the lane.
    pub(super) fn closed(&self, lane: &Arc<Lane>) {
        let remains = lane.give_up();
        if let Some(farewell) = remains.farewell {
            self.0.inbox.farewell(farewell);
        }
        if let Some(sid) = remains.sid
            && self.remove(sid, lane)
        {
            self.0.counters.closed.fetch_add(1, Ordering::Release);
            // engineioxide keeps a session whose upgrade failed, for ever. A session that did
            // upgrade has ended with its lane, and may be ended once more.
            if lane.is_upgrade() {
                self.0.inbox.end_session(sid);
            }
        }
        self.somebody_left();
    }

    fn remove(&self, sid: Sid, lane: &Arc<Lane>) -> bool {
        self.shard_of(sid).close(sid, lane)
    }

    pub(super) fn somebody_left(&self) {
        self.0.somebody_left.notify_waiters();
    }

    /// A polling session's queue was full, and a message for it could not be kept.
    pub(super) fn overrun(&self, sid: Sid) {
        self.0.counters.polling_overrun.fetch_add(1, Ordering::Relaxed);
        tracing::info!("ended a polling session that fetches too slowly");
        self.0.inbox.end_session(sid);
    }

    /// The sockets of one shard that are in the audience.
    pub(super) fn audience(&self, shard: usize, audience: &BroadcastOptions) -> Vec<Sid> {
        let is_here = |sid: &Sid| self.shard_index(*sid) == shard;
        let is_broadcast = audience.has_flag(BroadcastFlags::Broadcast);
        let everybody = match audience.rooms.as_slice() {
            [] if is_broadcast => self.0.namespace.sids().into_iter().filter(is_here).collect(),
            [] => return audience.sid.filter(is_here).into_iter().collect(),
            _ => Vec::new(),
        };
        self.0.shards[shard].lock().audience(audience, everybody)
    }

    pub(super) fn is_in(&self, sid: Sid, room: &str) -> bool {
        self.shard_of(sid).is_in(sid, room)
    }

    pub(super) fn namespace(&self) -> &Namespace {
        &self.0.namespace
    }

    pub(super) fn queue(&self, shard: usize) -> &FlushQueue {
        &self.0.queues[shard]
    }

    pub(super) fn inbox(&self) -> &SupervisorQueue {
        &self.0.inbox
    }

    pub(super) fn tasks(&self) -> &Tasks {
        &self.0.tasks
    }

    fn queue_of(&self, sid: Sid) -> &FlushQueue {
        &self.0.queues[self.shard_index(sid)]
    }

    fn shard_of(&self, sid: Sid) -> MutexGuard<'_, Shard> {
        self.0.shards[self.shard_index(sid)].lock()
    }

    fn shard_index(&self, sid: Sid) -> usize {
        // Session ids are random, so this spreads them well.
        let sum: usize = sid.as_str().bytes().map(usize::from).sum();
        sum % self.0.shards.len()
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.registry.shard_of(self.sid).dismiss(self.sid, self.number);
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("settings", &self.0.settings)
            .field("counters", &self.0.counters)
            .finish_non_exhaustive()
    }
}
