//! What every handler of accounts has.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::chat::accounts::Accounts;

/// Largest body: a picture of 1 MiB is 1.4 MiB in base64, and has a text beside it.
pub const BODY_BYTES_MAX: usize = 2 << 20;
/// Larger bodies than `SMALL_BODY_BYTES_MAX` that a node reads at a time.
const LARGE_BODIES_MAX: usize = 16;
pub const SMALL_BODY_BYTES_MAX: usize = 64 << 10;

/// A clonable handle.
#[derive(Debug, Clone)]
pub struct AccountsContext {
    pub accounts: Accounts,
    pub large_bodies: Arc<Semaphore>,
}

impl AccountsContext {
    pub fn new(accounts: Accounts) -> Self {
        Self { accounts, large_bodies: Arc::new(Semaphore::new(LARGE_BODIES_MAX)) }
    }
}
