//! The word index of the stored messages: written after the log, a little at a time, and searched.
//!
//! Indexing a message costs more than storing it. So it is done later, in steps that take a small
//! share of the writer's time; a search scans the messages that are not indexed yet.
//! `domain/search.rs` makes the words. They contain no FTS5 syntax: its `ascii` tokenizer only
//! splits them at spaces.

use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use crate::store::sqlite::history::{message, read_error};
use crate::{
    domain::{message::Message, position::Epoch, record::Body, search::Search},
    store::{error::ReadError, search::words_of},
};

/// Messages per step, at most. While fewer wait, no step is made: a search scans them quickly.
pub const STEP_MESSAGES: usize = 256;
/// Bytes of bodies after which a step ends.
const STEP_BYTES: usize = 128 << 10;
/// Pages of the index that a step rewrites at most, to merge its segments. FTS5 alone would merge
/// seldom, and then block the writer for long.
const STEP_PAGES: u32 = 32;
/// After a step the writer does other work for this many times as long as the step took.
const REST: u32 = 15;
/// Pause after a failed step. The log itself may still work.
const RETRY: Duration = Duration::from_secs(60);
/// Prefix of a room's number in the index. No indexed word contains it, so none equals a room.
const ROOM_MARK: char = '\u{e000}';

#[derive(Debug)]
pub struct Indexer {
    indexed_to: u64,
    resume_at: Instant,
}

impl Indexer {
    pub fn new(connection: &Connection) -> rusqlite::Result<Self> {
        let indexed_to = stored(connection)?;
        Ok(Self { indexed_to, resume_at: Instant::now() })
    }

    /// Time until a step is due. `None`: not before more messages are stored.
    pub fn wait(&self, last_seq: u64, now: Instant) -> Option<Duration> {
        let is_behind = last_seq.saturating_sub(self.indexed_to) >= STEP_MESSAGES as u64;
        is_behind.then(|| self.resume_at.saturating_duration_since(now))
    }

    /// One bounded transaction.
    pub fn step(&mut self, connection: &mut Connection, last_seq: u64) {
        let begin = Instant::now();
        match index(connection, self.indexed_to, last_seq) {
            Ok(indexed_to) => {
                self.indexed_to = indexed_to;
                let end = Instant::now();
                self.resume_at = end + end.duration_since(begin) * REST;
            }
            Err(cause) => {
                tracing::warn!(%cause, "messages cannot be indexed; searching them takes longer");
                self.resume_at = Instant::now() + RETRY;
            }
        }
    }
}

/// Returns the sequence up to which everything is indexed.
fn index(connection: &mut Connection, from: u64, last_seq: u64) -> rusqlite::Result<u64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // After the last row there may be sequences whose rows were deleted.
    let mut indexed_to = last_seq;
    transaction
        .prepare_cached("INSERT INTO words (words, rank) VALUES ('merge', ?1)")?
        .execute([STEP_PAGES])?;
    {
        let mut messages = transaction.prepare_cached(
            "SELECT seq, room, body, of_seq IS NULL FROM messages WHERE seq > ?1 ORDER BY seq LIMIT ?2",
        )?;
        let mut rows = messages.query(params![from, STEP_MESSAGES])?;
        let (mut count, mut bytes) = (0, 0);
        while let Some(row) = rows.next()? {
            let (seq, room): (u64, i64) = (row.get(0)?, row.get(1)?);
            let body = Body::from_json(row.get_ref(2)?.as_str()?);
            if row.get(3)? {
                insert(&transaction, room, seq, &body)?;
            }
            count += 1;
            bytes += body.as_json().len();
            if count == STEP_MESSAGES || bytes >= STEP_BYTES {
                indexed_to = seq;
                break;
            }
        }
    }
    transaction.prepare_cached("UPDATE log SET indexed_to = ?1")?.execute([indexed_to])?;
    transaction.commit()?;
    Ok(indexed_to)
}

fn insert(transaction: &Transaction<'_>, room: i64, seq: u64, body: &Body) -> rusqlite::Result<()> {
    let mut words = words_of(body);
    words.push(room_word(room));
    transaction
        .prepare_cached("INSERT INTO words (rowid, text) VALUES (?1, ?2)")?
        .execute(params![seq, words.join(" ")])?;
    Ok(())
}

/// Replaces the words of a message whose body changed. A message that is not indexed yet will be
/// indexed with its new body.
pub fn replace(
    transaction: &Transaction<'_>,
    room: i64,
    seq: u64,
    body: &Body,
) -> rusqlite::Result<()> {
    if seq > stored(transaction)? {
        return Ok(());
    }
    transaction.prepare_cached("DELETE FROM words WHERE rowid = ?1")?.execute([seq])?;
    insert(transaction, room, seq, body)
}

/// Removes a room's messages up to a sequence from the index. Call it before they are deleted.
pub fn forget(transaction: &Transaction<'_>, room: i64, last: u64) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "DELETE FROM words WHERE rowid IN
                 (SELECT seq FROM messages INDEXED BY messages_by_room
                  WHERE room = ?1 AND of_seq IS NULL AND seq <= ?2)",
        )?
        .execute(params![room, last])?;
    Ok(())
}

/// Every message up to this sequence is in the index.
pub fn indexed_to(connection: &Connection) -> Result<u64, ReadError> {
    stored(connection).map_err(read_error)
}

fn stored(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("SELECT indexed_to FROM log", [], |row| row.get(0))
}

