//! The scripts with which a node catches up with the log.

use fred::{clients::Client, error::Error, types::Value};

use crate::domain::position::Epoch;
use crate::store::redis::{
    keys::{Keys, fresh_name},
    scripts::{self, BUMP, COMMON, READ, number, text},
};

/// What read.lua answers.
pub struct Log {
    pub epoch: Epoch,
    pub top: u64,
    pub kept: u64,
    pub rolled_back: bool,
    pub frames: Vec<Value>,
}

pub async fn read(
    client: &Client,
    keys: &Keys,
    last: u64,
    anchor: &str,
    count: u64,
) -> Result<Log, Error> {
    let arguments = [last.to_string(), count.to_string(), anchor.to_owned(), fresh_name()];
    let mut reply = scripts::run(
        client,
        &READ,
        vec![keys.log(), keys.meta(), keys.marks(), keys.rooms()],
        arguments,
    )
    .await?;
    let strange = || scripts::strange("read.lua");
    let frames = reply.pop().ok_or_else(strange)?.into_array();
    let [epoch, top, kept, anchor] = reply.as_slice() else { return Err(strange()) };
    Ok(Log {
        epoch: Epoch::new(text(epoch).ok_or_else(strange)?),
        top: number(top).ok_or_else(strange)?,
        kept: number(kept).ok_or_else(strange)?,
        rolled_back: *anchor == Value::Integer(0),
        frames,
    })
}

/// The last seq that is the same in the log and in this node's memory of it: each seq there with
/// the beginning of its record.
pub async fn common(
    client: &Client,
    keys: &Keys,
    remembered: impl Iterator<Item = (u64, &str)>,
) -> Result<u64, Error> {
    let pairs = remembered.flat_map(|(seq, begin)| [seq.to_string(), begin.to_owned()]);
    let arguments: Vec<String> = pairs.collect();
    if arguments.is_empty() {
        return Ok(0);
    }
    let reply = scripts::run(client, &COMMON, vec![keys.log()], arguments).await?;
    reply.first().and_then(number).ok_or_else(|| scripts::strange("common.lua"))
}

pub async fn bump(client: &Client, keys: &Keys, old: &Epoch) -> Result<(), Error> {
    let arguments = [old.to_string(), fresh_name()];
    scripts::run(client, &BUMP, vec![keys.meta()], arguments).await.map(|_epoch| ())
}
