//! What `store/mod.rs` promises of names and read marks, as a suite that
//! every store passes: `presence_contract!`.

use std::time::Duration;

use futures_util::future::join_all;
use roomcast::{
    domain::{
        record::Draft,
        user::{Picture, ProfilePatch, User},
    },
    store::{
        RetentionPolicy, Store,
        inbox::{MARKS_MAX, UNREAD_MAX},
        presence::Signal,
    },
};
use tokio::time::timeout;

use crate::harness::{
    Random, eventually,
    presence::{Watch, id, mark, patch, profile, save, user_named},
    store::{DEADLINE, Log, draft, must_append, retention, room},
};

async fn unread(store: &Store, user: &str, rooms: &[&str]) -> Vec<(String, u64, u32)> {
    let rooms = rooms.iter().map(|name| room(name)).collect();
    let unread = timeout(DEADLINE, store.inbox.unread(id(user), rooms)).await.expect("in time");
    let unread = unread.expect("it can be read");
    unread.into_iter().map(|(room, mark, count)| (room.to_string(), mark, count)).collect()
}

pub async fn a_name_is_one_users<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let mut watch = Watch::default();
    let ann = User {
        picture: Some(Picture::parse("https://example.org/a.png").expect("a picture")),
        ..user_named("ann", "Ann É")
    };
    assert_eq!(profile(&node.store, "ann").await, None);
    assert!(save(&node.store, &ann).await);
    assert!(save(&node.store, &ann).await, "it is hers already");
    assert_eq!(profile(&node.store, "ann").await, Some(ann.clone()));
    for alike in ["Ann É", "ann e\u{301}", "ANN  \u{200b}É"] {
        assert!(!save(&node.store, &user_named("bob", alike)).await, "{alike:?}");
    }
    assert_eq!(profile(&node.store, "bob").await, None, "nothing was written");
    let louder = User { name: user_named("ann", "ANN É").name, ..ann.clone() };
    assert!(save(&node.store, &louder).await, "alike, but hers");
    let other = User { name: user_named("ann", "Anna").name, ..ann.clone() };
    assert!(save(&node.store, &other).await);
    let bob = user_named("bob", "Ann É");
    assert!(save(&node.store, &bob).await, "it is free again");
    assert!(!save(&node.store, &ann).await, "and now it is taken");
    assert_eq!(profile(&node.store, "ann").await, Some(other.clone()));
    watch.until(&mut node, "all are heard", |watch| watch.others.len() == 4).await;
    let told = [ann, louder, other, bob].map(|user| Signal::Profile { user });
    assert_eq!(watch.others, told, "what changed, once");
    node.hear_no_more().await;
    node.store.lifecycle.close().await;
}

/// Of many who want it at once one gets it.
pub async fn a_name_is_taken_once<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let node = log.node().await;
    let users: Vec<User> = (0..50).map(|n| user_named(&format!("u{n}"), "Ann")).collect();
    let saved = join_all(users.iter().map(|user| save(&node.store, user))).await;
    assert_eq!(saved.iter().filter(|saved| **saved).count(), 1);
    for (user, saved) in users.iter().zip(saved) {
        assert_eq!(profile(&node.store, user.id.as_str()).await.is_some(), saved);
    }
    // A user that changes its name all the time has one name in the end, and no other.
    let names: Vec<User> = (0..20).map(|n| user_named("cem", &format!("Cem {n}"))).collect();
    join_all(names.iter().map(|user| node.store.profiles.patch(patch(user)))).await;
    assert!(save(&node.store, &user_named("cem", "Cem")).await);
    for n in 0..20 {
        assert!(save(&node.store, &user_named(&format!("d{n}"), &format!("Cem {n}"))).await, "{n}");
    }
    node.store.lifecycle.close().await;
}

/// Each of many changes something else, or the same, at once.
pub async fn patches_undo_nothing_of_each_other<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let node = log.node().await;
    for round in 0..20 {
        let ann = id(&format!("ann {round}"));
        let name = user_named("ann", &format!("Ann {round}")).name;
        let picture = Picture::parse("https://example.org/a.png").expect("a picture");
        let nothing = ProfilePatch { user: ann.clone(), name: None, picture: None };
        let patches = [
            ProfilePatch { name: Some(name.clone()), ..nothing.clone() },
            ProfilePatch { picture: Some(picture.clone()), ..nothing },
        ];
        let done =
            join_all(patches.into_iter().map(|patch| node.store.profiles.patch(patch))).await;
        let all = User { id: ann, name, picture: Some(picture) };
        assert_eq!(profile(&node.store, all.id.as_str()).await.as_ref(), Some(&all));
        let answers: Vec<Option<User>> =
            done.into_iter().map(|answer| answer.expect("it can be written")).collect();
        assert!(answers.contains(&Some(all)), "the later one answers both: {answers:?}");
    }
    node.store.lifecycle.close().await;
}

