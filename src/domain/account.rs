//! An account: a user with an email address and a password, and the pictures that accounts upload.

use std::{fmt, sync::Arc};

use unicode_normalization::UnicodeNormalization;

use crate::domain::{
    name::{UserId, UserName},
    position::Timestamp,
};

/// Longest email address, in bytes, as mail servers allow it.
pub const EMAIL_BYTES_MAX: usize = 254;
/// Largest picture file, in bytes.
pub const PICTURE_FILE_BYTES_MAX: usize = 1 << 20;
/// Accounts in a list: the newest ones.
pub const ACCOUNTS_LISTED_MAX: u32 = 1_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub id: UserId,
    /// Two accounts may have the same name.
    pub full_name: UserName,
    pub email: Email,
    pub password: PasswordHash,
    pub picture: Option<PictureName>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// An email address in one form: two addresses that differ in case only are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Email(Arc<str>);

/// The text is no email address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no email address")]
pub struct NoEmail;

impl Email {
    pub fn parse(text: &str) -> Result<Self, NoEmail> {
        let text: String = text.trim().nfkc().collect::<String>().to_lowercase().nfkc().collect();
        let odd = |c: char| c.is_whitespace() || c.is_control() || "<>\"(),;:\\".contains(c);
        let is_address = match text.split_once('@') {
            Some((local, host)) => !local.is_empty() && !host.is_empty() && !host.contains('@'),
            None => false,
        };
        if !is_address || text.len() > EMAIL_BYTES_MAX || text.chars().any(odd) {
            return Err(NoEmail);
        }
        Ok(Self(Arc::from(text)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is kept of a password. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(Arc<str>);

impl PasswordHash {
    pub fn new(text: &str) -> Self {
        Self(Arc::from(text))
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What kind of picture a file is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PictureKind {
    Png,
    Jpeg,
    Gif,
    Webp,
}

impl PictureKind {
    const ALL: [Self; 4] = [Self::Png, Self::Jpeg, Self::Gif, Self::Webp];

    pub fn of(file: &[u8]) -> Option<Self> {
        match file {
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Self::Png),
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::Webp),
            _ => None,
        }
    }

    /// The end of the file's name, which is the end of its content type, too.
    fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::Gif => "gif",
            Self::Webp => "webp",
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Gif => "image/gif",
            Self::Webp => "image/webp",
        }
    }
}

/// The name of a picture file: a digest that cannot be guessed, and its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PictureName {
    text: Arc<str>,
    kind: PictureKind,
}

impl PictureName {
    /// Digits of the digest.
    const DIGEST: usize = 32;

    /// `digest` has hex digits.
    pub fn new(digest: &str, kind: PictureKind) -> Option<Self> {
        Self::parse(&format!("{digest}.{}", kind.extension()))
    }

    pub fn parse(text: &str) -> Option<Self> {
        let (digest, extension) = text.split_once('.')?;
        let kind = PictureKind::ALL.into_iter().find(|kind| kind.extension() == extension)?;
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let fits = digest.len() == Self::DIGEST && digest.bytes().all(is_hex);
        fits.then(|| Self { text: Arc::from(text), kind })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn kind(&self) -> PictureKind {
        self.kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_email_address_has_one_form() {
        let email = |text: &str| Email::parse(text).map(|email| email.as_str().to_owned());
        for same in ["Ann@Example.ORG", " ann@example.org\t", "\u{ff21}nn@example.org"] {
            assert_eq!(email(same), Ok("ann@example.org".into()), "{same:?}");
        }
        let long = format!("{}@b", "a".repeat(EMAIL_BYTES_MAX - 1));
        for none in
            ["", "ann", "@", "ann@", "@b", "a@b@c", "a b@c", "a\n@b", "a@b>", "a:b@c", &long]
        {
            assert_eq!(email(none), Err(NoEmail), "{none:?}");
        }
    }

    #[test]
    fn a_picture_is_known_by_its_first_bytes() {
        for (file, kind) in [
            (&b"\x89PNG\r\n\x1a\nrest"[..], Some(PictureKind::Png)),
            (b"\xff\xd8\xff\xe0", Some(PictureKind::Jpeg)),
            (b"GIF89a", Some(PictureKind::Gif)),
            (b"RIFF\x01\x02\x03\x04WEBPVP8 ", Some(PictureKind::Webp)),
            (b"RIFF\x01\x02\x03\x04WAVE", None),
            (b"<svg onload=alert(1)>", None),
            (b"", None),
        ] {
            assert_eq!(PictureKind::of(file), kind, "{file:?}");
        }
    }

    #[test]
    fn the_name_of_a_picture_is_a_digest_and_a_kind() {
        let digest = "0123456789abcdef".repeat(2);
        let name = PictureName::new(&digest, PictureKind::Jpeg).unwrap();
        assert_eq!(name.as_str(), format!("{digest}.jpeg"));
        assert_eq!(PictureName::parse(name.as_str()), Some(name));
        for wrong in ["", "a.png", &format!("{digest}.svg"), &format!("../{digest}.png")] {
            assert_eq!(PictureName::parse(wrong), None, "{wrong}");
        }
        assert_eq!(format!("{:?}", PasswordHash::new("secret")), "***");
    }
}
