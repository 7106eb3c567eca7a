//! Values that each end at a time of their own, by room and user.

use std::{
    collections::{BTreeSet, HashMap},
    time::Instant,
};

use crate::domain::{name::UserId, room::RoomName};

type Place = (RoomName, UserId);

#[derive(Debug)]
pub struct Expiring<V> {
    values: HashMap<Place, (Instant, V)>,
    /// The same places, ordered by their ends.
    ends: BTreeSet<(Instant, Place)>,
}

impl<V> Default for Expiring<V> {
    fn default() -> Self {
        Self { values: HashMap::new(), ends: BTreeSet::new() }
    }
}

impl<V> Expiring<V> {
    /// Answers the value that was there before.
    pub fn set(&mut self, place: Place, end: Instant, value: V) -> Option<V> {
        let before = self.remove(&place);
        self.ends.insert((end, place.clone()));
        self.values.insert(place, (end, value));
        before
    }

    pub fn get(&self, place: &Place) -> Option<&V> {
        self.values.get(place).map(|(_, value)| value)
    }

    pub fn remove(&mut self, place: &Place) -> Option<V> {
        let (end, value) = self.values.remove(place)?;
        self.ends.remove(&(end, place.clone()));
        Some(value)
    }

    pub fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// Removes one value whose end has come.
    pub fn pop_ended(&mut self, now: Instant) -> Option<(Place, V)> {
        let (_, place) = self.ends.first().filter(|(end, _)| *end <= now)?.clone();
        self.remove(&place).map(|value| (place, value))
    }
}
