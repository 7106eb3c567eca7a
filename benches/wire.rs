//! What a server costs over real sockets: fan-out, latency and idle memory, one table row each.
//!
//! `cargo bench --bench wire [-- options]`; `-- --help` lists the options. The server runs on
//! loopback and stores messages in memory. Where there are two CPUs, it has one of them, and the
//! load generator (one thread) has the other. `--server PATH` measures another build by turns.
//! A lost, repeated or reordered message ends the bench with an error.
#![expect(clippy::print_stdout, reason = "a bench prints its result")]

mod crowd;

use std::{
    fmt,
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
    thread::sleep,
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};
use mio::{Events, Interest, Poll, Token, net::TcpStream};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::json;

use crate::crowd::{
    Client, PATIENCE, Process, payload, raise_open_files, start_server, text_frame,
};

/// So many of the connections also send, by turns.
const PUBLISHERS: usize = 4;
const LATENCY_CONNECTIONS: usize = 500;
const MESSAGES_PER_SECOND: u32 = 20;
/// Native clients that share a room while they are idle.
const ROOM_MEMBERS: usize = 100;
const WARM_UP: Duration = Duration::from_secs(1);
/// The generator sleeps this long before it reads in a fan-out. A generator that waits in `poll`
/// is woken by every write of the server, and the server pays for that.
const NAP: Duration = Duration::from_micros(200);
/// Measurements of each server when two are compared. The table shows medians.
const ROUNDS: usize = 3;
const MESSAGE: &[u8] = b"42[\"message\",\"";

#[derive(Parser)]
#[command(about = "Measures a server over real sockets")]
struct Options {
    /// Connections of the fan-out and idle scenarios
    #[arg(long, default_value_t = 1_000)]
    connections: usize,
    /// How long each row is measured
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Messages in flight in the fan-out scenario, one row for each number
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 64, 256])]
    windows: Vec<usize>,
    /// Only these scenarios
    #[arg(long, value_delimiter = ',')]
    scenario: Vec<Kind>,
    /// Another build of the server to compare with
    #[arg(long, value_name = "PATH")]
    server: Option<String>,
    /// Cargo adds this flag
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Kind {
    Fanout,
    Latency,
    Idle,
}

enum Scenario {
    /// A closed loop: the next message is sent when every connection has an earlier one.
    Fanout { window: usize },
    /// Messages at a fixed rate. A latency counts from the moment when the message was due.
    Latency,
    /// Connections that do nothing, of one dialect.
    Idle(&'static str),
}

impl Options {
    fn scenarios(&self) -> Vec<Scenario> {
        let wanted = |kind| self.scenario.is_empty() || self.scenario.contains(&kind);
        let mut all = Vec::new();
        if wanted(Kind::Fanout) {
            all.extend(self.windows.iter().map(|&window| Scenario::Fanout { window }));
        }
        if wanted(Kind::Latency) {
            all.push(Scenario::Latency);
        }
        if wanted(Kind::Idle) {
            all.extend([Scenario::Idle("plain"), Scenario::Idle("native")]);
        }
        all
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Fanout { window } => format!("fan-out, {window} in flight"),
            Self::Latency => format!("latency, {MESSAGES_PER_SECOND} messages/s"),
            Self::Idle("native") => "idle, native in a room".to_owned(),
            Self::Idle(dialect) => format!("idle, {dialect}"),
        };
        f.pad(&name)
    }
}

/// The columns of a row. NaN is a figure that the scenario does not have.
type Figures = [f64; 5];
const COLUMNS: [&str; 5] = ["cpu-s/M", "deliveries/s", "p50 ms", "p99 ms", "KiB/conn"];

fn print_row(scenario: &impl fmt::Display, server: &str, figures: Figures) {
    print!("| {scenario:24} | {server:6} |");
    for (name, figure) in COLUMNS.iter().zip(figures) {
        let digits = if figure < 100.0 { 2 } else { 0 };
        let text = if figure.is_nan() { "-".to_owned() } else { format!("{figure:.digits$}") };
        print!(" {text:>width$} |", width = name.len());
    }
    println!();
}

fn median(rounds: &[Figures]) -> Figures {
    std::array::from_fn(|column| {
        let mut all: Vec<f64> = rounds.iter().map(|figures| figures[column]).collect();
        all.sort_unstable_by(f64::total_cmp);
        all[all.len() / 2]
    })
}

fn main() {
    raise_open_files();
    let options = Options::parse();
    let this = env!("CARGO_BIN_EXE_roomcast");
    let cpus = cpus();
    println!("| {:24} | server | {} |", "scenario", COLUMNS.join(" | "));
    println!("|{:-<26}|--------|{}|", "", COLUMNS.map(|name| "-".repeat(name.len() + 2)).join("|"));
    // The runtime only opens connections. The code that measures blocks its only thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        for scenario in options.scenarios() {
            let Some(other) = &options.server else {
                print_row(&scenario, "this", measure(&scenario, this, &options, cpus).await);
                continue;
            };
            let (mut these, mut others) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                these.push(measure(&scenario, this, &options, cpus).await);
                others.push(measure(&scenario, other, &options, cpus).await);
            }
            let (these, others) = (median(&these), median(&others));
            print_row(&scenario, "this", these);
            print_row(&scenario, "other", others);
            print_row(&"", "ratio", std::array::from_fn(|at| these[at] / others[at]));
        }
    });
}

