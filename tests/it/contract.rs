//! The contract of `store/mod.rs` as a suite that every store passes.
//!
//! A store joins with an `impl Log` and one line: `contract!(name, Type)`, and by the word
//! `persistent` or `shared` also the cases for logs that outlive a node or have several.

pub mod retries;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use roomcast::{
    domain::{
        page::Page,
        position::Position,
        record::{Body, Draft, Entry},
    },
    store::{
        RetentionPolicy,
        log::{AppendError, LOG_EVENT_BATCHES_MAX, LogEvent, TAIL_BYTES_MAX},
    },
};
use tokio::{sync::mpsc, time::timeout};

use crate::harness::{
    sessions::whole_tail,
    store::{
        DEADLINE, Log, check_dense, draft, must_append, originals, page_of, record, retention,
        room, source, telling, until,
    },
};

pub async fn order_of_80_000<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let drafts: Vec<Draft> =
        (0..80_000).map(|n| draft("lobby", "ann", &format!("m{n}"), &n.to_string())).collect();
    let (stored, heard) = node.pass(&drafts).await;
    check_dense(&drafts, &stored, &heard);
    assert_eq!(node.whole_history("lobby").await, originals(&heard));
    node.hear_no_more().await;
    node.store.lifecycle.close().await;
}

pub async fn each_submitter_keeps_its_order<L: Log>() {
    const EACH: usize = 2_000;
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let names = ["ann", "bob", "cem", "dee"];
    let mut submitters = tokio::task::JoinSet::new();
    for name in names {
        let store = node.store.clone();
        submitters.spawn(async move {
            let (settled, mut outcomes) = mpsc::channel(EACH);
            for n in 0..EACH {
                let draft = draft(name, name, &n.to_string(), &n.to_string());
                store.log.append(draft, telling(n, &settled));
                tokio::task::yield_now().await;
            }
            for n in 0..EACH {
                let (settled, outcome) = outcomes.recv().await.expect("a sender is open");
                assert_eq!(settled, n);
                outcome.expect("it is stored");
            }
        });
    }
    let heard = node.hear(names.len() * EACH).await;
    timeout(DEADLINE, submitters.join_all()).await.expect("all settle");
    for (index, message) in heard.iter().enumerate() {
        assert_eq!(message.position.seq, index as u64 + 1, "one order for all rooms");
    }
    for name in names {
        let messages = originals(&heard);
        let own: Vec<_> = messages.iter().filter(|message| message.from.as_str() == name).collect();
        for (n, message) in own.iter().enumerate() {
            assert_eq!(message.id.as_str(), n.to_string(), "of {name}");
        }
        let kept = node.whole_history(name).await;
        assert!(own.into_iter().eq(&kept), "the history of {name} has the order of all");
    }
    node.store.lifecycle.close().await;
}

pub async fn an_ack_means_stored<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    for n in 0..200 {
        let draft = draft("lobby", "ann", &format!("m{n}"), &n.to_string());
        let stored = must_append(&node.store, draft.clone()).await;
        let newest = node.history("lobby", Page::Newest, 1).await;
        assert_eq!(newest.messages, originals(&[record(draft, &stored)]));
        assert_eq!(newest.top, stored.position);
        node.hear(1).await;
    }
    node.store.lifecycle.close().await;
}

pub async fn two_rooms_share_one_order<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let drafts: Vec<Draft> = (0..100)
        .map(|n| draft(["red", "blue"][n % 2], "ann", &format!("m{n}"), &n.to_string()))
        .collect();
    let (stored, heard) = node.pass(&drafts).await;
    check_dense(&drafts, &stored, &heard);
    assert_eq!(node.store.log.partition(&room("red")), node.store.log.partition(&room("blue")));
    for name in ["red", "blue"] {
        let page = node.history(name, Page::Newest, 1_000).await;
        let mut own = originals(&heard);
        own.retain(|message| message.room == room(name));
        assert_eq!(page.messages, own);
        assert_eq!(page.top, heard[99].position, "top is of all rooms");
    }
    node.store.lifecycle.close().await;
}

