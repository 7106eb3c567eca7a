//! The contract about ids: a retry gets the position of the first, and another message none.

use std::time::Duration;

use roomcast::{
    domain::{
        name::{Emoji, MessageId, PublicId, UserName},
        record::{Body, Change, Draft, Entry, Stored},
    },
    store::log::AppendError,
};
use tokio::{sync::mpsc, time::timeout};

use crate::harness::store::{
    DEADLINE, Log, Node, check_dense, draft, later, must_append, record, retention, room, source,
    telling,
};

pub async fn a_retry_shows_once<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let window = retention().idempotency_window;
    let original = draft("lobby", "ann", "one", "\"first\"");

    let tries = [0, 1, 2].map(|number| later(original.clone(), Duration::from_millis(number)));
    let stored = append_at_once(&node, &tries).await;
    let first = stored[0].clone().expect("it is stored");
    assert_eq!((first.position.seq, first.at), (1, original.at));
    assert_eq!(stored, [0; 3].map(|_| Ok(first.clone())), "in one batch");
    assert_eq!(node.hear(1).await[0].entry, original.entry);

    assert_eq!(must_append(&node.store, original.clone()).await, first, "in a later batch");
    let (name, except) = (UserName::parse("Ann").ok(), PublicId::parse("p1").ok());
    let renamed = Draft { name, except, ..original.clone() };
    assert_eq!(must_append(&node.store, renamed).await, first, "under another name");
    let late = later(original.clone(), window);
    assert_eq!(must_append(&node.store, late).await, first, "at the window's end");
    node.hear_no_more().await;

    let other = must_append(&node.store, draft("lobby", "bob", "one", "2")).await;
    assert_ne!(other.position, first.position, "an id belongs to its sender");
    node.hear(1).await;

    assert_eq!(node.whole_history("lobby").await.len(), 2);
    node.store.lifecycle.close().await;
}

/// What a client may have sent, each different from all others. Their id is the same.
fn contents() -> Vec<Draft> {
    let message = draft("lobby", "ann", "one", "\"a\"");
    let sent = |source| Draft { source: Some(source), ..message.clone() };
    let change = |target_seq, change| Draft {
        entry: Entry::Change { target_seq, change },
        ..message.clone()
    };
    let edit = |text| Change::Edit(Body::from_json(text));
    let react = |text, on| Change::React { emoji: Emoji::parse(text).expect("an emoji"), on };
    vec![
        message.clone(),
        Draft { room: room("red"), ..message.clone() },
        Draft { room: room("dm:ann:bob"), ..message.clone() },
        draft("lobby", "ann", "one", "\"b\""),
        draft("lobby", "ann", "one", "[\"a\"]"),
        sent(source("say", "[\"a\"]", None)),
        sent(source("say", "[\"a\",1]", None)),
        sent(source("say\n", "[\"a\"]", None)),
        sent(source("shout", "[\"a\"]", None)),
        change(1, edit("\"a\"")),
        change(2, edit("\"a\"")),
        change(1, edit("\"b\"")),
        change(1, Change::Delete),
        change(2, Change::Delete),
        change(1, react("+1", true)),
        change(1, react("+1", false)),
        change(1, react("-1", true)),
    ]
}

/// Stores each content with an id of its own.
async fn store_each(node: &mut Node) -> Vec<(Draft, Stored)> {
    let id = |n: usize| MessageId::parse(&format!("id-{n}")).expect("an id");
    let drafts = contents().into_iter().enumerate();
    let drafts: Vec<Draft> = drafts.map(|(n, draft)| Draft { id: id(n), ..draft }).collect();
    let (stored, _) = node.pass(&drafts).await;
    drafts.into_iter().zip(stored).collect()
}

/// Sends each content with the id of each other one: only the retries are answered `ok`.
async fn check_each(node: &Node, known: &[(Draft, Stored)]) {
    for (first, stored) in known {
        let mut tries = contents();
        tries.iter_mut().for_each(|draft| draft.id = first.id.clone());
        let outcomes = append_at_once(node, &tries).await;
        for (draft, outcome) in tries.into_iter().zip(outcomes) {
            let is_same = Draft { at: first.at, ..draft.clone() } == *first;
            let expected = if is_same { Ok(stored.clone()) } else { Err(AppendError::Conflict) };
            assert_eq!(outcome, expected, "{draft:?} after {first:?}");
        }
    }
}

pub async fn an_id_of_another_message_is_refused<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let known = store_each(&mut node).await;
    let history = node.whole_history("lobby").await;
    check_each(&node, &known).await;
    for (draft, stored) in &known {
        assert_eq!(must_append(&node.store, draft.clone()).await, *stored, "one by one");
    }
    node.hear_no_more().await;
    assert_eq!(node.whole_history("lobby").await, history, "nothing was stored");

    // All contents at once under a new id: the first is stored.
    let mut tries = contents();
    let count = tries.len();
    tries.push(tries[0].clone());
    let outcomes = append_at_once(&node, &tries).await;
    let first = outcomes[0].clone().expect("it is stored");
    assert_eq!(outcomes[1..count], vec![Err(AppendError::Conflict); count - 1]);
    assert_eq!(outcomes[count], Ok(first.clone()), "its retry is answered");
    assert_eq!(node.hear(1).await, [record(tries[0].clone(), &first)]);
    node.hear_no_more().await;
    node.store.lifecycle.close().await;
}

pub async fn a_conflict_outlives_a_restart<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let known = store_each(&mut node).await;
    node.store.lifecycle.close().await;
    let mut node = log.node().await;
    check_each(&node, &known).await;
    node.hear_no_more().await;
    node.store.lifecycle.close().await;
}

#[allow(dead_code, reason = "for logs that several nodes share; the embedded one has one node")]
pub async fn a_conflict_is_seen_on_every_node<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let (mut one, mut two) = (log.node().await, log.node().await);
    let known = store_each(&mut one).await;
    two.hear(known.len()).await;
    check_each(&two, &known).await;
    two.hear_no_more().await;
    one.hear(1).await;
    one.store.lifecycle.close().await;
    two.store.lifecycle.close().await;
}

/// Appends all before the first is answered, so most likely in one batch.
async fn append_at_once(node: &Node, drafts: &[Draft]) -> Vec<Result<Stored, AppendError>> {
    let (settled, mut outcomes) = mpsc::channel(drafts.len());
    for (number, draft) in drafts.iter().enumerate() {
        node.store.log.append(draft.clone(), telling(number, &settled));
    }
    let mut all = Vec::new();
    for _ in drafts {
        let outcome = timeout(DEADLINE, outcomes.recv()).await.expect("in time");
        all.push(outcome.expect("a sender is open").1);
    }
    all
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