/// The CPU of the server and the CPU of the generator; `None` where only one CPU is allowed.
fn cpus() -> Option<(usize, usize)> {
    let allowed = sched_getaffinity(None).expect("the allowed CPUs are known");
    let mut all = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    Some((all.next()?, all.next()?))
}

/// Moves this thread to a CPU. The processes that it starts later run there too.
fn pin(cpu: Option<usize>) {
    let Some(cpu) = cpu else { return };
    let mut only = CpuSet::new();
    only.set(cpu);
    sched_setaffinity(None, &only).expect("the CPU is allowed");
}

/// Starts a server and measures one row.
async fn measure(
    scenario: &Scenario,
    program: &str,
    options: &Options,
    cpus: Option<(usize, usize)>,
) -> Figures {
    pin(cpus.map(|(server, _)| server));
    let flags = ["--data", "memory", "--log", "off"].map(String::from);
    let (server, address) = start_server(program, &flags).await;
    pin(cpus.map(|(_, generator)| generator));
    let (connections, lasts) = (options.connections, Duration::from_secs(options.seconds));
    match scenario {
        Scenario::Fanout { window } => {
            let mut generator = Generator::connect(address, connections).await;
            generator.measure(&server, |generator, lasts| generator.fan_out(*window, lasts), lasts)
        }
        Scenario::Latency => {
            let connections = connections.min(LATENCY_CONNECTIONS);
            let mut generator = Generator::connect(address, connections).await;
            generator.measure(&server, Generator::send_at_rate, lasts)
        }
        Scenario::Idle(dialect) => {
            // The first clients pay for what the server allocates only once.
            let first = idle_clients(address, dialect, ROOM_MEMBERS).await;
            let before = server.kib();
            let clients = idle_clients(address, dialect, connections).await;
            sleep(lasts);
            let grown = server.kib().saturating_sub(before) as f64 / connections as f64;
            drop((first, clients));
            [f64::NAN, f64::NAN, f64::NAN, f64::NAN, grown]
        }
    }
}

async fn idle_clients(server: SocketAddr, dialect: &str, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for number in 0..count {
        let connected = Client::connect_with(server, dialect, "").await;
        let (mut client, _) = connected.expect("the server accepts it");
        if dialect == "native" {
            let room = format!("{count}-{}", number / ROOM_MEMBERS);
            client.ask("join", &json!({ "room": room })).await.expect("an answer");
        }
        clients.push(client);
    }
    clients
}

struct Connection {
    stream: TcpStream,
    /// The bytes of a frame that is not complete.
    rest: Vec<u8>,
    /// Frames that the socket has not taken.
    unsent: Vec<u8>,
    /// For each publisher, the lowest number that its next message can have.
    next: [usize; PUBLISHERS],
}

struct Message {
    due: Instant,
    received: usize,
}

/// What was sent, and what the connections have received of it.
#[derive(Default)]
struct Tally {
    connections: usize,
    /// By number. Publisher `number % PUBLISHERS` sends the message.
    messages: Vec<Message>,
    /// Messages that every connection has.
    complete: usize,
    deliveries: usize,
    /// Deliveries that came late or twice.
    reordered: usize,
    /// In seconds, one for each delivery.
    latencies: Vec<f32>,
}

impl Tally {
    fn count(&mut self, number: usize, next: &mut [usize; PUBLISHERS], now: Instant) {
        let message = &mut self.messages[number];
        message.received += 1;
        self.complete += usize::from(message.received == self.connections);
        self.deliveries += 1;
        self.latencies.push((now - message.due).as_secs_f32());
        let next = &mut next[number % PUBLISHERS];
        self.reordered += usize::from(number < *next);
        *next = number + PUBLISHERS;
    }
}

impl Connection {
    /// Reads everything that has arrived, and counts the messages in it.
    fn read(&mut self, buffer: &mut [u8], tally: &mut Tally) {
        loop {
            let kept = self.rest.len();
            buffer[..kept].copy_from_slice(&self.rest);
            let length = match self.stream.read(&mut buffer[kept..]) {
                Ok(0) => panic!("the server closed a connection"),
                Ok(length) => kept + length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            };
            let now = Instant::now();
            let mut bytes = &buffer[..length];
            while let Some((begin, end)) = payload(bytes) {
                if let Some(number) = number(&bytes[begin..end]) {
                    tally.count(number, &mut self.next, now);
                }
                bytes = &bytes[end..];
            }
            self.rest.clear();
            self.rest.extend(bytes);
            // A short read has emptied the socket.
            if length < buffer.len() {
                return;
            }
        }
    }
}

