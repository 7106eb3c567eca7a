//! Ten thousand clients of a killed node come back to another one at once: what its own clients
//! feel meanwhile, how long it takes, and whether anybody loses a message.
//!
//! `cargo bench --bench storm [-- --clients N] [-- roomcast's flags]`. Starts a redis-server and
//! two nodes on loopback; needs N + 1 000 open files each. The clients that come back are another
//! process, of the lowest priority: in the world they have machines of their own.
#![expect(clippy::print_stdout, reason = "a bench tells its result")]

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{interval, sleep},
};

const ROOMS: usize = 100;
const SURVIVORS: usize = 500;
const MESSAGES_PER_SECOND: u64 = 200;
const QUIET: Duration = Duration::from_secs(8);
const PATIENCE: Duration = Duration::from_secs(120);

fn main() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("the soft limit may be raised");
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match arguments.as_slice() {
        [first, from, to, clients] if first == "returning" => {
            let address = |text: &String| text.parse().expect("an address");
            let clients = clients.parse().expect("a number");
            runtime.block_on(returning(address(from), address(to), clients));
        }
        [first, clients, flags @ ..] if first == "--clients" => {
            runtime.block_on(storm(clients.parse().expect("a number"), flags));
        }
        flags => runtime.block_on(storm(10_000, flags)),
    }
}

/// A child that ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended, which is as good.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Process {
    fn start(program: &str, arguments: &[String], priority: &str) -> Self {
        let mut command = Command::new("nice");
        command.args(["-n", priority, "setpriv", "--pdeathsig", "KILL", "--", program]);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Self(command.spawn().expect("nice and setpriv are there"))
    }

    fn lines(&mut self) -> std::io::Lines<BufReader<ChildStdout>> {
        BufReader::new(self.0.stdout.take().expect("it is piped")).lines()
    }

    fn say(&mut self, line: &str) {
        let stdin = self.0.stdin.as_mut().expect("it is piped");
        writeln!(stdin, "{line}").expect("the child listens");
    }

    fn kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()));
        let status = status.expect("the child lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).expect("a size")
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound port")
}

async fn node(redis: SocketAddr, flags: &[String]) -> (Process, SocketAddr) {
    let address = free_address();
    let mut arguments =
        vec!["--listen".into(), address.to_string(), "--redis".into(), format!("redis://{redis}")];
    // Who only speaks does not read, and so answers no ping.
    arguments.extend(["--ping-interval", "10m", "--ping-timeout", "10m"].map(String::from));
    arguments.extend_from_slice(flags);
    let process = Process::start(env!("CARGO_BIN_EXE_roomcast"), &arguments, "0");
    let deadline = Instant::now() + PATIENCE;
    while !is_ready(address).await {
        assert!(Instant::now() < deadline, "the node is not ready");
        sleep(Duration::from_millis(20)).await;
    }
    (process, address)
}

async fn is_ready(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else { return false };
    let request = b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    let asked = stream.write_all(request).await.is_ok();
    asked && stream.read_to_string(&mut answer).await.is_ok() && answer.contains(" 200 ")
}

/// A websocket client as small as it can be.
struct Client {
    stream: TcpStream,
    bytes: Vec<u8>,
    pid: String,
}

