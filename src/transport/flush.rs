//! The flush tasks: what is broadcast while a flush runs gathers, and goes out together in the
//! next one.
//!
//! There is one flush task per core, and each session belongs to one of them, so a client's order
//! is the order of one queue. A flush finds out who gets what once per audience and not once per
//! message. Clients that get the same messages share the same chunks of bytes.

mod plan;
pub mod queue;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use socketioxide_core::{
    Sid,
    adapter::{BroadcastOptions, Room},
};
use tokio::{
    task::yield_now,
    time::{Instant, sleep},
};

use crate::transport::flush::{
    plan::{FlushPlan, NOTHING, Part},
    queue::{FlushQueue, Outgoing, TO_ONE_OR_ALL},
};
use crate::transport::{connection::BySession, lane::Lane, packet, registry::Registry};

/// How long a flush keeps its thread before it yields to other tasks.
const YIELD_AFTER: Duration = Duration::from_micros(500);
/// How long a flush goes on before messages for a few clients overtake it.
const OVERTAKEN_AFTER: Duration = Duration::from_millis(2);
/// Clients that overtaking messages may reach together: far less work than `OVERTAKEN_AFTER`.
const FEW_MAX: usize = 128;
/// Clients whose lanes are looked up together.
const TOGETHER: usize = 16;
/// After a flush of several messages that took so long, the next one waits a moment. The answers
/// of clients to what they were just sent are then in the next flush, and not in the one after.
const LONG_FLUSH: Duration = Duration::from_millis(2);
const PAUSE: Duration = Duration::from_millis(1);

/// Writes what waits for the sessions of one shard.
pub struct FlushTask {
    shard: usize,
    registry: Registry,
}

impl FlushTask {
    pub fn new(shard: usize, registry: Registry) -> Self {
        Self { shard, registry }
    }

    /// Ends when the registry's tasks are to stop.
    pub async fn run(self) {
        let queue = self.queue();
        loop {
            tokio::select! {
                () = self.registry.tasks().stopping() => return,
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
                if messages.len() > 1 && begin.elapsed() >= LONG_FLUSH && !queue.has_a_flush() {
                    sleep(PAUSE).await;
                } else {
                    yield_now().await;
                }
            }
        }
    }

    async fn deliver(&self, first: u64, messages: &[Arc<Outgoing>]) {
        let mut plan = FlushPlan::new(first, messages);
        self.find_recipients(&mut plan);
        let recipients = std::mem::take(&mut plan.recipients);
        let mut large = plan.large(FEW_MAX);
        let (mut yielded, mut overtaken) = (Instant::now(), Instant::now());
        let mut rest = recipients.iter();
        loop {
            let (sids, sets): (Vec<Sid>, Vec<&AtomicU32>) =
                rest.by_ref().take(TOGETHER).map(|(sid, set)| (*sid, set)).unzip();
            if sids.is_empty() {
                return;
            }
            let lanes = self.registry.lanes(self.shard, &sids);
            for ((sid, set), lane) in sids.into_iter().zip(sets).zip(lanes) {
                self.serve(&mut plan, sid, lane, set);
            }
            if yielded.elapsed() >= YIELD_AFTER {
                yield_now().await;
                yielded = Instant::now();
                if overtaken.elapsed() >= OVERTAKEN_AFTER {
                    self.overtake(&mut plan, &recipients, &mut large);
                    overtaken = Instant::now();
                }
            }
        }
    }

    /// Sends a client its messages of this flush, if they were not sent yet.
    fn serve(&self, plan: &mut FlushPlan<'_>, sid: Sid, lane: Option<Arc<Lane>>, due: &AtomicU32) {
        // Only this task changes it, so no swap is needed.
        let set = due.load(Ordering::Relaxed);
        if set == NOTHING {
            return;
        }
        due.store(NOTHING, Ordering::Relaxed);
        match lane {
            Some(lane) => {
                let settings = self.registry.settings();
                let effects = lane.deliver(plan.first, plan.chunks(set), settings);
                self.registry.carry_out(&lane, effects);
            }
            None => self.send_polling(sid, plan.messages(set)),
        }
    }

    /// A flush to a large room must not hold up a small one. What waits at the front of the queue
    /// for a few clients goes out now. A client that gets some of it first gets its part of the
    /// running flush, so that its messages stay in order.
    fn overtake(
        &self,
        flush: &mut FlushPlan<'_>,
        recipients: &BySession<AtomicU32>,
        large: &mut Vec<BroadcastOptions>,
    ) {
        let mut reached = 0;
        let few = self.queue().front().into_iter().take_while(|message| {
            let audience = &message.audience.0;
            if large.contains(audience) {
                return false;
            }
            let members = self.registry.audience(self.shard, audience).len();
            if members > FEW_MAX {
                large.push(audience.clone());
            }
            reached += members;
            reached <= FEW_MAX
        });
        let (first, messages) = match few.count() {
            0 => return,
            count => self.queue().take_front(count),
        };
        let mut plan = FlushPlan::new(first, &messages);
        self.find_recipients(&mut plan);
        for (sid, set) in std::mem::take(&mut plan.recipients) {
            let lane = self.registry.lane(sid);
            if let Some(before) = recipients.get(&sid) {
                self.serve(flush, sid, lane.clone(), before);
            }
            self.serve(&mut plan, sid, lane, &set);
        }
    }

    /// Finds out who gets which of the messages.
    fn find_recipients(&self, plan: &mut FlushPlan<'_>) {
        let (first, count) = (plan.first, plan.messages.len() as u64);
        let members: Vec<Vec<Sid>> = plan
            .audiences
            .iter()
            .map(|audience| self.registry.audience(self.shard, &audience.0))
            .collect();
        // Read after the members, so that a client that joined while they were read is seen here.
        let mut late: BySession<Vec<(Room, u64)>> = BySession::default();
        for (sid, room, stamp) in self.queue().joined_since(first, first + count) {
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
        let since = |room: &Room| {
            joined.iter().rev().find(|(name, _)| name == room).map_or(0, |(_, stamp)| *stamp)
        };
        if to.rooms.is_empty() {
            return since(&TO_ONE_OR_ALL);
        }
        let is_in = |room: &&Room| self.registry.is_in(sid, room);
        to.rooms.iter().filter(is_in).map(since).min().unwrap_or(0)
    }

    /// Through the engine's own queue, for a client that polls.
    fn send_polling<'a>(&self, sid: Sid, messages: impl Iterator<Item = &'a Arc<Outgoing>>) {
        for message in messages {
            if self.registry.namespace().queue(sid, message.packet.clone()).is_err() {
                return self.registry.overrun(sid);
            }
        }
    }

    /// Sends the marker of a lane whose session is in the namespace.
    fn mark(&self, sid: Sid) {
        if !self.registry.is_connected(sid) {
            // Its CONNECT reply will pass the lane, and bring us here again.
            return;
        }
        let Some(lane) = self.registry.lane(sid) else { return };
        // The lane knows of its marker before the engine can write it.
        let Some(marker) = lane.marker() else { return };
        let marker = packet::encoded_event(marker);
        if self.registry.namespace().queue(sid, marker).is_err() {
            lane.marker_refused();
        }
    }

    fn queue(&self) -> &FlushQueue {
        self.registry.queue(self.shard)
    }
}
