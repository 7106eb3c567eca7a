//! The one lease of a node in Redis, which stands for its presence and its sessions.
//!
//! The lease is renewed in each partition. One that has ended never comes back: the node registers
//! under a new name, its incarnation, and everything it has is told again under that. Any node
//! reaps what an ended lease leaves, a bounded piece at a time. Where Redis itself was away, leases
//! have ended that their nodes could not renew: these nodes first have the life of a lease to
//! register again.

use std::{sync::Arc, time::Duration};

use fred::types::Value;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    shutdown::Tasks,
    store::{
        NodeEvent,
        error::ReadError,
        redis::{
            agreement::{Agreeing, Standing},
            calls::{Caller, strange},
            keys::{Keys, fresh_name},
            leased_sessions::CEILING,
            link::Component,
            presence::RedisPresence,
            scripts::{BEAT, millis, number, text},
            sessions::RedisSessions,
            signal::{self, Signals},
        },
    },
};

/// How long after its end a lease is looked for.
const AFTER_END: Duration = Duration::from_millis(50);
const TICK_MAX: Duration = Duration::from_millis(250);
/// Claims that one beat brings.
const CLAIMS_PER_BEAT: usize = 500;
/// Partitions that are tended at a time.
const PARTITIONS_AT_ONCE: usize = 16;

/// How long the lease of a node lives, and how often it is renewed.
#[derive(Debug, Clone, Copy)]
pub struct LeaseSettings {
    pub lease: Duration,
    pub beat: Duration,
}

impl Default for LeaseSettings {
    fn default() -> Self {
        Self { lease: Duration::from_secs(10), beat: Duration::from_secs(3) }
    }
}

/// What a node is started with.
#[derive(Debug)]
pub struct NodeSettings {
    pub lease: LeaseSettings,
    /// How long a released session can be claimed.
    pub window: Duration,
    pub agreeing: Agreeing,
}

/// This node's lease in one partition. No I/O.
#[derive(Debug)]
struct Lease {
    node: Arc<str>,
    /// How often the node has registered: part of its incarnation.
    count: u64,
    is_registered: bool,
    beat_at: Instant,
    /// Since when Redis has answered without a break.
    well_since: Option<Instant>,
}

impl Lease {
    fn new(node: Arc<str>, now: Instant) -> Self {
        Self { node, count: 1, is_registered: false, beat_at: now, well_since: None }
    }

    fn incarnation(&self) -> Arc<str> {
        format!("{}.{}", self.node, self.count).into()
    }

    /// What to say in a beat, if it is time for one.
    fn due(&self, now: Instant) -> Option<&'static str> {
        let what = if self.is_registered { "beat" } else { "hello" };
        (now >= self.beat_at).then_some(what)
    }

    /// Redis has answered. `true`: for the first time since it was away, so that it may have lost
    /// something, and an earlier answer may have been lost.
    fn renewed(&mut self, now: Instant, pause: Duration) -> bool {
        self.is_registered = true;
        self.beat_at = now + pause;
        let is_first = self.well_since.is_none();
        self.well_since.get_or_insert(now);
        is_first
    }

    /// The lease has ended; the next beat begins another one.
    fn ended(&mut self, now: Instant) {
        self.count += 1;
        self.is_registered = false;
        self.away();
        self.beat_at = now;
    }

    /// Redis has not answered, or has lost something: leases may have ended that their nodes could
    /// not renew.
    fn away(&mut self) {
        self.well_since = None;
    }

    /// Nodes whose lease has ended had time to register again.
    fn may_reap(&self, now: Instant, lease: Duration) -> bool {
        self.well_since.is_some_and(|since| now.duration_since(since) >= lease)
    }
}

#[derive(Debug)]
pub struct Node {
    caller: Caller,
    settings: LeaseSettings,
    partitions: Vec<Partition>,
    agreeing: Mutex<Agreeing>,
    pub presence: RedisPresence,
    pub sessions: RedisSessions,
    /// Something waits that cannot wait for the next tick.
    work: Arc<Notify>,
}

#[derive(Debug)]
struct Partition {
    keys: Keys,
    lease: Mutex<Lease>,
}

