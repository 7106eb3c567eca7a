//! The embedded store: the contract, in a file and in memory, and what a file promises beyond it.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use proptest::prelude::{Strategy, any, prop_assert_eq, prop_oneof, proptest};
use roomcast::{
    clock,
    domain::{
        message::Message,
        page::Page,
        position::Position,
        record::{Body, Change, Draft, Entry, Record, Stored},
    },
    store::{
        RetentionPolicy,
        log::{AppendError, LOG_EVENT_BATCHES_MAX},
        queue::BATCH_MAX,
        sessions::{Holder, SessionRecord},
        sqlite::{self as store_sqlite, Location, SqliteOptions, error::OpenError},
    },
};
use tokio::sync::{Semaphore, mpsc};

use crate::harness::{
    sessions::{claim, record as session_record, save, session, whole_tail},
    sqlite_store::{BEFORE_SOURCES, FileLog, MemoryLog, aged, database, memory, open},
    store::{
        DEADLINE, Node, append, draft, later, must_append, originals, page_of, record, retention,
        room, source, until,
    },
};

/// Where the child of the crash test keeps its log, and which round it is.
const CHILD_DIR: &str = "ROOMCAST_TEST_CRASH_DIR";
const CHILD_ROUND: &str = "ROOMCAST_TEST_CRASH_ROUND";

contract!(file, super::FileLog, persistent);
contract!(in_memory, super::MemoryLog);
session_contract!(file_sessions, super::FileLog, persistent);
session_contract!(memory_sessions, super::MemoryLog);
presence_contract!(file_people, super::FileLog, persistent);
presence_contract!(memory_people, super::MemoryLog);
account_contract!(file_accounts, super::FileLog);
account_contract!(memory_accounts, super::MemoryLog);

fn refused(dir: &Path) -> OpenError {
    let location = Location::Dir(dir.to_owned());
    store_sqlite::open(SqliteOptions { location, retention: retention() })
        .map(|_| ())
        .expect_err("refused")
}

fn rows(database: &rusqlite::Connection) -> usize {
    database.query_row("SELECT count(*) FROM messages", [], |row| row.get(0)).expect("a count")
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = open(dir.path(), retention());
    let error = refused(dir.path());
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
    must_append(&node.store, draft("lobby", "ann", "one", "1")).await;
    node.hear(1).await;
    node.store.lifecycle.close().await;
    open(dir.path(), retention()).store.lifecycle.close().await;
}

#[tokio::test]
async fn a_log_of_a_newer_program_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    open(dir.path(), retention()).store.lifecycle.close().await;
    database(dir.path()).pragma_update(None, "user_version", 8).expect("a pragma");
    let error = refused(dir.path());
    assert!(matches!(error, OpenError::Newer { found: 8, known: 7, .. }), "{error:?}");
    assert!(error.to_string().contains("roomcast.db"), "{error}");
}

/// It has records without source events and sessions without a profile, and takes new ones with
/// them.
#[tokio::test]
async fn a_file_of_the_release_before_is_brought_forward() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = open(dir.path(), retention());
    let old = draft("lobby", "ann", "old", "\"old\"");
    let first = must_append(&node.store, old.clone()).await;
    let mut heard = node.hear(1).await;
    let kept = session_record(&["lobby"]);
    assert!(save(&node.store, &session("a"), Holder::random(), &kept).await);
    node.store.lifecycle.close().await;
    database(dir.path()).execute_batch(BEFORE_SOURCES).expect("it can be taken back");

    let mut node = open(dir.path(), retention());
    assert_eq!(must_append(&node.store, old).await, first, "the old id is known");
    let again = Holder::random();
    assert_eq!(claim(&node.store, &session("a"), again).await, Some(kept.clone()));
    let named = SessionRecord { profile: Some("chat".into()), ..kept };
    assert!(save(&node.store, &session("a"), again, &named).await);
    assert_eq!(claim(&node.store, &session("a"), again).await, Some(named));
    let source = Some(source("say", "[\"new\"]", None));
    let new = Draft { source, ..draft("lobby", "ann", "new", "\"new\"") };
    must_append(&node.store, new).await;
    heard.extend(node.hear(1).await);
    let begin = Position { seq: 0, ..first.position };
    assert_eq!(whole_tail(&node, begin, 10).await, heard);
    assert_eq!(node.whole_history("lobby").await, originals(&heard));
    node.store.lifecycle.close().await;
}

