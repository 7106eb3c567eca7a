//! Which session has which lane, and what concerns all of them.

use std::{
    collections::HashMap,
    hint::black_box,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use socketioxide_core::{
    Sid,
    adapter::{BroadcastOptions, Room},
    packet::Packet,
};
use tokio::sync::Notify;

use crate::shutdown::Tasks;
use crate::{
    dialects::Event,
    transport::{
        connect_reply::{ConnectReply, ConnectReplyGuard},
        flush::Flusher,
        lane::{Busy, Cut, InFlight, Lane},
        supervisor::{EndPolling, Farewell, Supervisor},
    },
};

/// The bounds of a lane, and how many flush_tasks share the work.
#[derive(Debug, Clone, Copy)]
pub struct TransportSettings {
    /// Bytes that may wait for one client.
    pub backlog_bytes_max: usize,
    /// How long a client may take nothing of what waits.
    pub stall_max: Duration,
    /// How long a connection's last bytes may take.
    pub farewell_max: Duration,
    /// Payload of one client message.
    pub message_bytes_max: u64,
    /// Requests of one client that may be unanswered before its lane stops reading.
    pub in_flight_max: u32,
    /// How long it stops; well below the ping timeout.
    pub read_pause_max: Duration,
    /// Flush flush_tasks that run beside each other: one per core.
    pub flush_tasks: usize,
}

impl Default for TransportSettings {
    fn default() -> Self {
        Self {
            backlog_bytes_max: 1 << 20,
            stall_max: Duration::from_secs(15),
            farewell_max: Duration::from_secs(5),
            message_bytes_max: 64 << 10,
            in_flight_max: 256,
            read_pause_max: Duration::from_secs(10),
            flush_tasks: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// What happened to registry since the start.
#[derive(Debug, Default)]
pub struct TransportCounters {
    pub opened: AtomicU64,
    pub closed: AtomicU64,
    pub cut_backlog: AtomicU64,
    pub cut_stall: AtomicU64,
    pub cut_too_large: AtomicU64,
    /// Polling sessions ended because their queue was full.
    pub polling_overrun: AtomicU64,
}

/// A clonable handle to every lane.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

/// A pass looks every client up, so hashing must be quick. It is seeded at random, because whoever
/// upgrades names his session.
pub(super) type BySession<T> = HashMap<Sid, T, foldhash::fast::RandomState>;

type Sessions = BySession<Arc<Lane>>;

struct Inner {
    settings: TransportSettings,
    counters: TransportCounters,
    /// One map per pass, so that flush_tasks do not meet.
    sessions: Box<[Mutex<Sessions>]>,
    supervisor: Supervisor,
    flush_tasks: OnceLock<Flusher>,
    /// For clients whose CONNECT reply has not passed yet.
    connect_replies: Mutex<BySession<(u64, ConnectReply)>>,
    /// Numbers connect_replies: a session may have another one before its first is forgotten.
    welcomed: AtomicU64,
    end_polling: OnceLock<EndPolling>,
    somebody_left: Notify,
    tasks: Tasks,
    delivering: Tasks,
}

impl Registry {
    /// Flusher are `delivering`; whatever else there is to do for registry is among the `tasks`.
    pub fn new(settings: TransportSettings, tasks: &Tasks, delivering: &Tasks) -> Self {
        let flush_tasks = settings.flush_tasks.max(1);
        let registry = Self(Arc::new(Inner {
            settings: TransportSettings { flush_tasks, ..settings },
            counters: TransportCounters::default(),
            sessions: (0..flush_tasks).map(|_| Mutex::default()).collect(),
            supervisor: Supervisor::default(),
            flush_tasks: OnceLock::new(),
            connect_replies: Mutex::default(),
            welcomed: AtomicU64::new(0),
            end_polling: OnceLock::new(),
            somebody_left: Notify::new(),
            tasks: tasks.clone(),
            delivering: delivering.clone(),
        }));
        tasks.spawn_vital("lane supervisor", Supervisor::run(registry.clone(), tasks.clone()));
        registry
    }

    pub fn settings(&self) -> &TransportSettings {
        &self.0.settings
    }

    pub fn counters(&self) -> &TransportCounters {
        &self.0.counters
    }

    /// Connections that have a lane now.
    pub fn count(&self) -> usize {
        (0..self.0.sessions.len()).map(|shard| self.shard(shard).len()).sum()
    }

    /// The session's lane; a polling session has none.
    pub fn lane(&self, sid: Sid) -> Option<Arc<Lane>> {
        self.shard(self.shard_of(sid)).get(&sid).cloned()
    }

    /// The registry of some sessions of one pass, in their order.
    pub(super) fn lanes_of(&self, shard: usize, sids: &[Sid]) -> Vec<Option<Arc<Lane>>> {
        let sessions = self.shard(shard);
        let found: Vec<Option<&Arc<Lane>>> = sids.iter().map(|sid| sessions.get(sid)).collect();
        // Since a lane was last written to, the system has had the caches for itself. Plain reads
        // wait for memory side by side; cloning one after the other does not.
        black_box(found.iter().flatten().map(|lane| Arc::strong_count(lane)).sum::<usize>());
        found.into_iter().map(Option::<&_>::cloned).collect()
    }

    /// Counts a request of this session until the guard is dropped. `None`: it polls, and nothing
    /// can be held back.
    pub fn begin(&self, sid: Sid) -> Result<Option<InFlight>, Busy> {
        self.lane(sid).map(|lane| lane.begin()).transpose()
    }

    /// Sends a packet to one socket, in one order with every broadcast and every other `send`.
    /// Acks and replies go this way: what goes through socketioxide's own queue has no order
    /// relative to what goes through a lane.
    /// The request that it answers, if any, is over when it is delivered.
    pub fn send(&self, sid: Sid, packet: Packet, answers: Option<InFlight>) {
        self.flush_tasks().send(sid, packet, answers);
    }

    /// An event for one socket, in the same order.
    pub fn emit(&self, sid: Sid, event: &Event<'_>) {
        self.send(sid, self.flush_tasks().packet(event), None);
    }

    /// The same for what others say, and so it waits while a pass is far behind, as broadcasts do.
    pub async fn emit_in_turn(&self, sid: Sid, event: &Event<'_>) {
        self.broadcast(self.flush_tasks().packet(event), BroadcastOptions::new(sid)).await;
    }

    /// An event as it goes out on a websocket.
    pub fn frame(&self, event: &Event<'_>) -> Bytes {
        let flush_tasks = self.flush_tasks();
        flush_tasks.frame(flush_tasks.packet(event))
    }

    /// Takes the socket out of a room, at once.
    pub fn leave(&self, sid: Sid, room: Room) {
        self.flush_tasks().leave(sid, room);
    }

    /// Says that a session was admitted to the namespace, before its CONNECT reply is sent: nothing
    /// that is broadcast may reach the client before that reply, also when it comes back on a
    /// connection on which it has left.
    pub fn entering(&self, sid: Sid) {
        self.flush_tasks().entering(sid);
    }

    /// Adds the socket to a room: it gets what is broadcast from now on, and nothing older that
    /// is still on its way.
    pub fn join(&self, sid: Sid, room: Room) {
        self.flush_tasks().join(sid, room);
    }

    /// What the client is told in place of its next CONNECT reply. Keep the connect_reply for as long
    /// as the client is there.
    pub fn set_connect_reply(&self, sid: Sid, connect_reply: ConnectReply) -> ConnectReplyGuard {
        let number = self.0.welcomed.fetch_add(1, Ordering::Relaxed);
        self.connect_replies().insert(sid, (number, connect_reply));
        ConnectReplyGuard::new(self.clone(), sid, number)
    }

    pub fn has_connect_reply(&self, sid: Sid) -> bool {
        self.connect_replies().contains_key(&sid)
    }

    /// How many clients have not been told yet that they are connected.
    pub fn connect_replies_waiting(&self) -> usize {
        self.connect_replies().len()
    }

    pub(super) fn take_connect_reply(&self, sid: Sid) -> Option<ConnectReply> {
        self.connect_replies().remove(&sid).map(|(_, connect_reply)| connect_reply)
    }

    pub(super) fn forget_connect_reply(&self, sid: Sid, number: u64) {
        let mut connect_replies = self.connect_replies();
        if connect_replies.get(&sid).is_some_and(|(known, _)| *known == number) {
            connect_replies.remove(&sid);
        }
    }

    fn connect_replies(&self) -> MutexGuard<'_, BySession<(u64, ConnectReply)>> {
        self.0.connect_replies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the session is in the namespace.
    pub fn is_connected(&self, sid: Sid) -> bool {
        self.flush_tasks().is_connected(sid)
    }

    /// Ends one session's transport. The client sees a lost connection and comes back.
    pub fn close(&self, sid: Sid, code: u16, reason: &'static str) {
        match self.lane(sid) {
            Some(lane) => lane.close(code, reason),
            None => self.0.supervisor.end_session(sid),
        }
    }

    /// Ends every transport, so that clients go elsewhere. No DISCONNECT packet: after one of
    /// those they would stay away.
    pub fn close_all(&self) {
        for sid in self.0.flush_tasks.get().map(Flusher::sessions).unwrap_or_default() {
            self.close(sid, 1001, "going away");
        }
        // Those that have not reached the namespace.
        for shard in 0..self.0.sessions.len() {
            let registry: Vec<_> = self.shard(shard).values().cloned().collect();
            for lane in registry {
                lane.close(1001, "going away");
            }
        }
    }

    /// Waits until everything that was broadcast or sent has reached its registry and queues.
    pub async fn delivered(&self) {
        if let Some(flush_tasks) = self.0.flush_tasks.get() {
            flush_tasks.idle().await;
        }
    }

    /// Waits until no lane is left, and everybody was told.
    pub async fn emptied(&self) {
        loop {
            let somebody_left = self.0.somebody_left.notified();
            if self.count() == 0 && !self.0.supervisor.is_busy() {
                return;
            }
            somebody_left.await;
        }
    }

    pub(super) async fn broadcast(&self, packet: Packet, audience: BroadcastOptions) {
        self.flush_tasks().broadcast(packet, audience).await;
    }

    pub(super) fn set_flusher(&self, flush_tasks: Flusher) {
        let first = self.0.flush_tasks.set(flush_tasks).is_ok();
        assert!(first, "one set of registry serves one namespace");
    }

    fn flush_tasks(&self) -> &Flusher {
        self.0.flush_tasks.get().expect("the namespace is made before anybody can connect to it")
    }

    pub(super) fn set_end_polling(&self, end_polling: EndPolling) {
        let first = self.0.end_polling.set(end_polling).is_ok();
        assert!(first, "one set of registry serves one Socket.IO service");
    }

    pub(super) fn end_polling(&self, sid: Sid) -> BoxFuture<'static, ()> {
        let Some(end_polling) = self.0.end_polling.get() else {
            return Box::pin(std::future::ready(()));
        };
        let (ended, registry) = (end_polling(sid), self.clone());
        Box::pin(async move {
            ended.await;
            // It may have upgraded just then, and does not poll any more.
            if let Some(lane) = registry.lane(sid) {
                lane.close(1001, "the session was ended");
            }
        })
    }

    pub(super) fn delivering(&self) -> &Tasks {
        &self.0.delivering
    }

    pub(super) fn tasks(&self) -> &Tasks {
        &self.0.tasks
    }

    pub(super) fn supervisor(&self) -> &Supervisor {
        &self.0.supervisor
    }

    pub(super) fn shard_of(&self, sid: Sid) -> usize {
        // Session ids are random, so this spreads them well.
        let sum: usize = sid.as_str().bytes().map(usize::from).sum();
        sum % self.0.sessions.len()
    }

    /// The session's lane is born, or is about to take over from polling. `false`: it has one.
    pub(super) fn opened(&self, sid: Sid, lane: &Arc<Lane>) -> bool {
        let mut sessions = self.shard(self.shard_of(sid));
        if sessions.contains_key(&sid) {
            return false;
        }
        sessions.insert(sid, Arc::clone(lane));
        self.0.counters.opened.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// The namespace knows the session now, or will soon answer again: time for the marker.
    pub(super) fn connected(&self, sid: Sid) {
        if let Some(flush_tasks) = self.0.flush_tasks.get() {
            flush_tasks.connected(sid);
        }
    }

    pub(super) fn closed(&self, sid: Option<Sid>, lane: &Arc<Lane>, upgrades: Option<Sid>) {
        let was_known = sid.is_some_and(|sid| {
            let mut sessions = self.shard(self.shard_of(sid));
            let is_this = sessions.get(&sid).is_some_and(|known| Arc::ptr_eq(known, lane));
            if is_this {
                sessions.remove(&sid);
                if sessions.capacity() > 64 && sessions.len() < sessions.capacity() / 8 {
                    sessions.shrink_to_fit();
                }
            }
            is_this
        });
        if was_known {
            self.0.counters.closed.fetch_add(1, Ordering::Relaxed);
        }
        // engineioxide keeps a session whose upgrade failed, for ever. A session that did upgrade
        // has ended with its lane, and does not mind being ended again.
        if let (true, Some(sid)) = (was_known, upgrades) {
            self.0.supervisor.end_session(sid);
        }
        self.somebody_left();
    }

    pub(super) fn somebody_left(&self) {
        self.0.somebody_left.notify_waiters();
    }

    pub(super) fn watch(&self, lane: Arc<Lane>) {
        self.0.supervisor.watch(lane);
    }

    pub(super) fn farewell(&self, farewell: Farewell) {
        self.0.supervisor.farewell(farewell);
    }

    pub(super) fn cut(&self, sid: Option<Sid>, why: Cut, bytes_waiting: usize) {
        let counters = &self.0.counters;
        let counter = match why {
            Cut::Backlog => &counters.cut_backlog,
            Cut::Stall => &counters.cut_stall,
            Cut::TooLarge => &counters.cut_too_large,
            Cut::Closed => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        // The id lets whoever knows it into a polling session; a lane's session no longer polls.
        tracing::info!(?why, bytes_waiting, session = ?sid, "cut a client's connection");
    }

    /// A polling session's queue was full, and a message for it could not be kept.
    pub(super) fn overrun(&self, sid: Sid) {
        self.0.counters.polling_overrun.fetch_add(1, Ordering::Relaxed);
        tracing::info!("ended a polling session that fetches too slowly");
        self.0.supervisor.end_session(sid);
    }

    fn shard(&self, shard: usize) -> MutexGuard<'_, Sessions> {
        self.0.sessions[shard].lock().unwrap_or_else(PoisonError::into_inner)
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
