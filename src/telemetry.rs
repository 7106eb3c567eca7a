//! Where the log goes: standard error, as text or as JSON lines.

use std::io::IsTerminal;

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
