//! What an operator can set: flags, each with an environment variable, and their bounds.
//!
//! This is the only file that reads the environment. A wrong value ends the program with code 64
//! and one line that names the flag, the value and what is allowed. Secrets are masked when shown.

pub mod redis_url;
pub mod values;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Parser, Subcommand, ValueEnum, error::ErrorKind};

use self::{
    redis_url::RedisUrl,
    values::{ListenAddress, duration, listener, origin, path, prefix, size, socket_path},
};

/// A chat server that any socket.io-client can talk to, one node or many over Redis.
#[derive(Debug, Clone, Parser)]
#[command(name = "roomcast", version, max_term_width = 100)]
pub struct Config {
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Address to serve on, and after = the profile of its connections; repeat the flag for several
    /// [default: 0.0.0.0:9000]
    #[arg(
        long = "listen",
        value_name = "ADDR[=PROFILE]",
        env = "ROOMCAST_LISTEN",
        value_delimiter = ',',
        value_parser = listener,
        help_heading = "Serving"
    )]
    listen: Vec<ListenAddress>,

    /// Port that hosting platforms assign; used when no --listen is given
    #[arg(long, value_name = "PORT", env = "PORT", help_heading = "Serving", hide = true)]
    port: Option<u16>,

    /// Web origin that may connect, such as https://chat.example.org, or * for any; repeat for
    /// several [default: same origin and localhost]
    #[arg(
        long = "cors-origin",
        value_name = "ORIGIN",
        env = "ROOMCAST_CORS_ORIGIN",
        value_delimiter = ',',
        value_parser = origin,
        help_heading = "Serving"
    )]
    pub cors_origins: Vec<String>,

    /// Directory of your own page, whose index.html is served at /; the chat page is then at
    /// /roomcast/
    #[arg(
        long = "static",
        value_name = "DIR",
        env = "ROOMCAST_STATIC",
        value_parser = path,
        help_heading = "Serving"
    )]
    static_dir: Option<PathBuf>,

    /// Path of Socket.IO, with the client bundle beside it; clients name it in their option path
    #[arg(long, value_name = "PATH", env = "ROOMCAST_SOCKET_PATH", default_value = "/socket.io/",
          value_parser = socket_path, help_heading = "Serving")]
    pub socket_path: String,

    /// Transports offered to clients
    #[arg(
        long,
        value_name = "LIST",
        env = "ROOMCAST_TRANSPORTS",
        value_delimiter = ',',
        default_value = "polling,websocket",
        help_heading = "Serving"
    )]
    pub transports: Vec<Transport>,

    /// How often a client is pinged
    #[arg(long, value_name = "TIME", env = "ROOMCAST_PING_INTERVAL", default_value = "25s",
          value_parser = duration, help_heading = "Serving")]
    pub ping_interval: Duration,

    /// How long a client may take to answer a ping
    #[arg(long, value_name = "TIME", env = "ROOMCAST_PING_TIMEOUT", default_value = "20s",
          value_parser = duration, help_heading = "Serving")]
    pub ping_timeout: Duration,

    /// How long a stopping node waits for its connections to end
    #[arg(long, value_name = "TIME", env = "ROOMCAST_STOP_DEADLINE", default_value = "10s",
          value_parser = duration, help_heading = "Serving")]
    pub stop_deadline: Duration,

    /// File with rules for the events of frontends, which are added to the built-in ones or stand in
    /// their place
    #[arg(
        long,
        value_name = "FILE",
        env = "ROOMCAST_EVENTS",
        global = true,
        help_heading = "Frontends"
    )]
    events: Option<String>,

    /// Profile of the rule table for connections that name none [default: plain]
    #[arg(long, value_name = "NAME", env = "ROOMCAST_PROFILE", help_heading = "Frontends")]
    profile: Option<String>,

    /// Accounts with email address and password, for frontends that sign up and log in by REST
    #[arg(
        long,
        value_name = "on|off",
        env = "ROOMCAST_ACCOUNTS",
        default_value = "off",
        help_heading = "Frontends"
    )]
    accounts: Switch,

    /// Where one node without Redis keeps its messages: a directory, or "memory" to keep nothing
    #[arg(
        long,
        value_name = "DIR",
        env = "ROOMCAST_DATA",
        default_value = "./data",
        help_heading = "Storage"
    )]
    pub data: String,

    /// Redis shared by all nodes: redis://, rediss:// or unix: with optional user and password
    /// [env: also REDIS_URL]
    #[arg(
        long,
        value_name = "URL",
        env = "ROOMCAST_REDIS",
        hide_env_values = true,
        help_heading = "Storage"
    )]
    redis: Option<String>,

    /// The variable that hosting platforms set.
    #[arg(long, env = "REDIS_URL", hide = true, hide_env_values = true)]
    redis_url: Option<String>,

    /// What the names of all keys and channels in Redis begin with
    #[arg(long, value_name = "TEXT", env = "ROOMCAST_REDIS_PREFIX", default_value = "rc",
          value_parser = prefix, help_heading = "Storage")]
    pub redis_prefix: String,

    /// Number of independent sequences in Redis; the same on every node, and for good. With more
    /// than 8, a client with rooms in several of them begins a new session when it comes back
    #[arg(long, value_name = "N", env = "ROOMCAST_PARTITIONS", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=64), help_heading = "Storage")]
    pub partitions: u16,

    /// Messages kept per room
    #[arg(long, value_name = "N", env = "ROOMCAST_HISTORY_MAX", default_value_t = 10_000,
          value_parser = clap::value_parser!(u32).range(1..=10_000_000), help_heading = "Storage")]
    pub history_max: u32,

    /// How long a room's messages are kept
    #[arg(long, value_name = "TIME", env = "ROOMCAST_HISTORY_TTL", default_value = "30d",
          value_parser = duration, help_heading = "Storage")]
    pub history_ttl: Duration,

    /// How long a client that lost its connection can come back and get what it missed; the log
    /// that nodes catch up from keeps every message as long, and at most the last million
    #[arg(long, value_name = "TIME", env = "ROOMCAST_RECOVERY_WINDOW", default_value = "2m",
          value_parser = duration, help_heading = "Storage")]
    pub recovery_window: Duration,

    /// How long a repeated message id is recognised as a retry
    #[arg(long, value_name = "TIME", env = "ROOMCAST_IDEMPOTENCY_WINDOW", default_value = "2m",
          value_parser = duration, help_heading = "Storage")]
    pub idempotency_window: Duration,

    /// File with the API keys of backends, one name:key a line; read once, at the start
    #[arg(
        long,
        value_name = "FILE",
        env = "ROOMCAST_API_KEY_FILE",
        value_parser = path,
        help_heading = "Serving"
    )]
    api_key_file: Option<PathBuf>,

    /// Largest message
    #[arg(long, value_name = "SIZE", env = "ROOMCAST_MESSAGE_BYTES_MAX", default_value = "32KiB",
          value_parser = size, help_heading = "Limits")]
    pub message_bytes_max: usize,

    /// Largest packet of a transport; above it the connection is closed
    #[arg(long, value_name = "SIZE", env = "ROOMCAST_TRANSPORT_BYTES_MAX",
          default_value = "128KiB", value_parser = size, help_heading = "Limits")]
    pub transport_bytes_max: usize,

    /// Messages of one connection that may wait for their ack; a websocket is not read above half
    /// of it, or 1024
    #[arg(long, value_name = "N", env = "ROOMCAST_IN_FLIGHT_MAX", default_value_t = 8_192,
          value_parser = clap::value_parser!(u32).range(1..=65_536), help_heading = "Limits")]
    pub in_flight_max: u32,

    /// Rooms that one connection may be in
    #[arg(long, value_name = "N", env = "ROOMCAST_ROOMS_MAX", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=10_000), help_heading = "Limits")]
    pub rooms_max: u32,

    /// Sessions of this node: connected clients, whatever their transport
    #[arg(long, value_name = "N", env = "ROOMCAST_CONNECTIONS_MAX", default_value_t = 100_000,
          value_parser = clap::value_parser!(u32).range(1..=10_000_000), help_heading = "Limits")]
    pub connections_max: u32,

    /// What is logged: error, warn, info, debug, trace, off, or a filter such as
    /// roomcast=debug,warn
    #[arg(
        long,
        value_name = "FILTER",
        env = "ROOMCAST_LOG",
        default_value = "info",
        help_heading = "Logging"
    )]
    pub log: String,

    /// How it is written to standard error
    #[arg(
        long,
        value_name = "FORMAT",
        env = "ROOMCAST_LOG_FORMAT",
        default_value = "text",
        help_heading = "Logging"
    )]
    pub log_format: LogFormat,
}

