//! The scripts that run inside Redis, and how they are called.

use std::{sync::LazyLock, time::Duration};

use fred::{
    clients::Client,
    error::Error,
    interfaces::LuaInterface,
    types::{Value, scripts::Script},
};

pub static APPEND: LazyLock<Script> =
    LazyLock::new(|| Script::from_lua(include_str!("scripts/append.lua")));
pub static READ: LazyLock<Script> =
    LazyLock::new(|| Script::from_lua(include_str!("scripts/read.lua")));
pub static COMMON: LazyLock<Script> =
    LazyLock::new(|| Script::from_lua(include_str!("scripts/common.lua")));
pub static BUMP: LazyLock<Script> =
    LazyLock::new(|| Script::from_lua(include_str!("scripts/bump.lua")));
pub static ECHO: LazyLock<Script> =
    LazyLock::new(|| Script::from_lua(include_str!("scripts/echo.lua")));
pub static HISTORY: LazyLock<Script> =
    LazyLock::new(|| Script::from_lua(include_str!("scripts/history.lua")));
pub static TAIL: LazyLock<Script> =
    LazyLock::new(|| Script::from_lua(include_str!("scripts/tail.lua")));
pub static SAVE: LazyLock<Script> =
    LazyLock::new(|| Script::from_lua(include_str!("scripts/save.lua")));
pub static CLAIM: LazyLock<Script> =
    LazyLock::new(|| Script::from_lua(include_str!("scripts/claim.lua")));
pub static REAP: LazyLock<Script> =
    LazyLock::new(|| Script::from_lua(include_str!("scripts/reap.lua")));
pub static PRESENCE: LazyLock<Script> =
    LazyLock::new(|| Script::from_lua(include_str!("scripts/presence.lua")));
pub static BEAT: LazyLock<Script> =
    LazyLock::new(|| Script::from_lua(include_str!("scripts/beat.lua")));
pub static MEMBERS: LazyLock<Script> =
    LazyLock::new(|| Script::from_lua(include_str!("scripts/members.lua")));
pub static ROOMS: LazyLock<Script> =
    LazyLock::new(|| Script::from_lua(include_str!("scripts/rooms.lua")));
pub static EXIST: LazyLock<Script> =
    LazyLock::new(|| Script::from_lua(include_str!("scripts/exist.lua")));
pub static PROFILE: LazyLock<Script> =
    LazyLock::new(|| Script::from_lua(include_str!("scripts/profile.lua")));
pub static MARK: LazyLock<Script> =
    LazyLock::new(|| Script::from_lua(include_str!("scripts/mark.lua")));
pub static UNREAD: LazyLock<Script> =
    LazyLock::new(|| Script::from_lua(include_str!("scripts/unread.lua")));

/// Runs a script by its hash; a Redis that does not know it (a restart, a failover) gets its text.
pub async fn run(
    client: &Client,
    script: &Script,
    keys: Vec<String>,
    arguments: Vec<Value>,
) -> Result<Vec<Value>, Error> {
    let first = client
        .evalsha::<Value, _, _, _>(script.sha1().clone(), keys.clone(), arguments.clone())
        .await;
    let value = match first {
        Err(error) if error.details().starts_with("NOSCRIPT") => {
            let text = script.lua().cloned().unwrap_or_default();
            client.eval::<Value, _, _, _>(text, keys, arguments).await?
        }
        outcome => outcome?,
    };
    Ok(value.into_array())
}

/// What a script answered is not what it answers: a Redis or a proxy that speaks otherwise.
pub fn strange(what: &str) -> Error {
    Error::new(fred::error::ErrorKind::Protocol, format!("{what} answered in an unknown shape"))
}

/// A time as a script takes it: at least 1, because Redis refuses an expiry of 0.
pub fn millis(time: Duration) -> String {
    time.as_millis().max(1).to_string()
}

pub fn text(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        Value::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

pub fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Integer(number) => u64::try_from(*number).ok(),
        other => text(other)?.parse().ok(),
    }
}
