//! What has become of messages: folded from the records about them in the transaction that stores
//! these, so that a record counts once.
//!
//! A record is a row of `messages` that has `of_seq`; no query for a room's messages may see it.

use rusqlite::{OptionalExtension, Row, Transaction, params};

use crate::store::sqlite::{history::read_error, index};
use crate::{
    domain::{
        changes::{About, Change, State},
        message::{Body, Draft, Message},
    },
    store::ReadError,
};

/// The room of a record.
#[derive(Debug, Clone, Copy)]
pub struct RoomRow {
    pub room: i64,
    pub trimmed_to: u64,
}

/// What the record at `seq` does to its message, if that is one of the room's history.
pub fn fold(
    transaction: &Transaction<'_>,
    seq: u64,
    place: RoomRow,
    about: About,
    draft: &Draft,
) -> rusqlite::Result<()> {
    if about.seq <= place.trimmed_to || about.seq >= seq {
        return Ok(());
    }
    let known: Option<Option<String>> = transaction
        .prepare_cached(
            "SELECT state FROM messages LEFT JOIN states USING (seq)
             WHERE seq = ?1 AND room = ?2 AND of_seq IS NULL",
        )?
        .query_row(params![about.seq, place.room], |row| row.get(0))
        .optional()?;
    let Some(was) = known else { return Ok(()) };
    let was = was.as_deref().and_then(State::parse).unwrap_or_default();
    let mut state = was.clone();
    state.fold(about.change, &draft.from, draft.at, &draft.body);
    if state.fate != was.fate {
        say_anew(transaction, place.room, about, &draft.body)?;
    }
    if state == State::default() {
        transaction
            .prepare_cached("DELETE FROM states WHERE seq = ?1")?
            .execute(params![about.seq])?;
    } else if state != was {
        transaction
            .prepare_cached("INSERT OR REPLACE INTO states (seq, state) VALUES (?1, ?2)")?
            .execute(params![about.seq, state.to_text()])?;
    }
    Ok(())
}

/// The old words go, and of a message that is deleted all that it ever had.
fn say_anew(
    transaction: &Transaction<'_>,
    room: i64,
    about: About,
    body: &Body,
) -> rusqlite::Result<()> {
    let is_deleted = about.change == Change::Delete;
    let body = if is_deleted { Body::null() } else { body.clone() };
    transaction
        .prepare_cached("UPDATE messages SET body = ?2 WHERE seq = ?1")?
        .execute(params![about.seq, body.as_json()])?;
    if is_deleted {
        transaction
            .prepare_cached(
                "UPDATE messages INDEXED BY edits_by_message SET body = 'null'
                 WHERE of_seq = ?1 AND change = 'edit' AND room = ?2",
            )?
            .execute(params![about.seq, room])?;
    }
    index::replace(transaction, room, about.seq, &body)
}

/// Before a room's messages are deleted, up to a sequence.
pub fn forget(transaction: &Transaction<'_>, room: i64, last: u64) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "DELETE FROM states WHERE seq IN
                 (SELECT seq FROM messages INDEXED BY messages_by_room
                  WHERE room = ?1 AND of_seq IS NULL AND seq <= ?2)",
        )?
        .execute(params![room, last])?;
    Ok(())
}

/// The message of a row as it is now; the row's tenth column is its state, or null.
pub fn applied(message: Message, row: &Row<'_>) -> Result<Message, ReadError> {
    let state: Option<String> = row.get(9).map_err(read_error)?;
    let Some(state) = state else { return Ok(message) };
    let corrupt = || ReadError::Corrupt(format!("the state of message {}", message.position.seq));
    let state = State::parse(&state).ok_or_else(corrupt)?;
    Ok(message.with_state(state))
}
