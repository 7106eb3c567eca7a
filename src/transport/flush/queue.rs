//! What waits for a pass.

use std::{
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use socketioxide_core::{
    Sid,
    adapter::{BroadcastOptions, Room},
    packet::Packet,
};
use tokio::sync::Notify;

use crate::transport::lane::InFlight;

/// What one pass sends to one client at most, so that a burst does not look like a slow client.
const PASS_BYTES_MAX: usize = 128 << 10;
/// Messages that may wait for a pass; an emitter of broadcasts waits beyond.
const WAITING_MAX: usize = 16_384;
/// Bytes that may wait for a pass.
const WAITING_BYTES_MAX: usize = 32 << 20;
/// Messages that overtake together.
const OVERTAKING_MAX: usize = 64;

/// Who gets a message.
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
    /// The request that this answers counts as under way until it is delivered.
    pub(super) _answers: Option<InFlight>,
}

/// What waits for one pass task. A message's stamp is `first` plus its place.
#[derive(Debug, Default)]
pub struct FlushQueueState {
    pub first: u64,
    /// A pass runs with what was taken last.
    pub busy: bool,
    pub messages: Vec<Arc<Outgoing>>,
    pub bytes: usize,
    /// Who joined what, and the stamp of the first message that is for him.
    pub joined: Vec<(Sid, Room, u64)>,
    /// Sessions whose lane may be ready for its marker.
    pub connected: Vec<Sid>,
}

impl FlushQueueState {
    /// From the next message on. Where none is on its way there is nothing to tell apart, and
    /// nothing is remembered: in a silent house nobody would forget it.
    pub fn join(&mut self, sid: Sid, room: Room) {
        if self.busy || !self.messages.is_empty() {
            let stamp = self.first + self.messages.len() as u64;
            self.joined.push((sid, room, stamp));
        }
    }
}

#[derive(Debug, Default)]
pub struct FlushQueue {
    pub waiting: Mutex<FlushQueueState>,
    pub filled: Notify,
    pub drained: Notify,
}

impl FlushQueue {
    pub fn lock(&self) -> MutexGuard<'_, FlushQueueState> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Whether a pass takes no more than waits already.
    pub fn has_a_pass(&self) -> bool {
        self.lock().bytes >= PASS_BYTES_MAX
    }

    pub fn is_idle(&self) -> bool {
        let waiting = self.lock();
        waiting.messages.is_empty() && !waiting.busy
    }

    /// As much as one pass takes, with the stamp of the first.
    pub fn take(&self) -> (u64, Vec<Arc<Outgoing>>, Vec<Sid>) {
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
    pub fn front(&self) -> Vec<Arc<Outgoing>> {
        self.lock().messages.iter().take(OVERTAKING_MAX).cloned().collect()
    }

    /// As many as given from the front, with the stamp of the first, in the middle of a pass.
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

    /// Joins that fall behind the start of a pass. Those before its end are then forgotten.
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
    fn who_joins_in_silence_is_not_remembered() {
        let mut waiting = FlushQueueState::default();
        waiting.join(Sid::new(), Room::Borrowed("a"));
        assert!(waiting.joined.is_empty());
        waiting.busy = true;
        waiting.join(Sid::new(), Room::Borrowed("a"));
        assert_eq!(waiting.joined.len(), 1, "the pass that runs may still look for its audience");
    }
}
