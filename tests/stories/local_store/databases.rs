//! Databases that Nix 2.8 and 2.34 made, with and without experiments.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use rusqlite::Connection;
use store::local::LocalStore;
use tests::fixture;

use super::{Both, parse};

/// Returns the rows of a table of values that was written down.
fn rows(name: &str) -> Vec<Vec<Option<String>>> {
    let text = fs::read_to_string(fixture("nix/db").join(name)).unwrap();
    let cell = |cell: &str| (cell != "NULL").then(|| cell.to_owned());
    text.lines().skip(1).map(|line| line.split('\t').map(cell).collect()).collect()
}

/// Makes a database as `version` of Nix made it.
fn rebuild(root: &Path, version: &str, schema: &str, journal: &str) {
    let folder = root.join("nix/var/nix/db");
    fs::create_dir_all(root.join("nix/store")).unwrap();
    fs::create_dir_all(&folder).unwrap();
    let database = Connection::open(folder.join("db.sqlite")).unwrap();
    database.pragma_update(None, "journal_mode", journal).unwrap();
    let schema = fs::read_to_string(fixture("nix/db").join(schema)).unwrap();
    // SQLite makes this table by itself, and lets nobody else.
    database.execute_batch(&schema.replace("CREATE TABLE sqlite_sequence(name,seq);", "")).unwrap();
    for table in ["ValidPaths", "Refs", "DerivationOutputs"] {
        for row in rows(&format!("{table}-{version}.tsv")) {
            let marks = vec!["?"; row.len()].join(", ");
            let sql = format!("INSERT INTO {table} VALUES ({marks})");
            database.execute(&sql, rusqlite::params_from_iter(row)).unwrap();
        }
    }
    fs::write(folder.join("schema"), "10").unwrap();
}

fn journal_mode(root: &Path) -> String {
    let database = Connection::open(root.join("nix/var/nix/db/db.sqlite")).unwrap();
    database.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap()
}

fn check(version: &str, schema: &str, journal: &str) {
    let both = Both::new();
    rebuild(&both.root, version, schema, journal);
    let store = LocalStore::open(&both.root).unwrap();
    let text = |cell: &Option<String>| cell.clone().unwrap_or_default();
    let mut paths = BTreeMap::new();
    let mut references: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in rows(&format!("ValidPaths-{version}.tsv")) {
        paths.insert(text(&row[0]), text(&row[1]));
    }
    for row in rows(&format!("Refs-{version}.tsv")) {
        let [from, to] = [&row[0], &row[1]].map(|id| paths[&text(id)].clone());
        references.entry(from).or_default().insert(to);
    }
    for row in rows(&format!("ValidPaths-{version}.tsv")) {
        let info = store.path_info(&parse(&text(&row[1]))).unwrap().unwrap();
        assert_eq!(format!("sha256:{}", info.nar_hash.to_hex()), text(&row[2]));
        assert_eq!(info.deriver.map(|path| path.to_string()), row[4]);
        assert_eq!(Some(info.nar_size.to_string()), row[5]);
        let signatures: Vec<_> = info.signatures.iter().map(ToString::to_string).collect();
        assert_eq!(signatures.join(" "), text(&row[7]));
        assert_eq!(info.content_address.map(|address| address.to_string()), row[8]);
        let known: BTreeSet<_> = info.references.iter().map(ToString::to_string).collect();
        assert_eq!(known, references.remove(&text(&row[1])).unwrap_or_default());
    }
    let all: BTreeSet<_> = paths.values().map(|path| parse(path)).collect();
    assert_eq!(store.valid(&all).unwrap().len(), 28);
    drop(store);

    // The files of these rows were never here; only rows are compared from now on.
    let base = paths.values().find(|path| path.ends_with("-base-1.0")).unwrap();
    let added = both.add(&both.file("added", "x"), &["--reference", base]);
    assert_eq!(journal_mode(&both.root), journal, "it is left as it was");
    let references = both.nix.nix_store(&["-q", "--references", &added]).ok();
    assert_eq!(references.trim(), base);
    assert_eq!(both.nix.valid_paths().len(), 29);
}

#[test]
fn databases_of_both_versions_are_read_and_written() {
    check("2.8.0", "schema-2.8.0.sql", "wal");
    check("2.34.8", "schema-2.34.8.sql", "wal");
    check("2.8.0", "schema-2.8.0-with-ca-derivations.sql", "wal");
    check("2.34.8", "schema-2.34.8-with-ca-derivations.sql", "wal");
}

#[test]
fn a_database_without_a_write_ahead_log_stays_without() {
    let both = Both::new();
    rebuild(&both.root, "2.34.8", "schema-2.34.8.sql", "truncate");
    let store = LocalStore::open(&both.root).unwrap();
    let source = both.file("added", "x");
    let added = store.add(&source, "added", &BTreeSet::new()).unwrap();
    drop(store);
    // The mode is not written into such a database; "delete" is how any of them opens.
    assert_eq!(journal_mode(&both.root), "delete");
    assert!(both.nix.valid_paths().contains(&added.path.to_string()));
}

#[test]
fn a_store_that_we_made_has_the_tables_and_modes_of_nix() {
    let both = Both::new();
    both.add(&both.file("x", "x"), &[]);
    let database = Connection::open(both.root.join("nix/var/nix/db/db.sqlite")).unwrap();
    let sql = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid";
    let mut statement = database.prepare(sql).unwrap();
    let tables = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
    let tables: String = tables.map(|sql| sql.unwrap() + ";\n").collect();
    let wanted = fs::read_to_string(fixture("nix/db/schema-2.34.8.sql")).unwrap();
    assert_eq!(tables, wanted);

    let wanted = fs::read_to_string(fixture("nix/db/state-files-2.34.8.txt")).unwrap();
    let files = wanted.lines().skip_while(|line| !line.starts_with("path\t")).skip(1);
    for line in files.filter(|line| !line.contains("temproots/")) {
        let [path, mode, kind] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let metadata = both.nix.real(path).symlink_metadata().unwrap_or_else(|error| {
            panic!("{path}: {error}");
        });
        assert_eq!(format!("{:o}", metadata.permissions().mode() & 0o7777), mode, "{path}");
        assert_eq!(metadata.is_dir(), kind == "dir", "{path}");
    }
}
