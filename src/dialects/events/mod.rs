//! Any frontend, by a table of rules: the event that goes out is a function of the event that came
//! in.
//!
//! The engine awaits nothing, locks nothing and has no clock. `table.rs` is what other modules use;
//! `parse.rs` reads a table and `write.rs` writes it.

pub mod mistakes;
mod parse;
mod parse_row;
pub mod row;
pub mod table;
pub mod template;
#[cfg(test)]
mod tests;
pub mod values;
mod write;