/// The arguments of an event contain what was deleted.
#[tokio::test]
async fn a_deleted_message_keeps_no_source_event() {
    let mut node = memory(retention());
    let source = Some(source("say", "[\"secret\"]", None));
    let said = Draft { source: source.clone(), ..draft("lobby", "ann", "said", "1") };
    let edit = Entry::Change { target_seq: 1, change: Change::Edit(Body::from_json("2")) };
    let edit = Draft { entry: edit, source, ..draft("lobby", "ann", "edit", "1") };
    let delete = Entry::Change { target_seq: 1, change: Change::Delete };
    let delete = Draft { entry: delete, ..draft("lobby", "ann", "delete", "1") };
    let heard = node.pass_on(&[said, edit, delete]).await;
    assert!(heard[0].source.is_some() && heard[1].source.is_some());
    let begin = Position { seq: 0, ..heard[0].position.clone() };
    let kept = whole_tail(&node, begin, 10).await;
    assert!(kept.len() == 3 && kept.iter().all(|record| record.source.is_none()), "{kept:?}");
    node.store.lifecycle.close().await;
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("roomcast.db"), [b'x'; 8_192]).expect("a file");
    let error = refused(dir.path());
    assert!(matches!(error, OpenError::Database { .. }), "{error:?}");
    let line = error.to_string();
    assert!(line.contains("roomcast.db") && line.contains("not a database"), "{line}");
}

#[test]
fn a_data_directory_that_is_a_file_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("taken");
    std::fs::write(&file, "").expect("a file");
    let error = refused(&file);
    assert!(matches!(error, OpenError::Directory { .. }), "{error:?}");
    assert!(error.to_string().contains("taken"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_window_an_id_is_new() {
    let mut node = memory(retention());
    let window = retention().idempotency_window;
    let first = draft("lobby", "ann", "one", "1");
    let second = later(first.clone(), window + Duration::from_millis(1));
    assert_eq!(must_append(&node.store, first).await.position.seq, 1);
    let stored = must_append(&node.store, second.clone()).await;
    assert_eq!((stored.position.seq, stored.at), (2, second.at));
    assert_eq!(
        must_append(&node.store, later(second, window)).await,
        stored,
        "the newer one counts"
    );
    assert_eq!(node.hear(2).await.len(), 2);
    node.hear_no_more().await;
}

/// Without a reader, the store takes what its bounds say and not one draft more.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_relay_memory_is_bounded() {
    const COUNT: usize = 200_000;
    let node = memory(retention());
    let (settled, mut outcomes) = mpsc::channel(COUNT + 1);
    let send = |n: usize| {
        let settled = settled.clone();
        node.store.log.append(
            draft("lobby", "ann", &format!("m{n}"), "0"),
            Box::new(move |outcome| settled.try_send(outcome).expect("there is room")),
        );
    };
    // First the channel of log events is filled, so that the writer stands still whatever comes then.
    let mut sent = 0;
    until("the channel is full", || {
        (0..1_000).for_each(|_| {
            send(sent);
            sent += 1;
        });
        node.log_events.len() == LOG_EVENT_BATCHES_MAX || sent >= COUNT / 2
    })
    .await;
    (sent..COUNT).for_each(send);
    let mut busy = 0;
    let mut stored = 0;
    until("the queue is full", || {
        while let Ok(outcome) = outcomes.try_recv() {
            match outcome {
                Ok(_) => stored += 1,
                Err(error) => {
                    assert_eq!(error, AppendError::Busy);
                    busy += 1;
                }
            }
        }
        busy > 0
    })
    .await;
    // In the channel, with the writer, and in the queue.
    let taken_max = (LOG_EVENT_BATCHES_MAX + 1) * BATCH_MAX + 65_536;
    assert!(COUNT - busy <= taken_max, "{} are in flight", COUNT - busy);
    // The relay goes away: the rest is stored all the same, and each is told once.
    let Node { store, log_events, .. } = node;
    drop(log_events);
    store.lifecycle.close().await;
    drop((store, settled));
    while let Some(outcome) = outcomes.recv().await {
        match outcome {
            Ok(_) => stored += 1,
            Err(_) => busy += 1,
        }
    }
    assert_eq!(stored + busy, COUNT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_keeps_its_newest_messages() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = open(dir.path(), RetentionPolicy { history_max: 100, ..retention() });
    let drafts: Vec<Draft> =
        (0..5_000).map(|n| draft("lobby", "ann", &format!("m{n}"), &n.to_string())).collect();
    let (stored, heard) = node.pass(&drafts).await;
    let mut page = node.history("lobby", Page::After(0), 10_000).await;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while page.messages.len() > 100 {
        assert!(tokio::time::Instant::now() < deadline, "{} are left", page.messages.len());
        page = node.history("lobby", Page::After(0), 10_000).await;
    }
    assert_eq!(page.messages, originals(&heard[4_900..]));
    assert!(page.trimmed);
    assert!(node.history("lobby", Page::After(4_899), 1).await.trimmed);
    assert!(!node.history("lobby", Page::After(4_900), 1).await.trimmed, "nothing after it went");
    assert!(!node.history("lobby", Page::Before(4_901), 1).await.more);

    // Gone from the history, but a retry is still recognised, now and after a restart.
    assert_eq!(must_append(&node.store, drafts[0].clone()).await, stored[0]);
    node.store.lifecycle.close().await;
    let mut node = open(dir.path(), RetentionPolicy { history_max: 100, ..retention() });
    assert_eq!(must_append(&node.store, drafts[1].clone()).await, stored[1]);
    node.hear_no_more().await;
    assert_eq!(rows(&database(dir.path())), 5_001);
    node.store.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_messages_go_and_so_do_their_rows() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = open(dir.path(), retention());
    let two_hours = Duration::from_secs(7_200);
    let drafts: Vec<Draft> = (0..10_000)
        .map(|n| {
            let name = if n < 20 { "old" } else { "both" };
            let draft = draft(name, "ann", &format!("m{n}"), &n.to_string());
            if n < 9_990 { aged(draft, two_hours) } else { draft }
        })
        .collect();
    let (_, heard) = node.pass(&drafts).await;
    let file = database(dir.path());
    until("the rows are gone", || rows(&file) == 10).await;
    let both = node.history("both", Page::After(0), 100).await;
    assert_eq!((both.messages, both.trimmed), (originals(&heard[9_990..]), true));

    // Of a room without rows it is still known that it had some.
    let old = node.history("old", Page::After(5), 100).await;
    assert_eq!((old.messages.len(), old.trimmed), (0, true));
    assert!(!node.history("old", Page::After(9_990), 100).await.trimmed, "nothing after it went");
    let again = draft("old", "ann", "again", "0");
    let stored = must_append(&node.store, again.clone()).await;
    let page = node.history("old", Page::After(5), 100).await;
    assert_eq!((page.messages, page.trimmed), (originals(&[record(again, &stored)]), true));
    assert_eq!(stored.position.seq, 10_001, "a sequence is never used again");
    node.store.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sequence_outlives_the_newest_rows() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = open(dir.path(), retention());
    let old = aged(draft("lobby", "ann", "old", "0"), Duration::from_secs(7_200));
    let first = must_append(&node.store, old).await;
    node.hear(1).await;
    let file = database(dir.path());
    until("the row is gone", || rows(&file) == 0).await;
    node.store.lifecycle.close().await;
    let mut node = open(dir.path(), retention());
    let next = must_append(&node.store, draft("lobby", "ann", "new", "0")).await;
    assert_eq!((next.position.epoch, next.position.seq), (first.position.epoch, 2));
    node.hear(1).await;
    node.store.lifecycle.close().await;
}

/// A process that is killed when the test ends, however it ends.
struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        self.0.kill().expect("it can be killed");
        self.0.wait().expect("it ends");
    }
}