/// Every page of a room is what a list would answer.
pub async fn history_pages<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let empty = node.history("red", Page::Newest, 10).await;
    assert_eq!(
        (empty.top.seq, empty.messages, empty.more, empty.trimmed),
        (0, vec![], false, false)
    );
    // Runs of other rooms lie between those of this one.
    let drafts: Vec<Draft> = (0..60)
        .map(|n| draft(["red", "blue", "red"][n / 7 % 3], "ann", &format!("m{n}"), &n.to_string()))
        .collect();
    let (_, heard) = node.pass(&drafts).await;
    for name in ["red", "blue", "nobody"] {
        let mut all = originals(&heard);
        all.retain(|message| message.room == room(name));
        for limit in [1, 2, 7, 100] {
            let check = async |page: Page| {
                let got = node.history(name, page, limit).await;
                let (messages, more) = page_of(&all, &page, limit as usize);
                assert_eq!(got.messages, messages, "{name} {page:?} {limit}");
                assert_eq!(got.more, more, "{name} {page:?} {limit}");
                assert!(!got.trimmed, "{name} {page:?} {limit}");
                assert_eq!(got.top.seq, 60);
            };
            check(Page::Newest).await;
            for seq in [0, 1, 2, 7, 8, 20, 21, 30, 59, 60, 61, u64::MAX] {
                check(Page::Before(seq)).await;
                check(Page::After(seq)).await;
            }
        }
    }
    node.store.lifecycle.close().await;
}

/// RetentionPolicy may take its time, but a page is whole or says that it is not.
pub async fn a_trimmed_history_says_so<L: Log>() {
    let mut log = L::fresh(RetentionPolicy { history_max: 200, ..retention() }).await;
    let mut node = log.node().await;
    let mut sent = 0_u64;
    let quiet = must_append(&node.store, draft("quiet", "bob", "q", "0")).await;
    node.hear(1).await;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let drafts: Vec<Draft> = (0..500)
            .map(|n| draft("loud", "ann", &format!("m{}", sent + n), &(sent + n).to_string()))
            .collect();
        node.pass(&drafts).await;
        sent += 500;
        let page = node.history("loud", Page::After(quiet.position.seq), 1_000_000).await;
        let first = page.messages.first().expect("there are messages").position.seq;
        assert_eq!(page.trimmed, first != quiet.position.seq + 1, "first of the page: {first}");
        assert_eq!(page.messages.len() as u64, page.top.seq + 1 - first, "no hole after it");
        if page.trimmed {
            let rest = node.history("loud", Page::After(first), 1_000_000).await;
            assert!(!rest.trimmed, "all after the first that is left is there");
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "nothing is trimmed after {sent}");
    }
    let newest = node.history("loud", Page::Newest, 200).await;
    assert_eq!(newest.messages.len(), 200, "what is promised is kept");
    let kept = node.history("quiet", Page::After(0), 10).await;
    assert_eq!((kept.messages.len(), kept.trimmed), (1, false), "a loud room evicts no quiet one");
    node.store.lifecycle.close().await;
}

pub async fn bodies_come_out_byte_for_byte<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let long = format!("\"{}\"", "é".repeat(15 << 10));
    let bodies = [
        r#""grüße, 你好, 👩‍👩‍👧""#,
        "1e400",
        "12345678901234567890",
        "-0.0",
        r#"{ "a" : [ {"b":{"c":[[[null,true,false]]]}} ], "a": 2 }"#,
        "\"\u{2028}\u{2029}\u{7f}\"",
        r#""\u2028 \ud83d \u0000 \n \/ \"""#,
        "\"%s ' ; -- \\t {0} $1\"",
        "\"\"",
        long.as_str(),
    ];
    let drafts: Vec<Draft> = bodies
        .iter()
        .enumerate()
        .map(|(n, body)| draft("lobby: {köln} \"1\"", "ann:\u{1f600}", &format!("'{n}'"), body))
        .collect();
    let (stored, heard) = node.pass(&drafts).await;
    check_dense(&drafts, &stored, &heard);
    assert_eq!(node.whole_history("lobby: {köln} \"1\"").await, originals(&heard));
    for (heard, body) in heard.iter().zip(bodies) {
        assert_eq!(heard.entry, Entry::Message(Body::from_json(body)));
    }
    node.store.lifecycle.close().await;
}

/// In log events and in the tail, beside the body that history shows.
pub async fn a_source_event_comes_back<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let me = Body::from_json("{\"name\":\"Ann \\n\"}");
    let sources = [
        Some(source("send message", "[\"hi\",{\"room\":\"köln\"},1e400]", None)),
        None,
        Some(source("\u{1f600} \"\n", "[]", Some(me))),
        Some(source("message", "[\"again\"]", Some(Body::null()))),
    ];
    let drafts: Vec<Draft> = sources
        .into_iter()
        .zip(["a", "b", "c", "d"])
        .map(|(source, id)| Draft { source, ..draft("lobby", "ann", id, "\"text\"") })
        .collect();
    let (stored, heard) = node.pass(&drafts).await;
    check_dense(&drafts, &stored, &heard);
    let begin = Position { seq: 0, ..heard[0].position.clone() };
    assert_eq!(whole_tail(&node, begin.clone(), 100).await, heard);
    assert_eq!(node.whole_history("lobby").await, originals(&heard));
    // It counts where bytes are bounded.
    let long = format!("[\"{}\"]", "x".repeat(TAIL_BYTES_MAX / 2));
    let long =
        |id| Draft { source: Some(source("send", &long, None)), ..draft("lobby", "ann", id, "1") };
    let longs: Vec<Draft> = ["e", "f", "g"].map(long).into();
    let later = node.pass_on(&longs).await;
    assert_eq!(whole_tail(&node, heard[3].position.clone(), 100).await, later);
    node.store.lifecycle.close().await;
}

