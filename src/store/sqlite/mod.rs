//! The store of a single node: a SQLite file, or memory. It is the reference for the contract.
//!
//! One thread writes: it takes all queued drafts, stores them in one transaction, sends them to the
//! relay, then settles them. Reads use a second connection, so they work even when writes fail.

mod accounts;
pub mod error;
mod history;
mod ids;
mod index;
mod presence;
mod profiles;
mod retention;
mod schema;
mod sessions;
mod states;
mod tail;
mod writer;

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::store::sqlite::{
    error::OpenError,
    presence::SqlitePresence,
    sessions::{Jobs, SessionJob},
};
use crate::store::{
    Health, Lifecycle, NODE_EVENTS_MAX, Opened, RetentionPolicy, Store,
    accounts::{AccountStore, PictureLife},
    error::ReadError,
    inbox::{Inbox, Unread},
    log::{History, LOG_EVENT_BATCHES_MAX, LogTail, MessageLog, RoomSummary, Settle},
    presence::{Members, PresenceStore, Signal},
    profiles::ProfileStore,
    queue::{self, DraftQueue},
    search::{self, Found, SearchIndex},
    sessions::{Holder, SessionRecord, SessionStore},
};
use crate::{
    clock,
    domain::{
        account::{Account, Email, PictureName},
        name::{PublicId, UserId},
        page::Page,
        position::{Epoch, Position, Timestamp},
        record::Draft,
        room::RoomName,
        search::Search,
        user::{ProfilePatch, User},
    },
};

/// The database's name in the data directory.
const DATABASE: &str = "roomcast.db";
/// This file is locked while a process uses the data directory. The empty file stays afterwards.
const LOCK: &str = "roomcast.lock";

#[derive(Debug, Clone)]
pub struct SqliteOptions {
    pub location: Location,
    pub retention: RetentionPolicy,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// Nothing is kept after the process ends.
    Memory,
    /// A data directory, created if it is missing.
    Dir(PathBuf),
}

#[derive(Debug)]
pub struct Sqlite {
    queue: DraftQueue,
    jobs: Arc<Jobs>,
    presence: SqlitePresence,
    reader: Arc<Mutex<Connection>>,
    /// Readers wait here instead of each blocking a thread of the runtime's blocking pool.
    turn: Arc<Semaphore>,
    /// Searches wait here first, so that a page of history waits for at most one of them.
    searches: Semaphore,
    epoch: Epoch,
    /// The last sequence of the log when it was opened.
    began: u64,
    health: watch::Receiver<Health>,
    stopped: CancellationToken,
}

/// Opens the log and starts its writer. It blocks for as long as SQLite needs to recover the file
/// and to read the ids of the idempotency window.
pub fn open(options: SqliteOptions) -> Result<Opened, OpenError> {
    let SqliteOptions { location, retention } = options;
    let (file, lock) = match &location {
        Location::Memory => (None, None),
        Location::Dir(dir) => (Some(dir.join(DATABASE)), Some(lock(dir)?)),
    };
    let file = file.as_deref();
    let connection = schema::writer(file)?;
    start(file, lock, Arc::new(Mutex::new(connection)), retention)
}

