//! Transport alone, without a chat, and clients in memory. Tests and benches share it.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::routing::MethodRouter;
use bytes::Bytes;
use http::Uri;
use roomcast::{
    shutdown::Tasks,
    transport::{
        self, Io, accept::Acceptor, adapter::Adapter, registry::Registry,
        settings::TransportSettings, stream::Stream,
    },
};
use socketioxide::{SocketIo, SocketIoBuilder, extract::SocketRef, service::SocketIoService};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A masked text frame that joins the namespace.
const CONNECT: &[u8] = b"\x81\x82\x00\x00\x00\x0040";

/// Answers requests that are not Socket.IO: there are none.
pub type Inner = MethodRouter<(), Infallible>;

/// A node that is nothing but transport.
pub struct TransportNode {
    pub io: Io,
    pub registry: Registry,
    pub service: SocketIoService<Inner, Adapter>,
    pub acceptor: Acceptor<Inner>,
    pub tasks: Tasks,
}

impl TransportNode {
    /// `entered` runs for each socket that has entered the namespace.
    pub fn start<F>(
        settings: TransportSettings,
        configure: impl FnOnce(SocketIoBuilder) -> SocketIoBuilder,
        entered: impl Fn(Registry, SocketRef<Adapter>) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tasks = Tasks::default();
        let registry = transport::start(settings, &tasks, &tasks);
        let (service, io) = configure(SocketIo::builder())
            .with_adapter::<Adapter>(registry.clone())
            .build_with_inner_svc(Inner::new());
        let admitting = registry.clone();
        io.ns("/", move |socket: SocketRef<Adapter>| {
            // The handlers end with the socket, and the admission with them.
            let admission = Arc::new(admitting.admit(socket.id, None));
            socket.on_fallback(move || {
                let admission = Arc::clone(&admission);
                async move { drop(admission) }
            });
            entered(admitting.clone(), socket)
        });
        let acceptor = Acceptor::new(service.clone(), "/socket.io/", registry.clone());
        Self { io, registry, service, acceptor, tasks }
    }

    /// A client in memory, over a websocket whose handshake named this query. It joins the
    /// namespace, and takes all that it is sent; each write takes as long as `write`.
    pub fn connect(
        &self,
        query: &str,
        write: Duration,
        on_write: impl FnMut(&[u8]) + Send + Unpin + 'static,
    ) {
        let uri: Uri = format!("/socket.io/?EIO=4&transport=websocket&{query}")
            .parse()
            .expect("a query makes a URI");
        let client = Client { says: CONNECT, write, on_write };
        self.acceptor.clone().serve(Stream::Other(Box::pin(client)), Bytes::new(), &uri, None);
    }
}

impl Drop for TransportNode {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

struct Client<F> {
    says: &'static [u8],
    write: Duration,
    on_write: F,
}

impl<F: Unpin> AsyncRead for Client<F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let says = std::mem::take(&mut self.says);
        if says.is_empty() {
            return Poll::Pending;
        }
        into.put_slice(says);
        Poll::Ready(Ok(()))
    }
}

impl<F: FnMut(&[u8]) + Unpin> AsyncWrite for Client<F> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let start = Instant::now();
        while start.elapsed() < self.write {
            std::hint::spin_loop();
        }
        (self.on_write)(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
