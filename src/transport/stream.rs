//! The connection under a lane: TCP, or any other stream.
//!
//! This is the one place that knows the difference. TCP writes without the scheduler's budget and
//! can be reset. Any other stream works too, only with less control.

use std::{
    any::Any,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// A stream that is not TCP.
pub trait Duplex: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

/// Held for as long as the connection: a permit among `--connections-max`, for example.
pub type Guard = Box<dyn Any + Send + Sync>;

pub enum Stream {
    Tcp(TcpStream),
    Other(Pin<Box<dyn Duplex>>),
}

impl Stream {
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, into),
            Self::Other(other) => other.as_mut().poll_read(cx, into),
        }
    }

    /// Writes what the stream takes now. `Pending`: nothing, and `cx` is woken when it takes more.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(tcp) => loop {
                // The system's plain `send` is a good deal cheaper than its `writev`.
                let written = match slices {
                    [slice] => tcp.try_write(slice),
                    slices => tcp.try_write_vectored(slices),
                };
                match written {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        match tcp.poll_write_ready(cx) {
                            Poll::Ready(Ok(())) => {}
                            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                            Poll::Pending => return Poll::Pending,
                        }
                    }
                    written => return Poll::Ready(written),
                }
            },
            Self::Other(other) => other.as_mut().poll_write_vectored(cx, slices),
        }
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(_) => Poll::Ready(Ok(())),
            Self::Other(other) => other.as_mut().poll_flush(cx),
        }
    }

    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Other(other) => other.as_mut().poll_shutdown(cx),
        }
    }

    /// Drops the connection and what the kernel still holds of it.
    pub fn reset(self) {
        if let Self::Tcp(tcp) = &self {
            // A connection that refuses this is already gone.
            tcp.set_zero_linger().ok();
        }
    }
}

/// The error of both directions once a lane has ended.
pub(super) fn ended_error() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionAborted)
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(tcp) => tcp.fmt(f),
            Self::Other(_) => f.write_str("Other"),
        }
    }
}
