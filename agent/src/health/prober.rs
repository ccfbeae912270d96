//! One try of one check.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::select_ok;
use reqwest::redirect;
use shared::health::{Check, Probe};
use shared::human;
use shared::id::{GroupName, ProfileName, RealmName};
use shared::nix::StorePath;
use store::net::{self, Authorities};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::units::{Manager, Units};
use crate::activate::{self, Account, Command, Failed, PATH, Purpose, real_path};
use crate::client::Source;
use crate::config::Registry;
use crate::state::EpochVersion;

/// How much of a body is looked at.
const MAX_BODY: usize = 64 * 1024;

/// Largest timestamp that a registry may answer with.
const MAX_TIMESTAMP: u64 = 64 * 1024;

/// What checks ask with, the same for all profiles of this host.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    /// The trust domain, whose registry a check may ask.
    pub(crate) realm: RealmName,
    /// How the registry is asked.
    pub(crate) registry: Registry,
    /// Asks for units; without it there is no service manager, and commands are our children.
    pub(crate) units: Option<Arc<dyn Units>>,
}

/// What is checked.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    /// The store root.
    pub(crate) root: PathBuf,
    /// The agent's state folder.
    pub(crate) state_dir: PathBuf,
    /// The group, if one is followed.
    pub(crate) group: Option<GroupName>,
    /// The profile.
    pub(crate) profile: ProfileName,
    /// The root that is at work.
    pub(crate) path: StorePath,
    /// Its version, if it is known.
    pub(crate) version: Option<EpochVersion>,
    /// Whom its commands run as, if not as us.
    pub(crate) account: Option<Account>,
    /// Why its commands cannot be run at all.
    pub(crate) refused: Option<String>,
    /// Whose units it has.
    pub(crate) manager: Manager,
}

/// What one try came to.
#[derive(Debug, Clone)]
pub(crate) struct Tried {
    /// What is wrong, in a clause for people.
    pub(crate) outcome: Result<(), String>,
    /// The last lines that a command wrote, without what looks like a secret.
    pub(crate) log: String,
    /// How long it took.
    pub(crate) took: Duration,
}

/// Makes tries for one profile.
#[derive(Debug)]
pub(crate) struct Prober {
    tools: Tools,
    subject: Subject,
}

impl Prober {
    /// Prepares; asks nobody yet.
    pub(crate) const fn new(tools: Tools, subject: Subject) -> Self {
        Self { tools, subject }
    }

    /// Makes one try, within the time that the check has.
    pub(crate) async fn attempt(&self, check: &Check) -> Tried {
        let begun = Instant::now();
        let limit = Duration::from_secs(check.timeout.into());
        let late = || (Err(format!("no answer within {} s", limit.as_secs())), String::new());
        let tried = match &check.probe {
            // Tells by itself that it took too long, with what it wrote by then.
            Probe::Command { argv } => self.command(argv, limit).await,
            Probe::Http { .. } | Probe::Tcp { .. } | Probe::Unit { .. } | Probe::Registry => {
                let asked = timeout(limit, self.ask(&check.probe)).await;
                asked.map_or_else(|_| late(), |outcome| (outcome, String::new()))
            }
        };
        let (outcome, log) = tried;
        let outcome = outcome.map_err(|problem| human::redact(&human::plain(&problem)));
        Tried { outcome, log: human::redact(&log), took: begun.elapsed() }
    }

    async fn ask(&self, probe: &Probe) -> Result<(), String> {
        match probe {
            Probe::Http { url, status, contains } => http(url, *status, contains.as_deref()).await,
            Probe::Tcp { address } => {
                TcpStream::connect(address).await.map(drop).map_err(|error| error.to_string())
            }
            Probe::Unit { unit } => self.unit(unit).await,
            Probe::Registry => self.registry().await,
            Probe::Command { .. } => Ok(()),
        }
    }