/// Sends numbered messages, and counts them on every connection. One thread serves all.
struct Generator {
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    tally: Tally,
    buffer: Vec<u8>,
}

impl Generator {
    async fn connect(server: SocketAddr, count: usize) -> Self {
        assert!(count >= PUBLISHERS, "at least {PUBLISHERS} connections");
        let poll = Poll::new().expect("epoll");
        let mut connections = Vec::new();
        for number in 0..count {
            let connected = Client::connect_with(server, "plain", "").await;
            let (client, _) = connected.expect("the server accepts it");
            let stream = client.stream.into_std().expect("the stream is open");
            let mut stream = TcpStream::from_std(stream);
            let registered =
                poll.registry().register(&mut stream, Token(number), Interest::READABLE);
            registered.expect("epoll takes it");
            let next = std::array::from_fn(|publisher| publisher);
            connections.push(Connection { stream, rest: client.bytes, unsent: Vec::new(), next });
        }
        Self {
            poll,
            events: Events::with_capacity(count),
            connections,
            tally: Tally { connections: count, ..Tally::default() },
            buffer: vec![0; 256 * 1024],
        }
    }

    /// Warms up, then measures `load`, and checks that every connection got every message.
    fn measure(
        &mut self,
        server: &Process,
        load: impl Fn(&mut Self, Duration),
        lasts: Duration,
    ) -> Figures {
        load(self, WARM_UP);
        self.tally.latencies.clear();
        let (cpu, before, started) = (server.cpu(), self.tally.deliveries, Instant::now());
        load(self, lasts);
        let (cpu, elapsed) = (server.cpu() - cpu, started.elapsed().as_secs_f64());
        let deliveries = (self.tally.deliveries - before) as f64;
        let mut latencies = std::mem::take(&mut self.tally.latencies);
        self.drain();
        latencies.sort_unstable_by(f32::total_cmp);
        let percentile = |share: usize| {
            latencies.get(latencies.len() * share / 100).map_or(f64::NAN, |at| f64::from(*at) * 1e3)
        };
        [cpu * 1e6 / deliveries, deliveries / elapsed, percentile(50), percentile(99), f64::NAN]
    }

    fn fan_out(&mut self, window: usize, lasts: Duration) {
        let started = Instant::now();
        while started.elapsed() < lasts {
            while self.tally.messages.len() - self.tally.complete < window {
                self.publish(Instant::now());
            }
            self.flush();
            sleep(NAP);
            self.receive(lasts);
        }
    }

    fn send_at_rate(&mut self, lasts: Duration) {
        let started = Instant::now();
        let every = Duration::from_secs(1) / MESSAGES_PER_SECOND;
        let mut due = started;
        while due < started + lasts {
            loop {
                let wait = due.saturating_duration_since(Instant::now());
                if wait.is_zero() {
                    break;
                }
                // Epoll waits for whole milliseconds. Less than one is spent polling.
                self.receive(Duration::new(wait.as_secs(), wait.subsec_millis() * 1_000_000));
            }
            self.publish(due);
            self.flush();
            due += every;
        }
    }

    /// Waits for the messages in flight.
    fn drain(&mut self) {
        let deadline = Instant::now() + PATIENCE / 10;
        while self.tally.complete < self.tally.messages.len() && Instant::now() < deadline {
            self.flush();
            self.receive(Duration::from_millis(100));
        }
        let expected = self.tally.messages.len() * self.connections.len();
        let lost = expected.saturating_sub(self.tally.deliveries);
        assert_eq!((lost, self.tally.reordered), (0, 0), "lost, and reordered or repeated");
    }

    fn publish(&mut self, due: Instant) {
        let number = self.tally.messages.len();
        self.tally.messages.push(Message { due, received: 0 });
        let frame = text_frame(&format!("42[\"user-message\",\"{number:<128}\"]"));
        self.connections[number % PUBLISHERS].unsent.extend(frame);
    }

    fn flush(&mut self) {
        for Connection { stream, unsent, .. } in &mut self.connections[..PUBLISHERS] {
            if unsent.is_empty() {
                continue;
            }
            match stream.write(unsent) {
                Ok(written) => drop(unsent.drain(..written)),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
    }

    fn receive(&mut self, wait: Duration) {
        // Unsent bytes are tried again soon.
        let is_full = self.connections[..PUBLISHERS].iter().any(|one| !one.unsent.is_empty());
        let wait = if is_full { wait.min(Duration::from_millis(1)) } else { wait };
        self.poll.poll(&mut self.events, Some(wait)).expect("epoll waits");
        for event in &self.events {
            self.connections[event.token().0].read(&mut self.buffer, &mut self.tally);
        }
    }
}

/// The number in the text of a message; `None` for any other frame.
fn number(payload: &[u8]) -> Option<usize> {
    let digits = payload.strip_prefix(MESSAGE)?.iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0')))
}
