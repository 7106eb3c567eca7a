//! What `store/mod.rs` promises of presence, as a suite that every store passes: the users of a room, and
//! what is told of it. `presence_contract!(name, Log)` is for this and for `profiles.rs`.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use roomcast::{
    domain::{
        name::UserId,
        user::{PICTURE_BYTES_MAX, Picture, User},
    },
    store::{log::RoomSummary, presence::Signal},
};
use tokio::time::timeout;

use crate::harness::{
    Random, eventually,
    presence::{Watch, id, members, patch, save, user_named},
    store::{DEADLINE, Log, Node, draft, must_append, retention, room},
};

pub async fn the_first_join_and_the_last_leave_are_told_once<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let mut watch = Watch::default();
    let (ann, bob) = (user_named("ann \"é\"", "Ann \"é\" \u{1f600}"), user_named("bob", "Bob"));
    assert_eq!(members(&node.store, "köln {1}").await.users, []);
    for _ in 0..2 {
        node.store.presence.add(room("köln {1}"), ann.clone());
    }
    watch.until(&mut node, "ann has come", |watch| watch.count("köln {1}") == 1).await;
    watch.check(&node.store, "köln {1}").await;
    node.store.presence.add(room("köln {1}"), ann.clone());
    node.store.presence.add(room("köln {1}"), bob.clone());
    node.store.presence.remove(room("köln {1}"), id("nobody"));
    watch.until(&mut node, "bob has come", |watch| watch.count("köln {1}") == 2).await;
    watch.check(&node.store, "köln {1}").await;
    let few = node.store.presence.members(room("köln {1}"), 1).await.expect("it can be read");
    assert_eq!((few.count, few.users), (2, vec![]), "more than were asked for");
    for _ in 0..2 {
        node.store.presence.remove(room("köln {1}"), ann.id.clone());
    }
    watch.until(&mut node, "ann has left", |watch| watch.count("köln {1}") == 1).await;
    node.store.presence.remove(room("köln {1}"), bob.id.clone());
    watch.until(&mut node, "bob has left", |watch| watch.count("köln {1}") == 0).await;
    watch.check(&node.store, "köln {1}").await;
    node.store.presence.add(room("köln {1}"), bob.clone());
    watch.until(&mut node, "bob is back", |watch| watch.count("köln {1}") == 1).await;
    watch.check(&node.store, "köln {1}").await;
    node.hear_no_more().await;
    assert_eq!(watch.left, [ann.id, bob.id]);
    node.store.lifecycle.close().await;
}

pub async fn a_picture_travels_and_a_name_changes_in_place<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let mut watch = Watch::default();
    let long = format!("data:image/png;base64,{}", "a".repeat(PICTURE_BYTES_MAX - 22));
    let picture = Some(Picture::parse(&long).expect("a picture"));
    let ann = User { picture, ..user_named("ann", "Ann") };
    node.store.presence.add(room("lobby"), ann.clone());
    watch.until(&mut node, "ann has come", |watch| watch.count("lobby") == 1).await;
    watch.check(&node.store, "lobby").await;
    assert_eq!(members(&node.store, "lobby").await.users, [ann]);
    let version = members(&node.store, "lobby").await.version;
    let anna = user_named("ann", "Anna");
    node.store.presence.add(room("lobby"), anna.clone());
    eventually("she is called so", DEADLINE, async || {
        (members(&node.store, "lobby").await.users == [anna.clone()]).then_some(())
    })
    .await;
    assert_eq!(members(&node.store, "lobby").await.version, version);
    node.hear_no_more().await;
    node.store.lifecycle.close().await;
}