    async fn unit(&self, unit: &str) -> Result<(), String> {
        let Some(units) = &self.tools.units else {
            return Err("this host's runner knows no units".to_owned());
        };
        match units.active_state(self.subject.manager, unit).await?.as_str() {
            "active" => Ok(()),
            other => Err(format!("is {other}")),
        }
    }

    async fn registry(&self) -> Result<(), String> {
        let sources = Source::all(&self.tools.registry).map_err(|error| error.to_string())?;
        let path = format!("r/{}/metadata/timestamp.json", self.tools.realm);
        let ask = |source: &Source| {
            let (source, path) = (source.clone(), path.clone());
            Box::pin(async move {
                let answer = source.get(&path, MAX_TIMESTAMP).await;
                answer
                    .map_err(|error| error.to_string())?
                    .found()
                    .map(drop)
                    .ok_or_else(|| format!("`{}` has no timestamp", source.base()))
            })
        };
        if sources.is_empty() {
            return Err("the configuration names no registry".to_owned());
        }
        select_ok(sources.iter().map(ask)).await.map(drop)
    }

    async fn command(&self, argv: &[String], limit: Duration) -> (Result<(), String>, String) {
        if let Some(refused) = &self.subject.refused {
            return (Err(refused.clone()), String::new());
        }
        let Some((program, arguments)) = argv.split_first() else {
            return (Err("there is no program".to_owned()), String::new());
        };
        let subject = &self.subject;
        let own = real_path(&subject.root, &subject.path);
        let version = subject.version.map(|version| version.version.to_string());
        let text = |text: &str| OsString::from(text);
        let command = Command {
            purpose: Purpose::Look,
            program: locate(&subject.root, &own, program),
            arguments: arguments.iter().map(OsString::from).collect(),
            environment: vec![
                ("PATH", PATH.into()),
                ("SHOAL_GROUP", text(subject.group.as_ref().map_or("", GroupName::as_str))),
                ("SHOAL_PROFILE", text(subject.profile.as_str())),
                ("SHOAL_VERSION", text(&version.unwrap_or_default())),
                ("SHOAL_NEW", own.into_os_string()),
                ("SHOAL_ROOT", subject.root.clone().into_os_string()),
            ],
            account: subject.account,
            state_dir: subject.state_dir.clone(),
            timeout: limit,
        };
        let has_units = self.tools.units.is_some();
        match activate::look(&subject.profile, &command, has_units).await {
            Ok(log) => (Ok(()), log),
            Err(Failed { problem, log }) => (Err(problem.to_string()), log),
        }
    }
}

/// Returns where a program is: of the root itself, of the store below its root, or of the host.
fn locate(root: &Path, own: &Path, program: &str) -> PathBuf {
    if !program.starts_with('/') {
        return own.join(program);
    }
    let in_store = program.starts_with(&format!("{}/", shared::nix::STORE_DIR));
    if in_store { root.join(program.trim_start_matches('/')) } else { program.into() }
}

async fn http(url: &str, status: u16, contains: Option<&str>) -> Result<(), String> {
    let agent = concat!("shoal-agent/", env!("CARGO_PKG_VERSION"), " (health)");
    // Neither a proxy nor a redirect: what is asked is what was named.
    let client = net::client(agent, Authorities::SystemAnd(None), |builder| {
        builder.no_proxy().redirect(redirect::Policy::none())
    });
    let client = client.map_err(|error| error.to_string())?;
    let mut response = client.get(url).send().await.map_err(|error| innermost(&error))?;
    if response.status().as_u16() != status {
        return Err(format!("answered {}", response.status().as_u16()));
    }
    let Some(wanted) = contains else { return Ok(()) };
    let mut body = Vec::new();
    while body.len() < MAX_BODY {
        match response.chunk().await.map_err(|error| innermost(&error))? {
            Some(chunk) => body.extend_from_slice(&chunk),
            None => break,
        }
    }
    body.truncate(MAX_BODY);
    let found = body.windows(wanted.len()).any(|part| part == wanted.as_bytes());
    if found { Ok(()) } else { Err(format!("answered {status} without `{wanted}`")) }
}

/// Returns the cause that all others are wrapped around.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
