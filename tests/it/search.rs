//! Search in a room's history: every store finds what the rule of `domain/search.rs` says, and clients
//! are answered as docs/protocol.md has it.

use std::time::Duration;

use roomcast::{
    domain::{
        message::Message,
        record::Draft,
        search::{Query, Search},
    },
    store::{RetentionPolicy, search::words_of},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::{
    chat::{join, native, send, two_nodes},
    client::{Client, Transport},
    eventually, node,
    redis::{Keeps, Redis},
    redis_store::Shared,
    search::{indexed_to, search, search_all, until_indexed},
    sqlite_store::{BEFORE_RECORDS, FileLog, MemoryLog, aged, database, open},
    store::{DEADLINE, Log, Node, draft, must_append, originals, retention, room, until},
};

/// Bodies of many kinds, in two rooms.
fn drafts(count: usize) -> Vec<Draft> {
    (0..count)
        .map(|n| {
            let name = ["red", "blue"][n / 5 % 2];
            let body = match n % 7 {
                0 => json!(format!("Number {n}, \"quoted\" OR not")),
                1 => json!({ "text": format!("KÖLN {n}"), "hidden": [1, "deep; number"] }),
                2 => json!(n),
                3 => json!(format!("日本{n} red blue")),
                _ => json!(format!("number {} of {}", n % 50, n % 3)),
            };
            draft(name, "ann", &format!("m{n}"), &body.to_string())
        })
        .collect()
}

/// Every search, however it is paged, finds what looking through all would.
async fn check(node: &Node, messages: &[Message]) {
    let queries =
        ["number", "NUMBER 7", "köln", "ko\u{308}ln 8", "本", "quoted or", "hidden", "red", "of 2"];
    for name in ["red", "blue", "nobody"] {
        for text in queries {
            let query = Query::parse(text).expect("a query");
            let is_found = |message: &&Message| {
                message.room == room(name) && query.is_in(&words_of(&message.body))
            };
            let expected: Vec<Message> = messages.iter().filter(is_found).cloned().collect();
            for limit in [3, 200] {
                let (all, _) = search_all(&node.store, name, text, limit).await;
                assert_eq!(all, expected, "{text} in {name}, {limit} at a time");
            }
        }
    }
}

async fn messages_with_the_words_are_found<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let (_, heard) = node.pass(&drafts(1_000)).await;
    check(&node, &originals(&heard)).await;
    let found = search(&node.store, "red", "number", Some(500), 1).await;
    let last = found.messages.first().expect("there is one");
    assert!(found.messages.len() == 1 && last.position.seq < 500 && found.next.is_some());
    assert_eq!(search(&node.store, "red", "number", Some(0), 5).await.messages, []);
    assert_eq!(search(&node.store, "red", "number", Some(u64::MAX), 5).await.messages.len(), 5);
    let just_now = must_append(&node.store, draft("red", "bob", "new", "\"brand-new\"")).await;
    let found = search(&node.store, "red", "brand new", None, 5).await;
    assert_eq!(found.messages.first().map(|message| &message.position), Some(&just_now.position));
    node.store.lifecycle.close().await;
}

async fn trimmed_messages_are_not_found<L: Log>() {
    let mut log = L::fresh(RetentionPolicy { history_max: 200, ..retention() }).await;
    let mut node = log.node().await;
    let drafts: Vec<Draft> =
        (0..5_000).map(|n| draft("red", "ann", &format!("m{n}"), "\"word\"")).collect();
    node.pass(&drafts).await;
    eventually("history is trimmed, and so is what is found", DEADLINE, async || {
        let kept = node.whole_history("red").await;
        let (found, _) = search_all(&node.store, "red", "word", 200).await;
        (kept.len() < 2_000 && found == kept).then_some(())
    })
    .await;
    node.store.lifecycle.close().await;
}

async fn after_close_a_search_ends<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let node = log.node().await;
    node.store.lifecycle.close().await;
    let query = Query::parse("word").expect("a query");
    let search = Search { room: room("red"), query, before: None, limit: 5 };
    // What can still be read may be answered.
    drop(timeout(DEADLINE, node.store.search.search(search)).await.expect("in time"));
}