/// Far more than a node may keep waiting: the rest is refused at once, and nothing is lost track of.
pub async fn a_full_queue_is_busy<L: Log>() {
    const COUNT: usize = 300_000;
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let (settled, mut outcomes) = mpsc::channel(COUNT);
    for n in 0..COUNT {
        node.store.log.append(draft("lobby", "ann", &format!("m{n}"), "0"), telling(n, &settled));
    }
    drop(settled);
    let store = node.store.clone();
    let hearing = async {
        let mut heard = Vec::new();
        while let Some(batch) = node.log_events.recv().await {
            heard.extend(batch);
        }
        heard
    };
    let settling = async {
        let mut stored = Vec::new();
        let mut seen = HashSet::new();
        while let Some((number, outcome)) = outcomes.recv().await {
            assert!(seen.insert(number), "{number} settled twice");
            match outcome {
                Ok(position) => stored.push((number, position)),
                Err(error) => assert_eq!(error, AppendError::Busy),
            }
        }
        assert_eq!(seen.len(), COUNT, "each is settled");
        store.lifecycle.close().await;
        stored
    };
    let (heard, stored) =
        timeout(DEADLINE, async { tokio::join!(hearing, settling) }).await.expect("in time");
    assert!(stored.len() < COUNT, "the queue has a bound");
    assert!(stored.is_sorted_by_key(|(number, _)| *number), "settled in order");
    assert_eq!(heard.len(), stored.len());
    for ((number, stored), heard) in stored.iter().zip(&heard) {
        let LogEvent::Record(heard) = heard else { panic!("{heard:?}") };
        assert_eq!(
            (heard.id.as_str(), &heard.position),
            (&*format!("m{number}"), &stored.position)
        );
    }
}

pub async fn a_slow_reader_loses_nothing<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    // More batches than wait for the relay, whatever their size.
    let drafts: Vec<Draft> =
        (0..60_000).map(|n| draft("lobby", "ann", &format!("m{n}"), &n.to_string())).collect();
    let settled = Arc::new(AtomicUsize::new(0));
    for draft in &drafts {
        let settled = Arc::clone(&settled);
        node.store.log.append(
            draft.clone(),
            Box::new(move |result| {
                result.expect("it is stored");
                settled.fetch_add(1, Ordering::Relaxed);
            }),
        );
    }
    // There is no reader until the store has gone as far as it goes without a reader.
    until("the store fills the channel", || {
        node.log_events.len() == LOG_EVENT_BATCHES_MAX
            || settled.load(Ordering::Relaxed) == drafts.len()
    })
    .await;
    let heard = node.hear(drafts.len()).await;
    for (draft, heard) in drafts.iter().zip(&heard) {
        assert_eq!((&heard.id, &heard.entry), (&draft.id, &draft.entry));
    }
    node.hear_no_more().await;
    assert_eq!(settled.load(Ordering::Relaxed), drafts.len());
    node.store.lifecycle.close().await;
}

pub async fn after_close_nothing_is_stored<L: Log>() {
    const COUNT: usize = 5_000;
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let (settled, mut outcomes) = mpsc::channel(COUNT + 1);
    for n in 0..COUNT {
        node.store.log.append(draft("lobby", "ann", &format!("m{n}"), "0"), telling(n, &settled));
    }
    let store = node.store.clone();
    let (heard, ()) = tokio::join!(node.hear(COUNT), async {
        timeout(DEADLINE, store.lifecycle.close()).await.expect("it closes");
    });
    assert_eq!(heard.len(), COUNT);
    assert_eq!(outcomes.len(), COUNT, "what waited is settled when close returns");
    store.log.append(draft("lobby", "ann", "late", "0"), telling(COUNT, &settled));
    drop(settled);
    for n in 0..COUNT {
        let (number, outcome) = outcomes.recv().await.expect("it is settled");
        assert_eq!(number, n);
        outcome.expect("it is stored");
    }
    assert_eq!(outcomes.recv().await, Some((COUNT, Err(AppendError::Unavailable))));
    assert_eq!(outcomes.recv().await, None, "settled once");
    assert_eq!(node.log_events.recv().await, None, "nothing more, and the channel has an end");
    timeout(DEADLINE, store.lifecycle.close()).await.expect("closing twice is closing");
}

