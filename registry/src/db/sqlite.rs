//! The database on one machine: SQLite in write-ahead mode, one writer and several readers.
//!
//! The writer is a thread that takes whatever waits, runs it in one transaction, and answers after
//! the commit is on the disk. While one transaction is synced the next one gathers, so a lone report is
//! answered at once. Where several came together more will: then it waits a moment for them, because
//! most of what a commit costs is the same for one and for many. What waits is bounded; where that is
//! full, reports are turned away at once, and whoever does rarer things waits.

use std::{
    collections::BTreeMap,
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};
use shared::{
    api::Publication,
    id::{GroupName, HostId, RealmName, TokenName},
    state_word::StateWord,
    time::Time,
};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{
    Ahead, Db, DbError,
    attempts::{AttemptQuery, AttemptRow},
    events::{Event, Noted},
    hosts::{Application, EnrolRefusal, HostPage, HostQuery, HostRow, Revocation, Roster},
    publications,
    reports::{Incoming, Stored},
    retention::{Pruned, Retention},
    stream::{Change, Known},
    tokens::{Grant, ReadToken},
};

mod attempts;
mod backup;
mod enrol;
mod event;
mod fleet;
mod history;
mod host;
mod ingest;
mod lists;
mod prune;
mod read_tokens;
mod schema;
mod search;
mod stream;

pub(crate) use backup::check;
pub(crate) use schema::{KNOWN, Migrated};

/// How long to wait for another process that writes, such as `registry host enroll-token`.
const BUSY: Duration = Duration::from_secs(20);

/// Most writes in one transaction.
const BATCH: usize = 512;

/// From how many writes in one transaction on the next one waits for more, and for how long.
const MANY: usize = 4;
const GATHER: Duration = Duration::from_millis(3);

/// Most writes that wait for the next one: of usual reports some 8 MiB, of the largest that hosts may
/// send, read and as they came, some 200.
const QUEUE: usize = 1024;

/// How many read at once; more wait their turn.
const READERS: usize = 4;

/// Work for the writer: runs in its transaction, if one could be begun, and says how to answer once
/// that is committed.
type Job = Box<dyn FnOnce(Result<&Connection, &Arc<DbError>>) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<(), Arc<DbError>>) + Send>;

/// The open database.
#[derive(Clone)]
pub(crate) struct Sqlite {
    jobs: mpsc::Sender<Job>,
    readers: Arc<Readers>,
}

struct Readers {
    idle: Mutex<Vec<Connection>>,
    room: Semaphore,
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite").field("waiting", &(QUEUE - self.jobs.capacity())).finish()
    }
}

impl Sqlite {
    /// Opens the database in the server's folder, or creates it, and starts its writer, which ends
    /// with the last clone of the value. An older schema is brought to ours.
    pub(crate) fn open(data: &Path) -> Result<Self, DbError> {
        let (writer, migrated) = connect(data)?;
        if let Migrated::From { schema, backup } = migrated {
            let backup = backup.display();
            tracing::info!(schema, %backup, "the database has a new schema; the old one is kept");
        }
        let path = file(data);
        let known = identity(&path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut idle = Vec::new();
        for _ in 0..READERS {
            let reader = Connection::open_with_flags(&path, flags)?;
            reader.busy_timeout(BUSY)?;
            idle.push(reader);
        }
        let (jobs, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("db-writer".to_owned())
            .spawn(move || serve(&writer, queue, &path, known))
            .map_err(|source| DbError::File { path: file(data), source })?;
        let readers = Readers { idle: Mutex::new(idle), room: Semaphore::new(READERS) };
        Ok(Self { jobs, readers: Arc::new(readers) })
    }

    /// Tells whether no report would be taken just now.
    #[cfg(test)]
    pub(crate) fn is_full(&self) -> bool {
        self.jobs.capacity() == 0
    }

    /// Writes, and returns when it is on the disk; waits its turn.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, DbError> + Send + 'static,
    ) -> Result<T, DbError> {
        let (job, answer) = job(work);
        self.jobs.send(job).await.map_err(|_| DbError::Closed)?;
        answer.await.map_err(|_| DbError::Closed)?
    }

    /// Writes as [`Self::write`] does, or refuses at once where too much waits.
    async fn write_now<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, DbError> + Send + 'static,
    ) -> Result<T, DbError> {
        let (job, answer) = job(work);
        self.jobs.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => DbError::Busy,
            mpsc::error::TrySendError::Closed(_) => DbError::Closed,
        })?;
        answer.await.map_err(|_| DbError::Closed)?
    }

    /// Reads.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, DbError> + Send + 'static,
    ) -> Result<T, DbError> {
        let readers = Arc::clone(&self.readers);
        let _turn = self.readers.room.acquire().await.map_err(|_| DbError::Closed)?;
        let reading = tokio::task::spawn_blocking(move || {
            let lock = || readers.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let reader = lock().pop().ok_or(DbError::Closed)?;
            let done = work(&reader);
            lock().push(reader);
            done
        });
        reading.await.map_err(|_| DbError::Closed)?
    }
}

