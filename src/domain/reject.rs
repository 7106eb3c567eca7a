//! Why a request is refused.

/// A stable word for programs: clients branch on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(utoipa::ToSchema), schema(rename_all = "snake_case"))]
pub enum Code {
    BadRequest,
    TooLarge,
    NotJoined,
    /// This user may not do it.
    Forbidden,
    NotFound,
    TooMany,
    Taken,
    /// The same id was used for another message.
    Conflict,
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
            Self::Conflict => "conflict",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::Unconfirmed => "unconfirmed",
        }
    }
}

/// The refusal of a request: the code for the program, the message for its programmer.
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
