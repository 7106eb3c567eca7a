//! One connection's outgoing road, where the engine's own writes and the shared frames meet.
//!
//! - Whole frames only: whatever comes from two sides, a client never sees half of one in another.
//! - Shared frames wait until the marker has passed, which was sent the ordinary way: so nothing
//!   overtakes what the engine had queued for this client before it got its lane.
//! - The lane always accepts, and counts: more than `backlog_bytes_max`, or no progress for
//!   `stall_max`, and it is cut for good. Then both directions fail, the engine's reader ends the
//!   session, and its writer finds nothing to wait for.
//! - Nobody waits here. A stream that takes no more wakes the connection's reader, which polls
//!   the lane and so flushes it: no task and no queue per socket.
//! - While the client has too much under way the lane does not read either, and TCP pushes back.
//!   `supervisor` bounds that in time, so that pongs are read.

mod ends;
mod out;

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use socketioxide_core::Sid;
use tokio::time::Instant;

pub use crate::transport::lane::ends::LaneStream;
use crate::transport::lane::out::{Order, Out, ReadPause};
use crate::transport::{
    accept::Guard, frame, registry::Registry, stream::Stream, supervisor::Farewell,
};

/// Why a lane was cut by this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// More waited for the client than `backlog_bytes_max`.
    Backlog,
    /// Something waited and nothing moved for `stall_max`.
    Stall,
    /// The client sent a message above the transport's bound.
    TooLarge,
    /// The server wants the client to go, and to come back somewhere.
    Closed,
}

pub struct Lane {
    out: Mutex<Out>,
    in_flight: AtomicU32,
    /// The polling session that this connection was to upgrade.
    upgrades: Option<Sid>,
    registry: Registry,
}

/// One thing that a client asked for and that is not answered yet; dropping it is the answer.
#[derive(Debug)]
#[must_use = "dropping it says that the request is answered"]
pub struct InFlight(Arc<Lane>);

/// The client has too much under way, and reading was already held back for as long as it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

impl Lane {
    /// `came` is what came with the upgrade request.
    pub(super) fn new(
        stream: Stream,
        came: Bytes,
        upgrades: Option<Sid>,
        guard: Option<Guard>,
        registry: Registry,
    ) -> Arc<Self> {
        Arc::new(Self {
            out: Mutex::new(Out::new(stream, came, upgrades, guard)),
            in_flight: AtomicU32::new(0),
            upgrades,
            registry,
        })
    }

    /// Counts a request until the guard is dropped. Reading pauses above `in_flight_max`, and goes
    /// on below half of it.
    pub fn begin(self: &Arc<Self>) -> Result<InFlight, Busy> {
        let in_flight = self.in_flight.fetch_add(1, Ordering::AcqRel);
        let guard = InFlight(Arc::clone(self));
        let busy = in_flight >= self.registry.settings().in_flight_max
            && self.lock().read_pause == ReadPause::Expired;
        if busy { Err(Busy) } else { Ok(guard) }
    }

    fn settle(&self) {
        let in_flight = self.in_flight.fetch_sub(1, Ordering::AcqRel) - 1;
        // Exactly at half: the count flush_tasks there on its way down, and the lock is taken once.
        if in_flight == self.registry.settings().in_flight_max / 2 {
            let reader = {
                let mut out = self.lock();
                match std::mem::replace(&mut out.read_pause, ReadPause::None) {
                    ReadPause::None => None,
                    ReadPause::Since(_) | ReadPause::Expired => out.reader.clone(),
                }
            };
            if let Some(reader) = reader {
                reader.wake();
            }
        }
    }

    /// Sends shared frames: each chunk holds whole ones. Behind the marker, or behind what waits.
    /// `stamp` is that of the pass's first message.
    pub fn deliver(self: &Arc<Self>, stamp: u64, chunks: &[Bytes]) {
        let mut out = self.lock();
        if out.stream.is_none() || stamp < out.since {
            return;
        }
        if out.order == Order::Live {
            out.send(chunks);
        } else {
            out.hold_back(chunks);
        }
        self.check(out);
    }