impl Db for Sqlite {
    async fn add_token(&self, hash: [u8; 32], grant: Grant, now: Time) -> Result<(), DbError> {
        self.write(move |db| enrol::add_token(db, &hash, &grant, now)).await
    }

    async fn add_read_token(&self, hash: [u8; 32], token: ReadToken) -> Result<bool, DbError> {
        self.write(move |db| read_tokens::add(db, &hash, &token)).await
    }

    async fn read_tokens(&self, realm: RealmName) -> Result<Vec<ReadToken>, DbError> {
        self.read(move |db| read_tokens::list(db, &realm)).await
    }

    async fn revoke_read_token(
        &self,
        realm: RealmName,
        name: TokenName,
        now: Time,
    ) -> Result<bool, DbError> {
        self.write(move |db| read_tokens::revoke(db, &realm, &name, now)).await
    }

    async fn may_read(
        &self,
        hash: [u8; 32],
        realm: Option<RealmName>,
        now: Time,
    ) -> Result<bool, DbError> {
        self.read(move |db| read_tokens::is_good(db, &hash, realm.as_ref(), now)).await
    }

    async fn enrol(
        &self,
        application: Application,
        now: Time,
    ) -> Result<Result<String, EnrolRefusal>, DbError> {
        self.write(move |db| enrol::enrol(db, application, now)).await
    }

    async fn revoke(
        &self,
        realm: RealmName,
        host: HostId,
        revocation: Revocation,
    ) -> Result<bool, DbError> {
        self.write(move |db| enrol::revoke(db, &realm, &host, &revocation)).await
    }

    async fn ingest(&self, incoming: Incoming, now: Time) -> Result<Stored, DbError> {
        let work = move |db: &Connection| Ok((ingest::ingest(db, &incoming, now)?, incoming));
        // It is dropped here, where it was made: the writer would free all of it under the lock of
        // another thread's heap.
        self.write_now(work).await.map(|(stored, _incoming)| stored)
    }

    async fn mark_silent(&self, before: Time) -> Result<usize, DbError> {
        // Nothing is written, and nobody's transaction is longer, while nobody is silent.
        if self.read(move |db| lists::is_somebody_silent(db, before)).await? {
            return self.write(move |db| lists::mark_silent(db, before)).await;
        }
        Ok(0)
    }

    async fn host(&self, realm: RealmName, name_or_id: String) -> Result<Option<HostRow>, DbError> {
        self.read(move |db| host::find(db, &realm, &name_or_id)).await
    }

    async fn hosts(&self, query: HostQuery) -> Result<HostPage, DbError> {
        self.read(move |db| search::list(db, &query)).await
    }

    async fn roster(
        &self,
        realm: RealmName,
        after: String,
        limit: usize,
    ) -> Result<Vec<Roster>, DbError> {
        self.read(move |db| host::roster(db, &realm, &after, limit)).await
    }

    async fn counts(
        &self,
        realm: RealmName,
        group: Option<GroupName>,
    ) -> Result<BTreeMap<StateWord, u64>, DbError> {
        self.read(move |db| lists::counts(db, &realm, group.as_ref())).await
    }

    async fn counts_by_group(
        &self,
        realm: RealmName,
    ) -> Result<BTreeMap<GroupName, BTreeMap<StateWord, u64>>, DbError> {
        self.read(move |db| fleet::counts_by_group(db, &realm)).await
    }

