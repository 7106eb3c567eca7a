//! RedisSessions in Redis: one key each, with a lease that the node of its holder renews.
//!
//! A save is remembered here before it is sent, so what Redis did not take, or has lost, is
//! written when it is there again. Who lost a session hears it on a channel, and, should that
//! message get lost, when his node next renews the lease.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fred::{
    clients::Client,
    types::{Value, scripts::Script},
};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    time::{Instant, MissedTickBehavior, interval},
};

use crate::store::redis::{
    calls::{Caller, away},
    keys::Keys,
    leased_sessions::{LeasedSession, LeasedSessions},
    link::Status,
    scripts::{CLAIM, SAVE, SESSION, number, text},
};
use crate::{
    domain::name::{NameError, PublicId, UserId},
    shutdown::Tasks,
    store::{
        NodeEvent, ReadError,
        sessions::{Holder, JoinedLine, SessionRecord, joined_line, parse_joined_line},
    },
};

/// Saves and claims that Redis has at a time: what waits for it also waits for its time-out.
const CALLS_MAX: usize = 256;
/// The same for renewals, fewer, because messages travel on the same connection.
const RENEWALS_MAX: usize = 64;
/// Most and least time between two looks at what is to be done.
const TICK_MAX: Duration = Duration::from_secs(1);
const TICK_MIN: Duration = Duration::from_millis(20);
/// When a session that was just claimed is renewed for the first time.
const SOON: Duration = Duration::from_secs(1);

/// What stands in Redis.
#[derive(Serialize, Deserialize)]
struct Line {
    user: String,
    rooms: Vec<JoinedLine>,
}

#[derive(Debug)]
pub struct RedisSessions {
    caller: Caller,
    prefix: String,
    channel: String,
    window: Duration,
    leased: Mutex<LeasedSessions>,
    /// Something waits that cannot wait for the next tick.
    work: Notify,
    calls: Semaphore,
}

impl RedisSessions {
    pub fn new(client: Client, status: Status, prefix: &str, window: Duration) -> Arc<Self> {
        Arc::new(Self {
            caller: Caller { client, status },
            prefix: prefix.to_owned(),
            channel: Keys::new(prefix, 0).lost_sessions(),
            window,
            leased: Mutex::new(LeasedSessions::new(window / 4)),
            work: Notify::new(),
            calls: Semaphore::new(CALLS_MAX),
        })
    }

    /// Where claims say who has lost his session.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// What was said on the channel.
    pub fn heard(&self, holder: &str) {
        if let Some(holder) = holder_of(holder) {
            self.lost(holder);
        }
    }

    /// The channel was not heard for a while.
    pub fn missed(&self) {
        self.leased().all_due(Instant::now());
        self.work.notify_one();
    }

    pub fn remember(&self, session: PublicId, holder: Holder, record: &SessionRecord) {
        self.leased().put(holder, session, line(record).into(), Instant::now());
    }

    /// Writes what was remembered.
    pub async fn save(&self, holder: Holder) -> Result<bool, ReadError> {
        let saved = self.save_now(holder).await;
        match saved {
            Ok(true) => {}
            // The answer tells the caller; nobody need tell him again.
            Ok(false) => self.leased().forget(holder),
            Err(_) => self.leased().due_again(holder, Instant::now()),
        }
        saved
    }

    async fn save_now(&self, holder: Holder) -> Result<bool, ReadError> {
        let _call = self.turn().await?;
        // The newest record: with two saves under way, either writes it.
        let Some(hold) = self.leased().get(holder).cloned() else { return Ok(false) };
        self.write(holder, &hold, self.lease()).await
    }

    pub async fn claim(
        &self,
        session: PublicId,
        holder: Holder,
        user: UserId,
    ) -> Result<Option<SessionRecord>, ReadError> {
        let _call = self.turn().await?;
        let user = user.to_string();
        let arguments = vec![hex(holder), millis(self.lease()), self.channel.clone(), user];
        let reply = self.run(&CLAIM, &session, arguments).await?;
        let Some(line) = first_line(&reply)? else { return Ok(None) };
        let record = record(line)?;
        self.leased().claimed(holder, session, line.into(), Instant::now(), SOON);
        Ok(Some(record))
    }

    pub async fn read(&self, session: &PublicId) -> Result<Option<SessionRecord>, ReadError> {
        let _call = self.turn().await?;
        let reply = self.run(&SESSION, session, Vec::new()).await?;
        first_line(&reply)?.map(record).transpose()
    }

