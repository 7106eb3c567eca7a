//! What a store stores in a second, and how long a lone message waits.
//!
//! `cargo bench --bench store [-- file|memory|redis://..] [--messages N] [--rooms N]
//! [--plain] [--behind] [--sessions N] [--paced SECONDS]`. Ids are the clients' own, and so
//! repeatable, except with `--plain`; they are random and bodies have 128 bytes. The relay's part is
//! played by a reader that only counts. On Redis, whose database should be empty, `--behind` adds a
//! second node that is held up, and shows how fast it catches up. `--sessions` also saves that many
//! sessions at once, and claims them all. `--paced` does nothing but 200 messages a second, and asks
//! beside each how long a plain PUBLISH takes.
#![expect(clippy::print_stdout, reason = "a bench tells its result")]

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fred::{
    interfaces::{ClientLike, PubsubInterface},
    types::{Builder, RespVersion, config::Config},
};
use roomcast::{
    clock,
    domain::{
        name::{MessageId, PublicId, UserId},
        position::{Epoch, Position},
        record::{Body, Draft, Entry},
        room::RoomName,
        visibility::JoinedRoom,
    },
    store::{
        Health, Opened, RetentionPolicy, Store,
        log::{LogEvent, LogEvents},
        redis,
        sessions::{Holder, SessionRecord},
        sqlite::{self, Location, SqliteOptions},
    },
};
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinSet,
};

const SUBMITTERS: u64 = 50;
const IN_FLIGHT: usize = 256;
const BODY_BYTES: usize = 128;
const LONE_COMMITS: u64 = 2_000;
/// Between two messages of `--paced`.
const PACE: Duration = Duration::from_millis(5);

/// What is measured, and with how much.
#[derive(Clone, Copy)]
struct Load {
    messages: u64,
    rooms: u64,
    repeatable: bool,
    behind: bool,
    sessions: u64,
    paced_seconds: u64,
}

fn main() {
    let mut load = Load {
        messages: 1_000_000,
        rooms: 1,
        repeatable: true,
        behind: false,
        sessions: 0,
        paced_seconds: 0,
    };
    let mut names = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse().ok()).expect("a number");
        match argument.as_str() {
            "--messages" => load.messages = number(),
            "--rooms" => load.rooms = number(),
            "--sessions" => load.sessions = number(),
            "--paced" => load.paced_seconds = number(),
            "--behind" => load.behind = true,
            "--plain" => load.repeatable = false,
            // Cargo says this to every bench.
            "--bench" => {}
            name => names.push(name.to_owned()),
        }
    }
    if names.is_empty() {
        names = vec!["file".to_owned(), "memory".to_owned()];
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for name in names {
        let dir = tempfile::tempdir().expect("a directory");
        runtime.block_on(async {
            let (store, log_events) = open(&name, dir.path()).await;
            if load.paced_seconds > 0 {
                // In a task, as the server's own requests are: on the main thread each answer would
                // first wake another one.
                let mut task = JoinSet::new();
                task.spawn(paced(name, store, log_events, load));
                return drop(task.join_all().await);
            }
            if load.behind {
                let (behind, held_up) = open(&name, dir.path()).await;
                measure(&name, store, log_events, &load).await;
                catch_up(&name, behind, held_up, load.messages + LONE_COMMITS).await;
            } else {
                measure(&name, store, log_events, &load).await;
            }
        });
        report_disk(dir.path(), load.messages + LONE_COMMITS);
    }
}

/// A store that is ready.
async fn open(name: &str, dir: &Path) -> (Store, LogEvents) {
    let location = match name {
        "file" => Location::Dir(dir.to_owned()),
        "memory" => Location::Memory,
        url if url.starts_with("redis") => {
            let Opened { store, log_events, .. } = redis::open(redis::RedisOptions {
                url: url.to_owned(),
                shown: url.to_owned(),
                prefix: "bench".to_owned(),
                partitions: 1,
                retention: retention(),
                lease: redis::node::LeaseSettings::default(),
                agreement: redis::agreement::Agreement::default(),
            })
            .expect("the URL is right");
            let mut health = store.lifecycle.health();
            health.wait_for(|health| *health == Health::Ready).await.expect("the store runs");
            return (store, log_events);
        }
        other => panic!("{other} is no store: file, memory or redis://.."),
    };
    let Opened { store, log_events, .. } =
        sqlite::open(SqliteOptions { location, retention: retention() }).expect("the store opens");
    (store, log_events)
}

