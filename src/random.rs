//! Random bytes for names that cannot be guessed or that never repeat, and their text.

use std::fmt::Write;

/// `N` random bytes as hex digits.
pub fn hex<const N: usize>() -> String {
    let mut random = [0; N];
    getrandom::fill(&mut random).expect("the system gives random bytes");
    to_hex(&random)
}

/// Two lower-case digits for each byte.
pub fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes everything");
    }
    text
}