macro_rules! cases {
    ($name:ident, $log:ty) => {
        mod $name {
            cases!(@each $log:
                messages_with_the_words_are_found trimmed_messages_are_not_found after_close_a_search_ends);
        }
    };
    (@each $log:ty: $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case::<$log>().await;
            }
        )*
    };
}

cases!(file, super::FileLog);
cases!(memory, super::MemoryLog);
cases!(redis, super::Shared);

fn indexed(file: &rusqlite::Connection) -> u64 {
    let count = "SELECT count(*) FROM words_docsize";
    file.query_row(count, [], |row| row.get(0)).expect("a count")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_finds_the_same() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = open(dir.path(), retention());
    let (_, heard) = node.pass(&drafts(1_000)).await;
    until_indexed(dir.path(), 1_000 - 255).await;
    check(&node, &originals(&heard)).await;
    node.store.lifecycle.close().await;
    let node = open(dir.path(), retention());
    check(&node, &originals(&heard)).await;
    node.store.lifecycle.close().await;
}

/// As an older program has left it.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_log_is_indexed() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = open(dir.path(), retention());
    let (_, heard) = node.pass(&drafts(1_000)).await;
    node.store.lifecycle.close().await;
    let file = database(dir.path());
    file.execute_batch(BEFORE_RECORDS).expect("it can be taken back");
    let older = "DROP TABLE words; ALTER TABLE log DROP COLUMN indexed_to; PRAGMA user_version = 3";
    file.execute_batch(older).expect("it can be taken back");
    let node = open(dir.path(), retention());
    check(&node, &originals(&heard)).await;
    until_indexed(dir.path(), 1_000 - 255).await;
    check(&node, &originals(&heard)).await;
    node.store.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_keeps_nothing_of_what_is_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = open(dir.path(), retention());
    let drafts: Vec<Draft> =
        drafts(3_000)
            .into_iter()
            .map(|draft| {
                if draft.id.as_str() < "m2" {
                    aged(draft, Duration::from_secs(7_200))
                } else {
                    draft
                }
            })
            .collect();
    node.pass(&drafts).await;
    let file = database(dir.path());
    until("indexed, and the old rows are gone", || {
        let rows: u64 =
            file.query_row("SELECT count(*) FROM messages", [], |row| row.get(0)).expect("a count");
        let waiting = 3_000 - indexed_to(&file);
        rows < 3_000 && waiting < 256 && indexed(&file) + waiting == rows
    })
    .await;
    let kept = [node.whole_history("red").await, node.whole_history("blue").await].concat();
    check(&node, &kept).await;
    node.store.lifecycle.close().await;
}

/// A search over Redis reads no more than its bounds, and says where to go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_without_an_index_is_bounded() {
    let mut log = Shared::fresh(retention()).await;
    let mut node = log.node().await;
    let many = (0..2_500).map(|n| {
        let text = if n == 0 { "\"needle\"" } else { "\"hay\"" };
        draft("many", "ann", &format!("m{n}"), text)
    });
    let large = (0..150).map(|n| {
        let text = if n == 0 { "needle".to_owned() } else { "hay ".repeat(7_000) };
        draft("large", "ann", &format!("l{n}"), &json!(text).to_string())
    });
    let drafts: Vec<Draft> = many.chain(large).collect();
    node.pass(&drafts).await;
    for (name, oldest) in [("many", 1), ("large", 2_501)] {
        let first = search(&node.store, name, "needle", None, 10).await;
        let next = first.next.expect("there is more to look at");
        assert!(first.messages.is_empty() && next > oldest, "{name} {next}");
        let (found, searches) = search_all(&node.store, name, "needle", 10).await;
        assert_eq!((found.len(), found[0].position.seq), (1, oldest), "{name}");
        assert_eq!(searches, 2, "{name}");
    }
    node.store.lifecycle.close().await;
}

fn texts(answer: &Value) -> Vec<&str> {
    let messages = answer["messages"].as_array().unwrap_or_else(|| panic!("{answer}"));
    messages.iter().map(|message| message["text"].as_str().expect("a text")).collect()
}