/// Starts the store on a connection that can write.
fn start(
    file: Option<&Path>,
    lock: Option<File>,
    connection: Arc<Mutex<Connection>>,
    retention: RetentionPolicy,
) -> Result<Opened, OpenError> {
    let failed = |cause| OpenError::Database { file: schema::shown(file), cause };
    let (epoch, last_seq, recent, indexer) = {
        let connection = connection.lock();
        let (epoch, last_seq) = schema::log(&connection, file)?;
        let recent = ids::recent_ids(&connection, &retention, clock::now(), Instant::now())
            .map_err(failed)?;
        sessions::end_all(&connection, clock::now(), retention.recovery_window).map_err(failed)?;
        let indexer = index::Indexer::new(&connection).map_err(failed)?;
        (Epoch::new(&epoch), last_seq, recent, indexer)
    };
    let reader = match file {
        Some(file) => Arc::new(Mutex::new(schema::reader(file)?)),
        None => Arc::clone(&connection),
    };

    let (queue, drain) = queue::bounded();
    let (log_sender, log_events) = mpsc::channel(LOG_EVENT_BATCHES_MAX);
    let (node_sender, node_events) = mpsc::channel(NODE_EVENTS_MAX);
    let jobs = Arc::new(Jobs::default());
    let presence = SqlitePresence::new(node_sender.clone());
    let (health_sender, health) = watch::channel(Health::Ready);
    let stopped = CancellationToken::new();
    writer::LogWriter {
        file: schema::shown(file),
        lock,
        connection,
        drain,
        jobs: Arc::clone(&jobs),
        presence: presence.clone(),
        owed: Vec::new(),
        log_sender,
        node_sender,
        health: health_sender,
        epoch: epoch.clone(),
        last_seq,
        recent,
        indexer,
        window: retention.idempotency_window,
        recovery_window: retention.recovery_window,
        history_ttl: retention.history_ttl,
        retention_task: retention::Retention::new(retention),
    }
    .start(stopped.clone())
    .map_err(OpenError::Thread)?;
    let sqlite = Sqlite {
        queue,
        jobs,
        presence,
        reader,
        turn: Arc::new(Semaphore::new(1)),
        searches: Semaphore::new(1),
        epoch,
        began: last_seq,
        health,
        stopped,
    };
    Ok(Opened { store: Store::of(&Arc::new(sqlite)), log_events, node_events })
}

impl MessageLog for Sqlite {
    fn append(&self, draft: Draft, settle: Settle) {
        self.queue.push(draft, settle);
    }

    fn history(
        &self,
        room: RoomName,
        page: Page,
        limit: u32,
    ) -> BoxFuture<'_, Result<History, ReadError>> {
        Box::pin(self.read(move |reader, epoch| history::page(reader, epoch, &room, &page, limit)))
    }

    fn tail(
        &self,
        partition: u16,
        after: Position,
        limit: u32,
    ) -> BoxFuture<'_, Result<LogTail, ReadError>> {
        Box::pin(async move {
            if partition != 0 {
                return Ok(LogTail::OtherEpoch);
            }
            self.read(move |reader, epoch| tail::read(reader, epoch, &after, limit)).await
        })
    }

    fn rooms(&self, limit: u32) -> BoxFuture<'_, Result<Vec<RoomSummary>, ReadError>> {
        let occupied = self.presence.occupied(limit);
        Box::pin(self.read(move |reader, _epoch| profiles::rooms(reader, occupied, limit)))
    }

    fn partitions(&self) -> u16 {
        1
    }

    fn partition(&self, _room: &RoomName) -> u16 {
        0
    }

    fn began(&self, _partition: u16) -> Option<Position> {
        Some(Position { epoch: self.epoch.clone(), seq: self.began })
    }
}

impl SessionStore for Sqlite {
    fn save(
        &self,
        session: PublicId,
        holder: Holder,
        record: SessionRecord,
    ) -> BoxFuture<'_, Result<bool, ReadError>> {
        let (answer, answered) = oneshot::channel();
        self.jobs.push(SessionJob::Save { session, holder, record, answer });
        Box::pin(async { answered.await.unwrap_or_else(|_dropped| Err(refused())) })
    }

    fn claim(
        &self,
        session: PublicId,
        holder: Holder,
        user: UserId,
    ) -> BoxFuture<'_, Result<Option<SessionRecord>, ReadError>> {
        let (answer, answered) = oneshot::channel();
        self.jobs.push(SessionJob::Claim { session, holder, user, answer });
        Box::pin(async { answered.await.unwrap_or_else(|_dropped| Err(refused())) })
    }

    fn release(&self, session: PublicId, holder: Holder) {
        self.jobs.push(SessionJob::Release { session, holder });
    }

    fn read(&self, session: PublicId) -> BoxFuture<'_, Result<Option<SessionRecord>, ReadError>> {
        Box::pin(self.read(move |reader, _epoch| sessions::read(reader, &session, clock::now())))
    }
}

