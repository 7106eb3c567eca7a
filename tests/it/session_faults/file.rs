//! Sessions in a file, after the log was cut off, a process died, or an older program wrote the file.

use std::time::Duration;

use roomcast::{
    domain::{position::Position, record::Draft},
    store::{RetentionPolicy, log::LogTail, sessions::Holder},
};

use crate::harness::{
    sessions::{claim, record, save, session, tail, whole_tail},
    sqlite_store::{BEFORE_RECORDS, aged, database, open},
    store::{draft, must_append, originals, retention, until},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_that_the_file_has_cut_off_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = open(dir.path(), retention());
    let drafts: Vec<Draft> = (0..10)
        .map(|n| {
            let draft = draft(["red", "blue"][n % 2], "ann", &format!("m{n}"), "0");
            let two_hours = Duration::from_secs(7_200);
            if n % 2 == 0 && n < 6 { aged(draft, two_hours) } else { draft }
        })
        .collect();
    let (_, heard) = node.pass(&drafts).await;
    let at = |seq| Position { epoch: heard[0].position.epoch.clone(), seq };
    let file = database(dir.path());
    let left = || file.query_row("SELECT count(*) FROM messages", [], |row| row.get::<_, u64>(0));
    until("the old rows are gone", || left().expect("a count") == 7).await;
    for after in 0..5 {
        assert_eq!(tail(&node, &at(after), 100).await, LogTail::Trimmed { first: 6 });
    }
    assert!(whole_tail(&node, at(5), 2).await == heard[5..]);
    node.store.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_died_leaves_its_sessions_for_a_window() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = || database(dir.path());
    let count = |what: &str| -> u64 {
        let sql = format!("SELECT count(*) FROM sessions WHERE {what}");
        file().query_row(&sql, [], |row| row.get(0)).expect("a count")
    };
    let saved = record(&["lobby"]);
    let node = open(dir.path(), retention());
    assert!(save(&node.store, &session("a"), Holder::random(), &saved).await);
    assert!(save(&node.store, &session("b"), Holder::random(), &saved).await);
    // A store that is closed releases as little as one that is killed.
    node.store.lifecycle.close().await;
    assert_eq!((count("ends IS NULL"), count("ends IS NOT NULL")), (2, 0));

    let node = open(dir.path(), retention());
    assert_eq!(count("ends IS NOT NULL"), 2, "the next start gives them an end");
    assert_eq!(claim(&node.store, &session("a"), Holder::random()).await, Some(saved));
    assert_eq!((count("ends IS NULL"), count("ends IS NOT NULL")), (1, 1));
    node.store.lifecycle.close().await;

    let window = Duration::from_millis(1);
    let node = open(dir.path(), RetentionPolicy { recovery_window: window, ..retention() });
    until("what was left ends, and its row goes", || count("id = 'a'") == 0).await;
    assert_eq!(count("id = 'b'"), 1, "it has its end from the first start");
    node.store.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_an_older_program_is_brought_forward() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = open(dir.path(), retention());
    for id in ["one", "two"] {
        must_append(&node.store, draft("lobby", "ann", id, "0")).await;
    }
    let heard = node.hear(2).await;
    node.store.lifecycle.close().await;
    let older = "DROP TABLE words; DROP TABLE profiles; DROP TABLE read_marks; DROP TABLE sessions;
         ALTER TABLE log DROP COLUMN indexed_to; ALTER TABLE log DROP COLUMN deleted_to;
         PRAGMA user_version = 1";
    let file = database(dir.path());
    file.execute_batch(BEFORE_RECORDS).expect("it can be set back");
    file.execute_batch(older).expect("it can be set back");

    let node = open(dir.path(), retention());
    assert_eq!(node.whole_history("lobby").await, originals(&heard));
    let top = heard[1].position.clone();
    assert_eq!(tail(&node, &heard[0].position, 9).await, LogTail::Trimmed { first: 3 });
    let nothing = LogTail::Records { records: vec![], top: top.clone() };
    assert_eq!(tail(&node, &top, 9).await, nothing);
    let saved = record(&["lobby"]);
    assert!(save(&node.store, &session("a"), Holder::random(), &saved).await);
    assert_eq!(claim(&node.store, &session("a"), Holder::random()).await, Some(saved));
    node.store.lifecycle.close().await;
}
