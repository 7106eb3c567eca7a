//! The token of an account that comes with the upgrade of a polling session.
//!
//! A page of another port cannot send its cookie with the handshake of a polling session: scripts must
//! ask for that, and the frontends do not. A browser sends it with the websocket request that
//! upgrades the session, moments later. So the handshake waits a moment for that request. Only the
//! session's own client knows the session's id, so nobody else can upgrade it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use crate::transport::Sid;

/// How long a client that polls waits for its upgrade; one that does not upgrade waits as long.
const WAIT: Duration = Duration::from_millis(1_500);
/// How long a token that nobody waits for is kept, once there are many.
const KEPT: Duration = Duration::from_secs(30);
const MANY: usize = 1_024;

/// A clonable handle.
#[derive(Debug, Clone, Default)]
pub struct UpgradeProofs(Arc<Mutex<HashMap<Sid, Upgrade>>>);

#[derive(Debug)]
enum Upgrade {
    /// The handshake waits for the upgrade.
    Awaited(oneshot::Sender<Option<Arc<str>>>),
    /// The upgrade came before the handshake.
    Came { token: Option<Arc<str>>, at: Instant },
}

impl UpgradeProofs {
    /// A session is being upgraded, with this token in its cookie.
    pub fn upgraded(&self, sid: Sid, token: Option<&str>) {
        let token = token.map(Arc::from);
        let mut upgrades = self.0.lock();
        match upgrades.remove(&sid) {
            // The handshake may have stopped waiting.
            Some(Upgrade::Awaited(waiting)) => drop(waiting.send(token)),
            Some(Upgrade::Came { .. }) | None => {
                let now = Instant::now();
                if upgrades.len() >= MANY {
                    upgrades.retain(|_, upgrade| match upgrade {
                        Upgrade::Awaited(_) => true,
                        Upgrade::Came { at, .. } => now < *at + KEPT,
                    });
                }
                upgrades.insert(sid, Upgrade::Came { token, at: now });
            }
        }
    }

    /// The token in the cookie of the session's upgrade, if that comes in time.
    pub async fn token(&self, sid: Sid) -> Option<Arc<str>> {
        let coming = {
            let mut upgrades = self.0.lock();
            if let Some(Upgrade::Came { token, .. }) = upgrades.remove(&sid) {
                return token;
            }
            let (sender, coming) = oneshot::channel();
            upgrades.insert(sid, Upgrade::Awaited(sender));
            coming
        };
        let token = timeout(WAIT, coming).await;
        self.0.lock().remove(&sid);
        token.ok()?.ok()?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_token_of_an_upgrade_is_found_whichever_comes_first() {
        let (proofs, sid) = (UpgradeProofs::default(), Sid::new());
        proofs.upgraded(sid, Some("t"));
        assert_eq!(proofs.token(sid).await.as_deref(), Some("t"));
        let later = async {
            tokio::time::sleep(WAIT / 2).await;
            proofs.upgraded(sid, Some("u"));
        };
        assert_eq!(tokio::join!(proofs.token(sid), later).0.as_deref(), Some("u"));
        let began = Instant::now();
        assert_eq!(proofs.token(sid).await, None);
        assert_eq!(began.elapsed(), WAIT);
        proofs.upgraded(sid, None);
        assert_eq!(proofs.token(sid).await, None, "the upgrade has no cookie");
        assert_eq!(began.elapsed(), WAIT, "and so nothing is waited for");
        assert!(proofs.0.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_that_nobody_waits_for_do_not_stay() {
        let proofs = UpgradeProofs::default();
        for _ in 0..MANY {
            proofs.upgraded(Sid::new(), None);
        }
        tokio::time::sleep(KEPT).await;
        proofs.upgraded(Sid::new(), None);
        assert_eq!(proofs.0.lock().len(), 1);
    }
}
