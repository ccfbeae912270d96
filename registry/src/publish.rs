//! Publishing a manifest: everything between the command line and the registry's receipt.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use shared::{
    api::PublishReceipt,
    closure::{self, ClosureIndex},
    diff::{self, Closure, Diff},
    human,
    id::{Digest, GroupName, ProfileName, System, TargetPath},
    manifest::{self, Manifest, Retire},
    nix::StorePath,
    policy::Policy,
    problem::{Kind, Problem},
    shard,
    trust::{
        SigningKey,
        writer::{Target, Targets},
    },
    version::SoftwareVersion,
};

use crate::{
    cli::Ask,
    client::{Client, Source},
    closure::{Complete, StoreArgs},
    config::Settings,
    draft::{self, Change, Content, Place, Wish},
    health_edit,
    host_roots::HostRoots,
    output::Output,
    roles::{self, Edit, Files},
    signer::{self, PassphraseArgs},
    trusted_realm::TrustedRealm,
    window_edit,
};

/// How often a publication is made anew because someone else of the role was faster.
const ATTEMPTS: usize = 5;

/// How many shards are asked for at the same time.
const REQUESTS: usize = 16;

/// How many packages are told one by one.
const PACKAGES: usize = 40;

/// What is to be published.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) target: TargetPath,
    pub(crate) group: GroupName,
    pub(crate) profile: ProfileName,
    pub(crate) what: What,
    pub(crate) wish: Wish,
    /// The version that must be current, where the publisher says so.
    pub(crate) over: Option<u32>,
    /// The key to sign with, where several would count.
    pub(crate) key: Option<String>,
}

/// The content.
#[derive(Debug)]
pub(crate) enum What {
    /// Hosts of this system run these roots.
    Run { roots: Roots, system: System, store: StoreArgs },
    /// The service ends.
    Retire(Retire),
}

/// What hosts run.
#[derive(Debug, Default)]
pub(crate) struct Roots {
    /// The root of every host that has none of its own, if it is to change.
    pub(crate) all: Option<StorePath>,
    /// Hosts with a root of their own.
    pub(crate) hosts: HostRoots,
}

impl Roots {
    fn paths(&self) -> BTreeSet<StorePath> {
        self.all.iter().chain(self.hosts.values().flatten()).cloned().collect()
    }
}

/// The closures of all roots.
type Closures = BTreeMap<StorePath, Complete>;

/// Who is asked, and for what.
#[derive(Debug, Clone)]
pub(crate) struct Consent {
    pub(crate) ask: Ask,
    pub(crate) passphrase: PassphraseArgs,
    /// Stop before anything is signed.
    pub(crate) dry_run: bool,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) manifest: Manifest,
    pub(crate) diff: Option<Diff>,
    pub(crate) coverage: Vec<(String, usize)>,
    /// None when this was only a trial.
    pub(crate) receipt: Option<PublishReceipt>,
}

/// A publication that is ready to be signed.
struct Plan {
    edit: Edit,
    current: Option<Manifest>,
    manifest: Manifest,
    files: Files,
    keys: Vec<String>,
}

/// The realm as it stands, as far as this publication needs it.
struct Ground {
    realm: TrustedRealm,
    policy: Policy,
    edit: Edit,
    current: Option<Manifest>,
    keys: Vec<String>,
}

