//! The ports to what outlives a connection: one trait for each kind of thing that is kept.
//!
//! SQLite implements them for one node, Redis for many. `tests/it/contract.rs` and its neighbours
//! put the contracts in these files to both.

pub mod accounts;
pub mod error;
pub mod inbox;
mod layout;
pub mod log;
pub mod presence;
pub mod profiles;
pub mod queue;
pub mod redis;
pub mod search;
pub mod sessions;
pub mod sqlite;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};

use self::{
    accounts::AccountStore,
    inbox::Inbox,
    log::{LogEvents, MessageLog},
    presence::{PresenceStore, Signal},
    profiles::ProfileStore,
    search::SearchIndex,
    sessions::{Holder, SessionStore},
};
use crate::domain::name::PublicId;

/// A clonable handle to every port of one store.
#[derive(Debug, Clone)]
pub struct Store {
    pub log: Arc<dyn MessageLog>,
    pub sessions: Arc<dyn SessionStore>,
    pub presence: Arc<dyn PresenceStore>,
    pub profiles: Arc<dyn ProfileStore>,
    pub inbox: Arc<dyn Inbox>,
    pub search: Arc<dyn SearchIndex>,
    pub accounts: Arc<dyn AccountStore>,
    pub lifecycle: Arc<dyn Lifecycle>,
}

/// An open store, and its two streams of events for this node.
#[derive(Debug)]
pub struct Opened {
    pub store: Store,
    pub log_events: LogEvents,
    pub node_events: NodeEvents,
}

pub trait Lifecycle: Send + Sync + std::fmt::Debug + 'static {
    fn health(&self) -> watch::Receiver<Health>;

    /// Settles all drafts that were submitted, then stops. Later drafts settle with `Unavailable`.
    /// It returns when the relay has received everything that was stored, or has ended: the caller
    /// must keep reading log events until then, or drop their receiver.
    fn close(&self) -> BoxFuture<'_, ()>;
}

impl Store {
    /// Builds a store from one value that implements every port.
    fn of<T>(all: &Arc<T>) -> Self
    where
        T: MessageLog
            + SessionStore
            + PresenceStore
            + ProfileStore
            + Inbox
            + SearchIndex
            + AccountStore
            + Lifecycle,
    {
        Self {
            log: Arc::<T>::clone(all),
            sessions: Arc::<T>::clone(all),
            presence: Arc::<T>::clone(all),
            profiles: Arc::<T>::clone(all),
            inbox: Arc::<T>::clone(all),
            search: Arc::<T>::clone(all),
            accounts: Arc::<T>::clone(all),
            lifecycle: Arc::<T>::clone(all),
        }
    }
}

/// Node events that may wait to be handled.
pub const NODE_EVENTS_MAX: usize = 16_384;

/// An event from the store that is not in the log. It has no order relative to log events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeEvent {
    /// Another connection has claimed this node's session; `holder` is the one that has lost it.
    SessionTaken { session: PublicId, holder: Holder },
    /// Signals of one partition come in the order they were given.
    Signal(Signal),
    /// Signals of this partition may have been missed, or its rosters were lost: they must be read
    /// again.
    SignalsLost { partition: u16 },
}

pub type NodeEvents = mpsc::Receiver<NodeEvent>;

/// Whether the store does its work, and in an operator's words why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    Ready,
    Down { reason: String },
}

/// How long and how much a store keeps.
#[derive(Debug, Clone)]
pub struct RetentionPolicy {
    /// Messages kept per room.
    pub history_max: u32,
    /// Age after which a room's messages go.
    pub history_ttl: Duration,
    /// How long a repeated message id gives the first position.
    pub idempotency_window: Duration,
    /// How long every message stays where nodes catch up from, whatever its room.
    pub recovery_window: Duration,
}
