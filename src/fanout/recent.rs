//! What this node delivered lately, and the moment between two deliveries.
//!
//! A client that comes back is told what it missed from here, and goes live at the seam: while
//! the seam is held nothing is delivered, so what was delivered before belongs to the replay, and
//! what comes after reaches the client by itself. Nothing is lost or shown twice there.
//!
//! A tail is the newest part of a partition's log without a hole. It grows at its end by what the
//! relay delivers, and at its front, when somebody was away for longer, by what the log still has:
//! one read for all who ask.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Mutex as Seam, MutexGuard as AtSeam, Notify},
    time::{Instant, sleep},
};

use super::{
    dialect::{Dialect, Event},
    lanes::Lanes,
};
use crate::{
    bus::{Bus, Delivery, ReadError, session},
    domain::message::{Message, Position},
};

/// Bytes kept of a partition, what they are kept in and the frames made of them included.
const TAIL_BYTES_MAX: usize = 4 << 20;
/// The same while clients come back that were away for longer.
const RECOVERY_BYTES_MAX: usize = 64 << 20;
/// How long after the last such client.
const RECOVERY_BYTES_FOR: Duration = Duration::from_secs(30);
/// What one message takes beside its body, about.
const ENTRY_BYTES: usize = 320;
/// How long a client that comes back waits for a node that has just started, and how often the
/// node looks.
const BEGIN_WAIT_MAX: Duration = Duration::from_secs(2);
const BEGIN_LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often one read may fail, and the pause before the next.
const READ_TRIES: u32 = 10;
const READ_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Messages in one read of the log.
const READ_MAX: u32 = 2_000;

/// Something at `position.seq` that clients of its room are told.
#[derive(Debug)]
pub struct Entry {
    message: Message,
    frames: [OnceLock<Bytes>; Dialect::ALL.len()],
}

impl Entry {
    fn new(message: Message) -> Self {
        Self { message, frames: Default::default() }
    }

    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The event as a websocket frame, made once for all who missed it; nothing where the dialect
    /// has none.
    pub fn frame(&self, dialect: Dialect, lanes: &Lanes) -> &Bytes {
        let made = || Event::stored(&self.message, dialect).map(|event| lanes.frame(&event));
        self.frames[dialect as usize].get_or_init(|| made().unwrap_or_default())
    }

    /// The body is there twice once somebody has missed it.
    fn bytes(&self) -> usize {
        ENTRY_BYTES + 2 * self.message.body.as_json().len()
    }
}

/// The newest part of one partition's log, without a hole.
#[derive(Debug, Default)]
struct Tail {
    /// What was delivered last; `None` until the bus has begun.
    end: Option<Position>,
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    roomy_until: Option<Instant>,
}

/// What a client missed, or why that cannot be told from here.
#[derive(Debug)]
pub enum Missed {
    /// Everything from there to `end`.
    Entries { entries: Vec<Arc<Entry>>, end: Position },
    /// The tail begins later.
    Behind,
    /// This node has not delivered that much yet.
    Ahead,
    /// The log is another one now.
    OtherEpoch,
}

/// Why a tail cannot reach back.
#[derive(Debug, thiserror::Error)]
pub enum TooOld {
    #[error("the log no longer has all of it, or is another one")]
    Gone,
    #[error("more than {RECOVERY_BYTES_MAX} bytes came meanwhile")]
    TooMuch,
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A clonable handle.
#[derive(Debug, Clone)]
pub struct Recent(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bus: Arc<dyn Bus>,
    seam: Seam<()>,
    tails: Mutex<Vec<Tail>>,
    /// One reader of the log at a time.
    filling: Seam<()>,
    moved: Notify,
}

impl Recent {
    pub fn new(bus: Arc<dyn Bus>) -> Self {
        let tails = (0..bus.partitions()).map(|_| Tail::default()).collect();
        Self(Arc::new(Inner {
            bus,
            seam: Seam::default(),
            tails: Mutex::new(tails),
            filling: Seam::default(),
            moved: Notify::new(),
        }))
    }

