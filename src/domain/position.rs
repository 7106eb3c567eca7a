//! Where something stands in the log, and when a node took it.

use std::{fmt, sync::Arc};

/// The id of one life of a log. A log that was lost begins a new epoch, and sequence numbers of
/// different epochs cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Epoch(Arc<str>);

impl Epoch {
    pub fn new(text: &str) -> Self {
        Self(Arc::from(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The place of a record in the log. `seq` starts at 1 and has no holes within an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Position {
    pub epoch: Epoch,
    pub seq: u64,
}

impl Position {
    /// A position as its `Display` writes it.
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, seq) = text.rsplit_once('-')?;
        let is_number = seq.bytes().all(|byte| byte.is_ascii_digit());
        let seq = seq.parse().ok().filter(|_| is_number && !epoch.is_empty())?;
        Some(Self { epoch: Epoch::new(epoch), seq })
    }
}

/// `<epoch>-<seq>`.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.seq)
    }
}

/// Milliseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_is_written() {
        let position = Position { epoch: Epoch::new("c5-d8"), seq: u64::MAX };
        assert_eq!(Position::parse(&position.to_string()), Some(position));
        for bad in ["", "-", "7", "-7", "e-", "e-+7", "e-7 ", "e-18446744073709551616", "e-1.2"] {
            assert_eq!(Position::parse(bad), None, "{bad:?}");
        }
    }
}