impl PresenceStore for Sqlite {
    fn add(&self, room: RoomName, user: User) {
        self.presence.add(room, user);
    }

    fn remove(&self, room: RoomName, user: UserId) {
        self.presence.remove(room, &user);
    }

    fn members(&self, room: RoomName, users_max: u32) -> BoxFuture<'_, Result<Members, ReadError>> {
        Box::pin(std::future::ready(Ok(self.presence.members(&room, users_max))))
    }

    fn publish(&self, signal: Signal) {
        self.presence.publish(signal);
    }
}

impl ProfileStore for Sqlite {
    fn profile(&self, user: UserId) -> BoxFuture<'_, Result<Option<User>, ReadError>> {
        Box::pin(self.read(move |reader, _epoch| profiles::profile(reader, &user, clock::now())))
    }

    fn patch(&self, patch: ProfilePatch) -> BoxFuture<'_, Result<Option<User>, ReadError>> {
        let (answer, answered) = oneshot::channel();
        self.jobs.push(SessionJob::Profile(profiles::Job::Patch { patch, answer }));
        Box::pin(async { answered.await.unwrap_or_else(|_dropped| Err(refused())) })
    }
}

impl Inbox for Sqlite {
    fn mark_read(
        &self,
        user: UserId,
        room: RoomName,
        seq: u64,
    ) -> BoxFuture<'_, Result<u64, ReadError>> {
        let (answer, answered) = oneshot::channel();
        self.jobs.push(SessionJob::Profile(profiles::Job::Mark { user, room, seq, answer }));
        Box::pin(async { answered.await.unwrap_or_else(|_dropped| Err(refused())) })
    }

    fn is_known(&self, user: UserId) -> BoxFuture<'_, Result<bool, ReadError>> {
        Box::pin(self.read(move |reader, _epoch| profiles::is_known(reader, &user)))
    }

    fn direct_rooms(&self, user: UserId) -> BoxFuture<'_, Result<Vec<(RoomName, u64)>, ReadError>> {
        Box::pin(self.read(move |reader, _epoch| profiles::direct_rooms(reader, &user)))
    }

    fn unread(
        &self,
        user: UserId,
        rooms: Vec<RoomName>,
    ) -> BoxFuture<'_, Result<Vec<Unread>, ReadError>> {
        Box::pin(self.read(move |reader, _epoch| profiles::unread(reader, &user, rooms)))
    }
}

impl AccountStore for Sqlite {
    fn sign_up(&self, account: Account) -> BoxFuture<'_, Result<bool, ReadError>> {
        Box::pin(self.change(|answer| accounts::AccountJob::SignUp { account, answer }))
    }

    fn account(&self, id: UserId) -> BoxFuture<'_, Result<Option<Account>, ReadError>> {
        Box::pin(self.read(move |reader, _epoch| accounts::account(reader, &id)))
    }

    fn account_of(&self, email: Email) -> BoxFuture<'_, Result<Option<Account>, ReadError>> {
        Box::pin(self.read(move |reader, _epoch| accounts::account_of(reader, &email)))
    }

    fn accounts(&self, limit: u32) -> BoxFuture<'_, Result<Vec<Account>, ReadError>> {
        Box::pin(self.read(move |reader, _epoch| accounts::accounts(reader, limit)))
    }

    fn set_picture(
        &self,
        id: UserId,
        picture: PictureName,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Option<Account>, ReadError>> {
        Box::pin(async move {
            let (of, at) = (id.clone(), now);
            self.change(|answer| accounts::AccountJob::SetPicture { id: of, picture, at, answer })
                .await?;
            AccountStore::account(self, id).await
        })
    }

    fn keep_picture(
        &self,
        name: PictureName,
        file: Bytes,
        life: PictureLife,
    ) -> BoxFuture<'_, Result<(), ReadError>> {
        Box::pin(async move {
            let job = |answer| accounts::AccountJob::KeepPicture { name, file, life, answer };
            self.change(job).await.map(drop)
        })
    }

    fn picture(&self, name: PictureName) -> BoxFuture<'_, Result<Option<Bytes>, ReadError>> {
        Box::pin(self.read(move |reader, _epoch| accounts::picture(reader, &name, clock::now())))
    }

    fn token_key(&self, offered: String) -> BoxFuture<'_, Result<String, ReadError>> {
        Box::pin(async move {
            self.change(|answer| accounts::AccountJob::OfferKey { offered, answer }).await?;
            self.read(|reader, _epoch| accounts::token_key(reader)).await
        })
    }
}

