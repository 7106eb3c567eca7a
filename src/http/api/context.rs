//! What every handler of the API has.

use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::keys::ApiKeys;
use crate::chat::{Chat, accounts::Accounts};

/// Reads of HTTP clients that this node does at a time.
const READS_MAX: usize = 64;

/// A clonable handle.
#[derive(Debug, Clone)]
pub struct Context {
    pub chat: Chat,
    pub keys: Arc<ApiKeys>,
    /// `None`: there are no accounts.
    pub accounts: Option<Accounts>,
    reads: Arc<Semaphore>,
}

impl Context {
    pub fn new(chat: Chat, keys: ApiKeys, accounts: Option<Accounts>) -> Self {
        Self { chat, keys: Arc::new(keys), accounts, reads: Arc::new(Semaphore::new(READS_MAX)) }
    }

    /// Hold the permit until the store has answered.
    pub async fn turn_to_read(&self) -> SemaphorePermit<'_> {
        self.reads.acquire().await.expect("the semaphore is never closed")
    }
}
