//! The flush flush_tasks: what is broadcast while one runs gathers, and goes out together in the next.
//!
//! There is one pass task per core, and each session belongs to one of them, so a client's order
//! is the order of one queue. A pass finds out who gets what once per audience and not once per
//! message; clients that get the same messages share the same chunks of bytes.

mod plan;
mod queue;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use socketioxide::adapter::Emitter;
use socketioxide_core::{
    Sid,
    adapter::{BroadcastFlags, BroadcastOptions, CoreLocalAdapter, Room, errors::SocketError},
    packet::Packet,
    parser::Parse,
};
use tokio::{
    task::yield_now,
    time::{Instant, sleep},
};

use crate::transport::flush::{
    plan::{FlushPlan, NOTHING, Slice},
    queue::{Audience, FlushQueue, Outgoing},
};
use crate::{
    dialects::Event,
    transport::{
        frame,
        lane::{InFlight, Lane},
        registry::{BySession, Registry},
    },
};

/// How long a pass keeps its thread before others have a turn.
const TURN: Duration = Duration::from_micros(500);
/// How long a pass goes on before messages for a few clients overtake it.
const OVERTAKEN_AFTER: Duration = Duration::from_millis(2);
/// Clients that overtaking messages may reach together: far less work than `OVERTAKEN_AFTER`.
const FEW_MAX: usize = 128;
/// No room's name: what is for one connection, or for all, reaches a session from its entry on.
const OWN: Room = Room::Borrowed("");
/// Clients whose registry are looked up together.
const TOGETHER: usize = 16;
/// After a pass of several messages that took so long, the next one waits a moment: those who
/// answer what they have just been told are then in it, and not one pass behind the others.
const LONG_PASS: Duration = Duration::from_millis(2);
const PAUSE: Duration = Duration::from_millis(1);

type Local = CoreLocalAdapter<Emitter>;

/// Where broadcasts enter.
pub struct Flusher {
    local: Arc<Local>,
    queues: Arc<[FlushQueue]>,
    registry: Registry,
}

impl Flusher {
    /// Starts the tasks.
    pub fn start(local: Arc<Local>, registry: &Registry) -> Self {
        let queues: Arc<[FlushQueue]> =
            (0..registry.settings().flush_tasks).map(|_| FlushQueue::default()).collect();
        for shard in 0..queues.len() {
            let pass = FlushTask {
                shard,
                queues: Arc::clone(&queues),
                local: Arc::clone(&local),
                registry: registry.clone(),
            };
            registry.delivering().spawn_vital("flush pass", pass.run());
        }
        Self { local, queues, registry: registry.clone() }
    }

    /// Queues for everybody in the audience. Waits only while a pass is far behind.
    pub async fn broadcast(&self, packet: Packet, audience: BroadcastOptions) {
        for queue in self.queues.iter() {
            loop {
                let drained = queue.drained.notified();
                if !queue.is_full() || self.registry.tasks().is_stopping() {
                    break;
                }
                drained.await;
            }
        }
        let outgoing = self.outgoing(packet, audience, None);
        for queue in self.queues.iter() {
            queue.push(Arc::clone(&outgoing));
        }
    }

    /// Waits until nothing waits and no pass runs.
    pub async fn idle(&self) {
        for queue in self.queues.iter() {
            loop {
                let drained = queue.drained.notified();
                if queue.is_idle() {
                    break;
                }
                drained.await;
            }
        }
    }

    /// Queues for one socket. Never waits: what a client has under way bounds its answers.
    pub fn send(&self, sid: Sid, packet: Packet, answers: Option<InFlight>) {
        let outgoing = self.outgoing(packet, BroadcastOptions::new(sid), answers);
        self.queue_of(sid).push(outgoing);
    }

    /// From the next message on; a member stays one, and misses nothing.
    pub fn join(&self, sid: Sid, room: Room) {
        let mut waiting = self.queue_of(sid).lock();
        if self.local.socket_rooms(sid).contains(&room) {
            return;
        }
        self.local.add_all(sid, room.clone());
        // A client that is gone already has left its rooms before this, and will not again.
        if !is_connected(&self.local, sid) {
            self.local.del_all(sid);
            return;
        }
        waiting.join(sid, room);
    }

    /// Whatever is taken from here on can be meant for the session that now enters; what waits
    /// already for this connection alone was meant for the one before.
    pub fn entering(&self, sid: Sid) {
        let mut waiting = self.queue_of(sid).lock();
        if let Some(lane) = self.registry.lane(sid) {
            lane.entering(waiting.first);
        }
        waiting.join(sid, OWN);
    }

