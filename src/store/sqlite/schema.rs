//! The database: how it is opened, its tables, and the one row that identifies the log.
//!
//! A file is only migrated forward, one migration per `user_version`. A file of a newer program is
//! refused, because this program would not know what it must keep.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::error::OpenError;
use crate::random;

/// How long a statement waits for another program that has locked the file, such as a backup.
const LOCK_WAIT: Duration = Duration::from_secs(1);
/// Pages of the write-ahead log after which a commit also moves them into the database: 16 MiB.
/// Fewer means more fsyncs of the database, more means a longer stall and a longer start.
const CHECKPOINT_PAGES: u32 = 4_096;
/// Kibibytes of pages that a connection caches. For SQLite a negative value means kibibytes.
const CACHE_KIB: i32 = -16_384;
/// Prepared statements that a connection caches: enough for all of ours.
const STATEMENTS_MAX: usize = 64;

/// `rooms.kept` counts the messages after `trimmed_to`, which are the room's history. Rows up to
/// `trimmed_to` may still be there for their ids. An index ends in `seq` without naming it, as
/// every index of a rowid table does. A row with `of_seq` is a record about that message, not a
/// message: other indexes contain it, and `rooms.records` counts such rows. `source` is the event
/// that a record was sent with (`layout.rs`); most rows and all older ones have none. `content` is
/// the mark of what was sent (`layout::content_mark`): an edit changes the body, but not the mark.
/// Older rows have none, and messages that their client will not send again.
///
/// `log.deleted_to` is the newest deleted row. Nobody knows what an older program has deleted, so
/// its log counts as deleted up to its end; no session has a position within it. `words` has the
/// rows up to `log.indexed_to`: of each only its words, as `words_of` makes them, and its room
/// (`index.rs`). When that rule changes, a migration must empty the table. `states` has the states
/// of messages (`states.rs`). `sessions.id` is the public id, and `ends` is null while the
/// session's connection lives. Sessions of older programs had a secret as their key and are
/// deleted.
const MIGRATIONS: [&str; 7] = [
    "
    CREATE TABLE log (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        epoch TEXT NOT NULL,
        last_seq INTEGER NOT NULL,
        forgotten_to INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE rooms (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        kept INTEGER NOT NULL,
        trimmed_to INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE messages (
        seq INTEGER PRIMARY KEY,
        room INTEGER NOT NULL,
        sender TEXT NOT NULL,
        id TEXT NOT NULL,
        at INTEGER NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
    CREATE INDEX messages_by_room ON messages (room);
    CREATE TABLE probe (bytes BLOB NOT NULL) STRICT;
",
    "
    ALTER TABLE log ADD COLUMN deleted_to INTEGER NOT NULL DEFAULT 0;
    UPDATE log SET deleted_to = last_seq;
    CREATE TABLE sessions (
        key TEXT PRIMARY KEY,
        holder INTEGER NOT NULL,
        public_id TEXT NOT NULL,
        user TEXT NOT NULL,
        rooms TEXT NOT NULL,
        ends INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX sessions_by_end ON sessions (ends) WHERE ends IS NOT NULL;
",
    "
    CREATE TABLE profiles (
        user TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        name_key TEXT NOT NULL UNIQUE,
        picture TEXT,
        ends INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX profiles_by_end ON profiles (ends);
    CREATE TABLE read_marks (
        user TEXT NOT NULL,
        room TEXT NOT NULL,
        seq INTEGER NOT NULL,
        ends INTEGER NOT NULL,
        PRIMARY KEY (user, room)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX read_marks_by_end ON read_marks (ends);
",
    "
    ALTER TABLE log ADD COLUMN indexed_to INTEGER NOT NULL DEFAULT 0;
    CREATE VIRTUAL TABLE words USING fts5 (
        text, content = '', contentless_delete = 1, detail = none, tokenize = 'ascii'
    );
    INSERT INTO words (words, rank) VALUES ('automerge', 0), ('crisismerge', 1000);
",
    "
    ALTER TABLE messages ADD COLUMN name TEXT;
    ALTER TABLE messages ADD COLUMN except_socket TEXT;
    ALTER TABLE messages ADD COLUMN change TEXT;
    ALTER TABLE messages ADD COLUMN of_seq INTEGER;
    ALTER TABLE rooms ADD COLUMN records INTEGER NOT NULL DEFAULT 0;
    DROP INDEX messages_by_room;
    CREATE INDEX messages_by_room ON messages (room) WHERE of_seq IS NULL;
    CREATE INDEX records_by_room ON messages (room) WHERE of_seq IS NOT NULL;
    CREATE INDEX edits_by_message ON messages (of_seq) WHERE change = 'edit';
    CREATE TABLE states (seq INTEGER PRIMARY KEY, state TEXT NOT NULL) STRICT;
    DROP TABLE sessions;
    CREATE TABLE sessions (
        id TEXT PRIMARY KEY,
        holder INTEGER NOT NULL,
        user TEXT NOT NULL,
        rooms TEXT NOT NULL,
        ends INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX sessions_by_end ON sessions (ends) WHERE ends IS NOT NULL;
",
    "
    ALTER TABLE messages ADD COLUMN content BLOB;
    ALTER TABLE messages ADD COLUMN source TEXT;
    ALTER TABLE sessions ADD COLUMN profile TEXT;
    ALTER TABLE sessions ADD COLUMN me TEXT;
",
    "
    CREATE TABLE accounts (
        id TEXT NOT NULL UNIQUE,
        full_name TEXT NOT NULL,
        email TEXT NOT NULL UNIQUE,
        password TEXT NOT NULL,
        picture TEXT,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE pictures (name TEXT PRIMARY KEY, file BLOB NOT NULL, ends INTEGER) STRICT;
    CREATE INDEX pictures_by_end ON pictures (ends) WHERE ends IS NOT NULL;
    CREATE TABLE token_key (one INTEGER PRIMARY KEY CHECK (one = 1), key TEXT NOT NULL) STRICT;
",
];

/// A connection that may write: to a file, or to memory when there is none.
pub fn writer(file: Option<&Path>) -> Result<Connection, OpenError> {
    let failed = |cause| OpenError::Database { file: shown(file), cause };
    let mut connection = match file {
        Some(file) => Connection::open(file),
        None => Connection::open_in_memory(),
    }
    .map_err(failed)?;
    tune(&connection).map_err(failed)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES).map_err(failed)?;
    migrate(&mut connection, file)?;
    Ok(connection)
}

/// A second connection to the file, which cannot write.
pub fn reader(file: &Path) -> Result<Connection, OpenError> {
    let failed = |cause| OpenError::Database { file: shown(Some(file)), cause };
    let connection = Connection::open(file).map_err(failed)?;
    tune(&connection).map_err(failed)?;
    connection.pragma_update(None, "query_only", true).map_err(failed)?;
    Ok(connection)
}

/// The epoch and the last sequence. The epoch is chosen when the database is created.
pub fn log(connection: &Connection, file: Option<&Path>) -> Result<(String, u64), OpenError> {
    let failed = |cause| OpenError::Database { file: shown(file), cause };
    let row = connection
        .query_row("SELECT epoch, last_seq FROM log", [], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, u64>(1)?))
        })
        .optional()
        .map_err(failed)?;
    if let Some(row) = row {
        return Ok(row);
    }
    let epoch = random::hex::<8>();
    connection.execute("INSERT INTO log VALUES (1, ?1, 0, 0, 0, 0)", [&epoch]).map_err(failed)?;
    Ok((epoch, 0))
}

/// The file's name, to show to an operator.
pub fn shown(file: Option<&Path>) -> String {
    file.map_or_else(|| "memory".to_owned(), |file| file.display().to_string())
}

fn tune(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(LOCK_WAIT)?;
    connection.pragma_update(None, "cache_size", CACHE_KIB)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(())
}

fn migrate(connection: &mut Connection, file: Option<&Path>) -> Result<(), OpenError> {
    let failed = |cause| OpenError::Database { file: shown(file), cause };
    let found: usize = connection
        .query_row("SELECT user_version FROM pragma_user_version", [], |row| row.get(0))
        .map_err(failed)?;
    if found > MIGRATIONS.len() {
        return Err(OpenError::Newer { file: shown(file), found, known: MIGRATIONS.len() });
    }
    for (migration, version) in MIGRATIONS.iter().zip(1_u32..).skip(found) {
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        transaction.execute_batch(migration).map_err(failed)?;
        transaction.pragma_update(None, "user_version", version).map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}
