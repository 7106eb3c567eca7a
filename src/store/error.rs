//! Why a port has no answer.

/// Why something could not be read, or a session not kept.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the message log cannot be reached: {0}")]
    Unavailable(String),
    #[error("the message log has a record that cannot be read: {0}")]
    Corrupt(String),
}
