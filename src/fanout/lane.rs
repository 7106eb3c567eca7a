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
//!   `keeper` bounds that in time, so that pongs are read.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};
use socketioxide_core::Sid;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{
    accept::Guard,
    frame::{self, Inspector},
    keeper::Farewell,
    lanes::Lanes,
    stream::Stream,
    welcome,
};

/// How a marker begins: it is sent to a lane through the engine's queue, and swallowed when it
/// passes. No application event has this name.
const MARKER: &[u8] = b"42[\"~lane\",";
/// Slices in one write; the system takes 1 024, and a backlog seldom has more than a few.
const SLICES_MAX: usize = 64;
/// Bytes of one read.
const READ_BYTES_MAX: usize = 16 << 10;

thread_local! {
    /// Where a thread reads to, before it is known how much came.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES_MAX].into());
}

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

/// What the client has done about its session so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// The marker is not sent; `retry`: it was refused, the next own frame asks again.
    Opening { retry: bool },
    /// The marker of this number is in the engine's queue.
    Marked(u32),
    /// The marker has passed: shared frames go straight out.
    Live,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    None,
    Since(Instant),
    /// Held for as long as pongs allow: reading goes on, and what comes is answered `busy`.
    Expired,
}

/// What passed in an own write and the rest of the server should know.
#[derive(Debug, Default)]
struct Passed {
    opened: Option<Sid>,
    connected: bool,
}

struct Out {
    /// `None`: cut, or given up by the engine.
    stream: Option<Stream>,
    /// The connection's reader, which also flushes.
    reader: Option<Waker>,
    /// Whole frames to write; of the first chunk, `written` bytes are gone.
    ready: VecDeque<Bytes>,
    written: usize,
    /// Shared frames that wait for the marker.
    held: Vec<Bytes>,
    /// Of `ready` and `held`, less `written`.
    bytes: usize,
    /// What of `bytes` was asked for: the messages that a client missed may be more than it may
    /// let wait later.
    missed: usize,
    order: Order,
    /// Numbers markers. Only the last one counts: the session of one before it may have left, and
    /// taken it along.
    markers: u32,
    /// Shared frames of passes before this one were for a session that has left.
    since: u64,
    /// When bytes last moved, if any wait.
    progress: Instant,
    hold: Hold,
    /// Whether the keeper has this lane on its list.
    watched: bool,
    sid: Option<Sid>,
    /// Read from the stream, or with the upgrade request, and not yet taken by the engine.
    came: Bytes,
    /// Follows what the client sends.
    inspector: Inspector,
    /// The start of a frame whose end the engine has not written yet. It writes whole frames as
    /// long as every write is taken, so this stays empty.
    unfinished: Vec<u8>,
    /// Dropped with the connection, and not before.
    guard: Option<Guard>,
}

pub struct Lane {
    out: Mutex<Out>,
    under_way: AtomicU32,
    /// The polling session that this connection was to upgrade.
    upgrades: Option<Sid>,
    lanes: Lanes,
}

