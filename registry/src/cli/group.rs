//! `registry group`: groups of hosts, and the policy that their owners sign.

use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::json;
use shared::{
    id::{GroupName, RawKey, RoleName, TargetPath},
    policy::{self, Policy},
    problem::{Kind, Problem},
    trust::{
        PublicKey, SigningKey,
        fence::Pattern,
        writer::{Delegation, Keyring, Target},
    },
    version::{SoftwareVersion, VersionNumber},
};

mod show;

use super::{Ask, Context, near, resolve_key};
use crate::{
    client::Client,
    keys, policy_edit,
    policy_edit::PolicyArgs,
    roles::{self, Files},
    signer::{self, PassphraseArgs, Purpose},
    trusted_realm::TrustedRealm,
};

/// Make groups of hosts and sign their policies
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Create(Create),
    Set(Set),
    Edit(Edit),
    /// List the groups, their hosts and who owns them
    List,
    /// Show a group: its hosts, its policy, what is in force, who may sign
    Show {
        /// The group
        group: GroupName,
        /// Print the policy alone, as `group edit` reads it
        #[arg(long)]
        policy: bool,
    },
}

/// Make a group: its owners, who sign its policy, and the first policy
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// The group
    group: GroupName,
    /// A key of its owners: a name in your folder, or 64 hexadecimal digits; without any, a key
    /// `owners-GROUP` is made in your folder
    #[arg(long, value_name = "KEY")]
    owner: Vec<String>,
    /// How many owners must sign the policy
    #[arg(long, value_name = "N", default_value_t = 1)]
    threshold: usize,
    #[command(flatten)]
    policy: PolicyArgs,
    /// Your key for the role `targets`
    #[arg(long, value_name = "NAME", default_value = "targets")]
    key: String,
    #[command(flatten)]
    ask: Ask,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

/// Change some of a group's policy
#[derive(Debug, clap::Args)]
pub(crate) struct Set {
    /// The group
    group: GroupName,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    signing: Signing,
}

/// Replace a group's policy by what a file says
#[derive(Debug, clap::Args)]
pub(crate) struct Edit {
    /// The group
    group: GroupName,
    /// The policy as JSON, as `group show --policy` prints it; its version is set for you
    #[arg(long, value_name = "FILE")]
    from_file: PathBuf,
    #[command(flatten)]
    signing: Signing,
}

