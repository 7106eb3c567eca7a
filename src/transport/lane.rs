//! One websocket's outgoing side, where the engine's own writes and the shared frames meet.
//!
//! - Whole frames only: a client never sees half of a frame inside another one.
//! - Shared frames wait until the marker has passed. It was sent through the engine's queue, so
//!   shared frames do not overtake what the engine had queued before the client got its lane.
//! - The lane always accepts, and counts: when more than `backlog_bytes_max` waits, or nothing
//!   moves for `stall_max`, the lane ends. Then both directions fail, the engine's reader ends the
//!   session, and its writer finds nothing to wait for.
//! - No task waits here. A stream that takes more again wakes the connection's reader, which polls
//!   the lane and so flushes it: no task and no queue per socket.
//! - While too many requests of the client are in flight, the lane does not read either, and TCP
//!   pushes back. The supervisor bounds that in time, so that pongs are read.
//!
//! A lane knows nothing but its connection. It answers `Effects`, the work that others must do, and
//! the caller carries them out once the lane's lock is released.

mod state;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use socketioxide_core::Sid;
use tokio::{io::ReadBuf, time::Instant};

use crate::transport::lane::state::{LaneState, Order, Reading};
use crate::transport::{
    close::CloseReason,
    connect_reply::ConnectReply,
    farewell::Farewell,
    settings::TransportSettings,
    stream::{Guard, Stream, ended_error},
};

pub struct Lane {
    state: Mutex<LaneState>,
    in_flight: AtomicU32,
    /// Whether this connection was opened to upgrade a polling session.
    is_upgrade: bool,
}

/// The work that others must do after a lane has changed. Mostly none.
#[derive(Debug, Default)]
#[must_use]
pub struct Effects {
    /// The engine has given the connection this session.
    pub opened: Option<Sid>,
    /// This session may be in the namespace by now: the lane waits for its marker.
    pub connected: Option<Sid>,
    /// The supervisor must watch the lane's deadlines.
    pub watch: bool,
    pub ended: Option<Box<Ended>>,
}

/// How the server ended a lane.
#[derive(Debug)]
pub struct Ended {
    pub sid: Option<Sid>,
    pub reason: CloseReason,
    /// Bytes that waited for the client.
    pub bytes_waiting: usize,
    /// The last bytes for the client.
    pub farewell: Option<Farewell>,
}

/// The rest of a lane whose other end the engine has given up.
#[derive(Debug)]
pub struct Remains {
    pub sid: Option<Sid>,
    /// The close frame of the engine, if it could not be written at once.
    pub farewell: Option<Farewell>,
}

/// A request of a client that has no answer yet. Dropping it says that it is answered.
#[derive(Debug)]
#[must_use = "dropping it says that the request is answered"]
pub struct InFlight {
    lane: Arc<Lane>,
    resume_at: u32,
}

/// Too many requests of the client are in flight, and reading was paused for as long as it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

impl Effects {
    #[inline]
    pub fn is_none(&self) -> bool {
        !self.watch && self.ended.is_none() && self.opened.is_none() && self.connected.is_none()
    }
}

