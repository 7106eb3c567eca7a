//! Ten thousand clients of a killed node come back to another one at once: what its own clients
//! feel meanwhile, how long it takes, and whether anybody loses a message.
//!
//! `cargo bench --bench storm [-- --clients N --rooms N] [-- roomcast's flags]`. Starts a redis-server and
//! two nodes on loopback; needs N + 1 000 open files each. The clients that come back are another
//! process, of the lowest priority: in the world they have machines of their own.
#![expect(clippy::print_stdout, reason = "a bench tells its result")]

mod crowd;

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::ChildStdout,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{interval, sleep},
};

use crate::crowd::{Client, PATIENCE, Process, node, raise_open_files};

const SURVIVORS: usize = 500;
const MESSAGES_PER_SECOND: u64 = 200;
const QUIET: Duration = Duration::from_secs(8);

fn main() {
    raise_open_files();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match arguments.as_slice() {
        [first, from, to, clients, rooms] if first == "returning" => {
            let address = |text: &String| text.parse().expect("an address");
            runtime.block_on(returning(address(from), address(to), number(clients), number(rooms)));
        }
        [first, clients, second, rooms, flags @ ..]
            if first == "--clients" && second == "--rooms" =>
        {
            runtime.block_on(storm(number(clients), number(rooms), flags));
        }
        flags => runtime.block_on(storm(10_000, 100, flags)),
    }
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}

/// The text of a message, and its offset.
fn message(event: &str) -> Option<(String, String)> {
    let event: Value = serde_json::from_str(event.strip_prefix("42")?).ok()?;
    Some((event[1]["text"].as_str()?.to_owned(), event[2].as_str()?.to_owned()))
}

impl Process {
    fn lines(&mut self) -> std::io::Lines<BufReader<ChildStdout>> {
        BufReader::new(self.0.stdout.take().expect("it is piped")).lines()
    }

    fn say(&mut self, line: &str) {
        let stdin = self.0.stdin.as_mut().expect("it is piped");
        writeln!(stdin, "{line}").expect("the child listens");
    }
}

fn micros() -> u64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
    u64::try_from(now.as_micros()).expect("it fits")
}

/// How far the clients that come back have come.
#[derive(Default)]
struct Progress {
    ready: AtomicUsize,
    back: AtomicUsize,
    done: AtomicUsize,
    tries: AtomicUsize,
    /// Sessions that were not recovered, and clients that did not hear 1, 2, 3.
    wrong: AtomicUsize,
    /// Connections lost again after they were back.
    lost: AtomicUsize,
}

fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The other process: connects to one node, and, when that dies, at once to the other.
async fn returning(from: SocketAddr, to: SocketAddr, clients: usize, rooms: usize) {
    let connecting = Arc::new(Semaphore::new(100));
    let progress = Arc::new(Progress::default());
    let mut all = JoinSet::new();
    for number in 0..clients {
        let room = format!("r{}", number % rooms);
        all.spawn(one(from, to, room, Arc::clone(&connecting), Arc::clone(&progress)));
    }
    let started = Instant::now();
    let stages = [(&progress.ready, "ready"), (&progress.back, "back"), (&progress.done, "done")];
    for (counter, stage) in stages {
        while counter.load(Ordering::Relaxed) < clients {
            assert!(started.elapsed() < PATIENCE * 3, "{stage}: {counter:?} of {clients}");
            sleep(Duration::from_millis(5)).await;
        }
        let Progress { wrong, lost, tries, .. } = &*progress;
        println!("{stage} wrong={wrong:?} lost_again={lost:?} tries={tries:?}");
    }
    let mut over = String::new();
    std::io::stdin().read_line(&mut over).expect("the parent says when");
}