/// One thing that a client asked for and that is not answered yet; dropping it is the answer.
#[derive(Debug)]
#[must_use = "dropping it says that the request is answered"]
pub struct UnderWay(Arc<Lane>);

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
        lanes: Lanes,
    ) -> Arc<Self> {
        Arc::new(Self {
            out: Mutex::new(Out {
                stream: Some(stream),
                reader: None,
                ready: VecDeque::new(),
                written: 0,
                held: Vec::new(),
                bytes: 0,
                missed: 0,
                order: Order::Opening { retry: false },
                markers: 0,
                since: 0,
                progress: Instant::now(),
                hold: Hold::None,
                watched: false,
                sid: upgrades,
                came,
                inspector: Inspector::default(),
                unfinished: Vec::new(),
                guard,
            }),
            under_way: AtomicU32::new(0),
            upgrades,
            lanes,
        })
    }

    /// Counts a request until the guard is dropped. Reading pauses above `under_way_max`, and goes
    /// on below half of it.
    pub fn begin(self: &Arc<Self>) -> Result<UnderWay, Busy> {
        let under_way = self.under_way.fetch_add(1, Ordering::AcqRel);
        let guard = UnderWay(Arc::clone(self));
        let busy =
            under_way >= self.lanes.settings().under_way_max && self.lock().hold == Hold::Expired;
        if busy { Err(Busy) } else { Ok(guard) }
    }

    fn settle(&self) {
        let under_way = self.under_way.fetch_sub(1, Ordering::AcqRel) - 1;
        // Exactly at half: the count passes there on its way down, and the lock is taken once.
        if under_way == self.lanes.settings().under_way_max / 2 {
            let reader = {
                let mut out = self.lock();
                match std::mem::replace(&mut out.hold, Hold::None) {
                    Hold::None => None,
                    Hold::Since(_) | Hold::Expired => out.reader.clone(),
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
            out.touch();
            for chunk in chunks {
                out.bytes += chunk.len();
                out.held.push(chunk.clone());
            }
        }
        self.check(out);
    }

    /// The engine's own frames, whole.
    fn own(self: &Arc<Self>, frames: &[u8]) -> io::Result<()> {
        let mut out = self.lock();
        if out.stream.is_none() {
            return Err(cut_error());
        }
        let passed = out.pass(frames, &self.lanes);
        let sid = out.sid;
        self.check(out);
        if let Some(sid) = passed.opened {
            self.lanes.opened(sid, self);
        }
        if let (true, Some(sid)) = (passed.connected, sid) {
            self.lanes.connected(sid);
        }
        Ok(())
    }

    /// The session is about to enter the namespace, on a connection that it may have entered and
    /// left before. Its CONNECT reply goes through the engine's queue, so shared frames wait again
    /// for a marker behind it; what passes before `stamp` still bring is not for it.
    pub(super) fn entering(&self, stamp: u64) {
        let mut out = self.lock();
        out.since = stamp;
        if out.order != (Order::Opening { retry: true }) {
            out.order = Order::Opening { retry: false };
        }
    }

    /// The event to put into the engine's queue next, if the lane waits for it.
    pub(super) fn marker(&self) -> Option<String> {
        let mut out = self.lock();
        let Order::Opening { .. } = out.order else { return None };
        out.markers += 1;
        out.order = Order::Marked(out.markers);
        Some(format!("[\"~lane\",{}]", out.markers))
    }

    /// It is not in the engine's queue: that was full, or the session has left.
    pub(super) fn marker_refused(&self) {
        let mut out = self.lock();
        if let Order::Marked(_) = out.order {
            out.order = Order::Opening { retry: true };
        }
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
        let settings = self.lanes.settings();
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
        if let Hold::Since(since) = out.hold
            && now.saturating_duration_since(since) >= settings.hold_max
        {
            out.hold = Hold::Expired;
            if let Some(reader) = &out.reader {
                reader.wake_by_ref();
            }
        }
        out.watched = out.bytes > 0 || matches!(out.hold, Hold::Since(_));
        out.watched
    }

    /// Holds the bounds after something was added; gives the lane to the keeper if it must wait.
    fn check(self: &Arc<Self>, mut out: MutexGuard<'_, Out>) {
        if out.bytes > self.lanes.settings().backlog_bytes_max + out.missed {
            let rest = out.unfinished_frame();
            let close = frame::close(1013, "too slow: more is waiting than may wait");
            self.cut(out, Cut::Backlog, Some((rest, close)));
        } else if out.bytes > 0 && !out.watched {
            out.watched = true;
            drop(out);
            self.lanes.watch(Arc::clone(self));
        }
    }

    /// The end: nothing passes any more, either way.
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
                self.lanes.farewell(Farewell::new(stream, last, inspector));
            }
            None => stream.reset(),
        }
        self.lanes.cut(sid, why, waiting);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Out> {
        // No code that can panic leaves the counts wrong.
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Out {
    /// The deadline runs from the moment that something first waits.
    fn touch(&mut self) {
        if self.bytes == 0 {
            self.progress = Instant::now();
        }
    }

    /// Own frames, in order; what must be known about them; without the marker, and with the
    /// welcome in the place of the CONNECT reply.
    fn pass(&mut self, frames: &[u8], lanes: &Lanes) -> Passed {
        let mut passed = Passed::default();
        let mut from = 0;
        let mut at = 0;
        while let Some(frame) = frames.get(at..).and_then(frame::first) {
            let text = frame.text.unwrap_or_default();
            let end = at + frame.size;
            let connects = welcome::is_connect(text);
            if let Some(number) = text.strip_prefix(MARKER) {
                self.write_own(&frames[from..at]);
                self.marker_passed(number, lanes);
                from = end;
            } else if let Order::Opening { retry } = self.order {
                if let Some(sid) = opened_session(text) {
                    self.sid = Some(sid);
                    passed.opened = Some(sid);
                }
                passed.connected |= retry || connects || text == b"3probe";
            }
            if connects && let Some(welcome) = self.sid.and_then(|sid| lanes.take_welcome(sid)) {
                self.write_own(&frames[from..at]);
                let missed = welcome.missed.len();
                self.send(&[welcome.connect, welcome.missed]);
                self.missed = if self.ready.is_empty() { 0 } else { missed };
                from = end;
            }
            at = end;
        }
        self.write_own(&frames[from..]);
        passed
    }

    fn marker_passed(&mut self, rest: &[u8], lanes: &Lanes) {
        let is_last = rest.strip_suffix(b"]") == Some(self.markers.to_string().as_bytes());
        // One that was sent before the session entered again says nothing about now.
        if !is_last || self.order != Order::Marked(self.markers) {
            return;
        }
        if self.sid.is_some_and(|sid| lanes.has_welcome(sid)) {
            // It was asked for by the session's last entry, and is before the CONNECT reply of this.
            self.order = Order::Opening { retry: true };
            return;
        }
        self.order = Order::Live;
        let held = std::mem::take(&mut self.held);
        self.bytes -= held.iter().map(Bytes::len).sum::<usize>();
        self.send(&held);
    }

    /// Own frames are in the engine's buffer, so what cannot be written now is copied.
    fn write_own(&mut self, frames: &[u8]) {
        let mut written = 0;
        if self.ready.is_empty() {
            while written < frames.len() {
                match self.write(&[IoSlice::new(&frames[written..])]) {
                    Some(n) => written += n,
                    None => break,
                }
            }
        }
        if written == frames.len() {
            return;
        }
        self.touch();
        self.bytes += frames.len() - written;
        // Kept from the start of the frame that is partly gone, so that its end can be found.
        let start = frame::start_of_frame(frames, written);
        if self.ready.is_empty() {
            self.written = written - start;
        }
        self.ready.push_back(Bytes::copy_from_slice(&frames[start..]));
    }

    /// Shared frames, which are referred to and never copied.
    fn send(&mut self, chunks: &[Bytes]) {
        let was_empty = self.ready.is_empty();
        let size: usize = chunks.iter().map(Bytes::len).sum();
        if !was_empty {
            // The stream is known to take no more, and the reader will be woken when it does.
            self.bytes += size;
            self.ready.extend(chunks.iter().cloned());
            return;
        }
        let (mut first, mut offset) = (0, 0);
        while first < chunks.len() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = gather(&mut slices, chunks[first..].iter(), offset);
            let Some(mut written) = self.write(&slices[..count]) else { break };
            while first < chunks.len() && written >= chunks[first].len() - offset {
                written -= chunks[first].len() - offset;
                first += 1;
                offset = 0;
            }
            offset += written;
        }
        if first < chunks.len() {
            self.touch();
            self.written = offset;
            self.ready.extend(chunks[first..].iter().cloned());
            self.bytes += chunks[first..].iter().map(Bytes::len).sum::<usize>() - offset;
        }
    }

    /// Writes what waits, as far as the stream takes it.
    fn flush(&mut self) {
        while !self.ready.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = gather(&mut slices, self.ready.iter(), self.written);
            let (reader, stream) = (&self.reader, &mut self.stream);
            let Some(mut written) = write(reader.as_ref(), stream, &slices[..count]) else {
                return;
            };
            self.progress = Instant::now();
            self.bytes -= written;
            while let Some(chunk) = self.ready.front()
                && written >= chunk.len() - self.written
            {
                written -= chunk.len() - self.written;
                self.written = 0;
                self.ready.pop_front();
            }
            self.written += written;
        }
        // A burst's backlog is not kept as capacity: idle lanes are what memory is for.
        self.ready = VecDeque::new();
        self.missed = 0;
    }

    /// Reads as much as there is, whatever the engine has room for: it keeps a buffer for each
    /// connection, which must be small, and small reads are dear.
    fn read(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Err(cut_error())) };
        if self.came.is_empty() {
            self.came = std::task::ready!(SCRATCH.with_borrow_mut(|scratch| {
                let mut read = ReadBuf::new(scratch);
                std::task::ready!(stream.poll_read(cx, &mut read))?;
                let size = read.filled().len().min(into.remaining());
                let (first, rest) = read.filled().split_at(size);
                into.put_slice(first);
                Poll::Ready(Ok::<_, io::Error>(Bytes::copy_from_slice(rest)))
            }))?;
        } else {
            let size = self.came.len().min(into.remaining());
            into.put_slice(&self.came.split_to(size));
            if self.came.is_empty() {
                // An empty slice would keep what it was cut from.
                self.came = Bytes::new();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// One write. `None`: the stream takes no more, or failed; its reader sees the failure.
    fn write(&mut self, slices: &[IoSlice<'_>]) -> Option<usize> {
        write(self.reader.as_ref(), &mut self.stream, slices)
    }

    /// What waits, from where the client has it.
    fn rest(&self) -> Vec<Bytes> {
        let mut rest: Vec<Bytes> = self.ready.iter().cloned().collect();
        if let Some(front) = rest.first_mut() {
            front.advance(self.written);
        }
        rest
    }

    /// The end of the frame of which the client has the beginning.
    fn unfinished_frame(&self) -> Vec<Bytes> {
        self.ready.front().map_or_else(Vec::new, |front| {
            vec![front.slice(self.written..frame::end_of_frame(front, self.written))]
        })
    }

    /// Forgets what waits, and answers who must be told.
    fn give_up(&mut self) -> Option<Waker> {
        self.ready = VecDeque::new();
        self.held = Vec::new();
        self.written = 0;
        self.bytes = 0;
        self.reader.take()
    }
}

fn write(
    reader: Option<&Waker>,
    stream: &mut Option<Stream>,
    slices: &[IoSlice<'_>],
) -> Option<usize> {
    // Before the reader's first poll nobody can be woken; that poll flushes.
    let mut cx = Context::from_waker(reader.unwrap_or(Waker::noop()));
    let stream = stream.as_mut()?;
    match stream.poll_write(&mut cx, slices) {
        Poll::Ready(Ok(written)) if written > 0 => {
            match stream.poll_flush(&mut cx) {
                Poll::Ready(Ok(())) | Poll::Pending => {}
                Poll::Ready(Err(_)) => return None,
            }
            Some(written)
        }
        Poll::Ready(Ok(_) | Err(_)) | Poll::Pending => None,
    }
}

/// Fills `slices` with chunks, of the first from `offset`. Answers how many.
fn gather<'a>(
    slices: &mut [IoSlice<'a>; SLICES_MAX],
    chunks: impl Iterator<Item = &'a Bytes>,
    offset: usize,
) -> usize {
    let mut count = 0;
    for (slice, chunk) in slices.iter_mut().zip(chunks) {
        *slice = IoSlice::new(if count == 0 { &chunk[offset..] } else { chunk });
        count += 1;
    }
    count
}

/// The session id in Engine.IO's first packet.
fn opened_session(text: &[u8]) -> Option<Sid> {
    let rest = text.strip_prefix(b"0{\"sid\":\"")?;
    let end = rest.iter().position(|&byte| byte == b'"')?;
    std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
}

fn cut_error() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionAborted)
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.settle();
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("under_way", &self.under_way).finish_non_exhaustive()
    }
}

