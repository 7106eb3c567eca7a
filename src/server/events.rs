//! The rule table of this node: read from its file, checked against the flags, printed.

use std::{io, path::Path};

use crate::{
    config::Config,
    dialects::events::{
        mistakes::TableError,
        table::{Profile, Table},
    },
};

/// Why there is no rule table. The operator reads this text.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    #[error("cannot read {file}: {error}")]
    Unreadable { file: String, error: io::Error },
    #[error(transparent)]
    Mistakes(#[from] TableError),
    #[error("{flag} names the profile '{name}', which is not there; there are: {known}")]
    NoProfile { flag: &'static str, name: String, known: String },
}

/// The rule table that is in force with these flags.
pub fn load(config: &Config) -> Result<Table, EventsError> {
    let table = config.events_file().map_or_else(|| Ok(Table::builtin()), read)?;
    for (flag, name) in config.named_profiles() {
        let known: Vec<&str> = table.profiles().map(Profile::name).collect();
        if !known.contains(&name) {
            let (name, known) = (name.to_owned(), known.join(", "));
            return Err(EventsError::NoProfile { flag, name, known });
        }
    }
    Ok(table)
}

/// Says of a file with rules that it has no mistake, and how many rows and profiles are in force
/// with it.
pub fn check(file: &Path) -> Result<String, EventsError> {
    let table = read(file)?;
    let (rows, profiles) = (table.rows(), table.profiles().count());
    Ok(format!("{}: {rows} rows, {profiles} profiles: fine", file.display()))
}

fn read(file: &Path) -> Result<Table, EventsError> {
    let name = file.display().to_string();
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Table::parse(&text, &name)?),
        Err(error) => Err(EventsError::Unreadable { file: name, error }),
    }
}
