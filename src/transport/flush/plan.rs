//! Which client gets which messages in one flush.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU32},
};

use bytes::{Bytes, BytesMut};
use socketioxide_core::{Sid, adapter::BroadcastOptions};

use crate::transport::connection::BySession;
use crate::transport::flush::queue::{Audience, Outgoing};

/// Frames up to this size are joined, once for all clients that get them: one more slice in a
/// write costs more than the copy.
const JOINED_MAX: usize = 4 << 10;

/// The messages to one audience, from the given place in the flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Part {
    pub group: usize,
    pub from: usize,
}

/// Number of a set of messages: all clients that get the same set get the same bytes.
pub type MessageSet = u32;
pub const NOTHING: MessageSet = 0;

/// Which client gets which messages in one flush.
pub struct FlushPlan<'a> {
    /// Stamp of the first message.
    pub first: u64,
    pub messages: &'a [Arc<Outgoing>],
    pub audiences: Vec<&'a Audience>,
    /// The audience of each message.
    groups: Vec<usize>,
    /// How many clients each audience has here.
    pub sizes: Vec<usize>,
    /// The set that is still due to each client. Atomic only because it lives across awaits.
    pub recipients: BySession<AtomicU32>,
    /// The parts of each set, in the order in which they were added.
    sets: Vec<Vec<Part>>,
    /// The set that a set becomes with one more part.
    grown: HashMap<(MessageSet, Part), MessageSet, foldhash::fast::RandomState>,
    /// The bytes of each set, once a client gets it.
    chunks: Vec<Option<Vec<Bytes>>>,
}

impl<'a> FlushPlan<'a> {
    pub fn new(first: u64, messages: &'a [Arc<Outgoing>]) -> Self {
        let mut audiences = Vec::new();
        let mut known: HashMap<&Audience, usize> = HashMap::new();
        let groups = messages
            .iter()
            .map(|message| {
                *known.entry(&message.audience).or_insert_with(|| {
                    audiences.push(&message.audience);
                    audiences.len() - 1
                })
            })
            .collect();
        Self {
            first,
            messages,
            audiences,
            groups,
            sizes: Vec::new(),
            recipients: BySession::default(),
            sets: vec![Vec::new()],
            grown: HashMap::default(),
            chunks: Vec::new(),
        }
    }

    /// The audiences with more than `few_max` clients here.
    pub fn large(&self, few_max: usize) -> Vec<BroadcastOptions> {
        let sized = self.audiences.iter().zip(&self.sizes);
        sized.filter(|(_, size)| **size > few_max).map(|(to, _)| to.0.clone()).collect()
    }

    pub fn add(&mut self, sid: Sid, part: Part) {
        let Self { recipients, sets, grown, .. } = self;
        let set = recipients.entry(sid).or_default().get_mut();
        *set = *grown.entry((*set, part)).or_insert_with(|| {
            let mut parts = sets[*set as usize].clone();
            parts.push(part);
            sets.push(parts);
            MessageSet::try_from(sets.len() - 1).expect("fewer sets than sockets and audiences")
        });
    }

    pub fn messages(&self, set: MessageSet) -> impl Iterator<Item = &'a Arc<Outgoing>> {
        let parts = &self.sets[set as usize];
        let gets = |at: usize, group: usize| {
            parts.iter().any(|part| part.group == group && part.from <= at)
        };
        self.messages
            .iter()
            .zip(&self.groups)
            .enumerate()
            .filter(move |(at, (_, group))| gets(*at, **group))
            .map(|(_, (message, _))| message)
    }

    pub fn chunks(&mut self, set: MessageSet) -> &[Bytes] {
        let at = set as usize;
        self.chunks.resize(self.sets.len(), None);
        if self.chunks[at].is_none() {
            self.chunks[at] = Some(join(self.messages(set).map(|message| &message.frames)));
        }
        self.chunks[at].as_deref().unwrap_or_default()
    }
}

/// Small frames joined, large ones as they are.
fn join<'a>(frames: impl Iterator<Item = &'a Bytes>) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    let mut small: Vec<&Bytes> = Vec::new();
    let joined = |small: &mut Vec<&Bytes>, chunks: &mut Vec<Bytes>| match small.as_slice() {
        [] => {}
        [one] => chunks.push(Bytes::clone(one)),
        several => {
            let mut all = BytesMut::with_capacity(several.iter().map(|frame| frame.len()).sum());
            several.iter().for_each(|frame| all.extend_from_slice(frame));
            chunks.push(all.freeze());
        }
    };
    for frame in frames {
        if frame.len() <= JOINED_MAX {
            small.push(frame);
        } else {
            joined(&mut small, &mut chunks);
            small.clear();
            chunks.push(frame.clone());
        }
    }
    joined(&mut small, &mut chunks);
    chunks
}