/// Publishes a manifest.
///
/// # Errors
/// When hosts could not take it, nobody agrees, or the registry does not take it.
pub(crate) async fn publish(
    request: Request,
    consent: &Consent,
    settings: &Settings,
    output: &Output,
) -> Result<Published, Problem> {
    let client = Client::new(&settings.registry.value, &settings.realm.value)?;
    let ground = Ground::read(&request, settings, &client).await?;
    let closures = match &request.what {
        What::Run { roots, store, .. } => {
            crate::closure::gather(&roots.paths(), store, &ground.policy, output).await?
        }
        What::Retire(_) => Closures::new(),
    };
    let diff = difference(&ground, &request, &closures).await?;
    let coverage = coverage(&closures);
    let mut plan = ground.plan(&request, &closures)?;
    tell(&plan, &request, &closures, diff.as_ref(), output);
    if consent.dry_run {
        return Ok(Published { manifest: plan.manifest, diff, coverage, receipt: None });
    }
    consent.ask.confirm("Sign and publish?", output)?;
    let open = |name: &String| signer::open(name, &consent.passphrase, settings, output);
    let keys: Vec<SigningKey> = plan.keys.iter().map(open).collect::<Result<_, _>>()?;

    let shown = plan.current.clone();
    let mut attempt = 1;
    loop {
        let document = plan.edit.sign(&keys)?;
        match plan.edit.send(&document, &plan.files, &client).await {
            Ok(receipt) => {
                let receipt = Some(receipt);
                return Ok(Published { manifest: plan.manifest, diff, coverage, receipt });
            }
            Err(moved) if roles::has_moved(&moved) && attempt < ATTEMPTS => attempt += 1,
            Err(lost) if lost.kind == Kind::Unreachable && attempt < ATTEMPTS => {
                match after_silence(&plan, &request, settings, &client).await {
                    Ok(Silence::Published(receipt)) => {
                        let receipt = Some(receipt);
                        return Ok(Published { manifest: plan.manifest, diff, coverage, receipt });
                    }
                    Ok(Silence::Refused) => return Err(lost.leaves("nothing changed")),
                    Ok(Silence::Moved) => attempt += 1,
                    Err(_still_silent) => return Err(lost),
                }
            }
            Err(problem) => return Err(problem),
        }
        // Someone of the same role was faster. Another profile of theirs is no concern of ours,
        // but this one was agreed to over the version that was shown.
        let ground = Ground::read(&request, settings, &client).await?;
        if ground.current != shown {
            return Err(overtaken(&request, shown.as_ref(), ground.current.as_ref()));
        }
        output.say(&format!("Role {} moved on; publishing over it.", plan.edit.role()));
        plan = ground.plan(&request, &closures)?;
    }
}

/// What came of a publication whose answer was lost.
enum Silence {
    /// It is there.
    Published(PublishReceipt),
    /// Nothing is there that was not there before.
    Refused,
    /// Someone else's version is there.
    Moved,
}

/// Looks whether a publication is there whose answer was lost.
async fn after_silence(
    plan: &Plan,
    request: &Request,
    settings: &Settings,
    client: &Client,
) -> Result<Silence, Problem> {
    let realm = TrustedRealm::open(settings, Source::Http(client.clone())).await?;
    let role = plan.edit.role();
    let now = realm.role(role).await?;
    let version = |role: Option<&Targets>| role.map_or(0, |role| role.header.version);
    let path = request.target.to_string();
    let ours = now.as_ref().is_some_and(|now| {
        version(Some(now)) >= plan.edit.after.header.version
            && now.targets.get(&path) == plan.edit.after.targets.get(&path)
    });
    if ours {
        return Ok(Silence::Published(PublishReceipt {
            role: role.to_owned(),
            version: plan.edit.after.header.version,
            timestamp: realm.trusted().version("timestamp").unwrap_or_default(),
        }));
    }
    if version(now.as_ref()) == version(plan.edit.before.as_ref()) {
        return Ok(Silence::Refused);
    }
    Ok(Silence::Moved)
}

impl Ground {
    async fn read(
        request: &Request,
        settings: &Settings,
        client: &Client,
    ) -> Result<Self, Problem> {
        let realm = TrustedRealm::open(settings, Source::Http(client.clone())).await?;
        let targets = realm.trusted().targets().map_err(|error| roles::problem(&error))?;
        let delegation = roles::delegation_of(&targets, &request.target)
            .ok_or_else(|| undelegated(&request.target))?;
        let folder = signer::keys(settings);
        let keys = roles::own_keys(delegation, request.key.as_deref(), &folder)?;
        let policy = policy(&realm, &request.group).await?;
        let edit = roles::edit_role(&realm, &delegation.role, Timestamp::now()).await?;
        let current = current(&realm, &request.target, edit.before.as_ref()).await?;
        let version = current.as_ref().map_or(0, |current| current.version.get());
        if let Some(over) = request.over.filter(|over| *over != version) {
            let what = format!("`{}` is at version {version}, not {over}", request.target);
            return Err(Problem::new(Kind::Conflict, "moved_on", what)
                .leaves("nothing changed")
                .next(format!("registry history {}", request.target)));
        }
        Ok(Self { realm, policy, edit, current, keys })
    }

