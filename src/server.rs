//! The composition root: build, wire, start, become ready, drain, stop.

pub mod events;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, middleware, response::Response};
use http::{HeaderValue, header};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::{Handle, Runtime},
    sync::{Semaphore, mpsc, watch},
};

use tower::ServiceExt as _;

use crate::{
    chat::{Chat, Counts},
    config::{Config, Storage},
    delivery::{
        broadcaster::Broadcaster, relay::Relay, replay::ReplayBuffer, subscriptions::Subscriptions,
        ticks,
    },
    dialects::Dialects,
    domain::request::Limits,
    http::{
        api::{
            self,
            keys::{ApiKeys, KeyFileError},
        },
        assets, health,
        origin::{self, Origins},
        static_dir::{StaticDir, StaticDirError},
    },
    shutdown::Tasks,
    sockets::{
        self, Sockets,
        endpoint::{ConnectionPermit, Endpoint},
        profile,
    },
    store::{Health, Opened, RetentionPolicy, Store, redis, sqlite},
    telemetry::WarnOnce,
    transport::{self, registry::Registry, settings::TransportSettings},
};

/// A client must send the head of its first request, or of the next one, within this time. Load
/// balancers keep idle connections for 60 s and must close them first: a request that meets a
/// connection which the server is closing fails, and a POST is not sent again.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Connections that may wait in the kernel to be accepted, as far as its own limit allows.
const BACKLOG: u32 = 4_096;
/// Connections that are accepted and wait to be served.
const QUEUE_MAX: usize = 16_384;
/// A peer that acknowledges nothing for this long is taken for gone, even with data in flight.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Bytes of one connection that the kernel may hold unsent. Above it frames wait in the lane,
/// where all connections share them; the kernel keeps a copy for each, up to 4 MiB.
const UNSENT_BYTES_MAX: u32 = 256 << 10;

/// The path of Socket.IO.
const SOCKET_PATH: &str = "/socket.io/";

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}: {error}")]
    Listen { address: SocketAddr, error: io::Error },
    #[error("no threads to deliver with: {0}")]
    Delivery(io::Error),
    #[error(transparent)]
    Static(#[from] StaticDirError),
    #[error(transparent)]
    Data(#[from] sqlite::error::OpenError),
    #[error(transparent)]
    ApiKeys(#[from] KeyFileError),
    #[error(transparent)]
    Redis(#[from] redis::ConfigError),
}

impl StartError {
    /// Whether other flags would help.
    pub fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::Static(_) | Self::ApiKeys(_) | Self::Redis(redis::ConfigError::Url { .. })
        )
    }
}

/// A server that accepts connections.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    registry: Registry,
    chat: Chat,
    store: Store,
    tasks: Tasks,
    /// Ends after the store, whose last events it still delivers.
    relay: Tasks,
    /// Ends last: the tasks that write what is left to the sockets and close them.
    transport: Tasks,
    _delivery: DeliveryThreads,
}

/// Threads for messages on their way, from the store to the sockets, and for every task that the
/// relay waits for at the cutover. When ten thousand clients come back at once, the main runtime
/// has so much to do that such a task would wait there again and again; between threads the kernel
/// is fair.
#[derive(Debug)]
struct DeliveryThreads(Option<Runtime>);

impl DeliveryThreads {
    fn start() -> io::Result<Self> {
        let threads = TransportSettings::default().flush_tasks;
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(threads).thread_name("delivery").enable_all().build();
        runtime.map(|runtime| Self(Some(runtime)))
    }

    fn handle(&self) -> &Handle {
        self.0.as_ref().expect("it runs until it is dropped").handle()
    }
}

