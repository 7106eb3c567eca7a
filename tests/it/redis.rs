//! The Redis store against the contract, over a real redis-server.

use std::{collections::HashMap, time::Duration};

use roomcast::{
    domain::{page::Page, record::Draft},
    store::{
        Health, NodeEvent, RetentionPolicy, log::AppendError, presence::Signal,
        redis::node::LeaseSettings,
    },
};
use tokio::sync::mpsc;

use crate::harness::{
    PATIENCE, eventually,
    presence::user_named,
    redis::{Keeps, Redis, Reply},
    redis_store::{Shared, open, ready},
    store::{Log, append, draft, later, must_append, retention, room},
};

contract!(redis_bus, super::Shared, persistent, shared);
session_contract!(redis_sessions, super::Shared, persistent, shared);
presence_contract!(redis_people, super::Shared, persistent, shared);
account_contract!(redis_accounts, super::Shared);

#[tokio::test]
async fn a_room_that_expired_is_reported_as_trimmed() {
    let ttl = Duration::from_secs(1);
    let mut log = Shared::fresh(RetentionPolicy { history_ttl: ttl, ..retention() }).await;
    let mut node = log.node().await;
    let first = must_append(&node.store, draft("lobby", "ann", "a", "1")).await;
    must_append(&node.store, draft("lobby", "ann", "b", "2")).await;
    eventually("the room expires", PATIENCE, async || {
        node.history("lobby", Page::Newest, 10).await.messages.is_empty().then_some(())
    })
    .await;
    let gone = node.history("lobby", Page::After(first.position.seq), 10).await;
    assert!(gone.trimmed, "nothing is left, and that is told");
    let last = must_append(&node.store, draft("lobby", "ann", "c", "3")).await;
    let page = node.history("lobby", Page::After(first.position.seq), 10).await;
    assert_eq!((page.messages.len(), page.trimmed), (1, true), "what is new hides no hole");
    let page = node.history("lobby", Page::After(last.position.seq - 1), 10).await;
    assert_eq!((page.messages.len(), page.trimmed), (1, false));
    node.hear(3).await;
    node.store.lifecycle.close().await;
}

