//! What becomes of messages: every bus shows in history, and finds, what the records that it has
//! delivered make of them by the rule of `domain/changes.rs`.

use std::{collections::BTreeMap, path::Path, time::Duration};

use roomcast::{
    bus::{Bus, Retention, search::words_of, session::Tail},
    domain::{
        changes::{About, Change, State},
        message::{Body, Draft, Epoch, Message, Position},
        name::{Emoji, RoomName, UserId},
        page::Page,
        search::Query,
    },
};
use serde_json::json;

use crate::{
    contract::model,
    embedded::{FileLog, MemoryLog, aged, database, open},
    harness::{
        PATIENCE,
        bus::{DEADLINE, Log, Node, check_dense, draft, later, retention, room, store, until},
        eventually,
        redis::Reply,
    },
    redis::Shared,
    search::{search_all, until_indexed},
};

const ROOMS: [&str; 2] = ["red", "blue"];
const WORDS: [&str; 4] = ["apple", "pear", "plum", "fig"];

/// A fixed sequence of numbers without a pattern (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[usize::try_from(self.roll(among.len() as u64)).expect("it is small")]
    }
}

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
    let mut dice = Dice(seed);
    let draft = |seq: u64| {
        let (name, id) = (dice.pick(&ROOMS), format!("m{seq}"));
        let words = [dice.pick(&WORDS), dice.pick(&WORDS)].join(" ");
        if seq <= 12 || dice.roll(12) == 0 {
            return said(name, &id, &words);
        }
        let from = dice.pick(&["ann", "bob b", "c:d"]);
        let about = match dice.roll(10) {
            0 => dice.pick(&[0, seq, seq + 1, u64::MAX]),
            1..5 => 1 + dice.roll(seq),
            _ => 1 + dice.roll(12),
        };
        match dice.roll(40) {
            0 => record(name, from, &id, (Change::Delete, about), ""),
            1..10 => record(name, from, &id, (Change::Edit, about), &words),
            10..28 => {
                let emoji = dice.pick(&["👍", "+1 a", "👩‍👩‍👧"]);
                record(name, from, &id, (Change::React, about), emoji)
            }
            28 => {
                // Without an emoji.
                let body = Body::from_json("[]");
                Draft { body, ..record(name, from, &id, (Change::React, about), "+1") }
            }
            _ => {
                let emoji = dice.pick(&["👍", "+1 a", "👩‍👩‍👧"]);
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
            let (found, _) = search_all(&*node.bus, name, word, 50).await;
            assert_eq!(found, expected, "{word} in {name}");
        }
    }
}

/// The whole log: what a message said at first may be gone from it, the records are not.
async fn tail(bus: &dyn Bus, epoch: &Epoch) -> Vec<Message> {
    let mut all: Vec<Message> = Vec::new();
    loop {
        let after = Position { epoch: epoch.clone(), seq: all.len() as u64 };
        let piece = bus.tail(0, after, 300).await.expect("it can be read");
        let Tail::Messages { messages, top } = piece else { panic!("{piece:?}") };
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
        let tail = tail(&*node.bus, &heard[0].position.epoch).await;
        let what = |message: &Message| {
            (message.position.clone(), message.about.map(|about| about.change), message.at)
        };
        assert!(tail.iter().map(what).eq(heard.iter().map(what)), "the log has all of it");

        let again = drafts.iter().zip(&stored).filter(|(draft, _)| draft.about.is_some());
        for (draft, first) in again.step_by(25) {
            let retry = later(draft.clone(), Duration::from_secs(1));
            assert_eq!(store(&*node.bus, retry).await, *first);
        }
        check(&node, &heard).await;
        node.hear_no_more().await;
        node.bus.close().await;
    }
}

async fn a_restart_keeps_what_has_become_of_messages<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let (_, mut heard) = node.pass(&drafts(7, 0, 700)).await;
    node.bus.close().await;
    let mut node = log.node().await;
    check(&node, &heard).await;
    let (_, more) = node.pass(&drafts(8, 700, 300)).await;
    heard.extend(more);
    check(&node, &heard).await;
    node.bus.close().await;
}