/// How owners sign.
#[derive(Debug, Clone, clap::Args)]
struct Signing {
    /// Your key, where several would count
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    #[command(flatten)]
    ask: Ask,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

/// Runs one of the commands.
pub(crate) async fn run(command: Command, context: &Context<'_>) -> Result<(), Problem> {
    match command {
        Command::Create(args) => create(args, context).await,
        Command::Set(args) => {
            let change = |policy: &mut Policy| policy_edit::apply(policy, &args.policy);
            set(&args.group, &args.signing, context, change).await
        }
        Command::Edit(args) => edit(args, context).await,
        Command::List => show::list(context).await,
        Command::Show { group, policy } => show::show(&group, policy, context).await,
    }
}

async fn create(args: Create, context: &Context<'_>) -> Result<(), Problem> {
    let group = &args.group;
    let (realm, client) = roles::open_to_sign(&context.settings).await?;
    let role = RoleName::owners(group);
    if realm.role(role.as_str()).await?.is_some() {
        return Err(Problem::new(
            Kind::Conflict,
            "exists",
            format!("group `{group}` has a policy already"),
        )
        .leaves("nothing changed")
        .next(format!("registry group set {group} …")));
    }
    let keys = owners(&args, context)?;
    let delegation = Delegation {
        role: role.to_string(),
        ring: Keyring { keys, threshold: args.threshold },
        patterns: vec![Pattern::policy(group.clone())],
    };
    delegate(&delegation, &args, &realm, &client, context).await?;
    let own = roles::own_keys(&delegation, None, &signer::keys(&context.settings));
    let Ok(own) = own else {
        context.output.say(&format!("Group {group} waits for its owners to sign a first policy."));
        let enrolment = known_enrolment_key(context)
            .map_or_else(String::new, |key| format!(" --enrolment {key}"));
        context.output.say(&format!("They run: registry group set {group} --profile …{enrolment}"));
        let json = json!({"schema": "group.v1", "group": group, "policy": null});
        return context.output.data("", &json);
    };
    let signing = Signing { key: None, ask: args.ask, passphrase: args.passphrase.clone() };
    let mut asked = args.policy.clone();
    if asked.enrolment.is_empty() {
        asked.enrolment.extend(known_enrolment_key(context));
    }
    tracing::debug!(keys = ?own, "signing the first policy");
    set(group, &signing, context, |policy| policy_edit::apply(policy, &asked)).await
}

/// Delegates the policy to its owners, unless that was done in an earlier run.
async fn delegate(
    wanted: &Delegation,
    args: &Create,
    realm: &TrustedRealm,
    client: &Client,
    context: &Context<'_>,
) -> Result<(), Problem> {
    let targets = realm.trusted().targets().map_err(|error| roles::problem(&error))?;
    if let Some(known) = targets.delegations.iter().find(|known| known.role == wanted.role) {
        if known == wanted {
            return Ok(());
        }
        let what = format!("group `{}` has other owners already", args.group);
        return Err(Problem::new(Kind::Conflict, "exists", what)
            .leaves("nothing changed")
            .next("registry group list"));
    }
    let change = |targets: &mut shared::trust::writer::Targets| {
        targets.delegate(wanted.clone()).map_err(|error| roles::problem(&error))
    };
    let consent = roles::Consent { key: &args.key, ask: args.ask, passphrase: &args.passphrase };
    let receipt = roles::change_targets(context, client, consent, change).await?;
    context.output.say(&format!("Group {}: role targets {}", args.group, receipt.version));
    Ok(())
}

fn owners(args: &Create, context: &Context<'_>) -> Result<Vec<PublicKey>, Problem> {
    let folder = signer::keys(&context.settings);
    if !args.owner.is_empty() {
        return args.owner.iter().map(|key| resolve_key(key, &folder)).collect();
    }
    let name = format!("owners-{}", args.group);
    let name = name.get(..40).unwrap_or(&name).to_owned();
    if !folder.holds(&name) {
        let key = keys::generate().map_err(|error| signer::problem(&error))?;
        let question = format!("New passphrase for key {name}");
        let passphrase = args.passphrase.read(Purpose::Seal, &question, context.output)?;
        folder.create(&name, &key, &passphrase).map_err(|error| signer::problem(&error))?;
        context.output.say(&format!("Key {name} is in {}", folder.file(&name).display()));
    }
    Ok(vec![folder.public(&name).map_err(|error| signer::problem(&error))?])
}

/// Returns the enrolment key that `init` left in the operator's folder.
fn known_enrolment_key(context: &Context<'_>) -> Option<RawKey> {
    let path = signer::folder(&context.settings).join("enrolment.pub");
    let text = std::fs::read_to_string(path).ok()?;
    RawKey::parse(text.trim()).ok()
}

async fn edit(args: Edit, context: &Context<'_>) -> Result<(), Problem> {
    let told = |error: &(dyn std::error::Error + 'static)| {
        Problem::from_error(Kind::Usage, "policy", error)
            .because(format!("while reading `{}`", args.from_file.display()))
            .leaves("nothing changed")
            .next(format!("registry group show --policy {}", args.group))
    };
    let bytes = std::fs::read(&args.from_file).map_err(|error| told(&error))?;
    let wanted = Policy::parse(&bytes, SoftwareVersion::current()).map_err(|error| told(&error))?;
    set(&args.group, &args.signing, context, |policy| {
        let (realm, group, version) = (policy.realm.clone(), policy.group.clone(), policy.version);
        *policy = Policy { realm, group, version, ..wanted.clone() };
        Ok(())
    })
    .await
}

/// Drafts the next policy, asks, signs and sends it.
async fn set(
    group: &GroupName,
    signing: &Signing,
    context: &Context<'_>,
    change: impl Fn(&mut Policy) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let (realm, client) = roles::open(&context.settings).await?;
    let role = RoleName::owners(group);
    let owned = show::owned(&realm)?;
    let Some((_, delegation)) = owned.iter().find(|(name, _)| name == group) else {
        let names = owned.iter().map(|(name, _)| name.as_str());
        return Err(near::no("no_group", "group", group.as_str(), names, "registry group list"));
    };
    let names =
        roles::own_keys(delegation, signing.key.as_deref(), &signer::keys(&context.settings))?;
    let mut edit = roles::edit_role(&realm, role.as_str(), Timestamp::now()).await?;
    let path = TargetPath::Policy(group.clone());
    let before = current(&realm, &path, edit.before.as_ref()).await?;
    let mut policy = match &before {
        Some(before) => next(before)?,
        None => policy_edit::empty(realm.name().clone(), group.clone(), VersionNumber::FIRST),
    };
    change(&mut policy)?;
    let bytes = policy.to_bytes().map_err(|error| {
        Problem::from_error(Kind::Usage, "policy", &error).leaves("nothing changed")
    })?;
    edit.after.targets.insert(path.to_string(), Target::of(&bytes));

    let changes = policy_edit::changes(before.as_ref(), &policy);
    context.output.say(&format!("Policy of {group}, version {}:", policy.version));
    for line in &changes {
        context.output.say(&format!("  {line}"));
    }
    signing.ask.confirm("Sign and publish?", context.output)?;
    let keys: Vec<SigningKey> = names
        .iter()
        .map(|name| signer::open(name, &signing.passphrase, &context.settings, context.output))
        .collect::<Result<_, _>>()?;
    let document = edit.sign(&keys)?;
    let files = Files { blobs: vec![bytes], hints: Vec::new() };
    let receipt = edit.send(&document, &files, &client).await?;
    let text = format!(
        "Published the policy of {group}, version {} (role {} {}, timestamp {})\n",
        policy.version, receipt.role, receipt.version, receipt.timestamp,
    );
    let json = json!({
        "schema": "group.v1",
        "group": group,
        "policy": policy.version,
        "changes": changes,
        "receipt": receipt,
    });
    context.output.data(&text, &json)
}

fn next(before: &Policy) -> Result<Policy, Problem> {
    let version = before.version.next().ok_or_else(|| {
        Problem::new(Kind::Conflict, "versions", "the policy has no version left")
            .leaves("nothing changed")
            .fix("ask the admins to delegate the policy to a new owners' role")
    })?;
    Ok(Policy { version, ..before.clone() })
}

async fn current(
    realm: &TrustedRealm,
    path: &TargetPath,
    role: Option<&shared::trust::writer::Targets>,
) -> Result<Option<Policy>, Problem> {
    let Some(target) = role.and_then(|role| role.targets.get(&path.to_string())) else {
        return Ok(None);
    };
    let name = format!("targets/{}", path.file_name(&target.sha256));
    let Some(bytes) = realm.file(&name, &target.sha256, policy::MAX_LEN as u64).await? else {
        return Err(Problem::new(Kind::Conflict, "source_behind", format!("`{name}` is missing"))
            .leaves("nothing changed"));
    };
    Policy::parse(&bytes, SoftwareVersion::current()).map(Some).map_err(|error| {
        Problem::from_error(Kind::Trust, "policy", &error).leaves("nothing changed")
    })
}