#[tokio::test]
async fn a_full_redis_is_not_ready_until_a_write_works_again() {
    let mut log = Shared::fresh(retention()).await;
    let node = log.node().await;
    log.redis.call(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let refused = append(&node.store, draft("lobby", "ann", "a", "1")).await;
    assert_eq!(refused, Err(AppendError::Unavailable), "certainly not stored");
    assert!(
        matches!(&*node.store.lifecycle.health().borrow(), Health::Down { reason } if reason.contains("OOM"))
    );
    log.redis.call(&["CONFIG", "SET", "maxmemory", "0"]).await;
    ready(&node.store, PATIENCE).await;
    assert_eq!(must_append(&node.store, draft("lobby", "ann", "a", "1")).await.position.seq, 1);
    node.store.lifecycle.close().await;
}

#[tokio::test]
async fn a_stored_message_that_cannot_be_announced_is_acked_and_read_from_the_log() {
    let mut log = Shared::fresh(retention()).await;
    let mut node = log.node().await;
    log.redis.call(&["SET", "test:{0}:room:lobby", "not a list"]).await;
    log.redis.call(&["HSET", "test:{0}:rooms", "r:lobby", "1"]).await;
    let stored = must_append(&node.store, draft("lobby", "ann", "a", "1")).await;
    let mut health = node.store.lifecycle.health();
    let down = health.wait_for(
        |health| matches!(health, Health::Down { reason } if reason.contains("not announced")),
    );
    tokio::time::timeout(PATIENCE, down).await.expect("it is said").expect("the store runs");
    assert_eq!(node.hear(1).await[0].position, stored.position);
    node.store.lifecycle.close().await;
}

#[tokio::test]
async fn each_partition_has_an_order_of_its_own_on_every_node() {
    let log = Shared::fresh(retention()).await;
    let (mut one, mut two) = (log.node_with(4).await, log.node_with(4).await);
    let mut tops: HashMap<u16, u64> = HashMap::new();
    for n in 0..200 {
        let node = if n % 2 == 0 { &one } else { &two };
        let draft = draft(&format!("room {}", n % 8), "ann", &format!("m{n}"), &n.to_string());
        let partition = node.store.log.partition(&draft.room);
        let top = tops.entry(partition).or_default();
        *top += 1;
        assert_eq!(
            must_append(&node.store, draft).await.position.seq,
            *top,
            "dense in its partition"
        );
    }
    assert!(tops.len() > 1, "eight rooms are not all in one of four partitions");
    for node in [&mut one, &mut two] {
        let mut seen: HashMap<u16, u64> = HashMap::new();
        for message in node.hear(200).await {
            let last = seen.entry(node.store.log.partition(&message.room)).or_default();
            *last += 1;
            assert_eq!(message.position.seq, *last, "in order of its partition");
        }
        assert_eq!(seen, tops);
        node.store.lifecycle.close().await;
    }
}

/// The ids that Redis remembers are of some messages of a frame, and their places of all.
#[tokio::test]
async fn retries_among_new_messages_find_their_places_on_another_node() {
    const COUNT: usize = 3_000;
    let mut log = Shared::fresh(retention()).await;
    let (mut one, mut two) = (log.node().await, log.node().await);
    let drafts: Vec<Draft> = (0..COUNT)
        .map(|n| Draft {
            repeatable: n % 3 > 0,
            ..draft(["red", "blue"][n % 2], "ann", &format!("m{n}"), &n.to_string())
        })
        .collect();
    let (first, _) = one.pass(&drafts).await;
    two.hear(COUNT).await;

    // Four retries, of frames far apart, and a new message, again and again.
    let again: Vec<Draft> = (0..COUNT)
        .map(|n| match (n % 5, n * 7 % COUNT) {
            (0, _) => draft("red", "bob", &format!("new{n}"), "0"),
            (_, old) => later(drafts[old - old % 3 + 1].clone(), Duration::from_secs(1)),
        })
        .collect();
    let (settled, mut outcomes) = mpsc::channel(COUNT);
    for draft in &again {
        let settled = settled.clone();
        let settle = Box::new(move |outcome| settled.try_send(outcome).expect("there is room"));
        two.store.log.append(draft.clone(), settle);
    }
    let mut next = COUNT as u64;
    for (n, draft) in again.iter().enumerate() {
        let stored = outcomes.recv().await.expect("it settles").expect("it is stored");
        if n % 5 == 0 {
            next += 1;
            assert_eq!((stored.position.seq, stored.at), (next, draft.at), "new, in order");
        } else {
            let old = n * 7 % COUNT;
            assert_eq!(stored, first[old - old % 3 + 1], "the place and time of the first");
        }
    }
    for node in [&mut one, &mut two] {
        let heard = node.hear(COUNT / 5).await;
        assert!(heard.iter().all(|message| message.from.as_str() == "bob"), "only what is new");
        node.store.lifecycle.close().await;
    }
}

/// Writes the ids as releases without contents do. Before that it finds them as such a release does,
/// and fails where that would find none.
const IDS_OF_AN_OLDER_RELEASE: &str = "
    local all = {}
    local fields = redis.call('HGETALL', KEYS[1])
    for i = 1, #fields, 2 do all[fields[i]] = fields[i + 1] end
    local found = 0
    for field, value in pairs(all) do
      local kind = string.sub(field, 1, 1)
      local token = #field == 14 and value or string.sub(field, 2)
      local older = string.gsub(token, ':', '.')
      if #field == 14 then
        local theirs, at = all['@' .. token], 0
        repeat at = string.find(theirs, field, at + 1, true) until at % 31 == 1
        assert(tonumber(string.sub(theirs, at + 14, at + 17)) > 0)
        found = found + 1
        redis.call('HSET', KEYS[1], field, older)
      elseif kind == '@' then
        redis.call('HSET', KEYS[1], '@' .. older, string.sub(value, 1, #value / 37 * 31))
      else
        redis.call('HSET', KEYS[1], '#' .. older, value)
      end
    end
    return found";

#[tokio::test]
async fn ids_are_shared_with_nodes_of_an_older_release() {
    const COUNT: usize = 300;
    let mut log = Shared::fresh(retention()).await;
    let mut node = log.node().await;
    let drafts: Vec<Draft> =
        (0..COUNT).map(|n| draft("red", "ann", &format!("m{n}"), &n.to_string())).collect();
    let (first, _) = node.pass(&drafts).await;
    let Reply::Many(buckets) = log.redis.call(&["KEYS", "test:{0}:ids:*"]).await else {
        panic!("no list");
    };
    let mut found = 0;
    for bucket in buckets.into_iter().map(Reply::into_text) {
        let script = ["EVAL", IDS_OF_AN_OLDER_RELEASE, "1", &bucket];
        match log.redis.call(&script).await {
            Reply::Number(number) => found += number,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(found, COUNT as i64, "an older node finds each");
    for n in [0, 1, COUNT - 1] {
        assert_eq!(must_append(&node.store, drafts[n].clone()).await, first[n]);
        let other = draft("red", "ann", &format!("m{n}"), "\"other\"");
        assert_eq!(must_append(&node.store, other).await, first[n], "it has no content to compare");
    }
    node.hear_no_more().await;
    node.store.lifecycle.close().await;
}

/// Redis keeps keys apart by database, but not channels.
#[tokio::test]
async fn chats_on_two_databases_hear_nothing_of_each_other() {
    let redis = Redis::start(Keeps::Nothing).await;
    let mut nodes = Vec::new();
    for database in 0..2 {
        let url = format!("{}/{database}", redis.url());
        nodes.push(open(&url, 1, retention(), LeaseSettings::default()).await);
    }
    for (node, name) in nodes.iter_mut().zip(["ann", "bob"]) {
        let user = user_named(name, name);
        let signal = Signal::Typing { room: room("lobby"), user, typing: true };
        node.store.presence.publish(signal.clone());
        loop {
            match node.node_events.recv().await.expect("the store runs") {
                NodeEvent::SignalsLost { .. } => {}
                event => break assert_eq!(event, NodeEvent::Signal(signal)),
            }
        }
        let stored = must_append(&node.store, draft("lobby", name, "id", "1")).await;
        assert_eq!(node.hear(1).await[0].position, stored.position);
    }
    for node in nodes {
        node.store.lifecycle.close().await;
    }
}
