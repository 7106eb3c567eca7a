//! Edits, deletes and reactions: every store shows in history and search what the records that it
//! delivered add up to by the rule of `domain/message.rs`.

mod damaged;
mod kept;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use roomcast::{
    domain::{
        message::{Message, MessageState},
        name::{Emoji, UserId},
        page::Page,
        position::{Epoch, Position},
        record::{Body, Change, Draft, Entry, Record},
        room::RoomName,
        search::Query,
    },
    store::{RetentionPolicy, Store, log::LogTail, search::words_of},
};
use serde_json::json;

use crate::harness::{
    Random,
    redis::Reply,
    redis_store::Shared,
    search::{search_all, until_indexed},
    sqlite_store::{FileLog, MemoryLog, open},
    store::{
        DEADLINE, Log, Node, check_dense, draft, later, must_append, page_of, retention, room,
    },
};

const ROOMS: [&str; 2] = ["red", "blue"];
const WORDS: [&str; 4] = ["apple", "pear", "plum", "fig"];

fn said(name: &str, id: &str, text: &str) -> Draft {
    draft(name, "ann", id, &json!(text).to_string())
}

fn change(name: &str, from: &str, id: &str, target_seq: u64, change: Change) -> Draft {
    let entry = Entry::Change { target_seq, change };
    Draft { entry, ..draft(name, from, id, "null") }
}

fn edit(text: &str) -> Change {
    Change::Edit(Body::from_json(&json!(text).to_string()))
}

fn react(emoji: &str, on: bool) -> Change {
    Change::React { emoji: Emoji::parse(emoji).expect("an emoji"), on }
}

/// Messages and changes of them, for a log that has `before` records already. The targets of some
/// changes are not messages of their room, or not stored yet.
fn drafts(seed: u64, before: u64, count: u64) -> Vec<Draft> {
    let mut random = Random::new(seed);
    let draft = |seq: u64| {
        let (name, id) = (*random.pick(&ROOMS), format!("m{seq}"));
        let words = [*random.pick(&WORDS), *random.pick(&WORDS)].join(" ");
        if seq <= 12 || random.between(0, 11) == 0 {
            return said(name, &id, &words);
        }
        let from = random.pick(&["ann", "bob b", "c:d"]);
        let target_seq = match random.between(0, 9) {
            0 => *random.pick(&[0, seq, seq + 1, u64::MAX]),
            1..5 => random.between(1, seq),
            _ => random.between(1, 12),
        };
        let emoji = *random.pick(&["👍", "+1 a", "👩‍👩‍👧"]);
        let what = match random.between(0, 39) {
            0 => Change::Delete,
            1..10 => edit(&words),
            10..28 => react(emoji, true),
            _ => react(emoji, false),
        };
        change(name, from, &id, target_seq, what)
    };
    (before + 1..=before + count).map(draft).collect()
}

/// The messages of a room among those delivered, with their changes applied.
fn folded(heard: &[Record], name: &str) -> Vec<Message> {
    let mut messages: BTreeMap<u64, (Message, MessageState)> = BTreeMap::new();
    for record in heard.iter().filter(|record| record.room == room(name)) {
        match &record.entry {
            Entry::Message(_) => {
                let message = Message::original(record.clone()).expect("a message");
                messages.insert(record.position.seq, (message, MessageState::default()));
            }
            Entry::Change { target_seq, change } => {
                if let Some((_, state)) = messages.get_mut(target_seq) {
                    state.apply(change, &record.from, record.at);
                }
            }
        }
    }
    messages.into_values().map(|(message, state)| message.with_state(state)).collect()
}

/// History, search, and what is counted, against what was delivered from the start of the log.
async fn check(node: &Node, heard: &[Record]) {
    for name in ROOMS {
        let all = folded(heard, name);
        assert_eq!(node.whole_history(name).await, all, "{name}");
        for page in [Page::Newest, Page::Before(40), Page::After(3)] {
            let got = node.history(name, page, 7).await;
            assert_eq!((got.messages, got.more), page_of(&all, &page, 7), "{name} {page:?}");
            assert_eq!(got.top.seq, heard.len() as u64);
        }
        for word in WORDS {
            let query = Query::parse(word).expect("a query");
            let has = |message: &&Message| query.is_in(&words_of(&message.body));
            let expected: Vec<Message> = all.iter().filter(has).cloned().collect();
            let (found, _) = search_all(&node.store, name, word, 50).await;
            assert_eq!(found, expected, "{word} in {name}");
        }
    }
}

