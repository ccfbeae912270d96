//! The server's life: open, listen, keep signing, stop.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use jiff::Timestamp;
use shared::{id::RealmName, time::Time, trust::SigningKey};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};
use tokio_util::sync::CancellationToken;

use crate::{
    access::Access,
    api,
    app::{App, PUBLICATION_ROOM},
    backup,
    blobs::FileName,
    certificates::Certificates,
    db::{Db as _, DbError, Sqlite, retention::Retention},
    keys,
    metrics::Metrics,
    realm::{OnlineKeys, Realm, RealmError, online_key_file},
};

mod connections;
mod upkeep;

pub(crate) use connections::Limits;

/// How often the server looks whether something must be signed anew.
const RENEW: Duration = Duration::from_secs(60);

/// What a server serves, and how.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) data: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) cache: Option<PathBuf>,
    pub(crate) stale_after: u32,
    pub(crate) retention: Retention,
    pub(crate) access: Access,
    pub(crate) limits: Limits,
}

/// Why a server does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// There is nothing to serve.
    #[error("there is no realm in `{0}`")]
    NoRealm(PathBuf),
    /// The folder cannot be read.
    #[error("cannot read `{path}`")]
    Data {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Another server works on the same folder.
    #[error("another server works on `{0}`")]
    Locked(PathBuf),
    /// The address cannot be had.
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    /// A realm cannot be opened.
    #[error(transparent)]
    Realm(#[from] RealmError),
    /// The database cannot be opened.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The enrolment key cannot be opened.
    #[error("cannot use the enrolment key")]
    Enrolment(#[source] keys::KeyError),
    /// The server broke.
    #[error("the server failed")]
    Io(#[source] io::Error),
}

/// A server that is ready to serve.
#[derive(Debug)]
pub(crate) struct Server {
    app: Arc<App>,
    listener: TcpListener,
    limits: Limits,
    /// Held as long as the server runs.
    _lock: std::fs::File,
}

impl Server {
    /// Opens everything and listens; nothing is served yet.
    pub(crate) async fn start(
        options: &Options,
        clock: fn() -> Timestamp,
    ) -> Result<Self, ServeError> {
        let lock = lock(&options.data)?;
        let realms = open_realms(&options.data)?;
        let app = Arc::new(App {
            realms,
            db: Sqlite::open(&options.data)?,
            certificates: Certificates::default(),
            enrolment: enrolment_key(&options.data)?,
            metrics: Metrics::default(),
            data: options.data.clone(),
            cache: options.cache.clone(),
            stale_after: options.stale_after,
            warned_of: AtomicU64::new(0),
            newest: watch::Sender::new(0),
            retention: options.retention,
            access: options.access.clone(),
            stopping: CancellationToken::new(),
            publications: Semaphore::new(PUBLICATION_ROOM),
            body_time: options.limits.body,
            clock,
        });
        renew(&app);
        complete_index(&app).await?;
        warn_if_restored(&options.data);
        let address = options.listen;
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| ServeError::Listen { address, source })?;
        Ok(Self { app, listener, limits: options.limits, _lock: lock })
    }

    /// Returns where the server listens.
    pub(crate) fn address(&self) -> Result<SocketAddr, ServeError> {
        self.listener.local_addr().map_err(ServeError::Io)
    }

    /// Returns what ends the server when it is cancelled.
    pub(crate) fn stopper(&self) -> CancellationToken {
        self.app.stopping.clone()
    }

    /// Returns the database, to be kept busy.
    #[cfg(test)]
    pub(crate) fn db(&self) -> Sqlite {
        self.app.db.clone()
    }

    /// Serves until the stopper is cancelled, then lets requests end.
    pub(crate) async fn run(self) {
        let Self { app, listener, limits, _lock } = self;
        let stopping = app.stopping.clone();
        let renewing = tokio::spawn(keep_fresh(Arc::clone(&app)));
        let keeping = tokio::spawn(upkeep::run(Arc::clone(&app)));
        let watching = tokio::spawn(api::events::watch(Arc::clone(&app)));
        connections::serve(listener, app, limits, stopping).await;
        // They end with the stopper; only a panic could be lost here, and it was logged.
        let _ended = (renewing.await, keeping.await, watching.await);
    }
}

/// Signs timestamps and snapshots anew while the server runs.
async fn keep_fresh(app: Arc<App>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(RENEW) => {}
            () = app.stopping.cancelled() => return,
        }
        let renewing = Arc::clone(&app);
        if let Err(error) = tokio::task::spawn_blocking(move || renew(&renewing)).await {
            tracing::error!(%error, "signing anew failed");
        }
    }
}