    fn plan(mut self, request: &Request, closures: &Closures) -> Result<Plan, Problem> {
        let place = Place {
            realm: self.realm.name(),
            group: &request.group,
            profile: &request.profile,
            policy: &self.policy,
            current: self.current.as_ref(),
        };
        let mut files = Files::default();
        let known = self.current.iter().flat_map(|current| &current.entries);
        let known: BTreeSet<Digest> = known.map(|entry| entry.closure).collect();
        for Complete { index, hints, .. } in closures.values() {
            // What is published is there, and a fleet's indexes are many bytes.
            if !known.contains(&index.digest()) {
                files.blobs.push(index.to_bytes());
            }
            files.hints.push(hints.to_bytes(index.digest()));
        }
        let content = match &request.what {
            What::Run { roots, system, .. } => Content::Run(change(roots, system, closures)),
            What::Retire(retire) => Content::Retire(*retire),
        };
        let draft::Drafted { manifest, shards } =
            draft::draft(&place, content, request.wish.clone())?;
        files.blobs.extend(shards);
        let bytes = manifest.to_bytes().map_err(|error| {
            Problem::from_error(Kind::Usage, "manifest", &error).leaves("nothing changed")
        })?;
        let path = request.target.to_string();
        self.edit.after.targets.insert(path, Target::of(&bytes));
        files.blobs.push(bytes);
        Ok(Plan { edit: self.edit, current: self.current, manifest, files, keys: self.keys })
    }
}

/// Returns what becomes of the entries: each host's own, and that of all others.
fn change(roots: &Roots, system: &System, closures: &Closures) -> Change {
    let mut change = Change::default();
    let all = roots.all.iter().map(|root| (None, Some(root)));
    let own = roots.hosts.iter().map(|(host, root)| (Some(host), root.as_ref()));
    for (host, root) in all.chain(own) {
        let selector = draft::selector(system, host);
        match root.and_then(|root| closures.get(root)) {
            Some(complete) => change.set.push(draft::entry(selector, &complete.index)),
            None => change.dropped.push(selector),
        }
    }
    change
}

/// Reads the policy of a group as a host would.
pub(crate) async fn policy(realm: &TrustedRealm, group: &GroupName) -> Result<Policy, Problem> {
    let path = TargetPath::Policy(group.clone());
    let Some(verified) = realm.target(&path).await? else {
        let what = format!("there is no group `{group}`, or no policy yet");
        return Err(Problem::new(Kind::Usage, "no_group", what)
            .leaves("nothing changed")
            .next("registry group list"));
    };
    let parsed = Policy::parse(verified.get(), SoftwareVersion::current());
    let policy = parsed.and_then(|policy| policy.check_place(realm.name(), &path).map(|()| policy));
    policy.map_err(|error| {
        Problem::from_error(Kind::Trust, "policy", &error).leaves("nothing changed")
    })
}

/// Reads the manifest that a role lists now, with the entries of all its shards.
pub(crate) async fn current(
    realm: &TrustedRealm,
    path: &TargetPath,
    role: Option<&Targets>,
) -> Result<Option<Manifest>, Problem> {
    let Some(target) = role.and_then(|role| role.targets.get(&path.to_string())) else {
        return Ok(None);
    };
    let name = format!("targets/{}", path.file_name(&target.sha256));
    let Some(bytes) = realm.file(&name, &target.sha256, manifest::MAX_LEN as u64).await? else {
        return Err(behind(&name));
    };
    let refused = |error: &(dyn std::error::Error + 'static)| {
        Problem::from_error(Kind::Trust, "manifest", error).leaves("nothing changed")
    };
    let mut manifest =
        Manifest::parse(&bytes, SoftwareVersion::current()).map_err(|error| refused(&error))?;
    if let Some(shards) = manifest.shards.take() {
        let files = stream::iter(shards.digests.clone().into_iter().map(|digest| async move {
            let name = format!("shards/{digest}");
            let bytes = realm.file(&name, &digest.into(), shard::MAX_LEN as u64).await?;
            bytes.ok_or_else(|| behind(&name))
        }));
        let files: Vec<Vec<u8>> = files.buffered(REQUESTS).try_collect().await?;
        let read = files.iter().enumerate().map(|(index, bytes)| shards.read(index, bytes));
        let joined = read.collect::<Result<_, _>>().and_then(shard::join);
        manifest.entries = joined.map_err(|error| refused(&error))?;
    }
    Ok(Some(manifest))
}

fn behind(name: &str) -> Problem {
    let what = format!("this source is behind: it has no `{name}`");
    Problem::new(Kind::Conflict, "source_behind", what).leaves("nothing changed")
}

/// Reads a closure index that a verified manifest names.
pub(crate) async fn index(
    realm: &TrustedRealm,
    digest: Digest,
) -> Result<Option<ClosureIndex>, Problem> {
    let name = format!("closures/{digest}");
    let bytes = realm.file(&name, &digest.into(), closure::MAX_LEN as u64).await?;
    let parsed = bytes.map(|bytes| ClosureIndex::parse_named(&bytes, digest)).transpose();
    parsed.map_err(|error| {
        Problem::from_error(Kind::Trust, "closure", &error).leaves("nothing changed")
    })
}

