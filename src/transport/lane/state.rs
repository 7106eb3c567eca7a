//! The state of a lane: its stream, the bytes that wait for it, and their order.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, IoSlice},
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};
use socketioxide_core::Sid;
use tokio::{io::ReadBuf, time::Instant};

use crate::transport::{
    connect_reply::{self, ConnectReply},
    frame::{self, Inspector},
    sessions::opened_session,
    stream::{Guard, Stream, ended_error},
};

/// How a marker begins. A marker is sent to a lane through the engine's queue, and swallowed when
/// it passes. No application event has this name.
const MARKER: &[u8] = b"42[\"~lane\",";
/// The engine pings its client at once, where the protocol has the first ping after the interval.
const PING: &[u8] = b"2";
/// A client's answer to a ping, as a masked text frame.
const PONG: &[u8] = b"\x81\x81\x00\x00\x00\x003";
/// Slices in one write. The system takes 1 024, and a backlog seldom has more than a few.
const SLICES_MAX: usize = 64;
/// Bytes of one read.
const READ_BYTES_MAX: usize = 16 << 10;

thread_local! {
    /// Where a thread reads to, before it is known how much came.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES_MAX].into());
}

/// Whether shared frames may go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The marker is not sent. `retry`: it was refused, and the engine's next frame asks again.
    Opening { retry: bool },
    /// The marker of this number is in the engine's queue.
    Marked(u32),
    /// The marker has passed: shared frames go straight out.
    Live,
}

/// Whether the client's requests are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    Open,
    PausedSince(Instant),
    /// Paused for as long as pongs allow: reading goes on, and new requests are answered `busy`.
    PauseExpired,
}

/// The engine's ping right after a fresh websocket has opened. The client does not get it, and the
/// lane answers it in the client's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FirstPing {
    Expected,
    /// The engine waits for the answer, which must not come within a message of the client.
    Unanswered,
    Past,
}

/// News about the session from the engine's frames.
#[derive(Debug, Default)]
pub struct Passed {
    /// They named the session.
    pub opened: bool,
    /// The namespace may know the session by now.
    pub connected: bool,
}

/// The parts of a lane that has ended. They are dropped outside its lock, for that may run code of
/// others.
pub struct Dropped {
    pub stream: Option<Stream>,
    pub reader: Option<Waker>,
    pub inspector: Inspector,
}

pub struct LaneState {
    /// `None`: the lane has ended.
    pub stream: Option<Stream>,
    /// The connection's reader, which also flushes.
    pub reader: Option<Waker>,
    /// Whole frames to write. Of the first chunk, `written` bytes are gone.
    pub ready: VecDeque<Bytes>,
    written: usize,
    /// Shared frames that wait for the marker.
    held: Vec<Bytes>,
    /// Of `ready` and `held`, less `written`.
    pub bytes: usize,
    /// How many of `bytes` are in the connect reply: what a client missed may be more than may
    /// wait for it later.
    pub replay_bytes: usize,
    pub order: Order,
    /// Numbers markers. Only the last one counts: an earlier one may have been dropped together
    /// with the session that it was for.
    markers: u32,
    /// Shared frames with an earlier stamp were for a session that has left.
    pub since: u64,
    /// When bytes last moved, if any wait.
    pub progress: Instant,
    pub reading: Reading,
    /// Whether the supervisor checks the deadlines.
    pub is_watched: bool,
    pub sid: Option<Sid>,
    /// Goes out in place of the next CONNECT reply.
    pub connect_reply: Option<Box<ConnectReply>>,
    /// Read from the stream, or with the upgrade request, and not yet taken by the engine.
    came: Bytes,
    /// Follows what the client sends.
    pub inspector: Inspector,
    first_ping: FirstPing,
    /// The start of a frame whose end the engine has not written yet. The engine writes whole
    /// frames as long as every write is taken, so this stays empty.
    unfinished: Box<[u8]>,
    /// Dropped with the connection, and not before.
    pub guard: Option<Guard>,
}

