//! A real redis-server, with what a test does to it.

use std::{
    ffi::OsString,
    io,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{PATIENCE, eventually, free_port, process::Process};

/// What Redis puts on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    Nothing,
    /// Nothing, as a node of a cluster.
    Slots,
    /// `appendonly yes`, `appendfsync always`: what was answered survives kill -9.
    Everything,
}

/// A server on a port and in a directory of its own, which it keeps over restarts.
#[derive(Debug)]
pub struct Redis {
    pub address: SocketAddr,
    keeps: Keeps,
    directory: TempDir,
    process: Process,
}

impl Redis {
    pub async fn start(keeps: Keeps) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let directory = TempDir::new().expect("a temporary directory can be made");
        let process = Self::spawn(address, keeps, directory.path());
        let mut redis = Self { address, keeps, directory, process };
        redis.serving().await;
        redis
    }

    /// A cluster of one node: it refuses a script that uses keys of more than one slot.
    pub async fn start_cluster() -> Self {
        let redis = Self::start(Keeps::Slots).await;
        let slots: Vec<String> = (0..16_384).map(|slot| slot.to_string()).collect();
        let all = ["CLUSTER", "ADDSLOTS"].into_iter().chain(slots.iter().map(String::as_str));
        assert_eq!(redis.call(&all.collect::<Vec<_>>()).await, Reply::text("OK"));
        eventually("the cluster serves", PATIENCE, async || {
            let info = redis.call(&["CLUSTER", "INFO"]).await.into_text();
            info.contains("cluster_state:ok").then_some(())
        })
        .await;
        redis
    }

    pub fn cluster_url(&self) -> String {
        format!("redis-cluster://{}", self.address)
    }

    /// The server that `ROOMCAST_REDIS_SERVER` names, so that all of this can be run on any.
    fn spawn(address: SocketAddr, keeps: Keeps, directory: &Path) -> Process {
        let mut args: Vec<OsString> = ["--save", "", "--bind", "127.0.0.1", "--port"]
            .into_iter()
            .map(OsString::from)
            .collect();
        args.push(address.port().to_string().into());
        args.extend(["--dir".into(), directory.into()]);
        // Replicas of a test need not wait for each other.
        args.extend(["--repl-diskless-sync-delay", "0"].map(OsString::from));
        if keeps == Keeps::Slots {
            args.extend(["--cluster-enabled", "yes"].map(OsString::from));
            args.extend(["--cluster-announce-ip", "127.0.0.1"].map(OsString::from));
        }
        if keeps == Keeps::Everything {
            args.extend(["--appendonly", "yes", "--appendfsync", "always"].map(OsString::from));
        }
        let other = std::env::var_os("ROOMCAST_REDIS_SERVER").and_then(|it| it.into_string().ok());
        Process::start(other.as_deref().unwrap_or("redis-server"), &args, &[])
    }

    async fn serving(&mut self) {
        eventually("redis-server answers", PATIENCE, async || {
            let ended = self.process.exited();
            assert!(ended.is_none(), "redis-server ended: {ended:?} {:?}", self.process.lines());
            let mut connection = Connection::open(self.address).await.ok()?;
            (connection.call(&["PING"]).await.ok()? == Reply::text("PONG")).then_some(())
        })
        .await;
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Whether it has logged a line with this text since its last start.
    pub fn has_logged(&self, text: &str) -> bool {
        self.process.lines().iter().any(|line| line.contains(text))
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// The same server again, after it was killed.
    pub async fn restart(&mut self) {
        self.process = Self::spawn(self.address, self.keeps, self.directory.path());
        self.serving().await;
    }

    /// It keeps its connections and answers nothing, until `thaw`.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// One command on a connection of its own.
    pub async fn call(&self, command: &[&str]) -> Reply {
        let mut connection = Connection::open(self.address).await.expect("redis-server accepts");
        connection.call(command).await.expect("redis-server answers")
    }

    /// How often these commands were called since the server started, by `INFO commandstats`. Those
    /// that a script calls count too.
    pub async fn calls(&self, commands: &[&str]) -> u64 {
        let stats = self.call(&["INFO", "commandstats"]).await.into_text();
        let count = |command: &&str| -> Option<u64> {
            let rest = stats.split_once(&format!("cmdstat_{command}:calls="))?.1;
            rest.split(',').next()?.parse().ok()
        };
        commands.iter().filter_map(count).sum()
    }

    /// Makes it a copy of `primary` and waits until it has everything.
    pub async fn replicate(&self, primary: &Self) {
        let (host, port) = (primary.address.ip().to_string(), primary.address.port().to_string());
        assert_eq!(self.call(&["REPLICAOF", &host, &port]).await, Reply::text("OK"));
        eventually("the replica is in step", PATIENCE, async || {
            let info = self.call(&["INFO", "replication"]).await.into_text();
            info.contains("master_link_status:up").then_some(())
        })
        .await;
    }

    /// Makes a replica the master of what it has.
    pub async fn promote(&self) {
        assert_eq!(self.call(&["REPLICAOF", "NO", "ONE"]).await, Reply::text("OK"));
    }
}

/// Something that says that it is a certain version of Redis, and can do no more than that.
#[derive(Debug)]
pub struct Pretender {
    pub address: SocketAddr,
    asked: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Pretender {
    pub async fn start(version: &'static str) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let listener = TcpListener::bind(address).await.expect("the port was free");
        let asked = Arc::new(AtomicUsize::new(0));
        let (count, mut tasks) = (Arc::clone(&asked), JoinSet::new());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _from)) = listener.accept().await {
                connections.spawn(pretend(stream, version, Arc::clone(&count)));
            }
        });
        Self { address, asked, _tasks: tasks }
    }

    /// How often it was asked what it is.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