/// The newest matches up to `indexed_to`, oldest first, and whether there are more.
pub fn look_up(
    connection: &mut Connection,
    epoch: &Epoch,
    search: &Search,
    indexed_to: u64,
    limit: usize,
) -> Result<(Vec<Message>, bool), ReadError> {
    let snapshot = connection.transaction().map_err(read_error)?;
    let known: Option<(i64, u64)> = snapshot
        .prepare_cached("SELECT id, trimmed_to FROM rooms WHERE name = ?1")
        .and_then(|mut rooms| {
            let found = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
            rooms.query_row([search.room.as_str()], found).optional()
        })
        .map_err(read_error)?;
    let Some((room, trimmed_to)) = known else { return Ok((Vec::new(), false)) };
    let before = search.before.unwrap_or(u64::MAX).min(indexed_to.saturating_add(1));
    let mut statement = snapshot
        .prepare_cached(
            "SELECT m.seq, body, sender, name, id, at, except_socket, change, of_seq, source,
                 state
             FROM words CROSS JOIN messages m ON m.seq = words.rowid
             LEFT JOIN states s ON s.seq = m.seq
             WHERE words MATCH ?1 AND words.rowid > ?2 AND words.rowid < ?3
             ORDER BY words.rowid DESC LIMIT ?4",
        )
        .map_err(read_error)?;
    // One row more than asked for shows whether there are more.
    let mut rows = statement
        .query(params![expression(room, search), trimmed_to, before, limit + 1])
        .map_err(read_error)?;
    let (mut messages, mut rows_read) = (Vec::new(), 0);
    while let Some(row) = rows.next().map_err(read_error)? {
        if rows_read == limit {
            messages.reverse();
            return Ok((messages, true));
        }
        rows_read += 1;
        messages.extend(message(row, epoch, &search.room));
    }
    messages.reverse();
    Ok((messages, false))
}

/// The FTS5 expression that requires all words. Whatever a client sent, only letters and digits
/// come between the quotes.
fn expression(room: i64, search: &Search) -> String {
    let words = search.query.words().iter().map(|word| format!("\"{word}\""));
    words.chain([format!("\"{}\"", room_word(room))]).collect::<Vec<_>>().join(" ")
}

fn room_word(room: i64) -> String {
    format!("{ROOM_MARK}{room}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::*;
    use crate::{
        domain::{room::RoomName, search::Query},
        store::sqlite::schema,
    };

    /// A log with these texts in room 1 of two; the rows of room 1 have the odd sequences.
    fn log(texts: &[String]) -> Connection {
        let connection = schema::writer(None).expect("it opens");
        schema::log(&connection, None).expect("a log");
        let rooms = "INSERT INTO rooms VALUES (1, 'red', 0, 0, 0), (2, 'blue', 0, 0, 0)";
        connection.execute(rooms, []).expect("two rooms");
        for (number, text) in texts.iter().enumerate() {
            let body = serde_json::json!({ "number": [text] }).to_string();
            for room in [1, 2] {
                connection
                    .execute(
                        "INSERT INTO messages (seq, room, sender, id, at, body) VALUES (?1, ?2, 'ann', 'm', 1, ?3)",
                        params![number * 2 + room, room, body],
                    )
                    .expect("a row");
            }
        }
        connection
    }

    fn index_all(connection: &mut Connection, last_seq: u64) {
        let mut indexed_to = 0;
        while indexed_to < last_seq {
            indexed_to = index(connection, indexed_to, last_seq).expect("it is indexed");
        }
    }

    fn found(connection: &mut Connection, text: &str, limit: usize) -> (Vec<u64>, bool) {
        let query = Query::parse(text).expect("a query");
        let room = RoomName::parse("red").expect("a room");
        let search = Search { room, query, before: None, limit: 0 };
        let (messages, more) =
            look_up(connection, &Epoch::new("e"), &search, 10_000, limit).expect("it is read");
        (messages.iter().map(|message| message.position.seq).collect(), more)
    }

    #[test]
    fn the_newest_are_found_and_what_is_trimmed_or_deleted_is_not() {
        let texts = vec!["word".to_owned(); 600];
        let mut connection = log(&texts);
        index_all(&mut connection, 1_200);
        assert_eq!(found(&mut connection, "word", 2), (vec![1_197, 1_199], true));
        connection.execute("UPDATE rooms SET trimmed_to = 1196", []).expect("it is trimmed");
        assert_eq!(found(&mut connection, "word", 2), (vec![1_197, 1_199], false));
        connection.execute("UPDATE rooms SET trimmed_to = 0", []).expect("as before");
        let transaction = connection.transaction().expect("a transaction");
        forget(&transaction, 1, 1_197).expect("they are forgotten");
        // The same again, now with rows that are not indexed.
        forget(&transaction, 1, 1_197).expect("there is nothing to forget");
        transaction.commit().expect("it is written");
        assert_eq!(found(&mut connection, "word", 2), (vec![1_199], false));
        let left = connection.query_row("SELECT count(*) FROM words_docsize", [], |row| row.get(0));
        assert_eq!(left, Ok(601_u64));
    }

    proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(64))]

        /// The index finds what a scan of all messages would find.
        #[test]
        fn the_index_and_the_rule_agree(
            texts in proptest::collection::vec("[aAbß\u{f6}Ö\u{308}o日本 \"*:(,.\\-0\u{e000}]{0,12}", 1..40),
            query in "[aAbß\u{f6}Ö\u{308}o日本 \"*:(,.\\-0\u{e000}]{0,4}[aAo本ö0]",
        ) {
            let mut connection = log(&texts);
            index_all(&mut connection, texts.len() as u64 * 2);
            let parsed = Query::parse(&query).expect("it has a word");
            let matches = |text: &str| parsed.is_in(&crate::domain::search::words(text));
            let expected = (0_u64..).zip(&texts).filter(|(_, text)| matches(text));
            let expected: Vec<u64> = expected.map(|(number, _)| number * 2 + 1).collect();
            prop_assert_eq!(found(&mut connection, &query, 100), (expected, false));
        }
    }
}
