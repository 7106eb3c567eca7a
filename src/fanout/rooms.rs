//! Which rooms this node holds, and in which dialects they are spoken: what nobody here wants is
//! neither rendered nor queued.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::dialect::Dialect;
use crate::domain::name::RoomName;

/// Sockets of one room, by dialect.
type Count = [u32; Dialect::ALL.len()];

/// A clonable handle.
#[derive(Debug, Clone, Default)]
pub struct Rooms(Arc<Mutex<HashMap<RoomName, Count>>>);

impl Rooms {
    pub fn enter(&self, room: &RoomName, dialect: Dialect) {
        self.lock().entry(room.clone()).or_default()[dialect as usize] += 1;
    }

    /// For a socket that has entered.
    pub fn leave(&self, room: &RoomName, dialect: Dialect) {
        let mut rooms = self.lock();
        if let Some(count) = rooms.get_mut(room) {
            count[dialect as usize] -= 1;
            if *count == Count::default() {
                rooms.remove(room);
            }
        }
    }

    pub fn dialects(&self, room: &RoomName) -> impl Iterator<Item = Dialect> + use<> {
        let count = self.lock().get(room).copied().unwrap_or_default();
        Dialect::ALL.into_iter().filter(move |dialect| count[*dialect as usize] > 0)
    }

    pub fn all(&self) -> Vec<RoomName> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RoomName, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