impl Lane {
    /// `came` are the bytes after the upgrade request, `upgrades` the polling session that the
    /// request named.
    pub(super) fn new(
        stream: Stream,
        came: Bytes,
        upgrades: Option<Sid>,
        guard: Option<Guard>,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(LaneState::new(stream, came, upgrades, guard)),
            in_flight: AtomicU32::new(0),
            is_upgrade: upgrades.is_some(),
        })
    }

    pub(super) fn is_upgrade(&self) -> bool {
        self.is_upgrade
    }

    /// Counts a request until the answer is dropped. Reading pauses above `in_flight_max`, and
    /// goes on below half of it.
    pub(super) fn begin(self: &Arc<Self>, settings: &TransportSettings) -> Result<InFlight, Busy> {
        let in_flight = self.in_flight.fetch_add(1, Ordering::AcqRel);
        let resume_at = settings.in_flight_max / 2;
        let request = InFlight { lane: Arc::clone(self), resume_at };
        let busy = in_flight >= settings.in_flight_max
            && self.state.lock().reading == Reading::PauseExpired;
        if busy { Err(Busy) } else { Ok(request) }
    }

    /// Sends shared frames: each chunk holds whole ones. They go behind the marker, and behind
    /// all bytes that wait. `stamp` is that of the first message of the flush.
    pub(super) fn deliver(
        &self,
        stamp: u64,
        chunks: &[Bytes],
        settings: &TransportSettings,
    ) -> Effects {
        let mut state = self.state.lock();
        if state.stream.is_none() || stamp < state.since {
            return Effects::default();
        }
        if state.order == Order::Live {
            state.send(chunks);
        } else {
            state.hold_back(chunks);
        }
        check_backlog(state, settings)
    }

    /// The engine writes, and never waits.
    pub(super) fn write(
        &self,
        bytes: &[u8],
        settings: &TransportSettings,
    ) -> (io::Result<usize>, Effects) {
        let mut state = self.state.lock();
        if state.stream.is_none() {
            return (Err(ended_error()), Effects::default());
        }
        let (passed, is_bounded) = state.write_engine(bytes, settings.backlog_bytes_max);
        let sid = state.sid;
        let effects = Effects {
            opened: sid.filter(|_| passed.opened),
            connected: sid.filter(|_| passed.connected),
            ..check_backlog(state, settings)
        };
        (if is_bounded { Ok(bytes.len()) } else { Err(ended_error()) }, effects)
    }

    /// The engine reads. Whatever woke it, the lane flushes first.
    pub(super) fn read(
        &self,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
        settings: &TransportSettings,
    ) -> (Poll<io::Result<()>>, Effects) {
        let mut state = self.state.lock();
        if !state.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            state.reader = Some(cx.waker().clone());
        }
        state.flush();
        if self.is_paused(&mut state, settings) {
            let watch = !std::mem::replace(&mut state.is_watched, true);
            return (Poll::Pending, Effects { watch, ..Effects::default() });
        }
        let before = into.filled().len();
        let read = state.read(cx, into);
        let came = &into.filled()[before..];
        if state.inspector.inspect(came, settings.message_bytes_max).is_err() {
            return (Poll::Ready(Err(ended_error())), end(state, CloseReason::MessageTooBig));
        }
        (read, Effects::default())
    }

    /// Whether too many requests of the client are in flight.
    fn is_paused(&self, state: &mut LaneState, settings: &TransportSettings) -> bool {
        match state.reading {
            Reading::PausedSince(_) => true,
            Reading::PauseExpired => false,
            Reading::Open => {
                let pauses = self.in_flight.load(Ordering::Acquire) >= settings.in_flight_max;
                if pauses {
                    state.reading = Reading::PausedSince(Instant::now());
                }
                pauses
            }
        }
    }

    /// Whether the connection has not ended.
    pub(super) fn is_open(&self) -> bool {
        self.state.lock().stream.is_some()
    }

    /// The session is about to enter the namespace. It may have entered and left it before on this
    /// connection. Its CONNECT reply goes through the engine's queue, so shared frames wait again
    /// for a marker behind that. What was queued before `stamp` is not for this session.
    pub(super) fn entering(&self, stamp: u64) {
        self.state.lock().entering(stamp);
    }

    /// `reply` goes out in place of the next CONNECT reply that passes.
    pub(super) fn set_connect_reply(&self, reply: Option<Box<ConnectReply>>) {
        self.state.lock().connect_reply = reply;
    }

    pub(super) fn has_connect_reply(&self) -> bool {
        self.state.lock().connect_reply.is_some()
    }

    pub(super) fn take_connect_reply(&self) -> Option<Box<ConnectReply>> {
        self.state.lock().connect_reply.take()
    }

    /// The event to put into the engine's queue next, if the lane waits for it.
    pub(super) fn marker(&self) -> Option<String> {
        self.state.lock().marker()
    }

    /// The marker is not in the engine's queue: the queue was full.
    pub(super) fn marker_refused(&self) {
        self.state.lock().marker_refused();
    }

    /// Whether something waits because the client does not take it.
    pub fn is_blocked(&self) -> bool {
        !self.state.lock().ready.is_empty()
    }

    /// Ends the connection. A client that reads still gets the bytes that wait for it.
    pub(super) fn close(&self, reason: CloseReason) -> Effects {
        end(self.state.lock(), reason)
    }

    /// Checks the two deadlines, and answers when they must be checked again, if at all.
    pub(super) fn check_deadlines(
        &self,
        now: Instant,
        settings: &TransportSettings,
    ) -> (Option<Instant>, Effects) {
        let mut state = self.state.lock();
        let mut next = now + settings.check_deadlines_every();
        state.is_watched = false;
        if state.stream.is_none() {
            return (None, Effects::default());
        }
        if state.bytes > 0 {
            let stalled_at = state.progress + settings.stall_max;
            if now >= stalled_at {
                return (None, end(state, CloseReason::Stalled));
            }
            next = next.min(stalled_at);
        }
        if let Reading::PausedSince(since) = state.reading {
            let expires_at = since + settings.read_pause_max;
            if now >= expires_at {
                state.reading = Reading::PauseExpired;
                state.reader.iter().for_each(Waker::wake_by_ref);
            } else {
                next = next.min(expires_at);
            }
        }
        state.is_watched = state.bytes > 0 || matches!(state.reading, Reading::PausedSince(_));
        (state.is_watched.then_some(next), Effects::default())
    }

    /// The engine is done with the connection. Its last frame, a close frame, still goes out.
    pub(super) fn give_up(&self) -> Remains {
        let mut state = self.state.lock();
        state.flush();
        let last = state.rest();
        let sid = state.sid;
        let dropped = state.give_up();
        let guard = state.guard.take();
        drop(state);
        // Dropping them runs code of others: the waker leads to the task that holds this stream.
        drop((dropped.reader, guard));
        let stream = dropped.stream.filter(|_| !last.is_empty());
        let farewell = stream.map(|stream| Farewell::new(stream, last, dropped.inspector));
        Remains { sid, farewell }
    }
}