impl Node {
    pub fn start(
        caller: &Caller,
        settings: NodeSettings,
        keys: &[Keys],
        node_events: mpsc::Sender<NodeEvent>,
        tasks: &Tasks,
    ) -> Arc<Self> {
        let NodeSettings { lease: settings, window, agreeing } = settings;
        let (signals, waiting) = Signals::new();
        let sending = signal::send_all(waiting, caller.clone(), keys.to_vec(), tasks.clone());
        tasks.spawn_vital("redis signals", sending);
        let work = Arc::new(Notify::new());
        let presence = RedisPresence::new(caller.clone(), keys, Arc::clone(&work), signals);
        let held = Arc::clone(&work);
        let sessions = RedisSessions::new(caller.clone(), keys, window, held, node_events);
        let name: Arc<str> = fresh_name().into();
        let lease = || Mutex::new(Lease::new(Arc::clone(&name), Instant::now()));
        let partition = |keys: &Keys| Partition { keys: keys.clone(), lease: lease() };
        let partitions = keys.iter().map(partition).collect();
        let caller = caller.clone();
        let agreeing = Mutex::new(agreeing);
        let node =
            Arc::new(Self { caller, settings, partitions, agreeing, presence, sessions, work });
        (0..node.partitions.len()).for_each(|partition| node.begin(partition));
        tasks.spawn_vital("redis lease", Arc::clone(&node).keep(tasks.clone()));
        node
    }

    /// Claims may have been missed: the next beat brings them.
    pub fn beat_now(&self) {
        for at in &self.partitions {
            at.lease.lock().beat_at = Instant::now();
        }
        self.work.notify_one();
    }

    /// Redis may have lost what it had of this partition.
    pub fn forgotten(&self, partition: usize) {
        self.sessions.write_all(partition);
        self.partitions[partition].lease.lock().away();
        self.beat_now();
    }

