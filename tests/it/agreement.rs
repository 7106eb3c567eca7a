//! Nodes that share a Redis and differ: the one that came later does not become ready.

use std::time::Duration;

use roomcast::store::{
    Health, Store,
    log::AppendError,
    redis::agreement::{AgreedValue, Agreement},
};
use tokio::time::timeout;

use crate::harness::{
    PATIENCE, eventually,
    node::Node as Server,
    redis::{Keeps, Redis, Reply},
    redis_store::{Mortal, QUICK, open_with, ready},
    store::{Node, append, draft, must_append, retention},
};

/// How long a node that must not become ready is watched: two of its beats.
const WATCHED: Duration = QUICK.beat.saturating_mul(2);

fn with(table: &str, accepted: &[&str]) -> Agreement {
    let value = AgreedValue {
        name: "the event table (--events)".to_owned(),
        value: table.to_owned(),
        accepted: accepted.iter().map(|&text| text.to_owned()).collect(),
    };
    Agreement { values: vec![value] }
}

fn start(redis: &Redis, partitions: u16, agreement: Agreement) -> Node {
    open_with(&redis.url(), partitions, (retention(), QUICK), agreement)
}

/// Waits until it says that it is not ready for a reason with these words, and stays so.
async fn is_refused(store: &Store, words: &[&str]) {
    let health = store.lifecycle.health();
    let tells = |health: &Health| match health {
        Health::Down { reason } => words.iter().all(|word| reason.contains(word)),
        Health::Ready => panic!("it became ready"),
    };
    eventually("it says why", PATIENCE, async || tells(&health.borrow()).then_some(())).await;
    let mut watched = store.lifecycle.health();
    let ready = watched.wait_for(|health| *health == Health::Ready);
    timeout(WATCHED, ready).await.expect_err("it stays so");
    let refused = append(store, draft("lobby", "ann", "refused", "1")).await;
    assert_eq!(refused, Err(AppendError::Unavailable));
}

#[tokio::test]
async fn a_node_with_another_event_table_is_not_ready_while_the_first_lives() {
    let redis = Redis::start(Keeps::Nothing).await;
    let first = start(&redis, 1, with("one", &[]));
    ready(&first.store, PATIENCE).await;
    let other = start(&redis, 1, with("two", &[]));
    is_refused(&other.store, &["the event table (--events)", "one", "two", "lease"]).await;
    // A node that agrees with the first is not held up by one that waits.
    let same = start(&redis, 1, with("one", &[]));
    ready(&same.store, PATIENCE).await;
    let newer = start(&redis, 1, with("three", &["one"]));
    ready(&newer.store, PATIENCE).await;
    must_append(&first.store, draft("lobby", "ann", "a", "1")).await;
    assert_eq!(*first.store.lifecycle.health().borrow(), Health::Ready, "the first one serves");
    for node in [&first, &same, &newer] {
        assert_ne!(*other.store.lifecycle.health().borrow(), Health::Ready);
        node.store.lifecycle.close().await;
    }
    ready(&other.store, PATIENCE).await;
    must_append(&other.store, draft("lobby", "ann", "b", "1")).await;
    other.store.lifecycle.close().await;
}

#[tokio::test]
async fn of_nodes_that_wait_one_is_ready_when_the_first_is_gone() {
    let redis = Redis::start(Keeps::Nothing).await;
    let first = start(&redis, 1, with("one", &[]));
    ready(&first.store, PATIENCE).await;
    let waiting = ["two", "three"].map(|table| start(&redis, 1, with(table, &[])));
    for node in &waiting {
        is_refused(&node.store, &["one"]).await;
    }
    first.store.lifecycle.close().await;
    let is_ready = |node: &Node| *node.store.lifecycle.health().borrow() == Health::Ready;
    let count = || waiting.iter().filter(|node| is_ready(node)).count();
    eventually("one is ready", PATIENCE, async || (count() == 1).then_some(())).await;
    tokio::time::sleep(WATCHED).await;
    assert_eq!(count(), 1, "and only one");
}

#[tokio::test]
async fn a_node_with_other_partitions_than_the_data_is_not_ready() {
    let redis = Redis::start(Keeps::Nothing).await;
    let first = start(&redis, 4, Agreement::default());
    ready(&first.store, PATIENCE).await;
    let other = start(&redis, 1, Agreement::default());
    let words = ["stored in 4 partitions", "--partitions 1", "--partitions 4"];
    is_refused(&other.store, &words).await;
    first.store.lifecycle.close().await;
    tokio::time::sleep(QUICK.lease + QUICK.beat).await;
    is_refused(&other.store, &words).await;
    other.store.lifecycle.close().await;
    let right = start(&redis, 4, Agreement::default());
    ready(&right.store, PATIENCE).await;
    right.store.lifecycle.close().await;
}

/// Two processes, and what an operator sees of the second one.
#[tokio::test]
async fn readyz_and_the_log_say_why_a_node_differs() {
    let redis = Redis::start(Keeps::Nothing).await;
    let first = Server::start(&["--redis", &redis.url(), "--partitions", "4"]).await;
    first.wait_ready(PATIENCE).await;
    let other = Server::start(&["--redis", &redis.url()]).await;
    eventually("it says why", PATIENCE, async || {
        let reason = other.ready().await.expect_err("it never becomes ready");
        reason.contains("stored in 4 partitions").then_some(())
    })
    .await;
    let logged = other.logs("this node does not serve");
    let [line] = logged.as_slice() else { panic!("{logged:?}") };
    let reason = line["fields"]["reason"].as_str().expect("a text");
    assert!(reason.contains("Start it with --partitions 4"), "{reason}");
    first.ready().await.expect("the first one serves");
}

/// Redis names a node and its values for as long as it lives, and a little longer.
#[tokio::test]
async fn nodes_that_are_gone_leave_no_values() {
    let redis = Redis::start(Keeps::Nothing).await;
    for _ in 0..3 {
        Mortal::start(&redis, 1, retention()).await.die();
    }
    tokio::time::sleep(QUICK.lease).await;
    let node = start(&redis, 1, Agreement::default());
    let left = async || redis.call(&["HLEN", "test:{0}:agreed"]).await;
    ready(&node.store, PATIENCE).await;
    eventually("the dead are reaped", PATIENCE, async || {
        (redis.call(&["ZCARD", "test:{0}:nodes"]).await == Reply::Number(1)).then_some(())
    })
    .await;
    let last = start(&redis, 1, Agreement::default());
    ready(&last.store, PATIENCE).await;
    assert_eq!(left().await, Reply::Number(3), "two nodes, and the number of partitions");
    for node in [node, last] {
        node.store.lifecycle.close().await;
    }
}

/// Nodes before this release have a lease, and no values.
#[tokio::test]
async fn a_node_of_an_older_release_makes_no_other_wait() {
    let redis = Redis::start(Keeps::Nothing).await;
    redis.call(&["ZADD", "test:{0}:nodes", "9999999999999", "0a1b.1"]).await;
    let node = start(&redis, 1, with("one", &[]));
    ready(&node.store, PATIENCE).await;
    must_append(&node.store, draft("lobby", "ann", "a", "1")).await;
    node.store.lifecycle.close().await;
}

#[tokio::test]
async fn a_redis_that_refuses_writes_does_not_hold_up_a_node() {
    let redis = Redis::start(Keeps::Nothing).await;
    redis.call(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let node = start(&redis, 1, with("one", &[]));
    ready(&node.store, PATIENCE).await;
    node.store.lifecycle.close().await;
}
