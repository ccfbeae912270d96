//! The fleet and the server as they are, looked up for each scrape.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, atomic::AtomicI64},
};

use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use shared::{
    id::{GroupName, POLICY, RealmName, TargetPath},
    state_word::StateWord,
    time::Time,
    version::VersionNumber,
};
use tokio::task::spawn_blocking;

use crate::{
    app::App,
    backup,
    db::{Db as _, DbError, sqlite},
    realm::RealmError,
};

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<i64, AtomicI64>>;

/// Why there is nothing to tell.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FleetError {
    /// The database does not answer.
    #[error(transparent)]
    Db(#[from] DbError),
    /// A signed file cannot be read.
    #[error(transparent)]
    Realm(#[from] RealmError),
    /// Looking at the files ended early.
    #[error("cannot look at the files")]
    Files(#[from] tokio::task::JoinError),
}

/// What was looked up for one scrape.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    hosts: BTreeMap<(RealmName, GroupName), BTreeMap<StateWord, u64>>,
    /// The version of each target in force.
    versions: BTreeMap<(RealmName, TargetPath), VersionNumber>,
    ahead: BTreeMap<RealmName, u64>,
    expires: BTreeMap<(RealmName, String), Time>,
    disk: Disk,
}

#[derive(Debug, Default)]
struct Disk {
    database: u64,
    free: Option<u64>,
    backup: Option<Time>,
}

impl Seen {
    /// Looks.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn look(app: &App) -> Result<Self, FleetError> {
        let mut seen = Self::default();
        for (name, realm) in &app.realms {
            let reading = Arc::clone(realm);
            let catalog = spawn_blocking(move || reading.catalog()).await??;
            let counts = app.db.counts_by_group(name.clone()).await?;
            let without = catalog.groups().into_iter().map(|group| (group, BTreeMap::new()));
            for (group, counts) in without.chain(counts) {
                let latest = app.db.latest_publications(name.clone(), group.clone()).await?;
                let latest = latest.into_iter().map(|it| ((name.clone(), it.target), it.version));
                seen.versions.extend(latest);
                seen.hosts.insert((name.clone(), group), counts);
            }
            let ahead = app.db.seen_ahead(name.clone()).await?;
            seen.ahead.insert(name.clone(), ahead.map_or(0, |ahead| ahead.hosts));
            let at = |role: &str| (name.clone(), role.to_owned());
            seen.expires.insert(at("timestamp"), realm.signed_for().1);
            seen.expires.insert(at("snapshot"), realm.snapshot_expires());
            seen.expires.insert(at("root"), catalog.root.header.expires);
            let roles = catalog.roles.iter().filter_map(|role| role.signed.as_ref());
            for signed in roles.chain([&catalog.top]) {
                seen.expires.insert(at(&signed.targets.role), signed.targets.header.expires);
            }
        }
        let data = app.data.clone();
        seen.disk = spawn_blocking(move || Disk::look(&data)).await?;
        Ok(seen)
    }
}

impl Disk {
    fn look(data: &Path) -> Self {
        let file = sqlite::file(data);
        let mut log = file.clone().into_os_string();
        log.push("-wal");
        let len = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
        Self {
            database: len(&file) + len(Path::new(&log)),
            free: crate::files::free(data).ok(),
            backup: backup::last(data).ok().flatten().map(|note| note.made_at),
        }
    }
}

/// Puts what was seen beside the counters.
pub(super) fn register(registry: &mut Registry, app: &App, seen: &Seen) {
    hosts(registry, seen);
    let versions = Gauges::default();
    for ((realm, target), version) in &seen.versions {
        let profile = target.profile().map_or(POLICY, |profile| profile.as_str());
        let labels = vec![
            ("realm", realm.to_string()),
            ("group", target.group().to_string()),
            ("profile", profile.to_owned()),
        ];
        versions.get_or_create(&labels).set(version.get().into());
    }
    registry.register("version", "Version of the manifest or policy in force", versions);
    let ahead = Gauges::default();
    for (realm, hosts) in &seen.ahead {
        let hosts = i64::try_from(*hosts).unwrap_or(i64::MAX);
        ahead.get_or_create(&vec![("realm", realm.to_string())]).set(hosts);
    }
    let help = "Hosts that have seen newer files than these: they may be of an old backup";
    registry.register("hosts_ahead", help, ahead);
    let expires = Gauges::default();
    for ((realm, role), at) in &seen.expires {
        let labels = vec![("realm", realm.to_string()), ("role", role.clone())];
        expires.get_or_create(&labels).set(at.as_second());
    }
    let help = "When signed metadata expires";
    registry.register_with_unit("expiry_timestamp", help, Unit::Seconds, expires);
    let signed = Gauges::default();
    for realm in app.realms.values() {
        let labels = vec![("realm", realm.name().to_string())];
        signed.get_or_create(&labels).set(realm.signed_for().0.as_second());
    }
    let help = "When the freshest statement was signed";
    registry.register_with_unit("signed_timestamp", help, Unit::Seconds, signed);
    disk(registry, &seen.disk);
}

fn hosts(registry: &mut Registry, seen: &Seen) {
    let hosts = Gauges::default();
    for ((realm, group), counts) in &seen.hosts {
        for state in StateWord::ALL {
            let labels = vec![
                ("realm", realm.to_string()),
                ("group", group.to_string()),
                ("state", state.to_string()),
            ];
            let count = counts.get(&state).copied().unwrap_or(0);
            hosts.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
    registry.register("hosts", "Hosts of a group by the worst state of their profiles", hosts);
}

fn disk(registry: &mut Registry, disk: &Disk) {
    let gauge = |bytes: u64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        gauge
    };
    let help = "The database with its log";
    registry.register_with_unit("db", help, Unit::Bytes, gauge(disk.database));
    if let Some(free) = disk.free {
        let help = "Room on the disk of the server's folder";
        registry.register_with_unit("free", help, Unit::Bytes, gauge(free));
    }
    let backup: Gauge = Gauge::default();
    backup.set(disk.backup.map_or(0, Time::as_second));
    let help = "When the last backup was made; 0 for never";
    registry.register_with_unit("last_backup_timestamp", help, Unit::Seconds, backup);
}
