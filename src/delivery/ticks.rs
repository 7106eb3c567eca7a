//! Events that all connections of a dialect get again and again, as its rule table says.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::broadcaster::Broadcaster;
use crate::{dialects::DialectId, random, shutdown::Tasks};

/// Emits one of these events until the node stops. Nodes begin at different moments, so that they
/// do not all emit at once.
pub async fn emit(
    broadcaster: Broadcaster,
    dialect: DialectId,
    index: usize,
    period: Duration,
    tasks: Tasks,
) {
    let mut ticks = interval_at(Instant::now() + random::below(period), period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => broadcaster.tick(dialect, index).await,
            () = tasks.stopping() => return,
        }
    }
}