impl Drop for DeliveryThreads {
    fn drop(&mut self) {
        // Where this is dropped nothing may block.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Server {
    /// Returns when the server accepts connections. It may not be ready yet: see `/readyz`.
    #[expect(clippy::unused_async, reason = "it spawns, and so runs inside a runtime")]
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        let api_keys = config.api_key_file().map(ApiKeys::read).transpose()?.unwrap_or_default();
        let static_dir = config.static_dir().map(StaticDir::open).transpose()?;
        let listeners = listen_all(config)?;
        let delivery = DeliveryThreads::start().map_err(StartError::Delivery)?;
        let Opened { store, log_events, node_events } = {
            let _there = delivery.handle().enter();
            open_store(config)?
        };
        let (tasks, transport) = (Tasks::default(), Tasks::default());
        let relay = Tasks::default().on(delivery.handle());
        let registry = transport::start(
            transport_settings(config),
            &transport,
            &transport.on(delivery.handle()),
        );
        let dialects = Dialects::builtin();
        let replay = ReplayBuffer::new(Arc::clone(&store.log), dialects);
        let subscriptions = Subscriptions::new(registry.clone(), dialects);
        let chat = Chat::new(
            store.clone(),
            limits(config),
            subscriptions.clone(),
            replay.clone(),
            tasks.on(delivery.handle()),
        );
        let sockets = Sockets {
            chat: chat.clone(),
            dialects,
            warned: WarnOnce::default(),
            registry: registry.clone(),
            tasks: tasks.clone(),
        };
        let (service, io) = sockets::build(config, sockets);
        let broadcaster = Broadcaster::new(io, subscriptions.clone(), registry.clone());
        chat.open(broadcaster.clone());
        spawn_ticks(dialects, &broadcaster, &tasks);
        let log = Arc::clone(&store.log);
        let relaying = Relay { log, replay, subscriptions, broadcaster };
        relay.spawn_vital("relay", relaying.run(log_events));
        relay.spawn_vital("node events", chat.clone().run(node_events, relay.clone()));
        tasks.spawn("health log", log_health(store.lifecycle.health(), tasks.clone()));

        let offers = sockets::offers(config);
        let origins = Origins::new(config.cors_origins.clone());
        let endpoint = Endpoint::new(SOCKET_PATH, service, registry.clone(), offers);
        let socket_io = Router::new()
            .route(SOCKET_PATH, endpoint.route())
            .layer(middleware::from_fn_with_state(dialects, profile::choose))
            .layer(middleware::from_fn_with_state(origins.clone(), origin::guard))
            .layer(middleware::map_response(never_cached));
        let app = socket_io
            .merge(assets::routes(static_dir))
            .merge(health::routes(store.lifecycle.health(), tasks.clone()))
            .merge(api::routes(chat.clone(), api_keys, config.transport_bytes_max))
            .layer(origin::cors(origins));
        let permits = Arc::new(Semaphore::new(config.connections_max as usize));
        let mut addresses = Vec::new();
        for listener in listeners {
            if let Ok(address) = listener.local_addr() {
                tracing::info!(%address, "listening");
                addresses.push(address);
            }
            let (accepted, queue) = mpsc::channel(QUEUE_MAX);
            tasks.spawn("accept", accept(listener, accepted, tasks.clone(), Arc::clone(&permits)));
            tasks.spawn("serve accepted", serve_accepted(queue, app.clone(), tasks.clone()));
        }
        Ok(Self { addresses, registry, chat, store, tasks, relay, transport, _delivery: delivery })
    }

    /// What this node keeps for its connections.
    pub fn counts(&self) -> Counts {
        self.chat.counts()
    }

    /// The addresses in the order of the configuration; port 0 has become a real one.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Accepts no new sessions, settles what is in flight, and closes the transports. Clients see a
    /// closed transport, not a DISCONNECT packet, and so reconnect elsewhere by themselves.
    pub async fn stop(self, deadline: Duration) {
        tracing::info!("stopping: no new sessions");
        self.tasks.stop();
        let drained = tokio::time::timeout(deadline, async {
            self.store.lifecycle.close().await;
            self.relay.stop();
            self.relay.finished().await;
            self.registry.delivered().await;
            self.registry.close_all();
            self.registry.emptied().await;
            self.transport.stop();
            self.transport.finished().await;
            self.tasks.finished().await;
        });
        match drained.await {
            Ok(()) => tracing::info!("stopped"),
            Err(_elapsed) => {
                tracing::warn!(?deadline, "stopped at the deadline; some connections were cut")
            }
        }
    }
}

fn limits(config: &Config) -> Limits {
    Limits {
        message_bytes_max: config.message_bytes_max,
        in_flight_max: config.in_flight_max,
        rooms_max: config.rooms_max as usize,
    }
}

fn spawn_ticks(dialects: Dialects, broadcaster: &Broadcaster, tasks: &Tasks) {
    for dialect in dialects.all() {
        for (index, period) in dialect.ticks().into_iter().enumerate() {
            let ticking = ticks::emit(broadcaster.clone(), dialect, index, period, tasks.clone());
            tasks.spawn("ticks", ticking);
        }
    }
}

