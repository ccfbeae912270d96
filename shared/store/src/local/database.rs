//! Nix's database: opening it as Nix would, and asking it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    str::FromStr as _,
    time::Duration,
};

use rusqlite::{
    Connection, ErrorCode, FileControl, OpenFlags, OptionalExtension as _, Row, config::DbConfig,
};
use rustix::fs::FlockOperation;
use shared::nix::{ContentAddress, PathInfo, STORE_DIR, Sha256, Signature, StorePath};

use super::{
    LocalStoreError, ValidPath,
    layout::{Layout, io_error, write_whole},
};
use crate::lock::{open_lock_file, wait_for};

/// The only schema that Nix 2 ever had.
const SCHEMA: &str = "10";
/// How long another process may keep the database or its lock.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);
/// What was attempted when there is no connection yet.
const OPEN: &str = "open the tables";
/// Limits of the log that Nix sets too.
const WAL_AUTOCHECKPOINT: i64 = 40_000;
const JOURNAL_SIZE_LIMIT: i64 = 1 << 40;

/// An open database, and the lock that says so to whoever would change its schema.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) connection: Connection,
    /// Held for life; absent only where a reader may not open it.
    _big_lock: Option<File>,
}

impl Database {
    /// Opens the database, or makes it.
    pub(super) fn open(layout: &Layout) -> Result<Self, LocalStoreError> {
        let path = layout.db_dir.join("big-lock");
        let big_lock = open_lock_file(&path).map_err(io_error("open", &path))?;
        let lock = |operation| wait_for(&big_lock, &path, operation, PATIENCE, Duration::ZERO);
        lock(FlockOperation::NonBlockingLockShared)?;
        if !has_schema(layout)? {
            lock(FlockOperation::NonBlockingLockExclusive)?;
            // Between the two locks another process may have made it.
            if !has_schema(layout)? {
                create(layout)?;
            }
            lock(FlockOperation::NonBlockingLockShared)?;
        }
        let connection =
            open(&db_file(layout), OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed(OPEN))?;
        Ok(Self { connection, _big_lock: Some(big_lock) })
    }

    /// Opens an existing database for queries.
    pub(super) fn open_for_reading(layout: &Layout) -> Result<Self, LocalStoreError> {
        let path = layout.db_dir.join("big-lock");
        let big_lock = match File::open(&path) {
            Ok(file) => Some(file),
            // Nix gives the lock to its owner alone, but lets everyone read the database.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
            Err(error) => return Err(io_error("open", &path)(error)),
        };
        if let Some(file) = &big_lock {
            let shared = FlockOperation::NonBlockingLockShared;
            wait_for(file, &path, shared, PATIENCE, Duration::ZERO)?;
        }
        if !has_schema(layout)? {
            let path = layout.db_dir.join("schema");
            return Err(io_error("read", &path)(io::ErrorKind::NotFound.into()));
        }
        let connection = connect_for_reading(&db_file(layout))?;
        Ok(Self { connection, _big_lock: big_lock })
    }

