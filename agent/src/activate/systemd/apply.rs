//! Lets the units of a root take over, in the manager of whoever runs this.
//!
//! This is a process of its own (`agent units`): the manager of a user is asked by that user, who
//! owns its folder and its bus, so that nothing which the user put there is touched with other
//! rights. What it says is the attempt's log; its last line is why it failed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use shared::id::ProfileName;
use shared::nix::STORE_DIR;

use super::links::{Links, Pending};
use super::manager::{Manager, ManagerError, Verb};
use super::patterns;
use super::plan::{Known, Plan};
use super::root::{Units, UnitsError};

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// The profile.
    pub(crate) profile: ProfileName,
    /// The store root.
    pub(crate) store_root: PathBuf,
    /// The root whose units take over, as a physical path; nothing for none.
    pub(crate) new: Option<PathBuf>,
    /// The runtime folder of a user, in whose manager it happens; else in the host's.
    pub(crate) user: Option<PathBuf>,
    /// Whether the host is still booting: units are asked for and not waited for, since they may
    /// have to wait for whoever waits for us.
    pub(crate) is_boot: bool,
}

/// Why units did not take over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    #[error(transparent)]
    Units(#[from] UnitsError),
    #[error(transparent)]
    Manager(#[from] ManagerError),
    /// The folder of the links.
    #[error("cannot {action} in `{}`", folder.display())]
    Links { action: String, folder: PathBuf, source: io::Error },
    /// A unit of this name is the host's own.
    #[error("`{unit}` is a unit of the host's, at `{}`", path.display())]
    Taken { unit: String, path: PathBuf },
    /// A unit was started and is not up.
    #[error("`{unit}` is {state} after it was started")]
    Down { unit: String, state: String },
}

/// Does it; `say` takes a line for each step.
pub(crate) async fn apply(request: &Request, say: &dyn Fn(&str)) -> Result<(), ApplyError> {
    let Request { profile, store_root, .. } = request;
    let units = match &request.new {
        Some(path) => Units::read(store_root, path, profile)?,
        None => Units::default(),
    };
    let store = store_root.join(STORE_DIR.trim_start_matches('/'));
    let (links, manager) = match &request.user {
        Some(runtime) => (Links::new(runtime, true, store), Manager::of_user(runtime).await?),
        None => (Links::new(Path::new("/run"), false, store), Manager::of_host().await?),
    };
    let failed = |action: &str| {
        let (action, folder) = (action.to_owned(), links.folder().to_owned());
        move |source| ApplyError::Links { action, folder, source }
    };
    refuse_taken(&manager, &links, &units).await?;
    let installed = links.read(profile).map_err(failed("look"))?;
    let states = states_of(&manager, profile).await?;
    let pending = links.pending(profile);
    let known = Known { profile, installed: &installed, states: &states, pending: &pending };
    let mut plan = Plan::new(known, &units);
    if plan.is_empty() {
        return Ok(());
    }
    links.set_pending(profile, &plan.then).map_err(failed("note what is to be done"))?;
    stop(&manager, &plan, say).await;
    for name in &plan.link {
        if let Some(unit) = units.units.get(name) {
            links.set(name, &unit.file).map_err(failed(&format!("link {name}")))?;
        }
    }
    for name in &plan.unlink {
        links.remove(name).map_err(failed(&format!("unlink {name}")))?;
    }
    if !plan.link.is_empty() || !plan.unlink.is_empty() {
        manager.reload().await?;
        let late = Plan::late(known, &units, &states_of(&manager, profile).await?);
        stop(&manager, &late, say).await;
        plan.then.add(late.then);
        links.set_pending(profile, &plan.then).map_err(failed("note what is to be done"))?;
    }
    for name in &plan.unlink {
        manager.reset_failed(name.as_str()).await;
    }
    carry_out(&manager, &plan, request, say).await?;
    links.set_pending(profile, &Pending::default()).map_err(failed("note that all is done"))
}

/// Stops what is to be stopped.
async fn stop(manager: &Manager, plan: &Plan, say: &dyn Fn(&str)) {
    for unit in &plan.stop {
        say(&format!("stop {unit}"));
    }
    // What does not end well is ended all the same, and tells of itself when it is started.
    if let Err(error) = manager.run(Verb::Stop, plan.stop.iter().map(String::as_str)).await {
        say(&shared::problem::chain(&error));
    }
}

/// Reloads, restarts and starts.
async fn carry_out(
    manager: &Manager,
    plan: &Plan,
    request: &Request,
    say: &dyn Fn(&str),
) -> Result<(), ApplyError> {
    let then = &plan.then;
    let words =
        |units: &std::collections::BTreeSet<String>| units.iter().cloned().collect::<Vec<_>>();
    let (reload, restart) = (words(&then.reload), words(&then.restart));
    let mut groups = vec![(Verb::Reload, reload), (Verb::Restart, restart)];
    let owned = |group: Vec<&str>| group.into_iter().map(ToOwned::to_owned).collect();
    groups
        .extend(plan.starts(&request.profile).into_iter().map(|group| (Verb::Start, owned(group))));
    let mut started = Vec::new();
    for (verb, units) in groups {
        for unit in &units {
            say(&format!("{verb} {unit}"));
            if verb != Verb::Reload {
                // A start that failed too often must not count against the new one.
                manager.reset_failed(unit).await;
            }
            if request.is_boot {
                drop(manager.request(verb, unit).await?);
            }
        }
        if !request.is_boot {
            manager.run(verb, units.iter().map(String::as_str)).await?;
            started.extend(units);
        }
    }
    let states = states_of(manager, &request.profile).await?;
    for unit in started {
        // What has ended well by now is inactive; what waits to be restarted is failing.
        if let Some(state) = states.get(&unit)
            && matches!(state.as_str(), "failed" | "activating")
        {
            return Err(ApplyError::Down { unit, state: state.clone() });
        }
    }
    Ok(())
}

/// Asks for the states of all units of the profile that are loaded.
async fn states_of(
    manager: &Manager,
    profile: &ProfileName,
) -> Result<BTreeMap<String, String>, ManagerError> {
    manager.states(&patterns(profile).each_ref().map(String::as_str)).await
}

/// Refuses a unit that the host has of itself, in whatever folder: it would be shadowed, or shadow
/// ours.
async fn refuse_taken(manager: &Manager, links: &Links, units: &Units) -> Result<(), ApplyError> {
    for folder in manager.search_path().await? {
        let folder = Path::new(&folder);
        if folder == links.folder() {
            continue;
        }
        for name in units.units.keys() {
            let path = folder.join(name.as_str());
            if path.symlink_metadata().is_ok() {
                return Err(ApplyError::Taken { unit: name.to_string(), path });
            }
        }
    }
    Ok(())
}
