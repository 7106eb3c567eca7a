//! The names of everything in Redis; docs/protocol.md says what each holds.

use crate::{
    domain::{
        account::PictureName,
        name::{PublicId, UserId},
        room::RoomName,
    },
    random,
};

/// What follows the name of a partition's message channel in the name of its signal channel.
pub const SIGNALS: &str = ":signals";

/// What all names of one chat begin with.
#[derive(Debug, Clone)]
pub struct Prefix {
    text: String,
    /// Redis keeps keys apart by database, but not channels.
    channel_suffix: String,
}

impl Prefix {
    pub fn new(text: &str, database: u8) -> Self {
        let channel_suffix = if database == 0 { String::new() } else { format!("@{database}") };
        Self { text: text.to_owned(), channel_suffix }
    }
}

/// The names in one partition. The braces keep its keys on one node of a cluster.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The beginning of every key.
    base: String,
    /// The channel of messages.
    pub channel: String,
    prefix: String,
}

impl Keys {
    pub fn new(prefix: &Prefix, partition: u16) -> Self {
        let Prefix { text, channel_suffix } = prefix;
        let base = format!("{text}:{{{partition}}}");
        Self { channel: format!("{base}{channel_suffix}"), base, prefix: text.clone() }
    }

    pub fn channel(&self) -> String {
        self.channel.clone()
    }

    pub fn signals(&self) -> String {
        format!("{}{SIGNALS}", self.channel)
    }

    /// The channel of claims, of partition 0 only.
    pub fn claimed_sessions(&self) -> String {
        format!("{}:sessions", self.channel)
    }

    pub fn nodes(&self) -> String {
        format!("{}:nodes", self.base)
    }

    /// Of partition 0 only.
    pub fn agreed(&self) -> String {
        format!("{}:agreed", self.base)
    }

    /// Which users of one incarnation are in which rooms.
    pub fn at(&self, incarnation: &str) -> String {
        format!("{}:at:{incarnation}", self.base)
    }

    pub fn held(&self, incarnation: &str) -> String {
        format!("{}:held:{incarnation}", self.base)
    }

    pub fn claims(&self) -> String {
        format!("{}:claims", self.base)
    }

    pub fn session(&self, session: &PublicId) -> String {
        format!("{}:session:{session}", self.base)
    }

    /// Where releases before the lease per node keep a session.
    pub fn older_session(&self, session: &PublicId) -> String {
        format!("{}:session:{session}", self.prefix)
    }

    pub fn roster(&self, room: &RoomName) -> String {
        format!("{}:roster:{room}", self.base)
    }

    /// How many members each room has that has any.
    pub fn peopled(&self) -> String {
        format!("{}:peopled", self.base)
    }

    /// Of partition 0 only, and so is the next.
    pub fn user(&self, user: &UserId) -> String {
        format!("{}:user:{user}", self.base)
    }

    pub fn name(&self, key: &str) -> String {
        format!("{}:name:{key}", self.base)
    }

    /// Of partition 0 only, and so are the next four.
    pub fn accounts(&self) -> String {
        format!("{}:accounts", self.base)
    }

    pub fn emails(&self) -> String {
        format!("{}:emails", self.base)
    }

    pub fn account_list(&self) -> String {
        format!("{}:account-list", self.base)
    }

    pub fn picture(&self, name: &PictureName) -> String {
        format!("{}:picture:{}", self.base, name.as_str())
    }

    pub fn token_key(&self) -> String {
        format!("{}:token-key", self.base)
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

    /// The trim points of the log, which append.lua describes.
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

    pub fn states(&self, room: &RoomName) -> String {
        format!("{}:state:{room}", self.base)
    }
}

/// The partition of a room or session. FNV-1a is the same on every node and release.
pub fn partition_of(name: &str, partitions: u16) -> u16 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    u16::try_from(hash % u64::from(partitions.max(1))).unwrap_or_default()
}

/// A name that nothing else has, for one life of a node, of the log or of a writer.
pub fn fresh_name() -> String {
    random::hex::<8>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_channels_carry_the_number_of_the_database() {
        let keys = |database| Keys::new(&Prefix::new("rc", database), 3);
        assert_eq!([keys(0).channel(), keys(0).signals()], ["rc:{3}", "rc:{3}:signals"]);
        assert_eq!([keys(1).channel(), keys(1).signals()], ["rc:{3}@1", "rc:{3}@1:signals"]);
        assert_eq!(keys(1).claimed_sessions(), "rc:{3}@1:sessions");
        assert_eq!(keys(1).log(), keys(0).log());
    }
}
