//! A failing disk, and which writes survive it.

use std::time::Duration;

use tokio::sync::oneshot;

use super::*;
use crate::{
    domain::{
        name::MessageId,
        record::{Body, Stored},
    },
    store::log::{AppendError, LogEvent, LogEvents},
};

const DEADLINE: Duration = Duration::from_secs(30);

/// A store on a file, with the connection that its writer uses, so that a test can break it.
struct Breakable {
    _dir: tempfile::TempDir,
    writer: Arc<Mutex<Connection>>,
    store: Store,
    log_events: LogEvents,
}

impl Breakable {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join(DATABASE);
        let writer = Arc::new(Mutex::new(schema::writer(Some(&file)).expect("it opens")));
        let retention = RetentionPolicy {
            history_max: 100_000,
            history_ttl: Duration::from_secs(3_600),
            idempotency_window: Duration::from_secs(120),
            recovery_window: Duration::from_secs(120),
        };
        let Opened { store, log_events, .. } =
            start(Some(&file), None, Arc::clone(&writer), retention).expect("it starts");
        Self { _dir: dir, writer, store, log_events }
    }

    fn pragma(&self, name: &str, value: i64) {
        let writer = self.writer.lock();
        writer
            .pragma_update_and_check(None, name, value, |_| Ok(()))
            .or_else(|_| writer.pragma_update(None, name, value))
            .expect("a pragma");
    }

    fn pages(&self) -> i64 {
        let writer = self.writer.lock();
        writer.query_row("PRAGMA page_count", [], |row| row.get(0)).expect("a count")
    }

    async fn append(&mut self, id: &str, bytes: usize) -> Result<Stored, AppendError> {
        let from = UserId::parse("ann").expect("a user");
        let id = MessageId::parse(id).expect("an id");
        let body = Body::from_json(&format!("\"{}\"", "x".repeat(bytes)));
        let draft = Draft::new(RoomName::lobby(), from, id, clock::now(), body);
        let (settled, outcome) = oneshot::channel();
        self.store
            .log
            .append(draft, Box::new(move |result| settled.send(result).expect("awaited")));
        let outcome = outcome.await.expect("it settles");
        if let Ok(stored) = &outcome {
            let batch = self.log_events.recv().await.expect("the store runs");
            let [LogEvent::Record(message)] = batch.as_slice() else { panic!("{batch:?}") };
            assert_eq!(message.position, stored.position);
        }
        outcome
    }

    async fn ids(&self) -> Vec<String> {
        let page = self.store.log.history(RoomName::lobby(), Page::Newest, 1_000).await;
        page.expect("reads go on").messages.iter().map(|m| m.id.to_string()).collect()
    }

    async fn becomes(&self, wanted: impl FnMut(&Health) -> bool) -> Health {
        let mut health = self.store.lifecycle.health();
        let health = tokio::time::timeout(DEADLINE, health.wait_for(wanted)).await;
        health.expect("in time").expect("the store runs").clone()
    }
}

#[tokio::test]
async fn a_full_disk_refuses_and_recovers() {
    let mut log = Breakable::new();
    assert_eq!(log.append("before", 10).await.map(|stored| stored.position.seq), Ok(1));
    log.pragma("max_page_count", log.pages());
    assert_eq!(log.append("full", 30_000).await, Err(AppendError::Unavailable));
    let Health::Down { reason } = log.becomes(|health| *health != Health::Ready).await else {
        panic!("it is down");
    };
    assert!(reason.contains(DATABASE) && reason.contains("full"), "{reason}");
    assert_eq!(log.append("full", 30_000).await, Err(AppendError::Unavailable), "still");
    assert_eq!(log.ids().await, ["before"]);

    log.pragma("max_page_count", 1 << 20);
    let stored = log.append("full", 30_000).await.expect("the next one is tried again");
    assert_eq!(stored.position.seq, 2, "what was refused took no sequence");
    log.becomes(|health| *health == Health::Ready).await;
    assert_eq!(log.ids().await, ["before", "full"]);
}

#[tokio::test]
async fn a_log_that_is_down_comes_back_without_a_message() {
    let mut log = Breakable::new();
    log.pragma("query_only", 1);
    assert_eq!(log.append("one", 10).await, Err(AppendError::Unavailable));
    log.becomes(|health| *health != Health::Ready).await;
    assert_eq!(log.ids().await, [""; 0], "reads go on");
    log.pragma("query_only", 0);
    log.becomes(|health| *health == Health::Ready).await;
    assert_eq!(log.append("one", 10).await.map(|stored| stored.position.seq), Ok(1));
}

/// A lost release would not be repeated, and the session would never end.
#[tokio::test]
async fn a_release_is_written_when_it_can_be() {
    let log = Breakable::new();
    let (id, holder) = (PublicId::parse("a").expect("an id"), Holder::random());
    let record = SessionRecord {
        user: UserId::parse("ann").expect("a user"),
        rooms: vec![],
        profile: None,
        me: None,
    };
    let saved = log.store.sessions.save(id.clone(), holder, record.clone()).await;
    assert!(matches!(saved, Ok(true)), "{saved:?}");
    log.pragma("query_only", 1);
    log.store.sessions.release(id.clone(), holder);
    let refused = log.store.sessions.save(id.clone(), holder, record.clone()).await;
    assert!(matches!(refused, Err(ReadError::Unavailable(_))), "{refused:?}");
    log.becomes(|health| *health != Health::Ready).await;
    log.pragma("query_only", 0);
    let ended = || {
        let writer = log.writer.lock();
        let ended = "SELECT count(*) FROM sessions WHERE ends IS NOT NULL";
        writer.query_row(ended, [], |row| row.get::<_, u64>(0)).expect("a count") == 1
    };
    let deadline = Instant::now() + DEADLINE;
    while !ended() {
        assert!(Instant::now() < deadline, "it was forgotten");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn room_for_a_message_but_not_for_a_batch_is_not_ready() {
    let mut log = Breakable::new();
    log.append("before", 10).await.expect("it is stored");
    log.pragma("max_page_count", log.pages() + 4);
    assert_eq!(log.append("large", 30_000).await, Err(AppendError::Unavailable));
    let mut health = log.store.lifecycle.health();
    health.mark_unchanged();
    // Each failed try reports the failure again; none in between reports ready.
    for _ in 0..2 {
        tokio::time::timeout(DEADLINE, health.changed()).await.expect("a try").expect("runs");
        assert_ne!(*health.borrow_and_update(), Health::Ready);
    }
}