    /// Waits for the moment between two deliveries; while it is held none is made.
    pub async fn seam(&self) -> AtSeam<'_, ()> {
        self.0.seam.lock().await
    }

    /// What was delivered last of this partition, on this node. `None`: the log was never reached.
    pub fn position(&self, partition: u16) -> Option<Position> {
        let delivered = self.tail(partition, |tail| tail.end.clone());
        delivered.or_else(|| self.0.bus.began(partition))
    }

    /// The relay delivers this, at the seam.
    pub(super) fn push(&self, delivery: Delivery) {
        match delivery {
            Delivery::Message(message) => {
                let partition = self.0.bus.partition(&message.room);
                self.tail(partition, |tail| tail.push(message));
            }
            Delivery::Gap { partition, epoch, to, .. } => {
                self.tail(partition, |tail| tail.cut(Position { epoch, seq: to }));
            }
            Delivery::NewEpoch { partition, epoch, last } => {
                self.tail(partition, |tail| tail.cut(Position { epoch, seq: last }));
            }
            Delivery::Foreign(_)
            | Delivery::SessionTaken { .. }
            | Delivery::Signal(_)
            | Delivery::SignalsLost { .. } => {}
        }
    }

    /// Says to those who wait for it that something was delivered.
    pub(super) fn moved(&self) {
        self.0.moved.notify_waiters();
    }

    /// What was delivered after `after` and is `wanted`.
    pub fn missed(
        &self,
        partition: u16,
        after: &Position,
        wanted: impl Fn(&Message) -> bool,
    ) -> Missed {
        let began = self.0.bus.began(partition);
        self.tail(partition, |tail| tail.missed(began, after, wanted))
    }

