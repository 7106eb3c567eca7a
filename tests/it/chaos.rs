//! No client misses a message, whatever breaks: three nodes, one Redis, a balancer, official clients
//! and our own, all of them talking, and one fault after the other.
//!
//! No absent user is listed and no step is told twice: `presence.rs` watches.
//!
//! Real processes, seeded. `ROOMCAST_SEEDS=20` runs more seeds, `ROOMCAST_SEED=7` this one only, and
//! `ROOMCAST_ROUNDS=3` all faults three times each.

mod presence;
mod verdict;

use std::{
    collections::BTreeMap,
    io::Write as _,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Signal, getrlimit, setrlimit};
use serde_json::json;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use self::{
    presence::{Truth, Watchers},
    verdict::Verdict,
};
use crate::harness::{
    PATIENCE, Random,
    balancer::Balancer,
    checker::{Attempt, Moment, Outcome},
    client::{Client, Options, Transport},
    diary::{Diary, Pages},
    eventually,
    load::{END, LOBBY, SETTLED_WITHIN},
    node::Node,
    official::{Official, Officials},
    proxy::{Network, Proxy},
    reconnecting::{Dialect, Phase, ReconnectingClient, token},
    redis::{Keeps, Redis},
};

const NODES: usize = 3;
const ROOMS: usize = 10;
/// A room of a few clients. Much is sent to it while some of them do not read: more than a node and
/// the kernel hold for one of them, and less than a client may have missed.
const MARKET: &str = "market";
const BURST_MESSAGES: usize = 320;
const BURST_BYTES: usize = 28 << 10;

#[derive(Debug, Clone, Copy)]
struct Plan {
    seed: u64,
    rounds: usize,
    raw: usize,
    official: usize,
    /// Between two messages of one client, at most.
    pause_millis_max: u64,
    /// Whether one client keeps a message to itself.
    planted: bool,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    NodeKilled,
    NodeStopped,
    NodeFrozen,
    ClientsCut,
    RedisRestarted,
    LinkCut,
    ClientsSlow,
}

const FAULTS: [Fault; 7] = [
    Fault::NodeKilled,
    Fault::NodeStopped,
    Fault::NodeFrozen,
    Fault::ClientsCut,
    Fault::RedisRestarted,
    Fault::LinkCut,
    Fault::ClientsSlow,
];

/// When something was broken, and from when on it was whole again.
#[derive(Debug, Clone, Copy)]
struct Breach {
    fault: Fault,
    from: Moment,
    until: Moment,
}

struct Scene {
    redis: Redis,
    /// Each node's way to Redis.
    links: Vec<Proxy>,
    nodes: Vec<Node>,
    balancer: Balancer,
    clients: usize,
    random: Random,
    clock: Instant,
    /// What the senders of bursts sent.
    burst_sender: Diary,
    /// Clients that a node has cut because they do not keep up.
    cut_as_slow: usize,
}

impl Scene {
    async fn start(plan: &Plan, clock: Instant) -> Self {
        raise_open_files();
        let redis = Redis::start(Keeps::Everything).await;
        let (mut links, mut nodes) = (Vec::new(), Vec::new());
        for _ in 0..NODES {
            let link = Proxy::start(redis.address).await;
            nodes.push(Node::start(&["--redis", &format!("redis://{}", link.address)]).await);
            links.push(link);
        }
        let addresses: Vec<_> = nodes.iter().map(|node| node.address).collect();
        let clients = plan.raw + plan.official;
        let balancer = Balancer::start(&addresses, clients, Random::new(plan.seed ^ 1)).await;
        let random = Random::new(plan.seed);
        let burst_sender = Diary::new("burst sender".to_owned(), clock, &[]);
        let scene = Self {
            redis,
            links,
            nodes,
            balancer,
            clients,
            random,
            clock,
            burst_sender,
            cut_as_slow: 0,
        };
        scene.ready().await;
        scene
    }

    async fn ready(&self) {
        for node in &self.nodes {
            node.wait_ready(4 * PATIENCE).await;
        }
    }

    fn any_node(&mut self) -> usize {
        let node = self.random.between(0, NODES as u64 - 1);
        usize::try_from(node).expect("an index")
    }

