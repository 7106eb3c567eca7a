//! What benches with many clients share: child processes, and a minimal websocket client.
#![allow(dead_code, reason = "each bench uses a part of it")]

use std::{
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

pub const PATIENCE: Duration = Duration::from_secs(120);

/// Allows as many open files as the system permits.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("the soft limit may be raised");
}

/// A child process that is killed when its owner is dropped, or dies.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that the child has already ended.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Process {
    pub fn start(program: &str, arguments: &[String], priority: &str) -> Self {
        let mut command = Command::new("nice");
        command.args(["-n", priority, "setpriv", "--pdeathsig", "KILL", "--", program]);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Self(command.spawn().expect("nice and setpriv are there"))
    }

    /// Seconds of CPU that the process has used.
    pub fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()));
        let stat = stat.expect("the child lives");
        // Fields 14 and 15, in hundredths; the second field ends in the last parenthesis.
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        let ticks = fields.split_whitespace().skip(11).take(2);
        ticks.map(|ticks| ticks.parse::<f64>().expect("a number")).sum::<f64>() / 100.0
    }

    /// Resident memory in KiB.
    pub fn kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()));
        let status = status.expect("the child lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).expect("a size")
    }
}

pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound port")
}

/// A redis-server that writes nothing to disk.
pub fn redis() -> (Process, SocketAddr) {
    let address = free_address();
    let port = address.port().to_string();
    let arguments = ["--port", &port, "--bind", "127.0.0.1", "--save", ""].map(String::from);
    (Process::start("redis-server", &arguments, "0"), address)
}

/// A node of this build over Redis.
pub async fn node(redis: SocketAddr, flags: &[String]) -> (Process, SocketAddr) {
    let mut arguments = vec!["--redis".to_owned(), format!("redis://{redis}")];
    arguments.extend_from_slice(flags);
    start_server(env!("CARGO_BIN_EXE_roomcast"), &arguments).await
}

/// Starts a server on a free port, and waits until it is ready.
pub async fn start_server(program: &str, flags: &[String]) -> (Process, SocketAddr) {
    let address = free_address();
    let mut arguments = vec!["--listen".to_owned(), address.to_string()];
    // A client that only sends does not read, and so it answers no ping.
    arguments.extend(["--ping-interval", "10m", "--ping-timeout", "10m"].map(String::from));
    arguments.extend_from_slice(flags);
    let process = Process::start(program, &arguments, "0");
    let deadline = Instant::now() + PATIENCE;
    while !is_ready(address).await {
        assert!(Instant::now() < deadline, "{program} is not ready");
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

/// The bytes of a text frame, with a mask of zeros.
pub fn text_frame(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("short texts only");
    let mut frame = vec![0x81, 0x80 | 126];
    frame.extend(length.to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(text.as_bytes());
    frame
}

/// Where the payload of the first frame in `bytes` begins and ends; `None` while it is incomplete.
pub fn payload(bytes: &[u8]) -> Option<(usize, usize)> {
    let (begin, length) = match *bytes.get(1)? {
        127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?),
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        length => (2, usize::from(length)),
    };
    (bytes.len() >= begin + length).then_some((begin, begin + length))
}

/// A minimal websocket client.
pub struct Client {
    pub stream: TcpStream,
    /// Bytes that were read and belong to later frames.
    pub bytes: Vec<u8>,
    pub pid: String,
}

impl Client {
    /// Connects with the native dialect. Also returns what came before the CONNECT reply.
    pub async fn connect(to: SocketAddr, auth: &str) -> std::io::Result<(Self, Vec<String>)> {
        Self::connect_with(to, "native", auth).await
    }

    pub async fn connect_with(
        to: SocketAddr,
        dialect: &str,
        auth: &str,
    ) -> std::io::Result<(Self, Vec<String>)> {
        let lost = || std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream, bytes: Vec::new(), pid: String::new() };
        let request = format!(
            "GET /socket.io/?EIO=4&transport=websocket&dialect={dialect} HTTP/1.1\r\n\
            Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
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

    pub async fn send(&mut self, text: &str) -> std::io::Result<()> {
        self.stream.write_all(&text_frame(text)).await
    }

    /// The next text of Socket.IO. Pings are answered here.
    pub async fn next(&mut self) -> std::io::Result<String> {
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
        let (begin, end) = payload(&self.bytes)?;
        let opcode = self.bytes.first()? & 0x0f;
        let text = String::from_utf8_lossy(self.bytes.get(begin..end)?).into_owned();
        self.bytes.drain(..end);
        Some((opcode, text))
    }

    /// Sends a request and waits for its answer. Returns what came before the answer.
    pub async fn ask(&mut self, name: &str, request: &Value) -> std::io::Result<Vec<String>> {
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
