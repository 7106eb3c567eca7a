//! A user and its profile: what others see of it.

use std::{fmt, sync::Arc};

use crate::domain::name::{USER_NAME_CHARS_MAX, UserId, UserName};

/// How the ids of API keys begin. The id that a token gives has hex digits only, so no token gives
/// one of these.
const API_KEY_PREFIX: &str = "api-";
/// Longest name of an API key: the ids of two of them fit into the name of their direct room.
pub const API_KEY_NAME_MAX: usize = 26;

/// Longest picture, in bytes.
pub const PICTURE_BYTES_MAX: usize = 8 << 10;

/// A user as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub id: UserId,
    pub name: UserName,
    pub picture: Option<Picture>,
}

/// A change of a profile. A field that is `None` stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfilePatch {
    pub user: UserId,
    pub name: Option<UserName>,
    pub picture: Option<Picture>,
}

impl User {
    /// A user that has not chosen a name. Another user may choose the name that a guest is shown
    /// with.
    pub fn guest(id: UserId) -> Self {
        let name = UserName::parse(&Self::guest_name(&id)).expect("a short name without controls");
        Self { id, name, picture: None }
    }

    /// What a user without a name is called. An API key is called by its own name.
    pub fn guest_name(id: &UserId) -> String {
        let name = id.as_str().strip_prefix(API_KEY_PREFIX);
        if let Some(name) = name.filter(|name| is_api_key_name(name)) {
            return name.to_owned();
        }
        let short: String = id.as_str().chars().take(6).collect();
        format!("guest {short}")
    }

    /// The name of a guest that only says how it is called. It is never equal to another user's
    /// name, because it ends in the name of the guest.
    pub fn claimed_name(claimed: &UserName, id: &UserId) -> UserName {
        let end = format!(" ({})", Self::guest_name(id));
        let room = USER_NAME_CHARS_MAX - end.chars().count();
        let begin: String = claimed.as_str().chars().take(room).collect();
        UserName::parse(&(begin + &end)).expect("the beginning of a name, and a short end")
    }

    /// The name, if the user has chosen it: `None` for the name of a guest.
    pub fn said_name(&self) -> Option<&UserName> {
        (self.name.as_str() != Self::guest_name(&self.id)).then_some(&self.name)
    }
}

/// The user that an API key of this name acts as. `None`: no key can have this name.
pub fn api_key_user(name: &str) -> Option<UserId> {
    let id = is_api_key_name(name).then(|| format!("{API_KEY_PREFIX}{name}"))?;
    UserId::parse(&id).ok()
}

/// Letters, digits and `-_.`: no colon, which ends an id in the name of a direct room.
fn is_api_key_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=API_KEY_NAME_MAX).contains(&name.len()) && name.bytes().all(plain)
}

impl ProfilePatch {
    /// The user after the change. `known` is `None` for a user without a stored profile.
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

/// The URL of a picture: `https:` or `data:image/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture(Arc<str>);

/// Why a text is not a picture. The client is shown this text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    #[error("picture is longer than {PICTURE_BYTES_MAX} bytes")]
    TooLong,
    #[error("picture is no https: or data:image/ URL")]
    NoUrl,
}

impl Picture {
    /// A URL has only visible ASCII characters, and of these none that could end an HTML attribute.
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
    use crate::domain::room::RoomName;

    #[test]
    fn an_api_key_is_a_user_with_its_own_name() {
        let longest = "k".repeat(API_KEY_NAME_MAX);
        for name in ["bot", "CI-1.a_b", longest.as_str()] {
            let user = api_key_user(name).unwrap();
            assert_eq!(User::guest(user.clone()).name.as_str(), name);
            assert!(RoomName::direct(&user, &api_key_user(&longest).unwrap()).is_some());
        }
        for name in ["", "a:b", "a b", "ö", &format!("{longest}k")] {
            assert_eq!(api_key_user(name), None, "{name:?}");
        }
        for id in ["api-", "api-a:b", "api-\u{200b}"] {
            let guest = User::guest(UserId::parse(id).unwrap());
            assert!(guest.name.as_str().starts_with("guest "), "{guest:?}");
        }
    }

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
