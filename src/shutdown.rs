//! Tasks and their owners, and the signal to stop.
//!
//! Every task belongs to a `Tasks`; it ends with its input or at `stopping()`, and `finished()`
//! tells when the last one has.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A clonable owner of tasks.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    /// The runtime of the tasks; `None`: the one that spawns them.
    runtime: Option<Handle>,
}

impl Tasks {
    /// The same owner, with its tasks on another runtime.
    pub fn on(&self, runtime: &Handle) -> Self {
        Self { runtime: Some(runtime.clone()), ..self.clone() }
    }

    /// `name` is for the reader of a trace.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let task = async move {
            task.await;
            tracing::trace!(task = name, "task ended");
        };
        match &self.runtime {
            Some(runtime) => self.tracker.spawn_on(task, runtime),
            None => self.tracker.spawn(task),
        };
    }

    /// A task that the node cannot work without: when it panics the process ends, so that its
    /// supervisor starts it anew. A node that is ready and delivers nothing would be worse.
    pub fn spawn_vital(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(name, async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                end_process(name);
            }
        });
    }

    pub fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
    }

    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits until every task has ended; only after `stop`.
    pub async fn finished(&self) {
        self.tracker.wait().await;
    }
}

/// Ends the process after a panic whose message is on standard error already.
pub fn end_process(name: &'static str) -> ! {
    /// `EX_SOFTWARE` of sysexits.h.
    const INTERNAL_ERROR: i32 = 70;
    tracing::error!(task = name, "a vital task panicked; the process ends");
    std::process::exit(INTERNAL_ERROR);
}
