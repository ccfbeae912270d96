//! A manager of units: systemd itself, or that of a user, over D-Bus.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::num::NonZeroUsize;
use std::path::Path;

use futures_util::StreamExt as _;
use zbus::proxy::CacheProperties;
use zbus::{Connection, MatchRule, MessageStream, OwnedObjectPath, Variant};

/// Signals that may wait while jobs are asked for; at boot, others have many of their own.
const QUEUE: NonZeroUsize = NonZeroUsize::new(8192).unwrap();

/// The state of a unit whose start has been asked for, and has not begun.
const DUE: &str = "activating";

/// One line of `ListUnits`: name, description, load state, active state, sub state, followed unit,
/// object, job id, job type, job object.
type Listed =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// What the signal of that name says: id, object, unit, result.
type JobRemoved<'a> = (u32, OwnedObjectPath, &'a str, &'a str);

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Systemd {
    async fn subscribe(&self) -> zbus::Result<()>;
    async fn reload(&self) -> zbus::Result<()>;
    async fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    async fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    async fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    async fn reload_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    async fn list_units_by_names(&self, names: &[&str]) -> zbus::Result<Vec<Listed>>;
    async fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    async fn list_units_by_patterns(
        &self,
        states: &[&str],
        patterns: &[&str],
    ) -> zbus::Result<Vec<Listed>>;
    async fn get_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    async fn get_unit_processes(&self, name: &str) -> zbus::Result<Vec<(String, u32, String)>>;
    async fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: Vec<(&str, Variant<'_>)>,
        others: Vec<(&str, Vec<(&str, Variant<'_>)>)>,
    ) -> zbus::Result<OwnedObjectPath>;
    #[zbus(property)]
    fn system_state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn unit_path(&self) -> zbus::Result<Vec<String>>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Unit",
    default_service = "org.freedesktop.systemd1"
)]
trait Unit {
    #[zbus(property)]
    fn description(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn active_state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn sub_state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn load_state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn job(&self) -> zbus::Result<(u32, OwnedObjectPath)>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Service",
    default_service = "org.freedesktop.systemd1"
)]
trait UnitOfService {
    #[zbus(property)]
    fn result(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn exec_main_start_timestamp(&self) -> zbus::Result<u64>;
    #[zbus(property)]
    fn exec_main_code(&self) -> zbus::Result<i32>;
    #[zbus(property)]
    fn exec_main_status(&self) -> zbus::Result<i32>;
}

#[zbus::proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1"
)]
trait Login {
    async fn get_user(&self, uid: u32) -> zbus::Result<OwnedObjectPath>;
    async fn reboot(&self, interactive: bool) -> zbus::Result<()>;
    async fn set_user_linger(&self, uid: u32, enable: bool, interactive: bool) -> zbus::Result<()>;
}

#[zbus::proxy(
    interface = "org.freedesktop.login1.User",
    default_service = "org.freedesktop.login1"
)]
trait LoginUser {
    #[zbus(property)]
    fn linger(&self) -> zbus::Result<bool>;
}

/// What is done to units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Start,
    Stop,
    Restart,
    Reload,
}

/// Why systemd did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManagerError {
    /// Nobody is there to ask.
    #[error("cannot reach {who}")]
    Connect {
        who: &'static str,
        #[source]
        source: zbus::Error,
    },
    /// It refused.
    #[error("systemd does not {action}")]
    Refused {
        action: String,
        #[source]
        source: zbus::Error,
    },
    /// A job did not end well.
    #[error("cannot {verb} `{unit}`: {result}")]
    Job { verb: Verb, unit: String, result: String },
    /// The connection ended before the job.
    #[error("systemd ended while a job was under way")]
    Gone,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Reload => "reload",
        })
    }
}

/// A service unit as systemd tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    /// What it is, for people.
    pub(crate) description: String,
    /// Its active state, such as `active`.
    pub(crate) active: String,
    /// Its state in more detail, such as `exited`.
    pub(crate) sub: String,
    /// Whether something is still to be done with it.
    pub(crate) has_job: bool,
    /// `success`, or what went wrong.
    pub(crate) result: String,
    /// How its main process ended, as `waitid` numbers it; 0 while it runs.
    pub(crate) code: i32,
    /// Its exit code, or the signal that ended it.
    pub(crate) status: i32,
    /// When its main process was started, in microseconds since 1970.
    pub(crate) started: u64,
}

impl Service {
    /// Returns whether it is up, or stays for its end to be read.
    pub(crate) fn is_active(&self) -> bool {
        self.active == "active"
    }

    /// Returns whether its program has ended and nothing comes after that.
    pub(crate) fn is_ended(&self) -> bool {
        match self.active.as_str() {
            "failed" => true,
            "active" => self.sub == "exited",
            "inactive" => !self.has_job,
            _ => false,
        }
    }
}