/// The end of a lane that the engine holds. Small, because the engine's tasks have room for it
/// several times over.
pub struct LaneStream {
    lane: Arc<Lane>,
}

impl LaneStream {
    pub(super) fn new(lane: Arc<Lane>) -> Self {
        Self { lane }
    }

    /// Whether the client has too much under way, as the keeper then must know.
    fn is_held(&self, out: &mut Out) -> bool {
        let lane = &self.lane;
        match out.hold {
            Hold::Since(_) => {}
            Hold::Expired => return false,
            Hold::None => {
                let under_way = lane.under_way.load(Ordering::Acquire);
                if under_way < lane.lanes.settings().under_way_max {
                    return false;
                }
                out.hold = Hold::Since(Instant::now());
            }
        }
        if !std::mem::replace(&mut out.watched, true) {
            lane.lanes.watch(Arc::clone(lane));
        }
        true
    }
}

impl AsyncRead for LaneStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &*self;
        let mut out = this.lane.lock();
        if !out.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            out.reader = Some(cx.waker().clone());
        }
        out.flush();
        if this.is_held(&mut out) {
            return Poll::Pending;
        }
        let before = into.filled().len();
        std::task::ready!(out.read(cx, into))?;
        let message_max = this.lane.lanes.settings().message_bytes_max;
        let came = &into.filled()[before..];
        if out.inspector.inspect(came, message_max).is_err() {
            let rest = out.unfinished_frame();
            let close = frame::close(1009, "message too big");
            this.lane.cut(out, Cut::TooLarge, Some((rest, close)));
            return Poll::Ready(Err(cut_error()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LaneStream {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // Nobody but this writes, so it may be taken out while frames pass.
        let mut unfinished = std::mem::take(&mut self.lane.lock().unfinished);
        if !unfinished.is_empty() {
            unfinished.extend_from_slice(bytes);
        }
        let frames = if unfinished.is_empty() { bytes } else { &unfinished };
        let whole = frame::whole(frames);
        if whole > 0 {
            self.lane.own(&frames[..whole])?;
        }
        let rest = frames[whole..].to_vec();
        if rest.len() > self.lane.lanes.settings().backlog_bytes_max {
            return Poll::Ready(Err(cut_error()));
        }
        if !rest.is_empty() {
            self.lane.lock().unfinished = rest;
        }
        Poll::Ready(Ok(bytes.len()))
    }

    /// Flushing is the lane's own business: the engine must never wait for the client.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(if self.lane.lock().stream.is_some() { Ok(()) } else { Err(cut_error()) })
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for LaneStream {
    /// The engine is done with the connection. What it wrote last, a close frame, still goes out.
    fn drop(&mut self) {
        let mut out = self.lane.lock();
        out.flush();
        let last = out.rest();
        let stream = out.stream.take();
        let inspector = std::mem::take(&mut out.inspector);
        let (sid, guard) = (out.sid, out.guard.take());
        let reader = out.give_up();
        drop(out);
        // The waker leads back to the task that holds this stream.
        drop(reader);
        if let Some(stream) = stream
            && !last.is_empty()
        {
            self.lane.lanes.farewell(Farewell::new(stream, last, inspector));
        }
        self.lane.lanes.closed(sid, &self.lane, self.lane.upgrades);
        drop(guard);
    }
}

impl std::fmt::Debug for LaneStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaneStream").field("lane", &self.lane).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
