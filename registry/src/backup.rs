//! A copy of all that a server has, made while it runs, and a server made of such a copy.
//!
//! A backup is a folder like the server's own: `r`, `keys`, `db.sqlite`, and `backup.json`, which
//! says when it was made. The files of a realm are immutable but for `timestamp.json` and hints;
//! `timestamp.json` is read first and written last, so whatever it names is there. The database is
//! copied before them: what it lacks of the files it learns from them at the next start.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use shared::{id::RealmName, time::Time};

use crate::{
    db::{
        Db as _, DbError, Sqlite,
        events::{Event, What},
        sqlite,
    },
    files::{self, Existing, Readers, WriteError},
    realm::{OnlineKeys, Realm, RealmError},
    serve,
};

/// The file that makes a folder a backup.
const NOTE: &str = "backup.json";

/// The file that tells a server that its folder is of a backup, until `registry recover` was run.
const RESTORED: &str = "restored.json";

/// The file that tells a server when the last backup of it was made.
const LAST: &str = "last-backup.json";

/// What a server has.
const PARTS: [&str; 3] = ["r", "keys", "db.sqlite"];

/// Why there is no backup, or no server made of one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    /// A file or folder could not be read or written.
    #[error("cannot use `{path}`")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The database says no.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The files of a realm are not what they must be.
    #[error(transparent)]
    Realm(#[from] RealmError),
    /// A server runs on the folder.
    #[error(transparent)]
    Serve(#[from] serve::ServeError),
    /// The folder is no backup, or not a whole one.
    #[error("`{0}` is no backup")]
    None(PathBuf),
    /// Something is where the backup would go.
    #[error("there is a server's folder at `{0}` already")]
    Exists(PathBuf),
}

/// What is known of a backup, or of a server that was made of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// When it was made.
    pub(crate) made_at: Time,
    /// The realms and the versions of their timestamps.
    pub(crate) realms: Vec<(RealmName, u64)>,
}

/// Copies all that the server at `data` has into `to`, which is not there yet.
///
/// # Errors
/// When something cannot be read or written, or is damaged; nothing is left at `to` then.
pub(crate) async fn make(data: &Path, to: &Path, now: Time) -> Result<Note, BackupError> {
    if to.exists() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = to.with_file_name(name);
    let made = make_at(data, &partial, now).await.and_then(|note| {
        fs::rename(&partial, to).map_err(failed(to))?;
        sync_folder(to.parent())?;
        Ok(note)
    });
    if made.is_err() {
        // What is half is of no use; the error tells more than that it stays.
        drop(fs::remove_dir_all(&partial));
    }
    made
}

async fn make_at(data: &Path, partial: &Path, now: Time) -> Result<Note, BackupError> {
    files::private_folder(partial)?;
    Sqlite::open(data)?.copy_to(&sqlite::file(partial)).await?;
    copy_folder(&data.join("keys"), &partial.join("keys"))?;
    let mut realms = Vec::new();
    for name in realm_names(data)? {
        let (from, to) = (crate::realm::folder(data, &name), crate::realm::folder(partial, &name));
        let timestamp = from.join("metadata/timestamp.json");
        let bytes = fs::read(&timestamp).map_err(failed(&timestamp))?;
        copy_folder(&from, &to)?;
        let path = to.join("metadata/timestamp.json");
        fs::write(&path, &bytes).map_err(failed(&path))?;
        realms.push((name, 0));
    }
    let keys = OnlineKeys::open(partial)?;
    for (name, version) in &mut realms {
        // Opened as a server would, so that nobody finds out later that it cannot be.
        *version = Realm::open(partial, name.clone(), keys.clone())?.version("timestamp");
    }
    let note = Note { made_at: now, realms };
    write_note(&partial.join(NOTE), &note)?;
    let folder = File::open(partial).map_err(failed(partial))?;
    rustix::fs::syncfs(&folder).map_err(|error| failed(partial)(error.into()))?;
    Ok(note)
}

/// Makes the server at `data` one of this backup; what was there is moved to `backups/` if that is
/// wished.
///
/// # Errors
/// When a server runs there, the backup is not whole, or there is a server's folder that may not be
/// replaced.
pub(crate) async fn restore(
    backup: &Path,
    data: &Path,
    replace: bool,
    now: Time,
) -> Result<Note, BackupError> {
    let note = read_note(&backup.join(NOTE))?;
    let note = note.ok_or_else(|| BackupError::None(backup.to_owned()))?;
    sqlite::check(&sqlite::file(backup))?;
    files::private_folder(data)?;
    let _lock = serve::lock(data)?;
    set_aside(data, replace, now)?;
    for part in ["r", "keys"] {
        copy_folder(&backup.join(part), &data.join(part))?;
    }
    let database = sqlite::file(data);
    fs::copy(sqlite::file(backup), &database).map_err(failed(&database))?;
    write_note(&data.join(RESTORED), &note)?;
    let folder = File::open(data).map_err(failed(data))?;
    rustix::fs::syncfs(&folder).map_err(|error| failed(data)(error.into()))?;
    let keys = OnlineKeys::open(data)?;
    let db = Sqlite::open(data)?;
    // What hosts told since the backup was made is not known, so none of it may come again.
    db.forget_counters().await?;
    for (name, _) in &note.realms {
        Realm::open(data, name.clone(), keys.clone())?;
        let detail = format!("from a backup that was made at {}", note.made_at);
        let (what, subject) = (What::Restored, "registry".to_owned());
        db.note(Event { realm: name.clone(), at: now, what, subject, detail }).await?;
    }
    Ok(note)
}

/// Notes in a server's folder that a backup of it was made.
///
/// # Errors
/// When the note cannot be written; the backup is as good without it.
pub(crate) fn note_made(data: &Path, note: &Note) -> Result<(), BackupError> {
    write_note(&data.join(LAST), note)
}

