//! What becomes of messages: every store shows in history, and finds, what the records that it has
//! delivered make of them by the rule of `domain/changes.rs`.

mod kept;

use std::{collections::BTreeMap, time::Duration};

use roomcast::{
    domain::{
        changes::{About, Change, State},
        message::{Body, Draft, Epoch, Message, Position},
        name::{Emoji, RoomName, UserId},
        page::Page,
        search::Query,
    },
    store::{RetentionPolicy, Store, log::LogTail, search::words_of},
};
use serde_json::json;

use crate::{
    contract::model,
    harness::{
        Random,
        redis::Reply,
        store::{DEADLINE, Log, Node, check_dense, draft, later, must_append, retention, room},
    },
    redis::Shared,
    search::{search_all, until_indexed},
    sqlite::{FileLog, MemoryLog, open},
};

const ROOMS: [&str; 2] = ["red", "blue"];
const WORDS: [&str; 4] = ["apple", "pear", "plum", "fig"];

fn said(name: &str, id: &str, text: &str) -> Draft {
    draft(name, "ann", id, &json!(text).to_string())
}

fn record(name: &str, from: &str, id: &str, about: (Change, u64), text: &str) -> Draft {
    let (change, seq) = about;
    let body = match change {
        Change::Edit => json!(text).to_string(),
        Change::Delete => "null".to_owned(),
        Change::React | Change::Unreact => {
            Emoji::parse(text).expect("an emoji").to_body().as_json().to_owned()
        }
    };
    let about = Some(About { change, seq });
    Draft { about, ..draft(name, from, id, &body) }
}

/// Messages with records about them among these, for a log that has `before` already. Some records
/// are about what is no message of their room, or not yet.
fn drafts(seed: u64, before: u64, count: u64) -> Vec<Draft> {
    let mut random = Random::new(seed);
    let draft = |seq: u64| {
        let (name, id) = (*random.pick(&ROOMS), format!("m{seq}"));
        let words = [*random.pick(&WORDS), *random.pick(&WORDS)].join(" ");
        if seq <= 12 || random.between(0, 11) == 0 {
            return said(name, &id, &words);
        }
        let from = random.pick(&["ann", "bob b", "c:d"]);
        let about = match random.between(0, 9) {
            0 => *random.pick(&[0, seq, seq + 1, u64::MAX]),
            1..5 => random.between(1, seq),
            _ => random.between(1, 12),
        };
        match random.between(0, 39) {
            0 => record(name, from, &id, (Change::Delete, about), ""),
            1..10 => record(name, from, &id, (Change::Edit, about), &words),
            10..28 => {
                let emoji = random.pick(&["👍", "+1 a", "👩‍👩‍👧"]);
                record(name, from, &id, (Change::React, about), emoji)
            }
            28 => {
                // Without an emoji.
                let body = Body::from_json("[]");
                Draft { body, ..record(name, from, &id, (Change::React, about), "+1") }
            }
            _ => {
                let emoji = random.pick(&["👍", "+1 a", "👩‍👩‍👧"]);
                record(name, from, &id, (Change::Unreact, about), emoji)
            }
        }
    };
    (before + 1..=before + count).map(draft).collect()
}

/// A room's messages among those delivered, as they are now.
fn folded(heard: &[Message], name: &str) -> Vec<Message> {
    let mut messages: BTreeMap<u64, (Message, State)> = BTreeMap::new();
    for message in heard.iter().filter(|message| message.room == room(name)) {
        match message.about {
            None => {
                let known = (message.clone(), State::default());
                messages.insert(message.position.seq, known);
            }
            Some(about) => {
                if let Some((_, state)) = messages.get_mut(&about.seq) {
                    state.fold(about.change, &message.from, message.at, &message.body);
                }
            }
        }
    }
    let as_now = |(message, state): (Message, State)| {
        if state == State::default() { message } else { message.with_state(state) }
    };
    messages.into_values().map(as_now).collect()
}

