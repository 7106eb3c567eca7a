//! The store for many nodes, over Redis. The only place that names fred.
//!
//! The log in a stream is the truth; pub/sub is the fast path. A writer per partition stores and
//! announces in one script (`append.lua`); the reader, on a thread of its own, delivers what it
//! hears when it is next in sequence, and otherwise reads the log.

mod accounts;
pub mod agreement;
mod batch;
mod calls;
mod frame;
mod keys;
mod leased_sessions;
mod link;
mod local_presence;
mod log;
pub mod node;
mod pipeline;
mod presence;
mod profiles;
mod reader;
mod scripts;
mod sessions;
mod signal;
mod tail;
mod tracker;
mod writer;

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use fred::{clients::Client, interfaces::ClientLike, types::Value};
use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::store::redis::{
    accounts::RedisAccounts,
    agreement::{Agreeing, Agreement},
    calls::Caller,
    keys::{Keys, Prefix, fresh_name, partition_of},
    link::{Component, Status},
    node::{LeaseSettings, Node, NodeSettings},
    profiles::RedisProfiles,
    reader::{EventSenders, Reader, ReceivingSince},
    scripts::{HISTORY, number, text},
    writer::PartitionWriter,
};
use crate::store::{
    Health, Lifecycle, NODE_EVENTS_MAX, Opened, RetentionPolicy, Store,
    accounts::{AccountStore, PictureLife},
    error::ReadError,
    inbox::{Inbox, Unread},
    layout,
    log::{
        AppendError, History, LOG_EVENT_BATCHES_MAX, LogTail, MessageLog, RoomSummary, Settle,
        passed_over,
    },
    presence::{Members, PresenceStore, Signal},
    profiles::ProfileStore,
    queue::{self, DraftQueue},
    search::{self, Found, SearchIndex},
    sessions::{Holder, SessionRecord, SessionStore},
};
use crate::{
    domain::{
        account::{Account, Email, PictureName},
        message::{Message, MessageState},
        name::{PublicId, UserId},
        page::Page,
        position::{Epoch, Position, Timestamp},
        record::Draft,
        room::RoomName,
        search::Search,
        user::{ProfilePatch, User},
    },
    shutdown::{self, Tasks},
};

/// Searches of this node that read from Redis at a time.
const SEARCHES_MAX: usize = 2;

#[derive(Debug, Clone)]
pub struct RedisOptions {
    pub url: String,
    /// The URL without its password, for logs and reasons.
    pub shown: String,
    pub prefix: String,
    pub partitions: u16,
    pub retention: RetentionPolicy,
    pub lease: LeaseSettings,
    pub agreement: Agreement,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("--redis {shown}: {why}")]
    Url { shown: String, why: String },
    #[error("cannot start the thread that reads from Redis: {0}")]
    Thread(#[from] std::io::Error),
}

/// Needs no Redis to be there: the store is not ready until one answers.
pub fn open(options: RedisOptions) -> Result<Opened, ConfigError> {
    // Another library's choice, if it came first, serves as well.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was installed before");
    }
    let wrong = |why: fred::error::Error| ConfigError::Url {
        shown: options.shown.clone(),
        why: why.details().to_owned(),
    };
    let builder = link::builder(&options.url).map_err(wrong)?;
    let client = builder.build().map_err(wrong)?;
    client.connect();
    let status = Status::new(&options.shown);
    let (tasks, writers) = (Tasks::default(), Tasks::default());
    let database = builder.get_config().and_then(|config| config.database).unwrap_or_default();
    let prefix = Prefix::new(&options.prefix, database);
    let keys: Vec<Keys> = (0..options.partitions).map(|p| Keys::new(&prefix, p)).collect();
    let watch = link::watch(client.clone(), status.clone(), keys[0].probe(), tasks.clone());
    tasks.spawn_vital("redis watchdog", watch);

    let publish = if client.is_clustered() { "SPUBLISH" } else { "PUBLISH" };
    let mut queues = Vec::new();
    for keys in &keys {
        let (queue, drain) = queue::bounded();
        let writer = PartitionWriter {
            client: client.clone(),
            keys: keys.clone(),
            status: status.clone(),
            retention: options.retention.clone(),
            publish,
            newest: None,
            name: fresh_name(),
            frames: 0,
        };
        writers.spawn_vital("redis writer", writer.run(drain));
        queues.push(queue);
    }
    let (log_sender, log_events) = mpsc::channel(LOG_EVENT_BATCHES_MAX);
    let (node_sender, node_events) = mpsc::channel(NODE_EVENTS_MAX);
    let caller = Caller { client: client.clone(), status: status.clone() };
    let window = options.retention.recovery_window;
    let agreeing = Agreeing::new(options.agreement, options.partitions);
    let settings = NodeSettings { lease: options.lease, window, agreeing };
    let node = Node::start(&caller, settings, &keys, node_sender.clone(), &tasks);
    let life = options.retention.history_ttl;
    let profiles = RedisProfiles::new(client.clone(), status.clone(), prefix.clone(), life);
    let accounts = RedisAccounts::new(client.clone(), status.clone(), &prefix, life);
    let reader = Reader::new(
        builder,
        keys,
        partition_of(RoomName::lobby().as_str(), options.partitions),
        status.clone(),
        Arc::clone(&node),
        EventSenders { log_sender, node_sender },
        tasks.clone(),
    );
    let began = start_reader(reader, &tasks)?;
    let redis = Redis {
        prefix,
        client,
        status,
        node,
        profiles,
        accounts,
        queues,
        searches: Semaphore::new(SEARCHES_MAX),
        began,
        tasks,
        writers,
    };
    Ok(Opened { store: Store::of(&Arc::new(redis)), log_events, node_events })
}

