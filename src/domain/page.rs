//! Which part of a room's history.

/// Messages are addressed by `seq`; both ends are exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// The newest messages.
    Newest,
    /// The newest messages with a smaller `seq`.
    Before(u64),
    /// The oldest messages with a larger `seq`.
    After(u64),
}
