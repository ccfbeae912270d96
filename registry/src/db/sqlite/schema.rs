//! The tables, and how an older database becomes a newer one.
//!
//! Steps only lead forwards, and before the first one the file is copied: whoever must go back to
//! an older program restores that copy.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::Connection;

use super::{DbError, backup};

/// Each step makes the schema of its number + 1 from the one before.
const STEPS: [&str; 5] = [FIRST, SECOND, THIRD, FOURTH, FIFTH];

/// The schema of this program.
pub(crate) const KNOWN: u32 = 5;

pub(super) const FIRST: &str = "
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

/// Who a host is apart from what it says, so that a report rewrites little; lists and counts that
/// are kept instead of looked for. What hosts said last is not carried over, only their counters:
/// they report again within a minute, and count as `stale` until then.
const SECOND: &str = "
ALTER TABLE tokens ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';  -- JSON: what its hosts must have

ALTER TABLE hosts RENAME TO hosts_of_schema_1;
DROP INDEX hosts_by_name;
CREATE TABLE hosts (
    id          INTEGER PRIMARY KEY,
    realm       TEXT NOT NULL,
    host        TEXT NOT NULL,
    name        TEXT NOT NULL,
    certificate TEXT NOT NULL,       -- JSON, without its envelope
    envelope    TEXT,                -- the signed certificate, if it is at hand
    token       BLOB,                -- hash of the token that it enrolled with
    enrolled_at INTEGER NOT NULL,
    replaced    TEXT,                -- the host that has enrolled under its name since
    revoked_at  INTEGER,
    revoked_why TEXT,
    shown       INTEGER NOT NULL,    -- the state in lists: its rank among the words
    UNIQUE (realm, host)
) STRICT;
CREATE INDEX hosts_by_name ON hosts (realm, name, host);

CREATE TABLE reports (               -- the last one of each host
    id         INTEGER PRIMARY KEY REFERENCES hosts ON DELETE CASCADE,
    counter    INTEGER,              -- null: the next one is challenged
    highest    INTEGER NOT NULL DEFAULT 0,  -- counter of any report that was stored
    boot_id    TEXT,
    nonce      TEXT,                 -- what the next report must repeat
    at         INTEGER,
    heard      INTEGER NOT NULL DEFAULT 0,  -- 1 until it has been silent for too long
    digest     BLOB,                 -- SHA-256 of the payload
    payload    BLOB,                 -- what was signed, as it came
    signatures TEXT                  -- JSON: the rest of the envelope, for whoever wants proof
) STRICT;
CREATE INDEX reports_by_silence ON reports (at) WHERE heard = 1;