async fn records_are_not_counted<L: Log>() {
    let mut log = L::fresh(Retention { history_max: 100, ..retention() }).await;
    let mut node = log.node().await;
    let (ann, bob) = (UserId::parse("ann").expect("a user"), UserId::parse("bob").expect("a user"));
    let two = RoomName::direct(&ann, &bob).expect("a room");
    let dm = two.as_str();
    for user in [&ann, &bob] {
        node.bus.mark_read(user.clone(), room("red"), 0).await.expect("it is kept");
        node.bus.mark_read(user.clone(), two.clone(), 0).await.expect("it is kept");
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
    let rooms = node.bus.rooms(10).await.expect("they can be read");
    let rooms: Vec<_> = rooms.iter().map(|known| (known.room.as_str(), known.seq)).collect();
    assert_eq!(rooms, [("red", 2)]);
    let direct = node.bus.direct_rooms(bob.clone()).await.expect("they can be read");
    assert_eq!(direct, [(two.clone(), 3)]);
    let unread = node.bus.unread(bob, vec![room("red"), two.clone()]).await;
    let unread = unread.expect("it can be counted");
    assert_eq!(unread, [(room("red"), 0, 2), (two, 0, 1)]);
    node.bus.close().await;
}

async fn what_is_trimmed_takes_its_state_along<L: Log>() {
    let mut log = L::fresh(Retention { history_max: 200, ..retention() }).await;
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
    store(&*node.bus, late).await;
    heard.extend(node.hear(1).await);
    let kept = node.whole_history("red").await;
    let now = kept.first().expect("there are messages").position.seq;
    let mut expected = folded(&heard, "red");
    expected.retain(|message| message.position.seq >= now);
    assert!(now >= first && kept == expected, "from {now}");
    node.bus.close().await;
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
        node.bus.close().await;
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
    node.bus.close().await;
}

fn count(file: &rusqlite::Connection, sql: &str) -> u64 {
    file.query_row(sql, [], |row| row.get(0)).expect("a count")
}

fn bodies(dir: &Path, text: &str) -> u64 {
    let file = database(dir);
    let found = |table: &str, column: &str| {
        count(&file, &format!("SELECT count(*) FROM {table} WHERE {column} LIKE '%{text}%'"))
    };
    found("messages", "body") + found("states", "state")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_is_nowhere_in_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = open(dir.path(), retention());
    let drafts = [
        said("red", "a", "secret of old"),
        record("red", "ann", "b", (Change::Edit, 1), "secret as well"),
        record("red", "ann", "c", (Change::Delete, 1), ""),
        said("red", "d", "open"),
    ];
    node.pass(&drafts[..2]).await;
    assert_eq!((bodies(dir.path(), "secret as well"), bodies(dir.path(), "secret of old")), (3, 0));
    node.pass(&drafts[2..]).await;
    assert_eq!((bodies(dir.path(), "secret"), bodies(dir.path(), "open")), (0, 1));
    node.bus.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_and_states_leave_the_file_when_messages_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = open(dir.path(), retention());
    let old: Vec<Draft> = drafts(9, 0, 900)
        .into_iter()
        .map(|draft| aged(draft, Duration::from_secs(7_200)))
        .collect();
    node.pass(&old).await;
    let file = database(dir.path());
    until("old rows, states and rooms are gone", || {
        ["messages", "states", "rooms", "words_docsize"]
            .iter()
            .all(|table| count(&file, &format!("SELECT count(*) FROM {table}")) == 0)
    })
    .await;

    // Within the windows all stays, however much there is.
    node.bus.close().await;
    let mut node = open(dir.path(), Retention { history_max: 10, ..retention() });
    let recent: Vec<Draft> = drafts(10, 900, 3_000)
        .into_iter()
        .map(|draft| aged(draft, Duration::from_secs(60)))
        .collect();
    let epoch = node.pass(&recent).await.1[0].position.epoch.clone();
    until("rooms are trimmed", || count(&file, "SELECT max(kept) FROM rooms") == 10).await;
    let at = recent.iter().position(|draft| draft.about.is_none()).expect("a message");
    let (name, seq) = (recent[at].room.as_str(), 901 + at as u64);
    node.pass(&[record(name, "bob", "late", (Change::React, seq), "late")]).await;
    assert_eq!(bodies(dir.path(), "late"), 1, "it comes to nothing");
    assert_eq!(count(&file, "SELECT count(*) FROM messages"), 3_001);
    let after = Position { epoch, seq: 900 };
    assert!(matches!(node.bus.tail(0, after.clone(), 1).await, Ok(Tail::Messages { .. })));
    node.bus.close().await;

    // Behind them there are no more records of a room than messages; the log says from where.
    let short = Duration::from_secs(30);
    let few = Retention {
        history_max: 10,
        idempotency_window: short,
        recovery_window: short,
        ..retention()
    };
    let node = open(dir.path(), few);
    until("there are few", || {
        let records = "SELECT max((SELECT count(*) FROM messages
                           WHERE room = rooms.id AND of_seq IS NOT NULL)) FROM rooms";
        let same = "SELECT count(*) FROM rooms WHERE records <> (SELECT count(*) FROM messages
                        WHERE room = rooms.id AND of_seq IS NOT NULL)";
        count(&file, records) <= 10 && count(&file, same) == 0
    })
    .await;
    let gone = count(&file, "SELECT deleted_to FROM log");
    let later = count(&file, &format!("SELECT count(*) FROM messages WHERE seq > {gone}"));
    assert_eq!(gone + later, 3_901, "all of what comes after is there");
    assert!(matches!(node.bus.tail(0, after, 1).await, Ok(Tail::Trimmed { .. })));
    let left = "SELECT count(*) FROM states WHERE seq NOT IN (SELECT seq FROM messages)";
    assert_eq!(count(&file, left), 0);
    node.bus.close().await;
}

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

