//! The engine's end of a lane.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::transport::{lane::Lane, registry::Registry, stream::ended_error};

/// The end of a lane that the engine holds. Small, because the engine's tasks have room for it
/// several times over.
#[derive(Debug)]
pub struct LaneStream {
    lane: Arc<Lane>,
    registry: Registry,
}

impl LaneStream {
    pub(super) fn new(lane: Arc<Lane>, registry: Registry) -> Self {
        Self { lane, registry }
    }
}

impl AsyncRead for LaneStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (read, effects) = self.lane.read(cx, into, self.registry.settings());
        self.registry.carry_out(&self.lane, effects);
        read
    }
}

impl AsyncWrite for LaneStream {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let (written, effects) = self.lane.write(bytes, self.registry.settings());
        self.registry.carry_out(&self.lane, effects);
        Poll::Ready(written)
    }

    /// The lane flushes itself: the engine must never wait for the client.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(if self.lane.is_open() { Ok(()) } else { Err(ended_error()) })
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for LaneStream {
    fn drop(&mut self) {
        self.registry.closed(&self.lane);
    }
}

#[cfg(test)]
mod tests;
