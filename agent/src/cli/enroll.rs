//! `agent enroll`: makes a host key, pins the root of trust, and asks for a certificate.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use shared::certificate::Certificate;
use shared::id::{Digest, GroupName, HostName, RealmName};
use shared::problem::{Kind, Problem};

use crate::cli::{Context, config as cli_config};
use crate::client::{Client, Source};
use crate::config::{self, Settings};
use crate::enroll::{EnrolError, enrol};

/// Root metadata that is named by `--trust FILE`.
const MAX_ROOT: u64 = 256 * 1024;

/// Let this host follow groups of a registry, and let its reports count there.
///
/// Verifies the registry against the pinned root before the token is sent. Writes the
/// configuration if there is none yet.
#[derive(Debug, Args)]
pub(crate) struct EnrollArgs {
    /// Where the registry is.
    #[arg(value_name = "URL")]
    url: String,
    /// A group to follow; may be repeated.
    #[arg(long = "group", value_name = "GROUP", required = true)]
    groups: Vec<GroupName>,
    /// The token that `registry host enroll-token` printed.
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    token: Option<String>,
    /// A file with the token, so that no process list shows it; `-` is stdin.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The root of trust: its metadata, or the fingerprint that `registry init` printed.
    #[arg(long, value_name = "FILE|FINGERPRINT")]
    trust: Option<String>,
    /// The trust domain.
    #[arg(long, value_name = "REALM", default_value = "main")]
    realm: RealmName,
    /// What this host is called; its hostname if not given.
    #[arg(long, value_name = "NAME")]
    name: Option<HostName>,
    /// A label of this host; may be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Where the agent keeps its state.
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    state_dir: Option<PathBuf>,
    /// The root of the store.
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    root: Option<PathBuf>,
}

/// Enrols this host.
pub(crate) async fn run(args: EnrollArgs, context: &Context) -> Result<(), Problem> {
    let token = read_token(&args)?;
    let path = cli_config::path(context);
    let (settings, written) = if path.exists() {
        (agreed(&args, cli_config::load(context)?.settings)?, None)
    } else {
        let text = write_config(&args, pinned(&args, context).await?)?;
        let config = config::parse(&path, &text).map_err(|error| cli_config::problem(&error))?;
        (config.settings, Some(text))
    };
    let mut client = Client::new(&settings).map_err(|trouble| trouble.problem())?;
    let poll = client.poll(std::time::Duration::ZERO).await;
    if let Some(trouble) = poll.trouble {
        return Err(trouble.problem().leaves("not enrolled; the token was not sent"));
    }
    let source = client.sources().first();
    let source = source.ok_or_else(|| usage("the configuration names no registry"))?;
    let certificate = enrol(&settings, source, &token).await.map_err(|error| problem(&error))?;
    if let Some(text) = written {
        save_config(&path, &text)?;
        context.output.talk(&format!("wrote {}", path.display()));
    }
    tell(&certificate, context)
}

#[derive(Serialize)]
struct Told<'a> {
    schema: &'static str,
    certificate: &'a Certificate,
}

fn tell(certificate: &Certificate, context: &Context) -> Result<(), Problem> {
    if context.output.is_json() {
        return context.output.json(&Told { schema: "enroll.v1", certificate });
    }
    let groups: Vec<&str> = certificate.groups.iter().map(GroupName::as_str).collect();
    context.output.data(&format!(
        "enrolled as {} in {} until {}",
        certificate.name,
        groups.join(", "),
        certificate.not_after
    ))?;
    context.output.talk("next: agent once");
    Ok(())
}

fn usage(what: impl Into<String>) -> Problem {
    Problem::new(Kind::Usage, "usage", what).leaves("nothing changed")
}

fn problem(error: &EnrolError) -> Problem {
    let kind = match error {
        EnrolError::Unreachable { .. } => Kind::Unreachable,
        EnrolError::Refused { problem, .. } => problem.kind,
        EnrolError::Identity(_) | EnrolError::File(_) | EnrolError::Request(_) => Kind::Runtime,
        EnrolError::Answer { .. }
        | EnrolError::Envelope(_)
        | EnrolError::Certificate(_)
        | EnrolError::Other => Kind::Trust,
    };
    Problem::from_error(kind, "enrol", error)
        .leaves("not enrolled")
        .fix("ask whoever runs the registry for a fresh token")
        .next("registry host enroll-token GROUP")
}

/// The configuration means the same wherever the agent is started.
fn absolute(path: &str) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| error.to_string())
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected `key=value`")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn read_token(args: &EnrollArgs) -> Result<String, Problem> {
    let text = match (&args.token, &args.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(path)) if path == Path::new("-") => {
            std::io::read_to_string(std::io::stdin())
                .map_err(|error| Problem::from_error(Kind::Runtime, "token", &error))?
        }
        (None, Some(path)) => std::fs::read_to_string(path).map_err(|error| {
            Problem::new(Kind::Runtime, "token", format!("cannot read `{}`", path.display()))
                .because(error.to_string())
                .leaves("nothing changed")
        })?,
        (None, None) => {
            return Err(usage("a token is needed: `--token-file FILE` or `--token TOKEN`")
                .next("registry host enroll-token GROUP"));
        }
    };
    Ok(text.trim().to_owned())
}

