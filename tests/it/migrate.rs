//! `docs/migrate.md`: every table of rules that it shows is one.

use std::fs;

use crate::harness::node::Node;

#[tokio::test]
async fn every_table_of_the_page_passes_the_check() {
    let page = include_str!("../../docs/migrate.md");
    let tables = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut all = 0;
    for table in tables {
        let path = dir.path().join("rules.toml");
        fs::write(&path, table).expect("it can be written");
        let path = path.to_str().expect("UTF-8");
        let (code, lines) = Node::run(&["events", "check", path], &[]).await;
        assert_eq!(code, 0, "{lines:?}\n{table}");
        all += 1;
    }
    assert!(all > 10, "{all} tables");
}
