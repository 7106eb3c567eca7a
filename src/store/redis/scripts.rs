//! The scripts that run inside Redis, and how they are called.

use std::{sync::LazyLock, time::Duration};

use fred::{
    clients::Client,
    error::Error,
    interfaces::LuaInterface,
    types::{Value, scripts::Script},
};

macro_rules! scripts {
    ($($name:ident = $file:literal,)*) => {
        $(
            pub static $name: LazyLock<Script> = LazyLock::new(|| {
                Script::from_lua(include_str!(concat!("scripts/", $file, ".lua")))
            });
        )*
    };
}

scripts! {
    APPEND = "append",
    READ = "read",
    COMMON = "common",
    BUMP = "bump",
    ECHO = "echo",
    HISTORY = "history",
    TAIL = "tail",
    SAVE = "save",
    CLAIM = "claim",
    REAP = "reap",
    PRESENCE = "presence",
    BEAT = "beat",
    MEMBERS = "members",
    ROOMS = "rooms",
    EXIST = "exist",
    PROFILE = "profile",
    MARK = "mark",
    UNREAD = "unread",
    SIGN_UP = "sign_up",
    SET_PICTURE = "set_picture",
    ACCOUNTS = "accounts",
    KEEP_PICTURE = "keep_picture",
}

/// Runs a script by its hash; a Redis that does not know it (a restart, a failover) gets its text.
pub async fn run(
    client: &Client,
    script: &Script,
    keys: Vec<String>,
    arguments: impl IntoIterator<Item = impl Into<Value>>,
) -> Result<Vec<Value>, Error> {
    let arguments: Vec<Value> = arguments.into_iter().map(Into::into).collect();
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
