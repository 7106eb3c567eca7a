//! The only thread that writes: batches of drafts and session jobs, with retention and the word
//! index between them. It also reports the health of the store.
//!
//! The order is commit, deliver, settle. Nothing of a batch is kept in memory before the commit, so
//! a failed batch leaves no trace, and the next one starts from what the file says.

use std::{
    collections::HashMap,
    fs::File,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, ffi, params};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

use crate::store::sqlite::{
    ids::RecentIds,
    index::{Indexer, STEP_MESSAGES},
    presence::SqlitePresence,
    retention::{Retention, STEP_EVERY},
    sessions::{self, Done, Jobs, SessionJob},
    states::{self, RoomRow},
};
use crate::{
    clock,
    domain::{
        name::{PublicId, UserName},
        position::{Epoch, Position, Timestamp},
        record::{Draft, Entry, Record, Stored},
    },
    store::{
        Health, NodeEvent,
        error::ReadError,
        layout::{self, ContentMark, EntryColumns},
        log::{AppendError, LogEvent},
        queue::{BATCH_BYTES_MAX, DraftReceiver, QueuedDraft},
    },
};

/// How often an idle writer runs retention, and a writer that is down tries again.
const TICK: Duration = Duration::from_secs(1);

pub struct LogWriter {
    /// The database's name, to show to an operator.
    pub file: String,
    pub lock: Option<File>,
    pub connection: Arc<Mutex<Connection>>,
    pub drain: DraftReceiver,
    pub jobs: Arc<Jobs>,
    pub presence: SqlitePresence,
    /// Releases that could not be written. Only this writer would repeat them.
    pub owed: Vec<SessionJob>,
    pub log_sender: mpsc::Sender<Vec<LogEvent>>,
    pub node_sender: mpsc::Sender<NodeEvent>,
    pub health: watch::Sender<Health>,
    pub epoch: Epoch,
    pub last_seq: u64,
    pub recent: RecentIds,
    pub indexer: Indexer,
    pub window: Duration,
    pub recovery_window: Duration,
    pub history_ttl: Duration,
    pub retention_task: Retention,
}

enum Wake {
    Batch(Vec<QueuedDraft>),
    Jobs,
    Index,
    Tick,
}

/// What must be done after a batch is committed.
struct Appended {
    records: Vec<Record>,
    /// The key and the sequence of each new record.
    ids: Vec<(u64, u64)>,
    /// The result of each draft, in order.
    outcomes: Vec<Result<Stored, AppendError>>,
    /// How many messages, or records if these are more, each room has.
    counts: Vec<(i64, u64)>,
    /// The result of each job, in order.
    done: Vec<Done>,
}

/// A room as a batch found it, then with the rows that the batch adds.
struct RoomCount {
    place: RoomRow,
    kept: u64,
    records: u64,
}