/// What the program does instead of serving.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Print the rule table that is in force
    Events {
        #[command(subcommand)]
        command: Option<EventsCommand>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum EventsCommand {
    /// Check a file with rules, and explain each mistake with its line
    Check { file: PathBuf },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    Polling,
    Websocket,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Where messages are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    Memory,
    Dir(PathBuf),
    Redis(RedisUrl),
}

/// Why the program does not start, or the text that it was asked to print.
#[derive(Debug)]
pub enum Refusal {
    /// Help or version: text for standard output, exit code 0.
    Told(String),
    /// One line for standard error, exit code 64.
    Bad(String),
}

impl Config {
    pub fn from_args(
        args: impl IntoIterator<Item = impl Into<std::ffi::OsString> + Clone>,
    ) -> Result<Self, Refusal> {
        let config = Self::try_parse_from(args).map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                Refusal::Told(error.render().to_string())
            }
            _ => Refusal::Bad(one_line(&error)),
        })?;
        config.check().map_err(Refusal::Bad)?;
        Ok(config)
    }

    /// Checks rules that involve several flags.
    fn check(&self) -> Result<(), String> {
        if let Some(url) = self.redis_text() {
            RedisUrl::parse(url).map_err(|why| format!("error: --redis: {why}"))?;
        }
        if self.transport_bytes_max < self.message_bytes_max {
            return Err(format!(
                "error: --transport-bytes-max {} is smaller than --message-bytes-max {}: a \
                 message must fit into a packet",
                self.transport_bytes_max, self.message_bytes_max
            ));
        }
        Ok(())
    }

    pub fn listeners(&self) -> Vec<ListenAddress> {
        if self.listen.is_empty() {
            let address = SocketAddr::from(([0, 0, 0, 0], self.port.unwrap_or(9000)));
            vec![ListenAddress { address, profile: None }]
        } else {
            self.listen.clone()
        }
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners().into_iter().map(|listener| listener.address).collect()
    }

    /// The file with rules for events.
    pub fn events_file(&self) -> Option<&Path> {
        self.events.as_deref().filter(|path| !path.is_empty()).map(Path::new)
    }

    pub fn has_accounts(&self) -> bool {
        self.accounts == Switch::On
    }

    /// The profile for connections that name none. `None`: the default one.
    pub fn profile(&self) -> Option<&str> {
        self.profile.as_deref().filter(|name| !name.is_empty())
    }

    /// The profiles that flags name, each with its flag.
    pub fn named_profiles(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let pinned = self.listen.iter().filter_map(|listener| listener.profile.as_deref());
        let pinned = pinned.map(|name| ("--listen", name));
        pinned.chain(self.profile().map(|name| ("--profile", name)))
    }

    pub fn storage(&self) -> Storage {
        match self.redis_text().and_then(|url| RedisUrl::parse(url).ok()) {
            Some(url) => Storage::Redis(url),
            None if self.data == "memory" => Storage::Memory,
            None => Storage::Dir(PathBuf::from(&self.data)),
        }
    }

    pub fn api_key_file(&self) -> Option<&Path> {
        self.api_key_file.as_deref().filter(|path| !path.as_os_str().is_empty())
    }

    pub fn static_dir(&self) -> Option<&Path> {
        self.static_dir.as_deref().filter(|dir| !dir.as_os_str().is_empty())
    }

    /// An empty variable counts as not set, as compose files pass unset ones.
    fn redis_text<'a>(&'a self) -> Option<&'a str> {
        let set = |url: &'a Option<String>| url.as_deref().filter(|url| !url.is_empty());
        set(&self.redis).or_else(|| set(&self.redis_url))
    }
}

