//! The bounds of every connection, and what was counted since the start.

use std::{sync::atomic::AtomicU64, time::Duration};

/// The bounds of a lane, and how many flush tasks share the work.
#[derive(Debug, Clone, Copy)]
pub struct TransportSettings {
    /// Sessions at a time, polling or not. An upgrade is no other session.
    pub sessions_max: usize,
    /// Bytes that may wait for one client.
    pub backlog_bytes_max: usize,
    /// How long a client may take none of the bytes that wait for it.
    pub stall_max: Duration,
    /// How long the last bytes of a connection may take.
    pub farewell_max: Duration,
    /// Payload bytes of one message of a client.
    pub message_bytes_max: u64,
    /// Unanswered requests of one client, from which on its lane stops reading.
    pub in_flight_max: u32,
    /// How long a lane stops reading. Must be well below the ping timeout.
    pub read_pause_max: Duration,
    /// Flush tasks that run beside each other: one per core.
    pub flush_tasks: usize,
}

impl TransportSettings {
    /// No deadline of a lane is shorter. So a deadline that begins to run after one check is not
    /// over before the next.
    pub(super) fn check_deadlines_every(&self) -> Duration {
        self.stall_max.min(self.read_pause_max)
    }
}

impl Default for TransportSettings {
    fn default() -> Self {
        Self {
            sessions_max: 100_000,
            backlog_bytes_max: 1 << 20,
            stall_max: Duration::from_secs(15),
            farewell_max: Duration::from_secs(5),
            message_bytes_max: 64 << 10,
            in_flight_max: 256,
            read_pause_max: Duration::from_secs(10),
            flush_tasks: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// Counts since the start.
#[derive(Debug, Default)]
pub struct TransportCounters {
    /// Lanes that belonged to a session.
    pub opened: AtomicU64,
    pub closed: AtomicU64,
    pub cut_backlog: AtomicU64,
    pub cut_stall: AtomicU64,
    pub cut_too_large: AtomicU64,
    /// Polling sessions that were ended because their queue was full.
    pub polling_overrun: AtomicU64,
}