/// One of them. Stays to the end, so that the node's memory can be looked at.
async fn one(
    from: SocketAddr,
    to: SocketAddr,
    room: String,
    connecting: Arc<Semaphore>,
    progress: Arc<Progress>,
) -> Client {
    let turn = connecting.acquire().await.expect("never closed");
    let (mut client, _) = Client::connect(from, "").await.expect("the node takes it");
    client.ask("join", &json!({ "room": room })).await.expect("an answer");
    drop(turn);
    count(&progress.ready);
    let mut heard: Vec<String> = Vec::new();
    let mut offset = None;
    let mut is_back = false;
    while heard.last().map(String::as_str) != Some("3") {
        let events = match client.next().await {
            Ok(event) => vec![event],
            Err(_lost) => {
                let pid = client.pid.clone();
                let auth = json!({ "pid": pid, "offset": offset }).to_string();
                let (again, before) = come_back(to, &auth, &progress).await;
                client = again;
                if client.pid != pid {
                    count(&progress.wrong);
                }
                count(if is_back { &progress.lost } else { &progress.back });
                is_back = true;
                before
            }
        };
        for (text, at) in events.iter().filter_map(|event| message(event)) {
            heard.push(text);
            offset = Some(at);
        }
    }
    if heard != ["1", "2", "3"] {
        count(&progress.wrong);
    }
    count(&progress.done);
    client
}

async fn come_back(to: SocketAddr, auth: &str, progress: &Progress) -> (Client, Vec<String>) {
    loop {
        count(&progress.tries);
        let connecting = Client::connect(to, auth);
        match tokio::time::timeout(Duration::from_secs(20), connecting).await {
            Ok(Ok(connected)) => return connected,
            // As the official client, after a second or so.
            _ => sleep(Duration::from_millis(500 + micros() % 1_000)).await,
        }
    }
}

/// Latencies of the survivors, in microseconds, since they were last taken.
type Latencies = Arc<Mutex<Vec<u64>>>;

/// What survivors hear of who comes and goes in one of the rooms: events and bytes.
#[derive(Default)]
struct Presence {
    events: AtomicUsize,
    bytes: AtomicUsize,
}

impl Presence {
    fn tell(&self, phase: &str) {
        let each = |counter: &AtomicUsize| counter.swap(0, Ordering::Relaxed) / SURVIVORS;
        let (events, bytes) = (each(&self.events), each(&self.bytes));
        println!("{phase}  presence for each survivor: {events} events, {bytes} bytes");
    }
}

async fn survive(
    node: SocketAddr,
    latencies: Latencies,
    presence: Arc<Presence>,
    stop: watch::Receiver<bool>,
) -> usize {
    let (mut client, _) = Client::connect(node, "").await.expect("the node takes it");
    for room in ["steady", "r0"] {
        client.ask("join", &json!({ "room": room })).await.expect("an answer");
    }
    let (mut last, mut wrong) = (0, 0);
    while !*stop.borrow() {
        let Ok(Ok(event)) = tokio::time::timeout(Duration::from_millis(500), client.next()).await
        else {
            continue;
        };
        if event.starts_with("42[\"presence\"") {
            presence.events.fetch_add(1, Ordering::Relaxed);
            presence.bytes.fetch_add(event.len(), Ordering::Relaxed);
        }
        if !event.contains("\"room\":\"steady\"") {
            continue;
        }
        let Some(at) = event.find("\"text\":\"") else { continue };
        let text = event.get(at + 8..).unwrap_or_default();
        let mut parts = text.split('"').next().unwrap_or_default().split(' ');
        let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok()).unwrap_or(0);
        let (count, sent) = (number(), number());
        wrong += usize::from(last != 0 && count != last + 1);
        last = count;
        latencies.lock().expect("nobody panics").push(micros().saturating_sub(sent));
    }
    wrong
}

async fn talk(node: SocketAddr, stop: watch::Receiver<bool>) {
    let (mut client, _) = Client::connect(node, "").await.expect("the node takes it");
    client.ask("join", &json!({ "room": "steady" })).await.expect("an answer");
    let mut ticks = interval(Duration::from_micros(1_000_000 / MESSAGES_PER_SECOND));
    let mut count = 0_u64;
    while !*stop.borrow() {
        tokio::select! {
            _ = ticks.tick() => {
                count += 1;
                let text = format!("{count} {}", micros());
                let request = json!(["send", { "room": "steady", "text": text }]);
                client.send(&format!("42{request}")).await.expect("the node lives");
            }
            event = client.next() => drop(event.expect("the node lives")),
        }
    }
}

/// Somebody in each of the rooms of those who come back.
struct Speakers(Vec<(Client, String)>);

