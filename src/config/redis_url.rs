//! The address of Redis, which can contain a password.

use std::fmt;

/// A Redis address. It can contain a password, so `Display` and `Debug` mask it.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    const SCHEMES: [&str; 10] = [
        "redis://",
        "rediss://",
        "valkey://",
        "valkeys://",
        "redis+unix://",
        "unix:",
        "redis-cluster://",
        "rediss-cluster://",
        "redis-sentinel://",
        "rediss-sentinel://",
    ];

    pub fn parse(text: &str) -> Result<Self, String> {
        let url = Self(text.to_owned());
        if Self::SCHEMES.iter().any(|scheme| text.starts_with(scheme)) {
            return Ok(url);
        }
        Err(format!(
            "'{url}' is no Redis URL: it begins with redis://, rediss:// (or -cluster://, -sentinel://) or unix:"
        ))
    }

    /// The whole URL, password and all: for the Redis client only.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The query can contain the password of a Sentinel.
        let url = self.0.split('?').next().unwrap_or_default();
        match (url.split_once("://"), url.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => write!(f, "{scheme}://***@{host}"),
            (None, Some((_, host))) => write!(f, "***@{host}"),
            (_, None) => f.write_str(url),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
