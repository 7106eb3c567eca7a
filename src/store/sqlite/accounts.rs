//! Accounts, their pictures and the key of their tokens in the file: what the writer's transaction
//! changes, and what is read.

use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use tokio::sync::oneshot;

use crate::store::sqlite::{history::read_error, retention::after};
use crate::{
    domain::{
        account::{Account, Email, PasswordHash, PictureName},
        name::{UserId, UserName},
        position::Timestamp,
    },
    store::{accounts::PictureLife, error::ReadError},
};

type Answer<T> = oneshot::Sender<Result<T, ReadError>>;

/// A request to the writer.
#[derive(Debug)]
pub enum AccountJob {
    SignUp { account: Account, answer: Answer<bool> },
    SetPicture { id: UserId, picture: PictureName, at: Timestamp, answer: Answer<bool> },
    KeepPicture { name: PictureName, file: Bytes, life: PictureLife, answer: Answer<bool> },
    OfferKey { offered: String, answer: Answer<bool> },
}

impl AccountJob {
    /// Called after the commit, or with the error that rolled it back. The caller may have stopped
    /// waiting.
    pub fn answer(self, done: Result<bool, ReadError>) {
        match self {
            Self::SignUp { answer, .. }
            | Self::SetPicture { answer, .. }
            | Self::KeepPicture { answer, .. }
            | Self::OfferKey { answer, .. } => drop(answer.send(done)),
        }
    }
}

/// Returns whether anything was written. `life` is how long the picture of a message is kept.
pub fn perform(
    transaction: &Transaction<'_>,
    job: &AccountJob,
    now: Timestamp,
    life: Duration,
) -> rusqlite::Result<bool> {
    match job {
        AccountJob::SignUp { account, .. } => sign_up(transaction, account),
        AccountJob::SetPicture { id, picture, at, .. } => {
            set_picture(transaction, (id, picture, *at), after(now, life))
        }
        AccountJob::KeepPicture { name, file, life: kept, .. } => {
            let ends = (*kept == PictureLife::Message).then(|| after(now, life));
            let row = params![name.as_str(), file.as_ref(), ends];
            transaction
                .prepare_cached(
                    "INSERT INTO pictures (name, file, ends) VALUES (?1, ?2, ?3)
                     ON CONFLICT (name) DO UPDATE SET ends =
                         CASE WHEN ends IS NULL OR excluded.ends IS NULL THEN NULL
                              ELSE max(ends, excluded.ends) END",
                )?
                .execute(row)
                .map(|_| true)
        }
        AccountJob::OfferKey { offered, .. } => transaction
            .prepare_cached("INSERT OR IGNORE INTO token_key (one, key) VALUES (1, ?1)")?
            .execute([offered])
            .map(|rows| rows == 1),
    }
}

fn sign_up(transaction: &Transaction<'_>, account: &Account) -> rusqlite::Result<bool> {
    let Account { id, full_name, email, password, picture, created_at, updated_at } = account;
    let rows = transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO accounts
                 (id, full_name, email, password, picture, created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            id.as_str(),
            full_name.as_str(),
            email.as_str(),
            password.reveal(),
            picture.as_ref().map(PictureName::as_str),
            created_at.0,
            updated_at.0,
        ])?;
    Ok(rows == 1)
}

/// `ends` is the end of the picture before.
fn set_picture(
    transaction: &Transaction<'_>,
    (id, picture, at): (&UserId, &PictureName, Timestamp),
    ends: u64,
) -> rusqlite::Result<bool> {
    transaction
        .prepare_cached(
            "UPDATE pictures SET ends = ?3
             WHERE name = (SELECT picture FROM accounts WHERE id = ?1) AND name <> ?2",
        )?
        .execute(params![id.as_str(), picture.as_str(), ends])?;
    let rows = transaction
        .prepare_cached("UPDATE accounts SET picture = ?2, updated_at = ?3 WHERE id = ?1")?
        .execute(params![id.as_str(), picture.as_str(), at.0])?;
    Ok(rows == 1)
}

const COLUMNS: &str = "id, full_name, email, password, picture, created_at, updated_at";

pub fn account(reader: &Connection, id: &UserId) -> Result<Option<Account>, ReadError> {
    one(reader, &format!("SELECT {COLUMNS} FROM accounts WHERE id = ?1"), id.as_str())
}

pub fn account_of(reader: &Connection, email: &Email) -> Result<Option<Account>, ReadError> {
    one(reader, &format!("SELECT {COLUMNS} FROM accounts WHERE email = ?1"), email.as_str())
}

fn one(reader: &Connection, sql: &str, key: &str) -> Result<Option<Account>, ReadError> {
    let columns = reader
        .prepare_cached(sql)
        .and_then(|mut select| select.query_row([key], Columns::of).optional())
        .map_err(read_error)?;
    columns.map(Columns::account).transpose()
}

pub fn accounts(reader: &Connection, limit: u32) -> Result<Vec<Account>, ReadError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM
             (SELECT rowid AS place, * FROM accounts ORDER BY place DESC LIMIT ?1)
         ORDER BY place"
    );
    let mut select = reader.prepare_cached(&sql).map_err(read_error)?;
    let rows = select.query_map([limit], Columns::of).map_err(read_error)?;
    rows.map(|row| row.map_err(read_error)?.account()).collect()
}

pub fn picture(
    reader: &Connection,
    name: &PictureName,
    now: Timestamp,
) -> Result<Option<Bytes>, ReadError> {
    let file: Option<Vec<u8>> = reader
        .prepare_cached("SELECT file FROM pictures WHERE name = ?1 AND (ends IS NULL OR ends > ?2)")
        .and_then(|mut select| {
            select.query_row(params![name.as_str(), now.0], |row| row.get(0)).optional()
        })
        .map_err(read_error)?;
    Ok(file.map(Bytes::from))
}

pub fn token_key(reader: &Connection) -> Result<String, ReadError> {
    reader
        .prepare_cached("SELECT key FROM token_key")
        .and_then(|mut select| select.query_row([], |row| row.get(0)))
        .map_err(read_error)
}

/// An account as its row stores it.
struct Columns {
    id: String,
    full_name: String,
    email: String,
    password: String,
    picture: Option<String>,
    created_at: u64,
    updated_at: u64,
}

impl Columns {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            full_name: row.get(1)?,
            email: row.get(2)?,
            password: row.get(3)?,
            picture: row.get(4)?,
            created_at: row.get(5)?,
            updated_at: row.get(6)?,
        })
    }

    fn account(self) -> Result<Account, ReadError> {
        let corrupt =
            |why: &dyn std::fmt::Display| ReadError::Corrupt(format!("an account: {why}"));
        Ok(Account {
            id: UserId::parse(&self.id).map_err(|why| corrupt(&why))?,
            full_name: UserName::parse(&self.full_name).map_err(|why| corrupt(&why))?,
            email: Email::parse(&self.email).map_err(|why| corrupt(&why))?,
            password: PasswordHash::new(&self.password),
            picture: self.picture.as_deref().and_then(PictureName::parse),
            created_at: Timestamp(self.created_at),
            updated_at: Timestamp(self.updated_at),
        })
    }
}
