//! A person: who he is, and what others see of him.

use std::{fmt, sync::Arc};

use crate::domain::name::{UserId, UserName};

/// Longest picture, in bytes.
pub const PICTURE_BYTES_MAX: usize = 8 << 10;

/// A person as others see him.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub id: UserId,
    pub name: UserName,
    pub picture: Option<Picture>,
}

/// What a user changes of what others see of him. What is `None` stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    pub user: UserId,
    pub name: Option<UserName>,
    pub picture: Option<Picture>,
}

impl User {
    /// Who has not said his name. Nobody is kept from calling himself the same.
    pub fn guest(id: UserId) -> Self {
        let name = UserName::parse(&Self::guest_name(&id)).expect("a short name without controls");
        Self { id, name, picture: None }
    }

    pub fn guest_name(id: &UserId) -> String {
        let short: String = id.as_str().chars().take(6).collect();
        format!("guest {short}")
    }

    /// The name, unless it is the one that he has for as long as he says none.
    pub fn said_name(&self) -> Option<&UserName> {
        (self.name.as_str() != Self::guest_name(&self.id)).then_some(&self.name)
    }
}

impl Patch {
    /// The user after it. `None`: nothing was known of him before.
    pub fn apply(&self, known: Option<User>) -> User {
        let mut user = known.unwrap_or_else(|| User::guest(self.user.clone()));
        if let Some(name) = &self.name {
            user.name = name.clone();
        }
        if let Some(picture) = &self.picture {
            user.picture = Some(picture.clone());
        }
        user
    }
}

/// Where a picture is, or the picture itself: an `https:` or a `data:image/` URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture(Arc<str>);

/// Why a text is no picture. The words go to the client as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    #[error("picture is longer than {PICTURE_BYTES_MAX} bytes")]
    TooLong,
    #[error("picture is no https: or data:image/ URL")]
    NoUrl,
}

impl Picture {
    /// Nothing but visible ASCII is in a URL, and none of it ends an attribute of a page.
    pub fn parse(text: &str) -> Result<Self, PictureError> {
        if text.len() > PICTURE_BYTES_MAX {
            return Err(PictureError::TooLong);
        }
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"\"'<>\\`".contains(&byte);
        let begins = ["https://", "data:image/"].into_iter().any(|scheme| {
            text.get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme))
                && text.len() > scheme.len()
        });
        if begins && text.bytes().all(plain) {
            Ok(Self(Arc::from(text)))
        } else {
            Err(PictureError::NoUrl)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_a_short_url_that_is_safe_to_show() {
        for good in ["https://example.org/a.png?b=c", "HTTPS://a", "data:image/png;base64,aGk="] {
            assert_eq!(Picture::parse(good).map(|picture| picture.to_string()), Ok(good.into()));
        }
        for bad in [
            "",
            "https://",
            "http://example.org",
            "javascript:alert(1)",
            "data:text/html,a",
            "https://a b",
            "https://a\"onerror=",
            "https://ö",
            " https://a",
        ] {
            assert_eq!(Picture::parse(bad), Err(PictureError::NoUrl), "{bad:?}");
        }
        let full = format!("https://{}", "a".repeat(PICTURE_BYTES_MAX - 8));
        assert!(Picture::parse(&full).is_ok());
        assert_eq!(Picture::parse(&(full + "a")), Err(PictureError::TooLong));
    }
}
