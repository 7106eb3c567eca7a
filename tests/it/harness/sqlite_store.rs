//! The embedded store in this process, in a file and in memory.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use roomcast::{
    domain::{position::Timestamp, record::Draft},
    store::{
        RetentionPolicy,
        sqlite::{self, Location, SqliteOptions, error::OpenError},
    },
};
use tempfile::TempDir;

use super::store::{DEADLINE, Log, Node};

/// Takes back what the last two migrations do: columns, and the tables of accounts.
pub const BEFORE_SOURCES: &str = "
    DROP TABLE accounts; DROP TABLE pictures; DROP TABLE token_key;
    ALTER TABLE messages DROP COLUMN content; ALTER TABLE messages DROP COLUMN source;
    ALTER TABLE sessions DROP COLUMN profile; ALTER TABLE sessions DROP COLUMN me;
    PRAGMA user_version = 5;";

/// Takes back what the last three migrations do.
pub const BEFORE_RECORDS: &str = "
    DROP TABLE accounts; DROP TABLE pictures; DROP TABLE token_key;
    ALTER TABLE messages DROP COLUMN content; ALTER TABLE messages DROP COLUMN source;
    DROP TABLE states; DROP INDEX messages_by_room; DROP INDEX records_by_room;
    DROP INDEX edits_by_message; CREATE INDEX messages_by_room ON messages (room);
    ALTER TABLE messages DROP COLUMN name; ALTER TABLE messages DROP COLUMN except_socket;
    ALTER TABLE messages DROP COLUMN change; ALTER TABLE messages DROP COLUMN of_seq;
    ALTER TABLE rooms DROP COLUMN records;";

pub struct FileLog {
    dir: TempDir,
    retention: RetentionPolicy,
}

impl Log for FileLog {
    async fn fresh(retention: RetentionPolicy) -> Self {
        Self { dir: tempfile::tempdir().expect("a directory"), retention }
    }

    async fn node(&mut self) -> Node {
        open(self.dir.path(), self.retention.clone())
    }
}

pub struct MemoryLog {
    retention: RetentionPolicy,
}

impl Log for MemoryLog {
    async fn fresh(retention: RetentionPolicy) -> Self {
        Self { retention }
    }

    async fn node(&mut self) -> Node {
        memory(self.retention.clone())
    }
}

pub fn open(dir: &Path, retention: RetentionPolicy) -> Node {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let options =
            SqliteOptions { location: Location::Dir(dir.to_owned()), retention: retention.clone() };
        match sqlite::open(options) {
            // A process that another test starts has what is open here, until it runs its program.
            Err(OpenError::InUse { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => return opened.expect("it opens").into(),
        }
    }
}

pub fn memory(retention: RetentionPolicy) -> Node {
    let options = SqliteOptions { location: Location::Memory, retention };
    sqlite::open(options).expect("it opens").into()
}

pub fn aged(mut draft: Draft, by: Duration) -> Draft {
    draft.at = Timestamp(draft.at.0 - u64::try_from(by.as_millis()).expect("a short time"));
    draft
}

/// The file as a second program sees it.
pub fn database(dir: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(dir.join("roomcast.db")).expect("it opens")
}
