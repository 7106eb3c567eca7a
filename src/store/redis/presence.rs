//! The users in rooms, in Redis: told when it changes, under the lease of the node.
//!
//! Rosters are changed by one script, which also tells every node.

use std::sync::Arc;

use fred::{
    interfaces::{ClientLike, HashesInterface},
    types::Value,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::store::redis::{
    calls::{Caller, strange},
    keys::Keys,
    local_presence::{Call, LocalPresence, Pair, PresenceChange},
    scripts::{EXIST, MEMBERS, PRESENCE, ROOMS, number, text},
    signal::{self, Signals},
};
use crate::{
    domain::{name::UserId, room::RoomName, user::User},
    store::{
        error::ReadError,
        log::RoomSummary,
        presence::{Members, Signal},
    },
};

/// Calls of one turn before the lease is looked at again.
const CALLS_PER_TURN: usize = 8;
/// Users in rooms that one call removes.
const REAPED_PER_CALL: i64 = 256;
/// Fields of append.lua's `rooms` that one step looks at, three or four per room, and steps.
const SCANNED_PER_STEP: usize = 1_000;
const STEPS_MAX: usize = 16;

#[derive(Debug)]
pub struct RedisPresence {
    caller: Caller,
    /// `PUBLISH`, or `SPUBLISH` in a cluster.
    publish: &'static str,
    partitions: Vec<Partition>,
    signals: Signals,
    /// Wakes the node's lease keeper, which tells what waits.
    work: Arc<Notify>,
}

#[derive(Debug)]
struct Partition {
    keys: Keys,
    local: Mutex<LocalPresence>,
}

impl RedisPresence {
    pub fn new(caller: Caller, keys: &[Keys], work: Arc<Notify>, signals: Signals) -> Self {
        let publish = if caller.client.is_clustered() { "SPUBLISH" } else { "PUBLISH" };
        let partition = |keys: &Keys| Partition { keys: keys.clone(), local: Mutex::default() };
        Self { caller, publish, partitions: keys.iter().map(partition).collect(), signals, work }
    }

    pub fn signal(&self, partition: u16, signal: Signal) {
        self.signals.send(partition, signal);
    }

    pub fn add(&self, partition: u16, room: RoomName, user: &User) {
        let line = signal::user_line(user).into();
        let Some(at) = self.partitions.get(usize::from(partition)) else { return };
        if at.local.lock().add((room, user.id.clone()), line) {
            self.work.notify_one();
        }
    }

    pub fn remove(&self, partition: u16, room: RoomName, user: UserId) {
        let Some(at) = self.partitions.get(usize::from(partition)) else { return };
        if at.local.lock().remove((room, user)) {
            self.work.notify_one();
        }
    }

    /// The node registers under this name.
    pub fn begin(&self, partition: usize, incarnation: Arc<str>) {
        self.partitions[partition].local.lock().begin(incarnation);
    }

    /// Tells some of what waits. Answers whether more waits; `None`: the lease has ended.
    pub async fn tell_some(&self, partition: usize) -> Result<Option<bool>, ReadError> {
        let at = &self.partitions[partition];
        for _ in 0..CALLS_PER_TURN {
            let Some(call) = at.local.lock().next_call() else { break };
            match self.tell(at, &call).await {
                Ok(true) => at.local.lock().done(call),
                Ok(false) => return Ok(None),
                Err(error) => {
                    at.local.lock().failed(call);
                    return Err(error);
                }
            }
        }
        Ok(Some(at.local.lock().has_more()))
    }

    /// `false`: the lease has ended.
    async fn tell(&self, at: &Partition, call: &Call) -> Result<bool, ReadError> {
        let changes = call.changes.iter().map(|PresenceChange { pair, line, fresh }| {
            let what = match line {
                Some(_) if *fresh => "+",
                Some(_) => "=",
                None => "-",
            };
            (pair, what, line.as_deref().unwrap_or_default())
        });
        let reply = self.change(at, &call.incarnation, &call.number.to_string(), changes).await?;
        Ok(reply.is_some())
    }

    /// Removes some of the users of a node that is gone. Answers whether some are left.
    pub async fn reap(&self, partition: usize, incarnation: &str) -> Result<bool, ReadError> {
        let at = &self.partitions[partition];
        let left = Some((REAPED_PER_CALL, false));
        let left = self.caller.client.hrandfield(at.keys.at(incarnation), left);
        let left: Vec<String> = self.caller.ask(left).await?;
        let pair = |field: &String| -> Option<Pair> {
            let (room, user) = field.split_once('\n')?;
            Some((RoomName::parse(room).ok()?, UserId::parse(user).ok()?))
        };
        let mut pairs: Vec<Pair> = left.iter().filter_map(pair).collect();
        pairs.sort();
        let changes = pairs.iter().map(|pair| (pair, "-", ""));
        let rest = self.change(at, incarnation, "", changes).await?;
        tracing::debug!(count = pairs.len(), "users have left with a node that is gone");
        Ok(rest.is_some_and(|rest| rest > 0))
    }

    /// One call of presence.lua; the changes are in the order of rooms. Answers how many users in
    /// rooms the node has then, or nothing: its lease is not as it has to be.
    async fn change<'a>(
        &self,
        at: &Partition,
        incarnation: &str,
        number_of_call: &str,
        changes: impl Iterator<Item = (&'a Pair, &'a str, &'a str)>,
    ) -> Result<Option<u64>, ReadError> {
        let mut keys = vec![at.keys.nodes(), at.keys.at(incarnation), at.keys.peopled()];
        let mut arguments = vec![
            incarnation.to_owned(),
            number_of_call.to_owned(),
            self.publish.to_owned(),
            at.keys.signals(),
        ];
        // Where the number of entries of the room stands, and the room.
        let mut room: Option<(usize, &RoomName)> = None;
        let mut count = 0;
        for ((name, user), what, line) in changes {
            if room.is_none_or(|(_, last)| last != name) {
                keys.push(at.keys.roster(name));
                arguments.extend([name.to_string(), String::new()]);
                room = Some((arguments.len() - 1, name));
                count = 0;
            }
            arguments.extend([what.to_owned(), user.to_string(), line.to_owned()]);
            count += 1;
            if let Some(place) = room.and_then(|(place, _)| arguments.get_mut(place)) {
                *place = count.to_string();
            }
        }
        let reply = self.caller.run(&PRESENCE, keys, arguments).await?;
        match reply.as_slice() {
            [Value::Integer(1), rest] => Ok(number(rest)),
            [Value::Integer(0)] => Ok(None),
            _ => Err(strange("presence.lua")),
        }
    }

    pub async fn members(
        &self,
        partition: u16,
        room: &RoomName,
        users_max: u32,
    ) -> Result<Members, ReadError> {
        let keys = &self.partitions[usize::from(partition)].keys;
        let arguments = vec![users_max.to_string()];
        let reply = self.caller.run(&MEMBERS, vec![keys.roster(room)], arguments).await?;
        let [version, count, Value::Array(lines)] = reply.as_slice() else {
            return Err(strange("members.lua"));
        };
        let mut users = Vec::with_capacity(lines.len());
        for line in lines {
            let line = text(line).and_then(|line| line.split_once(' '));
            let (_nodes, line) = line.ok_or_else(|| strange("members.lua"))?;
            users.push(signal::user(line)?);
        }
        users.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(Members {
            version: number(version).ok_or_else(|| strange("members.lua"))?,
            count: small(count),
            users,
        })
    }

    pub async fn rooms(&self, limit: u32) -> Result<Vec<RoomSummary>, ReadError> {
        let reading = self.partitions.iter().map(|at| self.rooms_of(&at.keys, limit as usize));
        let rooms = futures_util::future::try_join_all(reading).await?;
        let mut rooms: Vec<RoomSummary> = rooms.into_iter().flatten().collect();
        sort(&mut rooms);
        rooms.truncate(limit as usize);
        Ok(rooms)
    }

    async fn rooms_of(&self, keys: &Keys, limit: usize) -> Result<Vec<RoomSummary>, ReadError> {
        let summary = |room: &Value, count: u32, seq: &Value| {
            let room = RoomName::parse(text(room)?).ok()?;
            Some(RoomSummary { room, count, seq: number(seq).unwrap_or_default() })
        };
        let (mut rooms, mut silent) = (Vec::new(), Vec::new());
        let mut cursor = "0".to_owned();
        for _ in 0..STEPS_MAX {
            let arguments = vec![cursor, SCANNED_PER_STEP.to_string(), limit.to_string()];
            let reply =
                self.caller.run(&ROOMS, vec![keys.rooms(), keys.peopled()], arguments).await?;
            let [next, Value::Array(said), Value::Array(occupied)] = reply.as_slice() else {
                return Err(strange("rooms.lua"));
            };
            for three in occupied.chunks_exact(3) {
                rooms.extend(summary(&three[0], small(&three[1]), &three[2]));
            }
            for two in said.chunks_exact(2) {
                silent.extend(summary(&two[0], 0, &two[1]));
            }
            cursor = text(next).unwrap_or("0").to_owned();
            if cursor == "0" || rooms.len() >= limit {
                break;
            }
        }
        let known: std::collections::HashSet<RoomName> =
            rooms.iter().map(|summary| summary.room.clone()).collect();
        silent.retain(|summary: &RoomSummary| !known.contains(&summary.room));
        sort(&mut silent);
        // A scan may find a room twice.
        silent.dedup_by(|one, other| one.room == other.room);
        // The messages of a room may be gone while its last seq is still known.
        for some in silent.chunks(limit.max(1)) {
            if rooms.len() >= limit {
                break;
            }
            let lists = some.iter().map(|summary| keys.room(&summary.room)).collect();
            let exist = self.caller.run(&EXIST, lists, Vec::new()).await?;
            let exist = some.iter().zip(exist).filter(|(_, exists)| number(exists) == Some(1));
            rooms.extend(exist.map(|(summary, _)| summary.clone()));
        }
        Ok(rooms)
    }
}

/// Those with most users first, then those with the newest messages.
fn sort(rooms: &mut [RoomSummary]) {
    rooms.sort_by(|one, other| {
        (other.count, other.seq, &one.room).cmp(&(one.count, one.seq, &other.room))
    });
}

fn small(value: &Value) -> u32 {
    number(value).and_then(|count| u32::try_from(count).ok()).unwrap_or_default()
}