/// The whole log: what a message said at first may be gone from it, the records are not.
async fn tail(store: &Store, epoch: &Epoch) -> Vec<Record> {
    let mut all: Vec<Record> = Vec::new();
    loop {
        let after = Position { epoch: epoch.clone(), seq: all.len() as u64 };
        let piece = store.log.tail(0, after, 300).await.expect("it can be read");
        let LogTail::Records { records, top } = piece else { panic!("{piece:?}") };
        all.extend(records);
        if all.len() as u64 == top.seq {
            return all;
        }
    }
}

async fn history_is_the_fold_of_what_was_delivered<L: Log>() {
    for seed in 0..4 {
        let mut log = L::fresh(retention()).await;
        let mut node = log.node().await;
        let drafts = drafts(seed, 0, 1_500);
        let (stored, heard) = node.pass(&drafts).await;
        check_dense(&drafts, &stored, &heard);
        check(&node, &heard).await;
        let tail = tail(&node.store, &heard[0].position.epoch).await;
        let is_change = |entry: &Entry| matches!(entry, Entry::Change { .. });
        let what = |record: &Record| (record.position.clone(), is_change(&record.entry), record.at);
        assert!(tail.iter().map(what).eq(heard.iter().map(what)), "the log has all of it");

        let again = drafts.iter().zip(&stored).filter(|(draft, _)| is_change(&draft.entry));
        for (draft, first) in again.step_by(25) {
            let retry = later(draft.clone(), Duration::from_secs(1));
            assert_eq!(must_append(&node.store, retry).await, *first);
        }
        check(&node, &heard).await;
        node.hear_no_more().await;
        node.store.lifecycle.close().await;
    }
}

async fn a_restart_keeps_the_state_of_messages<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let (_, mut heard) = node.pass(&drafts(7, 0, 700)).await;
    node.store.lifecycle.close().await;
    let mut node = log.node().await;
    check(&node, &heard).await;
    let (_, more) = node.pass(&drafts(8, 700, 300)).await;
    heard.extend(more);
    check(&node, &heard).await;
    node.store.lifecycle.close().await;
}

async fn records_are_not_counted<L: Log>() {
    let mut log = L::fresh(RetentionPolicy { history_max: 100, ..retention() }).await;
    let mut node = log.node().await;
    let (ann, bob) = (UserId::parse("ann").expect("a user"), UserId::parse("bob").expect("a user"));
    let two = RoomName::direct(&ann, &bob).expect("a room");
    let dm = two.as_str();
    for user in [&ann, &bob] {
        node.store.inbox.mark_read(user.clone(), room("red"), 0).await.expect("it is kept");
        node.store.inbox.mark_read(user.clone(), two.clone(), 0).await.expect("it is kept");
    }
    let mut drafts = vec![said("red", "a", "one"), said("red", "b", "two"), said(dm, "c", "three")];
    for n in 0..2_000 {
        let (name, target_seq) = [("red", 1), ("red", 2), (dm, 3), ("empty", 1)][n / 2 % 4];
        let reaction = react("+1", n % 2 == 0);
        drafts.push(change(name, "ann", &format!("r{n}"), target_seq, reaction));
    }
    let (_, heard) = node.pass(&drafts).await;

    let original = |at: usize| Message::original(heard[at].clone()).expect("a message");
    assert_eq!(
        node.whole_history("red").await,
        [original(0), original(1)],
        "each reaction was taken back"
    );
    assert_eq!(node.whole_history(dm).await, [original(2)]);
    assert_eq!(node.whole_history("empty").await, []);
    let rooms = node.store.log.rooms(10).await.expect("they can be read");
    let rooms: Vec<_> = rooms.iter().map(|known| (known.room.as_str(), known.seq)).collect();
    assert_eq!(rooms, [("red", 2)]);
    let direct = node.store.inbox.direct_rooms(bob.clone()).await.expect("they can be read");
    assert_eq!(direct, [(two.clone(), 3)]);
    let unread = node.store.inbox.unread(bob, vec![room("red"), two.clone()]).await;
    let unread = unread.expect("it can be counted");
    assert_eq!(unread, [(room("red"), 0, 2), (two, 0, 1)]);
    node.store.lifecycle.close().await;
}

