//! The queue of jobs for the writer beside messages, and sessions in the file: what the writer's
//! transaction does with them.
//!
//! A session whose connection lives has no end. A released session has one. After a start, every
//! session that the last process left open gets one.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use tokio::sync::{Notify, oneshot};

use crate::store::sqlite::{accounts, history::read_error, profiles, retention::after};
use crate::{
    domain::{
        name::{NameError, PublicId, UserId},
        position::Timestamp,
        record::Body,
    },
    store::{
        error::ReadError,
        layout,
        sessions::{Holder, JoinedLine, SessionRecord, joined_line, parse_joined_line},
    },
};

/// Jobs that may wait for the writer.
const WAITING_MAX: usize = 65_536;
/// Most jobs in one transaction.
const JOBS_PER_COMMIT: usize = 1_024;

/// A request to the writer.
#[derive(Debug)]
pub enum SessionJob {
    Save {
        session: PublicId,
        holder: Holder,
        record: SessionRecord,
        answer: oneshot::Sender<Result<bool, ReadError>>,
    },
    Claim {
        session: PublicId,
        holder: Holder,
        user: UserId,
        answer: oneshot::Sender<Result<Option<SessionRecord>, ReadError>>,
    },
    Release {
        session: PublicId,
        holder: Holder,
    },
    Profile(profiles::Job),
    Accounts(accounts::AccountJob),
}

/// Jobs in the order they came, in a queue of their own: a returning client must not wait until all
/// earlier messages are stored.
#[derive(Debug)]
pub struct Jobs {
    /// `None` after `close`.
    waiting: Mutex<Option<VecDeque<SessionJob>>>,
    work: Notify,
}

impl Default for Jobs {
    fn default() -> Self {
        Self { waiting: Mutex::new(Some(VecDeque::new())), work: Notify::new() }
    }
}

impl Jobs {
    /// A job that is refused is dropped together with its answer channel, so its caller sees an
    /// error.
    pub fn push(&self, job: SessionJob) {
        if let Some(waiting) = self.waiting().as_mut() {
            // There is at most one release per connection, and no caller would repeat it.
            if waiting.len() < WAITING_MAX || matches!(job, SessionJob::Release { .. }) {
                waiting.push_back(job);
                self.work.notify_one();
            }
        }
    }

    /// Waits until a job is queued.
    pub async fn ready(&self) {
        while self.waiting().as_ref().is_none_or(VecDeque::is_empty) {
            self.work.notified().await;
        }
    }

    /// The jobs for one transaction.
    pub fn take(&self) -> Vec<SessionJob> {
        let mut waiting = self.waiting();
        let Some(waiting) = waiting.as_mut() else { return Vec::new() };
        let count = waiting.len().min(JOBS_PER_COMMIT);
        waiting.drain(..count).collect()
    }

    /// Refuses further jobs, and returns those that are left.
    pub fn close(&self) -> Vec<SessionJob> {
        self.waiting().take().unwrap_or_default().into()
    }

    fn waiting(&self) -> MutexGuard<'_, Option<VecDeque<SessionJob>>> {
        self.waiting.lock()
    }
}

/// The result of a job.
#[derive(Debug)]
pub enum Done {
    Saved(bool),
    Claimed { columns: Option<Columns>, lost_by: Option<Holder> },
    Released,
    Profile(profiles::ProfileJobDone),
    Accounts(bool),
}

/// A record as its row stores it. A record that cannot be decoded fails its own claim, not the
/// whole transaction.
#[derive(Debug)]
pub struct Columns {
    user: String,
    rooms: String,
    profile: Option<String>,
    me: Option<String>,
}

/// Sets an end for every session that a process left open.
pub fn end_all(connection: &Connection, now: Timestamp, window: Duration) -> rusqlite::Result<()> {
    let end = after(now, window);
    connection.execute("UPDATE sessions SET ends = ?1 WHERE ends IS NULL", [end])?;
    Ok(())
}

/// `window` is how long a released session can be claimed, `life` how long a profile is kept.
pub fn perform(
    transaction: &Transaction<'_>,
    job: &SessionJob,
    now: Timestamp,
    (window, life): (Duration, Duration),
) -> rusqlite::Result<Done> {
    match job {
        SessionJob::Save { session, holder, record, answer: _ } => {
            save(transaction, session, *holder, record, now).map(Done::Saved)
        }
        SessionJob::Claim { session, holder, user, answer: _ } => {
            claim(transaction, session, *holder, user, now)
        }
        SessionJob::Release { session, holder } => {
            transaction
                .prepare_cached("UPDATE sessions SET ends = ?3 WHERE id = ?1 AND holder = ?2")?
                .execute(params![session.as_str(), bits(*holder), after(now, window)])?;
            Ok(Done::Released)
        }
        SessionJob::Profile(job) => {
            profiles::perform(transaction, job, now, life).map(Done::Profile)
        }
        SessionJob::Accounts(job) => {
            accounts::perform(transaction, job, now, life).map(Done::Accounts)
        }
    }
}

