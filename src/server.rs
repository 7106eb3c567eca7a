//! The composition root: build, wire, start, become ready, drain, stop.

pub mod events;
mod listener;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Extension, Router, middleware, response::Response};
use http::{HeaderValue, header};
use tokio::{
    runtime::{Handle, Runtime},
    sync::watch,
};

use self::{
    events::EventsError,
    listener::{Connections, Listener},
};
use crate::{
    chat::{Chat, Counts, accounts::Accounts},
    config::{Config, Storage, values::ListenAddress},
    delivery::{
        broadcaster::Broadcaster, relay::Relay, replay::ReplayBuffer, subscriptions::Subscriptions,
        ticks,
    },
    dialects::{
        Dialects,
        events::table::{DEFAULT_PROFILE, Table},
    },
    domain::request::Limits,
    http::{
        accounts,
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
        endpoint::{self, Endpoint},
        profile::{self, ListenerProfile},
        proof::UpgradeProofs,
    },
    store::{
        Health, Opened, RetentionPolicy, Store,
        redis::{
            self,
            agreement::{AgreedValue, Agreement},
        },
        sqlite,
    },
    telemetry::WarnOnce,
    transport::{self, registry::Registry, settings::TransportSettings},
};

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}: {error}")]
    Listen { address: SocketAddr, error: io::Error },
    #[error("no threads to deliver with: {0}")]
    Delivery(io::Error),
    #[error(transparent)]
    Events(#[from] EventsError),
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
            Self::Events(_)
                | Self::Static(_)
                | Self::ApiKeys(_)
                | Self::Redis(redis::ConfigError::Url { .. })
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
        let table = events::load(config)?;
        let listeners = listen_all(config)?;
        let delivery = DeliveryThreads::start().map_err(StartError::Delivery)?;
        let Opened { store, log_events, node_events } = {
            let _there = delivery.handle().enter();
            open_store(config, &table)?
        };
        let (tasks, transport) = (Tasks::default(), Tasks::default());
        let relay = Tasks::default().on(delivery.handle());
        let registry = transport::start(
            transport_settings(config),
            &transport,
            &transport.on(delivery.handle()),
        );
        let profile = config.profile().unwrap_or(DEFAULT_PROFILE);
        let dialects =
            Dialects::new(table, profile, config.has_accounts()).expect("the profile was checked");
        let replay = ReplayBuffer::new(Arc::clone(&store.log), dialects);
        let subscriptions = Subscriptions::new(registry.clone(), dialects);
        let chat = Chat::new(
            store.clone(),
            limits(config),
            subscriptions.clone(),
            replay.clone(),
            tasks.on(delivery.handle()),
        );
        let accounts = config.has_accounts().then(|| Accounts::new(chat.clone()));
        let proofs = UpgradeProofs::default();
        let sockets = Sockets {
            chat: chat.clone(),
            accounts: accounts.clone(),
            proofs: proofs.clone(),
            dialects,
            warned: WarnOnce::default(),
            registry: registry.clone(),
            health: store.lifecycle.health(),
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

        let health = health::routes(store.lifecycle.health(), tasks.clone());
        let origins = Origins::new(config.cors_origins.clone());
        let endpoint = Endpoint::new(config, service, registry.clone(), proofs);
        let app = socket_io(&config.socket_path, endpoint, dialects, origins.clone())
            .merge(assets::routes(static_dir, &config.socket_path))
            .merge(health.clone())
            .merge(rest(config, &chat, api_keys, accounts))
            .layer(origin::cors(origins));
        let sessions_max = config.connections_max;
        let full = health.fallback(move || async move { endpoint::full(sessions_max) });
        let connections = Connections::new(config.connections_max);
        let addresses = serve_all(listeners, &app, &full, &connections, &tasks);
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

/// The API, and the routes of accounts where there are any.
fn rest(config: &Config, chat: &Chat, keys: ApiKeys, accounts: Option<Accounts>) -> Router {
    let of_accounts = accounts.clone().map(accounts::routes).unwrap_or_default();
    api::routes(chat.clone(), keys, accounts, config.transport_bytes_max).merge(of_accounts)
}

/// Returns the addresses in the order of the listeners.
fn serve_all(
    listeners: Vec<(Listener, ListenerProfile)>,
    app: &Router,
    full: &Router,
    connections: &Connections,
    tasks: &Tasks,
) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for (listener, profile) in listeners {
        if let Some(address) = listener.address() {
            tracing::info!(%address, "listening");
            addresses.push(address);
        }
        let app = app.clone().layer(Extension(profile));
        listener.serve(app, full.clone(), connections, tasks);
    }
    addresses
}

fn limits(config: &Config) -> Limits {
    Limits {
        message_bytes_max: config.message_bytes_max,
        in_flight_max: config.in_flight_max,
        rooms_max: config.rooms_max as usize,
    }
}

/// Socket.IO at its path.
fn socket_io(path: &str, endpoint: Endpoint, dialects: Dialects, origins: Origins) -> Router {
    Router::new()
        .route(path, endpoint.route())
        .layer(middleware::from_fn_with_state(dialects, profile::choose))
        .layer(middleware::from_fn_with_state(origins, origin::guard))
        .layer(middleware::map_response(never_cached))
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
        sessions_max: config.connections_max as usize,
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

fn open_store(config: &Config, table: &Table) -> Result<Opened, StartError> {
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
                agreement: Agreement {
                    values: vec![table_agreement(table), accounts_agreement(config)],
                },
            })?);
        }
        Storage::Memory => sqlite::Location::Memory,
        Storage::Dir(dir) => sqlite::Location::Dir(dir),
    };
    Ok(sqlite::open(sqlite::SqliteOptions { location, retention })?)
}

/// Clients of nodes with other tables would be told other events of the same message.
fn table_agreement(table: &Table) -> AgreedValue {
    AgreedValue {
        name: "the event table (--events)".to_owned(),
        value: table.digest(),
        accepted: Vec::new(),
    }
}

/// A browser is served by any node, and its account must be known there.
fn accounts_agreement(config: &Config) -> AgreedValue {
    let value = if config.has_accounts() { "on" } else { "off" };
    let name = "accounts (--accounts)".to_owned();
    AgreedValue { name, value: value.to_owned(), accepted: Vec::new() }
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

/// The sockets that listen, each with the profile of its connections, if it has one.
fn listen_all(config: &Config) -> Result<Vec<(Listener, ListenerProfile)>, StartError> {
    let open = |ListenAddress { address, profile }| {
        let failed = |error| StartError::Listen { address, error };
        Ok((Listener::open(address).map_err(failed)?, ListenerProfile(profile.map(Arc::from))))
    };
    config.listeners().into_iter().map(open).collect()
}
