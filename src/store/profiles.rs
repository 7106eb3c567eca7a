//! The port of profiles: what others see of a user.

use futures_util::future::BoxFuture;

use super::error::ReadError;
use crate::domain::{
    name::UserId,
    user::{ProfilePatch, User},
};

pub trait ProfileStore: Send + Sync + std::fmt::Debug + 'static {
    fn profile(&self, user: UserId) -> BoxFuture<'_, Result<Option<User>, ReadError>>;

    /// Changes a profile in one step, so that patches of one user never undo each other, and
    /// returns the whole profile. It is kept for `history_ttl`; a patch without changes counts as
    /// use, too. `None`: another user has this name (compared by `UserName::key`) and nothing was
    /// written. A name is free again when its user takes another one or has not used it for that
    /// time. All nodes are told when something has changed (`Signal::Profile`).
    fn patch(&self, patch: ProfilePatch) -> BoxFuture<'_, Result<Option<User>, ReadError>>;
}