impl LaneState {
    /// `came` are the bytes after the upgrade request.
    pub fn new(stream: Stream, came: Bytes, sid: Option<Sid>, guard: Option<Guard>) -> Self {
        Self {
            stream: Some(stream),
            reader: None,
            ready: VecDeque::new(),
            written: 0,
            held: Vec::new(),
            bytes: 0,
            replay_bytes: 0,
            order: Order::Opening { retry: false },
            markers: 0,
            since: 0,
            progress: Instant::now(),
            reading: Reading::Open,
            is_watched: false,
            sid,
            connect_reply: None,
            came,
            inspector: Inspector::default(),
            // A session that polled before has had its first ping there.
            first_ping: if sid.is_some() { FirstPing::Past } else { FirstPing::Expected },
            unfinished: Box::default(),
            guard,
        }
    }

    /// The session is about to enter the namespace.
    pub fn entering(&mut self, stamp: u64) {
        self.since = stamp;
        if self.order != (Order::Opening { retry: true }) {
            self.order = Order::Opening { retry: false };
        }
    }

    /// The event to put into the engine's queue next, if the lane waits for it.
    pub fn marker(&mut self) -> Option<String> {
        let Order::Opening { .. } = self.order else { return None };
        self.markers += 1;
        self.order = Order::Marked(self.markers);
        Some(format!("[\"~lane\",{}]", self.markers))
    }

    /// The marker is not in the engine's queue.
    pub fn marker_refused(&mut self) {
        if let Order::Marked(_) = self.order {
            self.order = Order::Opening { retry: true };
        }
    }

    /// Ends a pause of the reader, and answers whom to wake.
    pub fn resume_reading(&mut self) -> Option<Waker> {
        match std::mem::replace(&mut self.reading, Reading::Open) {
            Reading::Open => None,
            Reading::PausedSince(_) | Reading::PauseExpired => self.reader.clone(),
        }
    }

    /// Keeps shared frames until the marker has passed.
    pub fn hold_back(&mut self, chunks: &[Bytes]) {
        self.start_deadline();
        self.bytes += chunks.iter().map(Bytes::len).sum::<usize>();
        self.held.extend(chunks.iter().cloned());
    }

    /// The deadline runs from the moment when something first waits.
    fn start_deadline(&mut self) {
        if self.bytes == 0 {
            self.progress = Instant::now();
        }
    }

    /// Bytes of the engine, cut anywhere. `false`: the frame that they begin is longer than
    /// `unfinished_max`.
    pub fn write_engine(&mut self, bytes: &[u8], unfinished_max: usize) -> (Passed, bool) {
        let unfinished = std::mem::take(&mut self.unfinished);
        let joined = if unfinished.is_empty() { Vec::new() } else { [&unfinished, bytes].concat() };
        let frames = if unfinished.is_empty() { bytes } else { &joined };
        let (whole, rest) = frames.split_at(frame::whole(frames));
        let passed = self.pass(whole);
        let is_bounded = rest.len() <= unfinished_max;
        if is_bounded && !rest.is_empty() {
            self.unfinished = rest.into();
        }
        (passed, is_bounded)
    }

    /// Writes whole frames of the engine, in order: without the marker and the first ping, and with
    /// our connect reply in place of the engine's.
    fn pass(&mut self, frames: &[u8]) -> Passed {
        let mut passed = Passed::default();
        let mut from = 0;
        let mut at = 0;
        while let Some(frame) = frames.get(at..).and_then(frame::first) {
            let text = frame.text.unwrap_or_default();
            let end = at + frame.size;
            let connects = connect_reply::is_connect(text);
            if let Some(reply) = connect_reply::elsewhere(text) {
                self.write_own(&frames[from..at]);
                self.send(&[frame::text(reply.as_bytes())]);
                from = end;
            }
            if let Some(number) = text.strip_prefix(MARKER) {
                self.write_own(&frames[from..at]);
                self.marker_passed(number);
                from = end;
            } else if text == PING && self.first_ping == FirstPing::Expected {
                self.write_own(&frames[from..at]);
                self.first_ping = FirstPing::Unanswered;
                self.reader.iter().for_each(Waker::wake_by_ref);
                from = end;
            } else if let Order::Opening { retry } = self.order {
                if let Some(sid) = opened_session(text) {
                    self.sid = Some(sid);
                    passed.opened = true;
                }
                passed.connected |= retry || connects || text == b"3probe";
            }
            if connects && let Some(reply) = self.connect_reply.take() {
                self.write_own(&frames[from..at]);
                let bytes = reply.missed_frames.len();
                self.send(&[reply.connect, reply.missed_frames]);
                self.replay_bytes = if self.ready.is_empty() { 0 } else { bytes };
                from = end;
            }
            at = end;
        }
        self.write_own(&frames[from..]);
        passed
    }

