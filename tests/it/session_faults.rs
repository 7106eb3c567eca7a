//! Sessions when nodes die, when Redis is away or forgets, and when a log is cut off.

mod file;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use roomcast::{
    clock,
    domain::{
        name::{PublicId, UserId},
        position::Position,
    },
    store::{
        Health, Store,
        error::ReadError,
        log::LogTail,
        sessions::{Holder, SessionRecord},
    },
};

use crate::harness::{
    PATIENCE, eventually,
    presence::{Watch, user_named},
    redis::{Connection, Keeps, Redis, Reply},
    redis_store::{Mortal, QUICK, Shared, open, ready},
    sessions::{
        SHORT, claim, hear_taken, read, record, save, session, short, tail, user, whole_tail,
    },
    store::{Log, draft, must_append, retention, room},
};

/// After this time the sessions of a node that died are gone, if no node claims them.
const LEASE_AND_WINDOW: Duration = QUICK.lease.saturating_add(SHORT);

/// When a node first hears from Redis, it writes its sessions again.
async fn settled() {
    tokio::time::sleep(QUICK.beat).await;
}

async fn number(redis: &Redis, command: &[&str]) -> i64 {
    match redis.call(command).await {
        Reply::Number(number) => number,
        other => panic!("{other:?}"),
    }
}

async fn keys(redis: &Redis, pattern: &str) -> Vec<String> {
    match redis.call(&["KEYS", pattern]).await {
        Reply::Many(keys) => keys.into_iter().map(Reply::into_text).collect(),
        other => panic!("{other:?}"),
    }
}

fn name(session: &PublicId) -> String {
    format!("test:{{0}}:session:{session}")
}

async fn has(redis: &Redis, session: &PublicId) -> bool {
    number(redis, &["EXISTS", &name(session)]).await == 1
}

/// A session that is held has the ceiling as its expiry, and any other at most the window.
async fn is_held(redis: &Redis, session: &PublicId) -> bool {
    number(redis, &["PTTL", &name(session)]).await > 12 * 3_600 * 1_000
}

/// It comes back at the latest when Redis has it again.
async fn comes_back(store: &Store, session: &PublicId) -> SessionRecord {
    eventually("the session comes back", PATIENCE, async || {
        store.sessions.claim(session.clone(), Holder::random(), user()).await.ok().flatten()
    })
    .await
}

#[tokio::test]
async fn a_session_outlives_its_node_and_redis() {
    let mut redis = Redis::start(Keeps::Everything).await;
    let mortal = Mortal::start(&redis, 1, retention()).await;
    let saved = record(&["lobby"]);
    assert!(save(&mortal.node.store, &session("a"), Holder::random(), &saved).await);
    mortal.die();
    redis.kill();
    redis.restart().await;
    let other = open(&redis.url(), 1, retention(), QUICK).await;
    assert_eq!(claim(&other.store, &session("a"), Holder::random()).await, Some(saved));
    other.store.lifecycle.close().await;
}

/// Of several partitions, and more than one step gives an expiry.
#[tokio::test]
async fn the_sessions_of_a_dead_node_end_a_window_after_its_lease() {
    let redis = Redis::start(Keeps::Nothing).await;
    let other = open(&redis.url(), 3, short(), QUICK).await;
    let mortal = Mortal::start(&redis, 3, short()).await;
    let sessions: Vec<PublicId> = (0..2_000).map(|n| session(&format!("k{n}"))).collect();
    let store = &mortal.node.store;
    let saved = record(&["lobby"]);
    join_all(sessions.iter().map(|id| save(store, id, Holder::random(), &saved))).await;
    settled().await;
    let kept = claim(&other.store, &sessions[0], Holder::random()).await;
    assert_eq!(kept, Some(saved));
    mortal.die();
    let died = Instant::now();
    assert_eq!(keys(&redis, "test:{?}:held:*").await.len(), 4, "three of one, one of the other");
    eventually("one is left", PATIENCE, async || {
        (keys(&redis, "test:{?}:session:*").await.len() == 1).then_some(())
    })
    .await;
    assert!(died.elapsed() > SHORT, "{:?}", died.elapsed());
    assert_eq!(keys(&redis, "test:{?}:held:*").await.len(), 1);
    for partition in ["test:{0}:nodes", "test:{1}:nodes", "test:{2}:nodes"] {
        assert_eq!(number(&redis, &["ZCARD", partition]).await, 1);
    }
    other.store.lifecycle.close().await;
}