    /// The engine's own frames, whole.
    fn own(self: &Arc<Self>, frames: &[u8]) -> io::Result<()> {
        let mut out = self.lock();
        if out.stream.is_none() {
            return Err(cut_error());
        }
        let passed = out.pass(frames, &self.registry);
        let sid = out.sid;
        self.check(out);
        if let Some(sid) = passed.opened {
            self.registry.opened(sid, self);
        }
        if let (true, Some(sid)) = (passed.connected, sid) {
            self.registry.connected(sid);
        }
        Ok(())
    }

    /// The session is about to enter the namespace, on a connection that it may have entered and
    /// left before. Its CONNECT reply goes through the engine's queue, so shared frames wait again
    /// for a marker behind it; what flush_tasks before `stamp` still bring is not for it.
    pub(super) fn entering(&self, stamp: u64) {
        self.lock().entering(stamp);
    }

    /// The event to put into the engine's queue next, if the lane waits for it.
    pub(super) fn marker(&self) -> Option<String> {
        self.lock().marker()
    }

    /// It is not in the engine's queue: that was full, or the session has left.
    pub(super) fn marker_refused(&self) {
        self.lock().marker_refused();
    }

    /// Whether something waits because the client does not take it.
    pub fn is_blocked(&self) -> bool {
        !self.lock().ready.is_empty()
    }

    /// Ends the connection from this side. What waits is still written for a client that reads.
    pub fn close(self: &Arc<Self>, code: u16, reason: &'static str) {
        let out = self.lock();
        let rest = out.rest();
        self.cut(out, Cut::Closed, Some((rest, frame::close(code, reason))));
    }

    /// Looks after the two deadlines. Answers whether the lane still needs looking after.
    pub(super) fn tend(self: &Arc<Self>, now: Instant) -> bool {
        let settings = self.registry.settings();
        let mut out = self.lock();
        if out.stream.is_none() {
            out.watched = false;
            return false;
        }
        if out.bytes > 0 && now.saturating_duration_since(out.progress) >= settings.stall_max {
            out.watched = false;
            self.cut(out, Cut::Stall, None);
            return false;
        }
        if let ReadPause::Since(since) = out.read_pause
            && now.saturating_duration_since(since) >= settings.read_pause_max
        {
            out.read_pause = ReadPause::Expired;
            if let Some(reader) = &out.reader {
                reader.wake_by_ref();
            }
        }
        out.watched = out.bytes > 0 || matches!(out.read_pause, ReadPause::Since(_));
        out.watched
    }

    /// Holds the bounds after something was added; gives the lane to the supervisor if it must wait.
    fn check(self: &Arc<Self>, mut out: MutexGuard<'_, Out>) {
        if out.bytes > self.registry.settings().backlog_bytes_max + out.missed {
            let rest = out.unfinished_frame();
            let close = frame::close(1013, "too slow: more is waiting than may wait");
            self.cut(out, Cut::Backlog, Some((rest, close)));
        } else if out.bytes > 0 && !out.watched {
            out.watched = true;
            drop(out);
            self.registry.watch(Arc::clone(self));
        }
    }

    /// The end: nothing flush_tasks any more, either way.
    fn cut(&self, mut out: MutexGuard<'_, Out>, why: Cut, farewell: Option<(Vec<Bytes>, Bytes)>) {
        let Some(stream) = out.stream.take() else { return };
        let waiting = out.bytes;
        let sid = out.sid;
        let inspector = std::mem::take(&mut out.inspector);
        let reader = out.give_up();
        drop(out);
        match farewell {
            Some((mut last, close)) => {
                last.push(close);
                self.registry.farewell(Farewell::new(stream, last, inspector));
            }
            None => stream.reset(),
        }
        self.registry.cut(sid, why, waiting);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Out> {
        // No code that can panic leaves the counts wrong.
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cut_error() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionAborted)
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.settle();
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
