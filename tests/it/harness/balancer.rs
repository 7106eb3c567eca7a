//! A load balancer: every client has a way of its own, and stays with one node until that fails.
//!
//! That is what a sticky balancer does that knows its clients by cookie or address. It asks each
//! node whether it is ready, as real ones do, and moves clients away from one that is not: what
//! they open next goes elsewhere, what they have open stays as it is.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Random, http,
    proxy::{Network, Proxy},
};

const ASKED_EVERY: Duration = Duration::from_millis(200);
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Ready,
    NotReady,
    /// It accepts, and says nothing.
    Silent,
}

#[derive(Debug)]
pub struct Balancer {
    ways: Arc<Ways>,
    _asking: JoinSet<()>,
}

#[derive(Debug)]
struct Ways {
    nodes: Vec<SocketAddr>,
    proxies: Vec<Proxy>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    random: Random,
    health: Vec<Health>,
    /// Of each client the node it is sent to.
    pins: Vec<usize>,
    cuts_silent: bool,
}

impl Balancer {
    pub async fn start(nodes: &[SocketAddr], clients: usize, random: Random) -> Self {
        let mut proxies = Vec::with_capacity(clients);
        for client in 0..clients {
            proxies.push(Proxy::start(nodes[client % nodes.len()]).await);
        }
        let pins = (0..clients).map(|client| client % nodes.len()).collect();
        let health = vec![Health::Ready; nodes.len()];
        let state = Mutex::new(State { random, health, pins, cuts_silent: false });
        let ways = Arc::new(Ways { nodes: nodes.to_vec(), proxies, state });
        let mut asking = JoinSet::new();
        for node in 0..nodes.len() {
            let ways = Arc::clone(&ways);
            asking.spawn(async move {
                loop {
                    let health = ask(ways.nodes[node]).await;
                    ways.found(node, health);
                    sleep(ASKED_EVERY).await;
                }
            });
        }
        Self { ways, _asking: asking }
    }

    pub fn address(&self, client: usize) -> SocketAddr {
        self.ways.proxies[client].address
    }

    /// Whether connections to a node that says nothing any more are cut, or left to their clients.
    pub fn cut_silent(&self, cuts: bool) {
        self.ways.state().cuts_silent = cuts;
    }

    /// Ends the client's connections; new ones are refused until `heal`.
    pub fn cut(&self, client: usize) {
        self.ways.proxies[client].set(Network::Refusing);
        self.ways.proxies[client].cut();
    }

    /// Ends the client's connections; it may open new ones at once.
    pub fn reset(&self, client: usize) {
        self.ways.proxies[client].cut();
    }

    /// Nothing reaches the client, and nothing comes from it.
    pub fn hold(&self, client: usize) {
        self.ways.proxies[client].set(Network::HalfOpen);
    }

    pub fn heal(&self, client: usize) {
        self.ways.proxies[client].heal();
    }

    /// Sends a client's next connection to any node that is ready.
    pub fn move_away(&self, client: usize) {
        let mut state = self.ways.state();
        self.ways.pin_anew(&mut state, client);
    }
}

impl Ways {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn found(&self, node: usize, health: Health) {
        let mut state = self.state();
        state.health[node] = health;
        if health == Health::Ready {
            return;
        }
        for client in 0..self.proxies.len() {
            if state.pins[client] != node || !self.pin_anew(&mut state, client) {
                continue;
            }
            if health == Health::Silent && state.cuts_silent {
                self.proxies[client].cut();
            }
        }
    }

    /// False when no node is ready; then the client stays where it is.
    fn pin_anew(&self, state: &mut State, client: usize) -> bool {
        let ready: Vec<usize> =
            (0..self.nodes.len()).filter(|node| state.health[*node] == Health::Ready).collect();
        if ready.is_empty() {
            return false;
        }
        let chosen = *state.random.pick(&ready);
        state.pins[client] = chosen;
        self.proxies[client].redirect(self.nodes[chosen]);
        true
    }
}

async fn ask(node: SocketAddr) -> Health {
    match timeout(ANSWERS_WITHIN, http::request(node, "GET", "/readyz", &[])).await {
        Ok(Ok(answer)) if answer.status == 200 => Health::Ready,
        Ok(_no) => Health::NotReady,
        Err(_late) => Health::Silent,
    }
}