fn transport_settings(config: &Config) -> TransportSettings {
    TransportSettings {
        message_bytes_max: config.transport_bytes_max as u64,
        // Below the bound of one connection, which also counts what was read before the pause.
        in_flight_max: (config.in_flight_max / 2).clamp(1, 1_024),
        backlog_bytes_max: TransportSettings::default()
            .backlog_bytes_max
            .max(config.transport_bytes_max * 2),
        // A pong waits at most half of the ping timeout.
        read_pause_max: (config.ping_timeout / 2).min(TransportSettings::default().read_pause_max),
        ..TransportSettings::default()
    }
}

fn open_store(config: &Config) -> Result<Opened, StartError> {
    let retention = RetentionPolicy {
        history_max: config.history_max,
        history_ttl: config.history_ttl,
        idempotency_window: config.idempotency_window,
        recovery_window: config.recovery_window,
    };
    let location = match config.storage() {
        Storage::Redis(url) => {
            return Ok(redis::open(redis::RedisOptions {
                url: url.reveal().to_owned(),
                shown: url.to_string(),
                prefix: config.redis_prefix.clone(),
                partitions: config.partitions,
                retention,
                lease: redis::node::LeaseSettings::default(),
                agreement: redis::agreement::Agreement::default(),
            })?);
        }
        Storage::Memory => sqlite::Location::Memory,
        Storage::Dir(dir) => sqlite::Location::Dir(dir),
    };
    Ok(sqlite::open(sqlite::SqliteOptions { location, retention })?)
}

/// A cache that kept a handshake would give one session to several clients.
async fn never_cached(mut response: Response) -> Response {
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    response
}

/// Writes one line per change of state; the same trouble again is no change.
async fn log_health(mut health: watch::Receiver<Health>, tasks: Tasks) {
    let mut was_ready = None;
    loop {
        let now = health.borrow_and_update().clone();
        let is_ready = now == Health::Ready;
        if was_ready != Some(is_ready) {
            match now {
                Health::Ready if was_ready.is_none() => tracing::info!("ready"),
                Health::Ready => tracing::info!("ready: messages are stored and delivered"),
                Health::Down { reason } => tracing::warn!(%reason, "not ready"),
            }
            was_ready = Some(is_ready);
        }
        tokio::select! {
            changed = health.changed() => if changed.is_err() { return },
            () = tasks.stopping() => return,
        }
    }
}

fn listen_all(config: &Config) -> Result<Vec<TcpListener>, StartError> {
    let listening =
        |address| listen(address).map_err(|error| StartError::Listen { address, error });
    config.addresses().into_iter().map(listening).collect()
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart need not wait until the kernel has forgotten the last process's connections.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts as fast as it can: a client that finds the kernel's queue full tries again only after
/// seconds.
async fn accept(
    listener: TcpListener,
    accepted: mpsc::Sender<(TcpStream, ConnectionPermit)>,
    tasks: Tasks,
    permits: Arc<Semaphore>,
) {
    loop {
        let connection = tokio::select! {
            connection = listener.accept() => connection,
            () = tasks.stopping() => return,
        };
        match connection {
            Ok((stream, _peer)) => {
                // A full node closes the connection at once: a load balancer tries another.
                let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                    tracing::debug!("refused a connection: --connections-max is reached");
                    continue;
                };
                if accepted.send((stream, ConnectionPermit(Arc::new(permit)))).await.is_err() {
                    return;
                }
            }
            // Out of file descriptors, most likely: waiting lets some come free.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one more connection in each round of the scheduler: however many come at once, the
/// connections that are served already have their turn between two of them.
async fn serve_accepted(
    mut queue: mpsc::Receiver<(TcpStream, ConnectionPermit)>,
    app: Router,
    tasks: Tasks,
) {
    while let Some((stream, permit)) = queue.recv().await {
        tasks.spawn("connection", serve_connection(stream, app.clone(), permit, tasks.clone()));
        tokio::task::yield_now().await;
    }
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(SILENCE_MAX))?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    stream.set_nodelay(true)
}

/// The permit is also in every request, because a websocket outlives this.
async fn serve_connection(stream: TcpStream, app: Router, permit: ConnectionPermit, tasks: Tasks) {
    if let Err(error) = set_options(&stream) {
        return tracing::debug!(%error, "a connection ended at once");
    }
    let app = app.map_request(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(permit.clone());
        request
    });
    let service = TowerToHyperService::new(app);
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = tasks.stopping() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection ended badly");
    }
}
