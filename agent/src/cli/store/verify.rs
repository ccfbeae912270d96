//! `agent store verify`.

use clap::Args;
use serde::Serialize;
use shared::problem::{Kind, Problem};
use store::local::{CheckContents, Damage};

use super::RootArgs;
use crate::output::Output;

/// Check that every valid path is there and whole, as `nix-store --verify` does; change nothing.
///
/// Names every bad path on stdout and ends with 1 if there is one.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Also read everything and compare it with its hash.
    #[arg(long)]
    check_contents: bool,
    #[command(flatten)]
    root: RootArgs,
}

pub(super) fn run(args: &VerifyArgs, output: &Output) -> Result<(), Problem> {
    let store = args.root.open_for_reading()?;
    let check = if args.check_contents { CheckContents::Yes } else { CheckContents::No };
    let mut bad: u64 = 0;
    let mut printed = Ok(());
    let checked = store
        .verify(check, &mut |damage| {
            bad += 1;
            // The first failure to print is told; checking on is harmless.
            if printed.is_ok() {
                printed = print(&damage, output);
            }
        })
        .map_err(|error| error.problem())?;
    printed?;
    output.detail(&format!("{checked} paths checked, {bad} bad"));
    if bad == 0 {
        return Ok(());
    }
    let root = args.root.root.display();
    let what = format!("{bad} of {checked} paths of the store below `{root}` are bad");
    Err(Problem::new(Kind::Negative, "bad_paths", what)
        .leaves("nothing changed")
        .fix("`nix-store --verify --check-contents --repair` fetches them again"))
}

fn print(damage: &Damage, output: &Output) -> Result<(), Problem> {
    let mut text = damage.to_string();
    let mut error: &dyn std::error::Error = damage;
    while let Some(source) = error.source() {
        text = format!("{text}: {source}");
        error = source;
    }
    if !output.is_json() {
        return output.data(&text);
    }
    let path = damage.path().map(ToString::to_string);
    output.json(&BadPath { schema: "store-verify.v1", path, problem: &text })
}

#[derive(Serialize)]
struct BadPath<'a> {
    schema: &'static str,
    path: Option<String>,
    problem: &'a str,
}