    /// Renews the lease, tells what has changed, and reaps, until the node stops. Presence and
    /// sessions stay then until the lease ends, so that a client that comes back on another node
    /// never left.
    async fn keep(self: Arc<Self>, tasks: Tasks) {
        let mut ticks = interval(TICK_MAX.min(self.settings.beat / 4));
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
                (0..self.partitions.len()).for_each(|partition| self.forgotten(partition));
            }
            was_up = is_up;
            let more = self.tend_all().await;
            self.sessions.tell_taken();
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
        let tending: Vec<_> = (0..self.partitions.len()).map(|at| self.tend(at)).collect();
        let mut tended = stream::iter(tending).buffer_unordered(PARTITIONS_AT_ONCE);
        let mut more = false;
        while let Some(outcome) = tended.next().await {
            match outcome {
                Ok(has_more) => more |= has_more,
                Err(error) => tracing::debug!(%error, "Redis was not told what this node has"),
            }
        }
        more
    }

    async fn tend(&self, partition: usize) -> Result<bool, ReadError> {
        let lease = &self.partitions[partition].lease;
        let beaten = self.beat(partition).await;
        let gone = beaten.inspect_err(|_| {
            lease.lock().away();
            if partition == 0 && self.caller.is_up() && self.agreeing.lock().failed() {
                self.caller.status.up(Component::Agreement);
            }
        })?;
        // Neither waits for the other, nor for its trouble.
        let (told, written) =
            tokio::join!(self.presence.tell_some(partition), self.sessions.write_some(partition));
        let (Some(more_presence), Some(more_sessions)) = (told?, written?) else {
            self.lease_ended(partition);
            return Ok(true);
        };
        let mut more = more_presence || more_sessions;
        for incarnation in gone {
            let users_left = self.presence.reap(partition, &incarnation).await?;
            if self.sessions.reap(partition, &incarnation, !users_left).await? || users_left {
                // The next beat finds it again.
                lease.lock().beat_at = Instant::now();
                more = true;
            }
        }
        Ok(more)
    }

    /// Renews the lease if it is time. Answers which incarnations are to be reaped.
    async fn beat(&self, partition: usize) -> Result<Vec<String>, ReadError> {
        let Partition { keys, lease } = &self.partitions[partition];
        loop {
            let (due, incarnation) = {
                let lease = lease.lock();
                (lease.due(Instant::now()), lease.incarnation())
            };
            let Some(what) = due else { return Ok(Vec::new()) };
            let mut names = vec![keys.nodes(), keys.held(&incarnation), keys.claims()];
            let mut arguments = vec![
                incarnation.to_string(),
                what.to_owned(),
                millis(self.settings.lease),
                millis(CEILING),
                CLAIMS_PER_BEAT.to_string(),
            ];
            if partition == 0 {
                names.push(keys.agreed());
                arguments.extend(self.agreeing.lock().arguments());
            }
            let reply = self.caller.run(&BEAT, names, arguments).await?;
            let [mine, next, Value::Array(gone), Value::Array(claimed), agreed @ ..] =
                reply.as_slice()
            else {
                return Err(strange("beat.lua"));
            };
            if number(mine) != Some(1) {
                self.lease_ended(partition);
                continue;
            }
            for entry in claimed.iter().filter_map(text) {
                self.sessions.claimed_elsewhere(partition, entry);
            }
            let next = number(next).map_or(self.settings.beat, Duration::from_millis) + AFTER_END;
            let asks_again = match agreed {
                [Value::Array(agreed)] => self.agree(&incarnation, agreed)?,
                _ => false,
            };
            let is_due = asks_again || claimed.len() == CLAIMS_PER_BEAT;
            let pause = if is_due { Duration::ZERO } else { next };
            let now = Instant::now();
            let is_first = lease.lock().renewed(now, pause.min(self.settings.beat));
            if is_first {
                self.sessions.write_all(partition);
            }
            let may_reap = lease.lock().may_reap(now, self.settings.lease);
            let gone = gone.iter().filter_map(text).filter(|_| may_reap).map(str::to_owned);
            return Ok(gone.collect());
        }
    }

    /// Whether to ask again at once.
    fn agree(&self, incarnation: &str, agreed: &[Value]) -> Result<bool, ReadError> {
        let status = &self.caller.status;
        let verdict = self.agreeing.lock().judge(incarnation, agreed);
        match verdict.ok_or_else(|| strange("beat.lua"))? {
            Standing::Serves => status.up(Component::Agreement),
            Standing::AskAgain => return Ok(true),
            Standing::GivesWay(why) => {
                status.down(Component::Agreement, why);
            }
        }
        Ok(false)
    }

    fn lease_ended(&self, partition: usize) {
        tracing::debug!("this node's lease has ended; registering again");
        self.partitions[partition].lease.lock().ended(Instant::now());
        self.begin(partition);
    }

    fn begin(&self, partition: usize) {
        let incarnation = self.partitions[partition].lease.lock().incarnation();
        self.presence.begin(partition, Arc::clone(&incarnation));
        self.sessions.begin(partition, incarnation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);
    const BEAT: Duration = Duration::from_secs(3);

    #[test]
    fn a_lease_that_has_ended_is_followed_by_one_of_another_name() {
        let now = Instant::now();
        let mut lease = Lease::new("node".into(), now);
        assert_eq!((lease.due(now), &*lease.incarnation()), (Some("hello"), "node.1"));
        assert!(lease.renewed(now, BEAT), "the first answer");
        assert_eq!((lease.due(now), lease.due(now + BEAT)), (None, Some("beat")));
        assert!(!lease.renewed(now + BEAT, BEAT));
        lease.ended(now + BEAT);
        assert_eq!((lease.due(now + BEAT), &*lease.incarnation()), (Some("hello"), "node.2"));
    }

    #[test]
    fn after_an_outage_other_nodes_have_the_life_of_a_lease_to_register_again() {
        let now = Instant::now();
        let mut lease = Lease::new("node".into(), now);
        lease.renewed(now, BEAT);
        assert!(!lease.may_reap(now, LEASE) && lease.may_reap(now + LEASE, LEASE));
        lease.away();
        assert!(lease.renewed(now + LEASE, BEAT), "Redis may have lost something");
        assert!(!lease.may_reap(now + LEASE, LEASE));
        assert!(lease.may_reap(now + LEASE * 2, LEASE));
    }
}
