//! The registry's memory beside the signed files: tokens, hosts, their last reports.
//!
//! SQLite with one writer: a thread that takes whatever waits, runs it in one transaction, and
//! answers after the commit is on the disk. So an answered report is never lost, and a thousand
//! hosts that report at once cost few fsyncs. What can be rebuilt from the files is an index.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

pub(crate) mod hosts;
pub(crate) mod publications;
mod schema;
pub(crate) mod tokens;

/// How long to wait for another process that writes, such as `registry host enroll-token`.
const BUSY: Duration = Duration::from_secs(20);

/// Most writes in one transaction.
const BATCH: usize = 512;

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DbError {
    /// SQLite says no.
    #[error("the database failed")]
    Sqlite(#[from] rusqlite::Error),
    /// A newer program has been here.
    #[error("database `{path}` has schema {found}, this program knows {known}")]
    Newer { path: PathBuf, found: u32, known: u32 },
    /// Something in a row that this program did not write.
    #[error("the database holds `{0}`, which cannot be read")]
    Damaged(String),
    /// The transaction of this write failed.
    #[error("the database could not commit: {0}")]
    Commit(String),
    /// The writer has stopped.
    #[error("the database is closed")]
    Closed,
}

/// Work for the writer: runs in its transaction, if one could be begun, and says how to answer once
/// that is committed.
type Job = Box<dyn FnOnce(Option<&Connection>) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<(), Arc<DbError>>) + Send>;

/// The open database.
#[derive(Debug, Clone)]
pub(crate) struct Db {
    jobs: mpsc::Sender<Job>,
    reader: Arc<Mutex<Connection>>,
}

impl Db {
    /// Opens the database in the server's folder, or creates it, and starts its writer, which ends
    /// with the last clone of the value.
    pub(crate) fn open(data: &Path) -> Result<Self, DbError> {
        let writer = connect(data)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = Connection::open_with_flags(file(data), flags)?;
        reader.busy_timeout(BUSY)?;
        let (jobs, queue) = mpsc::channel();
        std::thread::spawn(move || serve(&writer, &queue));
        Ok(Self { jobs, reader: Arc::new(Mutex::new(reader)) })
    }

    /// Writes, and returns when it is on the disk.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, DbError> + Send + 'static,
    ) -> Result<T, DbError> {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let done = connection.map_or(Err(DbError::Closed), |open| in_savepoint(open, work));
            Box::new(move |committed| {
                let result = committed.map_err(|error| commit_error(&error)).and(done);
                // A client that went away needs no answer.
                let _nobody_waits = sender.send(result);
            })
        });
        self.jobs.send(job).map_err(|_| DbError::Closed)?;
        receiver.await.map_err(|_| DbError::Closed)?
    }

    /// Reads.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, DbError> + Send + 'static,
    ) -> Result<T, DbError> {
        let reader = Arc::clone(&self.reader);
        let reading = tokio::task::spawn_blocking(move || {
            work(&reader.lock().unwrap_or_else(PoisonError::into_inner))
        });
        reading.await.map_err(|_| DbError::Closed)?
    }
}

/// Opens the database for one command, without a writer thread.
pub(crate) fn connect(data: &Path) -> Result<Connection, DbError> {
    let path = file(data);
    let connection = Connection::open(&path)?;
    connection.busy_timeout(BUSY)?;
    // FULL: an answered report must survive a power cut, also in write-ahead mode.
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")?;
    schema::migrate(&connection, &path)?;
    Ok(connection)
}

fn file(data: &Path) -> PathBuf {
    data.join("db.sqlite")
}

/// Takes jobs until every sender is gone.
fn serve(connection: &Connection, queue: &mpsc::Receiver<Job>) {
    while let Ok(first) = queue.recv() {
        let jobs = std::iter::once(first).chain(queue.try_iter().take(BATCH - 1));
        let begun = connection.execute_batch("BEGIN IMMEDIATE");
        // Without a transaction every job would commit itself, and be told that it failed.
        let open = begun.is_ok().then_some(connection);
        let answers: Vec<Answer> = jobs.map(|job| job(open)).collect();
        let committed = begun.and_then(|()| connection.execute_batch("COMMIT"));
        if committed.is_err() && !connection.is_autocommit() {
            // The answers tell the failure; nothing more is known here.
            let _failed = connection.execute_batch("ROLLBACK");
        }
        let committed = committed.map_err(|error| Arc::new(DbError::from(error)));
        for answer in answers {
            answer(committed.clone());
        }
    }
}

/// Runs one job so that its failure is no other's.
fn in_savepoint<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, DbError>,
) -> Result<T, DbError> {
    connection.execute_batch("SAVEPOINT job")?;
    let done = work(connection);
    let undo = if done.is_err() { "ROLLBACK TO job; RELEASE job" } else { "RELEASE job" };
    connection.execute_batch(undo)?;
    done
}

/// Tells each of the jobs in a transaction that it failed.
fn commit_error(error: &DbError) -> DbError {
    if let DbError::Sqlite(rusqlite::Error::SqliteFailure(code, message)) = error {
        return DbError::Sqlite(rusqlite::Error::SqliteFailure(*code, message.clone()));
    }
    DbError::Commit(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_job_that_fails_takes_no_other_with_it() {
        let data = tempfile::tempdir().unwrap();
        let db = Db::open(data.path()).unwrap();
        db.write(|c| Ok(c.execute_batch("CREATE TABLE t(x INTEGER PRIMARY KEY)")?)).await.unwrap();
        let insert = |x: i64| db.write(move |c| Ok(c.execute("INSERT INTO t VALUES (?1)", [x])?));
        let (one, again, two) = tokio::join!(insert(1), insert(1), insert(2));
        assert_eq!((one.unwrap(), two.unwrap()), (1, 1));
        assert!(again.is_err());
        let count =
            db.read(|c| Ok(c.query_row("SELECT count(*) FROM t", [], |r| r.get::<_, i64>(0))?));
        assert_eq!(count.await.unwrap(), 2_i64);
    }

    #[tokio::test]
    async fn refuses_the_database_of_a_newer_program() {
        let data = tempfile::tempdir().unwrap();
        drop(Db::open(data.path()).unwrap());
        let connection = Connection::open(file(data.path())).unwrap();
        connection.execute_batch("PRAGMA user_version = 999").unwrap();
        assert!(matches!(Db::open(data.path()), Err(DbError::Newer { found: 999, .. })));
    }
}