#[tokio::test]
async fn a_node_that_starts_later_reaps_the_only_one_that_died() {
    let redis = Redis::start(Keeps::Nothing).await;
    let mortal = Mortal::start(&redis, 1, short()).await;
    for name in ["a", "b"] {
        assert!(save(&mortal.node.store, &session(name), Holder::random(), &record(&[])).await);
    }
    settled().await;
    mortal.die();
    // Time itself must do no harm: nothing but the ceiling ends a session without a node.
    tokio::time::sleep(LEASE_AND_WINDOW).await;
    assert!(is_held(&redis, &session("a")).await && is_held(&redis, &session("b")).await);
    let held = keys(&redis, "test:{0}:held:*").await;
    assert!(number(&redis, &["PTTL", &held[0]]).await > 0, "nothing stays when all nodes die");
    let later = open(&redis.url(), 1, short(), QUICK).await;
    assert_eq!(claim(&later.store, &session("a"), Holder::random()).await, Some(record(&[])));
    eventually("the other one ends", PATIENCE, async || {
        (!has(&redis, &session("b")).await).then_some(())
    })
    .await;
    assert!(is_held(&redis, &session("a")).await);
    later.store.lifecycle.close().await;
}

/// What others claimed meanwhile is theirs; everything else is the node's again.
#[tokio::test]
async fn a_node_that_was_frozen_holds_its_sessions_again() {
    for times in [1, 2] {
        let redis = Redis::start(Keeps::Nothing).await;
        let other = open(&redis.url(), 1, short(), QUICK).await;
        let mut mortal = Mortal::start(&redis, 1, short()).await;
        let [ann, bob, cem] = [(); 3].map(|()| Holder::random());
        let (idle, changed) = (record(&["lobby"]), record(&["lobby", "red"]));
        for (name, holder) in [("a", ann), ("b", bob), ("c", cem)] {
            assert!(save(&mortal.node.store, &session(name), holder, &idle).await);
        }
        settled().await;
        mortal.freeze(LEASE_AND_WINDOW * times);
        let store = mortal.node.store.clone();
        let saving = store.sessions.save(session("c"), cem, changed.clone());
        eventually("its lease has ended and was reaped", PATIENCE, async || {
            (!is_held(&redis, &session("b")).await).then_some(())
        })
        .await;
        let claimed = Holder::random();
        assert_eq!(claim(&other.store, &session("b"), claimed).await, Some(idle.clone()));
        hear_taken(&mut mortal.node, &session("b"), bob).await;
        drop(saving);
        eventually("it holds the others again", PATIENCE, async || {
            let held = [is_held(&redis, &session("a")).await, is_held(&redis, &session("c")).await];
            (held == [true, true]).then_some(())
        })
        .await;
        assert_eq!(read(&mortal.node.store, &session("c")).await, Some(changed));
        assert!(save(&other.store, &session("b"), claimed, &idle).await);
        assert!(!save(&mortal.node.store, &session("b"), bob, &idle).await);
        mortal.die();
        other.store.lifecycle.close().await;
    }
}

#[tokio::test]
async fn no_session_ends_because_redis_was_away() {
    let mut redis = Redis::start(Keeps::Everything).await;
    let mut nodes = Vec::new();
    for name in ["a", "b"] {
        let node = open(&redis.url(), 1, short(), QUICK).await;
        assert!(save(&node.store, &session(name), Holder::random(), &record(&[name])).await);
        nodes.push(node);
    }
    for kill in [true, false] {
        if kill {
            redis.kill()
        } else {
            redis.freeze()
        }
        tokio::time::sleep(LEASE_AND_WINDOW + QUICK.beat).await;
        if kill {
            redis.restart().await
        } else {
            redis.thaw()
        }
        for node in &nodes {
            ready(&node.store, PATIENCE).await;
        }
        // Both nodes had time to reap.
        tokio::time::sleep(LEASE_AND_WINDOW).await;
        assert!(is_held(&redis, &session("a")).await && is_held(&redis, &session("b")).await);
        assert_eq!(
            number(&redis, &["ZCARD", "test:{0}:nodes"]).await,
            2,
            "the old leases are gone"
        );
    }
    assert_eq!(claim(&nodes[0].store, &session("b"), Holder::random()).await, Some(record(&["b"])));
    for node in nodes {
        node.store.lifecycle.close().await;
    }
}