impl ManagerError {
    /// Returns whether nothing may be started because everything is being stopped.
    pub(crate) fn is_too_late(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if is_error(source, "TransactionIsDestructive"))
    }

    /// Returns whether a unit of that name is there already.
    pub(crate) fn is_taken(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if is_error(source, "UnitExists"))
    }

    fn refused(action: impl Into<String>) -> impl FnOnce(zbus::Error) -> Self {
        move |source| Self::Refused { action: action.into(), source }
    }
}

/// A connection to a manager.
#[derive(Debug)]
pub(crate) struct Manager {
    connection: Connection,
    systemd: SystemdProxy<'static>,
}

impl Manager {
    /// Connects to the manager of the whole host.
    pub(crate) async fn of_host() -> Result<Self, ManagerError> {
        let who = "systemd on the system bus";
        Self::on(zbus::connection::Builder::system(), who).await
    }

    /// Connects to the manager of whoever we are, in whose runtime folder its bus is.
    pub(crate) async fn of_user(runtime: &Path) -> Result<Self, ManagerError> {
        let who = "the user's systemd on its bus";
        let address = format!("unix:path={}/bus", runtime.display());
        Self::on(zbus::connection::Builder::address(address.as_str()), who).await
    }

    async fn on(
        bus: zbus::connection::Builder<'_>,
        who: &'static str,
    ) -> Result<Self, ManagerError> {
        let failed = |source| ManagerError::Connect { who, source };
        let connection = bus.build().await.map_err(failed)?;
        // Nothing is worth keeping in between two questions.
        let systemd = SystemdProxy::builder(&connection)
            .cache_properties(CacheProperties::No)
            .build()
            .await
            .map_err(failed)?;
        systemd.subscribe().await.map_err(failed)?;
        Ok(Self { connection, systemd })
    }

    /// Reads all units again.
    pub(crate) async fn reload(&self) -> Result<(), ManagerError> {
        self.systemd.reload().await.map_err(ManagerError::refused("read its units again"))
    }

    /// Returns the folders that units are looked for in, the most important first.
    pub(crate) async fn search_path(&self) -> Result<Vec<String>, ManagerError> {
        self.systemd.unit_path().await.map_err(ManagerError::refused("tell its folders"))
    }

    /// Returns the active state of each unit that is loaded and fits a pattern.
    pub(crate) async fn states(
        &self,
        patterns: &[&str],
    ) -> Result<BTreeMap<String, String>, ManagerError> {
        let listed = self.systemd.list_units_by_patterns(&[], patterns).await;
        let listed = listed.map_err(ManagerError::refused("list its units"))?;
        // Of what is only referred to, nothing is there.
        let known = listed.into_iter().filter(|it| it.2 != "not-found");
        Ok(known
            .map(|(unit, _, _, active, _, _, _, job, kind, _)| {
                // Its turn has not come, and may at any moment: as on a host that has just booted.
                let is_due = job != 0 && active == "inactive" && kind == "start";
                (unit, if is_due { DUE.to_owned() } else { active })
            })
            .collect())
    }

    /// Returns the active state of one unit, loaded or not.
    pub(crate) async fn state(&self, unit: &str) -> Result<String, ManagerError> {
        let listed = self.systemd.list_units_by_names(&[unit]).await;
        let listed = listed.map_err(ManagerError::refused(format!("tell of `{unit}`")))?;
        Ok(listed.into_iter().next().map_or_else(|| "inactive".to_owned(), |it| it.3))
    }

    /// Returns whether the machine is going down.
    pub(crate) async fn is_stopping(&self) -> Result<bool, ManagerError> {
        let state = self.systemd.system_state().await;
        Ok(state.map_err(ManagerError::refused("tell its state"))? == "stopping")
    }

    /// Forgets that a unit failed.
    pub(crate) async fn reset_failed(&self, unit: &str) {
        // Fails if it has gone by itself.
        drop(self.systemd.reset_failed_unit(unit).await);
    }

