//! Clients with the official socket.io-client, unmodified, in a process of their own.
//!
//! `tests/e2e/people.mjs` is that process. It connects back to here and tells what happens, a line
//! of JSON each; times in it are of the clock that it is told when it connects.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use super::{
    PATIENCE,
    checker::{Attempt, Outcome},
    diary::Diary,
    process::Process,
    reconnecting::{Dialect, Phase, token},
};

/// One client as it is to be made.
#[derive(Debug, Clone)]
pub struct Official {
    pub name: String,
    pub server: SocketAddr,
    /// What socket.io-client is given as `transports`.
    pub transports: &'static [&'static str],
    /// Whether it leaves retrying to socket.io-client's own `retries`.
    pub retries: bool,
    pub dialect: Dialect,
    pub rooms: Vec<String>,
    pub diary: Diary,
}

/// The process; ends with this value.
#[derive(Debug)]
pub struct Officials {
    process: Process,
    tasks: JoinSet<()>,
}

impl Officials {
    pub async fn start(
        people: Vec<Official>,
        pause_max: u64,
        clock: Instant,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e");
        let client = scripts.join("node_modules/socket.io-client");
        assert!(
            client.exists(),
            "the official client is missing: run \"make unit\", which gets it"
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a port");
        let port = listener.local_addr().expect("a listener has an address").port();
        let each = |one: &Official| {
            json!({
                "name": one.name,
                "url": format!("http://{}", one.server),
                "token": token(&one.name),
                "transports": one.transports,
                "retries": one.retries,
                "dialect": one.dialect.name(),
                "rooms": one.rooms,
            })
        };
        let people_json: Vec<Value> = people.iter().map(each).collect();
        let plan = json!({ "port": port, "pauseMaxMs": pause_max, "people": people_json });
        let args = [OsString::from(scripts.join("people.mjs")), plan.to_string().into()];
        let process = Process::start("node", &args, &[]);
        let accepted = timeout(PATIENCE, listener.accept()).await;
        let (stream, _from) = accepted
            .unwrap_or_else(|_late| panic!("people.mjs is silent: {:?}", process.lines()))
            .expect("a listener accepts");
        let mut tasks = JoinSet::new();
        tasks.spawn(listen(stream, people, clock, phase));
        Self { process, tasks }
    }

    /// Panics when it is not at work any more.
    pub fn assert_alive(&mut self) {
        let ended = self.process.exited();
        assert!(ended.is_none(), "people.mjs ended: {ended:?} {:?}", self.process.lines());
        assert!(self.tasks.try_join_next().is_none(), "people.mjs has closed its connection");
    }
}

async fn listen(
    stream: TcpStream,
    people: Vec<Official>,
    clock: Instant,
    mut phase: watch::Receiver<Phase>,
) {
    let (reads, mut writes) = stream.into_split();
    let mut lines = BufReader::new(reads).lines();
    // What it tells is thus a little earlier than it was, and a message is owed to each client that was
    // there when it was sent: never to too many.
    let now = clock.elapsed().as_secs_f64() * 1_000.0;
    let hello = format!("{}\n", json!({ "now": now }));
    writes.write_all(hello.as_bytes()).await.expect("people.mjs reads");
    let settle = async move {
        if phase.wait_for(|phase| *phase != Phase::Talk).await.is_ok() {
            writes.write_all(b"{\"settle\":true}\n").await.expect("people.mjs reads");
        }
        std::future::pending::<()>().await;
    };
    let told = async move {
        while let Ok(Some(line)) = lines.next_line().await {
            let told: Value = serde_json::from_str(&line).expect("people.mjs tells JSON");
            let who = told["who"].as_u64().and_then(|who| usize::try_from(who).ok());
            let person = &people[who.expect("somebody")];
            take(person, told["what"].as_str().unwrap_or_default(), &told);
        }
    };
    tokio::select! {
        () = settle => {}
        () = told => {}
    }
}

fn take(person: &Official, what: &str, told: &Value) {
    let diary = &person.diary;
    let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
    match what {
        "connect" => {
            diary.connected(&text("id"), told["recovered"] == json!(true));
        }
        "joined" => diary.joined(),
        "disconnect" => {
            if text("reason").starts_with("io server disconnect") {
                diary.broken("the server sent a DISCONNECT packet");
            }
            diary.closed(&text("reason"));
        }
        "connect_error" => diary.not_connected(&text("reason")),
        "event" => {
            let args = told["args"].as_array().map(Vec::as_slice).unwrap_or_default();
            diary.event(&text("name"), args);
        }
        "answer" => {
            let millis = told["at"].as_f64().expect("a time");
            let attempt = Attempt {
                sender: person.name.clone(),
                id: text("id"),
                room: text("room"),
                at: Duration::from_secs_f64(millis.max(0.0) / 1_000.0),
                outcome: Outcome::Unknown,
            };
            diary.answered(attempt, told.get("ack"));
        }
        "settled" => diary.settled(),
        other => panic!("people.mjs tells {other}: {told}"),
    }
}
