//! How long a file and a Redis keep records and states, and what is left of the deleted.

use std::{path::Path, time::Duration};

use roomcast::{
    domain::{
        message::MessageState,
        position::Position,
        record::{Change, Draft, Entry},
    },
    store::{RetentionPolicy, log::LogTail},
};

use super::{ROOMS, change, drafts, edit, react, said, seq_of, stored_states};
use crate::harness::{
    PATIENCE, eventually,
    redis::Reply,
    redis_store::Shared,
    sqlite_store::{aged, database, open},
    store::{Log, originals, retention, until},
};

fn count(file: &rusqlite::Connection, sql: &str) -> u64 {
    file.query_row(sql, [], |row| row.get(0)).expect("a count")
}

fn bodies(dir: &Path, text: &str) -> u64 {
    let file = database(dir);
    let found = |table: &str, column: &str| {
        count(&file, &format!("SELECT count(*) FROM {table} WHERE {column} LIKE '%{text}%'"))
    };
    found("messages", "body") + found("states", "state")
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_text_is_nowhere_in_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = open(dir.path(), retention());
    let drafts = [
        said("red", "a", "secret of old"),
        change("red", "ann", "b", 1, edit("secret as well")),
        change("red", "ann", "c", 1, Change::Delete),
        said("red", "d", "open"),
    ];
    node.pass(&drafts[..2]).await;
    assert_eq!((bodies(dir.path(), "secret as well"), bodies(dir.path(), "secret of old")), (3, 0));
    node.pass(&drafts[2..]).await;
    assert_eq!((bodies(dir.path(), "secret"), bodies(dir.path(), "open")), (0, 1));
    node.store.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_and_states_leave_the_file_when_messages_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = open(dir.path(), retention());
    let old: Vec<Draft> = drafts(9, 0, 900)
        .into_iter()
        .map(|draft| aged(draft, Duration::from_secs(7_200)))
        .collect();
    node.pass(&old).await;
    let file = database(dir.path());
    until("old rows, states and rooms are gone", || {
        ["messages", "states", "rooms", "words_docsize"]
            .iter()
            .all(|table| count(&file, &format!("SELECT count(*) FROM {table}")) == 0)
    })
    .await;

    // Within the windows all stays, however much there is.
    node.store.lifecycle.close().await;
    let mut node = open(dir.path(), RetentionPolicy { history_max: 10, ..retention() });
    let recent: Vec<Draft> = drafts(10, 900, 3_000)
        .into_iter()
        .map(|draft| aged(draft, Duration::from_secs(60)))
        .collect();
    let epoch = node.pass(&recent).await.1[0].position.epoch.clone();
    until("rooms are trimmed", || count(&file, "SELECT max(kept) FROM rooms") == 10).await;
    let at = recent
        .iter()
        .position(|draft| matches!(draft.entry, Entry::Message(_)))
        .expect("a message");
    let (name, seq) = (recent[at].room.as_str(), 901 + at as u64);
    node.pass(&[change(name, "bob", "late", seq, react("late", true))]).await;
    assert_eq!(bodies(dir.path(), "late"), 1, "it comes to nothing");
    assert_eq!(count(&file, "SELECT count(*) FROM messages"), 3_001);
    let after = Position { epoch, seq: 900 };
    assert!(matches!(node.store.log.tail(0, after.clone(), 1).await, Ok(LogTail::Records { .. })));
    node.store.lifecycle.close().await;

    // Behind them there are no more records of a room than messages; the log says from where.
    let short = Duration::from_secs(30);
    let few = RetentionPolicy {
        history_max: 10,
        idempotency_window: short,
        recovery_window: short,
        ..retention()
    };
    let node = open(dir.path(), few);
    until("there are few", || {
        let records = "SELECT max((SELECT count(*) FROM messages
                           WHERE room = rooms.id AND of_seq IS NOT NULL)) FROM rooms";
        let same = "SELECT count(*) FROM rooms WHERE records <> (SELECT count(*) FROM messages
                        WHERE room = rooms.id AND of_seq IS NOT NULL)";
        count(&file, records) <= 10 && count(&file, same) == 0
    })
    .await;
    let gone = count(&file, "SELECT deleted_to FROM log");
    let later = count(&file, &format!("SELECT count(*) FROM messages WHERE seq > {gone}"));
    assert_eq!(gone + later, 3_901, "all of what comes after is there");
    assert!(matches!(node.store.log.tail(0, after, 1).await, Ok(LogTail::Trimmed { .. })));
    let left = "SELECT count(*) FROM states WHERE seq NOT IN (SELECT seq FROM messages)";
    assert_eq!(count(&file, left), 0);
    node.store.lifecycle.close().await;
}

