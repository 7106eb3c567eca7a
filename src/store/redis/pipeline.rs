//! What the writer does while Redis executes a frame: it settles the drafts of the frame before,
//! and encodes the next frame. So Redis never waits for the writer's own work.

use std::{convert::Infallible, future::pending, mem};

use tokio::task::yield_now;

use crate::store::redis::batch::{Batch, SettledDraft};
use crate::store::{log::AppendError, queue::DraftReceiver};

/// The next batch, and the drafts of the last frame that are not settled yet.
pub struct Pipeline {
    drain: DraftReceiver,
    next: Batch,
    to_settle: Vec<SettledDraft>,
}

impl Pipeline {
    pub fn new(drain: DraftReceiver) -> Self {
        Self { drain, next: Batch::default(), to_settle: Vec::new() }
    }

    /// All drafts that wait, or else the next one. `None`: the queue is closed and empty.
    pub async fn batch(&mut self) -> Option<Batch> {
        self.top_up();
        if self.next.is_empty() {
            self.settle();
            let first = self.drain.recv().await?;
            self.next.push(first);
            self.top_up();
        }
        Some(mem::take(&mut self.next))
    }

    /// Settles these drafts once the next frame is in flight, or when no draft waits.
    pub fn settle_later(&mut self, settled: impl Iterator<Item = SettledDraft>) {
        self.to_settle.extend(settled);
    }

    pub fn settle(&mut self) {
        self.to_settle.drain(..).for_each(|(settle, outcome)| settle(outcome));
    }

    /// Gathers drafts and settles others until `call` ends.
    pub async fn during<T>(&mut self, call: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            outcome = call => outcome,
            never = self.gather() => match never {},
        }
    }

    /// Refuses the drafts gathered after the frame in flight.
    pub fn refuse(&mut self, error: AppendError) {
        mem::take(&mut self.next).settles.refuse(error);
        while let Some(waiting) = self.drain.try_recv() {
            (waiting.settle)(Err(error));
        }
    }

    async fn gather(&mut self) -> Infallible {
        // fred's writer task was woken on this thread: it must run first.
        yield_now().await;
        self.settle();
        while !self.next.is_full() {
            match self.drain.recv().await {
                Some(waiting) => self.next.push(waiting),
                None => break,
            }
        }
        pending().await
    }

    fn top_up(&mut self) {
        while !self.next.is_full() {
            match self.drain.try_recv() {
                Some(waiting) => self.next.push(waiting),
                None => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
        time::Duration,
    };

    use tokio::time::timeout;

    use super::*;
    use crate::{
        domain::{
            name::{MessageId, UserId},
            position::Timestamp,
            record::{Body, Draft},
            room::RoomName,
        },
        store::{
            log::Settle,
            queue::{self, DraftQueue},
        },
    };

    /// Each draft sends its number when it is settled.
    fn push(queue: &DraftQueue, number: usize, settled: &mpsc::SyncSender<usize>) {
        let settled = settled.clone();
        let settle: Settle = Box::new(move |_| settled.send(number).unwrap());
        let from = UserId::parse("ann").unwrap();
        let id = MessageId::parse(&number.to_string()).unwrap();
        let body = Body::from_json("1");
        let draft = Draft::new(RoomName::lobby(), from, id, Timestamp(7), body);
        queue.push(draft, settle);
    }

    /// A call that Redis answers once a condition holds, or never.
    async fn answered(pipeline: &mut Pipeline, so: impl Fn() -> bool) {
        let call = async {
            while !so() {
                yield_now().await;
            }
        };
        timeout(Duration::from_secs(20), pipeline.during(call)).await.expect("it is so in time");
    }

    #[tokio::test]
    async fn the_frame_before_is_told_while_the_next_is_under_way() {
        let (queue, drain) = queue::bounded();
        let (settled, answers) = mpsc::sync_channel(8);
        let mut pipeline = Pipeline::new(drain);
        push(&queue, 1, &settled);
        let first = pipeline.batch().await.unwrap();
        pipeline.settle_later(first.settles.settled(&[Err(AppendError::Busy)]));
        push(&queue, 2, &settled);
        assert_eq!(pipeline.batch().await.unwrap().messages.len(), 1);
        assert!(answers.try_recv().is_err(), "the next frame goes first");
        answered(&mut pipeline, || answers.try_recv() == Ok(1)).await;
    }

    #[tokio::test]
    async fn what_comes_while_a_frame_is_under_way_is_the_next_in_order() {
        const COUNT: usize = 2_000;
        let (queue, drain) = queue::bounded();
        let (settled, answers) = mpsc::sync_channel(COUNT);
        let mut pipeline = Pipeline::new(drain);
        for number in 0..COUNT {
            push(&queue, number, &settled);
        }
        // A call that yields a few times: long enough to gather drafts.
        let turns = AtomicUsize::new(0);
        answered(&mut pipeline, || turns.fetch_add(1, Ordering::Relaxed) > 8).await;
        assert!(!pipeline.next.is_empty());
        queue.close();
        while let Some(batch) = pipeline.batch().await {
            batch.settles.refuse(AppendError::Busy);
        }
        assert!(answers.try_iter().eq(0..COUNT), "each once, in order");
    }

    #[tokio::test]
    async fn what_was_gathered_is_refused_with_what_waits() {
        let (queue, drain) = queue::bounded();
        let (settled, answers) = mpsc::sync_channel(8);
        let mut pipeline = Pipeline::new(drain);
        push(&queue, 1, &settled);
        let turns = AtomicUsize::new(0);
        answered(&mut pipeline, || turns.fetch_add(1, Ordering::Relaxed) > 8).await;
        assert!(!pipeline.next.is_empty());
        push(&queue, 2, &settled);
        pipeline.refuse(AppendError::Unavailable);
        assert!(answers.try_iter().eq([1, 2]));
        queue.close();
        assert!(pipeline.batch().await.is_none(), "nothing is left");
    }
}
