//! Accounts: sign up, log in, pictures, and messages between two accounts.
//!
//! An account is a user like every other: its messages are direct messages of the chat. A token
//! proves that a client is that user, to every face.

mod passwords;
mod pictures;
mod token;

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OnceCell, oneshot};

use self::{passwords::Passwords, token::TokenKey};
use super::{Actor, Chat, unavailable};
use crate::{
    clock,
    dialects::mern::message,
    domain::{
        account::{ACCOUNTS_LISTED_MAX, Account, Email, PictureName},
        message::Message,
        name::{MessageId, UserId, UserName},
        page::{PAGE_LIMIT_MAX, Page},
        position::Timestamp,
        reject::{Code, Reject},
        request::{Destination, NewMessage, PageRequest},
        room::RoomName,
    },
    random,
    store::accounts::{AccountStore, PictureLife},
};

pub use self::token::TOKEN_LIFE;

/// Pages that one answer with the messages of two accounts has at most.
const PAGES_MAX: usize = 5;

/// A clonable handle.
#[derive(Debug, Clone)]
pub struct Accounts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    chat: Chat,
    store: Arc<dyn AccountStore>,
    passwords: Passwords,
    key: OnceCell<TokenKey>,
}

/// What a client sends to get an account.
#[derive(Debug)]
pub struct NewAccount<'a> {
    pub full_name: &'a str,
    pub email: &'a str,
    pub password: &'a str,
}

/// An account, and the token that proves it from now on.
#[derive(Debug)]
pub struct LoggedIn {
    pub account: Account,
    pub token: String,
}

/// A message that was sent from one account to another.
#[derive(Debug)]
pub struct SentMessage {
    pub id: MessageId,
    pub at: Timestamp,
    pub image: Option<PictureName>,
}

impl Accounts {
    pub fn new(chat: Chat) -> Self {
        let store = Arc::clone(&chat.0.store.accounts);
        let (passwords, key) = (Passwords::default(), OnceCell::new());
        Self(Arc::new(Inner { chat, store, passwords, key }))
    }

    /// Of several sign-ups with one email address one succeeds, on all nodes together.
    pub async fn sign_up(&self, new: NewAccount<'_>) -> Result<LoggedIn, Reject> {
        let full_name = UserName::parse(new.full_name)
            .map_err(|why| bad(format!("Full name: {}", why.to_string().replace("name ", ""))))?;
        let email = Email::parse(new.email).map_err(|_none| bad("Invalid email format"))?;
        let taken = || Reject::new(Code::Taken, "Email already exists");
        passwords::check(new.password)?;
        if self.find(email.clone()).await?.is_some() {
            return Err(taken());
        }
        let password = self.0.passwords.hash(new.password.to_owned()).await?;
        let id = UserId::parse(&random::hex::<12>()).expect("24 hex digits are a user id");
        let (created_at, updated_at) = (clock::now(), clock::now());
        let picture = None;
        let account = Account { id, full_name, email, password, picture, created_at, updated_at };
        let stored = self.0.store.sign_up(account.clone()).await;
        if !stored.map_err(unavailable("storing an account"))? {
            return Err(taken());
        }
        self.logged_in(account).await
    }

    /// Takes as long for an unknown email address as for a wrong password.
    pub async fn log_in(&self, email: &str, password: &str) -> Result<LoggedIn, Reject> {
        let known = match Email::parse(email) {
            Ok(email) => self.find(email).await?,
            Err(_none) => None,
        };
        let hash = known.as_ref().map(|account| account.password.clone());
        let is_right = self.0.passwords.verify(password.to_owned(), hash).await?;
        match known.filter(|_| is_right) {
            Some(account) => self.logged_in(account).await,
            None => Err(bad("Invalid credentials")),
        }
    }

    async fn logged_in(&self, account: Account) -> Result<LoggedIn, Reject> {
        self.mark_known(&account.id).await?;
        let token = self.key().await?.sign(&account.id, clock::now());
        Ok(LoggedIn { account, token })
    }

    /// The user that a token proves. `None`: it is no token of an account, or it has ended.
    pub async fn user_of(&self, token: &str) -> Result<Option<UserId>, Reject> {
        match token::has_shape(token) {
            true => Ok(self.key().await?.verify(token, clock::now())),
            false => Ok(None),
        }
    }

    pub async fn account(&self, id: &UserId) -> Result<Option<Account>, Reject> {
        let found = self.0.store.account(id.clone()).await;
        found.map_err(unavailable("reading an account"))
    }

