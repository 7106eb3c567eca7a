//! Who is in which room, in Redis: told when it changes, with a lease that stands for the node.
//!
//! Rosters are changed by one script, which also tells every node. The lease of a node that died
//! ends, and any other node takes away what it left behind, a bounded piece at a time. Where Redis
//! itself was away, leases have ended that their nodes could not keep: these have the life of a
//! lease to come back before anything of theirs is taken away.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fred::{
    clients::Client,
    interfaces::{ClientLike, HashesInterface},
    types::Value,
};
use futures_util::{StreamExt, stream};
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::store::redis::{
    calls::Caller,
    fresh_name,
    keys::Keys,
    link::Status,
    local_presence::{Call, LocalPresence, Look, Pair, PresenceChange},
    scripts::{BEAT, EXIST, MEMBERS, PRESENCE, ROOMS, number, text},
    signal::{self, Signals},
};
use crate::{
    domain::{name::UserId, room::RoomName, user::User},
    shutdown::Tasks,
    store::{
        ReadError,
        log::RoomSummary,
        presence::{Members, Signal},
    },
};

/// Life of a node's lease, and how often it is renewed.
const LEASE: Duration = Duration::from_secs(10);
const BEAT_EVERY: Duration = Duration::from_secs(3);
/// How long after its end a lease is looked for.
const AFTER_END: Duration = Duration::from_millis(50);
const TICK: Duration = Duration::from_millis(250);
/// Calls for one partition before the leases are looked at again.
const CALLS_PER_TURN: usize = 8;
/// Attendances that one call takes away.
const REAPED_PER_CALL: i64 = 256;
/// Partitions that are tended at a time.
const PARTITIONS_AT_ONCE: usize = 16;
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
    /// Something waits that cannot wait for the next tick.
    work: Notify,
}

#[derive(Debug)]
struct Partition {
    keys: Keys,
    local_presence: Mutex<LocalPresence>,
}

impl RedisPresence {
    pub fn start(client: Client, status: Status, keys: Vec<Keys>, tasks: &Tasks) -> Arc<Self> {
        let (signals, waiting) = Signals::new();
        let sending =
            signal::send_all(waiting, client.clone(), status.clone(), keys.clone(), tasks.clone());
        tasks.spawn_vital("redis signals", sending);
        let partition = |keys| {
            let local_presence = Mutex::new(LocalPresence::new(Instant::now()));
            Partition { keys, local_presence }
        };
        let people = Arc::new(Self {
            publish: if client.is_clustered() { "SPUBLISH" } else { "PUBLISH" },
            caller: Caller { client, status },
            partitions: keys.into_iter().map(partition).collect(),
            signals,
            work: Notify::new(),
        });
        tasks.spawn_vital("redis people", Arc::clone(&people).keep(tasks.clone()));
        people
    }

    pub fn signal(&self, partition: u16, signal: Signal) {
        self.signals.send(partition, signal);
    }

    pub fn add_presence(&self, partition: u16, room: RoomName, user: &User) {
        let line = signal::user_line(user).into();
        let Some(at) = self.partitions.get(usize::from(partition)) else { return };
        if at.local_presence().add_presence((room, user.id.clone()), line) {
            self.work.notify_one();
        }
    }

    pub fn remove_presence(&self, partition: u16, room: RoomName, user: UserId) {
        let Some(at) = self.partitions.get(usize::from(partition)) else { return };
        if at.local_presence().remove_presence((room, user)) {
            self.work.notify_one();
        }
    }

    /// Redis may have lost its rosters, or this node's lease.
    pub fn missed(&self) {
        for at in &self.partitions {
            at.local_presence().look_now(Instant::now());
        }
        self.work.notify_one();
    }

