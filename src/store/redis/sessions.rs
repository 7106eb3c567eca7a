//! Sessions in Redis. Each session is one key. While its node has a lease, the key lives for up to
//! 24 h and is renewed.
//!
//! A save is remembered here before it is sent, so what Redis did not take, or has lost, is written
//! when Redis is there again. The former holder of a claimed session hears it on a channel, and,
//! should that message get lost, from the next beat of its node.

use std::{sync::Arc, time::Duration};

use fred::{
    interfaces::{KeysInterface, PubsubInterface, SetsInterface},
    types::Value,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit, mpsc},
    time::Instant,
};

use crate::store::redis::{
    calls::{Caller, away},
    keys::{Keys, partition_of},
    leased_sessions::{CEILING, LeasedSession, LeasedSessions},
    scripts::{CLAIM, REAP, SAVE, millis, number, text},
};
use crate::{
    domain::{
        name::{NameError, PublicId, UserId},
        record::Body,
    },
    store::{
        NodeEvent,
        error::ReadError,
        layout,
        sessions::{Holder, JoinedLine, SessionRecord, joined_line, parse_joined_line},
    },
};

/// Saves and claims that Redis has at a time: what waits for it also waits for its time-out.
const CALLS_MAX: usize = 256;
/// Calls of one turn before the lease is looked at again.
const CALLS_PER_TURN: usize = 8;
/// Sessions of a node that is gone that one call gives an expiry.
const REAPED_PER_CALL: usize = 500;

/// What stands in Redis.
#[derive(Serialize, Deserialize)]
struct Line {
    user: String,
    rooms: Vec<JoinedLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<String>,
    /// JSON in a text: claim.lua reads the line, and Lua does not read all that is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    me: Option<String>,
}

#[derive(Debug)]
pub struct RedisSessions {
    caller: Caller,
    partitions: Vec<Partition>,
    /// Where claims say which holder has lost its session.
    pub channel: String,
    window: Duration,
    /// Wakes the node's lease keeper, which writes what waits.
    work: Arc<Notify>,
    calls: Semaphore,
    node_events: mpsc::Sender<NodeEvent>,
}

#[derive(Debug)]
struct Partition {
    keys: Keys,
    leased: Mutex<LeasedSessions>,
}

/// A save that was remembered. If it is dropped before Redis has confirmed it, the lease keeper
/// writes it.
#[derive(Debug)]
pub struct Remembered<'a> {
    at: &'a Partition,
    holder: Holder,
}

impl Drop for Remembered<'_> {
    fn drop(&mut self) {
        self.at.leased.lock().retry(self.holder);
    }
}

impl RedisSessions {
    pub fn new(
        caller: Caller,
        keys: &[Keys],
        window: Duration,
        work: Arc<Notify>,
        node_events: mpsc::Sender<NodeEvent>,
    ) -> Self {
        let partition = |keys: &Keys| {
            let leased = Mutex::new(LeasedSessions::new(Instant::now()));
            Partition { keys: keys.clone(), leased }
        };
        Self {
            caller,
            channel: keys[0].claimed_sessions(),
            partitions: keys.iter().map(partition).collect(),
            window,
            work,
            calls: Semaphore::new(CALLS_MAX),
            node_events,
        }
    }

    /// The node registers under this name.
    pub fn begin(&self, partition: usize, incarnation: Arc<str>) {
        self.partitions[partition].leased.lock().begin(incarnation, Instant::now());
    }

    /// Redis may have lost sessions of this node, or the node may have missed claims.
    pub fn write_all(&self, partition: usize) {
        self.partitions[partition].leased.lock().write_all(Instant::now());
    }

    /// What was said on the channel.
    pub fn heard(&self, holder: &str) {
        let Some(holder) = holder_of(holder) else { return };
        if self.partitions.iter().any(|at| at.leased.lock().lose(holder)) {
            self.tell_taken();
        }
    }

    /// A claim that a beat has brought: `"<session> <holder>"`.
    pub fn claimed_elsewhere(&self, partition: usize, entry: &str) {
        if let Some(holder) = entry.rsplit(' ').next().and_then(holder_of) {
            self.partitions[partition].leased.lock().lose(holder);
        }
    }

    /// Waits for nothing, because a node that waits loses its lease: what does not fit into the
    /// channel is told at the next turn.
    pub fn tell_taken(&self) {
        for at in &self.partitions {
            while let Ok(permit) = self.node_events.try_reserve() {
                let Some((session, holder)) = at.leased.lock().next_taken() else { break };
                permit.send(NodeEvent::SessionTaken { session, holder });
            }
        }
    }

