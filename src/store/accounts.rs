//! The port of accounts, of the pictures that they upload, and of the key that signs their tokens.

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::error::ReadError;
use crate::domain::{
    account::{Account, Email, PictureName},
    name::UserId,
    position::Timestamp,
};

/// How long a picture file is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PictureLife {
    /// Until its account has another one.
    Profile,
    /// As long as a message: `history_ttl`.
    Message,
}

/// Accounts have no expiry.
pub trait AccountStore: Send + Sync + std::fmt::Debug + 'static {
    /// Stores a new account in one step. `false`: an account has this email address, or this id,
    /// and nothing was written.
    fn sign_up(&self, account: Account) -> BoxFuture<'_, Result<bool, ReadError>>;

    fn account(&self, id: UserId) -> BoxFuture<'_, Result<Option<Account>, ReadError>>;

    fn account_of(&self, email: Email) -> BoxFuture<'_, Result<Option<Account>, ReadError>>;

    /// The newest accounts, at most `limit`, the oldest of them first.
    fn accounts(&self, limit: u32) -> BoxFuture<'_, Result<Vec<Account>, ReadError>>;

    /// Gives an account a picture that was kept for a profile, and returns the account. The file of
    /// the picture before is kept for `history_ttl` from now on. `None`: there is no such account.
    fn set_picture(
        &self,
        id: UserId,
        picture: PictureName,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Option<Account>, ReadError>>;

    /// Keeps the file of a picture. A file that is kept for longer already stays so.
    fn keep_picture(
        &self,
        name: PictureName,
        file: Bytes,
        life: PictureLife,
    ) -> BoxFuture<'_, Result<(), ReadError>>;

    fn picture(&self, name: PictureName) -> BoxFuture<'_, Result<Option<Bytes>, ReadError>>;

    /// The key that signs tokens: the first one that any node has offered, for good.
    fn token_key(&self, offered: String) -> BoxFuture<'_, Result<String, ReadError>>;
}