impl SearchIndex for Sqlite {
    fn search(&self, search: Search) -> BoxFuture<'_, Result<Found, ReadError>> {
        Box::pin(self.find(search))
    }
}

impl Lifecycle for Sqlite {
    fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// Returns when the relay has received everything that was stored, or has ended. The caller
    /// must keep reading log events until then, or drop their receiver.
    fn close(&self) -> BoxFuture<'_, ()> {
        self.queue.close();
        Box::pin(self.stopped.cancelled())
    }
}

impl Sqlite {
    /// Has the writer change accounts.
    async fn change(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<bool, ReadError>>) -> accounts::AccountJob,
    ) -> Result<bool, ReadError> {
        let (answer, answered) = oneshot::channel();
        self.jobs.push(SessionJob::Accounts(job(answer)));
        answered.await.unwrap_or_else(|_dropped| Err(refused()))
    }

    /// Scans the messages that are not indexed yet, and looks up the older ones in the index.
    async fn find(&self, search: Search) -> Result<Found, ReadError> {
        let _turn = self.searches.acquire().await;
        let indexed_to = self.read(|reader, _epoch| index::indexed_to(reader)).await?;
        let mut found = search::scan(self, &search, indexed_to).await?;
        if found.next.is_some() {
            return Ok(found);
        }
        let missing = (search.limit as usize).saturating_sub(found.messages.len());
        let look_up = move |reader: &mut Connection, epoch: &Epoch| {
            index::look_up(reader, epoch, &search, indexed_to, missing)
        };
        let (mut older, more) = self.read(look_up).await?;
        older.append(&mut found.messages);
        found.next = older.first().filter(|_| more).map(|oldest| oldest.position.seq);
        Ok(Found { messages: older, ..found })
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Connection, &Epoch) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let gone = |cause: &dyn std::fmt::Display| ReadError::Unavailable(cause.to_string());
        let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(|cause| gone(&cause))?;
        let (reader, epoch) = (Arc::clone(&self.reader), self.epoch.clone());
        tokio::task::spawn_blocking(move || {
            // A caller that stops waiting does not end this read, so the read keeps its permit.
            let _turn = turn;
            let mut reader = reader.lock();
            read(&mut reader, &epoch)
        })
        .await
        .map_err(|cause| gone(&cause))?
    }
}

/// Locks the directory for this process. The kernel releases the lock however the process ends.
fn lock(dir: &Path) -> Result<File, OpenError> {
    let failed = |cause| OpenError::Directory { dir: dir.to_owned(), cause };
    std::fs::create_dir_all(dir).map_err(failed)?;
    let file = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(dir.join(LOCK))
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(cause)) => Err(failed(cause)),
    }
}

fn refused() -> ReadError {
    ReadError::Unavailable("too much waits for the log's writer, or it has stopped".to_owned())
}

#[cfg(test)]
mod tests;
