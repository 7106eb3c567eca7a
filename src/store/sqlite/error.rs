//! Why a data directory cannot be opened.

use std::{io, path::PathBuf};

/// Why the log cannot be opened, as a line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot use the data directory {}: {cause}", dir.display())]
    Directory { dir: PathBuf, cause: io::Error },
    #[error("the data directory {} is in use by another roomcast process", dir.display())]
    InUse { dir: PathBuf },
    #[error("cannot open the message log {file}: {cause}")]
    Database { file: String, cause: rusqlite::Error },
    #[error(
        "the message log {file} has version {found}, this program knows up to {known}: \
         start a newer roomcast"
    )]
    Newer { file: String, found: usize, known: usize },
    #[error("cannot start the writer's thread: {0}")]
    Thread(io::Error),
}