    pub fn connected(&self, sid: Sid) {
        let queue = self.queue_of(sid);
        queue.lock().connected.push(sid);
        queue.filled.notify_one();
    }

    pub fn is_connected(&self, sid: Sid) -> bool {
        is_connected(&self.local, sid)
    }

    /// Every session in the namespace.
    pub fn sessions(&self) -> Vec<Sid> {
        let mut everybody = BroadcastOptions::default();
        everybody.add_flag(BroadcastFlags::Broadcast);
        self.local.sockets(everybody)
    }

    pub fn leave(&self, sid: Sid, room: Room) {
        self.local.del(sid, room);
    }

    /// The same packet that an emit of socketioxide makes of it.
    pub fn packet(&self, event: &Event<'_>) -> Packet {
        let arguments = self.local.parser().encode_value(&event.arguments, Some(event.name));
        Packet::event(self.local.path().clone(), arguments.expect("an event is JSON"))
    }

    pub fn frame(&self, packet: Packet) -> Bytes {
        frame::encode(&self.local.parser().encode(packet))
    }

    fn outgoing(
        &self,
        packet: Packet,
        audience: BroadcastOptions,
        answers: Option<InFlight>,
    ) -> Arc<Outgoing> {
        let frames = self.frame(packet.clone());
        Arc::new(Outgoing { audience: Audience(audience), packet, frames, _answers: answers })
    }

    fn queue_of(&self, sid: Sid) -> &FlushQueue {
        &self.queues[self.registry.shard_of(sid)]
    }
}

struct FlushTask {
    shard: usize,
    queues: Arc<[FlushQueue]>,
    local: Arc<Local>,
    registry: Registry,
}

impl FlushTask {
    async fn run(self) {
        let tasks = self.registry.tasks().clone();
        let queue = &self.queues[self.shard];
        loop {
            tokio::select! {
                () = tasks.stopping() => return,
                () = queue.filled.notified() => {}
            }
            loop {
                let (first, messages, connected) = queue.take();
                if messages.is_empty() && connected.is_empty() {
                    break;
                }
                for sid in connected {
                    self.mark(sid);
                }
                let begin = Instant::now();
                self.deliver(first, &messages).await;
                if messages.len() > 1 && begin.elapsed() >= LONG_PASS && !queue.has_a_pass() {
                    sleep(PAUSE).await;
                } else {
                    yield_now().await;
                }
            }
        }
    }

    async fn deliver(&self, first: u64, messages: &[Arc<Outgoing>]) {
        let mut plan = FlushPlan::new(first, messages);
        self.address(&mut plan);
        let recipients = std::mem::take(&mut plan.recipients);
        let mut large = plan.large();
        let (mut turn, mut overtaken) = (Instant::now(), Instant::now());
        let mut rest = recipients.iter();
        loop {
            let (sids, shares): (Vec<Sid>, Vec<&AtomicU32>) =
                rest.by_ref().take(TOGETHER).map(|(sid, share)| (*sid, share)).unzip();
            if sids.is_empty() {
                return;
            }
            let registry = self.registry.lanes_of(self.shard, &sids);
            for ((sid, share), lane) in sids.into_iter().zip(shares).zip(registry) {
                self.serve(&mut plan, sid, lane, share);
            }
            if turn.elapsed() >= TURN {
                yield_now().await;
                turn = Instant::now();
                if overtaken.elapsed() >= OVERTAKEN_AFTER {
                    self.overtake(&mut plan, &recipients, &mut large);
                    overtaken = Instant::now();
                }
            }
        }
    }

    /// Sends a client its share, if it was not sent yet.
    fn serve(
        &self,
        plan: &mut FlushPlan<'_>,
        sid: Sid,
        lane: Option<Arc<Lane>>,
        share: &AtomicU32,
    ) {
        // Only this task does, so there is nothing to swap.
        let due = share.load(Ordering::Relaxed);
        if due == NOTHING {
            return;
        }
        share.store(NOTHING, Ordering::Relaxed);
        match lane {
            Some(lane) => lane.deliver(plan.first, plan.chunks(due)),
            None => self.send_ordinary(sid, plan.messages(due)),
        }
    }

