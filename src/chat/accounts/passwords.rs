//! Passwords are hashed with argon2id, on threads that may block, and a few at a time: one hash
//! takes 19 MiB and some 20 ms of a core.

use std::sync::Arc;

use argon2::{
    Argon2, PasswordHash as Parsed, PasswordHasher as _, PasswordVerifier as _,
    password_hash::SaltString,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::{
    account::PasswordHash,
    reject::{Code, Reject},
};

/// Hashes of this node at a time, and requests that may wait for their turn beside them.
const HASHES_MAX: usize = 2;
const WAITING_MAX: usize = 62;
const PASSWORD_CHARS_MIN: usize = 6;
const PASSWORD_BYTES_MAX: usize = 1_024;
const SALT_BYTES: usize = 16;

#[derive(Debug)]
pub struct Passwords {
    /// Requests that are here.
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Self {
        let places = Arc::new(Semaphore::new(HASHES_MAX + WAITING_MAX));
        Self { places, turns: Arc::new(Semaphore::new(HASHES_MAX)) }
    }
}

/// Whether a new account may have this password.
pub fn check(password: &str) -> Result<(), Reject> {
    let why = match password {
        short if short.chars().count() < PASSWORD_CHARS_MIN => {
            format!("Password must be at least {PASSWORD_CHARS_MIN} characters")
        }
        long if long.len() > PASSWORD_BYTES_MAX => {
            format!("Password must be at most {PASSWORD_BYTES_MAX} bytes")
        }
        _ => return Ok(()),
    };
    Err(Reject::new(Code::BadRequest, why))
}

impl Passwords {
    pub async fn hash(&self, password: String) -> Result<PasswordHash, Reject> {
        self.blocking(move || hash(&password)).await?
    }

    /// `None`: there is no such account. That takes as long.
    pub async fn verify(
        &self,
        password: String,
        known: Option<PasswordHash>,
    ) -> Result<bool, Reject> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Ok(false);
        }
        self.blocking(move || match known {
            None => hash(&password).map(|_| false),
            Some(known) => {
                let known = Parsed::new(known.reveal()).map_err(|why| failed(&why))?;
                Ok(Argon2::default().verify_password(password.as_bytes(), &known).is_ok())
            }
        })
        .await?
    }

    /// A caller that stops waiting does not end the work, so the work keeps its permits.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Reject> {
        let busy = "too many people log in or sign up at this moment; try again";
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_full| Reject::new(Code::Unavailable, busy))?;
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let permits: (OwnedSemaphorePermit, _) =
            (place, turn.expect("the semaphore is never closed"));
        let done = tokio::task::spawn_blocking(move || {
            let _permits = permits;
            work()
        });
        done.await.map_err(|error| failed(&error))
    }
}

fn hash(password: &str) -> Result<PasswordHash, Reject> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).map_err(|why| failed(&why))?;
    let salt = SaltString::encode_b64(&salt).map_err(|why| failed(&why))?;
    let hash = Argon2::default().hash_password(password.as_bytes(), &salt);
    hash.map(|hash| PasswordHash::new(&hash.to_string())).map_err(|why| failed(&why))
}

fn failed(error: &dyn std::fmt::Display) -> Reject {
    tracing::error!(%error, "a password cannot be hashed");
    Reject::new(Code::Unavailable, "the password cannot be checked now; try again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_is_right() {
        let passwords = Passwords::default();
        let hash = passwords.hash("correct horse".to_owned()).await.unwrap();
        assert!(hash.reveal().starts_with("$argon2id$"), "{}", hash.reveal());
        let verify = async |text: &str, known| passwords.verify(text.to_owned(), known).await;
        assert_eq!(verify("correct horse", Some(hash.clone())).await, Ok(true));
        assert_eq!(verify("correct horsf", Some(hash)).await, Ok(false));
        assert_eq!(verify("correct horse", None).await, Ok(false));
        let long = "a".repeat(PASSWORD_BYTES_MAX + 1);
        assert_eq!(verify(&long, None).await, Ok(false));
        assert!(check("12345").is_err() && check(&long).is_err() && check("123456").is_ok());
    }

    #[tokio::test]
    async fn one_request_too_many_is_refused_at_once() {
        let passwords = Passwords::default();
        let all = u32::try_from(HASHES_MAX + WAITING_MAX).unwrap();
        let held = passwords.places.acquire_many(all).await.unwrap();
        let refused = passwords.hash("123456".to_owned()).await.unwrap_err();
        assert_eq!(refused.code, Code::Unavailable);
        drop(held);
        assert!(passwords.hash("123456".to_owned()).await.is_ok());
    }
}
