//! The handshake: which user a client is, which dialect it speaks, and how it leaves the namespace.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use http::Uri;
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
    profile,
    requests::Events,
};
use crate::{
    chat::{Arrival, Connection, user_of_token},
    delivery::subscriptions::Recipient,
    dialects::DialectId,
    domain::{name::UserId, reject::Reject},
    random,
    store::{Health, sessions::SessionKey},
    transport::{Sid, adapter::Adapter, close::CloseReason, request::parameter},
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
        let account = match self.account(socket, token).await {
            Ok(account) => account,
            Err(error) => {
                tracing::debug!(?error, "an account cannot be proven now");
                tokio::time::sleep(WAIT_MIN).await;
                return Err(self.turn_away(socket.id, CloseReason::TryAgainLater).await);
            }
        };
        let dialect = self.dialect(&socket.req_parts().uri, account.as_ref())?;
        let recipient = Recipient { sid: socket.id, dialect };
        // A client without a token is identified by its session's key.
        let guest = |key: &SessionKey| user_of_token(token.unwrap_or(key.as_str()));
        let user = |key: &SessionKey| account.clone().unwrap_or_else(|| guest(key));
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

    /// The account that a client has proved to have: by its own token, or by the one in the cookie
    /// of its handshake, or of the upgrade that follows.
    async fn account(
        &self,
        socket: &SocketRef<Adapter>,
        token: Option<&str>,
    ) -> Result<Option<UserId>, Reject> {
        let uri = &socket.req_parts().uri;
        let Some(accounts) = &self.accounts else { return Ok(None) };
        let in_cookie = parameter(uri, profile::USER_ID).and(parameter(uri, profile::TOKEN));
        for token in token.into_iter().chain(in_cookie) {
            if let Some(account) = accounts.user_of(token).await? {
                return Ok(Some(account));
            }
        }
        let has = |name| parameter(uri, name).is_some();
        let polls = parameter(uri, "transport") == Some("polling");
        if !polls || !has(profile::USER_ID) || has(profile::TOKEN) || has("dialect") {
            return Ok(None);
        }
        match self.proofs.token(socket.id).await {
            Some(token) => accounts.user_of(&token).await,
            None => Ok(None),
        }
    }

    /// The dialect, from the query of the handshake. A user id there proves nothing.
    fn dialect(&self, uri: &Uri, account: Option<&UserId>) -> Result<DialectId, NotAdmitted> {
        let asked = parameter(uri, "dialect").filter(|name| !name.is_empty());
        if let (None, Some(user_id)) = (asked, parameter(uri, profile::USER_ID)) {
            let is_proven = account.is_some_and(|account| account.as_str() == user_id);
            let of_account = self.dialects.of_account(is_proven);
            return Ok(of_account.unwrap_or(self.dialects.default_one()));
        }
        let Some(asked) = asked else { return Ok(self.dialects.default_one()) };
        self.dialects.named(asked).ok_or_else(|| {
            let known = self.dialects.nameable().map(|dialect| dialect.name().to_owned());
            let known = known.collect::<Vec<String>>().join(", ");
            NotAdmitted::Dialect { asked: asked.to_owned(), known }
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
