//! Searches at a store.

use std::path::Path;

use roomcast::{
    domain::{
        message::Message,
        search::{Query, Search},
    },
    store::{Store, search::Found},
};
use tokio::time::timeout;

use super::{
    sqlite_store::database,
    store::{DEADLINE, room, until},
};

pub async fn search(
    store: &Store,
    name: &str,
    text: &str,
    before: Option<u64>,
    limit: u32,
) -> Found {
    let query = Query::parse(text).expect("a query");
    let search = Search { room: room(name), query, before, limit };
    timeout(DEADLINE, store.search.search(search))
        .await
        .expect("in time")
        .expect("it can be searched")
}

/// All that can be found, newest search first, and in how many.
pub async fn search_all(
    store: &Store,
    name: &str,
    text: &str,
    limit: u32,
) -> (Vec<Message>, usize) {
    let (mut all, mut next, mut searches) = (Vec::new(), None, 0);
    loop {
        let found = search(store, name, text, next, limit).await;
        assert!(found.messages.len() <= limit as usize);
        assert!(found.next.is_none() || next.is_none() || found.next < next, "it goes on");
        all.splice(0..0, found.messages);
        (next, searches) = (found.next, searches + 1);
        if next.is_none() {
            return (all, searches);
        }
    }
}

pub fn indexed_to(file: &rusqlite::Connection) -> u64 {
    file.query_row("SELECT indexed_to FROM log", [], |row| row.get(0)).expect("a sequence")
}

pub async fn until_indexed(dir: &Path, seq: u64) {
    let file = database(dir);
    until("it is indexed", || indexed_to(&file) >= seq).await;
}
