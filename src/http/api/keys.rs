//! The API keys of backends, read once from the file of `--api-key-file`.
//!
//! Each line is `name:key`; empty lines, and lines that begin with `#`, are comments. No error says
//! what a key is.

use std::{collections::HashMap, fmt, fs, io, path::Path};

use sha2::{Digest as _, Sha256};

use crate::domain::{
    name::UserId,
    user::{API_KEY_NAME_MAX, api_key_user},
};

/// A shorter key could be guessed.
const KEY_CHARS_MIN: usize = 16;
/// A longer key would not fit into a header.
const KEY_CHARS_MAX: usize = 1_024;

/// Users by the digest of their key. A look-up by digest takes no longer for a key that is almost
/// right.
#[derive(Default)]
pub struct ApiKeys(HashMap<[u8; 32], UserId>);

/// Why a file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("--api-key-file {path} cannot be read: {error}")]
    Read { path: String, error: io::Error },
    #[error("--api-key-file {path}, line {line}: {why}")]
    Line { path: String, line: usize, why: KeyLineError },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyLineError {
    #[error("a line is name:key, or a comment that begins with #")]
    Shape,
    #[error("a name has 1 to {API_KEY_NAME_MAX} letters, digits and -_.")]
    Name,
    #[error("a key has {KEY_CHARS_MIN} to {KEY_CHARS_MAX} visible ASCII characters")]
    Key,
    #[error("an earlier line has the same name or the same key")]
    Twice,
}

impl ApiKeys {
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let shown = || path.display().to_string();
        let text = fs::read_to_string(path)
            .map_err(|error| KeyFileError::Read { path: shown(), error })?;
        Self::parse(&text).map_err(|(line, why)| KeyFileError::Line { path: shown(), line, why })
    }

    /// The error says which line is wrong; the first one is 1.
    fn parse(text: &str) -> Result<Self, (usize, KeyLineError)> {
        let mut keys = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                keys.add(line).map_err(|why| (number + 1, why))?;
            }
        }
        Ok(keys)
    }

    fn add(&mut self, line: &str) -> Result<(), KeyLineError> {
        let (name, key) = line.split_once(':').ok_or(KeyLineError::Shape)?;
        let user = api_key_user(name.trim_end()).ok_or(KeyLineError::Name)?;
        let key = key.trim_start();
        let fits = (KEY_CHARS_MIN..=KEY_CHARS_MAX).contains(&key.len());
        if !fits || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(KeyLineError::Key);
        }
        let is_known = self.0.values().any(|known| *known == user);
        match self.0.insert(digest(key), user) {
            None if !is_known => Ok(()),
            _ => Err(KeyLineError::Twice),
        }
    }

    /// The user that has this key.
    pub fn user(&self, key: &str) -> Option<UserId> {
        self.0.get(&digest(key)).cloned()
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.values()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_one_user() {
        let text = "# backends\n\nshop:0123456789abcdef\n  ci : ghijklmnop:qrstuv  \r\n";
        let keys = ApiKeys::parse(text).unwrap();
        let user = |key: &str| keys.user(key).map(|user| user.to_string());
        assert_eq!(user("0123456789abcdef").as_deref(), Some("api-shop"));
        assert_eq!(user("ghijklmnop:qrstuv").as_deref(), Some("api-ci"));
        assert_eq!(user("0123456789abcdeF"), None);
        assert_eq!(user("shop"), None);
        let shown = format!("{keys:?}");
        assert!(shown.contains("api-shop") && !shown.contains("0123"), "{shown}");
    }

    #[test]
    fn a_wrong_line_is_named_by_its_number_and_never_shown() {
        let good = "a:0123456789abcdef\n";
        for (line, why) in [
            ("0123456789abcdef", KeyLineError::Shape),
            (":0123456789abcdef", KeyLineError::Name),
            ("a b:0123456789abcdef", KeyLineError::Name),
            ("b:0123456789abcde", KeyLineError::Key),
            ("b:0123456789 abcdef", KeyLineError::Key),
            ("b:", KeyLineError::Key),
            ("b:0123456789abcdefö", KeyLineError::Key),
            ("b:0123456789abcdef", KeyLineError::Twice),
            ("a:ghijklmnopqrstuv", KeyLineError::Twice),
        ] {
            let refused = ApiKeys::parse(&format!("{good}# b\n{line}\n")).unwrap_err();
            assert_eq!(refused, (3, why), "{line}");
            assert!(!why.to_string().contains("0123"), "{why}");
        }
    }
}