/// An old list of the room may still be there when its log is not.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_lost_log_no_old_state_shows() {
    for lost in [["FLUSHALL", "SYNC"], ["DEL", "test:{0}:meta"]] {
        let mut log = Shared::fresh(retention()).await;
        let mut node = log.node().await;
        node.pass(&[said("red", "a", "one"), said("red", "b", "two")]).await;
        node.pass(&[1, 2].map(|seq| change("red", "ann", &format!("r{seq}"), seq, Change::Delete)))
            .await;
        node.store.lifecycle.close().await;
        log.redis.call(&lost).await;

        let mut node = log.node().await;
        let of_old = change("red", "ann", "c", 1, react("+1", true));
        let again = [of_old, said("red", "d", "three"), said("red", "e", "four")];
        let (stored, heard) = node.pass(&again).await;
        assert_eq!(stored[0].position.seq, 1, "{lost:?}: the log begins anew");
        assert_eq!(node.whole_history("red").await, originals(&heard), "{lost:?}");
        node.store.lifecycle.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_keeps_states_as_long_as_their_messages() {
    let mut log = Shared::fresh(RetentionPolicy { history_max: 80, ..retention() }).await;
    let mut node = log.node().await;
    let mut sent = 0;
    for _ in 0..10 {
        // Frames of one room, and frames of two.
        for names in [["red", "red"], ["red", "blue"]] {
            let messages: Vec<Draft> =
                (1..=40).map(|n| said(names[n % 2], &format!("m{}", sent + n), "x")).collect();
            node.pass(&messages).await;
            let records: Vec<Draft> = (1..=40)
                .map(|n| {
                    let (id, target_seq) = (format!("r{}", sent + n), (sent + n) as u64);
                    change(names[n % 2], "bob", &id, target_seq, react("+1", true))
                })
                .collect();
            node.pass(&records).await;
            sent += 80;
        }
    }
    for name in ROOMS {
        let kept = node.whole_history(name).await;
        assert!((80..200).contains(&kept.len()), "{} of {name}", kept.len());
        assert!(kept.iter().all(|message| !message.state.reactions.is_empty()));
        let kept: Vec<u64> = kept.iter().map(seq_of).collect();
        assert_eq!(stored_states(&log, name).await, kept, "{name}");
    }
    // A list lives on with each message, and its states with it.
    let pttl = "return redis.call('PTTL', KEYS[1]) - redis.call('PTTL', KEYS[2])";
    let keys = ["test:{0}:room:blue", "test:{0}:state:blue"];
    eventually("time has passed since", PATIENCE, async || {
        let left = log.redis.call(&["PTTL", keys[0]]).await;
        matches!(left, Reply::Number(left) if left < 3_600_000 - 20).then_some(())
    })
    .await;
    node.pass(&[said("blue", "last", "x")]).await;
    let apart = log.redis.call(&["EVAL", pttl, "2", keys[0], keys[1]]).await;
    assert!(matches!(apart, Reply::Number(apart) if apart.abs() <= 1), "{apart:?}");
    node.store.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_expires_in_redis_takes_its_states_along() {
    let ttl = Duration::from_secs(1);
    let mut log = Shared::fresh(RetentionPolicy { history_ttl: ttl, ..retention() }).await;
    let mut node = log.node().await;
    node.pass(&[said("red", "a", "one")]).await;
    node.pass(&[change("red", "bob", "b", 1, react("+1", true))]).await;
    eventually("the room expires", PATIENCE, async || {
        let kept = node.whole_history("red").await;
        (kept.is_empty() && stored_states(&log, "red").await.is_empty()).then_some(())
    })
    .await;
    node.pass(&[change("red", "bob", "c", 1, react("+1", true))]).await;
    let (_, heard) = node.pass(&[said("red", "d", "two")]).await;
    assert!(stored_states(&log, "red").await.is_empty());
    assert!(
        node.whole_history("red")
            .await
            .iter()
            .all(|message| message.state == MessageState::default())
    );
    assert_eq!(heard[0].position.seq, 4);
    node.store.lifecycle.close().await;
}