/// History, search, and what is counted, against what was delivered from the start of the log.
async fn check(node: &Node, heard: &[Message]) {
    for name in ROOMS {
        let all = folded(heard, name);
        assert_eq!(node.whole_history(name).await, all, "{name}");
        for page in [Page::Newest, Page::Before(40), Page::After(3)] {
            let got = node.history(name, page, 7).await;
            assert_eq!((got.messages, got.more), model(&all, &page, 7), "{name} {page:?}");
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
async fn tail(store: &Store, epoch: &Epoch) -> Vec<Message> {
    let mut all: Vec<Message> = Vec::new();
    loop {
        let after = Position { epoch: epoch.clone(), seq: all.len() as u64 };
        let piece = store.log.tail(0, after, 300).await.expect("it can be read");
        let LogTail::Messages { messages, top } = piece else { panic!("{piece:?}") };
        all.extend(messages);
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
        let what = |message: &Message| {
            (message.position.clone(), message.about.map(|about| about.change), message.at)
        };
        assert!(tail.iter().map(what).eq(heard.iter().map(what)), "the log has all of it");

        let again = drafts.iter().zip(&stored).filter(|(draft, _)| draft.about.is_some());
        for (draft, first) in again.step_by(25) {
            let retry = later(draft.clone(), Duration::from_secs(1));
            assert_eq!(must_append(&node.store, retry).await, *first);
        }
        check(&node, &heard).await;
        node.hear_no_more().await;
        node.store.lifecycle.close().await;
    }
}

async fn a_restart_keeps_what_has_become_of_messages<L: Log>() {
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
        let change = [Change::React, Change::Unreact][n % 2];
        let (name, about) = [("red", 1), ("red", 2), (dm, 3), ("empty", 1)][n / 2 % 4];
        drafts.push(record(name, "ann", &format!("r{n}"), (change, about), "+1"));
    }
    let (_, heard) = node.pass(&drafts).await;

    let as_said = |at: usize| heard[at].clone();
    assert_eq!(node.whole_history("red").await, [as_said(0), as_said(1)], "none has come to stay");
    assert_eq!(node.whole_history(dm).await, [as_said(2)]);
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

async fn what_is_trimmed_takes_its_state_along<L: Log>() {
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
                1 => record("red", "bob", &id, (Change::React, seq), "+1"),
                _ => record("red", "bob", &id, (Change::Edit, seq / 6 * 3 + 1), "new"),
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
    let late = record("red", "bob", "late", (Change::Edit, 1), "word");
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
    a_restart_keeps_what_has_become_of_messages records_are_not_counted
    what_is_trimmed_takes_its_state_along);
cases!(memory, super::MemoryLog: history_is_the_fold_of_what_was_delivered
    records_are_not_counted what_is_trimmed_takes_its_state_along);
cases!(redis, super::Shared: history_is_the_fold_of_what_was_delivered
    a_restart_keeps_what_has_become_of_messages records_are_not_counted
    what_is_trimmed_takes_its_state_along);

fn seq_of(message: &Message) -> u64 {
    message.position.seq
}

/// Of which messages Redis has a state.
async fn stored_states(log: &Shared, name: &str) -> Vec<u64> {
    let key = format!("test:{{0}}:state:{name}");
    let Reply::Many(seqs) = log.redis.call(&["HKEYS", &key]).await else { panic!("no list") };
    let seq = |reply: Reply| reply.into_text().parse().expect("a seq");
    let mut seqs: Vec<u64> = seqs.into_iter().map(seq).collect();
    seqs.sort_unstable();
    seqs
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
        let has_state = |message: &&Message| message.state.is_some();
        let expected: Vec<u64> = all.iter().filter(has_state).map(seq_of).collect();
        assert_eq!(stored_states(&log, name).await, expected, "and nothing else is kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_indexed_already_is_found_as_it_is_now() {
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
