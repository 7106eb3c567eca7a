//! The log of a partition after a position, in bounded pieces, for clients that have reconnected.

use fred::{clients::Client, types::Value};

use crate::store::redis::{
    frame,
    keys::Keys,
    scripts::{self, TAIL, number, text},
};
use crate::{
    domain::position::{Epoch, Position},
    store::{
        error::ReadError,
        log::{LogTail, TAIL_BYTES_MAX},
    },
};

pub async fn read(
    client: &Client,
    keys: &Keys,
    after: &Position,
    limit: u32,
) -> Result<LogTail, ReadError> {
    let arguments = [
        after.epoch.to_string(),
        after.seq.to_string(),
        limit.max(1).to_string(),
        TAIL_BYTES_MAX.to_string(),
    ];
    let reply = scripts::run(client, &TAIL, vec![keys.log(), keys.meta()], arguments)
        .await
        .map_err(|error| ReadError::Unavailable(error.to_string()))?;
    tail_of(&reply, after, limit)
}

/// Cuts the piece from the frames that tail.lua returns.
fn tail_of(reply: &[Value], after: &Position, limit: u32) -> Result<LogTail, ReadError> {
    let corrupt = |why: &str| ReadError::Corrupt(why.to_owned());
    let strange = || corrupt("tail.lua answered in an unknown shape");
    let [epoch, top, kept, Value::Array(frames)] = reply else { return Err(strange()) };
    let epoch = Epoch::new(text(epoch).ok_or_else(strange)?);
    let top = number(top).ok_or_else(strange)?;
    let kept = number(kept).ok_or_else(strange)?;
    if epoch != after.epoch {
        return Ok(LogTail::OtherEpoch);
    }
    let first = if kept == 0 { top + 1 } else { kept };
    if first > after.seq.saturating_add(1) {
        return Ok(LogTail::Trimmed { first });
    }
    let mut records = Vec::new();
    let mut bytes = 0;
    for frame in frames {
        let frame = text(frame).ok_or_else(|| corrupt("a frame is no text"))?;
        let (header, lines) =
            frame::split(frame).ok_or_else(|| corrupt("a frame has no header"))?;
        for (seq, line) in (header.first..=header.last()).zip(lines.split('\n')) {
            if seq <= after.seq {
                continue;
            }
            let position = Position { epoch: epoch.clone(), seq };
            let record = match frame::record(line, position) {
                Ok(record) => record,
                Err(why) => {
                    return Ok(LogTail::damaged(records, seq, &why, Position { epoch, seq: top }));
                }
            };
            bytes += record.bytes();
            let full = records.len() >= limit.max(1) as usize || bytes > TAIL_BYTES_MAX;
            if full && !records.is_empty() {
                return Ok(LogTail::Records { records, top: Position { epoch, seq: top } });
            }
            records.push(record);
        }
    }
    Ok(LogTail::Records { records, top: Position { epoch, seq: top } })
}
