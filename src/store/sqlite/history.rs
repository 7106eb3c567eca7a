//! Pages of a room's history, read from the file beside the writer.
//!
//! A page is one snapshot: its messages, their states, `top` and `trimmed` belong together.

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::{
    domain::{
        message::Message,
        name::{MessageId, NameError, PublicId, UserId, UserName},
        page::Page,
        position::{Epoch, Position, Timestamp},
        record::Record,
        room::RoomName,
    },
    store::{
        error::ReadError,
        layout,
        log::{self, History},
    },
};

const NEWEST_FIRST: &str = "
    SELECT m.seq, body, sender, name, id, at, except_socket, change, of_seq, source, state
    FROM messages m INDEXED BY messages_by_room LEFT JOIN states s ON s.seq = m.seq
    WHERE room = ?1 AND of_seq IS NULL AND m.seq > ?2 AND m.seq < ?3 ORDER BY m.seq DESC LIMIT ?4";
const OLDEST_FIRST: &str = "
    SELECT m.seq, body, sender, name, id, at, except_socket, change, of_seq, source, state
    FROM messages m INDEXED BY messages_by_room LEFT JOIN states s ON s.seq = m.seq
    WHERE room = ?1 AND of_seq IS NULL AND m.seq > ?2 AND m.seq < ?3 ORDER BY m.seq LIMIT ?4";

pub fn page(
    connection: &mut Connection,
    epoch: &Epoch,
    room: &RoomName,
    page: &Page,
    limit: u32,
) -> Result<History, ReadError> {
    let snapshot = connection.transaction().map_err(read_error)?;
    let (top, forgotten_to) = snapshot
        .prepare_cached("SELECT last_seq, forgotten_to FROM log")
        .and_then(|mut log| log.query_row([], |row| Ok((row.get(0)?, row.get(1)?))))
        .map_err(read_error)?;
    let known: Option<(i64, u64)> = snapshot
        .prepare_cached("SELECT id, trimmed_to FROM rooms WHERE name = ?1")
        .and_then(|mut rooms| {
            rooms.query_row([room.as_str()], |row| Ok((row.get(0)?, row.get(1)?))).optional()
        })
        .map_err(read_error)?;
    let trimmed_to = known.map_or(forgotten_to, |(_, trimmed_to)| trimmed_to);
    let (sql, after, before, trimmed) = match *page {
        Page::Newest => (NEWEST_FIRST, trimmed_to, i64::MAX as u64, false),
        Page::Before(seq) => (NEWEST_FIRST, trimmed_to, seq.min(i64::MAX as u64), false),
        Page::After(seq) => (
            OLDEST_FIRST,
            trimmed_to.max(seq).min(i64::MAX as u64),
            i64::MAX as u64,
            seq < trimmed_to,
        ),
    };
    let mut messages = Vec::new();
    let (mut rows_read, mut more) = (0, false);
    if let Some((id, _)) = known {
        let mut statement = snapshot.prepare_cached(sql).map_err(read_error)?;
        // One row more than the page needs shows whether the room has more.
        let mut rows = statement
            .query(params![id, after, before, u64::from(limit) + 1])
            .map_err(read_error)?;
        while let Some(row) = rows.next().map_err(read_error)? {
            if rows_read == limit {
                more = true;
                break;
            }
            rows_read += 1;
            messages.extend(message(row, epoch, room));
        }
    }
    if sql == NEWEST_FIRST {
        messages.reverse();
    }
    Ok(History { top: Position { epoch: epoch.clone(), seq: top }, messages, more, trimmed })
}

/// Decodes a row of `seq, body, sender, name, id, at, except_socket, change, of_seq, source`.
pub fn record(row: &Row<'_>, epoch: &Epoch, room: &RoomName) -> Result<Record, ReadError> {
    let seq = row.get(0).map_err(read_error)?;
    let bad_name = |cause: NameError| ReadError::Corrupt(format!("message {seq}: {cause}"));
    let text = |column| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
    let maybe = |column| row.get_ref(column)?.as_str_or_null().map_err(rusqlite::Error::from);
    let name = maybe(3).map_err(read_error)?.map(UserName::parse).transpose();
    let except = maybe(6).map_err(read_error)?.map(PublicId::parse).transpose();
    let (change, target_seq) = (maybe(7).map_err(read_error)?, row.get(8).map_err(read_error)?);
    let body = text(1).map_err(read_error)?;
    let entry = layout::parse_entry(change, target_seq, body).filter(|_| layout::is_json(body));
    let bad_source = || ReadError::Corrupt(format!("record {seq}: its source event"));
    let source =
        maybe(9).map(|source| source.map(|json| layout::parse_source(json).ok_or_else(bad_source)));
    let bad_entry = || ReadError::Corrupt(format!("record {seq}: its change or body"));
    Ok(Record {
        position: Position { epoch: epoch.clone(), seq },
        room: room.clone(),
        from: UserId::parse(text(2).map_err(read_error)?).map_err(bad_name)?,
        name: name.map_err(bad_name)?,
        id: MessageId::parse(text(4).map_err(read_error)?).map_err(bad_name)?,
        at: Timestamp(row.get(5).map_err(read_error)?),
        except: except.map_err(bad_name)?,
        source: source.map_err(read_error)?.transpose()?,
        entry: entry.ok_or_else(bad_entry)?,
    })
}

/// Decodes a message and applies its state: the eleventh column of the row, or null. A message that
/// cannot be read is passed over.
pub fn message(row: &Row<'_>, epoch: &Epoch, room: &RoomName) -> Option<Message> {
    let seq = row.get(0).unwrap_or_default();
    read_message(row, epoch, room).inspect_err(|why| log::passed_over(seq, &why.to_string())).ok()
}

fn read_message(row: &Row<'_>, epoch: &Epoch, room: &RoomName) -> Result<Message, ReadError> {
    let no_message = || ReadError::Corrupt("a change was read as a message".to_owned());
    let message = Message::original(record(row, epoch, room)?).ok_or_else(no_message)?;
    let state: Option<String> = row.get(10).map_err(read_error)?;
    let Some(state) = state else { return Ok(message) };
    let corrupt = || ReadError::Corrupt(format!("the state of message {}", message.position.seq));
    let state = layout::parse_lines(&state).ok_or_else(corrupt)?;
    Ok(message.with_state(state))
}

/// SQLite's error code decides whether the file is damaged or only out of reach.
pub fn read_error(cause: rusqlite::Error) -> ReadError {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match cause.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase) => ReadError::Corrupt(cause.to_string()),
        Some(_) => ReadError::Unavailable(cause.to_string()),
        // Not an error of SQLite: a column has another type than the schema says.
        None => ReadError::Corrupt(cause.to_string()),
    }
}
