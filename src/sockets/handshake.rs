//! The handshake: which user a client is, which dialect it speaks, and how it leaves the namespace.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use socketioxide::{
    TransportType,
    extract::{SocketRef, TryData},
    handler::DisconnectHandler,
    socket::{DisconnectReason, Socket},
};

use tokio::time::{Instant, sleep_until, timeout_at};

use super::{
    CONNECT_TIMEOUT, Sockets,
    auth::{Auth, BadToken},
    requests::Events,
};
use crate::{
    chat::{Arrival, Connection, user_of_token},
    delivery::subscriptions::Recipient,
    dialects::DialectId,
    random,
    store::{Health, sessions::SessionKey},
    transport::{Sid, adapter::Adapter, close::CloseReason},
};

/// How long a client waits whose session cannot be read: at least the first, and up to the second
/// longer, at random. To a client its transport was open, so it begins its own waits anew: turned
/// away at once, all clients would come about once per second, together.
const WAIT_MIN: Duration = Duration::from_secs(4);
const WAIT_SPREAD: Duration = Duration::from_secs(5);
/// How long a client that is turned away may take to close its connection.
const GOING_MAX: Duration = Duration::from_secs(5);

/// Why a client was not admitted; the client gets this text with `connect_error`.
#[derive(Debug, thiserror::Error)]
pub enum NotAdmitted {
    #[error("bad_request: auth is {{token?, pid?, offset?}}: {0}")]
    Auth(String),
    #[error("bad_request: {0}")]
    Token(#[from] BadToken),
    #[error("bad_request: there is no profile or dialect '{asked}'; there are {known}")]
    Dialect { asked: String, known: String },
    #[error("unavailable: try again")]
    TurnedAway,
}

impl Sockets {
    /// Runs before the client is told that it is connected, so no event can come too early.
    pub(super) async fn admit(
        self: &Arc<Self>,
        socket: &SocketRef<Adapter>,
        auth: TryData<Auth>,
    ) -> Result<(), NotAdmitted> {
        if self.tasks.is_stopping() {
            return Err(self.turn_away(socket.id, CloseReason::GoingAway).await);
        }
        let auth = auth.0.map_err(|why| NotAdmitted::Auth(why.to_string()))?;
        let token = auth.token()?;
        let recipient = Recipient { sid: socket.id, dialect: self.dialect(socket)? };
        // A client without a token is identified by its session's key.
        let user = |key: &SessionKey| user_of_token(token.unwrap_or(key.as_str()));
        // The end of a polling client is noticed only when a ping is due.
        let polls = socket.transport_type() == TransportType::Polling;
        let is_here = || polls || self.registry.lane(socket.id).is_some();
        let until = Instant::now() + WAIT_MIN + random::below(WAIT_SPREAD);
        let (connection, key) = loop {
            let returning = auth.returning();
            let arrival = Arrival { recipient, returning, user: &user, is_here: &is_here };
            let error = match self.chat.admit(arrival).await {
                Ok(admitted) => break admitted,
                Err(error) => error,
            };
            tracing::debug!(%error, "a session cannot be read; its client waits");
            if !is_here() || !self.store_returns(until).await {
                return Err(self.turn_away(socket.id, CloseReason::TryAgainLater).await);
            }
        };
        // Only the answer to `profile` shows the token.
        let token = match recipient.dialect.features().presence {
            true => token.unwrap_or(key.as_str()).into(),
            false => "".into(),
        };
        let weak = Arc::downgrade(&connection);
        socket.on_disconnect(OnDisconnect { sockets: Arc::clone(self), connection: weak });
        socket.on_fallback(Events::new(Arc::clone(self), connection, recipient.dialect, token));
        self.registry.entering(socket.id);
        Ok(())
    }

    /// The dialect, from the query of the handshake.
    fn dialect(&self, socket: &SocketRef<Adapter>) -> Result<DialectId, NotAdmitted> {
        let query = socket.req_parts().uri.query().unwrap_or_default();
        let asked = query.split('&').find_map(|pair| pair.strip_prefix("dialect="));
        let Some(asked) = asked.filter(|name| !name.is_empty()) else {
            return Ok(self.dialects.default_one());
        };
        self.dialects.named(asked).ok_or_else(|| {
            let known: Vec<String> =
                self.dialects.all().map(|dialect| dialect.name().to_owned()).collect();
            NotAdmitted::Dialect { asked: asked.to_owned(), known: known.join(", ") }
        })
    }

    /// Waits until the store is ready again. `false`: `until` has come, and it is not, or something
    /// else was wrong.
    async fn store_returns(&self, until: Instant) -> bool {
        let mut health = self.health.clone();
        let is_away = *health.borrow() != Health::Ready;
        let ready = timeout_at(until, health.wait_for(|health| *health == Health::Ready));
        if is_away && matches!(ready.await, Ok(Ok(_))) {
            return true;
        }
        sleep_until(until).await;
        false
    }

    /// Closes the transport. After a refusal the client would not reconnect, and a CONNECT reply
    /// would begin a new session; after a lost connection the client reconnects.
    async fn turn_away(&self, sid: Sid, reason: CloseReason) -> NotAdmitted {
        self.registry.close(sid, reason);
        tokio::time::sleep(GOING_MAX).await;
        NotAdmitted::TurnedAway
    }

    /// The client has left the namespace. It may enter again on the same connection, but not stay
    /// outside: engineioxide ignores a CONNECT that comes while the last one is still being ended,
    /// and the client would wait for ever.
    fn left_namespace(&self, sid: Sid) {
        let (registry, tasks) = (self.registry.clone(), self.tasks.clone());
        self.tasks.spawn("outside the namespace", async move {
            tokio::select! {
                () = tokio::time::sleep(CONNECT_TIMEOUT) => {}
                () = tasks.stopping() => return,
            }
            if !registry.is_in_any_namespace(sid) {
                registry.close(sid, CloseReason::NotConnected);
            }
        });
    }
}

/// Removes a socket from the namespace while its reader waits, so that a CONNECT that comes next is
/// not treated as a second one. A plain function as handler would run later.
struct OnDisconnect {
    sockets: Arc<Sockets>,
    connection: Weak<Connection>,
}

impl DisconnectHandler<Adapter, ()> for OnDisconnect {
    fn call_with_defer(
        &self,
        socket: Arc<Socket<Adapter>>,
        reason: DisconnectReason,
        remove: fn(Arc<Socket<Adapter>>),
    ) {
        let sid = socket.id;
        remove(socket);
        self.sockets.registry.leave_all(sid);
        if reason == DisconnectReason::ClientNSDisconnect
            && let Some(connection) = self.connection.upgrade()
        {
            connection.disconnect();
            self.sockets.left_namespace(sid);
        }
    }
}
