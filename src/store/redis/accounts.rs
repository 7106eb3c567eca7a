//! Accounts, their pictures and the key of their tokens in Redis. All keys are in partition 0.

use std::time::Duration;

use bytes::Bytes;
use fred::{
    clients::Client,
    interfaces::{HashesInterface, KeysInterface},
    types::Value,
};
use serde::{Deserialize, Serialize};

use crate::store::redis::{
    calls::{Caller, strange},
    keys::{Keys, Prefix},
    link::Status,
    scripts::{self, ACCOUNTS, KEEP_PICTURE, SET_PICTURE, SIGN_UP, text},
};
use crate::{
    domain::{
        account::{Account, Email, PasswordHash, PictureName},
        name::{UserId, UserName},
        position::Timestamp,
    },
    store::{accounts::PictureLife, error::ReadError},
};

#[derive(Debug)]
pub struct RedisAccounts {
    caller: Caller,
    keys: Keys,
    /// How long the picture of a message is kept.
    life: Duration,
}

/// An account as it stands in Redis. Times are text, because Lua would round a number.
#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    id: &'a str,
    full_name: String,
    email: String,
    password: String,
    /// Empty: none.
    picture: String,
    created_at: String,
    updated_at: String,
}

impl RedisAccounts {
    pub fn new(client: Client, status: Status, prefix: &Prefix, life: Duration) -> Self {
        Self { caller: Caller { client, status }, keys: Keys::new(prefix, 0), life }
    }

    pub async fn sign_up(&self, account: Account) -> Result<bool, ReadError> {
        let keys = &self.keys;
        let names = vec![keys.accounts(), keys.emails(), keys.account_list()];
        let arguments =
            vec![account.id.to_string(), account.email.as_str().to_owned(), written(&account)];
        match self.caller.run(&SIGN_UP, names, arguments).await?.as_slice() {
            [Value::Integer(done)] => Ok(*done == 1),
            _ => Err(strange("sign_up.lua")),
        }
    }

    pub async fn account(&self, id: &str) -> Result<Option<Account>, ReadError> {
        let client = &self.caller.client;
        let found: Option<String> = self.caller.ask(client.hget(self.keys.accounts(), id)).await?;
        found.as_deref().map(read).transpose()
    }

    pub async fn account_of(&self, email: Email) -> Result<Option<Account>, ReadError> {
        let client = &self.caller.client;
        let id: Option<String> =
            self.caller.ask(client.hget(self.keys.emails(), email.as_str())).await?;
        match id {
            Some(id) => self.account(&id).await,
            None => Ok(None),
        }
    }

    pub async fn accounts(&self, limit: u32) -> Result<Vec<Account>, ReadError> {
        let names = vec![self.keys.accounts(), self.keys.account_list()];
        let reply = self.caller.run(&ACCOUNTS, names, vec![limit.to_string()]).await?;
        let account = |value: &Value| read(text(value).ok_or_else(|| strange("accounts.lua"))?);
        reply.iter().map(account).collect()
    }

    pub async fn set_picture(
        &self,
        id: UserId,
        picture: PictureName,
        now: Timestamp,
    ) -> Result<Option<Account>, ReadError> {
        let arguments = vec![id.to_string(), picture.as_str().to_owned(), now.0.to_string()];
        let reply = self.caller.run(&SET_PICTURE, vec![self.keys.accounts()], arguments).await?;
        let (account, before) = match reply.as_slice() {
            [] => return Ok(None),
            [account, before] => (text(account), text(before)),
            _ => return Err(strange("set_picture.lua")),
        };
        let account = read(account.ok_or_else(|| strange("set_picture.lua"))?)?;
        if let Some(before) = before.and_then(PictureName::parse).filter(|it| *it != picture) {
            let (client, life) = (&self.caller.client, self.life.as_millis());
            let life = i64::try_from(life).unwrap_or(i64::MAX);
            let ending = client.pexpire::<(), _>(self.keys.picture(&before), life, None);
            self.caller.ask(ending).await?;
        }
        Ok(Some(account))
    }

    pub async fn keep_picture(
        &self,
        name: PictureName,
        file: Bytes,
        life: PictureLife,
    ) -> Result<(), ReadError> {
        let life = match life {
            PictureLife::Profile => "0".to_owned(),
            PictureLife::Message => scripts::millis(self.life),
        };
        let arguments = [Value::Bytes(file), life.into()];
        let client = &self.caller.client;
        let kept = scripts::run(client, &KEEP_PICTURE, vec![self.keys.picture(&name)], arguments);
        self.caller.ask(kept).await.map(drop)
    }

    pub async fn picture(&self, name: PictureName) -> Result<Option<Bytes>, ReadError> {
        self.caller.ask(self.caller.client.get(self.keys.picture(&name))).await
    }

    pub async fn token_key(&self, offered: String) -> Result<String, ReadError> {
        let (client, key) = (&self.caller.client, self.keys.token_key());
        let offering = client.set::<Value, _, _>(
            key.clone(),
            offered,
            None,
            Some(fred::types::SetOptions::NX),
            false,
        );
        self.caller.ask(offering).await?;
        self.caller.ask(client.get(key)).await
    }
}

fn written(account: &Account) -> String {
    let picture = account.picture.as_ref().map_or("", PictureName::as_str);
    let stored = Stored {
        id: account.id.as_str(),
        full_name: account.full_name.to_string(),
        email: account.email.as_str().to_owned(),
        password: account.password.reveal().to_owned(),
        picture: picture.to_owned(),
        created_at: account.created_at.0.to_string(),
        updated_at: account.updated_at.0.to_string(),
    };
    serde_json::to_string(&stored).expect("texts are JSON")
}

fn read(text: &str) -> Result<Account, ReadError> {
    let corrupt = |why: &dyn std::fmt::Display| ReadError::Corrupt(format!("an account: {why}"));
    let stored: Stored<'_> = serde_json::from_str(text).map_err(|why| corrupt(&why))?;
    let time = |text: &str| text.parse().map(Timestamp).map_err(|why| corrupt(&why));
    Ok(Account {
        id: UserId::parse(stored.id).map_err(|why| corrupt(&why))?,
        full_name: UserName::parse(&stored.full_name).map_err(|why| corrupt(&why))?,
        email: Email::parse(&stored.email).map_err(|why| corrupt(&why))?,
        password: PasswordHash::new(&stored.password),
        picture: PictureName::parse(&stored.picture),
        created_at: time(&stored.created_at)?,
        updated_at: time(&stored.updated_at)?,
    })
}
