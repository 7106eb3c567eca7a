//! `docs/migrate.md`: every table of rules that it shows is one.

use roomcast::dialects::events::table::Table;

#[test]
fn every_table_of_the_page_has_no_mistake() {
    let page = include_str!("../../docs/migrate.md");
    let tables = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut rows = 0;
    for table in tables {
        match Table::parse(table, "docs/migrate.md") {
            Ok(parsed) => rows += parsed.rows() - Table::builtin().rows(),
            Err(error) => panic!("{error}\n{table}"),
        }
    }
    assert!(rows >= 12, "the page shows {rows} rows that are not built in");
}
