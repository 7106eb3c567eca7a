//! Ids and names that people and programs type: of users, messages, sessions and emoji.
//!
//! `parse` is the only way to make one, so a value of these types is always within its bounds and
//! safe in a key, a log line or a JSON string.

use std::{borrow::Borrow, fmt, sync::Arc};

use unicode_normalization::UnicodeNormalization;

/// Longest user id, in characters.
pub const USER_CHARS_MAX: usize = 64;
/// Longest client message id, in characters.
pub const MESSAGE_ID_CHARS_MAX: usize = 64;
/// Longest public id of a session, in characters.
pub const PUBLIC_ID_CHARS_MAX: usize = 64;
/// Longest emoji, in characters: the longest one in Unicode has ten, and a `:name:` fits as well.
pub const EMOJI_CHARS_MAX: usize = 32;
/// Longest name of a user, in characters.
pub const USER_NAME_CHARS_MAX: usize = 40;

/// Why a text is not a name. The client is shown this text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("{what} is empty")]
    Empty { what: &'static str },
    #[error("{what} is longer than {max} characters")]
    TooLong { what: &'static str, max: usize },
    #[error("{what} has a control character")]
    Control { what: &'static str },
    #[error("{what} has a character that turns the direction of the text around it")]
    Direction { what: &'static str },
}

/// The trimmed text, if it is a name of at most `max` characters. Letters of every script are
/// allowed; control characters are not, because a line break or a NUL would break keys and logs.
pub(super) fn bounded(text: &str, what: &'static str, max: usize) -> Result<Arc<str>, NameError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    if text.chars().count() > max {
        return Err(NameError::TooLong { what, max });
    }
    if text.chars().any(char::is_control) {
        return Err(NameError::Control { what });
    }
    Ok(Arc::from(text))
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $max:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            pub fn parse(text: &str) -> Result<Self, NameError> {
                bounded(text, $what, $max).map(Self)
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        /// A map with these keys can be read with a text.
        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The id of a user. It stays the same when the user reconnects.
    UserId, "user", USER_CHARS_MAX
);
name!(
    /// The client's own id of a message. A retry with the same id is the same message.
    MessageId, "id", MESSAGE_ID_CHARS_MAX
);
name!(
    /// The public name of a session: the fingerprint of its secret key.
    PublicId, "public id", PUBLIC_ID_CHARS_MAX
);
name!(
    /// The text of a reaction. It need not be an emoji of Unicode.
    Emoji, "emoji", EMOJI_CHARS_MAX
);

/// The name that a user has chosen, shown beside the messages of the user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UserName(Arc<str>);

impl UserName {
    const WHAT: &'static str = "name";

    /// Each run of white space becomes one space: line breaks or long gaps in a name could imitate
    /// other parts of the page.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let name = bounded(&text, Self::WHAT, USER_NAME_CHARS_MAX).map(Self)?;
        if name.0.chars().any(turns_direction) {
            return Err(NameError::Direction { what: Self::WHAT });
        }
        if name.key().trim().is_empty() {
            return Err(NameError::Empty { what: Self::WHAT });
        }
        Ok(name)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Two users may not have names with the same key. The key leaves out what is hard to see:
    /// case, width, how an accent is composed, and invisible characters.
    pub fn key(&self) -> String {
        let seen: String = self.0.chars().filter(|c| !is_invisible(*c)).nfkc().collect();
        let folded: String = seen.to_lowercase().nfkc().collect();
        folded.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Embeddings, overrides and isolates. They would also turn the direction of text after the name.
fn turns_direction(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Characters that draw nothing by themselves: joiners, marks, selectors, tags.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fff8}' | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_name_or_a_control_character_is_refused() {
        assert_eq!(MessageId::parse(" "), Err(NameError::Empty { what: "id" }));
        assert_eq!(UserId::parse("a\nb"), Err(NameError::Control { what: "user" }));
    }

    #[test]
    fn a_user_name_has_no_line_break_and_does_not_turn_the_text() {
        let name = |text: &str| UserName::parse(text).map(|name| name.to_string());
        assert_eq!(name(" Ada \t\n  L\u{a0}"), Ok("Ada L".into()));
        assert_eq!(name(&"ö".repeat(40)), Ok("ö".repeat(40)));
        assert_eq!(name(&"ö".repeat(41)), Err(NameError::TooLong { what: "name", max: 40 }));
        for nothing in ["", " ", "\u{200b}", "\u{3164} \u{200d}"] {
            assert_eq!(name(nothing), Err(NameError::Empty { what: "name" }), "{nothing:?}");
        }
        assert_eq!(name("a\0b"), Err(NameError::Control { what: "name" }));
        for turned in ["a\u{202e}b", "a\u{2066}b\u{2069}"] {
            assert_eq!(name(turned), Err(NameError::Direction { what: "name" }), "{turned:?}");
        }
        let family = "\u{1f469}\u{200d}\u{1f467}";
        assert_eq!(name(family), Ok(family.into()), "a joiner has its place");
    }

    #[test]
    fn names_that_look_alike_have_one_key() {
        let key = |text: &str| UserName::parse(text).unwrap().key();
        for (one, other) in [
            ("Ada", "ada"),
            ("ada", "a\u{200b}d\u{ad}a"),
            ("ada", "\u{ff21}da"),
            ("é", "e\u{301}"),
            ("É", "e\u{301}"),
            ("ﬁn", "FIN"),
            ("a b", "a\u{3000}b"),
            ("İ", "i\u{307}"),
        ] {
            assert_eq!(key(one), key(other), "{one:?} {other:?}");
        }
        for (one, other) in [("ada", "adb"), ("e", "é"), ("ab", "a b")] {
            assert_ne!(key(one), key(other), "{one:?} {other:?}");
        }
    }
}
