//! Sessions at a store: what tests save, claim and read, and the log that a session is resumed from.

use std::time::Duration;

use roomcast::{
    domain::{
        name::{PublicId, UserId},
        position::{Epoch, Position},
        record::Record,
        visibility::JoinedRoom,
    },
    store::{
        NodeEvent, RetentionPolicy, Store,
        log::{LogTail, TAIL_BYTES_MAX},
        sessions::{Holder, SessionRecord},
    },
};
use tokio::time::timeout;

use super::store::{DEADLINE, Node, retention, room};

/// A window that ends while a test waits for it, and in which a loaded machine may stall.
pub const SHORT: Duration = Duration::from_secs(2);

pub fn short() -> RetentionPolicy {
    RetentionPolicy { recovery_window: SHORT, ..retention() }
}

pub fn session(text: &str) -> PublicId {
    PublicId::parse(text).expect("a public id")
}

/// Whose all sessions are.
pub fn user() -> UserId {
    UserId::parse("ann \"é\" \u{1f600}").expect("a user")
}

/// What a session holds in these rooms.
pub fn record(rooms: &[&str]) -> SessionRecord {
    let since = |seq| Some(Position { epoch: Epoch::new("0a1b"), seq });
    let mut places = [None, since(0), since(u64::MAX >> 1)].into_iter().cycle();
    let mut joined = |name: &&str| JoinedRoom { room: room(name), since: places.next().flatten() };
    let rooms = rooms.iter().map(&mut joined).collect();
    SessionRecord { user: user(), rooms, profile: None, me: None }
}

pub async fn save(
    store: &Store,
    session: &PublicId,
    holder: Holder,
    record: &SessionRecord,
) -> bool {
    let saving = store.sessions.save(session.clone(), holder, record.clone());
    timeout(DEADLINE, saving).await.expect("in time").expect("it can be written")
}

pub async fn claim(store: &Store, session: &PublicId, holder: Holder) -> Option<SessionRecord> {
    let claiming = store.sessions.claim(session.clone(), holder, user());
    timeout(DEADLINE, claiming).await.expect("in time").expect("it can be read")
}

pub async fn read(store: &Store, session: &PublicId) -> Option<SessionRecord> {
    let reading = store.sessions.read(session.clone());
    timeout(DEADLINE, reading).await.expect("in time").expect("it can be read")
}

/// Waits until it is told that this holder has lost the session; nothing else may come, but for word
/// of a reconnect.
pub async fn hear_taken(node: &mut Node, session: &PublicId, holder: Holder) {
    loop {
        match timeout(DEADLINE, node.node_events.recv()).await.expect("it is told") {
            Some(NodeEvent::SignalsLost { .. }) => {}
            event => {
                let session = session.clone();
                return assert_eq!(event, Some(NodeEvent::SessionTaken { session, holder }));
            }
        }
    }
}

pub async fn tail(node: &Node, after: &Position, limit: u32) -> LogTail {
    let tail = timeout(DEADLINE, node.store.log.tail(0, after.clone(), limit)).await;
    tail.expect("in time").expect("the log can be read")
}

/// All that comes after a position, piece by piece.
pub async fn whole_tail(node: &Node, after: Position, limit: u32) -> Vec<Record> {
    let mut all: Vec<Record> = Vec::new();
    loop {
        let from = all.last().map_or(&after, |last| &last.position);
        let piece = tail(node, from, limit).await;
        let LogTail::Records { records, top } = piece else { panic!("{piece:?}") };
        assert!(records.len() <= limit as usize);
        let bytes: usize = records.iter().map(|record| record.bytes()).sum();
        assert!(bytes <= TAIL_BYTES_MAX || records.len() == 1, "{bytes} bytes");
        if records.is_empty() {
            assert!(from.seq >= top.seq, "it ends at {} of {}", from.seq, top.seq);
            return all;
        }
        all.extend(records);
    }
}