/// A node that heard nothing for a while reads all of it.
async fn catch_up(name: &str, store: Store, mut log_events: LogEvents, messages: u64) {
    let start = Instant::now();
    let mut heard = 0;
    while heard < messages {
        let batch = log_events.recv().await.expect("the store runs");
        heard += batch
            .iter()
            .map(|delivery| match delivery {
                LogEvent::Record(_) => 1,
                other => panic!("{other:?} after {heard} messages"),
            })
            .sum::<u64>();
    }
    println!(
        "{name}: a node that was held up caught up on {messages} messages, {:.0} per second",
        messages as f64 / start.elapsed().as_secs_f64()
    );
    drop(log_events);
    store.lifecycle.close().await;
}

fn retention() -> RetentionPolicy {
    RetentionPolicy {
        history_max: 100_000_000,
        history_ttl: Duration::from_secs(7 * 86_400),
        idempotency_window: Duration::from_secs(120),
        recovery_window: Duration::from_secs(3_600),
    }
}

/// Acks and, half a pace later, plain PUBLISHes, on connections that are as idle as each other.
async fn paced(url: String, store: Store, mut log_events: LogEvents, load: Load) {
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { while log_events.recv().await.is_some() {} });
    let mut config = Config::from_url(&url).expect("a Redis");
    config.version = RespVersion::RESP3;
    let plain = Builder::from_config(config)
        .with_connection_config(|connection| connection.tcp.nodelay = Some(true))
        .build()
        .expect("a client");
    plain.init().await.expect("Redis answers");
    let (mut acks, mut publishes) = (Vec::new(), Vec::new());
    let mut ticks = tokio::time::interval(PACE / 2);
    for number in 0..load.paced_seconds * 200 {
        ticks.tick().await;
        acks.push(must_append(&store, number, &load).await);
        ticks.tick().await;
        let Entry::Message(body) = draft(SUBMITTERS, number, &load).entry else {
            panic!("a message")
        };
        let body = body.as_json().to_owned();
        let start = Instant::now();
        let heard: i64 = plain.publish("bench:plain", body).await.expect("Redis answers");
        publishes.push(start.elapsed());
        assert_eq!(heard, 0, "no subscriber listens to the measurement");
    }
    acks.sort_unstable();
    publishes.sort_unstable();
    let at = |waits: &[Duration], percent: usize| waits[waits.len() * percent / 100];
    println!(
        "{url}: at 200 messages/s, ack p50 {:?}, p99 {:?}; plain PUBLISH p50 {:?}, p99 {:?}; ratio \
         of the medians {:.2}",
        at(&acks, 50),
        at(&acks, 99),
        at(&publishes, 50),
        at(&publishes, 99),
        at(&acks, 50).as_secs_f64() / at(&publishes, 50).as_secs_f64()
    );
    store.lifecycle.close().await;
    tasks.join_all().await;
}

/// Submits one message and answers how long it took to be stored.
async fn must_append(store: &Store, number: u64, load: &Load) -> Duration {
    let (settled, outcome) = oneshot::channel();
    let draft = draft(SUBMITTERS, number, load);
    let start = Instant::now();
    store.log.append(draft, Box::new(move |result| settled.send(result).expect("it is awaited")));
    outcome.await.expect("it settles").expect("it is stored");
    start.elapsed()
}