/// An old list of the room may still be there when its log is not.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_lost_log_no_old_state_shows() {
    for lost in [["FLUSHALL", "SYNC"], ["DEL", "test:{0}:meta"]] {
        let mut log = Shared::fresh(retention()).await;
        let mut node = log.node().await;
        node.pass(&[said("red", "a", "one"), said("red", "b", "two")]).await;
        node.pass(
            &[1, 2].map(|seq| record("red", "ann", &format!("r{seq}"), (Change::Delete, seq), "")),
        )
        .await;
        node.bus.close().await;
        log.redis.call(&lost).await;

        let mut node = log.node().await;
        let of_old = record("red", "ann", "c", (Change::React, 1), "+1");
        let again = [of_old, said("red", "d", "three"), said("red", "e", "four")];
        let (stored, heard) = node.pass(&again).await;
        assert_eq!(stored[0].position.seq, 1, "{lost:?}: the log begins anew");
        assert_eq!(node.whole_history("red").await, heard[1..], "{lost:?}");
        node.bus.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_keeps_states_as_long_as_their_messages() {
    let mut log = Shared::fresh(Retention { history_max: 80, ..retention() }).await;
    let mut node = log.node().await;
    let mut sent = 0;
    for _ in 0..10 {
        // Frames of one room, and frames of two.
        for names in [["red", "red"], ["red", "blue"]] {
            let messages: Vec<Draft> =
                (1..=40).map(|n| said(names[n % 2], &format!("m{}", sent + n), "x")).collect();
            node.pass(&messages).await;
            let records: Vec<Draft> = (1..=40)
                .map(|n| {
                    let about = (Change::React, (sent + n) as u64);
                    record(names[n % 2], "bob", &format!("r{}", sent + n), about, "+1")
                })
                .collect();
            node.pass(&records).await;
            sent += 80;
        }
    }
    for name in ROOMS {
        let kept = node.whole_history(name).await;
        assert!((80..200).contains(&kept.len()), "{} of {name}", kept.len());
        assert!(kept.iter().all(|message| message.state.is_some()));
        let kept: Vec<u64> = kept.iter().map(seq_of).collect();
        assert_eq!(stored_states(&log, name).await, kept, "{name}");
    }
    // A list lives on with each message, and its states with it.
    let pttl = "return redis.call('PTTL', KEYS[1]) - redis.call('PTTL', KEYS[2])";
    let keys = ["test:{0}:room:blue", "test:{0}:state:blue"];
    eventually("time has passed since", PATIENCE, async || {
        let left = log.redis.call(&["PTTL", keys[0]]).await;
        matches!(left, Reply::Number(left) if left < 3_600_000 - 20).then_some(())
    })
    .await;
    node.pass(&[said("blue", "last", "x")]).await;
    let apart = log.redis.call(&["EVAL", pttl, "2", keys[0], keys[1]]).await;
    assert!(matches!(apart, Reply::Number(apart) if apart.abs() <= 1), "{apart:?}");
    node.bus.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_expires_in_redis_takes_its_states_along() {
    let ttl = Duration::from_secs(1);
    let mut log = Shared::fresh(Retention { history_ttl: ttl, ..retention() }).await;
    let mut node = log.node().await;
    node.pass(&[said("red", "a", "one")]).await;
    node.pass(&[record("red", "bob", "b", (Change::React, 1), "+1")]).await;
    eventually("the room expires", PATIENCE, async || {
        let kept = node.whole_history("red").await;
        (kept.is_empty() && stored_states(&log, "red").await.is_empty()).then_some(())
    })
    .await;
    node.pass(&[record("red", "bob", "c", (Change::React, 1), "+1")]).await;
    let (_, heard) = node.pass(&[said("red", "d", "two")]).await;
    assert!(stored_states(&log, "red").await.is_empty());
    assert!(node.whole_history("red").await.iter().all(|message| message.state.is_none()));
    assert_eq!(heard[0].position.seq, 4);
    node.bus.close().await;
}
