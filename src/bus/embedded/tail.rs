//! The log after a position, for clients that come back: all rooms, a bounded piece at a time.

use rusqlite::{Connection, Row, params};

use super::history::read_error;
use crate::{
    bus::{
        ReadError,
        session::{TAIL_BYTES_MAX, Tail},
    },
    domain::{
        message::{Body, Epoch, Message, Position, Timestamp},
        name::{MessageId, NameError, RoomName, UserId},
    },
};

/// By the primary key, and each message's room looked up: never the other way round.
const AFTER: &str = "
    SELECT m.seq, r.name, m.sender, m.id, m.at, m.body
    FROM messages m CROSS JOIN rooms r ON r.id = m.room
    WHERE m.seq > ?1 ORDER BY m.seq LIMIT ?2";

/// One snapshot of the log of this epoch.
pub fn read(
    connection: &mut Connection,
    epoch: &Epoch,
    after: &Position,
    limit: u32,
) -> Result<Tail, ReadError> {
    if *epoch != after.epoch {
        return Ok(Tail::OtherEpoch);
    }
    let snapshot = connection.transaction().map_err(read_error)?;
    let (top, deleted_to): (u64, u64) = snapshot
        .prepare_cached("SELECT last_seq, deleted_to FROM log")
        .and_then(|mut log| log.query_row([], |row| Ok((row.get(0)?, row.get(1)?))))
        .map_err(read_error)?;
    if after.seq < deleted_to {
        return Ok(Tail::Trimmed { first: deleted_to + 1 });
    }
    let mut messages = Vec::new();
    let mut bytes = 0;
    let mut statement = snapshot.prepare_cached(AFTER).map_err(read_error)?;
    let from = after.seq.min(i64::MAX as u64);
    let mut rows = statement.query(params![from, limit.max(1)]).map_err(read_error)?;
    while let Some(row) = rows.next().map_err(read_error)? {
        let message = message(row, epoch)?;
        bytes += message.body.as_json().len();
        if bytes > TAIL_BYTES_MAX && !messages.is_empty() {
            break;
        }
        messages.push(message);
    }
    Ok(Tail::Messages { messages, top: Position { epoch: epoch.clone(), seq: top } })
}

fn message(row: &Row<'_>, epoch: &Epoch) -> Result<Message, ReadError> {
    let seq = row.get(0).map_err(read_error)?;
    let bad_name = |cause: NameError| ReadError::Corrupt(format!("message {seq}: {cause}"));
    let text = |column| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
    Ok(Message {
        position: Position { epoch: epoch.clone(), seq },
        room: RoomName::parse(text(1).map_err(read_error)?).map_err(bad_name)?,
        from: UserId::parse(text(2).map_err(read_error)?).map_err(bad_name)?,
        id: MessageId::parse(text(3).map_err(read_error)?).map_err(bad_name)?,
        at: Timestamp(row.get(4).map_err(read_error)?),
        body: Body::from_json(text(5).map_err(read_error)?),
    })
}