impl Client {
    /// With everything that came before the CONNECT reply.
    async fn connect(to: SocketAddr, auth: &str) -> std::io::Result<(Self, Vec<String>)> {
        let lost = || std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream, bytes: Vec::new(), pid: String::new() };
        let request = "GET /socket.io/?EIO=4&transport=websocket&dialect=native HTTP/1.1\r\n\
            Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        client.stream.write_all(request.as_bytes()).await?;
        while client.bytes.windows(4).all(|bytes| bytes != b"\r\n\r\n") {
            if client.stream.read_buf(&mut client.bytes).await? == 0 {
                return Err(lost());
            }
        }
        let head = client.bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        client.bytes.drain(..head.ok_or_else(lost)? + 4);
        client.send(&format!("40{auth}")).await?;
        let mut before = Vec::new();
        loop {
            let text = client.next().await?;
            if let Some(reply) = text.strip_prefix("40") {
                let reply: Value = serde_json::from_str(reply)?;
                reply["pid"].as_str().ok_or_else(lost)?.clone_into(&mut client.pid);
                return Ok((client, before));
            }
            before.push(text);
        }
    }

    async fn send(&mut self, text: &str) -> std::io::Result<()> {
        let length = u16::try_from(text.len()).expect("short texts only");
        let mut frame = vec![0x81, 0x80 | 126];
        frame.extend(length.to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.stream.write_all(&frame).await
    }

    /// The next text that is no matter of the transport.
    async fn next(&mut self) -> std::io::Result<String> {
        loop {
            while let Some((opcode, text)) = self.frame() {
                match (opcode, text.as_str()) {
                    (1, "2") => self.send("3").await?,
                    (1, text) if !text.starts_with('0') => return Ok(text.to_owned()),
                    (8, _) => return Err(std::io::ErrorKind::ConnectionAborted.into()),
                    _ => {}
                }
            }
            if self.stream.read_buf(&mut self.bytes).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn frame(&mut self) -> Option<(u8, String)> {
        let (&opcode, &short) = (self.bytes.first()?, self.bytes.get(1)?);
        let (head, length) = match short {
            126 => (4, usize::from(u16::from_be_bytes([*self.bytes.get(2)?, *self.bytes.get(3)?]))),
            short => (2, usize::from(short)),
        };
        let text = String::from_utf8_lossy(self.bytes.get(head..head + length)?).into_owned();
        self.bytes.drain(..head + length);
        Some((opcode & 0x0f, text))
    }

    /// One request, and what came before its answer.
    async fn ask(&mut self, name: &str, request: &Value) -> std::io::Result<Vec<String>> {
        self.send(&format!("420{}", json!([name, request]))).await?;
        let mut before = Vec::new();
        loop {
            let text = self.next().await?;
            if text.starts_with("430") {
                assert!(text.contains("\"ok\":true"), "{name}: {text}");
                return Ok(before);
            }
            before.push(text);
        }
    }
}

/// The text of a message, and its offset.
fn message(event: &str) -> Option<(String, String)> {
    let event: Value = serde_json::from_str(event.strip_prefix("42")?).ok()?;
    Some((event[1]["text"].as_str()?.to_owned(), event[2].as_str()?.to_owned()))
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
async fn returning(from: SocketAddr, to: SocketAddr, clients: usize) {
    let connecting = Arc::new(Semaphore::new(100));
    let progress = Arc::new(Progress::default());
    let mut all = JoinSet::new();
    for number in 0..clients {
        let room = format!("r{}", number % ROOMS);
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

async fn survive(node: SocketAddr, latencies: Latencies, stop: watch::Receiver<bool>) -> usize {
    let (mut client, _) = Client::connect(node, "").await.expect("the node takes it");
    client.ask("join", &json!({ "room": "steady" })).await.expect("an answer");
    let (mut last, mut wrong) = (0, 0);
    while !*stop.borrow() {
        let Ok(Ok(event)) = tokio::time::timeout(Duration::from_millis(500), client.next()).await
        else {
            continue;
        };
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
    async fn connect(node: SocketAddr) -> Self {
        let mut all = Vec::new();
        for room in 0..ROOMS {
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

async fn storm(clients: usize, flags: &[String]) {
    let redis = free_address();
    let port = redis.port().to_string();
    let arguments = ["--port", &port, "--bind", "127.0.0.1", "--save", ""].map(String::from);
    let _redis = Process::start("redis-server", &arguments, "0");
    let (dying, from) = node(redis, flags).await;
    let (living, to) = node(redis, flags).await;
    let (stop, stopped) = watch::channel(false);
    let latencies = Latencies::default();
    let mut survivors = JoinSet::new();
    for _ in 0..SURVIVORS {
        survivors.spawn(survive(to, Arc::clone(&latencies), stopped.clone()));
    }
    let talking = tokio::task::JoinSet::from_iter([talk(to, stopped)]);

    let program = std::env::current_exe().expect("this program");
    let arguments = ["returning".into(), from.to_string(), to.to_string(), clients.to_string()];
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
    let mut speakers = Speakers::connect(to).await;
    heard("ready").await;
    speakers.say("1").await;
    sleep(Duration::from_secs(2)).await;
    percentiles(&latencies);
    sleep(QUIET).await;
    let before = living.kib();
    let quiet = tell("quiet", &latencies);

    let killed = Instant::now();
    drop(dying);
    speakers.say("2").await;
    let line = heard("back").await;
    let took = killed.elapsed();
    let ratio = tell("storm", &latencies) / quiet;
    println!("all {clients} {line}, {:.1} s; p99 {ratio:.1} times quiet", took.as_secs_f64());
    speakers.say("3").await;
    println!("{}", heard("done").await);
    let full = living.kib();
    sleep(QUIET).await;
    tell("after", &latencies);
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