/// fred spawns where it connects, so a runtime of its own keeps the reader's work off the others.
fn start_reader(reader: Reader, tasks: &Tasks) -> Result<ReceivingSince, ConfigError> {
    let began = reader.began();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (done, finished) = tokio::sync::oneshot::channel::<()>();
    std::thread::Builder::new().name("redis-reader".into()).spawn(move || {
        let run = std::panic::AssertUnwindSafe(|| runtime.block_on(reader.run()));
        if std::panic::catch_unwind(run).is_err() {
            shutdown::end_process("redis reader");
        }
        drop(done);
    })?;
    tasks.spawn("redis reader", async move {
        // An error is how a dropped sender shows: the thread has ended.
        finished.await.unwrap_or_default();
    });
    Ok(began)
}

#[derive(Debug)]
pub struct Redis {
    prefix: Prefix,
    client: Client,
    status: Status,
    node: Arc<Node>,
    profiles: RedisProfiles,
    accounts: RedisAccounts,
    queues: Vec<DraftQueue>,
    searches: Semaphore,
    began: ReceivingSince,
    /// The watchdog, the keeper of the node's lease, the sender of signals, and the reader.
    tasks: Tasks,
    writers: Tasks,
}

impl MessageLog for Redis {
    fn append(&self, draft: Draft, settle: Settle) {
        // A node that differs from others may write where they do not read.
        if !self.status.commands_work() || self.status.is_down(Component::Agreement) {
            return settle(Err(AppendError::Unavailable));
        }
        match self.queues.get(usize::from(self.partition(&draft.room))) {
            Some(queue) => queue.push(draft, settle),
            None => settle(Err(AppendError::Unavailable)),
        }
    }

    fn history(
        &self,
        room: RoomName,
        page: Page,
        limit: u32,
    ) -> BoxFuture<'_, Result<History, ReadError>> {
        self.read_history(room, page, limit).boxed()
    }

    fn tail(
        &self,
        partition: u16,
        after: Position,
        limit: u32,
    ) -> BoxFuture<'_, Result<LogTail, ReadError>> {
        async move {
            if usize::from(partition) >= self.queues.len() {
                return Ok(LogTail::OtherEpoch);
            }
            if !self.status.commands_work() {
                return Err(calls::away());
            }
            tail::read(&self.client, &Keys::new(&self.prefix, partition), &after, limit).await
        }
        .boxed()
    }

    fn rooms(&self, limit: u32) -> BoxFuture<'_, Result<Vec<RoomSummary>, ReadError>> {
        self.node.presence.rooms(limit).boxed()
    }

    fn partitions(&self) -> u16 {
        u16::try_from(self.queues.len()).expect("there were at most that many options")
    }

    fn partition(&self, room: &RoomName) -> u16 {
        partition_of(room.ordered_by(), self.partitions())
    }

    fn began(&self, partition: u16) -> Option<Position> {
        self.began[usize::from(partition)].get().cloned()
    }
}

