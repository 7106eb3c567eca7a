//! What `store/mod.rs` promises of sessions, and of the log that they are resumed from, as a suite
//! that every store passes: `session_contract!(name, Type)`, with the same words as `contract!`.

use std::time::Duration;

use futures_util::future::join_all;
use roomcast::{
    domain::{
        name::{PublicId, UserId},
        page::Page,
        position::{Epoch, Position},
        record::{Body, Draft},
    },
    store::{
        NodeEvent, RetentionPolicy,
        log::{LogTail, TAIL_BYTES_MAX},
        sessions::{Holder, SessionRecord},
    },
};
use tokio::time::{Instant, timeout};

use crate::harness::{
    eventually,
    sessions::{
        SHORT, claim, hear_taken, read, record, save, session, short, tail, user, whole_tail,
    },
    store::{DEADLINE, Log, draft, retention},
};

/// A window that does not end while a test runs.
fn long() -> RetentionPolicy {
    RetentionPolicy { recovery_window: Duration::from_secs(3_600), ..retention() }
}

pub async fn a_session_comes_back<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let (ann, again) = (Holder::random(), Holder::random());
    let session = session(&"k_-9".repeat(16));
    let full = SessionRecord {
        profile: Some("köln \"x\"".into()),
        me: Some(Body::from_json(r#"{"name": "\ud83d", "n": 1e400}"#)),
        ..record(&["lobby", "köln: {1} \"x\"", "\u{1f469}\u{200d}\u{1f467}"])
    };
    assert_eq!(claim(&node.store, &session, again).await, None, "it begins when it is saved");
    assert!(save(&node.store, &session, ann, &full).await);
    assert_eq!(read(&node.store, &session).await, Some(full.clone()), "looked at, not taken");
    node.store.sessions.release(session.clone(), ann);
    let other = UserId::parse("bob").expect("a user");
    let stolen = node.store.sessions.claim(session.clone(), Holder::random(), other).await;
    assert_eq!(stolen.expect("it can be read"), None, "it is another user's");
    assert_eq!(claim(&node.store, &session, again).await, Some(full.clone()));
    assert_eq!(claim(&node.store, &session, again).await, Some(full.clone()), "asked again");

    let empty = SessionRecord { rooms: vec![], profile: None, me: None, ..full.clone() };
    assert!(save(&node.store, &session, again, &empty).await);
    node.store.sessions.release(session.clone(), again);
    assert_eq!(read(&node.store, &session).await, Some(empty.clone()));
    let third = Holder::random();
    assert_eq!(claim(&node.store, &session, third).await, Some(empty.clone()));
    let deep = Body::from_json(&format!("{}{}", "[".repeat(2_000), "]".repeat(2_000)));
    for me in [deep, Body::null()] {
        let remembers = SessionRecord { me: Some(me), ..empty.clone() };
        assert!(save(&node.store, &session, third, &remembers).await);
        assert_eq!(read(&node.store, &session).await, Some(remembers.clone()));
        assert_eq!(claim(&node.store, &session, third).await, Some(remembers));
    }
    node.store.sessions.release(session.clone(), third);
    // Taking a released session is reported to no holder.
    node.hear_no_more().await;
    node.store.lifecycle.close().await;
}

pub async fn rooms_change<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let node = log.node().await;
    let (session, ann) = (session("a"), Holder::random());
    assert!(save(&node.store, &session, ann, &record(&["0"])).await);
    for round in 0..20 {
        let names: Vec<String> = (0..10).map(|n| format!("{round} {n}")).collect();
        // Polled last to first: the order of the calls counts.
        let mut saving: Vec<_> = (1..=names.len())
            .map(|count| {
                let rooms: Vec<&str> = names[..count].iter().map(String::as_str).collect();
                node.store.sessions.save(session.clone(), ann, record(&rooms))
            })
            .collect();
        saving.reverse();
        for saved in timeout(DEADLINE, join_all(saving)).await.expect("in time") {
            assert!(saved.expect("it can be written"));
        }
        let kept = claim(&node.store, &session, ann).await.expect("it is there");
        let kept: Vec<&str> = kept.rooms.iter().map(|joined| joined.room.as_str()).collect();
        assert_eq!(kept, names);
    }
    node.store.lifecycle.close().await;
}

pub async fn a_second_claim_tells_the_first_holder<L: Log>() {
    let mut log = L::fresh(long()).await;
    let mut node = log.node().await;
    let (session, ann) = (session("a"), Holder::random());
    let one_room = record(&["lobby"]);
    assert!(save(&node.store, &session, ann, &one_room).await);
    let mut before = ann;
    for _ in 0..5 {
        let next = Holder::random();
        assert_eq!(claim(&node.store, &session, next).await, Some(one_room.clone()));
        hear_taken(&mut node, &session, before).await;
        before = next;
    }
    assert!(!save(&node.store, &session, ann, &record(&["late"])).await);
    assert_eq!(
        claim(&node.store, &session, before).await,
        Some(one_room),
        "a late save wrote nothing"
    );
    node.store.lifecycle.close().await;
}

