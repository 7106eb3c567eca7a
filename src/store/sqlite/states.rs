//! The states of messages. A change is applied in the transaction that stores it, so it counts
//! once.
//!
//! A change is a row of `messages` that has `of_seq`. Queries for a room's messages must leave such
//! rows out.

use rusqlite::{OptionalExtension, Transaction, params};

use crate::{
    domain::{
        message::{MessageState, MessageStatus},
        record::{Body, Change, Draft},
    },
    store::{layout, sqlite::index},
};

/// The room of a change.
#[derive(Debug, Clone, Copy)]
pub struct RoomRow {
    pub room: i64,
    pub trimmed_to: u64,
}

/// Applies the change at `seq` to its message, if that is in the history of the room.
pub fn fold(
    transaction: &Transaction<'_>,
    seq: u64,
    place: RoomRow,
    (target_seq, change): (u64, &Change),
    draft: &Draft,
) -> rusqlite::Result<()> {
    if target_seq <= place.trimmed_to || target_seq >= seq {
        return Ok(());
    }
    let known: Option<Option<String>> = transaction
        .prepare_cached(
            "SELECT state FROM messages LEFT JOIN states USING (seq)
             WHERE seq = ?1 AND room = ?2 AND of_seq IS NULL",
        )?
        .query_row(params![target_seq, place.room], |row| row.get(0))
        .optional()?;
    let Some(was) = known else { return Ok(()) };
    let was = was.as_deref().and_then(layout::parse_lines).unwrap_or_default();
    let mut state = was.clone();
    state.apply(change, &draft.from, draft.at);
    if state.status != was.status {
        replace_body(transaction, place.room, target_seq, &state.status)?;
    }
    if state == MessageState::default() {
        transaction
            .prepare_cached("DELETE FROM states WHERE seq = ?1")?
            .execute(params![target_seq])?;
    } else if state != was {
        transaction
            .prepare_cached("INSERT OR REPLACE INTO states (seq, state) VALUES (?1, ?2)")?
            .execute(params![target_seq, layout::state_to_lines(&state)])?;
    }
    Ok(())
}

/// Removes the old body of an edited message, or every body that a deleted message ever had.
fn replace_body(
    transaction: &Transaction<'_>,
    room: i64,
    target_seq: u64,
    status: &MessageStatus,
) -> rusqlite::Result<()> {
    let (body, is_deleted) = match status {
        MessageStatus::Original => return Ok(()),
        MessageStatus::Edited { body, .. } => (body.clone(), false),
        MessageStatus::Deleted { .. } => (Body::null(), true),
    };
    transaction
        .prepare_cached("UPDATE messages SET body = ?2 WHERE seq = ?1")?
        .execute(params![target_seq, body.as_json()])?;
    if is_deleted {
        // The arguments of the events that the message and its edits came in contain its text too.
        transaction
            .prepare_cached("UPDATE messages SET source = NULL WHERE seq = ?1")?
            .execute([target_seq])?;
        transaction
            .prepare_cached(
                "UPDATE messages INDEXED BY edits_by_message SET body = 'null', source = NULL
                 WHERE of_seq = ?1 AND change = 'edit' AND room = ?2",
            )?
            .execute(params![target_seq, room])?;
    }
    index::replace(transaction, room, target_seq, &body)
}

/// Deletes the states of a room's messages up to a sequence. Call it before they are deleted.
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
