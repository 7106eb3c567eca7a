//! The log after a position, for returning clients: all rooms, a bounded piece at a time.

use rusqlite::{Connection, params};

use crate::store::sqlite::history::{read_error, record};
use crate::{
    domain::{
        position::{Epoch, Position},
        room::RoomName,
    },
    store::{
        error::ReadError,
        log::{LogTail, TAIL_BYTES_MAX},
    },
};

/// Goes through the messages by primary key and looks up each one's room. The opposite join order
/// would be slow.
const AFTER: &str = "
    SELECT m.seq, m.body, m.sender, m.name, m.id, m.at, m.except_socket, m.change, m.of_seq,
           m.source, r.name
    FROM messages m CROSS JOIN rooms r ON r.id = m.room
    WHERE m.seq > ?1 ORDER BY m.seq LIMIT ?2";

/// Reads one snapshot of the log of this epoch.
pub fn read(
    connection: &mut Connection,
    epoch: &Epoch,
    after: &Position,
    limit: u32,
) -> Result<LogTail, ReadError> {
    if *epoch != after.epoch {
        return Ok(LogTail::OtherEpoch);
    }
    let snapshot = connection.transaction().map_err(read_error)?;
    let (top, deleted_to): (u64, u64) = snapshot
        .prepare_cached("SELECT last_seq, deleted_to FROM log")
        .and_then(|mut log| log.query_row([], |row| Ok((row.get(0)?, row.get(1)?))))
        .map_err(read_error)?;
    if after.seq < deleted_to {
        return Ok(LogTail::Trimmed { first: deleted_to + 1 });
    }
    let top = Position { epoch: epoch.clone(), seq: top };
    let mut records = Vec::new();
    let mut bytes = 0;
    let mut statement = snapshot.prepare_cached(AFTER).map_err(read_error)?;
    let from = after.seq.min(i64::MAX as u64);
    let mut rows = statement.query(params![from, limit.max(1)]).map_err(read_error)?;
    while let Some(row) = rows.next().map_err(read_error)? {
        let room = row.get_ref(10).and_then(|name| Ok(name.as_str()?)).map_err(read_error)?;
        let room = RoomName::parse(room).map_err(|why| ReadError::Corrupt(why.to_string()));
        let record = match room.and_then(|room| record(row, epoch, &room)) {
            Ok(record) => record,
            Err(why) => {
                let seq = row.get(0).map_err(read_error)?;
                return Ok(LogTail::damaged(records, seq, &why.to_string(), top));
            }
        };
        bytes += record.bytes();
        if bytes > TAIL_BYTES_MAX && !records.is_empty() {
            break;
        }
        records.push(record);
    }
    Ok(LogTail::Records { records, top })
}
