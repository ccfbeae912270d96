//! The generations of this host's profiles: read, judged, and deleted.

use std::path::PathBuf;

use jiff::Timestamp;
use shared::id::ProfileName;
use shared::problem::{Kind, Problem};
use store::profile::{Generation, Profile as Links, ProfileError};

use super::policy::{self, Keep, Verdict};
use crate::converge::Converger;
use crate::crash;
use crate::host_lock::HostLock;
use crate::systems::Systems;

/// A generation, and what becomes of it.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) profile: ProfileName,
    pub(crate) generation: Generation,
    pub(crate) verdict: Verdict,
    links: Links,
}

impl Judged {
    /// Returns its link.
    pub(crate) fn link(&self) -> PathBuf {
        self.links.generation_link(self.generation.number)
    }
}

/// Judges all generations of the profiles of this host; changes nothing.
pub(crate) fn judge(
    converger: &Converger,
    keep: Option<&Keep>,
    now: Timestamp,
) -> Result<Vec<Judged>, Problem> {
    let systems = Systems::read(converger.root());
    let mut judged = Vec::new();
    for known in converger.profiles().map_err(|error| error.problem())? {
        let links = Links::open(&converger.link(&known.name)).map_err(failed)?;
        let current = links.current().map_err(failed)?.map(|generation| generation.number);
        let generations = links.generations().map_err(failed)?;
        let verdicts = policy::judge(&known, &generations, current, &systems, keep, now);
        judged.extend(generations.into_iter().zip(verdicts).map(|(generation, verdict)| Judged {
            profile: known.name.clone(),
            generation,
            verdict,
            links: links.clone(),
        }));
    }
    Ok(judged)
}

/// Deletes the generations that may go, under the host's lock, so that no switch is under way
/// meanwhile; tells of each, and of those that stay.
pub(crate) fn delete(
    converger: &Converger,
    keep: &Keep,
    now: Timestamp,
    tell: &mut dyn FnMut(&Judged),
) -> Result<(), Problem> {
    let _lock = HostLock::take(converger.state_dir())
        .map_err(|error| Problem::from_error(Kind::Runtime, "lock", &error))?;
    for judged in judge(converger, Some(keep), now)? {
        if !judged.verdict.keeps() {
            judged.links.delete(&[judged.generation.number]).map_err(failed)?;
            crash::point("gc.generation");
        }
        tell(&judged);
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` wants")]
fn failed(error: ProfileError) -> Problem {
    error.problem()
}
