//! The last bytes of a connection whose session is over.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io::{self, IoSlice},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{io::ReadBuf, time::timeout};

use crate::transport::{frame::Inspector, stream::Stream};

/// How long a client that was sent everything may take to close the connection.
const CLOSE_MAX: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub struct Farewell {
    stream: Stream,
    last: VecDeque<Bytes>,
    inspector: Inspector,
}

impl Farewell {
    /// `inspector` has followed what the client sent so far.
    pub fn new(stream: Stream, last: Vec<Bytes>, inspector: Inspector) -> Self {
        Self { stream, last: last.into(), inspector }
    }

    /// Ends the connection without its last bytes.
    pub fn reset(self) {
        self.stream.reset();
    }

    /// Writes the last bytes, or resets a client that does not take them within `limit`. Then
    /// waits a moment for the client to close the connection.
    pub async fn run(mut self, limit: Duration) {
        let written = timeout(limit, poll_fn(|cx| self.poll_write(cx))).await;
        if !matches!(written, Ok(Ok(()))) {
            return self.stream.reset();
        }
        // The system has all bytes, so the connection of a client that stays is only closed.
        let closed = timeout(limit.min(CLOSE_MAX), poll_fn(|cx| self.poll_closed(cx))).await;
        if !matches!(closed, Ok(Ok(()))) {
            tracing::trace!("a client had its close frame and did not close the connection");
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(front) = self.last.front_mut() {
            if front.is_empty() {
                self.last.pop_front();
                continue;
            }
            let written = ready!(self.stream.poll_write(cx, &[IoSlice::new(front)]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            front.advance(written);
        }
        ready!(self.stream.poll_flush(cx))?;
        self.stream.poll_shutdown(cx)
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Bytes that the client still sends are read and dropped: closing with unread bytes would
        // reset the connection, and the client would lose the close frame. The client's own close
        // frame is the last thing that it sends.
        while !self.inspector.saw_close() {
            let mut buffer = [0; 4_096];
            let mut buffer = ReadBuf::new(&mut buffer);
            ready!(self.stream.poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty()
                || self.inspector.inspect(buffer.filled(), u64::MAX).is_err()
            {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}