    /// One of so many clients.
    fn some_clients(&mut self, of: u64) -> Vec<usize> {
        (0..self.clients).filter(|_client| self.random.between(1, of) == 1).collect()
    }

    /// Breaks something and repairs it.
    async fn inflict(&mut self, fault: Fault) {
        let node = self.any_node();
        match fault {
            Fault::NodeKilled => {
                self.nodes[node].kill();
                sleep(self.random.millis(0, 2_000)).await;
                self.nodes[node].restart().await;
            }
            Fault::NodeStopped => {
                self.nodes[node].signal(Signal::TERM);
                let (code, _took) = self.nodes[node].exit_code(2 * PATIENCE).await;
                assert_eq!(code, 0, "a node that was told to stop");
                self.nodes[node].restart().await;
            }
            Fault::NodeFrozen => {
                self.balancer.cut_silent(self.random.between(0, 1) == 0);
                self.nodes[node].signal(Signal::STOP);
                sleep(Duration::from_secs(10)).await;
                self.nodes[node].signal(Signal::CONT);
            }
            Fault::ClientsCut => {
                let cut = self.some_clients(3);
                cut.iter().for_each(|client| self.balancer.cut(*client));
                sleep(self.random.millis(0, 3_000)).await;
                for client in &cut {
                    self.balancer.move_away(*client);
                    self.balancer.heal(*client);
                }
                // Some are cut again while they come back, wherever that finds them.
                for _ in 0..self.random.between(0, 8) {
                    sleep(self.random.millis(20, 400)).await;
                    let again = self.random.between(2, 4);
                    for client in &cut {
                        if self.random.between(1, again) == 1 {
                            self.balancer.reset(*client);
                        }
                    }
                }
            }
            Fault::RedisRestarted => {
                self.redis.kill();
                sleep(self.random.millis(0, 1_500)).await;
                self.redis.restart().await;
            }
            Fault::LinkCut => {
                self.links[node].set(Network::Refusing);
                self.links[node].cut();
                sleep(self.random.millis(500, 4_000)).await;
                self.links[node].heal();
            }
            Fault::ClientsSlow => {
                let (mut slow, before) = (self.some_clients(12), self.cuts());
                slow.extend((0..self.clients).filter(|client| is_at_market(*client)).step_by(2));
                slow.iter().for_each(|client| self.balancer.hold(*client));
                self.send_burst(node).await;
                sleep(self.random.millis(2_000, 6_000)).await;
                slow.iter().for_each(|client| self.balancer.heal(*client));
                self.cut_as_slow += self.cuts() - before;
            }
        }
        self.ready().await;
    }

    /// What the nodes have cut since they were started.
    fn cuts(&self) -> usize {
        self.nodes.iter().map(|node| node.logs("cut a client's connection").len()).sum()
    }

    /// Sends much at once, from a client that is in the room only for that.
    async fn send_burst(&mut self, node: usize) {
        let options = Options::new(Transport::WebSocket).query("dialect", "native");
        let client = Client::connected(self.nodes[node].address, options).await;
        client.request("join", &[json!({ "room": MARKET })]).await;
        let padding = "x".repeat(BURST_BYTES);
        let (mut sent, first) = (Vec::new(), self.burst_sender.read().attempts.len());
        for number in first..first + BURST_MESSAGES {
            let id = format!("burst {number}");
            let at = self.clock.elapsed();
            let text = json!({ "id": id, "padding": padding }).to_string();
            let message = json!({ "room": MARKET, "text": text, "id": id });
            sent.push((id, at, client.emit_for_ack("send", &[message]).await));
        }
        for (id, at, answer) in sent {
            let answer = timeout(4 * PATIENCE, answer).await.expect("an ack in time");
            let answer = answer.expect("the connection stays").into_iter().next();
            let (sender, room) = ("burst sender".to_owned(), MARKET.to_owned());
            let attempt = Attempt { sender, id, room, at, outcome: Outcome::Unknown };
            self.burst_sender.answered(attempt, answer.as_ref());
        }
    }
}

/// The balancer holds two sockets for each client: one to the client and one to its node.
fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the soft limit may be raised to the hard one");
}

