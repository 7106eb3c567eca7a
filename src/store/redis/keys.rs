//! What everything is called in Redis; docs/protocol.md says what is there.

use crate::domain::{name::UserId, room::RoomName};

/// What the channel of a partition's signals has behind the channel of its messages.
pub const SIGNALS: &str = ":signals";

/// The names in Redis of one partition. The braces keep it on one node of a cluster.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The channel of messages, with which every key begins.
    pub base: String,
}

impl Keys {
    pub fn new(prefix: &str, partition: u16) -> Self {
        Self { base: format!("{prefix}:{{{partition}}}") }
    }

    pub fn channel(&self) -> String {
        self.base.clone()
    }

    /// Of partition 0 only.
    pub fn lost_sessions(&self) -> String {
        format!("{}:sessions", self.base)
    }

    pub fn signals(&self) -> String {
        format!("{}{SIGNALS}", self.base)
    }

    pub fn nodes(&self) -> String {
        format!("{}:nodes", self.base)
    }

    pub fn at(&self, incarnation: &str) -> String {
        format!("{}:at:{incarnation}", self.base)
    }

    pub fn roster(&self, room: &RoomName) -> String {
        format!("{}:roster:{room}", self.base)
    }

    pub fn occupied(&self) -> String {
        format!("{}:occupied", self.base)
    }

    /// Of partition 0 only, and so is the next.
    pub fn user(&self, user: &UserId) -> String {
        format!("{}:user:{user}", self.base)
    }

    pub fn name(&self, key: &str) -> String {
        format!("{}:name:{key}", self.base)
    }

    pub fn read_marks(&self, user: &UserId) -> String {
        format!("{}:read:{user}", self.base)
    }

    pub fn log(&self) -> String {
        format!("{}:log", self.base)
    }

    pub fn meta(&self) -> String {
        format!("{}:meta", self.base)
    }

    pub fn marks(&self) -> String {
        format!("{}:marks", self.base)
    }

    pub fn probe(&self) -> String {
        format!("{}:probe", self.base)
    }

    pub fn rooms(&self) -> String {
        format!("{}:rooms", self.base)
    }

    pub fn ids(&self, bucket: u128) -> String {
        format!("{}:ids:{bucket}", self.base)
    }

    pub fn room(&self, room: &RoomName) -> String {
        format!("{}:room:{room}", self.base)
    }

    /// append.lua makes this name by itself.
    pub fn states(&self, room: &RoomName) -> String {
        format!("{}:state:{room}", self.base)
    }
}