    async fn oldest_report(&self) -> Result<Option<Time>, DbError> {
        self.read(fleet::oldest_report).await
    }

    async fn attempts(&self, query: AttemptQuery) -> Result<Vec<AttemptRow>, DbError> {
        self.read(move |db| attempts::list(db, &query)).await
    }

    async fn seen_ahead(&self, realm: RealmName) -> Result<Option<Ahead>, DbError> {
        self.read(move |db| ingest::seen_ahead(db, &realm)).await
    }

    async fn missing_roles(
        &self,
        realm: RealmName,
        roles: Vec<(String, u64)>,
    ) -> Result<Vec<(String, u64)>, DbError> {
        self.read(move |db| history::missing(db, &realm, roles)).await
    }

    async fn add_publications(
        &self,
        realm: RealmName,
        role: (String, u64),
        publications: Vec<Publication>,
        at: Time,
    ) -> Result<(), DbError> {
        self.write(move |db| history::add(db, &realm, (&role.0, role.1), &publications, at)).await
    }

    async fn publications(&self, query: publications::Query) -> Result<Vec<Publication>, DbError> {
        self.read(move |db| history::list(db, &query)).await
    }

    async fn latest_publications(
        &self,
        realm: RealmName,
        group: GroupName,
    ) -> Result<Vec<Publication>, DbError> {
        self.read(move |db| history::latest(db, &realm, &group)).await
    }

    async fn forget_counters(&self) -> Result<(), DbError> {
        self.write(|db| Ok(db.execute("UPDATE reports SET counter = NULL", []).map(drop)?)).await
    }

    async fn forget_ahead(&self, realm: RealmName) -> Result<(), DbError> {
        let delete = "DELETE FROM ahead WHERE realm = ?1";
        self.write(move |db| Ok(db.execute(delete, [realm.as_str()]).map(drop)?)).await
    }

    async fn note(&self, event: Event) -> Result<(), DbError> {
        self.write(move |db| event::note(db, &event)).await
    }

    async fn events(
        &self,
        realm: RealmName,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Noted>, DbError> {
        self.read(move |db| event::list(db, &realm, after, limit)).await
    }

    async fn stream_known(&self) -> Result<Known, DbError> {
        self.read(stream::known).await
    }

    async fn changes(
        &self,
        realm: RealmName,
        after: u64,
        limit: usize,
    ) -> Result<(Vec<Change>, u64), DbError> {
        self.read(move |db| stream::changes(db, &realm, after, limit)).await
    }

    async fn prune(&self, retention: Retention, now: Time) -> Result<Pruned, DbError> {
        let mut all = Pruned::default();
        loop {
            // Some at a time, so that nobody's report waits for long.
            let some = self.write(move |db| prune::prune(db, &retention, now)).await?;
            if some == Pruned::default() {
                return Ok(all);
            }
            all.attempts += some.attempts;
            all.hosts += some.hosts;
            all.tokens += some.tokens;
        }
    }

    async fn copy_to(&self, file: &Path) -> Result<(), DbError> {
        let file = file.to_owned();
        self.read(move |db| backup::copy(db, &file)).await
    }

    async fn ping(&self) -> Result<(), DbError> {
        self.read(|db| Ok(db.query_row("SELECT 1", [], |_| Ok(()))?)).await
    }

    async fn check_writer(&self) -> Result<(), DbError> {
        self.write_now(|_| Ok(())).await
    }
}

/// Opens the database to write, and brings its schema to ours.
pub(crate) fn connect(data: &Path) -> Result<(Connection, Migrated), DbError> {
    let path = file(data);
    let connection = Connection::open(&path)?;
    connection.busy_timeout(BUSY)?;
    // FULL: an answered report must survive a power cut, also in write-ahead mode. MEMORY: what undoes
    // one job of a transaction needs no room in a folder that is not ours.
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
         PRAGMA cache_size = -32000; PRAGMA wal_autocheckpoint = 4000;
         PRAGMA journal_size_limit = 67108864; PRAGMA temp_store = MEMORY;",
    )?;
    connection.set_prepared_statement_cache_capacity(64);
    // Else a statement is planned anew for each value that is bound to it, in the hope of a better
    // plan: a third of what a report costs the writer.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    let migrated = schema::migrate(&connection, &path)?;
    Ok((connection, migrated))
}