/// All clients.
struct Crowd {
    clock: Instant,
    diaries: Vec<Diary>,
    phase: watch::Sender<Phase>,
    people: JoinSet<()>,
    officials: Option<Officials>,
    /// The users of each room, and those that stay when `people` have left.
    listed: Truth,
    staying: Truth,
}

impl Crowd {
    /// Returns when every client is in its rooms.
    async fn start(plan: &Plan, balancer: &Balancer, clock: Instant) -> Self {
        let phase = watch::Sender::new(Phase::Talk);
        let (mut diaries, mut people) = (Vec::new(), JoinSet::new());
        let (mut listed, mut staying) = (no_users(), no_users());
        for number in 0..plan.raw {
            let transport = Transport::ALL[number % 3];
            let name = format!("raw {number} {transport:?}");
            let (dialect, rooms) = home(number);
            list(&mut listed, &name, dialect, &rooms);
            let diary = Diary::new(name.clone(), clock, &rooms);
            diaries.push(diary.clone());
            let mut client =
                ReconnectingClient::new(name, balancer.address(number), transport, diary);
            (client.dialect, client.rooms, client.clock) = (dialect, rooms, clock);
            client.random = Random::new(plan.seed << 16 ^ number as u64);
            client.pause_max = plan.pause_millis_max;
            client.ignores_one = plan.planted && number == 0;
            people.spawn(client.live(phase.subscribe()));
        }
        let mut officials = Vec::new();
        for number in 0..plan.official {
            let transports: [&[&str]; 3] =
                [&["polling", "websocket"], &["websocket"], &["polling"]];
            let transports = transports[number % 3];
            let name = format!("official {number} {transports:?}");
            let (dialect, rooms) = home(plan.raw + number);
            list(&mut listed, &name, dialect, &rooms);
            list(&mut staying, &name, dialect, &rooms);
            let diary = Diary::new(name.clone(), clock, &rooms);
            diaries.push(diary.clone());
            let server = balancer.address(plan.raw + number);
            let retries = number % 2 == 0;
            officials.push(Official { name, server, transports, retries, dialect, rooms, diary });
        }
        let mut started = None;
        if !officials.is_empty() {
            let pause = plan.pause_millis_max;
            started = Some(Officials::start(officials, pause, clock, phase.subscribe()).await);
        }
        let crowd = Self { clock, diaries, phase, people, officials: started, listed, staying };
        crowd.all("hearing at the start", Pages::is_hearing).await;
        crowd
    }

