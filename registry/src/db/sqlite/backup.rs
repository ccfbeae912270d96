//! A copy of the database while it is in use.

use std::{fs::File, path::Path};

use rusqlite::{Connection, OpenFlags};

use super::DbError;

/// Writes a whole copy to a file that is not there yet, checks it, and lets it reach the disk.
pub(super) fn copy(connection: &Connection, file: &Path) -> Result<(), DbError> {
    let text = file.to_str().ok_or_else(|| DbError::damaged(file.display()))?;
    connection.execute("VACUUM INTO ?1", [text])?;
    check(file)?;
    let failed = |source| DbError::File { path: file.to_owned(), source };
    let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all()).map_err(failed);
    sync(file)?;
    sync(file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

/// Checks that a file is a whole database of a schema that this program knows; returns its schema.
pub(crate) fn check(file: &Path) -> Result<u32, DbError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    let verdict: String =
        connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(DbError::Damaged(verdict));
    }
    super::schema::version(&connection, file)
}
