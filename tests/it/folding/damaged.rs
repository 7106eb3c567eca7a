//! A stored record that is not what it must be: the others are still shown.

use roomcast::{
    domain::{
        page::Page,
        position::{Epoch, Position},
        record::Draft,
    },
    store::{Store, log::LogTail},
};

use super::{change, edit, react, said};
use crate::harness::{
    redis::Reply,
    redis_store::Shared,
    sqlite_store::{database, open},
    store::{Log, Node, must_append, retention},
};

/// Messages 1 to 4 and changes of the third and fourth, each in a frame of its own.
async fn fill(node: &Node) -> Epoch {
    let mut drafts: Vec<Draft> =
        ["one", "two", "three", "four"].map(|text| said("red", text, text)).into();
    drafts.push(change("red", "ann", "e", 3, edit("new")));
    drafts.push(change("red", "bob", "r", 4, react("+1", true)));
    let mut stored = None;
    for draft in drafts {
        stored = Some(must_append(&node.store, draft).await);
    }
    stored.expect("records").position.epoch
}

/// The body of the second message and the state of the third are no JSON.
async fn check_rest_is_shown(node: &Node, epoch: Epoch) {
    for (page, limit, shown, more) in [
        (Page::Newest, 9, vec![1, 4], false),
        (Page::Newest, 2, vec![4], true),
        (Page::After(0), 2, vec![1], true),
        (Page::Before(3), 2, vec![1], false),
    ] {
        let history = node.history("red", page, limit).await;
        let seqs: Vec<u64> = history.messages.iter().map(|message| message.position.seq).collect();
        assert_eq!((seqs, history.more), (shown, more), "{page:?}");
    }
    assert_eq!(tail(&node.store, &epoch, 0).await, Ok(vec![1]), "up to the damaged one");
    assert_eq!(tail(&node.store, &epoch, 1).await, Err(3), "a client behind it is told");
    assert_eq!(tail(&node.store, &epoch, 2).await, Ok(vec![3, 4, 5, 6]));
}

/// The records after a position, or the first that can be read.
async fn tail(store: &Store, epoch: &Epoch, seq: u64) -> Result<Vec<u64>, u64> {
    let after = Position { epoch: epoch.clone(), seq };
    match store.log.tail(0, after, 9).await.expect("it can be read") {
        LogTail::Records { records, .. } => {
            Ok(records.iter().map(|record| record.position.seq).collect())
        }
        LogTail::Trimmed { first } => Err(first),
        LogTail::OtherEpoch => panic!("it is the epoch of the log"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_row_of_the_file_is_passed_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = open(dir.path(), retention());
    let epoch = fill(&node).await;
    let damage = "UPDATE messages SET body = '{' WHERE seq = 2;
                  UPDATE states SET state = 'edited 7 {' || char(10) WHERE seq = 3;";
    database(dir.path()).execute_batch(damage).expect("it is written");
    check_rest_is_shown(&node, epoch).await;
    node.store.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_in_redis_is_passed_over() {
    let mut log = Shared::fresh(retention()).await;
    let node = log.node().await;
    let epoch = fill(&node).await;
    let damage = r#"
        local entries = redis.call('XRANGE', KEYS[1], '-', '+')
        redis.call('DEL', KEYS[1])
        for _, entry in ipairs(entries) do
          local frame = string.gsub(entry[2][2], '"two"}', '{')
          redis.call('XADD', KEYS[1], entry[1], 'f', frame)
        end
        local frame = string.gsub(redis.call('LINDEX', KEYS[2], 3), '"two"}', '{')
        redis.call('LSET', KEYS[2], 3, frame)
        return redis.call('HSET', KEYS[3], 3, 'edited 7 {')"#;
    let keys = ["test:{0}:log", "test:{0}:room:red", "test:{0}:state:red"];
    let done = log.redis.call(&["EVAL", damage, "3", keys[0], keys[1], keys[2]]).await;
    assert!(matches!(done, Reply::Number(0)), "the field was there: {done:?}");
    check_rest_is_shown(&node, epoch).await;
    node.store.lifecycle.close().await;
}
