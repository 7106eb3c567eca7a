//! The flush passes: what is broadcast while one runs gathers, and goes out together in the next.
//!
//! There is one pass task per core, and each session belongs to one of them, so a client's order
//! is the order of one queue. A pass finds out who gets what once per audience and not once per
//! message; clients that get the same messages share the same chunks of bytes.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use socketioxide::adapter::Emitter;
use socketioxide_core::{
    Sid,
    adapter::{BroadcastFlags, BroadcastOptions, CoreLocalAdapter, Room, errors::SocketError},
    packet::Packet,
    parser::Parse,
};
use tokio::{sync::Notify, task::yield_now, time::Instant};

use super::{
    dialect::Event,
    frame,
    lane::UnderWay,
    lanes::{BySession, Lanes},
};

/// What one pass sends to one client at most, so that a burst does not look like a slow client.
const PASS_BYTES_MAX: usize = 128 << 10;
/// Messages that may wait for a pass; an emitter of broadcasts waits beyond.
const WAITING_MAX: usize = 16_384;
/// Bytes that may wait for a pass.
const WAITING_BYTES_MAX: usize = 32 << 20;
/// How long a pass keeps its thread before others have a turn.
const TURN: Duration = Duration::from_micros(500);
/// How long a pass goes on before messages for a few clients overtake it.
const OVERTAKEN_AFTER: Duration = Duration::from_millis(2);
/// Clients that overtaking messages may reach together: far less work than `OVERTAKEN_AFTER`.
const FEW_MAX: usize = 128;
/// Messages that overtake together.
const OVERTAKING_MAX: usize = 64;
/// Frames up to this size are joined once for all who get them: one slice costs more than the copy.
const JOINED_MAX: usize = 4 << 10;

type Local = CoreLocalAdapter<Emitter>;

/// Who gets a message.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Audience(BroadcastOptions);

impl Hash for Audience {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.rooms.hash(state);
        self.0.except.hash(state);
        self.0.sid.hash(state);
        self.0.flags().hash(state);
    }
}

/// A packet on its way, encoded once.
#[derive(Debug)]
struct Outgoing {
    audience: Audience,
    packet: Packet,
    frames: Bytes,
    /// The request that this answers counts as under way until it is delivered.
    _answers: Option<UnderWay>,
}

/// What waits for one pass task. A message's stamp is `first` plus its place.
#[derive(Debug, Default)]
struct Waiting {
    first: u64,
    /// A pass runs with what was taken last.
    busy: bool,
    messages: Vec<Arc<Outgoing>>,
    bytes: usize,
    /// Who joined what, and the stamp of the first message that is for him.
    joined: Vec<(Sid, Room, u64)>,
    /// Sessions whose lane may be ready for its marker.
    connected: Vec<Sid>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    filled: Notify,
    drained: Notify,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, outgoing: Arc<Outgoing>) {
        let mut waiting = self.lock();
        waiting.bytes += outgoing.frames.len();
        waiting.messages.push(outgoing);
        drop(waiting);
        self.filled.notify_one();
    }

    fn is_full(&self) -> bool {
        let waiting = self.lock();
        waiting.messages.len() >= WAITING_MAX || waiting.bytes >= WAITING_BYTES_MAX
    }

    fn is_idle(&self) -> bool {
        let waiting = self.lock();
        waiting.messages.is_empty() && !waiting.busy
    }

    /// As much as one pass takes, with the stamp of the first.
    fn take(&self) -> (u64, Vec<Arc<Outgoing>>, Vec<Sid>) {
        let mut waiting = self.lock();
        let mut bytes = 0;
        let mut count = 0;
        for message in &waiting.messages {
            bytes += message.frames.len();
            if count > 0 && bytes > PASS_BYTES_MAX {
                break;
            }
            count += 1;
        }
        let first = waiting.first;
        let rest = waiting.messages.split_off(count);
        let messages = std::mem::replace(&mut waiting.messages, rest);
        waiting.first += count as u64;
        waiting.bytes -= messages.iter().map(|message| message.frames.len()).sum::<usize>();
        let connected = std::mem::take(&mut waiting.connected);
        waiting.busy = count > 0;
        drop(waiting);
        self.drained.notify_waiters();
        (first, messages, connected)
    }

    /// What waits at the front.
    fn front(&self) -> Vec<Arc<Outgoing>> {
        self.lock().messages.iter().take(OVERTAKING_MAX).cloned().collect()
    }

    /// As many as given from the front, with the stamp of the first, in the middle of a pass.
    fn take_front(&self, count: usize) -> (u64, Vec<Arc<Outgoing>>) {
        let mut waiting = self.lock();
        let first = waiting.first;
        let messages: Vec<_> = waiting.messages.drain(..count).collect();
        waiting.first += count as u64;
        waiting.bytes -= messages.iter().map(|message| message.frames.len()).sum::<usize>();
        drop(waiting);
        self.drained.notify_waiters();
        (first, messages)
    }

    /// Joins that fall behind the start of a pass. Those before its end are then forgotten.
    fn joined_since(&self, first: u64, end: u64) -> Vec<(Sid, Room, u64)> {
        let mut waiting = self.lock();
        let late = waiting.joined.iter().filter(|(.., stamp)| *stamp > first).cloned().collect();
        waiting.joined.retain(|(.., stamp)| *stamp > end);
        late
    }
}