/// Where a configuration exists, it decides; the arguments must not say otherwise.
fn agreed(args: &EnrollArgs, settings: Settings) -> Result<Settings, Problem> {
    let known = |group: &GroupName| settings.groups.contains(group);
    if let Some(group) = args.groups.iter().find(|group| !known(group)) {
        return Err(usage(format!("the configuration does not follow group `{group}`"))
            .fix("add it to `groups` in the configuration first")
            .next("agent config show"));
    }
    let url = args.url.trim_end_matches('/');
    let names = |known: &url::Url| known.as_str().trim_end_matches('/') == url;
    if !settings.registry.urls.iter().any(names) {
        return Err(usage(format!("the configuration does not name the registry `{url}`"))
            .fix("add it to `registry.urls` in the configuration first")
            .next("agent config show"));
    }
    Ok(settings)
}

/// Returns the digest of the root to trust: given, or looked at and agreed to by a person.
async fn pinned(args: &EnrollArgs, context: &Context) -> Result<Digest, Problem> {
    let Some(trust) = &args.trust else { return first_use(args, context).await };
    if let Some(digest) = config::parse_fingerprint(trust) {
        return Ok(digest);
    }
    let path = Path::new(trust);
    match crate::files::read(path, MAX_ROOT) {
        Ok(Some(bytes)) => Ok(Digest::of(&bytes)),
        Ok(None) => Err(usage(format!("`{trust}` is neither a file nor a fingerprint"))),
        Err(error) => Err(Problem::from_error(Kind::Runtime, "trust", &error)),
    }
}

/// Trust on first use is never silent: somebody must read the fingerprint and say yes.
async fn first_use(args: &EnrollArgs, context: &Context) -> Result<Digest, Problem> {
    let url = args.url.parse().map_err(|error| usage(format!("`{}`: {error}", args.url)))?;
    let registry = config::Registry::plain(url);
    let source = Source::all(&registry).ok().and_then(|sources| sources.into_iter().next());
    let source = source.ok_or_else(|| usage(format!("cannot use `{}`", args.url)))?;
    let path = format!("r/{}/metadata/1.root.json", args.realm);
    let answer = source.get(&path, MAX_ROOT).await.map_err(|error| {
        Problem::from_error(Kind::Unreachable, "unreachable", &error).leaves("nothing changed")
    })?;
    let root = answer.found().ok_or_else(|| usage(format!("`{}` has no such realm", args.url)))?;
    let fingerprint = Digest::of(&root);
    if !context.output.may_ask() {
        return Err(usage("no root of trust is given, and nobody is here to compare one")
            .because(format!("the registry shows the fingerprint {fingerprint}"))
            .fix("compare it with what `registry init` printed, then give it")
            .next(format!("agent enroll … --trust {fingerprint}")));
    }
    context.output.talk(&format!(
        "The registry shows the root fingerprint\n  {fingerprint}\n\
         Compare it with what `registry init` printed. Is it the same? [y/N]"
    ));
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .map_err(|error| Problem::from_error(Kind::Runtime, "input", &error))?;
    if matches!(line.trim(), "y" | "yes") {
        return Ok(fingerprint);
    }
    Err(Problem::new(Kind::Interrupted, "not_trusted", "the root was not trusted")
        .leaves("nothing changed"))
}

#[derive(Serialize)]
struct NewConfig {
    realm: String,
    groups: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_dir: Option<PathBuf>,
    host: NewHost,
    trust: NewTrust,
    registry: NewRegistry,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<NewStore>,
}

#[derive(Serialize)]
struct NewHost {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    labels: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct NewTrust {
    root_sha256: String,
}

#[derive(Serialize)]
struct NewRegistry {
    urls: Vec<String>,
}

#[derive(Serialize)]
struct NewStore {
    root: PathBuf,
}

fn write_config(args: &EnrollArgs, root: Digest) -> Result<String, Problem> {
    let config = NewConfig {
        realm: args.realm.to_string(),
        groups: args.groups.iter().map(ToString::to_string).collect(),
        state_dir: args.state_dir.clone(),
        host: NewHost {
            name: args.name.as_ref().map(ToString::to_string),
            labels: args.labels.iter().cloned().collect(),
        },
        trust: NewTrust { root_sha256: root.to_string() },
        registry: NewRegistry { urls: vec![args.url.clone()] },
        store: args.root.clone().map(|root| NewStore { root }),
    };
    let text = toml::to_string(&config)
        .map_err(|error| Problem::from_error(Kind::Runtime, "config", &error))?;
    Ok(format!("# Written by `agent enroll`; yours to edit.\n{text}"))
}

/// Writes the configuration where none is; it holds no secret, so everybody may read it.
fn save_config(path: &Path, text: &str) -> Result<(), Problem> {
    let save = || -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = std::fs::File::create_new(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    save().map_err(|error| {
        Problem::new(Kind::Runtime, "config", format!("cannot write `{}`", path.display()))
            .because(error.to_string())
            .leaves("enrolled, but without a configuration")
    })
}
