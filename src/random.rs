//! Random bytes for names that cannot be guessed or that never repeat, and their text.

use std::{fmt::Write, time::Duration};

/// `N` random bytes as hex digits.
pub fn hex<const N: usize>() -> String {
    let mut random = [0; N];
    getrandom::fill(&mut random).expect("the system gives random bytes");
    to_hex(&random)
}

/// Any time from zero up to `limit`.
pub fn below(limit: Duration) -> Duration {
    let mut random = [0; 4];
    getrandom::fill(&mut random).expect("the system gives random bytes");
    limit.mul_f64(f64::from(u32::from_be_bytes(random)) / f64::from(u32::MAX))
}

/// Two lower-case digits for each byte.
pub fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes everything");
    }
    text
}