async fn pretend(stream: TcpStream, version: &str, asked: Arc<AtomicUsize>) {
    let mut connection = Connection { stream: BufReader::new(stream) };
    while let Ok(words) = connection.command().await {
        let mut words = words.into_iter();
        let answer = match words.next().unwrap_or_default().as_str() {
            "HELLO" if !version.starts_with("5.") => "%1\r\n+proto\r\n:3\r\n".to_owned(),
            "PING" => "+PONG\r\n".to_owned(),
            "INFO" => {
                asked.fetch_add(1, Ordering::Relaxed);
                let text = format!("# Server\r\nredis_version:{version}\r\n");
                format!("${}\r\n{text}\r\n", text.len())
            }
            "SUBSCRIBE" => {
                let channel = words.next().unwrap_or_default();
                format!(">3\r\n+subscribe\r\n${}\r\n{channel}\r\n:1\r\n", channel.len())
            }
            unknown => format!("-ERR unknown command `{unknown}`\r\n"),
        };
        if connection.stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// What Redis answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Text(String),
    Error(String),
    Number(i64),
    Nothing,
    Many(Vec<Reply>),
}

impl Reply {
    pub fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    /// The text of a reply that must be one.
    pub fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            other => panic!("not a text: {other:?}"),
        }
    }
}