/// Returns what is known of the last backup of a server.
pub(crate) fn last(data: &Path) -> Result<Option<Note>, BackupError> {
    read_note(&data.join(LAST))
}

/// Returns of which backup a server's folder is, if that was not mended since.
pub(crate) fn restored(data: &Path) -> Result<Option<Note>, BackupError> {
    read_note(&data.join(RESTORED))
}

/// Notes that a server's folder is not that of a backup any more.
pub(crate) fn recovered(data: &Path) -> Result<(), BackupError> {
    let path = data.join(RESTORED);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&path)(error)),
        Ok(()) | Err(_) => sync_folder(Some(data)),
    }
}

/// Moves what a server had out of the way.
fn set_aside(data: &Path, replace: bool, now: Time) -> Result<(), BackupError> {
    let is_there = |part: &&&str| data.join(part).exists();
    if !PARTS.iter().any(|part| is_there(&part)) {
        return Ok(());
    }
    if !replace {
        return Err(BackupError::Exists(data.to_owned()));
    }
    let aside = data.join("backups").join(format!("replaced-{}", file_time(now)));
    files::private_folder(&aside)?;
    let sidecars = ["db.sqlite-wal", "db.sqlite-shm"];
    for part in PARTS.iter().chain(&sidecars).filter(is_there) {
        let path = data.join(part);
        fs::rename(&path, aside.join(part)).map_err(failed(&path))?;
    }
    Ok(())
}

/// Returns a time as names of files have it.
pub(crate) fn file_time(time: Time) -> String {
    time.to_string().replace(['-', ':'], "")
}

/// Returns the realms of a server's folder.
pub(crate) fn realm_names(data: &Path) -> Result<Vec<RealmName>, BackupError> {
    let folder = data.join("r");
    let entries = fs::read_dir(&folder).map_err(failed(&folder))?;
    let names = entries.flatten().map(|entry| entry.file_name());
    Ok(names.filter_map(|name| RealmName::parse(name.to_str()?).ok()).collect())
}

fn read_note(path: &Path) -> Result<Option<Note>, BackupError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| failed(path)(io::Error::other(error))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path)(error)),
    }
}

fn write_note(path: &Path, note: &Note) -> Result<(), BackupError> {
    let bytes = serde_json::to_vec(note).unwrap_or_default();
    Ok(files::write(path, &bytes, Readers::Owner, Existing::Replace)?)
}

/// Copies a folder but for temporary files, which may be gone the next moment.
fn copy_folder(from: &Path, to: &Path) -> Result<(), BackupError> {
    files::private_folder(to)?;
    for entry in fs::read_dir(from).map_err(failed(from))? {
        let entry = entry.map_err(failed(from))?;
        let (name, path) = (entry.file_name(), entry.path());
        if name.to_string_lossy().starts_with('.') {
            continue;
        }
        let target = to.join(&name);
        if entry.file_type().map_err(failed(&path))?.is_dir() {
            copy_folder(&path, &target)?;
        } else {
            fs::copy(&path, &target).map_err(failed(&path))?;
        }
    }
    Ok(())
}

fn sync_folder(folder: Option<&Path>) -> Result<(), BackupError> {
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    File::open(folder).and_then(|file| file.sync_all()).map_err(failed(folder))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::File { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Running, data};

    #[tokio::test]
    async fn a_backup_that_is_made_while_the_server_runs_becomes_a_server() {
        let data = data();
        let server = Running::start(data.path()).await;
        server.publish_web(1).await;
        let folder = tempfile::tempdir().unwrap();
        let backup = folder.path().join("backup");
        let now = Time::of(testing::now());
        let note = make(data.path(), &backup, now).await.unwrap();
        assert_eq!(note.realms, [(testing::realm_name(), 2)]);
        assert!(matches!(make(data.path(), &backup, now).await, Err(BackupError::Exists(_))));
        server.publish_web(2).await;

        let there = restore(&backup, data.path(), true, now).await;
        assert!(matches!(there, Err(BackupError::Serve(serve::ServeError::Locked(_)))));
        server.stop().await;
        let there = restore(&backup, data.path(), false, now).await;
        assert!(matches!(there, Err(BackupError::Exists(_))));
        assert_eq!(restored(data.path()).unwrap(), None);
        assert_eq!(restore(&backup, data.path(), true, now).await.unwrap(), note);
        assert_eq!(restored(data.path()).unwrap(), Some(note.clone()));

        let elsewhere = folder.path().join("elsewhere");
        restore(&backup, &elsewhere, false, now).await.unwrap();
        for data in [data.path(), &elsewhere] {
            let server = Running::start(data).await;
            assert!(server.file("metadata/1.web.json").await.is_some());
            assert!(server.file("metadata/2.web.json").await.is_none());
            assert_eq!(server.publish_web(2).await.0, reqwest::StatusCode::CREATED);
            server.stop().await;
        }
        recovered(data.path()).unwrap();
        recovered(data.path()).unwrap();
        assert_eq!(restored(data.path()).unwrap(), None);
    }

    #[tokio::test]
    async fn half_a_backup_is_none() {
        let data = data();
        drop(Sqlite::open(data.path()).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let (backup, new) = (folder.path().join("backup"), folder.path().join("new"));
        let now = Time::of(testing::now());
        let missing = restore(&backup, &new, false, now).await;
        assert!(matches!(missing, Err(BackupError::None(_))));
        fs::remove_file(data.path().join("r/main/metadata/1.targets.json")).unwrap();
        fs::remove_file(data.path().join("r/main/metadata/1.snapshot.json")).unwrap();
        make(data.path(), &backup, now).await.unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