pub async fn a_released_session_expires<L: Log>() {
    let mut log = L::fresh(short()).await;
    let node = log.node().await;
    // A claim makes a session live again, so each is asked for once.
    let sessions: Vec<PublicId> = (0..1_000).map(|n| session(&format!("k{n}"))).collect();
    let forgotten = record(&["lobby"]);
    let release = async |session: &PublicId| {
        let holder = Holder::random();
        assert!(save(&node.store, session, holder, &forgotten).await);
        node.store.sessions.release(session.clone(), holder);
    };
    join_all(sessions.iter().map(release)).await;
    let mut sessions = sessions.iter();
    for session in sessions.by_ref() {
        if claim(&node.store, session, Holder::random()).await.is_none() {
            break;
        }
        tokio::time::sleep(SHORT / 100).await;
    }
    let last = sessions.next_back().expect("none has expired");
    eventually("the last one ends unseen", DEADLINE, async || {
        read(&node.store, last).await.is_none().then_some(())
    })
    .await;
    node.store.lifecycle.close().await;
}

pub async fn a_live_session_outlives_the_window<L: Log>() {
    let mut log = L::fresh(short()).await;
    let node = log.node().await;
    let saved = record(&["lobby"]);
    for name in ["saved", "claimed"] {
        assert!(save(&node.store, &session(name), Holder::random(), &saved).await);
    }
    let claimed = claim(&node.store, &session("claimed"), Holder::random()).await;
    assert_eq!(claimed.as_ref(), Some(&saved));
    // Nothing is waited for: time itself must do no harm.
    tokio::time::sleep(SHORT * 2).await;
    for name in ["saved", "claimed"] {
        let kept = claim(&node.store, &session(name), Holder::random()).await;
        assert_eq!(kept.as_ref(), Some(&saved), "{name}");
    }
    node.store.lifecycle.close().await;
}

pub async fn many_sessions_come_back_at_once<L: Log>() {
    const COUNT: usize = 3_000;
    let mut log = L::fresh(long()).await;
    let mut node = log.node().await;
    let sessions: Vec<_> =
        (0..COUNT).map(|n| (session(&format!("k{n}")), Holder::random())).collect();
    let records: Vec<_> = (0..COUNT).map(|n| record(&[&format!("room {n}")])).collect();
    let saving = sessions.iter().zip(&records);
    let saved =
        join_all(saving.map(|((session, holder), r)| save(&node.store, session, *holder, r))).await;
    assert!(saved.into_iter().all(|saved| saved));
    let claiming =
        sessions.iter().map(|(session, _)| claim(&node.store, session, Holder::random()));
    let claimed = join_all(claiming).await;
    assert!(claimed.into_iter().eq(records.into_iter().map(Some)));
    let mut lost: Vec<Holder> = Vec::new();
    while lost.len() < COUNT {
        match timeout(DEADLINE, node.node_events.recv()).await.expect("all are told") {
            Some(NodeEvent::SessionTaken { holder, .. }) => lost.push(holder),
            Some(NodeEvent::SignalsLost { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    lost.sort_by_key(|holder| holder.bits());
    let mut first: Vec<Holder> = sessions.into_iter().map(|(_, holder)| holder).collect();
    first.sort_by_key(|holder| holder.bits());
    assert_eq!(lost, first);
    node.store.lifecycle.close().await;
}

/// A store that is closed in the middle of this answers every call.
pub async fn after_close_no_session_is_kept<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let node = log.node().await;
    let ann = record(&["lobby"]);
    let saving: Vec<_> = (0..200)
        .map(|n| node.store.sessions.save(session(&format!("k{n}")), Holder::random(), ann.clone()))
        .collect();
    let store = node.store.clone();
    let all = async { tokio::join!(join_all(saving), store.lifecycle.close()) };
    timeout(DEADLINE, all).await.expect("all are answered");
    let late = node.store.sessions.save(session("late"), Holder::random(), ann);
    timeout(DEADLINE, late).await.expect("in time").expect_err("it is closed");
    let late = node.store.sessions.claim(session("k0"), Holder::random(), user());
    timeout(DEADLINE, late).await.expect("in time").expect_err("it is closed");
    node.store.sessions.release(session("late"), Holder::random());
}

pub async fn a_tail_has_all_rooms<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let drafts: Vec<Draft> = (0..2_000)
        .map(|n| draft(&format!("room {}", n % 7), "ann", &format!("m{n}"), &n.to_string()))
        .collect();
    let (_, heard) = node.pass(&drafts).await;
    let epoch = heard[0].position.epoch.clone();
    let at = |seq| Position { epoch: epoch.clone(), seq };
    for (after, limit) in [(0, 2_000), (0, 150), (1, 300), (777, 97), (1_990, 1), (1_999, 5)] {
        let rest = whole_tail(&node, at(after), limit).await;
        let first = usize::try_from(after).expect("small");
        assert!(rest == heard[first..], "after {after}, {limit} at a time");
    }
    for after in [2_000, 2_005, u64::MAX] {
        let nothing = LogTail::Records { records: vec![], top: at(2_000) };
        assert_eq!(tail(&node, &at(after), 10).await, nothing, "after {after}");
    }
    let elsewhere = Position { epoch: Epoch::new("another"), seq: 1 };
    assert_eq!(tail(&node, &elsewhere, 10).await, LogTail::OtherEpoch);
    let nowhere = timeout(DEADLINE, node.store.log.tail(9, at(1), 10)).await.expect("in time");
    assert_eq!(nowhere.expect("an answer"), LogTail::OtherEpoch, "there is no such partition");
    node.store.lifecycle.close().await;
}

pub async fn a_tail_is_bounded_in_bytes<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let sizes = [10, 100_000, 100_000, 100_000, TAIL_BYTES_MAX + 9, 10, TAIL_BYTES_MAX - 2, 7, 7];
    let drafts: Vec<Draft> = (0..4 * sizes.len())
        .map(|n| {
            let body = format!("\"{}\"", "x".repeat(sizes[n % sizes.len()]));
            draft("lobby", "ann", &format!("m{n}"), &body)
        })
        .collect();
    let (_, heard) = node.pass(&drafts).await;
    let start = Position { epoch: heard[0].position.epoch.clone(), seq: 0 };
    assert!(whole_tail(&node, start, 1_000).await == heard);
    node.store.lifecycle.close().await;
}

/// The window is the log's, whatever a room has kept of it.
pub async fn a_tail_reaches_beyond_the_history<L: Log>() {
    let idempotency_window = Duration::from_millis(1);
    let bounds = RetentionPolicy { history_max: 50, idempotency_window, ..retention() };
    let mut log = L::fresh(bounds).await;
    let mut node = log.node().await;
    let mut all = Vec::new();
    let deadline = Instant::now() + DEADLINE;
    loop {
        let drafts: Vec<Draft> =
            (0..500).map(|n| draft("loud", "ann", &format!("m{}", all.len() + n), "0")).collect();
        all.extend(node.pass_on(&drafts).await);
        if all.len() >= 5_000 && node.history("loud", Page::After(0), 1).await.trimmed {
            break;
        }
        assert!(Instant::now() < deadline, "nothing is trimmed after {}", all.len());
    }
    let start = Position { epoch: all[0].position.epoch.clone(), seq: 0 };
    assert!(whole_tail(&node, start, 1_000).await == all);
    node.store.lifecycle.close().await;
}

pub async fn sessions_outlive_a_restart<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let node = log.node().await;
    let (live, released) = (record(&["lobby"]), record(&["lobby", "red"]));
    assert!(save(&node.store, &session("live"), Holder::random(), &live).await);
    let bob = Holder::random();
    assert!(save(&node.store, &session("released"), bob, &released).await);
    node.store.sessions.release(session("released"), bob);
    node.store.lifecycle.close().await;
    let node = log.node().await;
    assert_eq!(claim(&node.store, &session("live"), Holder::random()).await, Some(live));
    assert_eq!(claim(&node.store, &session("released"), Holder::random()).await, Some(released));
    node.store.lifecycle.close().await;
}