impl SessionStore for Redis {
    fn save(
        &self,
        session: PublicId,
        holder: Holder,
        record: SessionRecord,
    ) -> BoxFuture<'_, Result<bool, ReadError>> {
        // In the order of the calls, whichever is polled first.
        let remembered = self.node.sessions.remember(session, holder, &record);
        self.node.sessions.save(remembered).boxed()
    }

    fn claim(
        &self,
        session: PublicId,
        holder: Holder,
        user: UserId,
    ) -> BoxFuture<'_, Result<Option<SessionRecord>, ReadError>> {
        self.node.sessions.claim(session, holder, user).boxed()
    }

    fn release(&self, session: PublicId, holder: Holder) {
        self.node.sessions.release(&session, holder);
    }

    fn read(&self, session: PublicId) -> BoxFuture<'_, Result<Option<SessionRecord>, ReadError>> {
        async move { self.node.sessions.read(&session).await }.boxed()
    }
}

impl PresenceStore for Redis {
    fn add(&self, room: RoomName, user: User) {
        self.node.presence.add(self.partition(&room), room, &user);
    }

    fn remove(&self, room: RoomName, user: UserId) {
        self.node.presence.remove(self.partition(&room), room, user);
    }

    fn members(&self, room: RoomName, users_max: u32) -> BoxFuture<'_, Result<Members, ReadError>> {
        let partition = self.partition(&room);
        async move { self.node.presence.members(partition, &room, users_max).await }.boxed()
    }

    fn publish(&self, signal: Signal) {
        self.node.presence.signal(signal.room().map_or(0, |room| self.partition(room)), signal);
    }
}

impl ProfileStore for Redis {
    fn profile(&self, user: UserId) -> BoxFuture<'_, Result<Option<User>, ReadError>> {
        self.profiles.profile(user).boxed()
    }

    fn patch(&self, patch: ProfilePatch) -> BoxFuture<'_, Result<Option<User>, ReadError>> {
        self.profiles.change(patch).boxed()
    }
}

impl Inbox for Redis {
    fn mark_read(
        &self,
        user: UserId,
        room: RoomName,
        seq: u64,
    ) -> BoxFuture<'_, Result<u64, ReadError>> {
        self.profiles.mark(self.partition(&room), user, room, seq).boxed()
    }

    fn is_known(&self, user: UserId) -> BoxFuture<'_, Result<bool, ReadError>> {
        let partition = self.partition(&RoomName::personal(&user));
        async move { self.profiles.is_known(partition, &user).await }.boxed()
    }

    fn direct_rooms(&self, user: UserId) -> BoxFuture<'_, Result<Vec<(RoomName, u64)>, ReadError>> {
        let partition = self.partition(&RoomName::personal(&user));
        async move { self.profiles.direct_rooms(partition, &user).await }.boxed()
    }

    fn unread(
        &self,
        user: UserId,
        rooms: Vec<RoomName>,
    ) -> BoxFuture<'_, Result<Vec<Unread>, ReadError>> {
        self.profiles.unread(user, rooms, |room| self.partition(room)).boxed()
    }
}

impl AccountStore for Redis {
    fn sign_up(&self, account: Account) -> BoxFuture<'_, Result<bool, ReadError>> {
        self.accounts.sign_up(account).boxed()
    }

    fn account(&self, id: UserId) -> BoxFuture<'_, Result<Option<Account>, ReadError>> {
        async move { self.accounts.account(id.as_str()).await }.boxed()
    }

    fn account_of(&self, email: Email) -> BoxFuture<'_, Result<Option<Account>, ReadError>> {
        self.accounts.account_of(email).boxed()
    }

    fn accounts(&self, limit: u32) -> BoxFuture<'_, Result<Vec<Account>, ReadError>> {
        self.accounts.accounts(limit).boxed()
    }

    fn set_picture(
        &self,
        id: UserId,
        picture: PictureName,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Option<Account>, ReadError>> {
        self.accounts.set_picture(id, picture, now).boxed()
    }

    fn keep_picture(
        &self,
        name: PictureName,
        file: Bytes,
        life: PictureLife,
    ) -> BoxFuture<'_, Result<(), ReadError>> {
        self.accounts.keep_picture(name, file, life).boxed()
    }

    fn picture(&self, name: PictureName) -> BoxFuture<'_, Result<Option<Bytes>, ReadError>> {
        self.accounts.picture(name).boxed()
    }

    fn token_key(&self, offered: String) -> BoxFuture<'_, Result<String, ReadError>> {
        self.accounts.token_key(offered).boxed()
    }
}

