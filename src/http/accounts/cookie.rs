//! The cookie `jwt` with the token of an account.
//!
//! Scripts cannot read it, and a browser sends it only with requests of pages of the same site.

use http::{HeaderMap, HeaderValue, Uri, uri::Scheme};

use crate::{chat::accounts::TOKEN_LIFE, dialects::mern::COOKIE};

/// The cookie of a client that has logged in. `None` as the token: of one that has logged out.
pub fn set(token: Option<&str>, is_https: bool) -> Option<HeaderValue> {
    let (token, life) = (token.unwrap_or_default(), token.map_or(0, |_| TOKEN_LIFE.as_secs()));
    let secure = if is_https { "; Secure" } else { "" };
    let text =
        format!("{COOKIE}={token}; Max-Age={life}; Path=/; HttpOnly; SameSite=Strict{secure}");
    HeaderValue::try_from(text).ok()
}

/// Whether the browser uses TLS. A proxy that ends TLS says so.
pub fn is_https(uri: &Uri, headers: &HeaderMap) -> bool {
    let forwarded = headers.get("x-forwarded-proto").and_then(|value| value.to_str().ok());
    let first = forwarded.and_then(|list| list.split(',').next());
    first.is_some_and(|scheme| scheme.trim().eq_ignore_ascii_case("https"))
        || uri.scheme() == Some(&Scheme::HTTPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_is_for_this_site_only_and_ends() {
        let text = |value: Option<HeaderValue>| value.unwrap().to_str().unwrap().to_owned();
        let plain = "Path=/; HttpOnly; SameSite=Strict";
        assert_eq!(text(set(Some("t"), false)), format!("jwt=t; Max-Age=604800; {plain}"));
        assert_eq!(text(set(None, true)), format!("jwt=; Max-Age=0; {plain}; Secure"));
    }
}
