//! The token of an account, `v1.<id>.<end>.<signature>`, signed with a key that all nodes share.

use std::{fmt, time::Duration};

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::{
    domain::{
        account::{PictureKind, PictureName},
        name::UserId,
        position::Timestamp,
    },
    random,
};

/// How long a token is valid.
pub const TOKEN_LIFE: Duration = Duration::from_secs(7 * 86_400);
const VERSION: &str = "v1.";

/// `Debug` does not show it.
pub struct TokenKey(Hmac<Sha256>);

/// Whether a text can be the token of an account. Tokens of other users are not looked up.
pub fn has_shape(token: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.';
    token.starts_with(VERSION) && token.len() < 200 && token.bytes().all(is_plain)
}

impl TokenKey {
    pub fn new(key: &str) -> Self {
        Self(Hmac::new_from_slice(key.as_bytes()).expect("a key of any length"))
    }

    pub fn sign(&self, user: &UserId, now: Timestamp) -> String {
        let ends = now.0 / 1_000 + TOKEN_LIFE.as_secs();
        let signed = format!("{VERSION}{user}.{ends}");
        let signature = random::to_hex(&self.mac(&["token", &signed]).finalize().into_bytes());
        format!("{signed}.{signature}")
    }

    /// The user of a token that this key has signed and that has not ended.
    pub fn verify(&self, token: &str, now: Timestamp) -> Option<UserId> {
        let (signed, signature) = token.rsplit_once('.')?;
        let signature = from_hex(signature)?;
        // It takes as long whatever differs.
        self.mac(&["token", signed]).verify_slice(&signature).ok()?;
        let (user, ends) = signed.strip_prefix(VERSION)?.split_once('.')?;
        let ends: u64 = ends.parse().ok()?;
        (now.0 / 1_000 < ends).then(|| UserId::parse(user).ok())?
    }

    /// A name that only this key can make, for a file of this user.
    pub fn picture_name(&self, user: &UserId, file: &[u8], kind: PictureKind) -> PictureName {
        let mut mac = self.mac(&["picture", user.as_str()]);
        mac.update(file);
        let digest = random::to_hex(&mac.finalize().into_bytes()[..16]);
        PictureName::new(&digest, kind).expect("hex digits and a kind")
    }

    /// Each part ends in a byte that no part has.
    fn mac(&self, parts: &[&str]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(part.as_bytes());
            mac.update(b"\n");
        }
        mac
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    text.as_bytes().chunks(2).map(digits).collect()
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_proves_its_user_until_it_ends() {
        let (key, now) = (TokenKey::new("a"), Timestamp(1_732_800_000_000));
        let ann = UserId::parse("0123456789abcdef01234567").unwrap();
        let token = key.sign(&ann, now);
        assert!(has_shape(&token), "{token}");
        let at = |seconds: u64| Timestamp(now.0 + seconds * 1_000);
        assert_eq!(key.verify(&token, now), Some(ann.clone()));
        assert_eq!(key.verify(&token, at(TOKEN_LIFE.as_secs() - 1)), Some(ann.clone()));
        assert_eq!(key.verify(&token, at(TOKEN_LIFE.as_secs())), None);
        assert_eq!(TokenKey::new("b").verify(&token, now), None);
        for index in 0..token.len() {
            let mut forged = token.clone().into_bytes();
            forged[index] = if forged[index] == b'1' { b'2' } else { b'1' };
            let forged = String::from_utf8(forged).unwrap();
            assert_eq!(key.verify(&forged, now), None, "{forged}");
        }
        let cut = token.strip_suffix(char::is_alphanumeric).unwrap();
        for none in ["", "v1.", "v1...", "v1.a.b.c", cut] {
            assert_eq!(key.verify(none, now), None, "{none}");
        }
    }

    #[test]
    fn the_name_of_a_picture_depends_on_key_user_and_file() {
        let name = |key: &str, user: &str, file: &[u8]| {
            let user = UserId::parse(user).unwrap();
            TokenKey::new(key).picture_name(&user, file, PictureKind::Png).as_str().to_owned()
        };
        let one = name("k", "ann", b"file");
        assert_eq!(name("k", "ann", b"file"), one);
        for other in
            [name("l", "ann", b"file"), name("k", "bob", b"file"), name("k", "ann", b"fil")]
        {
            assert_ne!(other, one);
        }
    }
}