impl LogWriter {
    pub fn start(self, stopped: CancellationToken) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let end = End { health: self.health.clone(), jobs: Arc::clone(&self.jobs), stopped };
        std::thread::Builder::new().name("log-writer".to_owned()).spawn(move || {
            // Dropped last, also in a panic: no caller may wait for a writer that has ended.
            let _end = end;
            self.run(&runtime);
        })?;
        Ok(())
    }

    fn run(mut self, runtime: &Runtime) {
        let mut since_step = 0;
        let mut pause = TICK;
        loop {
            let batch = match runtime.block_on(self.wake(pause)) {
                Wake::Batch(batch) if batch.is_empty() => break,
                Wake::Batch(batch) => batch,
                Wake::Jobs => Vec::new(),
                Wake::Index => Vec::new(),
                Wake::Tick => {
                    pause = self.tick();
                    if !self.owed.is_empty() {
                        self.append(Vec::new(), Vec::new());
                    }
                    continue;
                }
            };
            let jobs = self.jobs.take();
            since_step += batch.len() + jobs.len();
            self.append(batch, jobs);
            since_step += self.index();
            if since_step >= STEP_EVERY {
                since_step = 0;
                pause = self.tick();
            }
        }
        let last = self.jobs.close();
        self.append(Vec::new(), last);
        // A checkpoint now saves the time at the next start.
        let connection = self.connection.lock();
        if let Err(cause) = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        {
            tracing::debug!(file = self.file, %cause, "the log was closed without a checkpoint");
        }
        drop(connection);
        drop(self.lock);
    }

    async fn wake(&mut self, pause: Duration) -> Wake {
        let index = self.indexer.wait(self.last_seq, Instant::now()).unwrap_or(Duration::MAX);
        tokio::select! {
            biased;
            batch = self.drain.next_after_readers() => Wake::Batch(batch),
            () = self.jobs.ready() => Wake::Jobs,
            () = tokio::time::sleep(index) => Wake::Index,
            () = tokio::time::sleep(pause) => Wake::Tick,
        }
    }

    fn append(&mut self, batch: Vec<QueuedDraft>, jobs: Vec<SessionJob>) {
        let (drafts, settles): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|waiting| (waiting.draft, waiting.settle)).unzip();
        let mut all_jobs = std::mem::take(&mut self.owed);
        all_jobs.extend(jobs);
        let outcomes = match self.commit(&drafts, &all_jobs) {
            Ok(mut appended) => {
                let done = std::mem::take(&mut appended.done);
                let outcomes = self.stored(appended);
                self.answer(all_jobs, done);
                outcomes
            }
            Err(cause) => {
                self.down(&cause);
                self.refuse(all_jobs, &cause);
                let error = failure(&cause);
                drafts.iter().map(|_| Err(error)).collect()
            }
        };
        for (settle, outcome) in settles.into_iter().zip(outcomes) {
            settle(outcome);
        }
    }

    /// One transaction for all drafts and jobs. An error means that it was rolled back.
    fn commit(&mut self, drafts: &[Draft], jobs: &[SessionJob]) -> rusqlite::Result<Appended> {
        let now = Instant::now();
        self.recent.expire(now);
        let mut connection = self.connection.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut rooms: HashMap<&str, RoomCount> = HashMap::new();
        let mut ids: HashMap<u64, u64> = HashMap::new();
        let mut outcomes = Vec::with_capacity(drafts.len());
        let mut records = Vec::with_capacity(drafts.len());
        let mut ids_left = self.recent.room_left();
        let mut seq = self.last_seq;
        for draft in drafts {
            let key = self.recent.key(&draft.from, &draft.id);
            let candidates = ids.get(&key).copied().into_iter().chain(self.recent.candidates(key));
            if let Some(first) = first(&transaction, draft, candidates, self.window)? {
                let position = |seq| Position { epoch: self.epoch.clone(), seq };
                outcomes.push(first.map(|(seq, at)| Stored { position: position(seq), at }));
                continue;
            }
            if ids_left == 0 {
                outcomes.push(Err(AppendError::Busy));
                continue;
            }
            ids_left -= 1;
            seq += 1;
            let room = match rooms.entry(draft.room.as_str()) {
                std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::hash_map::Entry::Vacant(new) => {
                    new.insert(room(&transaction, draft.room.as_str())?)
                }
            };
            insert(&transaction, seq, room.place.room, draft)?;
            match &draft.entry {
                Entry::Message(_) => room.kept += 1,
                Entry::Change { target_seq, change } => {
                    room.records += 1;
                    states::fold(&transaction, seq, room.place, (*target_seq, change), draft)?;
                }
            }
            ids.insert(key, seq);
            let position = Position { epoch: self.epoch.clone(), seq };
            outcomes.push(Ok(Stored { position: position.clone(), at: draft.at }));
            records.push(draft.clone().into_record(position));
        }
        let mut counts = Vec::with_capacity(rooms.len());
        for RoomCount { place, kept, records } in rooms.into_values() {
            transaction
                .prepare_cached("UPDATE rooms SET kept = ?2, records = ?3 WHERE id = ?1")?
                .execute(params![place.room, kept, records])?;
            counts.push((place.room, kept.max(records)));
        }
        if !records.is_empty() {
            transaction.prepare_cached("UPDATE log SET last_seq = ?1")?.execute([seq])?;
        }
        let (at, lives) = (clock::now(), (self.recovery_window, self.history_ttl));
        let done = jobs.iter().map(|job| sessions::perform(&transaction, job, at, lives));
        let done = done.collect::<Result<_, _>>()?;
        transaction.commit()?;
        Ok(Appended { records, ids: ids.into_iter().collect(), outcomes, counts, done })
    }

    /// Everything that follows a commit, except settling the drafts.
    fn stored(&mut self, appended: Appended) -> Vec<Result<Stored, AppendError>> {
        let Appended { records, ids, outcomes, counts, done: _ } = appended;
        let Some(last) = records.last() else { return outcomes };
        self.last_seq = last.position.seq;
        let now = Instant::now();
        for (key, seq) in ids {
            self.recent.remember(key, seq, now);
        }
        for (room, count) in counts {
            self.retention_task.notice(room, count);
        }
        self.up();
        self.deliver(records.into_iter().map(LogEvent::Record).collect());
        outcomes
    }

    fn deliver(&self, events: Vec<LogEvent>) {
        // Without a relay there is no client left to deliver to. Storing goes on.
        if self.log_sender.blocking_send(events).is_err() {
            tracing::trace!("log events have no receiver");
        }
    }

    /// Reports a takeover to the former holder before the new holder. Callers may have stopped
    /// waiting.
    fn answer(&self, jobs: Vec<SessionJob>, done: Vec<Done>) {
        for (job, done) in jobs.iter().zip(&done) {
            if let (
                SessionJob::Claim { session, .. },
                Done::Claimed { lost_by: Some(holder), .. },
            ) = (job, done)
            {
                let taken = NodeEvent::SessionTaken { session: session.clone(), holder: *holder };
                // Without a receiver no connection is left that could be told.
                if self.node_sender.blocking_send(taken).is_err() {
                    tracing::trace!("node events have no receiver");
                }
            }
        }
        for answered in jobs.into_iter().zip(done) {
            match answered {
                (SessionJob::Save { answer, .. }, Done::Saved(saved)) => {
                    drop(answer.send(Ok(saved)))
                }
                (SessionJob::Claim { answer, .. }, Done::Claimed { columns, .. }) => {
                    drop(answer.send(columns.map(|columns| columns.record()).transpose()));
                }
                (SessionJob::Profile(job), Done::Profile(done)) => {
                    if let Some(signal) = job.answer(done) {
                        self.presence.publish(signal);
                    }
                }
                (SessionJob::Accounts(job), Done::Accounts(done)) => job.answer(Ok(done)),
                // A release has no caller that waits.
                _ => {}
            }
        }
    }

    /// After a failed transaction.
    fn refuse(&mut self, jobs: Vec<SessionJob>, cause: &rusqlite::Error) {
        let error = || ReadError::Unavailable(cause.to_string());
        for job in jobs {
            match job {
                SessionJob::Save { answer, .. } => drop(answer.send(Err(error()))),
                SessionJob::Claim { answer, .. } => drop(answer.send(Err(error()))),
                SessionJob::Profile(job) => job.refuse(error()),
                SessionJob::Accounts(job) => job.answer(Err(error())),
                SessionJob::Release { .. } => self.owed.push(job),
            }
        }
    }

    /// Runs retention, or tests the disk while the log is down. Returns the time until the next
    /// tick.
    fn tick(&mut self) -> Duration {
        let mut connection = self.connection.lock();
        let is_down = *self.health.borrow() != Health::Ready;
        let result = if is_down { probe(&connection) } else { Ok(()) }
            .and_then(|()| self.retention_task.step(&mut connection, clock::now()));
        drop(connection);
        match result {
            Ok(more) => {
                self.up();
                if more { Duration::ZERO } else { TICK }
            }
            Err(cause) => {
                self.down(&cause);
                TICK
            }
        }
    }

    /// Makes an index step if one is due. Returns how many messages it counts for.
    fn index(&mut self) -> usize {
        if self.indexer.wait(self.last_seq, Instant::now()) != Some(Duration::ZERO) {
            return 0;
        }
        let mut connection = self.connection.lock();
        self.indexer.step(&mut connection, self.last_seq);
        STEP_MESSAGES
    }

    fn up(&self) {
        self.health.send_if_modified(|health| {
            let changed = *health != Health::Ready;
            *health = Health::Ready;
            changed
        });
    }

    fn down(&self, cause: &rusqlite::Error) {
        let reason = format!("cannot write {}: {cause}", self.file);
        self.health.send_replace(Health::Down { reason });
    }
}

