//! What the tests over the wire stand on: clients, nodes, Redis, a bad network, and a judge.
//!
//! Everything listens on loopback and ends with its owner: a value that started a process kills it
//! when dropped, and the kernel kills it when this process dies first.

pub mod away;
pub mod balancer;
pub mod chat;
pub mod checker;
pub mod client;
pub mod client_io;
pub mod diary;
pub mod http;
pub mod load;
pub mod node;
pub mod official;
pub mod packet;
pub mod presence;
pub mod process;
pub mod proxy;
pub mod reconnecting;
pub mod redis;
pub mod redis_store;
pub mod rest;
pub mod search;
pub mod sessions;
pub mod sqlite_store;
pub mod store;
pub mod transport;

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

/// Long enough for a loaded machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// A port that nobody listens on, and that the kernel never gives to an outgoing connection.
///
/// A port from the ephemeral range would not do: while its server is down, a client that tries to
/// reconnect may be given that very port, and be connected to itself.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 11_000;
    const COUNT: u16 = 20_000;
    let start = u16::try_from(std::process::id() % 199 * 100).expect("below 19 900");
    for _ in 0..COUNT {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_add(next) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port on loopback");
}

/// Numbers that look random and are the same for the same seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Both ends included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }

    pub fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[usize::try_from(self.between(0, among.len() as u64 - 1)).expect("an index")]
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = usize::try_from(self.between(0, last as u64)).expect("an index");
            items.swap(last, other);
        }
    }
}

/// Asks again and again until there is an answer; panics with `what` when time is up.
pub async fn eventually<T>(
    what: &str,
    patience: Duration,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Tests that load the machine take turns; hold the guard for the whole test.
pub async fn serial() -> tokio::sync::MutexGuard<'static, ()> {
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    TURN.lock().await
}