impl Speakers {
    async fn connect(node: SocketAddr, rooms: usize) -> Self {
        let mut all = Vec::new();
        for room in 0..rooms {
            let (mut speaker, _) = Client::connect(node, "").await.expect("the node takes it");
            let room = format!("r{room}");
            speaker.ask("join", &json!({ "room": room })).await.expect("an answer");
            all.push((speaker, room));
        }
        Self(all)
    }

    async fn say(&mut self, text: &str) {
        for (speaker, room) in &mut self.0 {
            let request = json!({ "room": room, "text": text });
            speaker.ask("send", &request).await.expect("stored");
        }
    }
}

/// Prints them, and answers p99.
fn tell(phase: &str, latencies: &Latencies) -> f64 {
    let (p50, p99, p999) = percentiles(latencies);
    println!("{phase}  p50 {p50:.1} p99 {p99:.1} p99.9 {p999:.1} ms");
    p99
}

fn percentiles(latencies: &Latencies) -> (f64, f64, f64) {
    let mut all = std::mem::take(&mut *latencies.lock().expect("nobody panics"));
    all.sort_unstable();
    let at = |share: usize| all.get(all.len() * share / 1_000).map_or(0.0, |us| *us as f64 / 1e3);
    (at(500), at(990), at(999))
}

async fn storm(clients: usize, rooms: usize, flags: &[String]) {
    let (_redis, redis) = crowd::redis();
    let (dying, from) = node(redis, flags).await;
    let (living, to) = node(redis, flags).await;
    let (stop, stopped) = watch::channel(false);
    let (latencies, presence) = (Latencies::default(), Arc::new(Presence::default()));
    let mut survivors = JoinSet::new();
    for _ in 0..SURVIVORS {
        let (latencies, presence) = (Arc::clone(&latencies), Arc::clone(&presence));
        survivors.spawn(survive(to, latencies, presence, stopped.clone()));
    }
    let talking = tokio::task::JoinSet::from_iter([talk(to, stopped)]);

    let program = std::env::current_exe().expect("this program");
    let arguments = [from.to_string(), to.to_string(), clients.to_string(), rooms.to_string()];
    let arguments: Vec<String> = ["returning".into()].into_iter().chain(arguments).collect();
    let mut others = Process::start(program.to_str().expect("a path of text"), &arguments, "19");
    let (mut lines, (told, mut hear)) = (others.lines(), tokio::sync::mpsc::channel(4));
    let reading = std::thread::spawn(move || {
        while let Some(Ok(line)) = lines.next() {
            if told.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let mut heard = async |what: &str| {
        let line = tokio::time::timeout(PATIENCE * 3, hear.recv()).await.expect("in time");
        let line = line.expect("the clients live");
        assert!(line.starts_with(what), "{line}");
        line
    };
    let mut speakers = Speakers::connect(to, rooms).await;
    heard("ready").await;
    speakers.say("1").await;
    sleep(Duration::from_secs(2)).await;
    percentiles(&latencies);
    presence.tell("begin");
    sleep(QUIET).await;
    presence.tell("quiet");
    let before = living.kib();
    let quiet = tell("quiet", &latencies);

    let killed = Instant::now();
    drop(dying);
    speakers.say("2").await;
    let line = heard("back").await;
    let took = killed.elapsed();
    let ratio = tell("storm", &latencies) / quiet;
    println!("all {clients} {line}, {:.1} s; p99 {ratio:.1} times quiet", took.as_secs_f64());
    presence.tell("storm");
    speakers.say("3").await;
    println!("{}", heard("done").await);
    let full = living.kib();
    sleep(QUIET).await;
    tell("after", &latencies);
    presence.tell("after");
    let each = full.saturating_sub(before) as f64 / clients as f64;
    println!("the node: {before} KiB before, {full} KiB with all, {each:.1} KiB each");
    others.say("over");
    stop.send_replace(true);
    talking.join_all().await;
    let wrong: usize = survivors.join_all().await.into_iter().sum();
    drop(others);
    reading.join().expect("the reader ends");
    sleep(Duration::from_secs(5)).await;
    println!(
        "survivors that heard something twice, late or never: {wrong}; left: {} KiB",
        living.kib()
    );
}