/// Only beats call scripts, however many sessions there are.
#[tokio::test]
async fn idle_sessions_cost_nothing_but_the_beats_of_their_node() {
    const BEATS: u32 = 20;
    let mut log = Shared::quick(short()).await;
    let node = log.node().await;
    let sessions: Vec<PublicId> = (0..100).map(|n| session(&format!("k{n}"))).collect();
    let idle = record(&["lobby"]);
    join_all(sessions.iter().map(|id| save(&node.store, id, Holder::random(), &idle))).await;
    settled().await;
    let scripts = async || log.redis.calls(&["evalsha", "eval"]).await;
    let (before, saves) = (scripts().await, log.redis.calls(&["set"]).await);
    tokio::time::sleep(QUICK.beat * BEATS).await;
    let calls = scripts().await - before;
    assert!(calls <= u64::from(BEATS) + 2, "{calls} calls");
    assert!(calls >= u64::from(BEATS) / 3, "{calls} beats keep no lease");
    assert_eq!(log.redis.calls(&["set"]).await, saves);
    assert!(is_held(&log.redis, &sessions[0]).await);
    node.store.lifecycle.close().await;
}

/// Every script gets all its keys, and those of one slot.
#[tokio::test]
async fn sessions_of_a_lease_are_kept_in_a_cluster() {
    let redis = Redis::start_cluster().await;
    let one = open(&redis.cluster_url(), 3, short(), QUICK).await;
    let mut two = open(&redis.cluster_url(), 3, short(), QUICK).await;
    let saved = record(&["lobby"]);
    for n in 0..20 {
        let (id, holder) = (session(&format!("k{n}")), Holder::random());
        assert!(save(&one.store, &id, holder, &saved).await);
        one.store.presence.add(room(&format!("room {n}")), user_named("ann", "Ann"));
        if n % 2 == 0 {
            assert_eq!(claim(&two.store, &id, Holder::random()).await.as_ref(), Some(&saved));
        }
    }
    let mut watch = Watch::default();
    let all =
        |watch: &Watch| watch.rosters.values().filter(|heard| !heard.users.is_empty()).count();
    watch.until(&mut two, "all have come", |watch| all(watch) == 20).await;
    one.store.lifecycle.close().await;
    watch.until(&mut two, "all have left", |watch| all(watch) == 0).await;
    eventually("its sessions have ended", PATIENCE, async || {
        (keys(&redis, "test:{?}:session:*").await.len() == 10).then_some(())
    })
    .await;
    let errors = redis.call(&["INFO", "errorstats"]).await.into_text();
    let others = errors.lines().filter(|line| line.starts_with("errorstat_"));
    assert_eq!(others.filter(|line| !line.contains("_NOSCRIPT:")).count(), 0, "{errors}");
    two.store.lifecycle.close().await;
}