/// A RESP2 connection, one command at a time.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub async fn open(server: SocketAddr) -> io::Result<Self> {
        Ok(Self { stream: BufReader::new(TcpStream::connect(server).await?) })
    }

    pub async fn call(&mut self, command: &[&str]) -> io::Result<Reply> {
        let mut request = format!("*{}\r\n", command.len());
        for part in command {
            request.push_str(&format!("${}\r\n{part}\r\n", part.len()));
        }
        self.stream.write_all(request.as_bytes()).await?;
        self.reply().await
    }

    /// What the other end commands: a list of words, or a line of them.
    async fn command(&mut self) -> io::Result<Vec<String>> {
        if self.stream.fill_buf().await?.starts_with(b"*") {
            let Reply::Many(words) = self.reply().await? else { return Err(malformed()) };
            return Ok(words.into_iter().map(Reply::into_text).collect());
        }
        let mut line = String::new();
        match self.stream.read_line(&mut line).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.split_whitespace().map(str::to_owned).collect()),
        }
    }

    /// The next reply; after `SUBSCRIBE`, the next message: `[message, channel, text]`.
    pub async fn reply(&mut self) -> io::Result<Reply> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        let rest = line.get(1..).unwrap_or_default();
        let number = || rest.parse::<i64>().map_err(|_error| malformed());
        match line.bytes().next() {
            Some(b'+') => Ok(Reply::text(rest)),
            Some(b'-') => Ok(Reply::Error(rest.to_owned())),
            Some(b':') => Ok(Reply::Number(number()?)),
            Some(b'$') => match usize::try_from(number()?) {
                Ok(size) => {
                    let mut bytes = vec![0; size + 2];
                    self.stream.read_exact(&mut bytes).await?;
                    bytes.truncate(size);
                    Ok(Reply::Text(String::from_utf8_lossy(&bytes).into_owned()))
                }
                Err(_negative) => Ok(Reply::Nothing),
            },
            Some(b'*') => {
                let Ok(count) = usize::try_from(number()?) else { return Ok(Reply::Nothing) };
                let mut many = Vec::with_capacity(count);
                for _ in 0..count {
                    many.push(Box::pin(self.reply()).await?);
                }
                Ok(Reply::Many(many))
            }
            _ => Err(malformed()),
        }
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not RESP2")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn data_that_was_answered_survives_a_kill_only_when_redis_keeps_it() {
        for (keeps, after) in
            [(Keeps::Everything, Reply::text("1")), (Keeps::Nothing, Reply::Nothing)]
        {
            let mut redis = Redis::start(keeps).await;
            assert_eq!(redis.call(&["SET", "a", "1"]).await, Reply::text("OK"));
            redis.kill();
            assert!(Connection::open(redis.address).await.is_err(), "a killed server accepts");
            redis.restart().await;
            assert_eq!(redis.call(&["GET", "a"]).await, after);
        }
    }

    #[tokio::test]
    async fn a_frozen_server_answers_when_it_thaws() {
        let redis = Redis::start(Keeps::Nothing).await;
        let mut connection = Connection::open(redis.address).await.expect("it accepts");
        redis.freeze();
        let mut ping = std::pin::pin!(connection.call(&["PING"]));
        let soon = Duration::from_millis(100);
        assert!(tokio::time::timeout(soon, &mut ping).await.is_err(), "it answers frozen");
        redis.thaw();
        assert_eq!(ping.await.expect("it answers"), Reply::text("PONG"));
    }

    #[tokio::test]
    async fn a_subscriber_hears_and_can_be_killed() {
        let redis = Redis::start(Keeps::Nothing).await;
        let mut connection = Connection::open(redis.address).await.expect("it accepts");
        connection.call(&["SUBSCRIBE", "c"]).await.expect("it answers");
        assert_eq!(redis.call(&["PUBLISH", "c", "hö"]).await, Reply::Number(1));
        let heard = ["message", "c", "hö"].map(Reply::text).to_vec();
        assert_eq!(connection.reply().await.expect("a message"), Reply::Many(heard));
        let killed = redis.call(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        assert_eq!(killed, Reply::Number(1));
        assert!(connection.reply().await.is_err(), "the connection lives");
        assert!(matches!(redis.call(&["NO-SUCH"]).await, Reply::Error(_)));
    }

    #[tokio::test]
    async fn a_promoted_replica_has_what_it_received() {
        let (primary, replica) =
            (Redis::start(Keeps::Nothing).await, Redis::start(Keeps::Nothing).await);
        primary.call(&["SET", "a", "1"]).await;
        replica.replicate(&primary).await;
        assert!(matches!(replica.call(&["SET", "a", "2"]).await, Reply::Error(_)));
        replica.promote().await;
        assert_eq!(replica.call(&["GET", "a"]).await, Reply::text("1"));
        assert_eq!(replica.call(&["SET", "a", "2"]).await, Reply::text("OK"));
    }
}