    /// A pass over a large room must not hold up a small one. What waits at the front for a few
    /// clients goes out now; whoever gets some of it first gets his share of the pass, so that for
    /// him nothing has changed its place.
    fn overtake(
        &self,
        pass: &mut FlushPlan<'_>,
        recipients: &BySession<AtomicU32>,
        large: &mut Vec<BroadcastOptions>,
    ) {
        let queue = &self.queues[self.shard];
        let mut reached = 0;
        let few = queue.front().into_iter().take_while(|message| {
            let audience = &message.audience.0;
            if large.contains(audience) {
                return false;
            }
            let members = self.local.sockets(audience.clone()).len();
            if members > FEW_MAX {
                large.push(audience.clone());
            }
            reached += members;
            reached <= FEW_MAX
        });
        let (first, messages) = match few.count() {
            0 => return,
            count => queue.take_front(count),
        };
        let mut plan = FlushPlan::new(first, &messages);
        self.address(&mut plan);
        for (sid, share) in std::mem::take(&mut plan.recipients) {
            let lane = self.registry.lane(sid);
            if let Some(before) = recipients.get(&sid) {
                self.serve(pass, sid, lane.clone(), before);
            }
            self.serve(&mut plan, sid, lane, &share);
        }
    }

    /// Finds out who gets which of the messages.
    fn address(&self, plan: &mut FlushPlan<'_>) {
        let (first, count) = (plan.first, plan.messages.len() as u64);
        let mut members: Vec<Vec<Sid>> = Vec::new();
        for audience in plan.audiences() {
            let mut sids = self.local.sockets(audience.0.clone());
            sids.retain(|sid| self.registry.shard_of(*sid) == self.shard);
            members.push(sids);
        }
        // Read after the members, so that whoever joined while they were read is seen here.
        let mut late: BySession<Vec<(Room, u64)>> = BySession::default();
        for (sid, room, stamp) in self.queues[self.shard].joined_since(first, first + count) {
            late.entry(sid).or_default().push((room, stamp));
        }
        for (group, sids) in members.into_iter().enumerate() {
            plan.sizes.push(sids.len());
            plan.recipients.reserve(sids.len().saturating_sub(plan.recipients.len()));
            for sid in sids {
                let from = late.get(&sid).map_or(0, |joined| {
                    let stamp = self.member_since(sid, &plan.audiences[group].0, joined);
                    usize::try_from(stamp.saturating_sub(first)).unwrap_or(usize::MAX)
                });
                plan.add(sid, Slice { group, from });
            }
        }
    }

    /// The stamp from which a socket that joined lately belongs to the audience.
    fn member_since(&self, sid: Sid, to: &BroadcastOptions, joined: &[(Room, u64)]) -> u64 {
        let since = |room: &Room| {
            joined.iter().rev().find(|(name, _)| name == room).map_or(0, |(_, stamp)| *stamp)
        };
        if to.rooms.is_empty() {
            return since(&OWN);
        }
        let rooms = self.local.socket_rooms(sid);
        to.rooms.iter().filter(|room| rooms.contains(*room)).map(since).min().unwrap_or(0)
    }

    /// Through socketioxide's own queue, for a client that polls.
    fn send_ordinary<'a>(&self, sid: Sid, messages: impl Iterator<Item = &'a Arc<Outgoing>>) {
        for message in messages {
            if !self.queue_for(sid, message.packet.clone()) {
                self.registry.overrun(sid);
                return;
            }
        }
    }

    /// `false`: the queue is full. A session that is ending takes everything.
    fn queue_for(&self, sid: Sid, packet: Packet) -> bool {
        match self.local.broadcast(packet, BroadcastOptions::new(sid)) {
            Ok(()) => true,
            Err(errors) => !errors.iter().any(|e| matches!(e, SocketError::InternalChannelFull)),
        }
    }

    /// Sends the marker of a lane whose session the namespace knows.
    fn mark(&self, sid: Sid) {
        if !is_connected(&self.local, sid) {
            // Its CONNECT reply will pass the lane, and bring us here again.
            return;
        }
        let Some(lane) = self.registry.lane(sid) else { return };
        // The lane knows of its marker before the engine can write it.
        let Some(marker) = lane.marker() else { return };
        let marker = socketioxide_core::Value::Str(marker.into(), None);
        if !self.queue_for(sid, Packet::event(self.local.path().clone(), marker)) {
            lane.marker_refused();
        }
    }
}

/// Whether the session is in the namespace.
fn is_connected(local: &Local, sid: Sid) -> bool {
    !local.fetch_sockets(BroadcastOptions::new(sid)).is_empty()
}