fn save(
    transaction: &Transaction<'_>,
    session: &PublicId,
    holder: Holder,
    record: &SessionRecord,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let rooms: Vec<JoinedLine> = record.rooms.iter().map(joined_line).collect();
    let saved = transaction
        .prepare_cached(
            "INSERT INTO sessions (id, holder, user, rooms, profile, me, ends)
             VALUES (?1, ?2, ?3, ?4, ?6, ?7, NULL)
             ON CONFLICT (id) DO UPDATE SET
                 holder = excluded.holder, user = excluded.user, rooms = excluded.rooms,
                 profile = excluded.profile, me = excluded.me, ends = NULL
             WHERE holder = excluded.holder OR ends <= ?5",
        )?
        .execute(params![
            session.as_str(),
            bits(holder),
            record.user.as_str(),
            serde_json::to_string(&rooms).expect("text and numbers are JSON"),
            now.0,
            record.profile.as_deref(),
            record.me.as_ref().map(Body::as_json),
        ])?;
    Ok(saved == 1)
}

fn claim(
    transaction: &Transaction<'_>,
    session: &PublicId,
    holder: Holder,
    user: &UserId,
    now: Timestamp,
) -> rusqlite::Result<Done> {
    let read = |row: &Row<'_>| {
        Ok((row.get::<_, i64>(4)?, row.get::<_, Option<u64>>(5)?, Columns::of(row)?))
    };
    let found = transaction
        .prepare_cached(
            "SELECT user, rooms, profile, me, holder, ends FROM sessions
             WHERE id = ?1 AND user = ?3 AND (ends IS NULL OR ends > ?2)",
        )?
        .query_row(params![session.as_str(), now.0, user.as_str()], read)
        .optional()?;
    let Some((before, ends, columns)) = found else {
        return Ok(Done::Claimed { columns: None, lost_by: None });
    };
    transaction
        .prepare_cached("UPDATE sessions SET holder = ?2, ends = NULL WHERE id = ?1")?
        .execute(params![session.as_str(), bits(holder)])?;
    let lost_by = (before != bits(holder) && ends.is_none())
        .then(|| Holder::from_bits(before.cast_unsigned()));
    Ok(Done::Claimed { columns: Some(columns), lost_by })
}

/// The record of a session that lives or can still be claimed.
pub fn read(
    reader: &Connection,
    session: &PublicId,
    now: Timestamp,
) -> Result<Option<SessionRecord>, ReadError> {
    let columns = reader
        .prepare_cached(
            "SELECT user, rooms, profile, me FROM sessions
             WHERE id = ?1 AND (ends IS NULL OR ends > ?2)",
        )
        .and_then(|mut select| {
            select.query_row(params![session.as_str(), now.0], Columns::of).optional()
        })
        .map_err(read_error)?;
    columns.map(|columns| columns.record()).transpose()
}

/// SQLite has only signed integers.
fn bits(holder: Holder) -> i64 {
    holder.bits().cast_signed()
}

impl Columns {
    /// From a row that begins with `user, rooms, profile, me`.
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        let (user, rooms) = (row.get(0)?, row.get(1)?);
        Ok(Self { user, rooms, profile: row.get(2)?, me: row.get(3)? })
    }

    pub fn record(&self) -> Result<SessionRecord, ReadError> {
        let corrupt = |why: &dyn std::fmt::Display| ReadError::Corrupt(format!("a session: {why}"));
        let bad_name = |why: NameError| corrupt(&why);
        let rooms: Vec<JoinedLine> =
            serde_json::from_str(&self.rooms).map_err(|why| corrupt(&why))?;
        let rooms = rooms.iter().map(parse_joined_line).collect::<Result<_, _>>();
        if self.me.as_deref().is_some_and(|me| !layout::is_json(me)) {
            return Err(corrupt(&"what it remembers is not JSON"));
        }
        Ok(SessionRecord {
            user: UserId::parse(&self.user).map_err(bad_name)?,
            rooms: rooms.map_err(bad_name)?,
            profile: self.profile.as_deref().map(Arc::from),
            me: self.me.as_deref().map(Body::from_json),
        })
    }
}
