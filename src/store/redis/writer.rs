//! The writer of one partition: it appends all waiting drafts with one script call at a time.
//!
//! Only one call is in flight, so the order is exact, also over retries. After a timeout the script
//! may still run, so the call is repeated with the same ids, which Redis recognises.

use std::time::Duration;

use fred::{
    clients::Client,
    error::{Error, ErrorKind},
    interfaces::ClientLike,
    types::Value,
};
use tokio::time::{Instant, sleep};

use crate::store::redis::{
    batch::{Batch, Messages, Rooms, StoredEntry},
    frame,
    keys::{Keys, fresh_name},
    link::{Component, Status},
    pipeline::Pipeline,
    scripts::{self, APPEND},
};
use crate::{
    clock,
    domain::{
        position::{Epoch, Position, Timestamp},
        record::Stored,
    },
    store::{RetentionPolicy, layout::ContentMark, log::AppendError, queue::DraftReceiver},
};

/// How long a call is repeated before its drafts settle as `Unconfirmed`.
const CONFIRM_WITHIN: Duration = Duration::from_secs(6);
const RETRY_EVERY: Duration = Duration::from_millis(50);
/// Messages the log keeps for nodes that catch up, whatever their age.
const LOG_MAX: u64 = 1_000_000;
/// A bucket of ids outlives its window by this many seconds, more than a call is repeated.
const IDS_SLACK_S: u128 = 30;
/// The argument that tells append.lua that an earlier attempt may have been stored.
const MAY_BE_STORED: usize = 14;

pub struct PartitionWriter {
    pub client: Client,
    pub keys: Keys,
    pub status: Status,
    pub retention: RetentionPolicy,
    /// `PUBLISH`, or `SPUBLISH` in a cluster.
    pub publish: &'static str,
    /// The newest position that the log gave. If the log ends before it, the log was rolled back.
    pub newest: Option<Position>,
    /// With the number of a frame, a name that no other frame of any node has.
    pub name: String,
    pub frames: u64,
}

impl PartitionWriter {
    /// Ends when the queue is closed and empty.
    pub async fn run(mut self, drain: DraftReceiver) {
        let mut pipeline = Pipeline::new(drain);
        while let Some(Batch { messages, settles }) = pipeline.batch().await {
            if !self.status.commands_work() || !self.client.is_connected() {
                settles.refuse(AppendError::Unavailable);
                continue;
            }
            let outcomes = self.append(&messages, &mut pipeline).await;
            self.newest = newest(self.newest.take(), &outcomes);
            pipeline.settle_later(settles.settled(&outcomes));
        }
    }

    /// Stores new records, and finds the positions of known ones. If Redis knows some of them, it has
    /// stored none of the batch, and the rest is sent again.
    async fn append(
        &mut self,
        batch: &Messages,
        pipeline: &mut Pipeline,
    ) -> Vec<Result<StoredEntry, AppendError>> {
        let mut rest: Vec<usize> = (0..batch.len()).collect();
        let mut places: Vec<Option<StoredEntry>> = vec![None; batch.len()];
        let bucket = self.bucket();
        let mut failed = AppendError::Unconfirmed;
        while !rest.is_empty() {
            let call = self.call(batch, &rest, bucket);
            let reply = match self.confirmed(call, pipeline).await {
                Ok(reply) => reply,
                Err(error) => {
                    failed = error;
                    break;
                }
            };
            let place = |seq, at, content| {
                let position = Position { epoch: reply.epoch.clone(), seq };
                StoredEntry { stored: Stored { position, at }, content }
            };
            if reply.known.is_empty() {
                for (seq, entry) in (reply.before + 1..).zip(rest.drain(..)) {
                    places[entry] = Some(place(seq, batch.at(entry), batch.content(entry)));
                }
            } else {
                let repeatable: Vec<usize> =
                    rest.iter().copied().filter(|&entry| batch.is_repeatable(entry)).collect();
                for Known { index, seq, at, content } in reply.known {
                    places[repeatable[index]] = Some(place(seq, at, content));
                }
                rest.retain(|&entry| places[entry].is_none());
            }
        }
        places.into_iter().map(|place| place.ok_or(failed)).collect()
    }

