//! The replay buffer: what this node delivered lately, and the lock that stops delivery.
//!
//! A returning client gets what it missed from here, and goes live at the cutover. While the
//! cutover lock is held nothing is delivered: so earlier records belong to the replay, and later
//! ones reach the client as events. No record is lost or shown twice.
//!
//! A tail is the newest part of a partition's log without a hole. It grows at its end by what the
//! relay delivers, and at its front by reads of the log, when a client was away for longer. One
//! such read serves all clients that need it.

pub mod tail;

use std::{sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::{Mutex as AsyncMutex, MutexGuard as CutoverGuard, Notify},
    time::{Instant, sleep},
};

use crate::delivery::replay::tail::{Missed, PartitionTail, RECOVERY_BYTES_MAX, ReplayEntry};
use crate::{
    dialects::{
        Dialects,
        offset::{OffsetCursor, OffsetVector, VECTOR_PARTITIONS_MAX},
    },
    domain::{position::Position, room::RoomName},
    store::{
        error::ReadError,
        log::{LogEvent, LogTail, MessageLog},
    },
};

/// How long a returning client waits for a node that has just started, and how often the node
/// checks.
const BEGIN_WAIT_MAX: Duration = Duration::from_secs(2);
const BEGIN_LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often one read may fail, and the pause before the next try.
const READ_TRIES: u32 = 10;
const READ_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Messages in one read of the log.
const READ_MAX: u32 = 2_000;

/// Why a tail cannot reach back to a position.
#[derive(Debug, thiserror::Error)]
pub enum TooOld {
    #[error("the log no longer has all of it, or is another one")]
    Gone,
    #[error("more than {RECOVERY_BYTES_MAX} bytes of messages were stored since then")]
    TooMuch,
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A clonable handle.
#[derive(Debug, Clone)]
pub struct ReplayBuffer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    log: Arc<dyn MessageLog>,
    dialects: Dialects,
    cutover: AsyncMutex<()>,
    tails: Mutex<Vec<PartitionTail>>,
    /// Held while the log is read, so that there is one read at a time.
    filling: AsyncMutex<()>,
    moved: Notify,
}

impl ReplayBuffer {
    pub fn new(log: Arc<dyn MessageLog>, dialects: Dialects) -> Self {
        let tails = (0..log.partitions()).map(|_| PartitionTail::new(dialects)).collect();
        Self(Arc::new(Inner {
            log,
            dialects,
            cutover: AsyncMutex::default(),
            tails: Mutex::new(tails),
            filling: AsyncMutex::default(),
            moved: Notify::new(),
        }))
    }

    /// Waits for the moment between two deliveries. Nothing is delivered while the guard is held.
    pub async fn cutover(&self) -> CutoverGuard<'_, ()> {
        self.0.cutover.lock().await
    }

    /// The last position of this partition that this node delivered. `None`: the log was never
    /// reached.
    pub fn position(&self, partition: u16) -> Option<Position> {
        let delivered = self.tail(partition, |tail| tail.end.clone());
        delivered.or_else(|| self.0.log.began(partition))
    }

    /// The positions of all partitions, when offsets are vectors of them. `None`: offsets are no
    /// vectors, or this node does not know all positions yet.
    pub fn positions(&self) -> Option<Vec<Position>> {
        let partitions = self.0.log.partitions();
        let are_vectors = (2..=VECTOR_PARTITIONS_MAX).contains(&partitions);
        are_vectors.then(|| (0..partitions).map(|it| self.position(it)).collect()).flatten()
    }

    /// Offsets for clients that have everything that was delivered so far. Call it at the cutover.
    pub fn offsets(&self) -> OffsetCursor {
        OffsetCursor::new(self.positions().map(|positions| OffsetVector::new(&positions)))
    }

    /// The relay adds what it delivers, at the cutover.
    pub(super) fn push(&self, event: LogEvent) {
        match event {
            LogEvent::Record(record) => {
                let partition = self.0.log.partition(&record.room);
                self.tail(partition, |tail| tail.push(record));
            }
            LogEvent::Gap { partition, epoch, to, .. } => {
                self.tail(partition, |tail| tail.restart_after(Position { epoch, seq: to }));
            }
            LogEvent::NewEpoch { partition, epoch, last } => {
                self.tail(partition, |tail| tail.restart_after(Position { epoch, seq: last }));
            }
            LogEvent::External(_) => {}
        }
    }

    /// Wakes the tasks that wait for a delivery.
    pub(super) fn moved(&self) {
        self.0.moved.notify_waiters();
    }

    /// The records after `after` that members of any of these rooms received.
    pub fn missed(&self, partition: u16, after: &Position, rooms: &[RoomName]) -> Missed {
        let began = self.0.log.began(partition);
        self.tail(partition, |tail| tail.missed(began, after, rooms))
    }

    /// Waits a moment until this node receives the partition: before that it knows no position of
    /// it.
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

    /// Checks that the log reaches `position`. A client can send any position, also one that never
    /// existed.
    pub async fn check_stored(&self, partition: u16, position: &Position) -> Result<(), TooOld> {
        match self.0.log.tail(partition, position.clone(), 1).await? {
            LogTail::Records { top, .. } if top.seq >= position.seq => Ok(()),
            _ => Err(TooOld::Gone),
        }
    }

    /// Waits until this node has delivered `position`, or its epoch has ended. `position` must be
    /// in the log.
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

    /// Extends the tail back to `after`, from the log.
    pub async fn reach_back(&self, partition: u16, after: &Position) -> Result<(), TooOld> {
        let _turn = self.0.filling.lock().await;
        let mut older = Vec::new();
        let mut bytes = 0;
        let mut at = after.clone();
        let mut failures = 0;
        loop {
            // Another client's read, or the relay, may have made this read unnecessary.
            if !matches!(self.missed(partition, after, &[]), Missed::Behind) {
                return Ok(());
            }
            let read = match self.0.log.tail(partition, at.clone(), READ_MAX).await {
                // One slow answer must not throw away what was read already.
                Err(error) if failures < READ_TRIES => {
                    failures += 1;
                    tracing::debug!(%error, "the log cannot be read; trying again");
                    sleep(READ_AGAIN_AFTER).await;
                    continue;
                }
                read => read?,
            };
            failures = 0;
            let records = match read {
                LogTail::Records { records, .. } => records,
                LogTail::Trimmed { .. } | LogTail::OtherEpoch => {
                    return Err(TooOld::Gone);
                }
            };
            let Some(last) = records.last() else { return Ok(()) };
            at = last.position.clone();
            for record in records {
                let entry = ReplayEntry::new(record, self.0.dialects);
                bytes += entry.bytes();
                older.push(Arc::new(entry));
            }
            if bytes > RECOVERY_BYTES_MAX {
                return Err(TooOld::TooMuch);
            }
            let began = self.0.log.began(partition);
            if self.tail(partition, |tail| tail.prepend(began, &mut older)) {
                return Ok(());
            }
        }
    }

    fn tail<T>(&self, partition: u16, with: impl FnOnce(&mut PartitionTail) -> T) -> T {
        let mut tails: MutexGuard<'_, Vec<PartitionTail>> = self.0.tails.lock();
        with(&mut tails[usize::from(partition)])
    }
}
