//! `agent generations`: what a profile can go back to.

use clap::Args;
use serde::Serialize;
use shared::id::ProfileName;
use shared::nix::StorePath;
use shared::problem::{Kind, Problem};
use shared::report;
use shared::time::Time;
use shared::version::VersionNumber;
use store::profile::Profile;

use crate::cli::{Context, Host};
use crate::systems::Systems;

/// List the generations of a profile; `*` marks the current one.
#[derive(Debug, Args)]
pub(crate) struct GenerationsArgs {
    /// The profile.
    #[arg(value_name = "PROFILE")]
    profile: ProfileName,
}

#[derive(Serialize)]
struct Listed {
    schema: &'static str,
    profile: ProfileName,
    generations: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    generation: u64,
    current: bool,
    /// Whether the machine has it activated, has booted it, and boots it next.
    system: Option<Marks>,
    created: Time,
    /// The manifest that it came from, if this agent confirmed it.
    version: Option<VersionNumber>,
    path: StorePath,
}

/// What a generation is to the machine.
#[derive(Serialize)]
struct Marks {
    activated: bool,
    booted: bool,
    boots_next: bool,
}

impl Marks {
    fn of(path: &StorePath, systems: &report::Systems) -> Self {
        let is = |system: &Option<StorePath>| system.as_ref() == Some(path);
        Self {
            activated: is(&systems.running),
            booted: is(&systems.booted),
            boots_next: is(&systems.next_boot),
        }
    }

    fn words(&self) -> String {
        let words = [
            (self.activated, "activated"),
            (self.booted, "booted"),
            (self.boots_next, "boots next"),
        ];
        let words: Vec<&str> = words.iter().filter(|it| it.0).map(|it| it.1).collect();
        if words.is_empty() { String::new() } else { format!("  ({})", words.join(", ")) }
    }
}

/// Prints the generations.
pub(crate) fn run(args: &GenerationsArgs, context: &Context) -> Result<(), Problem> {
    let host = Host::open(context)?;
    let known = host.profile(&args.profile)?;
    let failed = |error| Problem::from_error(Kind::Runtime, "profile", &error);
    let links = Profile::open(&host.converger.link(&args.profile)).map_err(failed)?;
    let root = host.converger.root();
    let systems = Systems::read(root).told(root).filter(|_| args.profile.is_system());
    let current = links.current().map_err(failed)?.map(|generation| generation.number);
    let row = |generation: store::profile::Generation| {
        let same = |running: &&crate::state::Running| {
            running.generation == generation.number && running.path == generation.path
        };
        let running = known.running.iter().chain(&known.confirmed).find(same);
        Row {
            generation: generation.number,
            current: current == Some(generation.number),
            system: systems.as_ref().map(|systems| Marks::of(&generation.path, systems)),
            created: generation.created.into(),
            version: running.and_then(|running| running.version).map(|version| version.version),
            path: generation.path,
        }
    };
    let generations = links.generations().map_err(failed)?.into_iter().map(row).collect();
    let listed = Listed { schema: "generations.v1", profile: args.profile.clone(), generations };
    if context.output.is_json() {
        return context.output.json(&listed);
    }
    for row in &listed.generations {
        let mark = if row.current { '*' } else { ' ' };
        let version = row.version.map_or("-".to_owned(), |version| format!("#{version}"));
        let marks = row.system.as_ref().map(Marks::words).unwrap_or_default();
        let Row { generation, created, path, .. } = row;
        let line = format!("{mark} {generation:>5}  {created}  {version:>6}  {path}{marks}");
        context.output.data(&line)?;
    }
    Ok(())
}