    /// The newest accounts, without the one that asks.
    pub async fn others(&self, own: &UserId) -> Result<Vec<Account>, Reject> {
        let listed = self.0.store.accounts(ACCOUNTS_LISTED_MAX).await;
        let mut listed = listed.map_err(unavailable("listing accounts"))?;
        listed.retain(|account| account.id != *own);
        Ok(listed)
    }

    /// Gives an account the picture in a data URL.
    pub async fn set_picture(&self, own: &UserId, data_url: &str) -> Result<Account, Reject> {
        let picture = self.keep(own, data_url, PictureLife::Profile).await?;
        let set = self.0.store.set_picture(own.clone(), picture, clock::now()).await;
        set.map_err(unavailable("setting a picture"))?.ok_or_else(no_user)
    }

    pub async fn picture(&self, name: PictureName) -> Result<Option<Bytes>, Reject> {
        self.0.store.picture(name).await.map_err(unavailable("reading a picture"))
    }

    /// Sends a direct message to another account.
    pub async fn send(
        &self,
        own: &Account,
        to: &UserId,
        text: Option<&str>,
        image: Option<&str>,
    ) -> Result<SentMessage, Reject> {
        if self.account(to).await?.is_none() {
            return Err(no_user());
        }
        let image = match image {
            Some(data_url) => Some(self.keep(&own.id, data_url, PictureLife::Message).await?),
            None => None,
        };
        // An account can be written to even if it was not here for longer than read marks are kept.
        self.mark_known(to).await?;
        let id = MessageId::parse(&random::hex::<12>()).expect("hex digits are a message id");
        let body = message::body(text.unwrap_or_default(), image.as_ref());
        let message = NewMessage::new(Destination::User(to.clone()), id.clone(), body);
        let message = NewMessage { claimed_name: Some(own.full_name.clone()), ..message };
        let (sent, settled) = oneshot::channel();
        // A client that has gone needs no answer.
        self.0.chat.send(Actor::user(&own.id), message, |outcome| drop(sent.send(outcome)));
        let stopped = || Reject::new(Code::Unconfirmed, "the node stops");
        let sent = settled.await.map_err(|_dropped| stopped())??;
        Ok(SentMessage { id, at: sent.at, image })
    }

    /// The newest messages of two accounts, the oldest first.
    pub async fn messages(&self, own: &UserId, other: &UserId) -> Result<Vec<Message>, Reject> {
        if self.account(other).await?.is_none() {
            return Err(no_user());
        }
        let room = RoomName::direct(own, other).ok_or_else(no_user)?;
        let mut pages: Vec<Vec<Message>> = Vec::new();
        let mut page = Page::Newest;
        while pages.len() < PAGES_MAX {
            let request =
                PageRequest { room: room.clone(), page, limit: PAGE_LIMIT_MAX, epoch: None };
            let history = self.0.chat.history(Actor::user(own), request).await?;
            let first = history.messages.first().map(|message| message.position.seq);
            pages.push(history.messages);
            match first {
                Some(first) if history.more => page = Page::Before(first),
                _ => break,
            }
        }
        let all = pages.into_iter().rev().flatten();
        Ok(all.filter(|message| !message.is_deleted()).collect())
    }

    async fn keep(
        &self,
        own: &UserId,
        data_url: &str,
        life: PictureLife,
    ) -> Result<PictureName, Reject> {
        let (kind, file) = pictures::parse(data_url)?;
        let name = self.key().await?.picture_name(own, &file, kind);
        let kept = self.0.store.keep_picture(name.clone(), file, life).await;
        kept.map_err(unavailable("keeping a picture"))?;
        Ok(name)
    }

    async fn find(&self, email: Email) -> Result<Option<Account>, Reject> {
        let found = self.0.store.account_of(email).await;
        found.map_err(unavailable("reading an account"))
    }

    /// Records that the user was here, so that others can write to it.
    async fn mark_known(&self, id: &UserId) -> Result<(), Reject> {
        let inbox = &self.0.chat.0.store.inbox;
        let marked = inbox.mark_read(id.clone(), RoomName::personal(id), 0).await;
        marked.map(drop).map_err(unavailable("marking a user as known"))
    }

    /// The key that all nodes share. It is made once, by the node that needs it first.
    async fn key(&self) -> Result<&TokenKey, Reject> {
        let read = async || {
            let key = self.0.store.token_key(random::hex::<32>()).await;
            key.map(|key| TokenKey::new(&key)).map_err(unavailable("reading the key of tokens"))
        };
        self.0.key.get_or_try_init(read).await
    }
}

fn bad(why: impl Into<String>) -> Reject {
    Reject::new(Code::BadRequest, why)
}

fn no_user() -> Reject {
    Reject::new(Code::NotFound, "User not found")
}