/// The earlier message with the draft's id, if it is recent enough that the draft is its retry, or
/// the error if its content is another.
fn first(
    transaction: &Transaction<'_>,
    draft: &Draft,
    candidates: impl Iterator<Item = u64>,
    window: Duration,
) -> rusqlite::Result<Option<Result<(u64, Timestamp), AppendError>>> {
    for seq in candidates {
        let found = transaction
            .prepare_cached(
                "SELECT at, content FROM messages WHERE seq = ?1 AND sender = ?2 AND id = ?3",
            )?
            .query_row(params![seq, draft.from.as_str(), draft.id.as_str()], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        let Some((at, content)): Option<(u64, Option<ContentMark>)> = found else { continue };
        // If the clock was set back there is no age: the draft counts as a retry.
        if Duration::from_millis(draft.at.0.saturating_sub(at)) > window {
            return Ok(None);
        }
        let is_same = content.is_none_or(|content| content == layout::content_mark(draft));
        let first = if is_same { Ok((seq, Timestamp(at))) } else { Err(AppendError::Conflict) };
        return Ok(Some(first));
    }
    Ok(None)
}

fn room(transaction: &Transaction<'_>, name: &str) -> rusqlite::Result<RoomCount> {
    let found = |row: &rusqlite::Row<'_>| {
        let place = RoomRow { room: row.get(0)?, trimmed_to: row.get(1)? };
        Ok(RoomCount { place, kept: row.get(2)?, records: row.get(3)? })
    };
    let known = transaction
        .prepare_cached("SELECT id, trimmed_to, kept, records FROM rooms WHERE name = ?1")?
        .query_row([name], found)
        .optional()?;
    if let Some(known) = known {
        return Ok(known);
    }
    // A room of this name may have been forgotten, and its messages deleted.
    transaction
        .prepare_cached(
            "INSERT INTO rooms (name, kept, trimmed_to) SELECT ?1, 0, forgotten_to FROM log
             RETURNING id, trimmed_to, kept, records",
        )?
        .query_row([name], found)
}