/// An older node keeps each session under its own key, with a lease of its own. Supported is that
/// such a session is claimed here, and that such a node dies; not that it claims from this one.
#[tokio::test]
async fn a_session_of_an_older_node_is_taken_over() {
    let mut log = Shared::quick(short()).await;
    let redis = &log.redis;
    let line = r#"{"user":"ann \"é\" 😀","rooms":[["lobby",null]]}"#;
    let value = format!("00000000000000aa 3\n{line}");
    for id in ["a", "b"] {
        redis.call(&["SET", &format!("test:session:{id}"), &value, "PX", "60000"]).await;
    }
    redis.call(&["ZADD", "test:{0}:nodes", "1", "older"]).await;
    redis.call(&["HSET", "test:{0}:at:older", "lobby\nann", "1", "", "1"]).await;
    redis.call(&["HSET", "test:{0}:roster:lobby", "ann", r#"1 {"id":"ann"}"#, "", "1"]).await;
    let mut older = Connection::open(redis.address).await.expect("it accepts");
    older.call(&["SUBSCRIBE", "test:{0}:sessions"]).await.expect("it answers");
    let node = log.node().await;
    let found = Some(record(&["lobby"]));
    assert_eq!(read(&node.store, &session("a")).await, found);
    let stranger = UserId::parse("bob").expect("a user");
    let stolen = node.store.sessions.claim(session("b"), Holder::random(), stranger).await;
    assert_eq!(stolen.expect("it can be read"), None);
    let holder = Holder::random();
    assert_eq!(claim(&node.store, &session("a"), holder).await, found);
    let heard = ["message", "test:{0}:sessions", "00000000000000aa"].map(Reply::text).to_vec();
    assert_eq!(older.reply().await.expect("a message"), Reply::Many(heard));
    assert_eq!(keys(&log.redis, "test:session:*").await, ["test:session:b"]);
    assert!(save(&node.store, &session("a"), holder, &record(&[])).await);
    eventually("the older node is reaped", PATIENCE, async || {
        (is_held(&log.redis, &session("a")).await
            && keys(&log.redis, "test:{0}:at:older").await.is_empty()
            && number(&log.redis, &["ZCARD", "test:{0}:nodes"]).await == 1)
            .then_some(())
    })
    .await;
    node.store.lifecycle.close().await;
}

#[tokio::test]
async fn sessions_that_redis_lost_are_written_again() {
    let mut log = Shared::quick(retention()).await;
    let (one, two) = (log.node().await, log.node().await);
    let (saved, claimed) = (record(&["lobby"]), record(&["red"]));
    assert!(save(&one.store, &session("a"), Holder::random(), &saved).await);
    assert!(save(&two.store, &session("b"), Holder::random(), &claimed).await);
    assert_eq!(claim(&one.store, &session("b"), Holder::random()).await, Some(claimed.clone()));
    log.redis.call(&["FLUSHALL"]).await;
    assert_eq!(comes_back(&two.store, &session("a")).await, saved);
    assert_eq!(comes_back(&two.store, &session("b")).await, claimed);
    one.store.lifecycle.close().await;
    two.store.lifecycle.close().await;
}

#[tokio::test]
async fn sessions_saved_while_redis_was_away_are_written_when_it_is_back() {
    let mut log = Shared::quick(retention()).await;
    let node = log.node().await;
    let (ann, bob) = (Holder::random(), Holder::random());
    assert!(save(&node.store, &session("a"), ann, &record(&["lobby"])).await);
    settled().await;
    log.redis.kill();
    let mut health = node.store.lifecycle.health();
    health.wait_for(|health| *health != Health::Ready).await.expect("the store runs");
    let (changed, fresh) = (record(&["lobby", "red"]), record(&["lobby"]));
    for (name, holder, record) in [("a", ann, &changed), ("b", bob, &fresh)] {
        let saved = node.store.sessions.save(session(name), holder, record.clone()).await;
        assert!(matches!(saved, Err(ReadError::Unavailable(_))), "{saved:?}");
    }
    let claimed = node.store.sessions.claim(session("a"), Holder::random(), user()).await;
    assert!(matches!(claimed, Err(ReadError::Unavailable(_))), "{claimed:?}");
    // Its connection ends meanwhile, too.
    node.store.sessions.release(session("b"), bob);
    log.redis.restart().await;
    let other = log.node().await;
    assert_eq!(comes_back(&other.store, &session("a")).await, changed);
    assert_eq!(comes_back(&other.store, &session("b")).await, fresh);
    node.store.lifecycle.close().await;
    other.store.lifecycle.close().await;
}

#[tokio::test]
async fn a_frozen_redis_holds_up_no_session_for_long() {
    let mut log = Shared::fresh(retention()).await;
    let node = log.node().await;
    log.redis.freeze();
    // More than are under way at a time.
    let claiming = (0..2_000)
        .map(|n| node.store.sessions.claim(session(&format!("k{n}")), Holder::random(), user()));
    let all = tokio::time::timeout(PATIENCE, futures_util::future::join_all(claiming)).await;
    for claimed in all.expect("all have an answer") {
        assert!(matches!(claimed, Err(ReadError::Unavailable(_))), "{claimed:?}");
    }
    log.redis.thaw();
    ready(&node.store, PATIENCE).await;
    assert!(save(&node.store, &session("a"), Holder::random(), &record(&[])).await);
    node.store.lifecycle.close().await;
}

/// A claim whose announcement is lost costs one beat.
#[tokio::test]
async fn a_loss_that_was_not_announced_is_noticed() {
    let mut log = Shared::quick(retention()).await;
    let mut node = log.node().await;
    let holder = Holder::random();
    assert!(save(&node.store, &session("a"), holder, &record(&[])).await);
    let claim = include_str!("../../src/store/redis/scripts/claim.lua");
    let held = "test:{0}:held:elsewhere";
    let keys = [&*name(&session("a")), "test:{0}:nodes", held, "test:{0}:claims"];
    let arguments =
        ["a", user().as_str(), "bb", "elsewhere", "9000", "90000", "unheard"].map(str::to_owned);
    let call = ["EVAL", claim, "4"].into_iter().chain(keys);
    let call: Vec<&str> = call.chain(arguments.iter().map(String::as_str)).collect();
    let claimed = log.redis.call(&call).await;
    assert!(matches!(&claimed, Reply::Many(record) if record.len() == 1), "{claimed:?}");
    hear_taken(&mut node, &session("a"), holder).await;
    assert_eq!(number(&log.redis, &["EXISTS", "test:{0}:claims"]).await, 0);
    node.store.lifecycle.close().await;
}

/// What a cut connection still carried may be done after what came over the next one.
#[tokio::test]
async fn a_delayed_save_does_not_undo_a_later_one() {
    let redis = Redis::start(Keeps::Nothing).await;
    let script = include_str!("../../src/store/redis/scripts/save.lua");
    let end = format!("{}000", clock::now().0);
    redis.call(&["ZADD", "nodes", &end, "n"]).await;
    let save = async |node: &str, holder: &str, number: &str, text: &str, left: &str| {
        let keys = ["EVAL", script, "3", "nodes", "held", "s"];
        let arguments = [node, "9000", "90000", "a", holder, number, text, left];
        redis.call(&[&keys[..], &arguments[..]].concat()).await
    };
    let reply = |alive, saved| Reply::Many(vec![Reply::Number(alive), Reply::Number(saved)]);
    for (number, text, kept) in [("2", "two", "two"), ("1", "one", "two"), ("3", "three", "three")]
    {
        assert_eq!(save("n", "aa", number, text, "").await, reply(1, 1));
        let there = redis.call(&["GET", "s"]).await.into_text();
        assert!(there.ends_with(&format!(" n\n{kept}")), "{there}");
    }
    assert_eq!(save("n", "bb", "4", "four", "").await, reply(1, 0));
    let held = Reply::Many(vec![Reply::text("a aa")]);
    assert_eq!(redis.call(&["SMEMBERS", "held"]).await, held);
    assert_eq!(save("n", "aa", "5", "five", "500").await, reply(1, 1));
    assert_eq!(save("n", "aa", "4", "four", "").await, reply(1, 1), "it came late");
    assert_eq!(redis.call(&["EXISTS", "held"]).await, Reply::Number(0), "it is released");
    assert!((1..=500).contains(&number(&redis, &["PTTL", "s"]).await));
    assert_eq!(save("n", "aa", "6", "", "500").await, reply(1, 1));
    let there = redis.call(&["GET", "s"]).await;
    assert_eq!(there, Reply::text("aa 6 -\nfive"), "whatever became of a claim");
    assert_eq!(save("gone", "aa", "7", "six", "").await, reply(0, 1), "stored, but not for long");
    assert!((1..=9_000).contains(&number(&redis, &["PTTL", "s"]).await));
    redis.call(&["DEL", "s"]).await;
    assert_eq!(save("n", "aa", "8", "", "500").await, reply(1, 1), "there was no claim");
    assert_eq!(redis.call(&["EXISTS", "s"]).await, Reply::Number(0));
}

#[tokio::test]
async fn a_subscriber_of_all_redis_channels_learns_no_session() {
    let mut log = Shared::fresh(retention()).await;
    let node = log.node().await;
    let mut subscriber = Connection::open(log.redis.address).await.expect("it accepts");
    subscriber.call(&["PSUBSCRIBE", "*"]).await.expect("it answers");
    assert!(save(&node.store, &session("s3cret"), Holder::random(), &record(&[])).await);
    claim(&node.store, &session("s3cret"), Holder::random()).await.expect("it is there");
    let heard = tokio::time::timeout(PATIENCE, subscriber.reply()).await.expect("it is announced");
    let Reply::Many(heard) = heard.expect("a message") else { panic!("no message") };
    assert_eq!(heard[2], Reply::text("test:{0}:sessions"));
    assert!(!format!("{heard:?}").contains("s3cret"), "{heard:?}");
    node.store.lifecycle.close().await;
}

#[tokio::test]
async fn a_tail_that_redis_has_cut_off_is_told() {
    let mut log = Shared::fresh(retention()).await;
    let mut node = log.node().await;
    for n in 0..10 {
        must_append(&node.store, draft("lobby", "ann", &format!("m{n}"), "0")).await;
    }
    let heard = node.hear(10).await;
    let at = |seq| Position { epoch: heard[0].position.epoch.clone(), seq };
    log.redis.call(&["XTRIM", "test:{0}:log", "MAXLEN", "4"]).await;
    assert_eq!(tail(&node, &at(5), 100).await, LogTail::Trimmed { first: 7 });
    assert!(whole_tail(&node, at(6), 3).await == heard[6..]);
    log.redis.call(&["XTRIM", "test:{0}:log", "MAXLEN", "0"]).await;
    assert_eq!(tail(&node, &at(9), 100).await, LogTail::Trimmed { first: 11 });
    assert!(whole_tail(&node, at(10), 3).await.is_empty());
    log.redis.call(&["DEL", "test:{0}:meta"]).await;
    assert_eq!(tail(&node, &at(10), 100).await, LogTail::OtherEpoch);
}