/// Where broadcasts enter.
pub struct Passes {
    local: Arc<Local>,
    queues: Arc<[Queue]>,
    lanes: Lanes,
}

impl Passes {
    /// Starts the tasks.
    pub fn start(local: Arc<Local>, lanes: &Lanes) -> Self {
        let queues: Arc<[Queue]> = (0..lanes.settings().passes).map(|_| Queue::default()).collect();
        for shard in 0..queues.len() {
            let pass = Pass {
                shard,
                queues: Arc::clone(&queues),
                local: Arc::clone(&local),
                lanes: lanes.clone(),
            };
            lanes.tasks().spawn_vital("flush pass", pass.run());
        }
        Self { local, queues, lanes: lanes.clone() }
    }

    /// Queues for everybody in the audience. Waits only while a pass is far behind.
    pub async fn broadcast(&self, packet: Packet, audience: BroadcastOptions) {
        for queue in self.queues.iter() {
            loop {
                let drained = queue.drained.notified();
                if !queue.is_full() || self.lanes.tasks().is_stopping() {
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
    pub fn send(&self, sid: Sid, packet: Packet, answers: Option<UnderWay>) {
        let outgoing = self.outgoing(packet, BroadcastOptions::new(sid), answers);
        self.queue_of(sid).push(outgoing);
    }

    /// From the next message on; a member stays one, and misses nothing.
    pub fn join(&self, sid: Sid, room: Room) {
        let mut waiting = self.queue_of(sid).lock();
        if self.local.socket_rooms(sid).contains(&room) {
            return;
        }
        let stamp = waiting.first + waiting.messages.len() as u64;
        self.local.add_all(sid, room.clone());
        // A client that is gone already has left its rooms before this, and will not again.
        if !is_connected(&self.local, sid) {
            self.local.del_all(sid);
            return;
        }
        waiting.joined.push((sid, room, stamp));
    }

    /// Whatever is taken from here on can be meant for the session that now enters.
    pub fn entering(&self, sid: Sid) {
        let waiting = self.queue_of(sid).lock();
        if let Some(lane) = self.lanes.lane(sid) {
            lane.entering(waiting.first);
        }
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
        answers: Option<UnderWay>,
    ) -> Arc<Outgoing> {
        let frames = self.frame(packet.clone());
        Arc::new(Outgoing { audience: Audience(audience), packet, frames, _answers: answers })
    }

    fn queue_of(&self, sid: Sid) -> &Queue {
        &self.queues[self.lanes.shard_of(sid)]
    }
}

struct Pass {
    shard: usize,
    queues: Arc<[Queue]>,
    local: Arc<Local>,
    lanes: Lanes,
}

impl Pass {
    async fn run(self) {
        let tasks = self.lanes.tasks().clone();
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
                self.deliver(first, &messages).await;
                yield_now().await;
            }
        }
    }

    async fn deliver(&self, first: u64, messages: &[Arc<Outgoing>]) {
        let mut plan = Plan::new(first, messages);
        self.address(&mut plan);
        let recipients = std::mem::take(&mut plan.recipients);
        let mut large = plan.large();
        let (mut turn, mut overtaken) = (Instant::now(), Instant::now());
        for (count, (sid, share)) in recipients.iter().enumerate() {
            self.serve(&mut plan, *sid, share);
            if count % 16 == 15 && turn.elapsed() >= TURN {
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
    fn serve(&self, plan: &mut Plan<'_>, sid: Sid, share: &AtomicU32) {
        // Only this task does, so there is nothing to swap.
        let due = share.load(Ordering::Relaxed);
        if due == NOTHING {
            return;
        }
        share.store(NOTHING, Ordering::Relaxed);
        match self.lanes.lane(sid) {
            Some(lane) => lane.deliver(plan.first, plan.chunks(due)),
            None => self.send_ordinary(sid, plan.messages(due)),
        }
    }

    /// A pass over a large room must not hold up a small one. What waits at the front for a few
    /// clients goes out now; whoever gets some of it first gets his share of the pass, so that for
    /// him nothing has changed its place.
    fn overtake(
        &self,
        pass: &mut Plan<'_>,
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
        let mut plan = Plan::new(first, &messages);
        self.address(&mut plan);
        for (sid, share) in std::mem::take(&mut plan.recipients) {
            if let Some(before) = recipients.get(&sid) {
                self.serve(pass, sid, before);
            }
            self.serve(&mut plan, sid, &share);
        }
    }

    /// Finds out who gets which of the messages.
    fn address(&self, plan: &mut Plan<'_>) {
        let (first, count) = (plan.first, plan.messages.len() as u64);
        let mut members: Vec<Vec<Sid>> = Vec::new();
        for audience in plan.audiences() {
            let mut sids = self.local.sockets(audience.0.clone());
            sids.retain(|sid| self.lanes.shard_of(*sid) == self.shard);
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
                plan.add(sid, Part { group, from });
            }
        }
    }

    /// The stamp from which a socket that joined lately belongs to the audience.
    fn member_since(&self, sid: Sid, to: &BroadcastOptions, joined: &[(Room, u64)]) -> u64 {
        let rooms = self.local.socket_rooms(sid);
        let since = to.rooms.iter().filter(|room| rooms.contains(*room)).map(|room| {
            joined.iter().rev().find(|(name, _)| name == room).map_or(0, |(_, stamp)| *stamp)
        });
        since.min().unwrap_or(0)
    }

    /// Through socketioxide's own queue, for a client that polls.
    fn send_ordinary<'a>(&self, sid: Sid, messages: impl Iterator<Item = &'a Arc<Outgoing>>) {
        for message in messages {
            if !self.queue_for(sid, message.packet.clone()) {
                self.lanes.overrun(sid);
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
        let Some(lane) = self.lanes.lane(sid) else { return };
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

/// One audience's messages, from the given place in the pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Part {
    group: usize,
    from: usize,
}

/// Which messages a client gets: everybody with the same share gets the same bytes.
type Share = u32;
const NOTHING: Share = 0;

/// Who gets what in one pass.
struct Plan<'a> {
    /// Stamp of the first message.
    first: u64,
    messages: &'a [Arc<Outgoing>],
    audiences: Vec<&'a Audience>,
    /// The audience of each message.
    groups: Vec<usize>,
    /// How many clients each audience has here.
    sizes: Vec<usize>,
    /// What is still due to each client. Atomic only because the plan lives across awaits.
    recipients: BySession<AtomicU32>,
    /// The parts of each share, in the order in which they were added.
    shares: Vec<Vec<Part>>,
    /// The share that a share becomes with one more part.
    grown: HashMap<(Share, Part), Share, foldhash::fast::RandomState>,
    /// What each share is in bytes, once somebody gets it.
    chunks: Vec<Option<Vec<Bytes>>>,
}

impl<'a> Plan<'a> {
    fn new(first: u64, messages: &'a [Arc<Outgoing>]) -> Self {
        let mut audiences = Vec::new();
        let mut known: HashMap<&Audience, usize> = HashMap::new();
        let groups = messages
            .iter()
            .map(|message| {
                *known.entry(&message.audience).or_insert_with(|| {
                    audiences.push(&message.audience);
                    audiences.len() - 1
                })
            })
            .collect();
        Self {
            first,
            messages,
            audiences,
            groups,
            sizes: Vec::new(),
            recipients: BySession::default(),
            shares: vec![Vec::new()],
            grown: HashMap::default(),
            chunks: Vec::new(),
        }
    }

    fn audiences(&self) -> &[&'a Audience] {
        &self.audiences
    }

    /// The audiences that are more than a few.
    fn large(&self) -> Vec<BroadcastOptions> {
        let sized = self.audiences.iter().zip(&self.sizes);
        sized.filter(|(_, size)| **size > FEW_MAX).map(|(to, _)| to.0.clone()).collect()
    }

    fn add(&mut self, sid: Sid, part: Part) {
        let Self { recipients, shares, grown, .. } = self;
        let share = recipients.entry(sid).or_default().get_mut();
        *share = *grown.entry((*share, part)).or_insert_with(|| {
            let mut parts = shares[*share as usize].clone();
            parts.push(part);
            shares.push(parts);
            Share::try_from(shares.len() - 1).expect("fewer shares than sockets and audiences")
        });
    }

    fn messages(&self, share: Share) -> impl Iterator<Item = &'a Arc<Outgoing>> {
        let parts = &self.shares[share as usize];
        let gets = |at: usize, group: usize| {
            parts.iter().any(|part| part.group == group && part.from <= at)
        };
        self.messages
            .iter()
            .zip(&self.groups)
            .enumerate()
            .filter(move |(at, (_, group))| gets(*at, **group))
            .map(|(_, (message, _))| message)
    }

    fn chunks(&mut self, share: Share) -> &[Bytes] {
        let at = share as usize;
        self.chunks.resize(self.shares.len(), None);
        if self.chunks[at].is_none() {
            self.chunks[at] = Some(join(self.messages(share).map(|message| &message.frames)));
        }
        self.chunks[at].as_deref().unwrap_or_default()
    }
}

/// Small frames joined, large ones as they are.
fn join<'a>(frames: impl Iterator<Item = &'a Bytes>) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    let mut small: Vec<&Bytes> = Vec::new();
    let joined = |small: &mut Vec<&Bytes>, chunks: &mut Vec<Bytes>| match small.as_slice() {
        [] => {}
        [one] => chunks.push(Bytes::clone(one)),
        several => {
            let mut all = BytesMut::with_capacity(several.iter().map(|frame| frame.len()).sum());
            several.iter().for_each(|frame| all.extend_from_slice(frame));
            chunks.push(all.freeze());
        }
    };
    for frame in frames {
        if frame.len() <= JOINED_MAX {
            small.push(frame);
        } else {
            joined(&mut small, &mut chunks);
            small.clear();
            chunks.push(frame.clone());
        }
    }
    joined(&mut small, &mut chunks);
    chunks
}