pub async fn an_unused_name_is_free<L: Log>() {
    const LIFE: Duration = Duration::from_secs(1);
    let mut log = L::fresh(RetentionPolicy { history_ttl: LIFE, ..retention() }).await;
    let node = log.node().await;
    assert!(save(&node.store, &user_named("ann", "Ann")).await);
    let bob = user_named("bob", "ann");
    eventually("it is free", DEADLINE, async || save(&node.store, &bob).await.then_some(())).await;
    assert_eq!(profile(&node.store, "ann").await, None);
    eventually("bob's is gone too", DEADLINE, async || {
        profile(&node.store, "bob").await.is_none().then_some(())
    })
    .await;
    node.store.lifecycle.close().await;
}

pub async fn a_mark_only_moves_forward<L: Log>() {
    const COUNT: u64 = 200;
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let mut watch = Watch::default();
    let drafts: Vec<Draft> =
        (0..COUNT).map(|n| draft("köln", "bob", &format!("m{n}"), "0")).collect();
    node.pass(&drafts).await;
    let mut seqs: Vec<u64> = (1..COUNT).collect();
    Random::new(7).shuffle(&mut seqs);
    let marked = join_all(seqs.iter().map(|seq| mark(&node.store, "ann", "köln", *seq))).await;
    for (seq, in_force) in seqs.iter().zip(marked) {
        assert!(in_force >= *seq, "{in_force} after {seq}");
    }
    assert_eq!(mark(&node.store, "ann", "köln", 3).await, COUNT - 1, "not back");
    assert_eq!(mark(&node.store, "ann", "köln", u64::MAX).await, COUNT, "not past the end");
    assert_eq!(mark(&node.store, "bob", "köln", 1).await, 1, "each user has its own");
    watch.until(&mut node, "bob's is heard", |watch| {
        matches!(watch.others.last(), Some(Signal::Read { user, .. }) if *user == id("bob"))
    })
    .await;
    let heard = watch.others.iter().filter_map(|signal| match signal {
        Signal::Read { user, room: name, seq } if *user == id("ann") => {
            assert_eq!(*name, room("köln"));
            Some(*seq)
        }
        _ => None,
    });
    let heard: Vec<u64> = heard.collect();
    assert!(heard.is_sorted_by(|one, next| one < next), "{heard:?}");
    assert_eq!(heard.last(), Some(&COUNT));
    node.hear_no_more().await;
    node.store.lifecycle.close().await;
}

pub async fn unread_messages_are_those_of_others<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let names = ["ann", "ann \"é\"", "an", "\",\"from\":\"ann"];
    let trick = r#"{"a":",\"from\":\"ann\"","from":"ann","b":1}"#;
    let drafts: Vec<Draft> = (0..400)
        .map(|n| draft(["red", "blue"][n / 2 % 2], names[n % 4], &format!("m{n}"), trick))
        .collect();
    let (_, heard) = node.pass(&drafts).await;
    let expected = |user: &str, name: &str, mark: u64| {
        let after = heard.iter().filter(|message| {
            message.room == room(name) && message.from != id(user) && message.position.seq > mark
        });
        u32::try_from(after.count()).expect("few")
    };
    for user in names {
        assert_eq!(unread(&node.store, user, &["red", "blue"]).await, [], "no marks");
        assert_eq!(mark(&node.store, user, "red", 0).await, 0);
        for seq in [0, 1, 7, 8, 9, 133, 301, 396, 397, 398, 399, 400] {
            assert_eq!(mark(&node.store, user, "blue", seq).await, seq);
            let found = unread(&node.store, user, &["never", "blue", "red"]).await;
            let red = ("red".to_owned(), 0, expected(user, "red", 0));
            let blue = ("blue".to_owned(), seq, expected(user, "blue", seq));
            assert_eq!(found, [blue, red], "{user:?} at {seq}");
        }
    }
    let many: Vec<Draft> = (0..UNREAD_MAX + 500)
        .map(|n| draft("red", ["bob", "ann"][n as usize % 3 / 2], &format!("n{n}"), "0"))
        .collect();
    for draft in &many {
        node.store
            .log
            .append(draft.clone(), Box::new(|settled| drop(settled.expect("it is stored"))));
    }
    node.hear(many.len()).await;
    assert_eq!(unread(&node.store, "ann", &["red"]).await, [("red".into(), 0, UNREAD_MAX)]);
    node.store.lifecycle.close().await;
}