async fn measure(name: &str, store: Store, mut log_events: LogEvents, load: &Load) {
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { while log_events.recv().await.is_some() {} });

    let mut waits = Vec::new();
    for number in 0..LONE_COMMITS {
        waits.push(must_append(&store, number, load).await);
    }
    waits.sort_unstable();
    println!(
        "{name}: lone commit p50 {:?}, p99 {:?}",
        waits[waits.len() / 2],
        waits[waits.len() * 99 / 100]
    );

    resume(name, &store, load.sessions).await;
    let longest = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let mut submitters = JoinSet::new();
    for submitter in 0..SUBMITTERS {
        let (store, longest) = (store.clone(), Arc::clone(&longest));
        let load = Load { messages: load.messages / SUBMITTERS, ..*load };
        submitters.spawn(async move { submit_all(&store, submitter, &load, &longest).await });
    }
    submitters.join_all().await;
    let took = start.elapsed();
    println!(
        "{name}: {:.0} appends/s acked, {} messages from {SUBMITTERS} submitters with {IN_FLIGHT} \
         under way into {} rooms, longest wait {:?}",
        load.messages as f64 / took.as_secs_f64(),
        load.messages,
        load.rooms,
        Duration::from_micros(longest.load(Ordering::Relaxed)),
    );
    store.lifecycle.close().await;
    tasks.join_all().await;
}

/// All at once, as after the death of a node.
async fn resume(name: &str, store: &Store, sessions: u64) {
    let id = |n| PublicId::parse(&format!("{n:032x}")).expect("an id");
    let user = |n| UserId::parse(&format!("user-{n}")).expect("a user");
    let record = |n| SessionRecord {
        user: user(n),
        rooms: vec![JoinedRoom {
            room: RoomName::lobby(),
            since: Some(Position { epoch: Epoch::new("0123456789abcdef"), seq: n }),
        }],
        profile: None,
        me: None,
    };
    let start = Instant::now();
    let saves = (0..sessions).map(|n| store.sessions.save(id(n), Holder::random(), record(n)));
    for saved in futures_util::future::join_all(saves).await {
        assert!(saved.expect("it is saved"), "no other holder has it");
    }
    let saved = start.elapsed();
    let start = Instant::now();
    let claims = (0..sessions).map(|n| store.sessions.claim(id(n), Holder::random(), user(n)));
    for claimed in futures_util::future::join_all(claims).await {
        claimed.expect("it can be read").expect("it is there");
    }
    if sessions > 0 {
        println!(
            "{name}: {sessions} sessions saved in {saved:?}, claimed in {:?}",
            start.elapsed()
        );
    }
}

async fn submit_all(store: &Store, submitter: u64, load: &Load, longest: &Arc<AtomicU64>) {
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
    for number in 0..load.messages {
        let permit = Arc::clone(&in_flight).acquire_owned().await.expect("it is open");
        let longest = Arc::clone(longest);
        let start = Instant::now();
        store.log.append(
            draft(submitter, number, load),
            Box::new(move |result| {
                result.expect("it is stored");
                let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
                longest.fetch_max(micros, Ordering::Relaxed);
                drop(permit);
            }),
        );
    }
    let all = u32::try_from(IN_FLIGHT).expect("a small number");
    in_flight.acquire_many(all).await.expect("it is open").forget();
}

/// Its id looks as random as a UUID to an index, and is different for each number.
fn draft(submitter: u64, number: u64, load: &Load) -> Draft {
    let mixed = (submitter << 40 | number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = mixed ^ (mixed >> 29);
    let id = format!("{mixed:016x}-{:016x}", mixed.rotate_left(17));
    let text = number.to_string();
    let filler = "x".repeat(BODY_BYTES - 2 - text.len());
    let room = RoomName::parse(&format!("room-{}", mixed % load.rooms)).expect("a room");
    let from = UserId::parse(&format!("user-{submitter}")).expect("a user");
    let id = MessageId::parse(&id).expect("an id");
    let body = Body::from_json(&format!("\"{text}{filler}\""));
    Draft { repeatable: load.repeatable, ..Draft::new(room, from, id, clock::now(), body) }
}

fn report_disk(dir: &Path, messages: u64) {
    let bytes: u64 = std::fs::read_dir(dir)
        .expect("the directory is there")
        .map(|entry| entry.and_then(|entry| entry.metadata()).expect("a file").len())
        .sum();
    if bytes > 0 {
        println!("file: {} MB on disk for each million messages", bytes / messages);
    }
}