pub async fn steps_applied_equal_a_fresh_read<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let mut watch = Watch::default();
    let rooms = ["lobby", "red", "blue"];
    for seed in 1..=5 {
        let mut random = Random::new(seed);
        let mut there: Vec<BTreeMap<u64, ()>> = vec![BTreeMap::new(); rooms.len()];
        for _ in 0..400 {
            let (at, who) =
                (usize::try_from(random.between(0, 2)).expect("small"), random.between(0, 9));
            if random.between(0, 1) == 0 {
                node.store
                    .presence
                    .add(room(rooms[at]), user_named(&format!("u{who}"), &format!("U {who}")));
                there[at].insert(who, ());
            } else {
                node.store.presence.remove(room(rooms[at]), id(&format!("u{who}")));
                there[at].remove(&who);
            }
            if random.between(0, 9) == 0 {
                tokio::task::yield_now().await;
            }
        }
        // Somebody who comes last, everywhere, says when all has been told.
        for name in rooms {
            node.store.presence.add(room(name), user_named("last", "Last"));
        }
        let all: Vec<Vec<UserId>> = there
            .iter()
            .map(|there| {
                let ids = there.keys().map(|who| format!("u{who}")).chain(["last".to_owned()]);
                let mut ids: Vec<UserId> = ids.map(|text| id(&text)).collect();
                ids.sort();
                ids
            })
            .collect();
        let so = |watch: &Watch| {
            rooms.iter().zip(&all).all(|(name, all)| {
                watch.rosters.get(&room(name)).is_some_and(|heard| heard.users.keys().eq(all))
            })
        };
        watch.until(&mut node, "all is told", so).await;
        for name in rooms {
            watch.check(&node.store, name).await;
            for user in watch.rosters[&room(name)].users.keys() {
                node.store.presence.remove(room(name), user.clone());
            }
        }
        let empty = |watch: &Watch| rooms.iter().all(|name| watch.count(name) == 0);
        watch.until(&mut node, "all have left", empty).await;
    }
    node.hear_no_more().await;
    node.store.lifecycle.close().await;
}

pub async fn ten_thousand_users_join_at_once<L: Log>() {
    const COUNT: usize = 10_000;
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let mut watch = Watch::default();
    for n in 0..COUNT {
        node.store
            .presence
            .add(room(&format!("room {}", n % 4)), user_named(&format!("u{n}"), "U"));
    }
    let all = |watch: &Watch| (0..4).all(|n| watch.count(&format!("room {n}")) == COUNT / 4);
    watch.until(&mut node, "all have come", all).await;
    for n in 0..4 {
        watch.check(&node.store, &format!("room {n}")).await;
    }
    node.store.lifecycle.close().await;
}

pub async fn signals_come_back_in_order<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let mut watch = Watch::default();
    let signals: Vec<Signal> = (0..1_000)
        .map(|n| match n % 3 {
            0 => Signal::Typing {
                room: room("köln \"x\""),
                user: user_named(&format!("u{n}"), "U \\ \u{1f600}"),
                typing: n % 2 == 0,
            },
            1 => Signal::Read { user: id(&format!("u{n}")), room: room("lobby"), seq: n },
            _ => Signal::Profile { user: user_named(&format!("u{n}"), "U") },
        })
        .collect();
    for signal in &signals {
        node.store.presence.publish(signal.clone());
    }
    watch.until(&mut node, "all are heard", |watch| watch.others.len() >= signals.len()).await;
    assert_eq!(watch.others, signals);
    assert_eq!((watch.lost, watch.steps), (0, 0));
    node.store.lifecycle.close().await;
}

pub async fn rooms_with_users_or_messages_are_listed<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let mut watch = Watch::default();
    for name in ["silent", "köln", "dm:ann:bob", "late"] {
        must_append(&node.store, draft(name, "ann", name, "0")).await;
    }
    let there = [("köln", 3), ("quiet", 5), ("dm:ann:bob", 2), ("dm:x:y", 2), ("one", 1)];
    for (name, count) in there {
        for n in 0..count {
            node.store.presence.add(room(name), user_named(&format!("u{n}"), "U"));
        }
    }
    let all = |watch: &Watch| there.iter().all(|(name, count)| watch.count(name) == *count);
    watch.until(&mut node, "all have come", all).await;
    let store = node.store.clone();
    let rooms = async |limit| {
        let rooms = timeout(DEADLINE, store.log.rooms(limit)).await.expect("in time");
        rooms.expect("they can be read")
    };
    let summary = |(name, count, seq)| RoomSummary { room: room(name), count, seq };
    let expected =
        [("quiet", 5, 0), ("köln", 3, 2), ("one", 1, 0), ("late", 0, 4), ("silent", 0, 1)];
    let expected = expected.map(summary);
    assert_eq!(rooms(100).await, expected);
    for limit in 0..=5_u32 {
        assert_eq!(rooms(limit).await, expected[..limit as usize], "{limit}");
    }
    node.store.presence.remove(room("one"), id("u0"));
    watch.until(&mut node, "one is empty", |watch| watch.count("one") == 0).await;
    assert_eq!(rooms(100).await.len(), 4, "nothing is left of it");
    node.store.lifecycle.close().await;
}

