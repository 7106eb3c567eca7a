//! A store in this process: what its tests submit to it, and what they hear.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use roomcast::{
    clock,
    domain::{
        message::Message,
        name::{MessageId, UserId},
        page::Page,
        position::Timestamp,
        record::{Body, Draft, Record, SourceEvent, Stored},
        room::RoomName,
    },
    store::{
        NodeEvents, Opened, RetentionPolicy, Store,
        log::{AppendError, History, LogEvent, LogEvents, Settle},
    },
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

/// Longer than anything here takes, on a machine that does other things too.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// What a submitter of many messages has under way.
const IN_FLIGHT: usize = 8_192;

/// One log, empty at first, and the nodes that use it. A node must be ready when it is handed out.
pub trait Log: Sized {
    fn fresh(retention: RetentionPolicy) -> impl Future<Output = Self>;
    /// A node on this log. For a log that is not shared the one before is closed.
    fn node(&mut self) -> impl Future<Output = Node>;
}

pub struct Node {
    pub store: Store,
    pub log_events: LogEvents,
    pub node_events: NodeEvents,
}

impl From<Opened> for Node {
    fn from(opened: Opened) -> Self {
        let Opened { store, log_events, node_events } = opened;
        Self { store, log_events, node_events }
    }
}

pub fn retention() -> RetentionPolicy {
    RetentionPolicy {
        history_max: 1_000_000,
        history_ttl: Duration::from_secs(3_600),
        idempotency_window: Duration::from_secs(120),
        recovery_window: Duration::from_secs(120),
    }
}

pub fn room(name: &str) -> RoomName {
    RoomName::parse(name).expect("a room name")
}

pub fn draft(room_name: &str, from: &str, id: &str, body: &str) -> Draft {
    let from = UserId::parse(from).expect("a user id");
    let id = MessageId::parse(id).expect("a message id");
    let body = Body::from_json(body);
    Draft { repeatable: true, ..Draft::new(room(room_name), from, id, clock::now(), body) }
}

/// An event of the profile `chat`.
pub fn source(event: &str, arguments: &str, me: Option<Body>) -> Arc<SourceEvent> {
    let (profile, event) = ("chat".into(), event.into());
    Arc::new(SourceEvent { profile, event, arguments: Body::from_json(arguments), me })
}

pub fn later(mut draft: Draft, by: Duration) -> Draft {
    draft.at = Timestamp(draft.at.0 + u64::try_from(by.as_millis()).expect("a short time"));
    draft
}

pub async fn append(store: &Store, draft: Draft) -> Result<Stored, AppendError> {
    let (settled, outcome) = oneshot::channel();
    store.log.append(draft, Box::new(move |result| settled.send(result).expect("the test waits")));
    timeout(DEADLINE, outcome).await.expect("it settles in time").expect("it settles")
}

/// The draft must be stored.
pub async fn must_append(store: &Store, draft: Draft) -> Stored {
    append(store, draft).await.expect("it is stored")
}

