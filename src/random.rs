//! Random texts for names that nobody may guess, or that must never come twice.

use std::fmt::Write;

/// `N` random bytes as hex digits.
pub fn hex<const N: usize>() -> String {
    let mut random = [0; N];
    getrandom::fill(&mut random).expect("the system gives random bytes");
    let mut text = String::with_capacity(N * 2);
    for byte in random {
        write!(text, "{byte:02x}").expect("a string takes everything");
    }
    text
}
