//! What it costs that users come to a room and leave it, by how many are there and by how often it
//! happens; and what a new profile and a typing signal cost, by how many rooms the node has.
//!
//! `cargo bench --bench presence [-- roomcast's flags]`. Starts a redis-server and a node on
//! loopback; needs 11 000 open files. `-- --rooms-only` measures the second part alone, which
//! runs inside this process.
#![expect(clippy::print_stdout, reason = "a bench tells its result")]

mod crowd;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use roomcast::domain::{
    name::{UserId, UserName},
    presence::{PresenceSettings, PresenceState, TypingChange},
    room::RoomName,
    roster::RosterSnapshot,
    user::User,
};
use serde_json::json;
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::crowd::{Client, node, raise_open_files, redis};

/// Users that are in the room the whole time.
const MEMBERS: [usize; 3] = [100, 1_000, 10_000];
/// How many join or leave in a second.
const CHANGES_PER_SECOND: [usize; 3] = [10, 100, 400];
/// Users that join and leave, by turns.
const MOVERS: usize = 50;
const LASTS: Duration = Duration::from_secs(10);
const ROOM: &str = "hall";

/// Rooms of one node.
const ROOMS: [usize; 2] = [1, 30_000];
/// Profiles, or signals, of one measurement. Each is a batch of its own.
const SIGNALS: u32 = 10_000;

fn main() {
    raise_open_files();
    let mut flags: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    println!("rooms  profile us  typing us");
    for rooms in ROOMS {
        let (profile, typing) = signal_costs(rooms);
        println!("{rooms:5}  {:10.2}  {:9.2}", profile * 1e6, typing * 1e6);
    }
    if flags.extract_if(.., |flag| flag == "--rooms-only").count() > 0 {
        return;
    }
    tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        println!("members  changes  node ms  redis ms  events told to each member");
        for members in MEMBERS {
            measure(members, &flags).await;
        }
    });
}

/// Seconds for one profile and for one typing signal of a user in one of so many rooms, from the
/// signal to what the clients are told.
fn signal_costs(rooms: usize) -> (f64, f64) {
    let user = |name: &str, id: &str| User {
        id: UserId::parse(id).expect("an id"),
        name: UserName::parse(name).expect("a name"),
        picture: None,
    };
    let mut state = PresenceState::new(PresenceSettings::default());
    for number in 0..rooms {
        let id = format!("user {number}");
        let room = RoomName::parse(&format!("room {number}")).expect("a room");
        state.enter(&room, &user(&id, &id).id);
        let (room, number) = state.next_roster_to_read().expect("it was just entered");
        let read = RosterSnapshot { version: 1, count: 1, users: vec![user(&id, &id)] };
        state.learn(&room, number, read);
    }
    let room = RoomName::parse("room 0").expect("a room");
    let began = Instant::now();
    for turn in 0..SIGNALS {
        state.hear_profile(&user(&format!("name {turn}"), "user 0"));
        assert_eq!(state.take_profiles().len(), 1);
        assert_eq!((state.next(began), state.has_changes()), (None, false));
    }
    let profile = began.elapsed();
    let began = Instant::now();
    for turn in 0..SIGNALS {
        let (user, typing) = (user("user 0", "user 0"), turn % 2 == 0);
        let now = began + Duration::from_secs(1) * turn;
        let change = TypingChange { room: room.clone(), user, typing };
        assert!(state.types(change.clone(), now));
        state.hear_typing(change);
        assert_eq!(state.take_typing(now, |_| true).len(), 1);
        assert!(state.take_unpublished(now).is_empty() && state.next(now) > Some(now));
    }
    (profile.as_secs_f64() / f64::from(SIGNALS), began.elapsed().as_secs_f64() / f64::from(SIGNALS))
}

/// What all members were told.
#[derive(Debug, Default)]
struct Told {
    events: AtomicUsize,
    joined: AtomicUsize,
}

async fn measure(members: usize, flags: &[String]) {
    let (redis_server, redis) = redis();
    let (node, address) = node(redis, flags).await;
    let told = Arc::new(Told::default());
    let connecting = Arc::new(Semaphore::new(100));
    let mut all = JoinSet::new();
    for _ in 0..members {
        all.spawn(member(address, Arc::clone(&told), Arc::clone(&connecting)));
    }
    while told.joined.load(Ordering::Relaxed) < members {
        sleep(Duration::from_millis(50)).await;
    }
    sleep(Duration::from_secs(3)).await;
    let (idle_node, idle_redis) = {
        let before = (node.cpu(), redis_server.cpu());
        sleep(LASTS).await;
        (node.cpu() - before.0, redis_server.cpu() - before.1)
    };
    for rate in CHANGES_PER_SECOND {
        let stop = Arc::new(AtomicBool::new(false));
        let mut movers = JoinSet::new();
        let every = Duration::from_secs(1) * u32::try_from(MOVERS).expect("a few")
            / u32::try_from(rate).expect("a few");
        for _ in 0..MOVERS {
            movers.spawn(mover(address, every, Arc::clone(&stop)));
        }
        // They connect and begin one after the other.
        sleep(Duration::from_secs(2)).await;
        let before = (node.cpu(), redis_server.cpu(), told.events.load(Ordering::Relaxed));
        sleep(LASTS).await;
        let after = (node.cpu(), redis_server.cpu(), told.events.load(Ordering::Relaxed));
        stop.store(true, Ordering::Relaxed);
        movers.join_all().await;
        let changes = rate as f64 * LASTS.as_secs_f64();
        let each = |cpu: f64| cpu.max(0.0) * 1e3 / changes;
        println!(
            "{members:7}  {rate:5}/s  {:7.3}  {:8.3}  {:.1}/s",
            each(after.0 - before.0 - idle_node),
            each(after.1 - before.1 - idle_redis),
            (after.2 - before.2) as f64 / members as f64 / LASTS.as_secs_f64(),
        );
    }
}

async fn member(node: SocketAddr, told: Arc<Told>, connecting: Arc<Semaphore>) {
    let turn = connecting.acquire().await.expect("never closed");
    let (mut client, _) = Client::connect(node, "").await.expect("the node takes it");
    client.ask("join", &json!({ "room": ROOM })).await.expect("an answer");
    drop(turn);
    told.joined.fetch_add(1, Ordering::Relaxed);
    loop {
        let event = client.next().await.expect("the node lives");
        let is_presence = event.starts_with("42[\"presence\"");
        told.events.fetch_add(usize::from(is_presence), Ordering::Relaxed);
    }
}

/// One change in each turn; it is outside in the end.
async fn mover(node: SocketAddr, every: Duration, stop: Arc<AtomicBool>) {
    let (mut client, _) = Client::connect(node, "").await.expect("the node takes it");
    let mut turns = interval(every);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let request = json!({ "room": ROOM });
    for change in ["join", "leave"].into_iter().cycle() {
        turns.tick().await;
        client.ask(change, &request).await.expect("an answer");
        if change == "leave" && stop.load(Ordering::Relaxed) {
            return;
        }
    }
}