/// Compares with what hosts of the same kind run by the current version.
async fn difference(
    ground: &Ground,
    request: &Request,
    closures: &Closures,
) -> Result<Option<Diff>, Problem> {
    // With many roots, a table of packages for each would tell nobody anything.
    let What::Run { roots: Roots { all: Some(root), .. }, system, .. } = &request.what else {
        return Ok(None);
    };
    let Some(complete) = closures.get(root) else { return Ok(None) };
    let entry = draft::entry(draft::selector(system, None), &complete.index);
    let entries = ground.current.iter().flat_map(|current| &current.entries);
    let before = entries.into_iter().find(|before| before.selector == entry.selector);
    let before: Closure = match before {
        Some(before) => match index(&ground.realm, before.closure).await? {
            Some(index) => diff::weights(&index),
            None => Closure::new(),
        },
        None => Closure::new(),
    };
    Ok(Some(diff::diff(&before, &complete.weights)))
}

/// Returns how many of the paths each cache has, by URL; a path of several closures counts for each.
fn coverage(closures: &Closures) -> Vec<(String, usize)> {
    let mut coverage: Vec<(String, usize)> = Vec::new();
    for (url, count) in closures.values().flat_map(|complete| &complete.coverage) {
        match coverage.iter_mut().find(|(known, _)| known == url) {
            Some((_, all)) => *all += count,
            None => coverage.push((url.clone(), *count)),
        }
    }
    coverage
}

fn tell(plan: &Plan, request: &Request, closures: &Closures, diff: Option<&Diff>, output: &Output) {
    let all: usize = closures.values().map(|complete| complete.index.len()).sum();
    let all = human::count(all, "path");
    match (closures.first_key_value(), closures.len()) {
        (Some((root, complete)), 1) => {
            let size = human::size(complete.index.nar_size());
            output.say(&format!("Closure   {root} → {all}, {size}"));
        }
        (None, _) => {}
        (Some(_), count) => output.say(&format!("Closures  {count} → {all}")),
    }
    for (url, count) in coverage(closures) {
        output.say(&format!("Cache     {count} of {all} in {url}"));
    }
    if let What::Run { roots, .. } = &request.what
        && !roots.hosts.is_empty()
    {
        let own = roots.hosts.values().flatten().count();
        let dropped = roots.hosts.len() - own;
        let dropped =
            if dropped > 0 { format!(", {dropped} without one again") } else { String::new() };
        output.say(&format!("Hosts     {own} with a root of their own{dropped}"));
    }
    if let Some(shards) = &plan.manifest.shards {
        output.say(&format!("Shards    {}", shards.digests.len()));
    }
    let before = plan.current.as_ref().map_or(0, |current| current.version.get());
    output.say(&format!("Manifest  {} {before} → {}", request.target, plan.manifest.version));
    if let Some(diff) = diff {
        for line in diff.render(PACKAGES).lines() {
            output.say(&format!("  {line}"));
        }
    }
    if !plan.manifest.health.is_empty() {
        output.say(&format!("Health    {}", health_edit::describe(&plan.manifest.health)));
    }
    for line in window_edit::describe(&plan.manifest.windows) {
        output.say(&format!("Window    {}", line.trim_start_matches("window ")));
    }
    if let What::Retire(retire) = &request.what {
        output.say(match retire {
            Retire::Stop => "  the service ends: hosts stop it",
            Retire::Keep => "  the service ends: hosts leave it running and look after it no more",
        });
    }
    let version = plan.edit.after.header.version;
    let keys = plan.keys.join(", ");
    output.say(&format!("Sign      role {} {version} with key {keys}", plan.edit.role()));
}

fn undelegated(target: &TargetPath) -> Problem {
    Problem::new(Kind::Trust, "not_delegated", format!("no team may publish `{target}`"))
        .leaves("nothing changed")
        .fix("ask the platform admins for a pattern that matches it")
        .next("registry team list")
}

fn overtaken(request: &Request, shown: Option<&Manifest>, now: Option<&Manifest>) -> Problem {
    let version = |manifest: Option<&Manifest>| manifest.map_or(0, |one| one.version.get());
    let (built, current) = (version(shown), version(now));
    let what = format!(
        "`{}` is at version {current} by now; you were shown the change from version {built}",
        request.target
    );
    Problem::new(Kind::Conflict, "moved_on", what)
        .leaves("nothing changed")
        .fix("look at what was published, then publish again over it")
        .next(format!("registry history {}", request.target))
}
