//! Who gets what in one pass.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU32},
};

use bytes::{Bytes, BytesMut};
use socketioxide_core::{Sid, adapter::BroadcastOptions};

use crate::transport::flush::{
    FEW_MAX,
    queue::{Audience, Outgoing},
};
use crate::transport::registry::BySession;

/// Frames up to this size are joined once for all who get them: one slice costs more than the copy.
const JOINED_MAX: usize = 4 << 10;

/// One audience's messages, from the given place in the pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slice {
    pub group: usize,
    pub from: usize,
}

/// Which messages a client gets: everybody with the same share gets the same bytes.
pub type RecipientSet = u32;
pub const NOTHING: RecipientSet = 0;

/// Who gets what in one pass.
pub struct FlushPlan<'a> {
    /// Stamp of the first message.
    pub first: u64,
    pub messages: &'a [Arc<Outgoing>],
    pub audiences: Vec<&'a Audience>,
    /// The audience of each message.
    pub groups: Vec<usize>,
    /// How many clients each audience has here.
    pub sizes: Vec<usize>,
    /// What is still due to each client. Atomic only because the plan lives across awaits.
    pub recipients: BySession<AtomicU32>,
    /// The parts of each share, in the order in which they were added.
    pub shares: Vec<Vec<Slice>>,
    /// The share that a share becomes with one more part.
    pub grown: HashMap<(RecipientSet, Slice), RecipientSet, foldhash::fast::RandomState>,
    /// What each share is in bytes, once somebody gets it.
    pub chunks: Vec<Option<Vec<Bytes>>>,
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
            shares: vec![Vec::new()],
            grown: HashMap::default(),
            chunks: Vec::new(),
        }
    }

    pub fn audiences(&self) -> &[&'a Audience] {
        &self.audiences
    }

    /// The audiences that are more than a few.
    pub fn large(&self) -> Vec<BroadcastOptions> {
        let sized = self.audiences.iter().zip(&self.sizes);
        sized.filter(|(_, size)| **size > FEW_MAX).map(|(to, _)| to.0.clone()).collect()
    }

    pub fn add(&mut self, sid: Sid, part: Slice) {
        let Self { recipients, shares, grown, .. } = self;
        let share = recipients.entry(sid).or_default().get_mut();
        *share = *grown.entry((*share, part)).or_insert_with(|| {
            let mut parts = shares[*share as usize].clone();
            parts.push(part);
            shares.push(parts);
            RecipientSet::try_from(shares.len() - 1)
                .expect("fewer shares than sockets and audiences")
        });
    }

    pub fn messages(&self, share: RecipientSet) -> impl Iterator<Item = &'a Arc<Outgoing>> {
        let parts = &self.shares[share as usize];
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

    pub fn chunks(&mut self, share: RecipientSet) -> &[Bytes] {
        let at = share as usize;
        self.chunks.resize(self.shares.len(), None);
        if self.chunks[at].is_none() {
            self.chunks[at] = Some(join(self.messages(share).map(|message| &message.frames)));
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