/// Polls until something is so.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !so() {
        assert!(tokio::time::Instant::now() < deadline, "in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The record that a draft is after it was stored.
pub fn record(draft: Draft, stored: &Stored) -> Record {
    Draft { at: stored.at, ..draft }.into_record(stored.position.clone())
}

/// The messages among these records, as history shows them if nothing changed them.
pub fn originals(records: &[Record]) -> Vec<Message> {
    records.iter().cloned().filter_map(Message::original).collect()
}

/// What a settle says, with the draft's number.
pub type Settled = (usize, Result<Stored, AppendError>);

/// Settles into a channel, so that a second call or a lost one shows in the count.
pub fn telling(number: usize, settled: &mpsc::Sender<Settled>) -> Settle {
    let settled = settled.clone();
    Box::new(move |result| settled.try_send((number, result)).expect("the test made room"))
}

impl Node {
    pub async fn hear(&mut self, count: usize) -> Vec<Record> {
        hear(&mut self.log_events, count).await
    }

    /// Nothing but what was heard is delivered: a message stored now comes next.
    pub async fn hear_no_more(&mut self) {
        static MARKERS: AtomicUsize = AtomicUsize::new(0);
        let number = MARKERS.fetch_add(1, Ordering::Relaxed);
        let marker = draft("marker", "marker", &format!("marker-{number}"), "null");
        let stored = must_append(&self.store, marker.clone()).await;
        assert_eq!(self.hear(1).await, [record(marker, &stored)]);
    }

    pub async fn history(&self, name: &str, page: Page, limit: u32) -> History {
        timeout(DEADLINE, self.store.log.history(room(name), page, limit))
            .await
            .expect("the history comes in time")
            .expect("the history can be read")
    }

    /// A room from its start, page by page.
    pub async fn whole_history(&self, name: &str) -> Vec<Message> {
        let mut all: Vec<Message> = Vec::new();
        loop {
            let after = all.last().map_or(0, |last| last.position.seq);
            let page = self.history(name, Page::After(after), 1_000).await;
            all.extend(page.messages);
            if !page.more {
                return all;
            }
        }
    }

    /// Submits in order with many under way, and hears. Answers what was settled and heard.
    pub async fn pass(&mut self, drafts: &[Draft]) -> (Vec<Stored>, Vec<Record>) {
        let (settled, mut outcomes) = mpsc::channel(drafts.len());
        let room = Arc::new(Semaphore::new(IN_FLIGHT));
        let submitting = async {
            for (number, draft) in drafts.iter().enumerate() {
                room.acquire().await.expect("open").forget();
                let (tell, room) = (telling(number, &settled), Arc::clone(&room));
                let settle: Settle = Box::new(move |result| {
                    tell(result);
                    room.add_permits(1);
                });
                self.store.log.append(draft.clone(), settle);
            }
        };
        let ((), heard) = tokio::join!(submitting, hear(&mut self.log_events, drafts.len()));
        let mut stored = Vec::with_capacity(drafts.len());
        for number in 0..drafts.len() {
            let next = timeout(DEADLINE, outcomes.recv()).await.expect("all settle in time");
            let (settled, outcome) = next.expect("a sender is open");
            assert_eq!(settled, number, "settled out of order");
            stored.push(outcome.expect("it is stored"));
        }
        (stored, heard)
    }

    /// Stores and hears these messages, which need not be the log's first.
    pub async fn pass_on(&mut self, drafts: &[Draft]) -> Vec<Record> {
        self.pass(drafts).await.1
    }
}

/// The next messages. Anything else among the log events is a failure.
async fn hear(log_events: &mut LogEvents, count: usize) -> Vec<Record> {
    let mut heard = Vec::with_capacity(count);
    while heard.len() < count {
        let batch = timeout(DEADLINE, log_events.recv()).await;
        let batch = batch.unwrap_or_else(|_| panic!("heard {} of {count}", heard.len()));
        for delivery in batch.expect("the store runs") {
            match delivery {
                LogEvent::Record(record) => heard.push(record),
                other => panic!("{other:?} after {} messages", heard.len()),
            }
        }
    }
    assert_eq!(heard.len(), count, "more was delivered: {:?}", &heard[count..]);
    heard
}

/// Sequences are dense, and the heard messages are the drafts in their order.
pub fn check_dense(drafts: &[Draft], stored: &[Stored], heard: &[Record]) {
    for (index, ((draft, stored), heard)) in drafts.iter().zip(stored).zip(heard).enumerate() {
        assert_eq!(stored.position.epoch, heard.position.epoch, "one epoch");
        assert_eq!(stored.position.seq, index as u64 + 1, "dense from 1");
        assert_eq!(*heard, record(draft.clone(), stored), "number {index}");
    }
}

/// What a page of a list is, and whether there is more in its direction.
pub fn page_of(all: &[Message], page: &Page, limit: usize) -> (Vec<Message>, bool) {
    match *page {
        Page::Newest => page_of(all, &Page::Before(u64::MAX), limit),
        Page::Before(seq) => {
            let until = all.partition_point(|message| message.position.seq < seq);
            let from = until.saturating_sub(limit);
            (all[from..until].to_vec(), from > 0)
        }
        Page::After(seq) => {
            let from = all.partition_point(|message| message.position.seq <= seq);
            let until = (from + limit).min(all.len());
            (all[from..until].to_vec(), until < all.len())
        }
    }
}