    fn marker_passed(&mut self, rest: &[u8]) {
        let is_last = rest.strip_suffix(b"]") == Some(self.markers.to_string().as_bytes());
        // One that was sent before the session entered again says nothing about now.
        if !is_last || self.order != Order::Marked(self.markers) {
            return;
        }
        if self.connect_reply.is_some() {
            // It was sent for the session's last entry, and passes before this entry's reply.
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
        self.start_deadline();
        self.bytes += frames.len() - written;
        // Kept from the start of the frame that is partly gone, so that its end can be found.
        let start = frame::start_of_frame(frames, written);
        if self.ready.is_empty() {
            self.written = written - start;
        }
        self.ready.push_back(Bytes::copy_from_slice(&frames[start..]));
    }

    /// Shared frames, which are referred to and never copied.
    pub fn send(&mut self, chunks: &[Bytes]) {
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
            self.start_deadline();
            self.written = offset;
            self.ready.extend(chunks[first..].iter().cloned());
            self.bytes += chunks[first..].iter().map(Bytes::len).sum::<usize>() - offset;
        }
    }

    /// Writes what waits, as far as the stream takes it.
    pub fn flush(&mut self) {
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
        // The capacity for a backlog is not kept: most connections are idle, and must be small.
        self.ready = VecDeque::new();
        self.replay_bytes = 0;
    }

    /// Reads as much as there is, whatever the engine has room for: it keeps a buffer for each
    /// connection, which must be small, and small reads are dear.
    pub fn read(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut size_max = into.remaining();
        if self.first_ping == FirstPing::Unanswered {
            match self.inspector.until_between_messages() {
                0 => self.answer_first_ping(),
                rest => size_max = size_max.min(rest),
            }
        }
        let Some(stream) = &mut self.stream else { return Poll::Ready(Err(ended_error())) };
        if self.came.is_empty() {
            self.came = std::task::ready!(SCRATCH.with_borrow_mut(|scratch| {
                let mut read = ReadBuf::new(scratch);
                std::task::ready!(stream.poll_read(cx, &mut read))?;
                let size = read.filled().len().min(size_max);
                let (first, rest) = read.filled().split_at(size);
                into.put_slice(first);
                Poll::Ready(Ok::<_, io::Error>(Bytes::copy_from_slice(rest)))
            }))?;
        } else {
            let size = self.came.len().min(size_max);
            into.put_slice(&self.came.split_to(size));
            if self.came.is_empty() {
                // An empty slice would keep what it was cut from.
                self.came = Bytes::new();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The answer is what the engine reads next.
    fn answer_first_ping(&mut self) {
        self.first_ping = FirstPing::Past;
        self.came = match self.came.is_empty() {
            true => Bytes::from_static(PONG),
            false => [PONG, &self.came].concat().into(),
        };
    }

    /// One write. `None`: the stream takes no more, or failed; its reader sees the failure.
    fn write(&mut self, slices: &[IoSlice<'_>]) -> Option<usize> {
        write(self.reader.as_ref(), &mut self.stream, slices)
    }

    /// The chunks that wait, without the bytes that the client has.
    pub fn rest(&self) -> Vec<Bytes> {
        let mut rest: Vec<Bytes> = self.ready.iter().cloned().collect();
        if let Some(front) = rest.first_mut() {
            front.advance(self.written);
        }
        rest
    }

    /// The end of the frame of which the client has the beginning.
    pub fn unfinished_frame(&self) -> Vec<Bytes> {
        self.ready.front().map_or_else(Vec::new, |front| {
            vec![front.slice(self.written..frame::end_of_frame(front, self.written))]
        })
    }

    /// Forgets what waits, and answers what the lane no longer needs.
    pub fn give_up(&mut self) -> Dropped {
        self.ready = VecDeque::new();
        self.held = Vec::new();
        self.written = 0;
        self.bytes = 0;
        Dropped {
            stream: self.stream.take(),
            reader: self.reader.take(),
            inspector: std::mem::take(&mut self.inspector),
        }
    }
}

fn write(
    reader: Option<&Waker>,
    stream: &mut Option<Stream>,
    slices: &[IoSlice<'_>],
) -> Option<usize> {
    // Before the reader's first poll there is no task to wake; that poll flushes.
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