    /// Returns which of `paths` are valid.
    pub(super) fn valid(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeMap<StorePath, ValidPath>, LocalStoreError> {
        const ACTION: &str = "look up paths";
        let sql = "SELECT path, hash, narSize FROM ValidPaths
                   WHERE path IN (SELECT value FROM json_each(?1))";
        let mut statement = self.connection.prepare_cached(sql).map_err(failed(ACTION))?;
        let mut rows = statement.query([json(paths)]).map_err(failed(ACTION))?;
        let mut valid = BTreeMap::new();
        while let Some(row) = rows.next().map_err(failed(ACTION))? {
            let path = store_path(row, 0)?;
            let known = ValidPath { nar_hash: nar_hash(row, 1)?, nar_size: nar_size(row, 2)? };
            valid.insert(path, known);
        }
        Ok(valid)
    }

    /// Returns every valid path.
    pub(super) fn all(&self) -> Result<BTreeMap<StorePath, ValidPath>, LocalStoreError> {
        const ACTION: &str = "list the valid paths";
        let sql = "SELECT path, hash, narSize FROM ValidPaths";
        let mut statement = self.connection.prepare_cached(sql).map_err(failed(ACTION))?;
        let mut rows = statement.query([]).map_err(failed(ACTION))?;
        let mut valid = BTreeMap::new();
        while let Some(row) = rows.next().map_err(failed(ACTION))? {
            let known = ValidPath { nar_hash: nar_hash(row, 1)?, nar_size: nar_size(row, 2)? };
            valid.insert(store_path(row, 0)?, known);
        }
        Ok(valid)
    }

    /// Returns what is known of those of `paths` that are valid.
    pub(super) fn infos(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeMap<StorePath, PathInfo>, LocalStoreError> {
        self.query_infos(
            "SELECT id FROM ValidPaths WHERE path IN (SELECT value FROM json_each(?1))",
            paths,
        )
    }

    /// Returns what is known of `roots` and all that they refer to.
    pub(super) fn closure(
        &self,
        roots: &BTreeSet<StorePath>,
    ) -> Result<BTreeMap<StorePath, PathInfo>, LocalStoreError> {
        let chosen = "WITH RECURSIVE closure(id) AS (
                          SELECT id FROM ValidPaths
                          WHERE path IN (SELECT value FROM json_each(?1))
                          UNION
                          SELECT reference FROM Refs JOIN closure ON referrer = closure.id
                      ) SELECT id FROM closure";
        self.query_infos(chosen, roots)
    }

    /// Returns the valid path with this hash part.
    pub(super) fn by_hash_part(
        &self,
        hash_part: &str,
    ) -> Result<Option<StorePath>, LocalStoreError> {
        const ACTION: &str = "look up a hash part";
        let prefix = format!("{STORE_DIR}/{hash_part}");
        let sql = "SELECT path FROM ValidPaths WHERE path >= ?1 ORDER BY path LIMIT 1";
        let mut statement = self.connection.prepare_cached(sql).map_err(failed(ACTION))?;
        let path: Option<String> =
            statement.query_row([&prefix], |row| row.get(0)).optional().map_err(failed(ACTION))?;
        path.filter(|path| path.starts_with(&format!("{prefix}-")))
            .map(|path| StorePath::parse(&path).map_err(|_| corrupt(&path, "path", &path)))
            .transpose()
    }

    /// Returns how many rows refer to rows that do not exist.
    pub(super) fn broken_references(&self) -> Result<usize, LocalStoreError> {
        const ACTION: &str = "check the references";
        let mut statement =
            self.connection.prepare("PRAGMA foreign_key_check").map_err(failed(ACTION))?;
        let rows = statement.query_map([], |_| Ok(())).map_err(failed(ACTION))?;
        Ok(rows.count())
    }

    /// Reads the rows that `chosen`, a query of ids, selects, and their references.
    fn query_infos(
        &self,
        chosen: &str,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeMap<StorePath, PathInfo>, LocalStoreError> {
        const ACTION: &str = "read what is known of paths";
        // One transaction, so that a path and its references are of one moment.
        let transaction = self.connection.unchecked_transaction().map_err(failed(ACTION))?;
        let parameter = json(paths);
        let sql = format!(
            "SELECT path, hash, narSize, deriver, sigs, ca FROM ValidPaths WHERE id IN ({chosen})"
        );
        let mut infos = BTreeMap::new();
        {
            let mut statement = transaction.prepare_cached(&sql).map_err(failed(ACTION))?;
            let mut rows = statement.query([&parameter]).map_err(failed(ACTION))?;
            while let Some(row) = rows.next().map_err(failed(ACTION))? {
                let info = path_info(row)?;
                infos.insert(info.path.clone(), info);
            }
            let sql = format!(
                "SELECT a.path, b.path FROM Refs JOIN ValidPaths a ON a.id = referrer
                 JOIN ValidPaths b ON b.id = reference WHERE referrer IN ({chosen})"
            );
            let mut statement = transaction.prepare_cached(&sql).map_err(failed(ACTION))?;
            let mut rows = statement.query([&parameter]).map_err(failed(ACTION))?;
            while let Some(row) = rows.next().map_err(failed(ACTION))? {
                if let Some(info) = infos.get_mut(&store_path(row, 0)?) {
                    info.references.insert(store_path(row, 1)?);
                }
            }
        }
        transaction.finish().map_err(failed(ACTION))?;
        Ok(infos)
    }
}

/// Returns what makes an error of a failed `action` on the database.
pub(super) fn failed(
    action: &'static str,
) -> impl FnOnce(rusqlite::Error) -> LocalStoreError + Copy {
    move |source| LocalStoreError::Database { action, source }
}

fn db_file(layout: &Layout) -> PathBuf {
    layout.db_dir.join("db.sqlite")
}

/// Returns whether there is a database; one of a schema that is not known is refused.
fn has_schema(layout: &Layout) -> Result<bool, LocalStoreError> {
    let path = layout.db_dir.join("schema");
    match fs::read_to_string(&path) {
        Ok(found) if found.trim() == SCHEMA => Ok(true),
        Ok(found) if matches!(found.trim(), "" | "0") => Ok(false),
        Ok(found) => Err(LocalStoreError::Schema { path, found: found.trim().to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error("read", &path)(error)),
    }
}

/// Makes the database; the schema file, written last, says that it is complete.
fn create(layout: &Layout) -> Result<(), LocalStoreError> {
    const ACTION: &str = "create the tables";
    let path = db_file(layout);
    // SQLite gives the mode of this file to the others beside it.
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .open(&path)
        .and_then(|file| file.set_permissions(Permissions::from_mode(0o644)))
        .map_err(io_error("make", &path))?;
    let connection = open(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed(OPEN))?;
    connection.pragma_update(None, "journal_mode", "wal").map_err(failed(ACTION))?;
    let schema = include_str!("schema.sql");
    let migrations =
        "create table if not exists SchemaMigrations (migration text primary key not null);";
    connection
        .execute_batch(&format!("BEGIN; {schema} {migrations} COMMIT;"))
        .map_err(failed(ACTION))?;
    write_whole(&layout.db_dir.join("schema"), SCHEMA.as_bytes())
}

/// Opens a connection with Nix's settings, except that a commit is on disk when it returns: one
/// transaction brings a whole closure, and what follows it, a switch, must not outlive it.
fn open(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(PATIENCE)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true)?;
    connection.pragma_update(None, "synchronous", "full")?;
    // The log stays when the last process leaves, as Nix wants it: readers without the right to
    // make it then find it.
    connection.file_control(None::<&str>, FileControl::PersistWal(&mut 1))?;
    if flags.contains(OpenFlags::SQLITE_OPEN_READ_WRITE) {
        let limit = JOURNAL_SIZE_LIMIT;
        connection.pragma_update(None, "wal_autocheckpoint", WAL_AUTOCHECKPOINT)?;
        connection.pragma_update_and_check(None, "journal_size_limit", limit, |_| Ok(()))?;
    }
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// Opens a connection that needs no right to write.
fn connect_for_reading(path: &Path) -> Result<Connection, LocalStoreError> {
    let opened = open(path, OpenFlags::SQLITE_OPEN_READ_ONLY).and_then(|connection| {
        connection.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
        Ok(connection)
    });
    let error = match opened {
        Ok(connection) => return Ok(connection),
        Err(error) => error,
    };
    let denied =
        matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly));
    if !denied || path.with_extension("sqlite-wal").exists() {
        return Err(failed(OPEN)(error));
    }
    // The last to leave has removed the log, and we may not make a new one. Then all is in the
    // database itself, which changes no more until a log that somebody begins has grown large.
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            byte => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri.push_str("?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    open(Path::new(&uri), flags).map_err(failed(OPEN))
}

/// Passes paths as one parameter.
pub(super) fn json(paths: &BTreeSet<StorePath>) -> String {
    serde_json::Value::from_iter(paths.iter().map(StorePath::to_string)).to_string()
}

fn path_info(row: &Row<'_>) -> Result<PathInfo, LocalStoreError> {
    let path = store_path(row, 0)?;
    let text = |index| {
        row.get::<_, Option<String>>(index)
            .map(Option::unwrap_or_default)
            .map_err(failed("read what is known of paths"))
    };
    // Nobody vouches for a deriver, so one that cannot be read is none. Nix keeps signatures and
    // addresses that it cannot check; they cannot make a path trusted.
    let deriver = StorePath::from_str(&text(3)?).ok();
    let signatures =
        text(4)?.split_whitespace().filter_map(|text| Signature::parse(text).ok()).collect();
    let content_address = ContentAddress::parse(&text(5)?).ok();
    Ok(PathInfo {
        nar_hash: nar_hash(row, 1)?,
        nar_size: nar_size(row, 2)?,
        references: BTreeSet::new(),
        deriver,
        signatures,
        content_address,
        path,
    })
}

pub(super) fn store_path(row: &Row<'_>, index: usize) -> Result<StorePath, LocalStoreError> {
    let path: String = row.get(index).map_err(failed("read a path"))?;
    StorePath::parse(&path).map_err(|_| corrupt(&path, "path", &path))
}

fn nar_hash(row: &Row<'_>, index: usize) -> Result<Sha256, LocalStoreError> {
    let hash: String = row.get(index).map_err(failed("read a hash"))?;
    Sha256::parse(&hash).map_err(|_| {
        let path: String = row.get(0).unwrap_or_default();
        corrupt(&path, "hash", &hash)
    })
}

/// Reads a size; 0 where an ancient Nix did not know it.
pub(super) fn nar_size(row: &Row<'_>, index: usize) -> Result<u64, LocalStoreError> {
    let size: Option<i64> = row.get(index).map_err(failed("read a size"))?;
    let size = size.unwrap_or_default();
    u64::try_from(size).map_err(|_| {
        let path: String = row.get(0).unwrap_or_default();
        corrupt(&path, "size", &size.to_string())
    })
}

fn corrupt(path: &str, what: &'static str, value: &str) -> LocalStoreError {
    LocalStoreError::Corrupt { path: path.to_owned(), what, value: value.to_owned() }
}