fn renew(app: &App) {
    for realm in app.realms.values() {
        if let Err(error) = realm.renew(app.now()) {
            let error: &dyn std::error::Error = &error;
            tracing::error!(realm = %realm.name(), error, "cannot sign anew; hosts become stale");
        }
    }
}

/// Says that the files are of a backup, until somebody has brought them above what hosts have seen.
fn warn_if_restored(data: &Path) {
    match backup::restored(data) {
        Ok(None) => {}
        Ok(Some(note)) => tracing::warn!(
            made_at = %note.made_at,
            "restored from a backup; hosts that have seen newer files wait for: registry recover"
        ),
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "cannot tell whether this was restored from a backup");
        }
    }
}

/// Keeps a second server away from the same files.
pub(crate) fn lock(data: &Path) -> Result<std::fs::File, ServeError> {
    let path = data.join("lock");
    let failed = |source| ServeError::Data { path: path.clone(), source };
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(ServeError::Locked(data.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn open_realms(data: &Path) -> Result<BTreeMap<RealmName, Arc<Realm>>, ServeError> {
    let folder = data.join("r");
    let failed = |source| ServeError::Data { path: folder.clone(), source };
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ServeError::NoRealm(data.to_owned()));
        }
        Err(error) => return Err(failed(error)),
    };
    let keys = OnlineKeys::open(data)?;
    let mut realms = BTreeMap::new();
    for entry in entries {
        let file_name = entry.map_err(failed)?.file_name();
        let name = file_name.to_str().and_then(|name| RealmName::parse(name).ok());
        if let Some(name) = name {
            let realm = Realm::open(data, name.clone(), keys.clone())?;
            realms.insert(name, Arc::new(realm));
        }
    }
    if realms.is_empty() {
        return Err(ServeError::NoRealm(data.to_owned()));
    }
    Ok(realms)
}

/// Opens the key that signs certificates; it may live elsewhere.
fn enrolment_key(data: &Path) -> Result<Option<SigningKey>, ServeError> {
    let path = online_key_file(data, "enrolment");
    if !path.exists() {
        return Ok(None);
    }
    let key = keys::open_online(&path).map_err(ServeError::Enrolment)?;
    Ok(Some(key))
}

/// Adds to the history what the signed files have and the database lacks.
async fn complete_index(app: &App) -> Result<(), ServeError> {
    for realm in app.realms.values() {
        let roles: Vec<(String, u64)> = realm
            .roles()
            .into_iter()
            .chain([("root".to_owned(), realm.version("root"))])
            .flat_map(|(role, last)| (1..=last).map(move |version| (role.clone(), version)))
            .collect();
        let name = realm.name().clone();
        let missing = app.db.missing_roles(name, roles).await?;
        for (role, version) in missing {
            let path = realm.blobs().file(&FileName::metadata(version, &role));
            let written = std::fs::metadata(&path).and_then(|metadata| metadata.modified());
            let written = written.ok().and_then(|time| Timestamp::try_from(time).ok());
            let at = Time::of(written.unwrap_or_else(|| app.now()));
            api::roles::index(app, realm, &role, version, at).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