    pub fn remember(
        &self,
        session: PublicId,
        holder: Holder,
        record: &SessionRecord,
    ) -> Remembered<'_> {
        let at = self.at(&session);
        at.leased.lock().put(holder, session, line(record).into());
        Remembered { at, holder }
    }

    /// Writes what was remembered. `false`: another holder has it.
    pub async fn save(&self, remembered: Remembered<'_>) -> Result<bool, ReadError> {
        let _call = self.begin_call().await?;
        let Remembered { at, holder } = &remembered;
        // The newest record: of two saves in flight, either writes it.
        let Some(hold) = at.leased.lock().get(*holder).cloned() else { return Ok(false) };
        let is_mine = self.write(at, &[(*holder, hold)]).await?.get(1) == Some(&true);
        if !is_mine {
            at.leased.lock().forget(*holder);
        }
        Ok(is_mine)
    }

    pub async fn claim(
        &self,
        session: PublicId,
        holder: Holder,
        user: UserId,
    ) -> Result<Option<SessionRecord>, ReadError> {
        let call = self.begin_call().await?;
        let at = self.at(&session);
        let incarnation = at.leased.lock().incarnation();
        let keys = vec![
            at.keys.session(&session),
            at.keys.nodes(),
            at.keys.held(&incarnation),
            at.keys.claims(),
        ];
        let arguments = vec![
            session.to_string(),
            user.to_string(),
            hex(holder),
            incarnation.to_string(),
            millis(self.window),
            millis(CEILING),
            self.channel.clone(),
        ];
        let reply = self.caller.run(&CLAIM, keys, arguments).await.inspect_err(|_| {
            // If it was done, no connection holds the session, and so none would release it.
            at.leased.lock().put(holder, session.clone(), "".into());
            self.release(&session, holder);
        })?;
        let Some(line) = reply.first() else {
            drop(call);
            return self.claim_older(session, holder, user).await;
        };
        let line = text(line).ok_or_else(|| corrupt(&"it is no text"))?;
        let record = record(line)?;
        at.leased.lock().claimed(holder, session, line.into());
        Ok(Some(record))
    }

    /// While nodes of an older release run beside this one, their sessions can be claimed here: the
    /// session moves, and the older node hears of it. It cannot be claimed back there: the client
    /// then begins a new session.
    async fn claim_older(
        &self,
        session: PublicId,
        holder: Holder,
        user: UserId,
    ) -> Result<Option<SessionRecord>, ReadError> {
        let (client, key) = (&self.caller.client, self.partitions[0].keys.older_session(&session));
        let Some((former, record)) = self.find(key.clone()).await? else { return Ok(None) };
        if record.user != user || !self.save(self.remember(session, holder, &record)).await? {
            return Ok(None);
        }
        self.caller.ask(client.del::<Value, _>(key)).await?;
        self.caller.ask(client.publish::<Value, _, _>(self.channel.clone(), former)).await?;
        Ok(Some(record))
    }

    pub async fn read(&self, session: &PublicId) -> Result<Option<SessionRecord>, ReadError> {
        let _call = self.begin_call().await?;
        let keys = &self.at(session).keys;
        let found = match self.find(keys.session(session)).await? {
            None => self.find(keys.older_session(session)).await?,
            found => found,
        };
        Ok(found.map(|(_, record)| record))
    }

    /// The holder, and the record.
    async fn find(&self, key: String) -> Result<Option<(String, SessionRecord)>, ReadError> {
        let value: Option<String> = self.caller.ask(self.caller.client.get(key)).await?;
        let Some(value) = value else { return Ok(None) };
        let (head, line) = value.split_once('\n').ok_or_else(|| corrupt(&"it has one line"))?;
        let holder = head.split(' ').next().unwrap_or_default();
        Ok(Some((holder.to_owned(), record(line)?)))
    }

    pub fn release(&self, session: &PublicId, holder: Holder) {
        self.at(session).leased.lock().release(holder, Instant::now());
        self.work.notify_one();
    }

    /// Writes some of what waits. Answers whether more waits; `None`: the lease has ended.
    pub async fn write_some(&self, partition: usize) -> Result<Option<bool>, ReadError> {
        let at = &self.partitions[partition];
        for _ in 0..CALLS_PER_TURN {
            let call = at.leased.lock().next_call(Instant::now());
            if call.is_empty() {
                return Ok(Some(false));
            }
            let done = self.write(at, &call).await?;
            for (_, (holder, _)) in done.iter().skip(1).zip(&call).filter(|(done, _)| !**done) {
                at.leased.lock().lose(*holder);
            }
            if done.first() != Some(&true) {
                return Ok(None);
            }
        }
        Ok(Some(at.leased.lock().has_more()))
    }

    /// Whether the node has a lease, then per session whether it is still its holder's. What is not
    /// confirmed is written again.
    async fn write(
        &self,
        at: &Partition,
        call: &[(Holder, LeasedSession)],
    ) -> Result<Vec<bool>, ReadError> {
        let incarnation = at.leased.lock().incarnation();
        let mut keys = vec![at.keys.nodes(), at.keys.held(&incarnation)];
        let mut arguments = vec![incarnation.to_string(), millis(self.window), millis(CEILING)];
        for (holder, hold) in call {
            keys.push(at.keys.session(&hold.session));
            let left = |since: Instant| self.window.saturating_sub(since.elapsed());
            arguments.extend([
                hold.session.to_string(),
                hex(*holder),
                hold.number.to_string(),
                hold.record.to_string(),
                hold.released.map_or_else(String::new, |since| millis(left(since))),
            ]);
        }
        let reply = self.caller.run(&SAVE, keys, arguments).await;
        let yes = |value: &Value| number(value) == Some(1);
        let reply = reply.map(|reply| reply.iter().map(yes).collect::<Vec<_>>());
        let done = reply.as_deref().unwrap_or_default();
        let mut leased = at.leased.lock();
        for (n, (holder, hold)) in (1..).zip(call) {
            if done.first() == Some(&true) && done.get(n) == Some(&true) {
                leased.written(*holder, hold.number);
            } else {
                leased.retry(*holder);
            }
        }
        reply
    }

    /// Gives some of the sessions of a node that is gone their expiry. `last`: nothing else is left
    /// of the node. Answers whether something is.
    pub async fn reap(
        &self,
        partition: usize,
        incarnation: &str,
        last: bool,
    ) -> Result<bool, ReadError> {
        let (client, keys) = (&self.caller.client, &self.partitions[partition].keys);
        let held = client.srandmember(keys.held(incarnation), Some(REAPED_PER_CALL));
        let held: Vec<String> = self.caller.ask(held).await?;
        let mut names = vec![keys.nodes(), keys.held(incarnation), keys.claims()];
        let mut arguments =
            vec![incarnation.to_owned(), millis(self.window), u8::from(last).to_string()];
        for entry in held {
            let session = entry.split(' ').next().unwrap_or_default();
            let session = PublicId::parse(session).map_err(|why| corrupt(&why))?;
            names.push(keys.session(&session));
            arguments.push(entry);
        }
        let reply = self.caller.run(&REAP, names, arguments).await?;
        Ok(reply.first().and_then(number).is_some_and(|left| left > 0))
    }

    fn at(&self, session: &PublicId) -> &Partition {
        let count = u16::try_from(self.partitions.len()).expect("partitions are counted by an u16");
        &self.partitions[usize::from(partition_of(session.as_str(), count))]
    }

    async fn begin_call(&self) -> Result<SemaphorePermit<'_>, ReadError> {
        if !self.caller.is_up() {
            return Err(away());
        }
        Ok(self.calls.acquire().await.expect("the semaphore is never closed"))
    }
}

