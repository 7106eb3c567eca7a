//! What benches with many clients share: processes that end with them, and a client as small as it
//! can be.

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

/// As many open files as the system allows.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("the soft limit may be raised");
}

/// A child that ends with its owner.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended, which is as good.
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
}

pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound port")
}

/// A redis-server that keeps nothing.
pub fn redis() -> (Process, SocketAddr) {
    let address = free_address();
    let port = address.port().to_string();
    let arguments = ["--port", &port, "--bind", "127.0.0.1", "--save", ""].map(String::from);
    (Process::start("redis-server", &arguments, "0"), address)
}

pub async fn node(redis: SocketAddr, flags: &[String]) -> (Process, SocketAddr) {
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
pub struct Client {
    stream: TcpStream,
    bytes: Vec<u8>,
    pub pid: String,
}

impl Client {
    /// With everything that came before the CONNECT reply.
    pub async fn connect(to: SocketAddr, auth: &str) -> std::io::Result<(Self, Vec<String>)> {
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

    pub async fn send(&mut self, text: &str) -> std::io::Result<()> {
        let length = u16::try_from(text.len()).expect("short texts only");
        let mut frame = vec![0x81, 0x80 | 126];
        frame.extend(length.to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.stream.write_all(&frame).await
    }

    /// The next text that is no matter of the transport.
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