fn insert(
    transaction: &Transaction<'_>,
    seq: u64,
    room: i64,
    draft: &Draft,
) -> rusqlite::Result<()> {
    let EntryColumns { change, target_seq, body } = EntryColumns::new(&draft.entry);
    transaction
        .prepare_cached(
            "INSERT INTO messages (seq, room, sender, id, at, body, name, except_socket, change,
                                   of_seq, source, content)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?
        .execute(params![
            seq,
            room,
            draft.from.as_str(),
            draft.id.as_str(),
            draft.at.0,
            body.as_json(),
            draft.name.as_ref().map(UserName::as_str),
            draft.except.as_ref().map(PublicId::as_str),
            change,
            target_seq.map(|seq| seq.min(i64::MAX as u64)),
            draft.source.as_deref().map(layout::source_to_json),
            // Only a message that its client may send again is ever compared.
            draft.repeatable.then(|| layout::content_mark(draft)),
        ])?;
    Ok(())
}

/// Writes as much as the largest batch, and deletes it again. With a smaller write, a nearly full
/// disk would look ready until the next batch.
fn probe(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("INSERT INTO probe VALUES (zeroblob(?1))", [BATCH_BYTES_MAX])?;
    connection.execute("DELETE FROM probe", [])?;
    Ok(())
}

/// When the fsync of a commit fails, its record may be in the file, and a crash before the next
/// write would bring it back. All other failures happen before the record is complete.
fn failure(cause: &rusqlite::Error) -> AppendError {
    match cause {
        rusqlite::Error::SqliteFailure(error, _)
            if error.extended_code == ffi::SQLITE_IOERR_FSYNC =>
        {
            AppendError::Unconfirmed
        }
        _ => AppendError::Unavailable,
    }
}

/// Runs when the writer's thread ends, also by a panic.
struct End {
    health: watch::Sender<Health>,
    jobs: Arc<Jobs>,
    stopped: CancellationToken,
}

impl Drop for End {
    fn drop(&mut self) {
        self.health.send_replace(Health::Down { reason: "the log's writer has stopped".into() });
        drop(self.jobs.close());
        self.stopped.cancel();
    }
}