/// clap explains an error over several lines; an operator's log needs one.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let kept: Vec<&str> = lines
        .take_while(|line| !line.starts_with("For more") && !line.starts_with("Usage:"))
        .collect();
    kept.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, String> {
        let args = std::iter::once("roomcast").chain(args.iter().copied());
        Config::from_args(args).map_err(|refusal| match refusal {
            Refusal::Told(text) | Refusal::Bad(text) => text,
        })
    }

    #[test]
    fn a_wrong_value_is_one_line_with_flag_value_and_what_is_allowed() {
        let line = parse(&["--ping-interval", "soon"]).unwrap_err();
        assert!(!line.contains('\n'), "{line}");
        assert!(line.contains("--ping-interval") && line.contains("soon"), "{line}");
        assert!(line.contains("25s"), "{line}");
        let line = parse(&["--transports", "pigeon"]).unwrap_err();
        assert!(line.contains("polling, websocket") && !line.contains('\n'), "{line}");
        let line = parse(&["--partitions", "65"]).unwrap_err();
        assert!(line.contains("1..=64"), "{line}");
    }

    #[test]
    fn a_socket_path_begins_and_ends_with_a_slash() {
        let path = |text: &str| parse(&["--socket-path", text]).map(|config| config.socket_path);
        assert_eq!(parse(&[]).unwrap().socket_path, "/socket.io/");
        for (text, expected) in
            [("/chat", "/chat/"), ("/chat/", "/chat/"), ("/a/b-c_d.e~f", "/a/b-c_d.e~f/")]
        {
            assert_eq!(path(text).as_deref(), Ok(expected), "{text}");
        }
        for text in ["", "/", "chat", "//", "/a//b", "/../x", "/{x}", "/a b", "/api/v1", "/healthz"]
        {
            let line = path(text).unwrap_err();
            assert!(line.contains("--socket-path") && line.contains("/socket.io/"), "{line}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let url = RedisUrl::parse("redis://user:s3cret@db:6379/0").unwrap();
        assert_eq!(format!("{url} {url:?}"), "redis://***@db:6379/0 redis://***@db:6379/0");
        let refused = parse(&["--redis", "http://user:s3cret@db"]).unwrap_err();
        assert!(refused.contains("--redis") && !refused.contains("s3cret"), "{refused}");
    }

    #[test]
    fn an_empty_path_counts_as_not_set() {
        let config = parse(&["--api-key-file", "", "--static", ""]).unwrap();
        assert_eq!((config.api_key_file(), config.static_dir()), (None, None));
        let config = parse(&["--api-key-file", "keys"]).unwrap();
        assert_eq!(config.api_key_file(), Some(Path::new("keys")));
    }

    #[test]
    fn a_command_stands_beside_the_flags() {
        let events = |command| Some(Command::Events { command });
        for args in [&["events", "--events", "a"][..], &["--events", "a", "events"]] {
            let config = parse(args).unwrap();
            assert_eq!(
                (config.command.clone(), config.events_file()),
                (events(None), Some("a".as_ref()))
            );
        }
        let config = parse(&["events", "check", "rules.toml"]).unwrap();
        let check = EventsCommand::Check { file: "rules.toml".into() };
        assert_eq!(config.command, events(Some(check)));
        assert_eq!(parse(&["--data", "memory"]).unwrap().command, None);
        assert!(parse(&["event"]).unwrap_err().contains("event"));
        assert!(!parse(&["events", "check"]).unwrap_err().contains('\n'));
        let config = parse(&["--profile", "", "--events", ""]).unwrap();
        assert_eq!((config.profile(), config.events_file()), (None, None));
    }

    #[test]
    fn several_addresses_or_the_default() {
        let config = parse(&["--listen", "127.0.0.1:1", "--listen", "127.0.0.1:2"]).unwrap();
        assert_eq!(config.addresses().len(), 2);
        let config = parse(&["--listen", "[::1]:8000=turbo,127.0.0.1:2"]).unwrap();
        let pinned: Vec<_> =
            config.listeners().into_iter().map(|listener| listener.profile).collect();
        assert_eq!(pinned, [Some("turbo".to_owned()), None]);
        assert_eq!(config.named_profiles().collect::<Vec<_>>(), [("--listen", "turbo")]);
        assert!(parse(&["--listen", "127.0.0.1:2="]).unwrap_err().contains("a profile after ="));
        let line = parse(&["--message-bytes-max", "1MiB"]).unwrap_err();
        assert!(line.contains("--transport-bytes-max"), "{line}");
    }
}
