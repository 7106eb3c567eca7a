//! The drafts that wait for a store's writer, bounded in number and in bytes.
//!
//! Both stores write in the same way: take all queued drafts, append them in one step, settle them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::log::{AppendError, Settle};
use crate::domain::record::Draft;

/// Drafts that may wait for one writer.
const DRAFTS_MAX: usize = 65_536;
/// Bytes of bodies and of source events that may wait for one writer.
const BYTES_MAX: usize = 64 << 20;
/// Most drafts in one append: bounds the time of a transaction or a script.
pub const BATCH_MAX: usize = 256;
pub const BATCH_BYTES_MAX: usize = 256 << 10;

/// A draft and its callback.
pub struct QueuedDraft {
    pub draft: Draft,
    pub settle: Settle,
}

/// The submitting end.
#[derive(Debug)]
pub struct DraftQueue {
    /// `None` once closed.
    sender: Mutex<Option<mpsc::Sender<QueuedDraft>>>,
    bytes: Arc<AtomicUsize>,
}

/// The writer's end.
#[derive(Debug)]
pub struct DraftReceiver {
    receiver: mpsc::Receiver<QueuedDraft>,
    bytes: Arc<AtomicUsize>,
}

pub fn bounded() -> (DraftQueue, DraftReceiver) {
    let (sender, receiver) = mpsc::channel(DRAFTS_MAX);
    let bytes = Arc::new(AtomicUsize::new(0));
    (
        DraftQueue { sender: Mutex::new(Some(sender)), bytes: Arc::clone(&bytes) },
        DraftReceiver { receiver, bytes },
    )
}

impl DraftQueue {
    pub fn push(&self, draft: Draft, settle: Settle) {
        let size = draft.bytes();
        if self.bytes.fetch_add(size, Ordering::Relaxed) + size > BYTES_MAX {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            return settle(Err(AppendError::Busy));
        }
        let waiting = QueuedDraft { draft, settle };
        let refused = match self.sender().as_ref() {
            Some(sender) => sender.try_send(waiting),
            None => Err(TrySendError::Closed(waiting)),
        };
        let (waiting, error) = match refused {
            Ok(()) => return,
            Err(TrySendError::Full(waiting)) => (waiting, AppendError::Busy),
            Err(TrySendError::Closed(waiting)) => (waiting, AppendError::Unavailable),
        };
        self.bytes.fetch_sub(size, Ordering::Relaxed);
        (waiting.settle)(Err(error));
    }

    /// Refuses further drafts. The writer still gets the queued ones, and then the end.
    pub fn close(&self) {
        self.sender().take();
    }

    fn sender(&self) -> MutexGuard<'_, Option<mpsc::Sender<QueuedDraft>>> {
        self.sender.lock()
    }
}

impl DraftReceiver {
    /// The next draft; `None` when the queue is closed and empty. Cancelling this call loses no
    /// draft.
    pub async fn recv(&mut self) -> Option<QueuedDraft> {
        let waiting = self.receiver.recv().await?;
        Some(self.taken(waiting))
    }

    /// A draft that is queued at this moment.
    pub fn try_recv(&mut self) -> Option<QueuedDraft> {
        let waiting = self.receiver.try_recv().ok()?;
        Some(self.taken(waiting))
    }

    /// A batch, for a writer on a thread of its own. When connections are read on the same core, it
    /// first lets them queue what they have read, so that the batch is larger. On an idle system
    /// this adds no delay. An empty batch means that the queue is closed and empty.
    pub async fn next_after_readers(&mut self) -> Vec<QueuedDraft> {
        let first = self.recv().await;
        std::thread::yield_now();
        self.batch(first)
    }

    fn batch(&mut self, first: Option<QueuedDraft>) -> Vec<QueuedDraft> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut next = first;
        while let Some(waiting) = next {
            bytes += waiting.draft.bytes();
            batch.push(waiting);
            if batch.len() == BATCH_MAX || bytes >= BATCH_BYTES_MAX {
                break;
            }
            next = self.try_recv();
        }
        batch
    }

    fn taken(&self, waiting: QueuedDraft) -> QueuedDraft {
        self.bytes.fetch_sub(waiting.draft.bytes(), Ordering::Relaxed);
        waiting
    }
}

impl std::fmt::Debug for QueuedDraft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueuedDraft").field("draft", &self.draft).finish_non_exhaustive()
    }
}
