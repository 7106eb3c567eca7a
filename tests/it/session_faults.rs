//! Sessions when nodes die, when Redis is away or forgets, and when a log is cut off.

use std::time::Duration;

use roomcast::{
    domain::{name::PublicId, position::Position, record::Draft},
    store::{
        Health, ReadError, RetentionPolicy, Store,
        log::LogTail,
        sessions::{Holder, SessionRecord},
    },
};

use crate::{
    harness::{
        PATIENCE, eventually,
        redis::{Connection, Keeps, Redis, Reply},
        store::{Log, Node, draft, must_append, originals, retention, until},
    },
    redis::{Shared, open, ready},
    sessions::{claim, hear_taken, record, save, session, short, tail, user, whole_tail},
    sqlite,
};

/// A node that ends as by kill -9: it releases nothing, and says goodbye to nobody.
pub struct Mortal {
    pub node: Node,
    runtime: tokio::runtime::Runtime,
}

impl Mortal {
    pub async fn start(redis: &Redis, retention: RetentionPolicy) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let url = redis.url();
        let node = runtime.spawn(async move { open(&url, 1, retention).await });
        Self { node: node.await.expect("it opens"), runtime }
    }

    pub fn die(self) {
        self.runtime.shutdown_background();
        drop(self.node);
    }
}

fn name(session: &PublicId) -> String {
    format!("test:session:{session}")
}

async fn has(redis: &Redis, session: &PublicId) -> bool {
    redis.call(&["EXISTS", &name(session)]).await == Reply::Number(1)
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
    let mortal = Mortal::start(&redis, retention()).await;
    let saved = record(&["lobby"]);
    assert!(save(&mortal.node.store, &session("a"), Holder::random(), &saved).await);
    mortal.die();
    redis.kill();
    redis.restart().await;
    let other = open(&redis.url(), 1, retention()).await;
    assert_eq!(claim(&other.store, &session("a"), Holder::random()).await, Some(saved));
    other.store.lifecycle.close().await;
}

#[tokio::test]
async fn the_session_of_a_dead_node_ends() {
    let redis = Redis::start(Keeps::Nothing).await;
    let mortal = Mortal::start(&redis, short()).await;
    assert!(save(&mortal.node.store, &session("a"), Holder::random(), &record(&[])).await);
    mortal.die();
    eventually("it ends", PATIENCE, async || (!has(&redis, &session("a")).await).then_some(()))
        .await;
}

#[tokio::test]
async fn what_redis_forgets_is_written_again() {
    let mut log = Shared::fresh(retention()).await;
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
async fn what_was_saved_while_redis_was_away_is_written_when_it_is_back() {
    let mut log = Shared::fresh(retention()).await;
    let node = log.node().await;
    let (ann, bob) = (Holder::random(), Holder::random());
    assert!(save(&node.store, &session("a"), ann, &record(&["lobby"])).await);
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

#[tokio::test]
async fn a_loss_that_nobody_announced_is_noticed() {
    let mut log = Shared::fresh(short()).await;
    let mut node = log.node().await;
    let holder = Holder::random();
    assert!(save(&node.store, &session("a"), holder, &record(&[])).await);
    log.redis.call(&["SET", &name(&session("a")), "0123456789abcdef 1\n{}"]).await;
    hear_taken(&mut node, &session("a"), holder).await;
    node.store.lifecycle.close().await;
}

/// What a cut connection still carried may be done after what came over the next one.
#[tokio::test]
async fn a_save_that_was_delayed_undoes_no_later_one() {
    let redis = Redis::start(Keeps::Nothing).await;
    let script = include_str!("../../src/store/redis/scripts/save.lua");
    for (number, text, kept) in [("2", "two", "two"), ("1", "one", "two"), ("3", "three", "three")]
    {
        let saved = redis.call(&["EVAL", script, "1", "s", "aa", number, text, "60000"]).await;
        assert_eq!(saved, Reply::Many(vec![Reply::Number(1)]));
        let there = redis.call(&["GET", "s"]).await.into_text();
        assert!(there.ends_with(&format!("\n{kept}")), "{there}");
    }
    let other = redis.call(&["EVAL", script, "1", "s", "bb", "4", "four", "60000"]).await;
    assert_eq!(other, Reply::Many(vec![Reply::Number(0)]));
}

#[tokio::test]
async fn who_watches_the_channels_learns_no_session() {
    let mut log = Shared::fresh(retention()).await;
    let node = log.node().await;
    let mut person = Connection::open(log.redis.address).await.expect("it accepts");
    person.call(&["PSUBSCRIBE", "*"]).await.expect("it answers");
    assert!(save(&node.store, &session("s3cret"), Holder::random(), &record(&[])).await);
    claim(&node.store, &session("s3cret"), Holder::random()).await.expect("it is there");
    let heard = tokio::time::timeout(PATIENCE, person.reply()).await.expect("it is announced");
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

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_that_the_file_has_cut_off_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = sqlite::open(dir.path(), retention());
    let drafts: Vec<Draft> = (0..10)
        .map(|n| {
            let draft = draft(["red", "blue"][n % 2], "ann", &format!("m{n}"), "0");
            let two_hours = Duration::from_secs(7_200);
            if n % 2 == 0 && n < 6 { sqlite::aged(draft, two_hours) } else { draft }
        })
        .collect();
    let (_, heard) = node.pass(&drafts).await;
    let at = |seq| Position { epoch: heard[0].position.epoch.clone(), seq };
    let file = sqlite::database(dir.path());
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
    let file = || sqlite::database(dir.path());
    let count = |what: &str| -> u64 {
        let sql = format!("SELECT count(*) FROM sessions WHERE {what}");
        file().query_row(&sql, [], |row| row.get(0)).expect("a count")
    };
    let saved = record(&["lobby"]);
    let node = sqlite::open(dir.path(), retention());
    assert!(save(&node.store, &session("a"), Holder::random(), &saved).await);
    assert!(save(&node.store, &session("b"), Holder::random(), &saved).await);
    // A store that is closed releases as little as one that is killed.
    node.store.lifecycle.close().await;
    assert_eq!((count("ends IS NULL"), count("ends IS NOT NULL")), (2, 0));

    let node = sqlite::open(dir.path(), retention());
    assert_eq!(count("ends IS NOT NULL"), 2, "the next start gives them an end");
    assert_eq!(claim(&node.store, &session("a"), Holder::random()).await, Some(saved));
    assert_eq!((count("ends IS NULL"), count("ends IS NOT NULL")), (1, 1));
    node.store.lifecycle.close().await;

    let window = Duration::from_millis(1);
    let node = sqlite::open(dir.path(), RetentionPolicy { recovery_window: window, ..retention() });
    until("what was left ends, and its row goes", || count("id = 'a'") == 0).await;
    assert_eq!(count("id = 'b'"), 1, "it has its end from the first start");
    node.store.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_an_older_program_is_brought_forward() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = sqlite::open(dir.path(), retention());
    for id in ["one", "two"] {
        must_append(&node.store, draft("lobby", "ann", id, "0")).await;
    }
    let heard = node.hear(2).await;
    node.store.lifecycle.close().await;
    let older = "DROP TABLE words; DROP TABLE profiles; DROP TABLE read_marks; DROP TABLE sessions;
         ALTER TABLE log DROP COLUMN indexed_to; ALTER TABLE log DROP COLUMN deleted_to;
         PRAGMA user_version = 1";
    let file = sqlite::database(dir.path());
    file.execute_batch(sqlite::BEFORE_RECORDS).expect("it can be set back");
    file.execute_batch(older).expect("it can be set back");

    let node = sqlite::open(dir.path(), retention());
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