    pub fn release(&self, holder: Holder) {
        self.leased().release(holder, Instant::now());
        self.work.notify_one();
    }

    /// Renews leases and tells of losses until the node stops.
    pub async fn keep(self: Arc<Self>, out: mpsc::Sender<NodeEvent>, tasks: Tasks) {
        let mut ticks = interval((self.window / 16).clamp(TICK_MIN, TICK_MAX));
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
                // It may have forgotten all of them.
                self.leased().all_due(Instant::now());
            }
            was_up = is_up;
            if is_up {
                self.bring_released().await;
            }
            if stopping {
                return;
            }
            if is_up {
                self.renew().await;
            }
            let taken = self.leased().take_taken();
            for (session, holder) in taken {
                // Without a receiver no connection is left to be told.
                if out.send(NodeEvent::SessionTaken { session, holder }).await.is_err() {
                    return;
                }
            }
        }
    }

    async fn renew(&self) {
        let due = self.leased().due(Instant::now());
        futures_util::stream::iter(due)
            .for_each_concurrent(RENEWALS_MAX, async |holder| {
                let Some(hold) = self.leased().get(holder).cloned() else { return };
                match self.write(holder, &hold, self.lease()).await {
                    Ok(true) => {}
                    Ok(false) => self.lost(holder),
                    Err(_) => self.leased().due_again(holder, Instant::now()),
                }
            })
            .await;
    }

    /// A released session has what is left of its window; its last record is written with it.
    async fn bring_released(&self) {
        let released = self.leased().take_released();
        futures_util::stream::iter(released)
            .for_each_concurrent(RENEWALS_MAX, async |(holder, hold, since)| {
                let left = self.window.saturating_sub(since.elapsed());
                if !left.is_zero() && self.write(holder, &hold, left).await.is_err() {
                    self.leased().release_again(holder, hold, since);
                }
            })
            .await;
    }

    async fn write(
        &self,
        holder: Holder,
        hold: &LeasedSession,
        life: Duration,
    ) -> Result<bool, ReadError> {
        let arguments =
            vec![hex(holder), hold.number.to_string(), hold.record.to_string(), millis(life)];
        let reply = self.run(&SAVE, &hold.session, arguments).await?;
        Ok(reply.first().and_then(number) == Some(1))
    }

    async fn run(
        &self,
        script: &Script,
        session: &PublicId,
        arguments: Vec<String>,
    ) -> Result<Vec<Value>, ReadError> {
        let key = format!("{}:session:{session}", self.prefix);
        self.caller.run(script, vec![key], arguments).await
    }

    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, ReadError> {
        if !self.caller.is_up() {
            return Err(away());
        }
        Ok(self.calls.acquire().await.expect("the semaphore is never closed"))
    }

    fn lost(&self, holder: Holder) {
        self.leased().lose(holder);
        self.work.notify_one();
    }

    /// Renewed every quarter of the window, it always has more than a window left.
    fn lease(&self) -> Duration {
        self.window + self.window / 2
    }

    fn leased(&self) -> MutexGuard<'_, LeasedSessions> {
        self.leased.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hex(holder: Holder) -> String {
    format!("{:016x}", holder.bits())
}

fn holder_of(hex: &str) -> Option<Holder> {
    u64::from_str_radix(hex, 16).ok().map(Holder::from_bits)
}

fn millis(time: Duration) -> String {
    time.as_millis().max(1).to_string()
}

fn line(record: &SessionRecord) -> String {
    let line = Line {
        user: record.user.to_string(),
        rooms: record.rooms.iter().map(joined_line).collect(),
    };
    serde_json::to_string(&line).expect("text and numbers are JSON")
}

fn first_line(reply: &[Value]) -> Result<Option<&str>, ReadError> {
    let corrupt = || ReadError::Corrupt("a session is no text".to_owned());
    reply.first().map(|line| text(line).ok_or_else(corrupt)).transpose()
}

fn record(line: &str) -> Result<SessionRecord, ReadError> {
    let corrupt = |why: &dyn std::fmt::Display| ReadError::Corrupt(format!("a session: {why}"));
    let bad_name = |why: NameError| corrupt(&why);
    let line: Line = serde_json::from_str(line).map_err(|why| corrupt(&why))?;
    let rooms = line.rooms.iter().map(parse_joined_line).collect::<Result<_, _>>();
    Ok(SessionRecord {
        user: UserId::parse(&line.user).map_err(bad_name)?,
        rooms: rooms.map_err(bad_name)?,
    })
}
