//! Why a request is refused, and the bounds of requests.

/// Stable words for programs; clients branch on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    BadRequest,
    TooLarge,
    NotJoined,
    /// It is not this user's to do.
    Forbidden,
    NotFound,
    TooMany,
    Taken,
    Busy,
    Unavailable,
    Unconfirmed,
}

impl Code {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::TooLarge => "too_large",
            Self::NotJoined => "not_joined",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::TooMany => "too_many",
            Self::Taken => "taken",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::Unconfirmed => "unconfirmed",
        }
    }
}

/// Why a request is not done, in words for the person who wrote the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    pub code: Code,
    pub message: String,
}

impl Reject {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of JSON in one message.
    pub message_bytes_max: usize,
    /// Messages that may wait for their ack.
    pub in_flight_max: u32,
    /// Rooms that one client may be in.
    pub rooms_max: usize,
}
