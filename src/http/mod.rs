//! Everything over HTTP that is not Socket.IO.

pub mod accounts;
pub mod api;
pub mod assets;
pub mod health;
pub mod origin;
pub mod static_dir;