    /// Asks for a unit of these properties to be started; fails if one of that name is there.
    pub(crate) async fn start_transient(
        &self,
        name: &str,
        properties: Vec<(&str, Variant<'_>)>,
    ) -> Result<(), ManagerError> {
        let started = self.systemd.start_transient_unit(name, "fail", properties, Vec::new()).await;
        started.map(drop).map_err(ManagerError::refused(format!("start `{name}`")))
    }

    /// Returns a service unit, if it is loaded.
    pub(crate) async fn service(&self, name: &str) -> Result<Option<Service>, ManagerError> {
        match self.look_at(name).await {
            // Also if it goes while it is looked at.
            Err(error) if ["NoSuchUnit", "UnknownObject"].iter().any(|it| is_error(&error, it)) => {
                Ok(None)
            }
            looked => looked.map_err(ManagerError::refused(format!("tell of `{name}`"))),
        }
    }

    async fn look_at(&self, name: &str) -> zbus::Result<Option<Service>> {
        let object = self.systemd.get_unit(name).await?;
        let unit = UnitProxy::builder(&self.connection).path(object.clone());
        let unit = unit.cache_properties(CacheProperties::No).build().await?;
        let service = UnitOfServiceProxy::builder(&self.connection).path(object);
        let service = service.cache_properties(CacheProperties::No).build().await?;
        if unit.load_state().await? == "not-found" {
            return Ok(None);
        }
        // First of all: once it has ended, nothing else changes any more.
        let (has_job, active) = (unit.job().await?.0 != 0, unit.active_state().await?);
        Ok(Some(Service {
            has_job,
            active,
            sub: unit.sub_state().await?,
            description: unit.description().await?,
            result: service.result().await?,
            code: service.exec_main_code().await?,
            status: service.exec_main_status().await?,
            started: service.exec_main_start_timestamp().await?,
        }))
    }

    /// Returns whether anything of a unit runs.
    pub(crate) async fn has_processes(&self, name: &str) -> Result<bool, ManagerError> {
        let found = self.systemd.get_unit_processes(name).await.map(|found| !found.is_empty());
        found.map_err(ManagerError::refused(format!("tell what `{name}` runs")))
    }

    /// Asks for a job and does not wait for it.
    pub(crate) async fn request(
        &self,
        verb: Verb,
        unit: &str,
    ) -> Result<OwnedObjectPath, ManagerError> {
        let mode = "replace";
        let asked = match verb {
            Verb::Start => self.systemd.start_unit(unit, mode).await,
            Verb::Stop => self.systemd.stop_unit(unit, mode).await,
            Verb::Restart => self.systemd.restart_unit(unit, mode).await,
            Verb::Reload => self.systemd.reload_unit(unit, mode).await,
        };
        asked.map_err(ManagerError::refused(format!("{verb} `{unit}`")))
    }

    /// Asks for one job for each unit, all at once, so that systemd orders them among each other,
    /// and waits until all have ended. Tells the first that did not end well.
    pub(crate) async fn run<'a>(
        &self,
        verb: Verb,
        units: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), ManagerError> {
        // Before the first job, so that the end of none is missed.
        let mut ended = self.ended_jobs().await?;
        let (mut jobs, mut first) = (HashMap::new(), None);
        for unit in units {
            match self.request(verb, unit).await {
                Ok(job) => drop(jobs.insert(job, unit)),
                // What was asked for goes on, and comes to its end.
                Err(error) => drop(first.get_or_insert(error)),
            }
        }
        while !jobs.is_empty() {
            let Some(Ok(signal)) = ended.next().await else { return Err(ManagerError::Gone) };
            let body = signal.body();
            let Ok((_, job, _, result)) = body.deserialize::<JobRemoved<'_>>() else { continue };
            let Some(unit) = jobs.remove(&job) else { continue };
            // `skipped`: there was nothing to do.
            if !matches!(result, "done" | "skipped") {
                let (unit, result) = (unit.to_owned(), result.to_owned());
                first.get_or_insert(ManagerError::Job { verb, unit, result });
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Hears of every job that ends from now on.
    async fn ended_jobs(&self) -> Result<MessageStream, ManagerError> {
        let heard = async {
            let rule = MatchRule::builder()
                .msg_type(zbus::message::Type::Signal)
                .sender("org.freedesktop.systemd1")
                .interface("org.freedesktop.systemd1.Manager")
                .member("JobRemoved")
                .build()?;
            MessageStream::for_match_rule(rule, &self.connection, Some(QUEUE)).await
        };
        heard.await.map_err(ManagerError::refused("tell of its jobs"))
    }

    /// Returns whether the manager of a user runs as long as the host does.
    pub(crate) async fn lingers(&self, uid: u32) -> Result<bool, ManagerError> {
        let who = "systemd-logind on the system bus";
        let asked = async {
            let login = LoginProxy::new(&self.connection).await?;
            let user = login.get_user(uid).await?;
            let user = LoginUserProxy::builder(&self.connection).path(user);
            user.cache_properties(CacheProperties::No).build().await?.linger().await
        };
        match asked.await {
            // Who lingers is known from the boot on.
            Err(error) if is_error(&error, "NoSuchUser") => Ok(false),
            asked => asked.map_err(|source| ManagerError::Connect { who, source }),
        }
    }

    /// Asks for a reboot; fails as long as somebody inhibits it.
    pub(crate) async fn reboot(&self) -> Result<(), ManagerError> {
        let who = "systemd-logind on the system bus";
        let failed = |source| ManagerError::Connect { who, source };
        let login = LoginProxy::new(&self.connection).await.map_err(failed)?;
        login.reboot(false).await.map_err(ManagerError::refused("reboot"))
    }

    /// Lets the manager of a user run as long as the host does, or not any more.
    pub(crate) async fn set_linger(&self, uid: u32, linger: bool) -> Result<(), ManagerError> {
        let who = "systemd-logind on the system bus";
        let failed = |source| ManagerError::Connect { who, source };
        let login = LoginProxy::new(&self.connection).await.map_err(failed)?;
        login.set_user_linger(uid, linger, false).await.map_err(failed)
    }
}

/// Returns whether an answer is the error of this name, of systemd's or of the bus's.
fn is_error(error: &zbus::Error, name: &str) -> bool {
    let zbus::Error::MethodError(full, _, _) = error else { return false };
    full.as_str().rsplit('.').next() == Some(name)
}
