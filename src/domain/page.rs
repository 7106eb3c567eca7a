//! Which part of a room's history a client asks for.

/// A page of messages, by `seq`. The bound itself is not part of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// The newest messages.
    Newest,
    /// The newest messages with a smaller `seq`.
    Before(u64),
    /// The oldest messages with a larger `seq`.
    After(u64),
}
