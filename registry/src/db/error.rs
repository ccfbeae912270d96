//! Why the database did not do what was asked.

use std::path::PathBuf;

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DbError {
    /// SQLite says no.
    #[error("the database failed")]
    Sqlite(#[from] rusqlite::Error),
    /// The file system says no.
    #[error("cannot use `{path}`")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A newer program has been here.
    #[error("database `{path}` has schema {found}, this program knows {known}")]
    Newer { path: PathBuf, found: u32, known: u32 },
    /// Something in a row that this program did not write.
    #[error("the database holds `{0}`, which cannot be read")]
    Damaged(String),
    /// The transaction of this write failed.
    #[error("the database could not commit: {0}")]
    Commit(String),
    /// Too many writes wait already.
    #[error("too many writes wait")]
    Busy,
    /// The file is not the one that was opened: what is written to it is lost with it.
    #[error("database `{0}` was removed or replaced while it is in use")]
    Gone(PathBuf),
    /// The writer has stopped.
    #[error("the database is closed")]
    Closed,
}

impl DbError {
    /// Says that a value in a row, or for one, is not of its form.
    #[expect(clippy::needless_pass_by_value, reason = "it stands in `map_err`")]
    pub(super) fn damaged(what: impl ToString) -> Self {
        Self::Damaged(what.to_string())
    }
}