fn hex(holder: Holder) -> String {
    format!("{:016x}", holder.bits())
}

fn holder_of(hex: &str) -> Option<Holder> {
    u64::from_str_radix(hex, 16).ok().map(Holder::from_bits)
}

fn line(record: &SessionRecord) -> String {
    let line = Line {
        user: record.user.to_string(),
        rooms: record.rooms.iter().map(joined_line).collect(),
        profile: record.profile.as_deref().map(str::to_owned),
        me: record.me.as_ref().map(|me| me.as_json().to_owned()),
    };
    serde_json::to_string(&line).expect("text and numbers are JSON")
}

fn record(line: &str) -> Result<SessionRecord, ReadError> {
    let bad_name = |why: NameError| corrupt(&why);
    let line: Line = serde_json::from_str(line).map_err(|why| corrupt(&why))?;
    let rooms = line.rooms.iter().map(parse_joined_line).collect::<Result<_, _>>();
    if line.me.as_deref().is_some_and(|me| !layout::is_json(me)) {
        return Err(corrupt(&"what it remembers is not JSON"));
    }
    Ok(SessionRecord {
        user: UserId::parse(&line.user).map_err(bad_name)?,
        rooms: rooms.map_err(bad_name)?,
        profile: line.profile.map(Arc::from),
        me: line.me.as_deref().map(Body::from_json),
    })
}

fn corrupt(why: &dyn std::fmt::Display) -> ReadError {
    ReadError::Corrupt(format!("a session: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_an_older_release_reads_back_as_it_was_written() {
        let older = r#"{"user":"ann","rooms":[["lobby",["e",7]],["red",null]]}"#;
        let read = record(older).unwrap();
        assert_eq!((read.rooms.len(), &read.profile, &read.me), (2, &None, &None));
        assert_eq!(line(&read), older);
    }

    #[test]
    fn a_damaged_memory_is_refused() {
        let line = |me: &str| format!(r#"{{"user":"ann","rooms":[],"me":"{me}"}}"#);
        assert_eq!(record(&line("[1]")).unwrap().me, Some(Body::from_json("[1]")));
        assert!(matches!(record(&line("[1")), Err(ReadError::Corrupt(_))));
    }
}