async fn clients_find(ann: &Client, bob: &Client) {
    let ask = async |client: &Client, request: Value| client.request("search", &[request]).await;
    let code = |answer: &Value| answer["error"]["code"].as_str().map(str::to_owned);
    assert_eq!(join(ann, "attic", None).await["ok"], true);
    assert_eq!(join(ann, "cellar", None).await["ok"], true);
    for text in ["Hello World", "hello \"there\" OR here", "50% *", "'; DROP TABLE words; --"] {
        assert_eq!(send(ann, "attic", text).await["ok"], true);
    }
    assert_eq!(send(ann, "cellar", "hello from below").await["ok"], true);

    let answer = ask(ann, json!({ "room": "attic", "text": "HELLO" })).await;
    assert_eq!(texts(&answer), ["Hello World", "hello \"there\" OR here"], "oldest first");
    assert_eq!((&answer["more"], &answer["next"]), (&json!(false), &Value::Null));
    assert_eq!(answer["epoch"], answer["messages"][0]["epoch"]);
    assert!(answer["messages"][0]["from"]["id"].is_string(), "as in a message event");
    let answer = ask(ann, json!({ "room": "attic", "text": "hello", "limit": 1 })).await;
    assert_eq!((texts(&answer), &answer["more"]), (vec!["hello \"there\" OR here"], &json!(true)));
    let before = &answer["next"];
    let answer = ask(ann, json!({ "room": "attic", "text": "hello", "before": before })).await;
    assert_eq!((texts(&answer), &answer["more"]), (vec!["Hello World"], &json!(false)));
    for (text, found) in [
        ("nothing", 0),
        ("hello nothing", 0),
        ("hell*", 0),
        ("\"hello world\"", 1),
        ("world OR nothing", 0),
        ("there OR", 1),
        ("hello NOT world", 0),
        ("words:hello", 0),
        ("NEAR(hello world)", 0),
        ("hello\" AND \"world", 0),
        ("' drop", 1),
        ("^hello -world", 1),
        ("{world} + \\ \0 hello", 1),
        ("50%", 1),
    ] {
        let answer = ask(ann, json!({ "room": "attic", "text": text })).await;
        assert_eq!(texts(&answer).len(), found, "{text:?}: {answer}");
    }

    for wrong in [
        json!({ "room": "attic" }),
        json!({ "room": "attic", "text": "" }),
        json!({ "room": "attic", "text": "\"*\" -" }),
        json!({ "room": "attic", "text": "x".repeat(101) }),
        json!({ "room": "attic", "text": "a b c d e f g h i j k l m n o p q r s t u" }),
        json!({ "room": "attic", "text": "a", "limit": 0 }),
        json!({ "room": "attic", "text": "a", "limit": 201 }),
        json!({ "room": "attic", "text": "a", "before": -1 }),
        json!({ "room": "", "text": "a" }),
        json!({ "room": "attic", "text": 7 }),
    ] {
        let answer = ask(ann, wrong.clone()).await;
        assert_eq!(code(&answer).as_deref(), Some("bad_request"), "{wrong}");
    }
    let answer = ask(bob, json!({ "room": "attic", "text": "hello" })).await;
    assert_eq!(code(&answer).as_deref(), Some("not_joined"));
    assert_eq!(join(bob, "attic", None).await["ok"], true);
    let answer = ask(bob, json!({ "room": "attic", "text": "hello" })).await;
    assert_eq!(texts(&answer).len(), 2, "also what was sent before the join");
    assert_eq!(bob.request("leave", &[json!({ "room": "attic" })]).await["ok"], true);
    let answer = ask(bob, json!({ "room": "attic", "text": "hello" })).await;
    assert_eq!(code(&answer).as_deref(), Some("not_joined"), "after the leave");
}

async fn client(node: &node::Node) -> Client {
    Client::connected(node.address, native(Transport::WebSocket)).await
}

#[tokio::test]
async fn clients_find_in_memory() {
    let node = node::Node::memory().await;
    clients_find(&client(&node).await, &client(&node).await).await;
}

#[tokio::test]
async fn clients_find_in_a_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = node::Node::start(&["--data", dir.path().to_str().expect("a path")]).await;
    clients_find(&client(&node).await, &client(&node).await).await;
}

#[tokio::test]
async fn clients_find_over_redis() {
    let redis = Redis::start(Keeps::Nothing).await;
    let [one, two] = two_nodes(&redis, &[]).await;
    clients_find(&client(&one).await, &client(&two).await).await;
}