pub async fn marks_are_bounded<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let count = u64::from(MARKS_MAX) + 10;
    let names: Vec<String> = (1..=count).map(|n| format!("room {n}")).collect();
    let drafts: Vec<Draft> = names.iter().map(|name| draft(name, "bob", name, "0")).collect();
    node.pass(&drafts).await;
    let mut watch = Watch::default();
    for (name, seq) in names.iter().zip(1..) {
        assert_eq!(mark(&node.store, "ann", name, seq).await, seq);
        // A store without a listener stands still.
        let so_far = usize::try_from(seq).expect("small");
        watch.until(&mut node, "it is told", |watch| watch.others.len() == so_far).await;
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let kept = unread(&node.store, "ann", &names).await;
    let marks: Vec<u64> = kept.into_iter().map(|(_, mark, _)| mark).collect();
    assert!(marks.into_iter().eq(11..=count), "the newest, in the order that was asked for");
    node.store.lifecycle.close().await;
}

pub async fn direct_rooms_are_found_by_their_read_marks<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let node = log.node().await;
    let known = async |user: &str| {
        let known = timeout(DEADLINE, node.store.inbox.is_known(id(user))).await.expect("in time");
        known.expect("it can be read")
    };
    let direct = async |user: &str| {
        let rooms =
            timeout(DEADLINE, node.store.inbox.direct_rooms(id(user))).await.expect("in time");
        let mut rooms = rooms.expect("they can be read");
        rooms.sort();
        rooms.into_iter().map(|(room, seq)| (room.to_string(), seq)).collect::<Vec<_>>()
    };
    assert!(!known("ann").await);
    assert_eq!(mark(&node.store, "ann", "user:ann", 0).await, 0);
    assert!(known("ann").await);
    assert_eq!(direct("ann").await, []);
    for name in ["dm:ann:bob", "dm:ann:cem", "lobby", "dm:ann:silent"] {
        mark(&node.store, "ann", name, 0).await;
    }
    for (name, id) in
        [("dm:ann:cem", "1"), ("dm:ann:bob", "2"), ("dm:ann:eve", "3"), ("lobby", "4")]
    {
        must_append(&node.store, draft(name, "ann", id, "0")).await;
    }
    let last = must_append(&node.store, draft("dm:ann:bob", "bob", "5", "0")).await.position.seq;
    assert_eq!(direct("ann").await, [("dm:ann:bob".into(), last), ("dm:ann:cem".into(), 1)]);
    assert_eq!(direct("bob").await, []);
    node.store.lifecycle.close().await;
}

pub async fn a_mark_that_is_repeated_is_kept<L: Log>() {
    const LIFE: Duration = Duration::from_secs(3);
    let mut log = L::fresh(RetentionPolicy { history_ttl: LIFE, ..retention() }).await;
    let node = log.node().await;
    must_append(&node.store, draft("red", "bob", "m", "0")).await;
    assert_eq!(mark(&node.store, "bob", "red", 1).await, 1);
    // Bob's mark would end before Ann's by this much.
    tokio::time::sleep(LIFE / 4).await;
    assert_eq!(mark(&node.store, "ann", "red", 1).await, 1);
    eventually("the mark of ann is forgotten", DEADLINE, async || {
        assert_eq!(mark(&node.store, "bob", "red", 0).await, 1, "the mark of bob is not");
        let known = node.store.inbox.is_known(id("ann")).await.expect("it can be read");
        (!known).then_some(())
    })
    .await;
    node.store.lifecycle.close().await;
}

pub async fn profiles_and_marks_outlive_a_restart<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let node = log.node().await;
    let ann = user_named("ann", "Ann");
    assert!(save(&node.store, &ann).await);
    let first = must_append(&node.store, draft("lobby", "bob", "m", "0")).await.position.seq;
    assert_eq!(mark(&node.store, "ann", "lobby", 9).await, first);
    node.store.lifecycle.close().await;
    drop(node);
    let node = log.node().await;
    assert_eq!(profile(&node.store, "ann").await, Some(ann));
    assert!(!save(&node.store, &user_named("bob", "ann")).await);
    assert_eq!(unread(&node.store, "ann", &["lobby"]).await, [("lobby".into(), first, 0)]);
    node.store.lifecycle.close().await;
}
