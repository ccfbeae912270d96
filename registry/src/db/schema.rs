//! The tables, and how an older database becomes a newer one.

use std::path::Path;

use rusqlite::Connection;

use super::DbError;

/// Each step makes the schema of its number + 1 from the one before.
const STEPS: [&str; 1] = [FIRST];

const FIRST: &str = "
CREATE TABLE tokens (
    hash       BLOB PRIMARY KEY,     -- SHA-256 of the token; the token itself is never stored
    realm      TEXT NOT NULL,
    groups     TEXT NOT NULL,        -- JSON list
    uses       INTEGER NOT NULL,     -- how many more hosts may enrol with it
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

CREATE TABLE hosts (
    realm       TEXT NOT NULL,
    host        TEXT NOT NULL,
    name        TEXT NOT NULL,
    certificate TEXT NOT NULL,       -- JSON, without its envelope
    envelope    TEXT,                -- the signed certificate, where this registry issued it
    token       BLOB,                -- hash of the token that it enrolled with
    enrolled_at INTEGER NOT NULL,
    replaced    INTEGER NOT NULL DEFAULT 0,  -- 1: a later host has enrolled under its name
    counter     INTEGER,             -- of the last report; null: the next one is challenged
    highest     INTEGER NOT NULL DEFAULT 0,  -- counter of any report that was stored
    boot_id     TEXT,                -- of the last report
    nonce       TEXT,                -- what the next report must repeat
    reported_at INTEGER,
    digest      BLOB,                -- SHA-256 of the last report
    report      TEXT,                -- JSON, without its envelope
    signed      TEXT,                -- the last report in its envelope, for whoever wants proof
    PRIMARY KEY (realm, host)
) STRICT;
CREATE INDEX hosts_by_name ON hosts (realm, name, host);

CREATE TABLE publications (          -- an index of the signed files
    realm        TEXT NOT NULL,
    role         TEXT NOT NULL,
    role_version INTEGER NOT NULL,
    target       TEXT NOT NULL,
    epoch        INTEGER NOT NULL,
    version      INTEGER NOT NULL,
    digest       TEXT NOT NULL,
    signers      TEXT NOT NULL,      -- JSON list of key ids
    published_at INTEGER NOT NULL,
    note         TEXT NOT NULL,
    PRIMARY KEY (realm, target, role, role_version)
) STRICT;
CREATE TABLE indexed_roles (         -- which files that index covers
    realm        TEXT NOT NULL,
    role         TEXT NOT NULL,
    role_version INTEGER NOT NULL,
    PRIMARY KEY (realm, role, role_version)
) STRICT;
";

/// Brings the database to the schema of this program.
pub(super) fn migrate(connection: &Connection, path: &Path) -> Result<(), DbError> {
    let known = u32::try_from(STEPS.len()).unwrap_or(u32::MAX);
    // Two processes may open a new database at once: the second one waits, and finds it made.
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let migrated = run_steps(connection, path, known);
    connection.execute_batch(if migrated.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    migrated
}

fn run_steps(connection: &Connection, path: &Path, known: u32) -> Result<(), DbError> {
    let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > known {
        return Err(DbError::Newer { path: path.to_owned(), found, known });
    }
    for step in STEPS.iter().skip(found as usize) {
        connection.execute_batch(step)?;
    }
    Ok(connection.execute_batch(&format!("PRAGMA user_version = {known}"))?)
}