/// Returns where the database of a server's folder lies.
pub(crate) fn file(data: &Path) -> PathBuf {
    data.join("db.sqlite")
}

/// Returns what tells a file from another one that takes its name.
fn identity(path: &Path) -> Result<(u64, u64), DbError> {
    let found = fs::metadata(path);
    let found = found.map_err(|source| DbError::File { path: path.to_owned(), source })?;
    Ok((found.dev(), found.ino()))
}

fn job<T: Send + 'static>(
    work: impl FnOnce(&Connection) -> Result<T, DbError> + Send + 'static,
) -> (Job, oneshot::Receiver<Result<T, DbError>>) {
    let (sender, receiver) = oneshot::channel();
    let job: Job = Box::new(move |connection| {
        let done = match connection {
            Ok(open) => in_savepoint(open, work),
            Err(error) => Err(shared_error(error)),
        };
        Box::new(move |committed| {
            let result = committed.map_err(|error| shared_error(&error)).and(done);
            // A client that went away needs no answer.
            let _nobody_waits = sender.send(result);
        })
    });
    (job, receiver)
}

/// Takes jobs until every sender is gone.
fn serve(connection: &Connection, mut queue: mpsc::Receiver<Job>, path: &Path, known: (u64, u64)) {
    let mut jobs = Vec::with_capacity(BATCH);
    while queue.blocking_recv_many(&mut jobs, BATCH) > 0 {
        let many = jobs.len() >= MANY;
        // Whoever removes the file takes with it what is written from now on.
        let there = identity(path).is_ok_and(|found| found == known);
        let gone = || DbError::Gone(path.to_owned());
        let begun = if there { Ok(()) } else { Err(gone()) };
        let begin = || Ok(connection.execute_batch("BEGIN IMMEDIATE")?);
        let begun = begun.and_then(|()| begin()).map_err(Arc::new);
        // Without a transaction every job would commit itself, and be told that it failed.
        let open = begun.as_ref().map(|()| connection);
        let answers: Vec<Answer> = jobs.drain(..).map(|job| job(open)).collect();
        let committed = begun.and_then(|()| {
            let committed = connection.execute_batch("COMMIT");
            committed.map_err(|error| Arc::new(DbError::from(error)))
        });
        if committed.is_err() && !connection.is_autocommit() {
            // The answers tell the failure; nothing more is known here.
            let _failed = connection.execute_batch("ROLLBACK");
        }
        for answer in answers {
            answer(committed.clone());
        }
        if many && queue.len() < BATCH {
            std::thread::sleep(GATHER);
        }
    }
}

/// Runs one job so that its failure is no other's.
fn in_savepoint<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, DbError>,
) -> Result<T, DbError> {
    let run =
        |sql| -> Result<(), DbError> { Ok(connection.prepare_cached(sql)?.execute([]).map(drop)?) };
    run("SAVEPOINT job")?;
    let done = work(connection);
    if done.is_err() {
        run("ROLLBACK TO job")?;
    }
    run("RELEASE job")?;
    done
}

/// Tells each of the jobs in a transaction why it failed.
fn shared_error(error: &DbError) -> DbError {
    if let DbError::Sqlite(rusqlite::Error::SqliteFailure(code, message)) = error {
        return DbError::Sqlite(rusqlite::Error::SqliteFailure(*code, message.clone()));
    }
    if let DbError::Gone(path) = error {
        return DbError::Gone(path.clone());
    }
    DbError::Commit(shared::problem::chain(error))
}

/// Reads a time that was stored as seconds since 1970.
fn time(second: i64) -> Result<Time, DbError> {
    let time = jiff::Timestamp::from_second(second).map(Time::of);
    time.map_err(|_| DbError::damaged(second))
}

fn json(value: &impl serde::Serialize) -> Result<String, DbError> {
    serde_json::to_string(value).map_err(DbError::damaged)
}

#[cfg(test)]
mod tests;
