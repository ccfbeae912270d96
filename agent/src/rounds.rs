//! One round: poll, take all groups together, and order each profile accordingly.
//!
//! The daemon goes round for ever, `agent once` a single time; both order the same.

use std::sync::Arc;
use std::time::Duration;

use shared::closure::ClosureIndex;
use shared::hints::Hints;
use shared::id::{Digest, ProfileName};
use shared::nix::TrustedKeys;
use shared::problem::{Kind, Problem, chain};
use store::cache::{Location, Network, NetworkOptions};
use store::substitute::{Limits, Observer};
use tokio_util::sync::CancellationToken;

use crate::activate::HostUnits;
use crate::caches::Caches;
use crate::client::{
    Client, ClosureError, ClosureSource, Documents, GroupDocuments, News, Poll, Trouble,
};
use crate::config::{ExtraCache, Runner, Settings};
use crate::converge::{Closures, ConvergeError, Converger, Order, Place};
use crate::dead_man::DeadMan;
use crate::health::Tools;
use crate::health::units::Units;
use crate::orders::{self, Asked, Groups, Known, Narrowing, Published};
use crate::state::{Code, Profile, Reason};

/// Goes round for one host.
#[derive(Debug)]
pub(crate) struct Rounds {
    settings: Settings,
    client: Client,
    converger: Converger,
    network: Network,
}

/// What one round came to.
#[derive(Debug)]
pub(crate) struct Round {
    /// What every profile is to become.
    pub(crate) orders: Vec<Order>,
    /// Why no source was good, if none was.
    pub(crate) trouble: Option<Trouble>,
    /// Whether there was something new.
    pub(crate) news: News,
}

impl Rounds {
    /// Prepares; asks and touches nothing yet.
    pub(crate) fn new(settings: &Settings) -> Result<Self, Problem> {
        Self::leaving(settings, CancellationToken::new())
    }

    /// Prepares; once this is cancelled, a switch is left as [`Converger::leaving`] says.
    pub(crate) fn leaving(settings: &Settings, leave: CancellationToken) -> Result<Self, Problem> {
        let network = Network::new(&network(settings))
            .map_err(|error| Problem::from_error(Kind::Usage, "network", &error))?;
        let client = Client::new(settings).map_err(|trouble| trouble.problem())?;
        let converger = Converger::leaving(place(settings), leave);
        Ok(Self { settings: settings.clone(), client, converger, network })
    }

    /// Returns what drives the profiles.
    pub(crate) const fn converger(&self) -> &Converger {
        &self.converger
    }

    /// Returns what asks the registry.
    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// Goes round once; a live registry may hold its answer back for up to `wait`.
    ///
    /// `observer` makes what hears of the fetch of a profile. May be dropped while it waits: what is verified by then is on disk, the rest is lost.
    pub(crate) async fn round(
        &mut self,
        wait: Duration,
        observer: &(dyn Fn(&ProfileName) -> Observer + Sync),
    ) -> Result<Round, ConvergeError> {
        let poll = self.client.poll(wait).await;
        let known = known(&self.converger.profiles()?);
        let asked = ask(&self.settings, &poll, &known);
        let orders = asked.into_iter().map(|asked| {
            let observer = observer(&asked.profile);
            self.order(asked, &poll, observer)
        });
        let orders = orders.collect();
        Ok(Round { orders, trouble: poll.trouble, news: poll.news })
    }

    fn order(&self, asked: Asked, poll: &Poll, observer: Observer) -> Order {
        let Asked { group, profile, desired, windows } = asked;
        let published = poll.documents.as_ref().and_then(|documents| documents.groups.get(&group));
        let caches = match published {
            Some(Ok(published)) => {
                Caches::allowed(published.policy.get(), &self.settings, &self.network)
            }
            // Without its policy, nothing of the group is fetched.
            Some(Err(_)) | None => Caches {
                locations: Vec::new(),
                trusted: TrustedKeys::default(),
                network: self.network.clone(),
            },
        };
        let limits = Limits {
            connections: self.settings.store.connections.into(),
            min_free: self.settings.store.min_free,
            ..Limits::default()
        };
        let gc = self.settings.gc;
        Order { group, profile, desired, windows, caches, limits, gc, observer }
    }
}