CREATE TABLE members (               -- the lists of hosts: one of each group, and '' of all
    realm TEXT NOT NULL,
    list  TEXT NOT NULL,
    name  TEXT NOT NULL,
    id    INTEGER NOT NULL REFERENCES hosts ON DELETE CASCADE,
    shown INTEGER NOT NULL,
    PRIMARY KEY (realm, list, name, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX members_by_state ON members (realm, list, shown, name, id);
CREATE INDEX members_of_host ON members (id);
CREATE TABLE counts (                -- of the members of each list
    realm TEXT NOT NULL,
    list  TEXT NOT NULL,
    shown INTEGER NOT NULL,
    hosts INTEGER NOT NULL,
    PRIMARY KEY (realm, list, shown)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER member_comes AFTER INSERT ON members BEGIN
    INSERT INTO counts VALUES (new.realm, new.list, new.shown, 1)
        ON CONFLICT DO UPDATE SET hosts = hosts + 1;
END;
CREATE TRIGGER member_goes AFTER DELETE ON members BEGIN
    UPDATE counts SET hosts = hosts - 1
        WHERE realm = old.realm AND list = old.list AND shown = old.shown;
END;
CREATE TRIGGER member_changes AFTER UPDATE OF shown ON members BEGIN
    UPDATE counts SET hosts = hosts - 1
        WHERE realm = old.realm AND list = old.list AND shown = old.shown;
    INSERT INTO counts VALUES (new.realm, new.list, new.shown, 1)
        ON CONFLICT DO UPDATE SET hosts = hosts + 1;
END;

CREATE TABLE attempts (              -- what became of each attempt that a host told of
    id      INTEGER NOT NULL REFERENCES hosts ON DELETE CASCADE,
    target  TEXT NOT NULL,
    attempt TEXT NOT NULL,
    phases  INTEGER NOT NULL,        -- how far it was when it was told
    told_at INTEGER NOT NULL,
    profile TEXT NOT NULL,           -- JSON: the profile, as the host told of it then
    UNIQUE (id, target, attempt)
) STRICT;
CREATE INDEX attempts_by_time ON attempts (told_at);

CREATE TABLE ahead (                 -- hosts that have seen more than this registry has
    realm     TEXT NOT NULL,
    host      TEXT NOT NULL,
    timestamp INTEGER NOT NULL,
    PRIMARY KEY (realm, host)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (                -- what happened; the signed files prove what was published
    number  INTEGER PRIMARY KEY,
    realm   TEXT NOT NULL,
    at      INTEGER NOT NULL,
    what    TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail  TEXT NOT NULL
) STRICT;
CREATE INDEX events_of_realm ON events (realm, number);

INSERT INTO hosts (realm, host, name, certificate, envelope, token, enrolled_at, replaced, shown)
    SELECT realm, host, name, certificate, envelope, token, enrolled_at,
           CASE replaced WHEN 1 THEN '' END, 3 FROM hosts_of_schema_1;
INSERT INTO reports (id, counter, highest, boot_id, nonce)
    SELECT hosts.id, counter, highest, boot_id, nonce
    FROM hosts JOIN hosts_of_schema_1 USING (realm, host);
INSERT INTO members (realm, list, name, id, shown)
    SELECT realm, '', name, id, shown FROM hosts WHERE replaced IS NULL
    UNION SELECT hosts.realm, list.value, hosts.name, hosts.id, hosts.shown
    FROM hosts, json_each(hosts.certificate, '$.groups') AS list WHERE replaced IS NULL;
DROP TABLE hosts_of_schema_1;
";

/// What changes, in order, for whoever follows along. Triggers write it, and keep it bounded.
const THIRD: &str = "
CREATE TABLE stream (
    number       INTEGER PRIMARY KEY,  -- rises: the latest row is never deleted
    realm        TEXT NOT NULL,
    host         INTEGER,              -- a host whose state changed; or
    event        INTEGER,              -- the number of an event; or
    target       TEXT,                 -- a publication
    role         TEXT,
    role_version INTEGER
) STRICT;
CREATE TRIGGER host_changes AFTER UPDATE OF shown ON hosts WHEN old.shown <> new.shown BEGIN
    INSERT INTO stream (realm, host) VALUES (new.realm, new.id);
END;
CREATE TRIGGER event_comes AFTER INSERT ON events BEGIN
    INSERT INTO stream (realm, event) VALUES (new.realm, new.number);
END;
CREATE TRIGGER publication_comes AFTER INSERT ON publications BEGIN
    INSERT INTO stream (realm, target, role, role_version)
        VALUES (new.realm, new.target, new.role, new.role_version);
END;
CREATE TRIGGER stream_ends AFTER INSERT ON stream WHEN new.number % 1000 = 0 BEGIN
    DELETE FROM stream WHERE number <= new.number - 100000;
END;
";

/// Where hosts are found by their labels, and by how long they have been silent.
const FOURTH: &str = "
CREATE TABLE labels (                -- of the members of lists
    realm TEXT NOT NULL,
    label TEXT NOT NULL,
    value TEXT NOT NULL,
    name  TEXT NOT NULL,
    id    INTEGER NOT NULL REFERENCES hosts ON DELETE CASCADE,
    PRIMARY KEY (realm, label, value, name, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX labels_of_host ON labels (id);
INSERT INTO labels (realm, label, value, name, id)
    SELECT hosts.realm, it.key, it.value, hosts.name, hosts.id
    FROM hosts, json_each(hosts.certificate, '$.labels') AS it
    WHERE replaced IS NULL AND revoked_at IS NULL;
CREATE INDEX reports_of_silent ON reports (at) WHERE heard = 0;
";

/// Who may read.
const FIFTH: &str = "
CREATE TABLE read_tokens (
    hash       BLOB PRIMARY KEY,     -- SHA-256 of the token; the token itself is never stored
    realm      TEXT NOT NULL,
    name       TEXT NOT NULL,        -- whose it is
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    UNIQUE (realm, name)
) STRICT, WITHOUT ROWID;
";

/// What opening a database did to its schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Migrated {
    /// It is ours, or there was none.
    No,
    /// It was older; as it was, it lies there.
    From { schema: u32, backup: PathBuf },
}

/// Brings the database to the schema of this program.
pub(super) fn migrate(connection: &Connection, path: &Path) -> Result<Migrated, DbError> {
    let found = version(connection, path)?;
    let migrated = match found {
        0 | KNOWN => Migrated::No,
        older => {
            let folder = path.parent().unwrap_or(Path::new(".")).join("backups");
            let failed = |source| DbError::File { path: folder.clone(), source };
            std::fs::create_dir_all(&folder).map_err(failed)?;
            let now = Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
            let backup = folder.join(format!("schema-{older}-{now}.sqlite"));
            backup::copy(connection, &backup)?;
            Migrated::From { schema: older, backup }
        }
    };
    if found == KNOWN {
        return Ok(migrated);
    }
    // Two processes may open a new database at once: the second one waits, and finds it made.
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let stepped = run_steps(connection, path);
    connection.execute_batch(if stepped.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    stepped.map(|()| migrated)
}

fn run_steps(connection: &Connection, path: &Path) -> Result<(), DbError> {
    let found = version(connection, path)?;
    for step in STEPS.iter().skip(found as usize) {
        connection.execute_batch(step)?;
    }
    Ok(connection.execute_batch(&format!("PRAGMA user_version = {KNOWN}"))?)
}

/// Returns the schema of a database that this program can use.
pub(super) fn version(connection: &Connection, path: &Path) -> Result<u32, DbError> {
    let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > KNOWN {
        return Err(DbError::Newer { path: path.to_owned(), found, known: KNOWN });
    }
    Ok(found)
}
