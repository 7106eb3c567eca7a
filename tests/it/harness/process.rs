//! Child processes that cannot outlive the tests.
//!
//! `setpriv --pdeathsig` asks the kernel to kill the child when the *thread* that started it ends.
//! A test's own thread may end before a child that several tests share, so one thread that lives
//! as long as the process starts them all.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, mpsc},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::eventually;

type Job = (Command, mpsc::SyncSender<std::io::Result<Child>>);

static STARTER: LazyLock<mpsc::SyncSender<Job>> = LazyLock::new(|| {
    let (sender, jobs) = mpsc::sync_channel::<Job>(0);
    std::thread::spawn(move || {
        for (mut command, answer) in jobs {
            answer.send(command.spawn()).expect("the caller waits for the answer");
        }
    });
    sender
});

/// A child with its output collected line by line. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Process {
    /// Starts `program`, its environment cleared but for `PATH` and what `env` names.
    pub fn start(program: &str, args: &[OsString], env: &[(&str, &str)]) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", program]).args(args);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
        command.envs(env.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (answer, started) = mpsc::sync_channel(1);
        STARTER.send((command, answer)).expect("the starter lives as long as the process");
        let mut child = started
            .recv()
            .expect("the starter answers")
            .expect("setpriv (util-linux) can be started");
        let lines = Arc::default();
        let readers = vec![
            collect(child.stdout.take().expect("stdout is piped"), &lines),
            collect(child.stderr.take().expect("stderr is piped"), &lines),
        ];
        Self { name: program.to_owned(), child, lines, readers }
    }

    /// What it has written so far, standard output and error together.
    pub fn lines(&self) -> Vec<String> {
        lock(&self.lines).clone()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("a child that was not waited for takes signals");
    }

    /// The most resident memory it had so far, in bytes.
    pub fn memory_peak(&self) -> u64 {
        self.status("VmHWM") << 10
    }

    /// Open files that the kernel has a place for already.
    pub fn file_places(&self) -> u64 {
        self.status("FDSize")
    }

    fn status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("a child that was not waited for has a status");
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = value.and_then(|value| value.split_whitespace().next());
        number.and_then(|number| number.parse().ok()).expect("a number")
    }

    /// Kills it and waits until it is gone. What it wrote can still be read.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child that was not waited for takes signals");
        self.child.wait().expect("a killed child can be waited for");
    }

    pub fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("a child can be waited for")?;
        // The last lines may still be in the pipe.
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader does not panic");
        }
        Some(status)
    }

    /// The exit code, or `128 + signal` as a shell says it; and how long it took.
    pub async fn exit_code(&mut self, patience: Duration) -> (i32, Duration) {
        use std::os::unix::process::ExitStatusExt as _;
        let asked = Instant::now();
        let what = format!("{} exits", self.name);
        let status = eventually(&what, patience, async || self.exited()).await;
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        (code.expect("an ended process has a code or a signal"), asked.elapsed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
        if std::thread::panicking() {
            use std::io::Write as _;
            let lines = lock(&self.lines);
            let last = lines.iter().rev().take(40).rev().cloned().collect::<Vec<_>>().join("\n");
            let text = format!("--- last lines of {}\n{last}\n---\n", self.name);
            // A test is failing already; a closed stderr must not turn that into an abort.
            std::io::stderr().write_all(text.as_bytes()).ok();
        }
    }
}

fn collect(
    stream: impl Read + Send + 'static,
    lines: &Arc<Mutex<Vec<String>>>,
) -> std::thread::JoinHandle<()> {
    let lines = Arc::clone(lines);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            lock(&lines).push(String::from_utf8_lossy(&line).into_owned());
        }
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::PATIENCE;

    #[tokio::test]
    async fn a_process_is_heard_and_ends() {
        let args = ["-c", "echo out; echo err >&2; exit 7"].map(OsString::from);
        let mut shell = Process::start("sh", &args, &[]);
        assert_eq!(shell.exit_code(PATIENCE).await.0, 7);
        let mut lines = shell.lines();
        lines.sort();
        assert_eq!(lines, ["err", "out"]);
    }

    #[tokio::test]
    async fn a_process_is_killed_when_dropped() {
        let args = ["-c", "echo $$; exec sleep 600"].map(OsString::from);
        let shell = Process::start("sh", &args, &[]);
        let pid: i32 = eventually("the pid is written", PATIENCE, async || {
            shell.lines().first().and_then(|line| line.parse().ok())
        })
        .await;
        drop(shell);
        let pid = Pid::from_raw(pid).expect("a pid is not zero");
        assert!(rustix::process::test_kill_process(pid).is_err(), "it still runs");
    }
}