/// Ends a lane with too much waiting; hands one to the supervisor in which something waits.
fn check_backlog(mut state: MutexGuard<'_, LaneState>, settings: &TransportSettings) -> Effects {
    if state.bytes > settings.backlog_bytes_max.saturating_add(state.replay_bytes) {
        return end(state, CloseReason::TooSlow);
    }
    let watch = state.bytes > 0 && !std::mem::replace(&mut state.is_watched, true);
    Effects { watch, ..Effects::default() }
}

/// Nothing passes any more, in both directions.
fn end(mut state: MutexGuard<'_, LaneState>, reason: CloseReason) -> Effects {
    if state.stream.is_none() {
        return Effects::default();
    }
    let last = match reason {
        CloseReason::TooSlow | CloseReason::MessageTooBig => state.unfinished_frame(),
        _ => state.rest(),
    };
    let (sid, bytes_waiting) = (state.sid, state.bytes);
    let dropped = state.give_up();
    drop(state);
    let stream = dropped.stream.expect("it was there");
    let farewell = match reason.frame() {
        Some(close) => {
            let last = last.into_iter().chain([close]).collect();
            Some(Farewell::new(stream, last, dropped.inspector))
        }
        None => {
            stream.reset();
            None
        }
    };
    if let Some(reader) = dropped.reader {
        reader.wake();
    }
    let ended = Some(Box::new(Ended { sid, reason, bytes_waiting, farewell }));
    Effects { ended, ..Effects::default() }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let in_flight = self.lane.in_flight.fetch_sub(1, Ordering::AcqRel) - 1;
        // Exactly at half: the count passes there on its way down, and the lock is taken once.
        if in_flight == self.resume_at {
            let reader = self.lane.state.lock().resume_reading();
            if let Some(reader) = reader {
                reader.wake();
            }
        }
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}
