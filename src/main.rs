//! The life of the process: parse, start, serve until told to stop, exit.
//!
//! Exit codes: 0 stopped as told, 1 could not start or a checked file has mistakes, 64 wrong
//! configuration, 70 a vital task panicked.

use std::{
    io::{self, Write},
    os::unix::net::UnixDatagram,
    process::ExitCode,
};

use roomcast::{
    config::{Command, Config, EventsCommand, Refusal},
    server::{self, Server},
    telemetry,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

const BAD_CONFIGURATION: u8 = 64;
/// Open files that are no client: listeners, the database, connections to Redis.
const OTHER_FILES: u64 = 64;
/// Tasks that a thread runs before it looks for new I/O events. With tokio's default of 61,
/// connected clients wait a tenth of a second when ten thousand come back at once.
const EVENT_INTERVAL: u32 = 8;

fn main() -> ExitCode {
    let config = match Config::from_args(std::env::args_os()) {
        Ok(config) => config,
        Err(Refusal::Told(text)) => return say(io::stdout(), text.trim_end(), 0),
        Err(Refusal::Bad(line)) => return say(io::stderr(), &line, BAD_CONFIGURATION),
    };
    if let Some(Command::Events { command }) = &config.command {
        return events(&config, command.as_ref());
    }
    if let Err(refusal) = telemetry::start(&config) {
        return say(io::stderr(), &refusal.to_string(), BAD_CONFIGURATION);
    }
    raise_open_files(u64::from(config.connections_max));
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = match runtime.event_interval(EVENT_INTERVAL).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return say(io::stderr(), &format!("error: no runtime: {error}"), 1),
    };
    let code = runtime.block_on(run(&config));
    // What still blocks after the deadline must not keep the process.
    runtime.shutdown_background();
    code
}

/// Prints the rule table that is in force, or checks a file with rules.
fn events(config: &Config, command: Option<&EventsCommand>) -> ExitCode {
    match command {
        None => match server::events::load(config) {
            Ok(table) => say(io::stdout(), table.to_toml().trim_end(), 0),
            Err(error) => say(io::stderr(), &error.to_string(), BAD_CONFIGURATION),
        },
        Some(EventsCommand::Check { file }) => match server::events::check(file) {
            Ok(line) => say(io::stdout(), &line, 0),
            Err(error) => say(io::stderr(), &error.to_string(), 1),
        },
    }
}

async fn run(config: &Config) -> ExitCode {
    let (mut terminate, mut interrupt) =
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            (Err(error), _) | (_, Err(error)) => {
                return say(io::stderr(), &format!("error: no signals: {error}"), 1);
            }
        };
    let server = match Server::start(config).await {
        Ok(server) => server,
        Err(error) => {
            let code = if error.is_configuration() { BAD_CONFIGURATION } else { 1 };
            return say(io::stderr(), &format!("error: {error}"), code);
        }
    };
    told_to_stop(&mut terminate, &mut interrupt).await;
    tokio::select! {
        () = server.stop(config.stop_deadline) => {}
        () = told_to_stop(&mut terminate, &mut interrupt) => {
            tracing::warn!("told twice to stop: exiting at once");
        }
    }
    ExitCode::SUCCESS
}

/// Every connection is an open file, and the usual soft limit is 1 024.
fn raise_open_files(connections_max: u64) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    let open_files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if open_files < connections_max + OTHER_FILES {
        tracing::warn!(
            open_files,
            connections_max,
            "the limit of open files is too low for --connections-max; raise it with ulimit -n"
        );
    }
    if let Err(error) = make_room(open_files.min(connections_max + OTHER_FILES)) {
        tracing::debug!(%error, "the table of open files grows as it must");
    }
}

/// The kernel doubles a process's table of open files when it is full; the thread that opens the
/// next file waits for that, up to tens of milliseconds. So the table gets its size at the start.
fn make_room(open_files: u64) -> io::Result<()> {
    let last = i32::try_from(open_files.saturating_sub(1)).unwrap_or(i32::MAX);
    let last = rustix::io::fcntl_dupfd_cloexec(UnixDatagram::unbound()?, last)?;
    drop(last);
    Ok(())
}

async fn told_to_stop(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// A closed pipe is no reason for another kind of failure.
fn say(mut to: impl Write, text: &str, code: u8) -> ExitCode {
    if writeln!(to, "{text}").is_err() {
        return ExitCode::from(1);
    }
    ExitCode::from(code)
}
