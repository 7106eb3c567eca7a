//! Where the log goes: standard error, as text or as JSON lines.

use std::{collections::HashSet, io::IsTerminal};

use parking_lot::Mutex;
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::config::{Config, LogFormat};

/// The error for a filter that cannot be parsed.
#[derive(Debug, thiserror::Error)]
#[error(
    "error: --log '{filter}': {why}; expected info, warn, off, or a filter such as roomcast=debug,warn"
)]
pub struct BadFilter {
    filter: String,
    why: String,
}

/// Names that a warning was written for, so that a client cannot fill the log.
#[derive(Debug, Default)]
pub struct WarnOnce(Mutex<HashSet<String>>);

impl WarnOnce {
    /// Names that are remembered. Further names get no warning.
    const NAMES_MAX: usize = 100;
    /// Characters of a name that count.
    const NAME_CHARS_MAX: usize = 100;

    /// Whether a warning for this name is due: it is the first for it.
    pub fn is_first(&self, name: &str) -> bool {
        let mut names = self.0.lock();
        if names.len() >= Self::NAMES_MAX {
            return false;
        }
        let name: String = name.chars().take(Self::NAME_CHARS_MAX).collect();
        let is_first = names.insert(name);
        if is_first && names.len() == Self::NAMES_MAX {
            tracing::warn!("no further warnings of this kind are written until the next start");
        }
        is_first
    }
}

pub fn start(config: &Config) -> Result<(), BadFilter> {
    // These libraries log errors that the program handles and logs itself. A filter can enable
    // them.
    let filter = format!("fred=off,socketioxide=error,engineioxide=error,{}", config.log);
    let filter = EnvFilter::try_new(filter)
        .map_err(|why| BadFilter { filter: config.log.clone(), why: why.to_string() })?;
    let base = tracing_subscriber::registry().with(filter);
    let outcome = match config.log_format {
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal();
            base.with(fmt::layer().with_ansi(colours).with_writer(std::io::stderr)).try_init()
        }
        LogFormat::Json => base.with(fmt::layer().json().with_writer(std::io::stderr)).try_init(),
    };
    // A second server in one process, as in tests, writes to the first one's log.
    if let Err(already) = outcome {
        tracing::debug!(%already, "the log was set up before");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_warned_of_once_and_the_names_are_bounded() {
        let warned = WarnOnce::default();
        assert!(warned.is_first("a") && warned.is_first("b"));
        assert!(!warned.is_first("a") && !warned.is_first("b"));
        let first = (0..1_000).filter(|n| warned.is_first(&n.to_string())).count();
        assert_eq!(first, WarnOnce::NAMES_MAX - 2);
        assert!(!warned.is_first("z"));
    }
}
