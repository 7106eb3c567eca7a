//! The connections to Redis: their settings, the watchdog, and the parts of the store's health.
//!
//! fred's connection events are not enough: a frozen peer causes none. So the watchdog sends a PING
//! every half second and cuts a connection that does not answer.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use fred::{
    clients::Client,
    error::Error,
    interfaces::{ClientLike, ConfigInterface, EventInterface, KeysInterface},
    types::{
        Builder, Expiration, InfoKind, RespVersion, Value,
        config::{Config, ConnectionConfig, PerformanceConfig, ReconnectPolicy, Server, TcpConfig},
    },
};
use parking_lot::Mutex;
use tokio::{
    sync::{
        broadcast::{Receiver, error::TryRecvError},
        watch,
    },
    time::{sleep, timeout},
};

use crate::{shutdown::Tasks, store::Health};

/// After this time a command counts as failed; Redis may still execute it later.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// TCP drops a peer that does not acknowledge for this long: fred's writer has no timer of its own.
const TCP_TIMEOUT: Duration = Duration::from_secs(3);
const PING_EVERY: Duration = Duration::from_millis(500);
const PING_EVERY_WHILE_DOWN: Duration = Duration::from_millis(100);
const FORCE_TIMEOUT: Duration = Duration::from_secs(3);
/// Messages that may wait for the reader. Beyond it fred overwrites the oldest ones, and the reader
/// fills the hole from the log.
const MESSAGES_MAX: usize = 2_048;
/// The oldest Redis release that has what the scripts use: `MINID` in XADD and XTRIM.
const VERSION_MIN: (u32, u32) = (6, 2);

/// The connection settings that all clients of a store share.
pub fn builder(url: &str) -> Result<Builder, Error> {
    let url = match url.strip_prefix("unix:") {
        Some(path) => format!("redis+unix://{}", path.trim_start_matches("//")),
        None => url.to_owned(),
    };
    let mut config = Config::from_url(&url)?;
    config.version = RespVersion::RESP3;
    config.fail_fast = false;
    let mut policy = ReconnectPolicy::new_exponential(0, 50, 500, 2);
    policy.set_jitter(50);
    let mut builder = Builder::from_config(config);
    builder
        .set_policy(policy)
        .set_connection_config(ConnectionConfig {
            connection_timeout: CONNECT_TIMEOUT,
            internal_command_timeout: CONNECT_TIMEOUT,
            max_command_attempts: 1,
            // Some managed services refuse CLIENT SETNAME, and then no connection would succeed.
            auto_client_setname: false,
            reconnect_on_auth_error: true,
            tcp: TcpConfig {
                nodelay: Some(true),
                user_timeout: Some(TCP_TIMEOUT),
                ..TcpConfig::default()
            },
            ..ConnectionConfig::default()
        })
        .set_performance_config(PerformanceConfig {
            default_command_timeout: COMMAND_TIMEOUT,
            broadcast_channel_capacity: MESSAGES_MAX,
            ..PerformanceConfig::default()
        });
    Ok(builder)
}

/// The parts that must all work for the store to be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    Commands,
    Server,
    Agreement,
    Append,
    Subscription,
}

/// Health made of components; the first one that is down gives the reason.
#[derive(Debug, Clone)]
pub struct Status {
    /// The address without its password.
    shown: Arc<str>,
    reasons: Arc<Mutex<BTreeMap<Component, String>>>,
    health_sender: watch::Sender<Health>,
}

impl Status {
    pub fn new(shown: &str) -> Self {
        let reasons: BTreeMap<_, _> =
            [Component::Commands, Component::Agreement, Component::Subscription]
                .map(|part| (part, format!("Redis at {shown}: connecting")))
                .into();
        let first = reasons.values().next().cloned().unwrap_or_default();
        let health_sender = watch::Sender::new(Health::Down { reason: first });
        Self { shown: shown.into(), reasons: Arc::new(Mutex::new(reasons)), health_sender }
    }

    pub fn up(&self, part: Component) {
        self.change(|reasons| {
            reasons.remove(&part);
        });
    }

    pub fn down(&self, part: Component, why: impl fmt::Display) {
        let reason = format!("Redis at {}: {why}", self.shown);
        self.change(|reasons| {
            reasons.insert(part, reason);
        });
    }

    /// Whether a command to Redis can succeed.
    pub fn commands_work(&self) -> bool {
        let reasons = self.reasons.lock();
        !reasons.contains_key(&Component::Commands) && !reasons.contains_key(&Component::Server)
    }

    pub fn is_down(&self, part: Component) -> bool {
        self.reasons.lock().contains_key(&part)
    }

    pub fn watch(&self) -> watch::Receiver<Health> {
        self.health_sender.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<Component, String>)) {
        let mut reasons = self.reasons.lock();
        change(&mut reasons);
        let health = match reasons.values().next() {
            Some(reason) => Health::Down { reason: reason.clone() },
            None => Health::Ready,
        };
        // Another text for the same problem is no change of state.
        self.health_sender.send_if_modified(|known| {
            let changed = matches!(known, Health::Ready) != matches!(health, Health::Ready);
            *known = health;
            changed
        });
    }
}

