//! Presence when nodes die or freeze, and when Redis is away or forgets.

use std::time::{Duration, Instant};

use roomcast::store::Store;

use crate::harness::{
    PATIENCE, eventually,
    presence::{Watch, id, members, save, user_named},
    proxy::{Network, Proxy},
    redis::{Keeps, Redis, Reply},
    redis_store::{Mortal, QUICK, Shared, open, ready},
    sqlite_store,
    store::{DEADLINE, Log, Node, retention, room},
};

/// After a kill -9 of their node users are gone within this time.
const GONE_WITHIN: Duration = QUICK.lease.saturating_add(QUICK.beat);
/// What a loaded machine may add to it.
const SLACK: Duration = Duration::from_secs(5);

/// Two or more are there, sooner or later, whatever was told meanwhile.
async fn are_there(node: &Node, name: &str, wanted: &[&str]) {
    eventually("they are there", DEADLINE, async || {
        let members = node.store.presence.members(room(name), 1_000).await.ok()?;
        let ids: Vec<&str> = members.users.iter().map(|user| user.id.as_str()).collect();
        (ids == wanted).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_users_of_a_dead_node_leave_once() {
    let redis = Redis::start(Keeps::Nothing).await;
    let mut nodes = [(); 2].map(|()| None);
    for node in &mut nodes {
        *node = Some(open(&redis.url(), 1, retention(), QUICK).await);
    }
    let mut nodes = nodes.map(|node| node.expect("it was opened"));
    let mortal = Mortal::start(&redis, 1, retention()).await;
    // More than one call takes away, in several rooms.
    for n in 0..1_000 {
        let name = format!("room {}", n % 3);
        mortal.node.store.presence.add(room(&name), user_named(&format!("u{n}"), "U"));
    }
    mortal.node.store.presence.add(room("lobby"), user_named("ann", "Ann"));
    mortal.node.store.presence.add(room("lobby"), user_named("bob", "Bob"));
    nodes[0].store.presence.add(room("lobby"), user_named("bob", "Bob"));
    let mut watches = [Watch::default(), Watch::default()];
    for (node, watch) in nodes.iter_mut().zip(&mut watches) {
        let all = |watch: &Watch| {
            let rooms = (0..3).map(|n| watch.count(&format!("room {n}"))).sum::<usize>();
            rooms == 1_000 && watch.count("lobby") == 2
        };
        watch.until(node, "all are there", all).await;
    }
    mortal.die();
    let died = Instant::now();
    for (node, watch) in nodes.iter_mut().zip(&mut watches) {
        watch.until(node, "they are gone", |watch| watch.left.len() == 1_001).await;
        assert!(died.elapsed() < GONE_WITHIN + SLACK, "{:?}", died.elapsed());
        for name in ["room 0", "room 1", "room 2", "lobby"] {
            watch.check(&node.store, name).await;
        }
        assert_eq!(watch.count("lobby"), 1, "bob is on a node that lives");
        assert_eq!(watch.lost, 0);
    }
    println!("1 001 users of a dead node were gone after {:?}", died.elapsed());
    eventually("nothing is left of the node", PATIENCE, async || {
        let nodes = redis.call(&["ZCARD", "test:{0}:nodes"]).await;
        let keys = redis.call(&["KEYS", "test:{0}:at:*"]).await;
        let one = matches!(keys, Reply::Many(keys) if keys.len() == 1);
        (nodes == Reply::Number(2) && one).then_some(())
    })
    .await;
    let [one, _] = &mut nodes;
    one.hear_no_more().await;
    for node in &nodes {
        node.store.lifecycle.close().await;
    }
}

/// The users of a node leave when its lease has ended, and are back when the node is.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_frozen_comes_back_with_its_users() {
    let redis = Redis::start(Keeps::Nothing).await;
    let mut steady = open(&redis.url(), 1, retention(), QUICK).await;
    let link = Proxy::start(redis.address).await;
    let frozen = open(&format!("redis://{}", link.address), 1, retention(), QUICK).await;
    frozen.store.presence.add(room("lobby"), user_named("ann", "Ann"));
    frozen.store.presence.add(room("lobby"), user_named("bob", "Bob"));
    let mut watch = Watch::default();
    watch.until(&mut steady, "they have come", |watch| watch.count("lobby") == 2).await;
    link.set(Network::HalfOpen);
    watch.until(&mut steady, "they are gone", |watch| watch.count("lobby") == 0).await;
    // While no node hears it, one user leaves and one joins.
    frozen.store.presence.remove(room("lobby"), id("ann"));
    frozen.store.presence.add(room("lobby"), user_named("cem", "Cem"));
    link.heal();
    watch.until(&mut steady, "who is there has come", |watch| watch.count("lobby") == 2).await;
    watch.check(&steady.store, "lobby").await;
    assert_eq!(watch.left.len(), 2);
    let ids: Vec<&str> = watch.rosters[&room("lobby")].users.keys().map(|id| id.as_str()).collect();
    assert_eq!(ids, ["bob", "cem"]);
    ready(&frozen.store, PATIENCE).await;
    frozen.store.presence.remove(room("lobby"), id("bob"));
    watch.until(&mut steady, "bob has left", |watch| watch.count("lobby") == 1).await;
    steady.hear_no_more().await;
    frozen.store.lifecycle.close().await;
    steady.store.lifecycle.close().await;
}

/// Leases end while Redis stands still, but no user has left.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_redis_makes_no_user_leave() {
    let mut log = Shared::quick(retention()).await;
    let (mut one, two) = (log.node().await, log.node().await);
    one.store.presence.add(room("lobby"), user_named("ann", "Ann"));
    two.store.presence.add(room("lobby"), user_named("bob", "Bob"));
    let mut watch = Watch::default();
    watch.until(&mut one, "they have come", |watch| watch.count("lobby") == 2).await;
    let before = log.redis.call(&["ZRANGE", "test:{0}:nodes", "0", "-1"]).await;
    log.redis.freeze();
    // Time itself is the fault.
    tokio::time::sleep(QUICK.lease + Duration::from_secs(1)).await;
    log.redis.thaw();
    eventually(
        "both have another lease, and the old ones are gone",
        GONE_WITHIN + DEADLINE,
        async || {
            let Reply::Many(now) = log.redis.call(&["ZRANGE", "test:{0}:nodes", "0", "-1"]).await
            else {
                panic!("no list")
            };
            let Reply::Many(before) = &before else { panic!("no list") };
            (now.len() == 2 && !now.iter().any(|node| before.contains(node))).then_some(())
        },
    )
    .await;
    watch.check(&one.store, "lobby").await;
    watch.until(&mut one, "what was missed is said", |watch| watch.lost > 0).await;
    two.store.presence.remove(room("lobby"), id("bob"));
    watch.until(&mut one, "bob has left", |watch| watch.count("lobby") == 1).await;
    assert_eq!(watch.left, [id("bob")]);
    one.store.lifecycle.close().await;
    two.store.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_that_redis_lost_is_written_again() {
    let mut log = Shared::quick(retention()).await;
    let (mut one, two) = (log.node().await, log.node().await);
    one.store.presence.add(room("lobby"), user_named("ann", "Ann"));
    two.store.presence.add(room("lobby"), user_named("bob", "Bob"));
    are_there(&one, "lobby", &["ann", "bob"]).await;
    let version = members(&one.store, "lobby").await.version;
    log.redis.call(&["FLUSHALL"]).await;
    are_there(&one, "lobby", &["ann", "bob"]).await;
    assert!(members(&one.store, "lobby").await.version > version, "no version comes twice");
    let mut lost = 0;
    while lost == 0 {
        let event = tokio::time::timeout(DEADLINE, one.node_events.recv()).await;
        let event = event.expect("the loss is told").expect("the store runs");
        lost += usize::from(matches!(event, roomcast::store::NodeEvent::SignalsLost { .. }));
    }
    log.redis.kill();
    // Joins and leaves in the meantime are told when a node can hear them.
    one.store.presence.remove(room("lobby"), id("ann"));
    two.store.presence.add(room("lobby"), user_named("cem", "Cem"));
    log.redis.restart().await;
    are_there(&two, "lobby", &["bob", "cem"]).await;
    one.store.lifecycle.close().await;
    two.store.lifecycle.close().await;
}

/// A user that left is gone. A user that lost its node has until the end of the lease to come back.
#[tokio::test]
async fn a_node_that_stops_reports_the_users_that_leave() {
    // More than one turn of its keeper tells.
    const COUNT: usize = 12_000;
    let mut log = Shared::fresh(retention()).await;
    let mut node = log.node().await;
    let mut watch = Watch::default();
    for n in 0..COUNT {
        node.store.presence.add(room("lobby"), user_named(&format!("u{n}"), "U"));
    }
    watch.until(&mut node, "all have come", |watch| watch.count("lobby") == COUNT).await;
    for n in 1..COUNT {
        node.store.presence.remove(room("lobby"), id(&format!("u{n}")));
    }
    let (store, mut log_events) = (node.store, node.log_events);
    let reading = async { while log_events.recv().await.is_some() {} };
    let all = async { tokio::join!(store.lifecycle.close(), reading) };
    tokio::time::timeout(DEADLINE, all).await.expect("it closes in time");
    let left = log.redis.call(&["HKEYS", "test:{0}:roster:lobby"]).await;
    let Reply::Many(mut left) = left else { panic!("{left:?}") };
    left.retain(|field| *field != Reply::text(""));
    assert_eq!(left, [Reply::text("u0")]);
}

#[tokio::test]
async fn signals_that_may_have_been_missed_are_told() {
    let log = Shared::fresh(retention()).await;
    let mut node = log.node_with(2).await;
    let mut watch = Watch::default();
    node.store.presence.add(room("lobby"), user_named("ann", "Ann"));
    watch.until(&mut node, "ann has come", |watch| watch.count("lobby") == 1).await;
    assert_eq!(watch.lost, 0);
    log.redis.call(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    watch.until(&mut node, "both partitions are told", |watch| watch.lost >= 2).await;
    node.store.presence.add(room("lobby"), user_named("bob", "Bob"));
    watch.until(&mut node, "it hears again", |watch| watch.count("lobby") == 2).await;
    watch.check(&node.store, "lobby").await;
    node.store.lifecycle.close().await;
}

/// What a cut connection still carried may be done after what came over the next one.
#[tokio::test]
async fn a_delayed_change_does_not_undo_a_later_one() {
    let redis = Redis::start(Keeps::Nothing).await;
    let beat = include_str!("../../src/store/redis/scripts/beat.lua");
    let add_presence = include_str!("../../src/store/redis/scripts/presence.lua");
    let reap = include_str!("../../src/store/redis/scripts/reap.lua");
    let say = async |what: &str| {
        let keys = ["EVAL", beat, "3", "nodes", "held", "claims"];
        let arguments = ["n1", what, "60000", "90000", "500"];
        let Reply::Many(reply) = redis.call(&[&keys[..], &arguments[..]].concat()).await else {
            panic!("no reply")
        };
        reply[0].clone()
    };
    assert_eq!(say("hello").await, Reply::Number(1));
    let change = async |node: &str, number: &str, what: &str| {
        let keys = ["EVAL", add_presence, "4", "nodes", "at", "occupied", "roster"];
        let arguments = [node, number, "PUBLISH", "c", "lobby", "1", what, "ann", "{}"];
        redis.call(&[&keys[..], &arguments[..]].concat()).await
    };
    let done = |count| Reply::Many(vec![Reply::Number(1), Reply::Number(count)]);
    let refused = Reply::Many(vec![Reply::Number(0)]);
    assert_eq!(change("n1", "1", "+").await, done(1));
    assert_eq!(change("n1", "3", "-").await, done(0));
    assert_eq!(change("n1", "2", "+").await, done(0), "it came late");
    assert_eq!(redis.call(&["EXISTS", "roster"]).await, Reply::Number(0));
    assert_eq!(change("n1", "4", "+").await, done(1));
    assert_eq!(change("n2", "1", "+").await, refused, "it has no lease");
    assert_eq!(change("n1", "", "-").await, refused, "its lease has not ended");
    redis.call(&["ZADD", "nodes", "1", "n1"]).await;
    assert_eq!(change("n1", "5", "-").await, refused, "its lease has ended");
    assert_eq!(say("beat").await, Reply::Number(0), "and does not come back");
    assert_eq!(change("n1", "", "-").await, done(0));
    redis.call(&["EVAL", reap, "3", "nodes", "held", "claims", "n1", "9000", "1"]).await;
    assert_eq!(
        redis.call(&["EXISTS", "nodes", "at", "occupied", "roster"]).await,
        Reply::Number(0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rosters_are_empty_after_a_restart_of_the_only_node() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = sqlite_store::open(dir.path(), retention());
    node.store.presence.add(room("lobby"), user_named("ann", "Ann"));
    assert!(save(&node.store, &user_named("ann", "Ann")).await);
    assert_eq!(members(&node.store, "lobby").await.count, 1);
    node.store.lifecycle.close().await;
    drop(node);
    let node = sqlite_store::open(dir.path(), retention());
    assert_eq!(members(&node.store, "lobby").await.count, 0);
    let rows = |table: &str| {
        let sql = format!("SELECT count(*) FROM {table}");
        sqlite_store::database(dir.path()).query_row(&sql, [], |row| row.get::<_, u64>(0))
    };
    assert_eq!(rows("profiles").expect("a count"), 1);
    node.store.lifecycle.close().await;
    drop(node);
    let short = Duration::from_millis(1);
    let bounds = roomcast::store::RetentionPolicy { history_ttl: short, ..retention() };
    let node = sqlite_store::open(dir.path(), bounds);
    assert!(save(&node.store, &user_named("bob", "Bob")).await);
    // Ann's row was written with a long life; bob's ends at once.
    eventually("the row goes", DEADLINE, async || {
        (rows("profiles").expect("a count") == 1).then_some(())
    })
    .await;
    let store: &Store = &node.store;
    assert!(store.profiles.profile(id("ann")).await.expect("it can be read").is_some());
    store.lifecycle.close().await;
}
