//! How the values of flags are written, and what is allowed.

use std::{convert::Infallible, net::SocketAddr, path::PathBuf, time::Duration};

/// An address to serve on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress {
    pub address: SocketAddr,
    /// The profile of its connections, where they have no choice.
    pub profile: Option<String>,
}

pub fn duration(text: &str) -> Result<Duration, String> {
    let wanted = "a whole number with a unit: 500ms, 25s, 2m, 12h or 30d";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_not_a_number| format!("expected {wanted}"))?;
    let millis_each = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(format!("expected {wanted}")),
    };
    match number.checked_mul(millis_each) {
        Some(0) => Err("it must be longer than nothing".into()),
        Some(millis) if millis <= 3_650 * 86_400_000 => Ok(Duration::from_millis(millis)),
        _ => Err("it must be at most 3650d".into()),
    }
}

pub fn size(text: &str) -> Result<usize, String> {
    let wanted = "bytes as a whole number, or with a unit: 4096, 32KiB or 1MiB";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: usize = number.parse().map_err(|_not_a_number| format!("expected {wanted}"))?;
    let bytes_each = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => return Err(format!("expected {wanted}")),
    };
    match number.checked_mul(bytes_each) {
        Some(bytes) if (256..=64 << 20).contains(&bytes) => Ok(bytes),
        _ => Err("it must be between 256 and 64MiB".into()),
    }
}

pub fn listener(text: &str) -> Result<ListenAddress, String> {
    let (address, profile) = match text.split_once('=') {
        Some((address, profile)) => (address, Some(profile.to_owned())),
        None => (text, None),
    };
    let wanted = "an address with a port, such as 0.0.0.0:9000 or 0.0.0.0:8000=turbo";
    if profile.as_ref().is_some_and(String::is_empty) {
        return Err(format!("expected the name of a profile after =: {wanted}"));
    }
    let address = address.parse().map_err(|_not_an_address| format!("expected {wanted}"))?;
    Ok(ListenAddress { address, profile })
}

/// clap's own parser refuses an empty value, which counts as not set.
pub fn path(text: &str) -> Result<PathBuf, Infallible> {
    Ok(PathBuf::from(text))
}

pub fn origin(text: &str) -> Result<String, String> {
    let text = text.trim_end_matches('/');
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match host {
        _ if text == "*" => Ok(text.to_owned()),
        Some(host) if !host.is_empty() && !host.contains('/') => Ok(text.to_ascii_lowercase()),
        _ => Err("expected * or scheme and host, such as https://chat.example.org".into()),
    }
}

/// Ends with a slash, as official clients ask for it whether or not their option does.
pub fn socket_path(text: &str) -> Result<String, String> {
    let wanted = "expected a path such as /socket.io/ or /chat/socket";
    let inside = text.trim_end_matches('/').strip_prefix('/').ok_or(wanted)?;
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.~".contains(c);
    let is_fine = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(fine);
    if !inside.split('/').all(is_fine) {
        return Err(format!("{wanted}, of letters, digits and -_.~"));
    }
    let first = inside.split('/').next().unwrap_or_default();
    if ["api", "healthz", "readyz", "roomcast"].contains(&first) {
        return Err(format!("/{first} is used for something else: {wanted}"));
    }
    Ok(format!("/{inside}/"))
}

/// Braces in the prefix would change the hash tag that Redis Cluster uses.
pub fn prefix(text: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if (1..=64).contains(&text.len()) && text.chars().all(fine) {
        return Ok(text.to_owned());
    }
    Err("expected 1 to 64 letters, digits or -_.:".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_understood_and_bounded() {
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("2").is_err() && duration("0s").is_err() && duration("9999d").is_err());
        assert_eq!(size("32KiB"), Ok(32_768));
        assert!(size("1").is_err() && size("65MiB").is_err() && size("-1").is_err());
    }
}