    /// Keeps the leases, tells what has changed, and reaps, until the node stops. What is attended
    /// then stays until the lease ends, so that whoever comes back on another node never left.
    async fn keep(self: Arc<Self>, tasks: Tasks) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_up = true;
        loop {
            let stopping = tokio::select! {
                _ = ticks.tick() => false,
                () = self.work.notified() => false,
                () = tasks.stopping() => true,
            };
            let is_up = self.caller.is_up();
            if is_up && !was_up {
                self.missed();
            }
            was_up = is_up;
            let more = self.tend_all().await;
            if stopping {
                if !more {
                    return;
                }
            } else if more {
                self.work.notify_one();
            }
        }
    }

    /// Whether there is more to do at once.
    async fn tend_all(&self) -> bool {
        let tending: Vec<_> = self.partitions.iter().map(|at| self.tend(at)).collect();
        let mut tended = stream::iter(tending).buffer_unordered(PARTITIONS_AT_ONCE);
        let mut more = false;
        while let Some(outcome) = tended.next().await {
            match outcome {
                Ok(has_more) => more |= has_more,
                Err(error) => tracing::debug!(%error, "Redis was not told who is where"),
            }
        }
        more
    }

    async fn tend(&self, at: &Partition) -> Result<bool, ReadError> {
        let ended = self.look(at).await.inspect_err(|_| at.local_presence().unwell())?;
        for _ in 0..CALLS_PER_TURN {
            let Some(call) = at.local_presence().next_call() else { break };
            match self.tell(at, &call).await {
                Ok(true) => at.local_presence().done(call),
                Ok(false) => {
                    at.local_presence().lost();
                    return Ok(true);
                }
                Err(error) => {
                    at.local_presence().failed(call);
                    return Err(error);
                }
            }
        }
        let mut more = at.local_presence().has_more();
        for incarnation in ended {
            more |= self.reap(at, &incarnation).await?;
        }
        Ok(more)
    }

    /// Keeps the lease where its time has come. Answers whose leases have ended for good.
    async fn look(&self, at: &Partition) -> Result<Vec<String>, ReadError> {
        loop {
            let Some(look) = at.local_presence().look(Instant::now()) else {
                return Ok(Vec::new());
            };
            let (incarnation, what): (Arc<str>, _) = match look {
                Look::Hello => (fresh_name().into(), "hello"),
                Look::Beat(incarnation) => (incarnation.unwrap_or_default(), "beat"),
            };
            let arguments = vec![incarnation.to_string(), what.to_owned(), millis(LEASE)];
            let reply = self.caller.run(&BEAT, vec![at.keys.nodes()], arguments).await?;
            let [mine, next, Value::Array(ended)] = reply.as_slice() else {
                return Err(strange("beat.lua"));
            };
            let mut local_presence = at.local_presence();
            let now = Instant::now();
            if number(mine) == Some(1) && what == "hello" {
                local_presence.begin(incarnation);
            } else if number(mine) != Some(1) && !incarnation.is_empty() {
                tracing::debug!("this node's lease has ended; telling again who is where");
                local_presence.lost();
                continue;
            }
            let next = number(next).map_or(BEAT_EVERY, |ms| Duration::from_millis(ms) + AFTER_END);
            local_presence.looked(now, next.min(BEAT_EVERY));
            if !local_presence.may_reap(now, LEASE) {
                return Ok(Vec::new());
            }
            return Ok(ended.iter().filter_map(text).map(str::to_owned).collect());
        }
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

    /// Takes away some of what a node left behind. Answers whether something is left.
    async fn reap(&self, at: &Partition, incarnation: &str) -> Result<bool, ReadError> {
        let left: Vec<String> = self
            .caller
            .ask(
                self.caller
                    .client
                    .hrandfield(at.keys.at(incarnation), Some((REAPED_PER_CALL, false))),
            )
            .await?;
        let pair = |field: &String| -> Option<Pair> {
            let (room, user) = field.split_once('\n')?;
            Some((RoomName::parse(room).ok()?, UserId::parse(user).ok()?))
        };
        let mut pairs: Vec<Pair> = left.iter().filter_map(pair).collect();
        pairs.sort();
        let changes = pairs.iter().map(|pair| (pair, "-", ""));
        let rest = self.change(at, incarnation, "", changes).await?;
        tracing::debug!(count = pairs.len(), "people have left with a node that is gone");
        let more = rest.is_some_and(|rest| rest > 0);
        if more {
            // It is found again at once.
            at.local_presence().look_now(Instant::now());
        }
        Ok(more)
    }

    /// One call of add_presence.lua; the changes are in the order of rooms. Answers how many attendances
    /// the node has then, or nothing: its lease is not as it has to be.
    async fn change<'a>(
        &self,
        at: &Partition,
        incarnation: &str,
        number_of_call: &str,
        changes: impl Iterator<Item = (&'a Pair, &'a str, &'a str)>,
    ) -> Result<Option<u64>, ReadError> {
        let mut keys = vec![at.keys.nodes(), at.keys.at(incarnation), at.keys.occupied()];
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
            _ => Err(strange("add_presence.lua")),
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
                self.caller.run(&ROOMS, vec![keys.rooms(), keys.occupied()], arguments).await?;
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

impl Partition {
    fn local_presence(&self) -> MutexGuard<'_, LocalPresence> {
        self.local_presence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those with most people first, then those spoken in last.
fn sort(rooms: &mut [RoomSummary]) {
    rooms.sort_by(|one, other| {
        (other.count, other.seq, &one.room).cmp(&(one.count, one.seq, &other.room))
    });
}

fn small(value: &Value) -> u32 {
    number(value).and_then(|count| u32::try_from(count).ok()).unwrap_or_default()
}

fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}

fn strange(script: &str) -> ReadError {
    ReadError::Corrupt(format!("{script} answered in an unknown shape"))
}
