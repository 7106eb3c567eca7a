//! The contract about ids: a retry gets the position of the first.

use std::time::Duration;

use roomcast::domain::{
    page::Page,
    record::{Body, Draft, Entry},
};
use tokio::{sync::mpsc, time::timeout};

use crate::harness::store::{
    DEADLINE, Log, check_dense, draft, later, must_append, retention, room, telling,
};

pub async fn a_retry_shows_once<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let window = retention().idempotency_window;
    let original = draft("lobby", "ann", "one", "\"first\"");

    let (settled, mut outcomes) = mpsc::channel(8);
    for number in 0..3 {
        let body = Body::from_json(&format!("\"try {number}\""));
        let again = later(original.clone(), Duration::from_millis(number));
        node.store.log.append(Draft { entry: body.into(), ..again }, telling(0, &settled));
    }
    let mut stored = Vec::new();
    for _ in 0..3 {
        let (_, outcome) =
            timeout(DEADLINE, outcomes.recv()).await.expect("in time").expect("a sender is open");
        stored.push(outcome.expect("it is stored"));
    }
    let first = stored[0].clone();
    assert_eq!((first.position.seq, first.at), (1, original.at));
    assert_eq!(stored, [first.clone(), first.clone(), first.clone()], "in one batch");
    assert_eq!(node.hear(1).await[0].entry, Entry::Message(Body::from_json("\"try 0\"")));

    assert_eq!(must_append(&node.store, original.clone()).await, first, "in a later batch");
    let elsewhere = Draft { room: room("other"), ..original.clone() };
    assert_eq!(must_append(&node.store, elsewhere).await, first, "named for another room");
    let late = later(original.clone(), window);
    assert_eq!(must_append(&node.store, late).await, first, "at the window's end");
    node.hear_no_more().await;

    let other = must_append(&node.store, draft("lobby", "bob", "one", "2")).await;
    assert_ne!(other.position, first.position, "an id belongs to its sender");
    node.hear(1).await;

    assert_eq!(node.whole_history("lobby").await.len(), 2);
    assert_eq!(node.history("other", Page::Newest, 10).await.messages, []);
    node.store.lifecycle.close().await;
}

/// Ids in a hostile order, as random UUIDs are: every one of them is still known.
pub async fn many_ids_are_recognised<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let drafts: Vec<Draft> = (0..20_000_u64)
        .map(|n| {
            let id = format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            draft("lobby", "ann", &id, "0")
        })
        .collect();
    let (first, heard) = node.pass(&drafts).await;
    check_dense(&drafts, &first, &heard);
    let (settled, mut outcomes) = mpsc::channel(drafts.len());
    for (number, draft) in drafts.iter().enumerate().rev() {
        node.store.log.append(draft.clone(), telling(number, &settled));
    }
    for _ in 0..drafts.len() {
        let (number, again) =
            timeout(DEADLINE, outcomes.recv()).await.expect("in time").expect("a sender is open");
        assert_eq!(again.as_ref(), Ok(&first[number]));
    }
    node.hear_no_more().await;
    node.store.lifecycle.close().await;
}
