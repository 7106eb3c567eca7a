//! The engine's end of a lane.

use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::transport::lane::{
    Cut, Lane, cut_error,
    out::{Out, ReadPause},
};
use crate::transport::{frame, supervisor::Farewell};

/// The end of a lane that the engine holds. Small, because the engine's tasks have room for it
/// several times over.
pub struct LaneStream {
    lane: Arc<Lane>,
}

impl LaneStream {
    pub(in crate::transport) fn new(lane: Arc<Lane>) -> Self {
        Self { lane }
    }

    /// Whether the client has too much under way, as the supervisor then must know.
    fn is_held(&self, out: &mut Out) -> bool {
        let lane = &self.lane;
        match out.read_pause {
            ReadPause::Since(_) => {}
            ReadPause::Expired => return false,
            ReadPause::None => {
                let in_flight = lane.in_flight.load(Ordering::Acquire);
                if in_flight < lane.registry.settings().in_flight_max {
                    return false;
                }
                out.read_pause = ReadPause::Since(Instant::now());
            }
        }
        if !std::mem::replace(&mut out.watched, true) {
            lane.registry.watch(Arc::clone(lane));
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
        let message_max = this.lane.registry.settings().message_bytes_max;
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
        if rest.len() > self.lane.registry.settings().backlog_bytes_max {
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
            self.lane.registry.farewell(Farewell::new(stream, last, inspector));
        }
        self.lane.registry.closed(sid, &self.lane, self.lane.upgrades);
        drop(guard);
    }
}

impl std::fmt::Debug for LaneStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaneStream").field("lane", &self.lane).finish_non_exhaustive()
    }
}