    /// Repeats one call until Redis answers it or the deadline is over.
    async fn confirmed(
        &self,
        mut call: Call,
        pipeline: &mut Pipeline,
    ) -> Result<Reply, AppendError> {
        let deadline = Instant::now() + CONFIRM_WITHIN;
        let mut may_be_stored = false;
        loop {
            let run =
                scripts::run(&self.client, &APPEND, call.keys.clone(), call.arguments.clone());
            let outcome = pipeline.during(run).await.and_then(|reply| {
                Reply::read(&reply).ok_or_else(|| scripts::strange("append.lua"))
            });
            let error = match outcome {
                Ok(reply) => {
                    if reply.problem.is_empty() {
                        self.status.up(Component::Append);
                    } else {
                        let why = format!("stored, but not announced: {}", reply.problem);
                        self.status.down(Component::Append, why);
                    }
                    return Ok(reply);
                }
                Err(error) => error,
            };
            tracing::debug!(%error, "an append failed");
            let give_up = match kind(&error) {
                Failure::Refused => {
                    let why = format!("it refuses to store: {}", error.details());
                    self.status.down(Component::Append, why);
                    true
                }
                Failure::OtherLog => true,
                Failure::NotNow => false,
                Failure::Unknown => {
                    may_be_stored = true;
                    if let Some(told) = call.arguments.get_mut(MAY_BE_STORED) {
                        *told = Value::String("1".into());
                    }
                    false
                }
            };
            let late = Instant::now() >= deadline;
            if late && !may_be_stored {
                self.status
                    .down(Component::Append, format!("it does not store: {}", error.details()));
            }
            if give_up || late {
                return Err(if may_be_stored {
                    AppendError::Unconfirmed
                } else {
                    AppendError::Unavailable
                });
            }
            // Drafts that came after this batch are certainly not stored: they are refused at once.
            if !self.status.commands_work() {
                pipeline.refuse(AppendError::Unavailable);
            }
            pipeline.settle();
            sleep(RETRY_EVERY).await;
        }
    }

    /// The number of the current bucket of ids. A retry within the window finds its message in this
    /// bucket or in the one before.
    fn bucket(&self) -> u128 {
        u128::from(clock::now().0) / self.window_millis()
    }

    fn window_millis(&self) -> u128 {
        self.retention.idempotency_window.as_millis().max(1_000)
    }

    /// The keys and arguments that append.lua describes, for some messages of a batch.
    fn call(&mut self, batch: &Messages, which: &[usize], bucket: u128) -> Call {
        self.frames += 1;
        let (epoch, seq) = match &self.newest {
            Some(newest) => (newest.epoch.to_string(), newest.seq),
            None => (String::new(), 0),
        };
        let header = format!("{}:{epoch}:{}", seq + 1, which.len());
        let mut keys = vec![
            self.keys.log(),
            self.keys.meta(),
            self.keys.marks(),
            self.keys.rooms(),
            self.keys.ids(bucket),
            self.keys.ids(bucket - 1),
            self.keys.ids(bucket + 1),
        ];
        let text = |text: String| Value::String(text.into());
        let mut arguments: Vec<Value> = [
            fresh_name(),
            self.publish.to_owned(),
            self.keys.channel(),
            clock::now().0.to_string(),
            (self.window_millis() * 2 / 1_000 + IDS_SLACK_S).to_string(),
            LOG_MAX.to_string(),
            self.retention.recovery_window.as_millis().to_string(),
            self.retention.history_max.to_string(),
            self.retention.history_ttl.as_millis().to_string(),
            epoch,
            seq.to_string(),
            which.len().to_string(),
            // The ':' says that the retry ids of this frame have contents.
            format!("{}:{}", self.name, self.frames),
        ]
        .map(text)
        .into();
        arguments.extend([
            Value::Bytes(batch.frame(&header, which).into()),
            text("0".to_owned()),
            Value::Bytes(batch.retry_ids(which).into()),
        ]);
        let Rooms { messages, changes } = batch.rooms(which);
        for (room, places) in messages {
            keys.extend([self.keys.room(room), self.keys.states(room)]);
            arguments.extend([room.to_string(), places.len().to_string()].map(text));
            arguments.extend(if places.len() == which.len() {
                [String::new(), String::new()].map(text)
            } else {
                let own: Vec<usize> = places.iter().map(|&place| which[place]).collect();
                let numbers: Vec<String> =
                    places.iter().map(|place| (place + 1).to_string()).collect();
                [text(numbers.join(",")), Value::Bytes(batch.lines(&own).into())]
            });
        }
        arguments.extend(changes.into_iter().flatten().map(text));
        Call { keys, arguments }
    }
}