/// What the child was told: the number of a draft and its place.
fn acked(line: &str) -> Option<(usize, String, u64)> {
    let mut words = line.strip_prefix("acked ")?.split(' ');
    let number = words.next()?.parse().ok()?;
    let epoch = words.next()?.to_owned();
    let seq = words.next()?.strip_suffix('.')?.parse().ok()?;
    Some((number, epoch, seq))
}

#[tokio::test(flavor = "multi_thread")]
async fn acked_messages_survive_kill_9() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut epochs = std::collections::HashSet::new();
    for round in 0..4_usize {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["sqlite::appends_until_it_is_killed", "--exact", "--ignored", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .env(CHILD_ROUND, round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut victim = Some(Victim(child));
        let mut told = Vec::new();
        for line in output.lines() {
            // Killed in the middle of a line, it told nothing with it.
            told.extend(line.ok().as_deref().and_then(acked));
            if told.len() >= 5_000 + 1_777 * round {
                // Afterwards the pipe still holds what it was told before.
                victim = None;
            }
        }
        assert!(victim.is_none(), "it ended by itself after {}", told.len());

        let node = open(dir.path(), retention());
        let all = node.whole_history("lobby").await;
        let seqs = all.iter().map(|message| message.position.seq);
        assert!(seqs.eq(1..=all.len() as u64), "dense, each once");
        let of_round: Vec<&Message> =
            all.iter().filter(|message| message.from.as_str() == format!("r{round}")).collect();
        for (n, message) in of_round.iter().enumerate() {
            assert_eq!(message.id.as_str(), n.to_string(), "in the order of submission");
        }
        for (number, epoch, seq) in told {
            let message = of_round.get(number).unwrap_or_else(|| panic!("{number} is lost"));
            assert_eq!(message.position.seq, seq);
            epochs.insert(epoch);
        }
        epochs.extend(all.iter().map(|message| message.position.epoch.to_string()));
        assert_eq!(epochs.len(), 1, "the epoch goes on");
        node.store.lifecycle.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the process that acked_messages_survive_kill_9 starts and kills"]
async fn appends_until_it_is_killed() {
    let dir = PathBuf::from(std::env::var_os(CHILD_DIR).expect("the parent says where"));
    let round = std::env::var_os(CHILD_ROUND).expect("the parent says which");
    let from = format!("r{}", round.display());
    let Node { store, mut log_events, .. } = open(&dir, retention());
    let drain = async { while log_events.recv().await.is_some() {} };
    let in_flight = Arc::new(Semaphore::new(2_000));
    let append = async {
        for n in 0_usize.. {
            in_flight.acquire().await.expect("open").forget();
            let in_flight = Arc::clone(&in_flight);
            let settle = move |outcome: Result<_, _>| {
                let stored: roomcast::domain::record::Stored = outcome.expect("it is stored");
                let position = stored.position;
                let line = format!("acked {n} {} {}.\n", position.epoch, position.seq);
                std::io::stdout().write_all(line.as_bytes()).expect("the parent reads");
                in_flight.add_permits(1);
            };
            store.log.append(draft("lobby", &from, &n.to_string(), "\"text\""), Box::new(settle));
        }
    };
    tokio::join!(drain, append);
}

/// A step of a random life of a log.
#[derive(Debug, Clone)]
enum Step {
    Append { room: u8, id: u16 },
    Read { room: u8, page: Page, limit: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    let page = prop_oneof![
        proptest::strategy::Just(Page::Newest),
        (0..90_u64).prop_map(Page::Before),
        (0..90_u64).prop_map(Page::After),
    ];
    prop_oneof![
        2 => (0..3_u8, 0..60_u16).prop_map(|(room, id)| Step::Append { room, id }),
        1 => (any::<bool>(), page, 0..12_u32).prop_map(|(second, page, limit)| Step::Read {
            room: u8::from(second),
            page,
            limit,
        }),
    ]
}

proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]

    /// Any mix of new messages, retries, ids of other messages and pages is what a plain list would
    /// answer.
    #[test]
    fn a_log_is_a_list(steps in proptest::collection::vec(step(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let mut node = memory(retention());
            let mut all: Vec<Record> = Vec::new();
            for step in steps {
                match step {
                    Step::Append { room: name, id } => {
                        let draft = draft(&format!("r{name}"), "ann", &id.to_string(), "0");
                        let outcome = append(&node.store, draft.clone()).await;
                        let known = all.iter().find(|message| message.id == draft.id);
                        if let Some(known) = known {
                            let (position, at) = (known.position.clone(), known.at);
                            let is_same = known.room == draft.room;
                            let expected = if is_same { Ok(Stored { position, at }) } else {
                                Err(AppendError::Conflict)
                            };
                            prop_assert_eq!(outcome, expected);
                        } else {
                            let stored = outcome.expect("it is stored");
                            all.push(record(draft, &stored));
                            prop_assert_eq!(stored.position.seq, all.len() as u64);
                            let heard = node.hear(1).await;
 prop_assert_eq!(heard.last(), all.last());
                        }
                    }
                    Step::Read { room: name, page, limit } => {
                        let name = format!("r{name}");
                        let mut own = originals(&all);
                        own.retain(|message| message.room == room(&name));
                        let got = node.history(&name, page, limit).await;
                        let (messages, more) = page_of(&own, &page, limit as usize);
                        prop_assert_eq!(got.messages, messages);
                        prop_assert_eq!((got.more, got.trimmed), (more, false));
                        prop_assert_eq!(got.top.seq, all.len() as u64);
                    }
                }
            }
            node.hear_no_more().await;
            node.store.lifecycle.close().await;
            Ok(())
        })?;
    }
}

/// The window is told in the times of the messages, so the clock of the machine has no part in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_back_shows_no_retry_twice() {
    let node = memory(retention());
    let first = draft("lobby", "ann", "one", "1");
    let stored = must_append(&node.store, first.clone()).await;
    assert!(stored.at <= clock::now());
    let again = aged(first, Duration::from_secs(3_600));
    assert_eq!(must_append(&node.store, again).await, stored);
    node.store.lifecycle.close().await;
}