/// Pings the command connection, and cuts it when there is no answer. While storing fails it tries
/// a write of its own, `probe`: a node that is not ready may get no messages, and then nothing else
/// would show that writes work again.
pub async fn watch(client: Client, status: Status, probe: String, tasks: Tasks) {
    let mut errors = client.error_rx();
    let (mut known_server, mut was_there, mut last_error) = (false, false, None);
    loop {
        let pause = match timeout(COMMAND_TIMEOUT, ping(&client)).await {
            Ok(Ok(())) => {
                if !known_server {
                    known_server = look_at_server(&client, &status).await;
                }
                status.up(Component::Commands);
                (was_there, last_error) = (true, None);
                if status.is_down(Component::Append) && write(&client, &probe).await {
                    status.up(Component::Append);
                }
                PING_EVERY
            }
            failed => {
                known_server = false;
                let known = last_error.clone();
                last_error = newest_error(&mut errors).or(last_error);
                let why = match (&last_error, failed) {
                    (Some(error), _) => error.clone(),
                    (None, Ok(Err(error))) => error.to_string(),
                    (None, _) => "it does not answer".to_owned(),
                };
                // Later a change of health logs it. Before the first connection the health only
                // says "connecting".
                if !was_there && last_error != known {
                    tracing::warn!(%why, "cannot connect to Redis; trying again");
                }
                status.down(Component::Commands, why);
                force_reconnection(&client).await;
                PING_EVERY_WHILE_DOWN
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            // The command connection may take longer to come back than the subscription.
            Ok((error, _server)) = errors.recv() => status.down(Component::Commands, error.details()),
            () = tasks.stopping() => return,
        }
    }
}

/// fred reports "connected" a moment after the connection's first answers.
async fn ping(client: &Client) -> Result<(), Error> {
    client.ping::<Value>(None).await?;
    client.wait_for_connect().await
}

/// Why fred could not connect: it reports that only as an event, not to the caller of a command.
fn newest_error(errors: &mut Receiver<(Error, Option<Server>)>) -> Option<String> {
    let mut newest = None;
    loop {
        match errors.try_recv() {
            Ok((error, _server)) => newest = Some(error),
            Err(TryRecvError::Lagged(_)) => {}
            Err(TryRecvError::Empty | TryRecvError::Closed) => break,
        }
    }
    let details = newest?.details().to_owned();
    // fred sends HELLO first to every server; older ones do not know it.
    let too_old = details.contains("unknown command") && details.contains("HELLO");
    let (major, minor) = VERSION_MIN;
    Some(if too_old {
        format!("it is too old: {major}.{minor} or newer is needed")
    } else {
        details
    })
}

async fn write(client: &Client, key: &str) -> bool {
    let soon_gone = Some(Expiration::PX(1_000));
    client.set::<Value, _, _>(key, "1", soon_gone, None, false).await.is_ok()
}

/// Does nothing to a client that is connecting already: it has its own retry delays.
pub async fn force_reconnection(client: &impl ClientLike) {
    if !client.is_connected() {
        return;
    }
    match timeout(FORCE_TIMEOUT, client.force_reconnection()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "reconnecting to Redis failed; trying again"),
        Err(_elapsed) => tracing::debug!("reconnecting to Redis takes long"),
    }
}

/// Checks once per connection that the server is new enough and does not evict keys. `false`: check
/// again.
async fn look_at_server(client: &Client, status: &Status) -> bool {
    // A service that forbids INFO is assumed to be suitable.
    let Ok(info) = client.info::<String>(None::<InfoKind>).await else { return true };
    let field = |name: &str| {
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    let version = field("redis_version").unwrap_or_default();
    if let Some(found) = parse_version(version)
        && found < VERSION_MIN
    {
        let (major, minor) = VERSION_MIN;
        let why = format!("version {version} is too old: {major}.{minor} or newer is needed");
        // The check is repeated, because a newer server may replace this one; one log line is
        // enough.
        if !status.is_down(Component::Server) {
            tracing::error!("Redis {why}");
        }
        status.down(Component::Server, why);
        return false;
    }
    status.up(Component::Server);
    if let Some(policy) = field("maxmemory_policy").filter(|policy| *policy != "noeviction") {
        tracing::warn!(
            policy,
            "Redis may evict messages when its memory is full; set maxmemory-policy noeviction"
        );
    }
    let saves: Vec<String> = client.config_get("save").await.unwrap_or_default();
    let keeps_rdb = saves.get(1).is_none_or(|save| !save.is_empty());
    if field("aof_enabled") == Some("0") && !keeps_rdb {
        tracing::warn!(
            "Redis keeps nothing on disk: a restart loses all messages; set appendonly yes"
        );
    }
    true
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_told_when_it_changes() {
        let status = Status::new("redis://db");
        let mut health = status.watch();
        assert!(matches!(*health.borrow_and_update(), Health::Down { .. }));
        status.up(Component::Commands);
        status.up(Component::Agreement);
        assert!(!health.has_changed().unwrap(), "still one part down");
        status.up(Component::Subscription);
        assert_eq!(*health.borrow_and_update(), Health::Ready);
        status.down(Component::Append, "full");
        let reason = "Redis at redis://db: full".into();
        assert_eq!(*health.borrow_and_update(), Health::Down { reason });
        assert!(status.commands_work(), "only trying tells whether it works again");
    }

    #[test]
    fn old_releases_are_recognised() {
        assert!(parse_version("6.0.16").is_some_and(|version| version < VERSION_MIN));
        assert!(parse_version("7.0.15").is_some_and(|version| version >= VERSION_MIN));
        assert!(parse_version("10.1").is_some_and(|version| version >= VERSION_MIN));
        assert_eq!(parse_version("unstable"), None);
    }
}
