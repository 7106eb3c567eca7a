//! The one task for connections in trouble: deadlines, farewells, and polling sessions that must
//! end.
//!
//! A healthy lane is never seen here.

pub mod inbox;

use std::sync::Arc;

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use socketioxide_core::Sid;
use tokio::time::Instant;
use tokio_util::time::DelayQueue;

use crate::transport::{
    close::CloseReason, lane::Lane, registry::Registry, supervisor::inbox::Work,
};

/// `end_polling` ends a polling session from outside, as its own client would.
pub async fn run<F>(registry: Registry, mut end_polling: F)
where
    F: FnMut(Sid) -> BoxFuture<'static, ()>,
{
    let (settings, inbox, tasks) = (registry.settings(), registry.inbox(), registry.tasks());
    let mut watched: DelayQueue<Arc<Lane>> = DelayQueue::new();
    let mut ending: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = tasks.stopping() => return,
            () = inbox.filled() => {
                let Work { lanes, farewells, sessions, .. } = inbox.take();
                for lane in lanes {
                    watched.insert(lane, settings.check_deadlines_every());
                }
                for farewell in farewells {
                    ending.push(Box::pin(farewell.run(settings.farewell_max)));
                }
                for sid in sessions {
                    ending.push(Box::pin(end_session(registry.clone(), sid, end_polling(sid))));
                }
            }
            Some(due) = watched.next(), if !watched.is_empty() => {
                let lane = due.into_inner();
                let (look_again, effects) = lane.check_deadlines(Instant::now(), settings);
                registry.carry_out(&lane, effects);
                if let Some(at) = look_again {
                    watched.insert_at(lane, at);
                }
            }
            Some(()) = ending.next(), if !ending.is_empty() => {
                inbox.finish_one();
                registry.somebody_left();
            }
        }
    }
}

async fn end_session(registry: Registry, sid: Sid, ended: BoxFuture<'static, ()>) {
    ended.await;
    // It may have upgraded just then, and does not poll any more.
    if registry.lane(sid).is_some() {
        registry.close(sid, CloseReason::SessionEnded);
    }
}