    /// Waits a moment until this node hears the partition: until then it knows nothing of it.
    pub async fn begun(&self, partition: u16) -> Result<(), ReadError> {
        let deadline = Instant::now() + BEGIN_WAIT_MAX;
        while self.position(partition).is_none() {
            if Instant::now() >= deadline {
                return Err(ReadError::Unavailable(
                    "this node has not begun to hear it".to_owned(),
                ));
            }
            sleep(BEGIN_LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Whether the log has come as far as `position`. What a client says need not be true.
    pub async fn check_stored(&self, partition: u16, position: &Position) -> Result<(), TooOld> {
        match self.0.bus.tail(partition, position.clone(), 1).await? {
            session::Tail::Messages { top, .. } if top.seq >= position.seq => Ok(()),
            _ => Err(TooOld::Gone),
        }
    }

    /// Waits until this node has delivered `position`, which must be in the log, or is on another
    /// epoch.
    pub async fn reach(&self, partition: u16, position: &Position) -> Result<(), TooOld> {
        self.begun(partition).await?;
        self.check_stored(partition, position).await?;
        loop {
            let moved = self.0.moved.notified();
            match self.position(partition) {
                Some(end) if end.epoch != position.epoch || end.seq >= position.seq => {
                    return Ok(());
                }
                _ => moved.await,
            }
        }
    }

    /// Makes the tail reach back to `after`, from the log.
    pub async fn reach_back(&self, partition: u16, after: &Position) -> Result<(), TooOld> {
        let _turn = self.0.filling.lock().await;
        let mut older = Vec::new();
        let mut bytes = 0;
        let mut at = after.clone();
        let mut failures = 0;
        loop {
            // What somebody else has read meanwhile, or what the relay has made superfluous.
            if !matches!(self.missed(partition, after, |_| false), Missed::Behind) {
                return Ok(());
            }
            let read = match self.0.bus.tail(partition, at.clone(), READ_MAX).await {
                // What is read already is not thrown away because of one slow answer.
                Err(error) if failures < READ_TRIES => {
                    failures += 1;
                    tracing::debug!(%error, "the log is read again");
                    sleep(READ_AGAIN_AFTER).await;
                    continue;
                }
                read => read?,
            };
            failures = 0;
            let messages = match read {
                session::Tail::Messages { messages, .. } => messages,
                session::Tail::Trimmed { .. } | session::Tail::OtherEpoch => {
                    return Err(TooOld::Gone);
                }
            };
            let Some(last) = messages.last() else { return Ok(()) };
            at = last.position.clone();
            for message in messages {
                let entry = Entry::new(message);
                bytes += entry.bytes();
                older.push(Arc::new(entry));
            }
            if bytes > RECOVERY_BYTES_MAX {
                return Err(TooOld::TooMuch);
            }
            let began = self.0.bus.began(partition);
            if self.tail(partition, |tail| tail.prepend(began, &mut older)) {
                return Ok(());
            }
        }
    }

    fn tail<T>(&self, partition: u16, with: impl FnOnce(&mut Tail) -> T) -> T {
        let mut tails: MutexGuard<'_, Vec<Tail>> =
            self.0.tails.lock().unwrap_or_else(PoisonError::into_inner);
        with(&mut tails[usize::from(partition)])
    }
}

impl Tail {
    fn push(&mut self, message: Message) {
        let is_next = |end: &Position| {
            end.epoch == message.position.epoch && end.seq + 1 == message.position.seq
        };
        if !self.end.as_ref().is_some_and(is_next) {
            self.clear();
        }
        self.end = Some(message.position.clone());
        let entry = Entry::new(message);
        self.bytes += entry.bytes();
        self.entries.push_back(Arc::new(entry));
        let bytes_max = match self.roomy_until {
            Some(until) if until > Instant::now() => RECOVERY_BYTES_MAX,
            _ => TAIL_BYTES_MAX,
        };
        while self.bytes > bytes_max
            && let Some(oldest) = self.entries.pop_front()
        {
            self.bytes -= oldest.bytes();
        }
    }

    /// What comes next stands behind a hole.
    fn cut(&mut self, end: Position) {
        self.clear();
        self.end = Some(end);
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// The position before the first entry.
    fn begin(&self, began: Option<Position>) -> Option<Position> {
        let first = self.entries.front().map(|entry| Position {
            epoch: entry.message.position.epoch.clone(),
            seq: entry.message.position.seq - 1,
        });
        first.or_else(|| self.end.clone()).or(began)
    }

    fn missed(
        &self,
        began: Option<Position>,
        after: &Position,
        wanted: impl Fn(&Message) -> bool,
    ) -> Missed {
        let Some(begin) = self.begin(began) else { return Missed::Ahead };
        let end = self.end.clone().unwrap_or_else(|| begin.clone());
        if end.epoch != after.epoch {
            return Missed::OtherEpoch;
        }
        if after.seq > end.seq {
            return Missed::Ahead;
        }
        if after.seq < begin.seq {
            return Missed::Behind;
        }
        let known = usize::try_from(after.seq - begin.seq).unwrap_or(usize::MAX);
        let entries = self.entries.iter().skip(known).filter(|entry| wanted(&entry.message));
        Missed::Entries { entries: entries.cloned().collect(), end }
    }

    /// Puts older messages in front, as far as there are none yet. `false`: some are missing
    /// between them.
    fn prepend(&mut self, began: Option<Position>, older: &mut Vec<Arc<Entry>>) -> bool {
        let (Some(begin), Some(last)) = (self.begin(began), older.last()) else { return false };
        if last.message.position.epoch != begin.epoch || last.message.position.seq < begin.seq {
            return false;
        }
        for entry in older.drain(..).rev() {
            if entry.message.position.seq <= begin.seq {
                self.bytes += entry.bytes();
                self.entries.push_front(entry);
            }
        }
        self.end.get_or_insert(begin);
        self.roomy_until = Some(Instant::now() + RECOVERY_BYTES_FOR);
        true
    }
}
