//! Which part of a room's history a client asks for.

/// Messages in one page of history or of what was found, at most and by default.
pub const PAGE_LIMIT_MAX: u32 = 200;
pub const PAGE_LIMIT_DEFAULT: u32 = 50;

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
