//! `agent diff`: what differs between two generations of a profile.

use std::collections::BTreeSet;

use clap::Args;
use serde::Serialize;
use shared::diff::{self, Closure, Diff, Weight};
use shared::human;
use shared::id::ProfileName;
use shared::nix::StorePath;
use shared::problem::{Kind, Problem};
use store::local::LocalStore;
use store::profile::{Generation, Profile as Links};

use crate::cli::{Context, Host};

/// Packages that are told one by one.
const PACKAGES: usize = 200;

/// Show what differs between two generations; ends with 1 if something does.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The profile.
    #[arg(value_name = "PROFILE")]
    profile: ProfileName,
    /// The generation to compare; the one before the current one if not given.
    #[arg(value_name = "GENERATION")]
    from: Option<u64>,
    /// The generation to compare it with; the current one if not given.
    #[arg(value_name = "GENERATION")]
    to: Option<u64>,
}

#[derive(Serialize)]
struct Shown {
    schema: &'static str,
    profile: ProfileName,
    from: Side,
    to: Side,
    #[serde(flatten)]
    diff: Diff,
}

#[derive(Serialize)]
struct Side {
    generation: u64,
    path: StorePath,
}

/// Compares the generations.
pub(crate) fn run(args: &DiffArgs, context: &Context) -> Result<(), Problem> {
    let host = Host::open(context)?;
    host.profile(&args.profile)?;
    let (from, to) = generations(&host, args)?;
    let store = LocalStore::open_for_reading(host.converger.root());
    let store = store.map_err(|error| error.problem())?;
    let closure = |generation: &Generation| -> Result<Closure, Problem> {
        let found = store.closure(&BTreeSet::from([generation.path.clone()]));
        let found = found.map_err(|error| error.problem())?;
        let weight = |info: shared::nix::PathInfo| Weight { nar: info.nar_size, file: None };
        Ok(found.into_iter().map(|(path, info)| (path, weight(info))).collect())
    };
    let diff = diff::diff(&closure(&from)?, &closure(&to)?);
    let is_same = from.path == to.path;
    if context.output.is_json() {
        let side = |it: Generation| Side { generation: it.number, path: it.path };
        let (from, to) = (side(from), side(to));
        let profile = args.profile.clone();
        context.output.json(&Shown { schema: "diff.v1", profile, from, to, diff })?;
    } else {
        let head = format!("{} generation {} → {}", args.profile, from.number, to.number);
        context.output.data(&format!("{head}\n{}{}", diff.list(PACKAGES), diff.counts()))?;
    }
    if is_same {
        return Ok(());
    }
    let what = format!("{} differ", human::count(2, "generation"));
    Err(Problem::new(Kind::Negative, "differs", what).leaves("nothing changed"))
}

fn generations(host: &Host, args: &DiffArgs) -> Result<(Generation, Generation), Problem> {
    let failed = |error| Problem::from_error(Kind::Runtime, "profile", &error);
    let links = Links::open(&host.converger.link(&args.profile)).map_err(failed)?;
    let current = links.current().map_err(failed)?.map(|generation| generation.number);
    let all = links.generations().map_err(failed)?;
    let missing = |which: &str| {
        Problem::new(Kind::Conflict, "no_generation", format!("`{}` has no {which}", args.profile))
            .leaves("nothing changed")
            .next(format!("agent generations {}", args.profile))
    };
    let find = |number: u64| {
        let found = all.iter().find(|generation| generation.number == number);
        found.cloned().ok_or_else(|| missing(&format!("generation {number}")))
    };
    let to = match (args.to, current) {
        (Some(number), _) => find(number)?,
        (None, Some(current)) => find(current)?,
        (None, None) => return Err(missing("current generation")),
    };
    let from = match args.from {
        Some(number) => find(number)?,
        None => {
            let before = all.iter().rev().find(|generation| generation.number < to.number);
            before.cloned().ok_or_else(|| missing("generation before the current one"))?
        }
    };
    Ok((from, to))
}