#[allow(dead_code, reason = "for logs that several nodes share; the embedded one has one node")]
pub async fn a_claim_on_another_node_tells_the_first<L: Log>() {
    let mut log = L::fresh(long()).await;
    let mut nodes = [log.node().await, log.node().await];
    let session = session("a");
    let saved = record(&["lobby"]);
    let first = Holder::random();
    assert!(save(&nodes[0].store, &session, first, &saved).await);
    let mut before = first;
    for turn in 0..6_usize {
        let (here, there) = (turn % 2, (turn + 1) % 2);
        let next = Holder::random();
        assert_eq!(claim(&nodes[there].store, &session, next).await, Some(saved.clone()));
        hear_taken(&mut nodes[here], &session, before).await;
        assert!(!save(&nodes[here].store, &session, before, &record(&[])).await);
        before = next;
    }
    let [one, two] = &mut nodes;
    one.hear_no_more().await;
    two.hear(1).await;
    for node in &nodes {
        node.store.lifecycle.close().await;
    }
}

/// `session_contract!(name, Log)`, with `persistent` and `shared` where they are true.
macro_rules! session_contract {
    ($name:ident, $log:ty $(, $trait:ident)*) => {
        mod $name {
            session_contract!(@cases $log:
                a_session_comes_back
                rooms_change
                a_second_claim_tells_the_first_holder
                a_released_session_expires
                a_live_session_outlives_the_window
                many_sessions_come_back_at_once
                after_close_no_session_is_kept
                a_tail_has_all_rooms
                a_tail_is_bounded_in_bytes
                a_tail_reaches_beyond_the_history
            );
            $(session_contract!(@$trait $log);)*
        }
    };
    (@persistent $log:ty) => { session_contract!(@cases $log: sessions_outlive_a_restart); };
    (@shared $log:ty) => {
        session_contract!(@cases $log: a_claim_on_another_node_tells_the_first);
    };
    (@cases $log:ty: $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::sessions::$case::<$log>().await;
            }
        )*
    };
}
