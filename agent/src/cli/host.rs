//! What the commands that look at or change this host have in common.

use jiff::Timestamp;
use shared::id::ProfileName;
use shared::problem::{Kind, Problem};

use crate::cli::{Context, config};
use crate::client::PollRecord;
use crate::config::{Settings, did_you_mean, near_matches};
use crate::converge::Converger;
use crate::rounds;
use crate::service;
use crate::state::Profile;
use crate::status::Status;

/// This host, as its configuration and its disk tell.
#[derive(Debug)]
pub(crate) struct Host {
    /// The configuration.
    pub(crate) settings: Settings,
    /// What drives the profiles.
    pub(crate) converger: Converger,
}

impl Host {
    /// Reads the configuration.
    pub(crate) fn open(context: &Context) -> Result<Self, Problem> {
        let settings = config::load(context)?.settings;
        let converger = Converger::new(rounds::place(&settings));
        Ok(Self { settings, converger })
    }

    /// Tells how the host is: what its daemon says, or if none answers, its disk.
    pub(crate) async fn told(&self) -> Result<Status, Problem> {
        match service::ask(&self.settings.daemon.socket).await {
            Some(status) => Ok(status),
            None => self.status(),
        }
    }

    /// Tells how the host is, from its disk alone.
    pub(crate) fn status(&self) -> Result<Status, Problem> {
        let record = PollRecord::load(&self.settings.state_dir);
        let record = record.map_err(|trouble| trouble.problem())?;
        Ok(Status::new(&self.settings, &self.profiles()?, &record, Timestamp::now()))
    }

    /// Returns all profiles as the journal has them.
    pub(crate) fn profiles(&self) -> Result<Vec<Profile>, Problem> {
        self.converger.profiles().map_err(|error| error.problem())
    }

    /// Returns one profile as the journal has it; an unknown one is told with what was meant.
    pub(crate) fn profile(&self, name: &ProfileName) -> Result<Profile, Problem> {
        let profiles = self.profiles()?;
        let names: Vec<&str> = profiles.iter().map(|profile| profile.name.as_str()).collect();
        if let Some(profile) = profiles.iter().find(|profile| profile.name == *name) {
            return Ok(profile.clone());
        }
        let meant = did_you_mean(&near_matches(name.as_str(), names));
        let what = format!("this host has no profile `{name}`{meant}");
        Err(Problem::new(Kind::Usage, "no_profile", what)
            .leaves("nothing changed")
            .next("agent status"))
    }
}