pub async fn a_restart_goes_on<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let mut node = log.node().await;
    let drafts: Vec<Draft> = (0..1_000)
        .map(|n| draft(["red", "blue"][n % 2], "ann", &format!("m{n}"), &n.to_string()))
        .collect();
    let (stored, heard) = node.pass(&drafts).await;
    let before = [node.whole_history("red").await, node.whole_history("blue").await];
    node.store.lifecycle.close().await;

    let mut node = log.node().await;
    let after = [node.whole_history("red").await, node.whole_history("blue").await];
    assert_eq!(after, before, "the history is the same");
    assert_eq!(
        must_append(&node.store, drafts[7].clone()).await,
        stored[7],
        "a retry after a restart"
    );
    let next = draft("red", "ann", "next", "0");
    let at = must_append(&node.store, next.clone()).await;
    assert_eq!(at.position.seq, 1_001, "the sequence goes on");
    assert_eq!(at.position.epoch, heard[0].position.epoch, "so does the epoch");
    assert_eq!(node.hear(1).await, [record(next, &at)], "only what is new is heard");
    node.store.lifecycle.close().await;
}

#[allow(dead_code, reason = "for logs that several nodes share; the embedded one has one node")]
pub async fn all_nodes_have_one_order<L: Log>() {
    const EACH: usize = 5_000;
    let mut log = L::fresh(retention()).await;
    let mut nodes = [log.node().await, log.node().await];
    let (settled, mut outcomes) = mpsc::channel(2 * EACH);
    for n in 0..EACH {
        for (node, name) in nodes.iter().zip(["ann", "bob"]) {
            let draft = draft("lobby", name, &n.to_string(), &n.to_string());
            node.store.log.append(draft, telling(n, &settled));
        }
    }
    let [one, two] = &mut nodes;
    let (heard, same) = tokio::join!(one.hear(2 * EACH), two.hear(2 * EACH));
    assert_eq!(heard, same, "one order on every node");
    let mut next: HashMap<&str, usize> = HashMap::new();
    for (index, message) in heard.iter().enumerate() {
        assert_eq!(message.position.seq, index as u64 + 1);
        let next = next.entry(message.from.as_str()).or_default();
        assert_eq!(message.id.as_str(), next.to_string(), "of {}", message.from);
        *next += 1;
    }
    for _ in 0..2 * EACH {
        let settled = timeout(DEADLINE, outcomes.recv()).await.expect("in time");
        settled.expect("a sender is open").1.expect("it is stored");
    }
    // A retry that goes to the other node is the same message.
    let original = draft("lobby", "cem", "one", "0");
    let first = must_append(&nodes[0].store, original.clone()).await;
    assert_eq!(must_append(&nodes[1].store, original).await, first);
    for node in &mut nodes {
        node.hear(1).await;
    }
    // And a node that starts now hears only what comes.
    let mut third = log.node().await;
    let draft = draft("lobby", "dee", "one", "0");
    let stored = must_append(&third.store, draft.clone()).await;
    assert_eq!(third.hear(1).await, [record(draft, &stored)]);
    for node in nodes.iter().chain([&third]) {
        node.store.lifecycle.close().await;
    }
}

/// `contract!(name, Log)`, with `persistent` and `shared` where they are true.
macro_rules! contract {
    ($name:ident, $log:ty $(, $trait:ident)*) => {
        mod $name {
            contract!(@cases $log:
                order_of_80_000
                each_submitter_keeps_its_order
                an_ack_means_stored
                two_rooms_share_one_order
                history_pages
                a_trimmed_history_says_so
                bodies_come_out_byte_for_byte
                a_source_event_comes_back
                a_full_queue_is_busy
                a_slow_reader_loses_nothing
                after_close_nothing_is_stored
            );
            contract!(@retries $log:
                a_retry_shows_once
                an_id_of_another_message_is_refused
                many_ids_are_recognised
            );
            $(contract!(@$trait $log);)*
        }
    };
    (@persistent $log:ty) => {
        contract!(@cases $log: a_restart_goes_on);
        contract!(@retries $log: a_conflict_outlives_a_restart);
    };
    (@shared $log:ty) => {
        contract!(@cases $log: all_nodes_have_one_order);
        contract!(@retries $log: a_conflict_is_seen_on_every_node);
    };
    (@cases $log:ty: $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::contract::$case::<$log>().await;
            }
        )*
    };
    (@retries $log:ty: $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::contract::retries::$case::<$log>().await;
            }
        )*
    };
}