struct Call {
    keys: Vec<String>,
    arguments: Vec<Value>,
}

/// What a failed call says about the messages in it.
enum Failure {
    /// Redis read the script and stored nothing; repeating it now would not help.
    Refused,
    /// Redis stored nothing, but soon may: it is loading, or no longer the master.
    NotNow,
    /// The log was lost since an earlier attempt, and with it whether that one was stored: storing
    /// it again could show it twice.
    OtherLog,
    /// The script may have run, or may still run.
    Unknown,
}

/// Redis before 7 says first where in the script it was, then shows the error as it is on the wire.
fn script_error(details: &str) -> &str {
    let inner = details.rsplit_once("@user_script: ").and_then(|(_, inner)| inner.split_once(": "));
    inner.map_or(details, |(_line, error)| error).trim_start_matches('-')
}

fn kind(error: &Error) -> Failure {
    let details = script_error(error.details());
    let starts = |words: &[&str]| words.iter().any(|word| details.starts_with(word));
    if starts(&["EPOCH"]) {
        return Failure::OtherLog;
    }
    if starts(&["LOADING", "READONLY", "CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN", "NOREPLICAS"]) {
        return Failure::NotNow;
    }
    if starts(&["OOM", "MISCONF", "NOPERM", "WRONGTYPE", "ERR", "NOAUTH"]) {
        return Failure::Refused;
    }
    match error.kind() {
        ErrorKind::InvalidArgument | ErrorKind::InvalidCommand => Failure::Refused,
        _ => Failure::Unknown,
    }
}

/// The newest position after a batch. A batch that has only retries does not move it back.
fn newest(
    known: Option<Position>,
    outcomes: &[Result<StoredEntry, AppendError>],
) -> Option<Position> {
    let entries = outcomes.iter().flatten();
    let last = entries.map(|entry| &entry.stored.position).max_by_key(|position| position.seq);
    match (known, last) {
        (Some(known), Some(last)) if known.epoch == last.epoch && known.seq > last.seq => {
            Some(known)
        }
        (known, last) => last.cloned().or(known),
    }
}

/// What append.lua answers.
struct Reply {
    epoch: Epoch,
    before: u64,
    known: Vec<Known>,
    /// What went wrong after the messages were stored, or nothing.
    problem: String,
}

/// A message that was stored earlier with an id of the call.
struct Known {
    /// Index among the ids of the call.
    index: usize,
    seq: u64,
    at: Timestamp,
    /// `None`: an older release has stored it.
    content: Option<ContentMark>,
}

impl Reply {
    fn read(reply: &[Value]) -> Option<Self> {
        let [epoch, before, Value::Array(known), problem] = reply else { return None };
        let known = known.chunks_exact(3).map(|known| {
            let [index, mark, content] = known else { return None };
            let index = usize::try_from(scripts::number(index)?).ok()?;
            let (seq, at) = frame::mark(scripts::text(mark)?)?;
            Some(Known { index, seq, at, content: content.as_bytes()?.try_into().ok() })
        });
        Some(Self {
            epoch: Epoch::new(scripts::text(epoch)?),
            before: scripts::number(before)?,
            known: known.collect::<Option<_>>()?,
            problem: scripts::text(problem)?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_script_is_read_as_every_release_writes_it() {
        for written in [
            "OOM command not allowed",
            "-OOM command not allowed",
            "@user_script: 43: -OOM command not allowed",
            "ERR Error running script (call to f_0a): @user_script:43: @user_script: 43: -OOM \
             command not allowed",
        ] {
            assert_eq!(script_error(written), "OOM command not allowed");
        }
        assert_eq!(script_error("EPOCH the log: another"), "EPOCH the log: another");
    }
}