impl SearchIndex for Redis {
    /// Redis has no index of words.
    fn search(&self, search: Search) -> BoxFuture<'_, Result<Found, ReadError>> {
        async move {
            let _turn = self.searches.acquire().await;
            search::scan(self, &search, 0).await
        }
        .boxed()
    }
}

impl Lifecycle for Redis {
    fn health(&self) -> watch::Receiver<Health> {
        self.status.watch()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            for queue in &self.queues {
                queue.close();
            }
            self.writers.stop();
            self.writers.finished().await;
            // The reader still brings out what the writers have appended.
            self.tasks.stop();
            self.tasks.finished().await;
            if let Err(error) = self.client.quit().await {
                tracing::debug!(%error, "Redis was gone before the connection closed");
            }
        }
        .boxed()
    }
}

impl Redis {
    async fn read_history(
        &self,
        room: RoomName,
        page: Page,
        limit: u32,
    ) -> Result<History, ReadError> {
        if !self.status.commands_work() {
            return Err(calls::away());
        }
        let keys = Keys::new(&self.prefix, self.partition(&room));
        let (kind, seq) = match page {
            Page::Newest => ("newest", 0),
            Page::Before(seq) => ("before", seq),
            Page::After(seq) => ("after", seq),
        };
        let arguments = [kind.to_owned(), seq.to_string(), limit.to_string(), room.to_string()];
        let keys = vec![keys.room(&room), keys.meta(), keys.rooms(), keys.states(&room)];
        let reply = scripts::run(&self.client, &HISTORY, keys, arguments)
            .await
            .map_err(|error| ReadError::Unavailable(error.to_string()))?;
        page_of(&reply, page, limit)
    }
}

/// Cuts the page from the items that history.lua answers.
fn page_of(reply: &[Value], page: Page, limit: u32) -> Result<History, ReadError> {
    let corrupt = |why: &str| ReadError::Corrupt(why.to_owned());
    let [epoch, seq, more, trimmed, items, states] = reply else {
        return Err(corrupt("history.lua answered in an unknown shape"));
    };
    let Some(epoch) = text(epoch).filter(|epoch| !epoch.is_empty()).map(Epoch::new) else {
        return Err(ReadError::Unavailable("the log was lost just now".to_owned()));
    };
    let items = match items {
        Value::Array(items) => items.as_slice(),
        _ => &[],
    };
    let mut messages = Vec::new();
    for pair in items.chunks(2) {
        let [Some(header), Some(lines)] =
            [pair.first(), pair.get(1)].map(|item| item.and_then(text))
        else {
            return Err(corrupt("an item is no text"));
        };
        messages.extend(frame::in_room(header, lines, &epoch).map_err(|why| corrupt(&why))?);
    }
    messages.retain(|message: &Message| match page {
        Page::Newest => true,
        Page::Before(seq) => message.position.seq < seq,
        Page::After(seq) => message.position.seq > seq,
    });
    let surplus = messages.len().saturating_sub(limit as usize);
    match page {
        Page::Newest | Page::Before(_) => drop(messages.drain(..surplus)),
        Page::After(_) => messages.truncate(limit as usize),
    }
    let mut states = states_of(states).ok_or_else(|| corrupt("states are in an unknown shape"))?;
    let with_state = |message: Message| match states.remove(&message.position.seq) {
        Some(Some(state)) => Some(message.with_state(state)),
        Some(None) => {
            passed_over(message.position.seq, "its state is damaged");
            None
        }
        None => Some(message),
    };
    Ok(History {
        messages: messages.into_iter().filter_map(with_state).collect(),
        more: surplus > 0 || number(more) == Some(1),
        trimmed: number(trimmed) == Some(1),
        top: Position { seq: number(seq).unwrap_or_default(), epoch },
    })
}

/// The states by the seq of their messages; `None` for a state that cannot be read.
fn states_of(reply: &Value) -> Option<HashMap<u64, Option<MessageState>>> {
    let Value::Array(states) = reply else { return Some(HashMap::new()) };
    let state = |state: &[Value]| {
        let [seq, status, reactions] = state else { return None };
        Some((number(seq)?, layout::parse_fields(text(status)?, text(reactions)?)))
    };
    states.chunks(3).map(state).collect()
}