pub async fn after_close_every_call_is_answered<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let node = log.node().await;
    let saving: Vec<_> = (0..100)
        .map(|n| node.store.profiles.patch(patch(&user_named(&format!("u{n}"), &format!("U {n}")))))
        .collect();
    let all = async { tokio::join!(join_all(saving), node.store.lifecycle.close()) };
    timeout(DEADLINE, all).await.expect("all are answered");
    let late = node.store.profiles.patch(patch(&user_named("late", "Late")));
    timeout(DEADLINE, late).await.expect("in time").expect_err("it is closed");
    let late = node.store.inbox.mark_read(id("late"), room("lobby"), 1);
    timeout(DEADLINE, late).await.expect("in time").expect_err("it is closed");
    node.store.presence.add(room("lobby"), user_named("late", "Late"));
    node.store.presence.remove(room("lobby"), id("late"));
    node.store.presence.publish(Signal::Profile { user: user_named("late", "Late") });
}

#[allow(dead_code, reason = "for logs that several nodes share; the embedded one has one node")]
pub async fn a_user_on_two_nodes_is_one<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut nodes = [log.node().await, log.node().await];
    let mut watches = [Watch::default(), Watch::default()];
    let (ann, bob) = (user_named("ann", "Ann"), user_named("bob", "Bob"));
    let mut hear = async |nodes: &mut [Node; 2], count: usize| {
        for (node, watch) in nodes.iter_mut().zip(&mut watches) {
            let what = format!("{count} are there");
            watch.until(node, &what, |watch| watch.count("lobby") == count).await;
            watch.check(&node.store, "lobby").await;
        }
        watches[0].left.len()
    };
    nodes[0].store.presence.add(room("lobby"), ann.clone());
    hear(&mut nodes, 1).await;
    nodes[1].store.presence.add(room("lobby"), ann.clone());
    nodes[1].store.presence.add(room("lobby"), bob.clone());
    hear(&mut nodes, 2).await;
    nodes[0].store.presence.remove(room("lobby"), ann.id.clone());
    nodes[0].store.presence.add(room("lobby"), bob.clone());
    nodes[0].store.presence.add(room("lobby"), user_named("cem", "Cem"));
    assert_eq!(hear(&mut nodes, 3).await, 0, "ann is still on the other node");
    nodes[1].store.presence.remove(room("lobby"), ann.id.clone());
    assert_eq!(hear(&mut nodes, 2).await, 1);
    nodes[1].store.presence.remove(room("lobby"), bob.id.clone());
    nodes[0].store.presence.remove(room("lobby"), bob.id.clone());
    assert_eq!(hear(&mut nodes, 1).await, 2);

    assert!(save(&nodes[0].store, &ann).await);
    assert!(!save(&nodes[1].store, &user_named("bob", "ANN")).await, "taken on the other node");
    assert!(save(&nodes[1].store, &user_named("ann", "Anna")).await);
    assert!(save(&nodes[0].store, &user_named("bob", "Ann")).await, "and freed on it");
    nodes[0].store.presence.publish(Signal::Typing {
        room: room("red"),
        user: ann.clone(),
        typing: true,
    });
    for (node, watch) in nodes.iter_mut().zip(&mut watches) {
        let typing = |signal: &Signal| matches!(signal, Signal::Typing { .. });
        watch.until(node, "ann types", |watch| watch.others.iter().any(typing)).await;
        watch.until(node, "names", |watch| watch.others.len() == 4).await;
    }
    for node in &nodes {
        node.store.lifecycle.close().await;
    }
}

/// `presence_contract!(name, Log)`, with `persistent` and `shared` where they are true.
macro_rules! presence_contract {
    ($name:ident, $log:ty $(, $trait:ident)*) => {
        mod $name {
            presence_contract!(@cases presence $log:
                the_first_join_and_the_last_leave_are_told_once
                a_picture_travels_and_a_name_changes_in_place
                steps_applied_equal_a_fresh_read
                ten_thousand_users_join_at_once
                signals_come_back_in_order
                rooms_with_users_or_messages_are_listed
                after_close_every_call_is_answered
            );
            presence_contract!(@cases profiles $log:
                a_name_is_one_users
                a_name_is_taken_once
                patches_undo_nothing_of_each_other
                an_unused_name_is_free
                a_mark_only_moves_forward
                unread_messages_are_those_of_others
                marks_are_bounded
                direct_rooms_are_found_by_their_read_marks
                a_mark_that_is_repeated_is_kept
            );
            $(presence_contract!(@$trait $log);)*
        }
    };
    (@persistent $log:ty) => {
        presence_contract!(@cases profiles $log: profiles_and_marks_outlive_a_restart);
    };
    (@shared $log:ty) => { presence_contract!(@cases presence $log: a_user_on_two_nodes_is_one); };
    (@cases $module:ident $log:ty: $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::$module::$case::<$log>().await;
            }
        )*
    };
}