/// Returns how caches are spoken to.
fn network(settings: &Settings) -> NetworkOptions {
    let netrc = |cache: &ExtraCache| {
        Some((Location::parse(cache.url.as_str()).ok()?, cache.netrc.clone()?))
    };
    let options = NetworkOptions {
        ca_file: settings.registry.ca_file.clone(),
        bandwidth: settings.store.bandwidth,
        min_rate: settings.store.min_rate,
        rate_window: settings.store.min_rate_over,
        netrc_of: settings.extra_caches.iter().filter_map(netrc).collect(),
        ..NetworkOptions::from_environment()
    };
    match settings.store.stall_timeout {
        Some(patience) => options.waiting_at_most(patience),
        None => options,
    }
}

/// Returns where the agent of these settings keeps what it changes.
pub(crate) fn place(settings: &Settings) -> Place {
    let dead_man =
        || DeadMan::new(&settings.state_dir, settings.written.clone(), &settings.store.root);
    Place {
        dead_man: (settings.runner == Runner::Systemd).then(dead_man),
        reboots: settings.reboots,
        state_dir: settings.state_dir.clone(),
        realm: settings.realm.clone(),
        runner: settings.runner,
        root: settings.store.root.clone(),
        tools: Tools {
            realm: settings.realm.clone(),
            registry: settings.registry.clone(),
            units: settings.has_units.then(|| Arc::new(HostUnits) as Arc<dyn Units>),
        },
    }
}

impl Closures for ClosureSource {
    async fn closure(&self, digest: Digest) -> Result<(ClosureIndex, Option<Hints>), Reason> {
        self.fetch(digest)
            .await
            .map_err(|error: ClosureError| Reason::new(Code::ClosureIndex, chain(&error)))
    }
}

fn known(profiles: &[Profile]) -> Vec<Known> {
    let known = |profile: &Profile| {
        Some(Known { group: profile.group.clone()?, profile: profile.name.clone() })
    };
    profiles.iter().filter_map(known).collect()
}

/// What is signed wrongly freezes everything; what is merely old does so once it has expired.
fn ask(settings: &Settings, poll: &Poll, known: &[Known]) -> Vec<Asked> {
    let untrusted = poll.trouble.as_ref().filter(|trouble| trouble.code() == Code::Untrusted);
    match (untrusted, &poll.documents) {
        (Some(trouble), _) => orders::freeze_all(known, &trouble.reason()),
        (None, Some(documents)) => orders::ask(&groups(documents), Narrowing::of(settings), known),
        (None, None) => {
            let reason = poll.trouble.as_ref().unwrap_or(&Trouble::NoSource).reason();
            orders::freeze_all(known, &reason)
        }
    }
}

fn groups<'a>(documents: &'a Documents) -> Groups<'a> {
    let published = |group: &'a GroupDocuments| Published {
        policy: group.policy.get(),
        manifests: group
            .manifests
            .iter()
            .map(|(profile, manifest)| (profile, manifest.as_ref().map(|manifest| manifest.get())))
            .collect(),
    };
    documents.groups.iter().map(|(name, group)| (name, group.as_ref().map(published))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_of_this_hosts_is_for_the_cache_that_a_policy_names_as_well() {
        let text = "[store]\nbandwidth = 5000\n[registry]\nca_file = \"/ca\"\n\
            [[cache]]\nurl = \"https://c.example/a\"\nnetrc = \"/netrc\"\n\
            [[cache]]\nurl = \"https://d.example\"\n[trust]\nroot = \"/root.json\"\n";
        let config = crate::config::parse(std::path::Path::new("agent.toml"), text).unwrap();
        let options = network(&config.settings);
        assert_eq!((options.bandwidth, options.ca_file), (Some(5000), Some("/ca".into())));
        let as_in_a_policy = Location::parse("https://c.example/a/").unwrap();
        assert_eq!(options.netrc_of.len(), 1);
        assert_eq!(options.netrc_of.get(&as_in_a_policy), Some(&"/netrc".into()));
    }
}
