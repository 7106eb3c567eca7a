//! The queue of one flush task.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use socketioxide_core::{
    Sid,
    adapter::{BroadcastOptions, Room},
    packet::Packet,
};
use tokio::sync::Notify;

use crate::transport::{lane::InFlight, packet};

/// Pseudo-room for messages to a single socket or to everyone. Sessions join it when they enter
/// the namespace. No room has an empty name.
pub const TO_ONE_OR_ALL: Room = Room::Borrowed("");

/// Bytes of one flush, so that a burst does not make every client look slow.
const FLUSH_BYTES_MAX: usize = 128 << 10;
/// Messages that may wait for a flush. Above it, emitters of broadcasts wait.
const WAITING_MAX: usize = 16_384;
/// Bytes that may wait for a flush.
const WAITING_BYTES_MAX: usize = 32 << 20;
/// Messages that overtake together.
const OVERTAKING_MAX: usize = 64;

/// The sockets that get a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audience(pub BroadcastOptions);

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
pub struct Outgoing {
    pub audience: Audience,
    pub packet: Packet,
    pub frames: Bytes,
    /// The request that this answers is in flight until this is delivered.
    _answers: Option<InFlight>,
}

impl Outgoing {
    pub fn new(packet: Packet, to: BroadcastOptions, answers: Option<InFlight>) -> Arc<Self> {
        let frames = packet::frames(packet.clone());
        Arc::new(Self { audience: Audience(to), packet, frames, _answers: answers })
    }
}

/// Everything that waits for one flush task.
#[derive(Debug, Default)]
pub struct Waiting {
    /// The stamp of the first message. Each message's stamp is one more than the one before it.
    pub first: u64,
    /// Whether a flush runs with what was taken last.
    busy: bool,
    messages: Vec<Arc<Outgoing>>,
    bytes: usize,
    /// Which session joined which room, and the stamp of the first message that it gets there.
    joined: Vec<(Sid, Room, u64)>,
    /// Sessions whose lane may be ready for its marker.
    connected: Vec<Sid>,
}

impl Waiting {
    /// From the next message on. When no message is on its way, every message comes later, and
    /// nothing is remembered: only a flush forgets joins, and there may be none for long.
    pub fn join(&mut self, sid: Sid, room: Room) {
        if self.busy || !self.messages.is_empty() {
            let stamp = self.first + self.messages.len() as u64;
            self.joined.push((sid, room, stamp));
        }
    }
}

#[derive(Debug, Default)]
pub struct FlushQueue {
    waiting: Mutex<Waiting>,
    pub filled: Notify,
    pub drained: Notify,
}

impl FlushQueue {
    pub fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock()
    }

    /// The session may be in the namespace by now: time for the marker of its lane.
    pub fn push_connected(&self, sid: Sid) {
        self.lock().connected.push(sid);
        self.filled.notify_one();
    }

    pub fn push(&self, outgoing: Arc<Outgoing>) {
        let mut waiting = self.lock();
        waiting.bytes += outgoing.frames.len();
        waiting.messages.push(outgoing);
        drop(waiting);
        self.filled.notify_one();
    }

    pub fn is_full(&self) -> bool {
        let waiting = self.lock();
        waiting.messages.len() >= WAITING_MAX || waiting.bytes >= WAITING_BYTES_MAX
    }

    /// Whether as much waits as one flush takes.
    pub fn has_a_flush(&self) -> bool {
        self.lock().bytes >= FLUSH_BYTES_MAX
    }

    pub fn is_idle(&self) -> bool {
        let waiting = self.lock();
        waiting.messages.is_empty() && !waiting.busy
    }

    /// As much as one flush takes, with the stamp of the first message.
    pub fn take(&self) -> (u64, Vec<Arc<Outgoing>>, Vec<Sid>) {
        let mut waiting = self.lock();
        let mut bytes = 0;
        let mut count = 0;
        for message in &waiting.messages {
            bytes += message.frames.len();
            if count > 0 && bytes > FLUSH_BYTES_MAX {
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

    /// The messages at the front.
    pub fn front(&self) -> Vec<Arc<Outgoing>> {
        self.lock().messages.iter().take(OVERTAKING_MAX).cloned().collect()
    }

    /// As many as given from the front, with the stamp of the first, while a flush runs.
    pub fn take_front(&self, count: usize) -> (u64, Vec<Arc<Outgoing>>) {
        let mut waiting = self.lock();
        let first = waiting.first;
        let messages: Vec<_> = waiting.messages.drain(..count).collect();
        waiting.first += count as u64;
        waiting.bytes -= messages.iter().map(|message| message.frames.len()).sum::<usize>();
        drop(waiting);
        self.drained.notify_waiters();
        (first, messages)
    }

    /// Joins after the start of a flush. Those before its end are then forgotten.
    pub fn joined_since(&self, first: u64, end: u64) -> Vec<(Sid, Room, u64)> {
        let mut waiting = self.lock();
        let late = waiting.joined.iter().filter(|(.., stamp)| *stamp > first).cloned().collect();
        waiting.joined.retain(|(.., stamp)| *stamp > end);
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_is_remembered_only_while_messages_are_on_their_way() {
        let mut waiting = Waiting::default();
        waiting.join(Sid::new(), Room::Borrowed("a"));
        assert!(waiting.joined.is_empty());
        waiting.busy = true;
        waiting.join(Sid::new(), Room::Borrowed("a"));
        assert_eq!(waiting.joined.len(), 1, "the flush that runs may still look for its audience");
    }
}
