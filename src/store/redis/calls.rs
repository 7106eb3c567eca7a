//! Calls to Redis that a caller waits for: they return in time, with a reply or an error.

use fred::{
    clients::Client,
    error::Error,
    interfaces::ClientLike,
    types::{Value, scripts::Script},
};
use tokio::time::timeout;

use crate::store::error::ReadError;
use crate::store::redis::{
    link::{COMMAND_TIMEOUT, Status},
    scripts,
};

#[derive(Debug, Clone)]
pub struct Caller {
    pub client: Client,
    pub status: Status,
}

impl Caller {
    pub async fn run(
        &self,
        script: &Script,
        keys: Vec<String>,
        arguments: Vec<String>,
    ) -> Result<Vec<Value>, ReadError> {
        self.ask(scripts::run(&self.client, script, keys, arguments)).await
    }

    pub async fn ask<T>(
        &self,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, ReadError> {
        if !self.is_up() {
            return Err(away());
        }
        let reply = timeout(COMMAND_TIMEOUT, call).await.map_err(|_elapsed| away())?;
        reply.map_err(|error| ReadError::Unavailable(error.to_string()))
    }

    pub fn is_up(&self) -> bool {
        self.status.commands_work() && self.client.is_connected()
    }
}

pub fn away() -> ReadError {
    ReadError::Unavailable("Redis is away".to_owned())
}

/// A reply that is not what the script answers: a Redis or a proxy that speaks otherwise.
pub fn strange(script: &str) -> ReadError {
    ReadError::Corrupt(format!("{script} answered in an unknown shape"))
}