async fn a_trimmed_message_takes_its_state_along<L: Log>() {
    let mut log = L::fresh(RetentionPolicy { history_max: 200, ..retention() }).await;
    let mut node = log.node().await;
    let (mut heard, mut sent) = (Vec::new(), 0_u64);
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let first = loop {
        let mut drafts = Vec::new();
        for n in 0..600 {
            let (seq, id) = (sent + n, format!("m{}", sent + n));
            drafts.push(match n % 3 {
                0 => said("red", &id, "word"),
                // Of the message just before, and of one far back.
                1 => change("red", "bob", &id, seq, react("+1", true)),
                _ => change("red", "bob", &id, seq / 6 * 3 + 1, edit("new")),
            });
        }
        sent += 600;
        heard.extend(node.pass(&drafts).await.1);
        let kept = node.whole_history("red").await;
        let first = kept.first().expect("there are messages").position.seq;
        if first > 600 {
            break first;
        }
        assert!(tokio::time::Instant::now() < deadline, "nothing is trimmed after {sent}");
    };
    let late = change("red", "bob", "late", 1, edit("word"));
    must_append(&node.store, late).await;
    heard.extend(node.hear(1).await);
    let kept = node.whole_history("red").await;
    let now = kept.first().expect("there are messages").position.seq;
    let mut expected = folded(&heard, "red");
    expected.retain(|message| message.position.seq >= now);
    assert!(now >= first && kept == expected, "from {now}");
    node.store.lifecycle.close().await;
}

macro_rules! cases {
    ($name:ident, $log:ty: $($case:ident)*) => {
        mod $name {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::$case::<$log>().await;
                }
            )*
        }
    };
}

cases!(file, super::FileLog: history_is_the_fold_of_what_was_delivered
    a_restart_keeps_the_state_of_messages records_are_not_counted
    a_trimmed_message_takes_its_state_along);
cases!(memory, super::MemoryLog: history_is_the_fold_of_what_was_delivered
    records_are_not_counted a_trimmed_message_takes_its_state_along);
cases!(redis, super::Shared: history_is_the_fold_of_what_was_delivered
    a_restart_keeps_the_state_of_messages records_are_not_counted
    a_trimmed_message_takes_its_state_along);

fn seq_of(message: &Message) -> u64 {
    message.position.seq
}

/// Of which messages Redis has a state.
async fn stored_states(log: &Shared, name: &str) -> Vec<u64> {
    let key = format!("test:{{0}}:state:{name}");
    let Reply::Many(seqs) = log.redis.call(&["HKEYS", &key]).await else { panic!("no list") };
    let seq = |reply: Reply| reply.into_text().trim_start_matches('r').parse().expect("a seq");
    let seqs: BTreeSet<u64> = seqs.into_iter().map(seq).collect();
    seqs.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_shows_the_same() {
    let mut log = Shared::fresh(retention()).await;
    let (mut one, mut two) = (log.node().await, log.node().await);
    let drafts: Vec<Draft> = drafts(3, 0, 1_200);
    let mut heard = Vec::new();
    for (round, piece) in drafts.chunks(100).enumerate() {
        let (speaker, listener) =
            if round % 2 == 0 { (&mut one, &mut two) } else { (&mut two, &mut one) };
        let (_, said) = speaker.pass(piece).await;
        assert_eq!(listener.hear(piece.len()).await, said);
        heard.extend(said);
    }
    for node in [&one, &two] {
        check(node, &heard).await;
        node.store.lifecycle.close().await;
    }
    for name in ROOMS {
        let all = folded(&heard, name);
        let has_state = |message: &&Message| message.state != MessageState::default();
        let expected: Vec<u64> = all.iter().filter(has_state).map(seq_of).collect();
        assert_eq!(stored_states(&log, name).await, expected, "and nothing else is kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn indexed_messages_are_found_in_their_current_state() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = open(dir.path(), retention());
    let mut heard = Vec::new();
    for round in 0..4 {
        heard.extend(node.pass(&drafts(20 + round, round * 400, 400)).await.1);
        until_indexed(dir.path(), (round + 1) * 400 - 255).await;
        check(&node, &heard).await;
    }
    node.store.lifecycle.close().await;
}
