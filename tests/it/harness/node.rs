//! One Roomcast process.

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;

use super::{
    PATIENCE, eventually, free_port,
    http::{self, Response},
    process::Process,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_roomcast");

/// A node on a port of its own, which it keeps over restarts.
#[derive(Debug)]
pub struct Node {
    pub address: SocketAddr,
    args: Vec<OsString>,
    process: Process,
}

impl Node {
    /// One that keeps nothing.
    pub async fn memory() -> Self {
        Self::start(&["--data", "memory"]).await
    }

    /// Starts a node and waits until it listens; it may not be ready yet.
    pub async fn start(args: &[&str]) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut all = vec!["--listen".into(), address.to_string().into()];
        all.extend(["--log-format", "json"].map(OsString::from));
        all.extend(args.iter().map(OsString::from));
        let process = Process::start(PROGRAM, &all, &[]);
        let mut node = Self { address, args: all, process };
        node.listening().await;
        node
    }

    /// Runs the program to its end, for flags that keep it from serving.
    pub async fn run(args: &[&str], env: &[(&str, &str)]) -> (i32, Vec<String>) {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let mut process = Process::start(PROGRAM, &args, env);
        let (code, _took) = process.exit_code(PATIENCE).await;
        (code, process.lines())
    }

    /// The same node again, after it has ended.
    pub async fn restart(&mut self) {
        self.process = Process::start(PROGRAM, &self.args, &[]);
        self.listening().await;
    }

    async fn listening(&mut self) {
        eventually("the node listens", PATIENCE, async || {
            let ended = self.process.exited();
            assert!(ended.is_none(), "the node ended: {ended:?}\n{}", self.output());
            let own = Value::from(self.address.to_string());
            let heard = self.logs("listening");
            heard.iter().any(|line| line["fields"]["address"] == own).then_some(())
        })
        .await;
    }

    /// Log lines of this start whose message contains `text`.
    pub fn logs(&self, text: &str) -> Vec<Value> {
        let lines = self.process.lines();
        let parsed = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let message = |line: &Value| line["fields"]["message"].as_str().map(str::to_owned);
        parsed.filter(|line| message(line).is_some_and(|message| message.contains(text))).collect()
    }

    pub fn output(&self) -> String {
        self.process.lines().join("\n")
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// The most resident memory it had so far, in bytes.
    pub fn memory_peak(&self) -> u64 {
        self.process.memory_peak()
    }

    /// Open files that the kernel has a place for already.
    pub fn file_places(&self) -> u64 {
        self.process.file_places()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    pub async fn exit_code(&mut self, patience: Duration) -> (i32, Duration) {
        self.process.exit_code(patience).await
    }

    pub async fn get(&self, path: &str) -> Response {
        http::get(self.address, path, &[]).await
    }

    /// `/readyz`: ready, or why not.
    pub async fn ready(&self) -> Result<(), String> {
        let answer = self.get("/readyz").await;
        match answer.status {
            200 => Ok(()),
            503 => Err(answer.text()),
            status => panic!("/readyz answers {status}: {}", answer.text()),
        }
    }

    /// Waits until it is ready; answers how long that took.
    pub async fn wait_ready(&self, patience: Duration) -> Duration {
        let asked = std::time::Instant::now();
        let mut why = String::new();
        let ready = async || self.ready().await.map_err(|reason| why = reason).ok();
        eventually("the node is ready", patience, ready).await;
        asked.elapsed()
    }

    /// Waits until it is not ready; answers why.
    pub async fn wait_unready(&self, patience: Duration) -> String {
        eventually("the node is not ready", patience, async || self.ready().await.err()).await
    }
}