    /// Waits until `is_so` holds for every client. A client that is late breaks a promise.
    async fn all(&self, what: &str, is_so: impl Fn(&Pages) -> bool) {
        let deadline = Instant::now() + SETTLED_WITHIN;
        for diary in &self.diaries {
            while !is_so(&diary.read()) {
                if Instant::now() > deadline {
                    diary.broken(&format!("not {what}"));
                    break;
                }
                sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Lets everything be acked and arrive.
    async fn settle(&mut self, nodes: &[Node]) {
        self.phase.send_replace(Phase::Settle);
        self.all("acked all it said", |pages| pages.settled).await;
        let node = nodes[0].address;
        let client = Client::connected(node, Options::new(Transport::WebSocket)).await;
        let at = self.clock.elapsed();
        let (name, args) = Dialect::Plain.speech(LOBBY, END, at);
        // The last fault may have been that of the log.
        let said = async || {
            let ack = client.request(name, &args).await;
            (ack["ok"] == true).then_some(ack)
        };
        let ack = eventually("the end is said", SETTLED_WITHIN, said).await;
        let (sender, id, room) = (END.to_owned(), END.to_owned(), LOBBY.to_owned());
        let attempt = Attempt { sender, id, room, at, outcome: Outcome::Unknown };
        let diary = Diary::new(END.to_owned(), self.clock, &[]);
        diary.answered(attempt, Some(&ack));
        self.all("hearing the end", |pages| pages.heard_end).await;
        self.diaries.push(diary);
    }

    async fn leave(&mut self) {
        self.phase.send_replace(Phase::Leave);
        if let Some(officials) = &mut self.officials {
            officials.assert_alive();
        }
        while let Some(left) = self.people.join_next().await {
            left.expect("a client does not panic");
        }
    }
}

/// All rooms, without users.
fn no_users() -> Truth {
    let rooms = all_rooms().into_iter().chain([MARKET.to_owned()]);
    rooms.map(|room| (room, Default::default())).collect::<BTreeMap<_, _>>()
}

fn list(truth: &mut Truth, name: &str, dialect: Dialect, rooms: &[String]) {
    if dialect == Dialect::Native {
        let id = presence::id(&token(name));
        for room in rooms {
            truth.entry(room.clone()).or_default().insert(id.clone());
        }
    }
}

/// The rooms that have users at any time.
fn all_rooms() -> Vec<String> {
    let others = (0..ROOMS).map(|room| format!("room {room}"));
    [LOBBY.to_owned()].into_iter().chain(others).collect()
}

/// What a client speaks, and its rooms: every client is in the lobby, most in two more rooms.
fn home(number: usize) -> (Dialect, Vec<String>) {
    let mut rooms = vec![LOBBY.to_owned()];
    if number.is_multiple_of(4) {
        return (Dialect::Plain, rooms);
    }
    rooms.extend([number, number * 3 + 1].map(|room| format!("room {}", room % ROOMS)));
    rooms.dedup();
    if is_at_market(number) {
        rooms.push(MARKET.to_owned());
    }
    (Dialect::Native, rooms)
}

fn is_at_market(client: usize) -> bool {
    client % 40 == 1
}

async fn run(plan: Plan) -> Verdict {
    let clock = Instant::now();
    let mut scene = Scene::start(&plan, clock).await;
    let addresses: Vec<_> = scene.nodes.iter().map(|node| node.address).collect();
    let watchers = Watchers::start(&addresses, &all_rooms());
    let mut crowd = Crowd::start(&plan, &scene.balancer, clock).await;
    let mut breaches = Vec::new();
    for _ in 0..plan.rounds {
        let mut faults = FAULTS;
        scene.random.shuffle(&mut faults);
        for fault in faults {
            sleep(scene.random.millis(500, 2_000)).await;
            let from = clock.elapsed();
            scene.inflict(fault).await;
            breaches.push(Breach { fault, from, until: clock.elapsed() });
        }
    }
    sleep(Duration::from_secs(1)).await;
    crowd.settle(&scene.nodes).await;
    let (here, staying) = (crowd.listed.clone(), crowd.staying.clone());
    watchers.expect("with every user", &watchers.and_watchers(here)).await;
    crowd.leave().await;
    watchers.expect("when most have left", &watchers.and_watchers(staying)).await;
    let mut diaries = crowd.diaries;
    diaries.push(scene.burst_sender);
    let mut verdict = Verdict::of(&diaries, &breaches);
    verdict.watched(watchers);
    let mut told = format!("chaos, seed {}: {verdict}", plan.seed);
    told.push_str(&format!(", {} cut as slow\n ", scene.cut_as_slow));
    for Breach { fault, from, until } in breaches {
        told.push_str(&format!(" {fault:?} {from:.1?}-{until:.1?};"));
    }
    told.push('\n');
    // The figures are worth reading of a run that passes, too.
    std::io::stderr().write_all(told.as_bytes()).expect("standard error takes text");
    verdict
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var_os(name)?.into_string().ok();
    Some(text.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{name} is a number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_misses_a_message() {
    let _turn = crate::harness::serial().await;
    let seeds = match number("ROOMCAST_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("ROOMCAST_SEEDS").unwrap_or(1),
    };
    let rounds = usize::try_from(number("ROOMCAST_ROUNDS").unwrap_or(1)).expect("a few");
    for seed in seeds {
        let (raw, official, pause_millis_max) = (300, 60, 90_000);
        let plan = Plan { seed, rounds, raw, official, pause_millis_max, planted: false };
        run(plan).await.assert_kept(&plan);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_finds_a_message_that_one_client_ignores() {
    let plan =
        Plan { seed: 1, rounds: 0, raw: 6, official: 0, pause_millis_max: 200, planted: true };
    let verdict = run(plan).await;
    assert_eq!(verdict.report.lost.len(), 1, "{verdict}");
    let [lost] = verdict.report.lost.as_slice() else { panic!("{verdict}") };
    assert!(lost.starts_with("raw 0 "), "{verdict}");
}
