//! `registry history`: every version of a manifest or policy, and who signed it.

use serde_json::json;
use shared::{
    api::{Page, Publication},
    id::TargetPath,
    problem::Problem,
};

use super::Context;
use crate::{client::Client, table};

/// List what was published as a manifest or policy, the latest first
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The manifest, `GROUP/PROFILE`, or a policy, `GROUP/_policy`
    target: TargetPath,
    /// How many versions
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: u32,
}

/// Prints the list.
pub(crate) async fn run(args: Args, context: &Context<'_>) -> Result<(), Problem> {
    let client = Client::of(&context.settings)?;
    let last = args.target.profile().map_or(shared::id::POLICY, |profile| profile.as_str());
    let query = [("profile", last.to_owned()), ("limit", args.limit.to_string())];
    let path = format!("groups/{}/history", args.target.group());
    let page: Page<Publication> = client.get(&path, &query).await?;
    let rows: Vec<[String; 6]> = page.items.iter().map(row).collect();
    let text = if rows.is_empty() {
        context.output.say(&format!("Nothing was published as {} yet.", args.target));
        String::new()
    } else {
        table::render(["VERSION", "EPOCH", "PUBLISHED", "ROLE", "KEYS", "NOTE"], &rows)
    };
    if page.next_cursor.is_some() {
        context.output.say("There are older ones: --limit N");
    }
    let json = json!({"schema": "history.v1", "target": args.target, "publications": page.items});
    context.output.data(&text, &json)
}

fn row(item: &Publication) -> [String; 6] {
    let short = |id: &String| id.chars().take(8).collect::<String>();
    [
        item.version.to_string(),
        item.epoch.to_string(),
        item.published_at.to_string(),
        format!("{} {}", item.role, item.role_version),
        item.signers.iter().map(short).collect::<Vec<_>>().join(" "),
        item.note.clone(),
    ]
}
