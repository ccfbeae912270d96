//! `agent gc`: garbage collection, with or without Nix on the host.

mod generations;
mod told;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use jiff::{SpanRelativeTo, Timestamp};
use shared::problem::{Kind, Problem};
use store::gc::{self, KeepOutputs};
use store::local::LocalStore;

use self::generations::{Keep, Unneeded};
use self::told::Told;
use crate::cli::{Context, Host, config};

/// Delete what no profile, root or running process needs any more.
///
/// Finds roots as Nix does, and may run beside Nix. With `--keep` or `--older-than`, or `[gc]` in
/// the configuration, it first deletes old generations of the profiles of this host; never the
/// current, last good or booted one, nothing of a pinned profile, and nothing while a switch is
/// under way. With `--root` alone it leaves generations as they are.
#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Use the store below this directory; by default the one of the configuration, or `/`.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Delete old generations, but keep the newest N of each profile; by default `gc.keep` of the
    /// configuration.
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
    /// Delete generations that were replaced longer ago than this, such as 30d or 12h; by default
    /// `gc.older_than` of the configuration.
    #[arg(long, value_name = "SPAN", value_parser = before)]
    older_than: Option<Timestamp>,
    /// Stop once so much is freed: bytes, or with K, M, G or T.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_freed: Option<u64>,
    /// Also keep the outputs of live derivations, as `keep-outputs = true` of Nix.
    #[arg(long)]
    keep_outputs: bool,
    /// Only list what would be deleted.
    #[arg(long)]
    dry_run: bool,
}

impl GcArgs {
    /// Returns the root of the store that is written to.
    pub(crate) fn writes_to(&self, context: &Context) -> Result<Option<PathBuf>, Problem> {
        if self.dry_run { Ok(None) } else { Ok(Some(self.place(context)?.0)) }
    }

    /// Returns the store's root, and the host whose old generations may go, if there is one.
    fn place(&self, context: &Context) -> Result<(PathBuf, Option<Host>), Problem> {
        let asked = self.keep.is_some() || self.older_than.is_some();
        match &self.root {
            Some(root) if !asked => return Ok((root.clone(), None)),
            None if !asked && context.config.is_none() && !config::path(context).exists() => {
                return Ok(("/".into(), None));
            }
            Some(_) | None => {}
        }
        let host = Host::open(context)?;
        let root = host.settings.store.root.clone();
        if self.root.as_ref().is_some_and(|other| !is_same(other, &root)) {
            let what = format!("the profiles of this host are below `{}`", root.display());
            return Err(Problem::new(Kind::Usage, "other_root", what)
                .leaves("nothing changed")
                .fix("leave out `--root`, or `--keep` and `--older-than`"));
        }
        Ok((root, Some(host)))
    }

    /// Returns which generations are kept, if any are to go.
    fn keep(&self, host: &Host) -> Option<Keep> {
        let policy = host.settings.gc;
        let newest = self.keep.or(policy.keep);
        let ago = |span: Duration| Timestamp::now().checked_sub(span).unwrap_or(Timestamp::MIN);
        let since = self.older_than.or_else(|| policy.older_than.map(ago));
        let wanted = newest.is_some() || since.is_some();
        wanted.then_some(Keep { newest: newest.unwrap_or(0), since })
    }

    fn options(&self) -> gc::Options {
        let outputs = if self.keep_outputs { KeepOutputs::Yes } else { KeepOutputs::No };
        gc::Options { max_freed: self.max_freed, outputs }
    }
}

/// Runs it, on a thread that may block.
pub(crate) async fn run(args: GcArgs, context: &Context) -> Result<(), Problem> {
    let context = context.clone();
    let work = tokio::task::spawn_blocking(move || {
        if args.dry_run { list(&args, &context) } else { collect(&args, &context) }
    });
    work.await.map_err(|error| Problem::from_error(Kind::Runtime, "internal", &error))?
}

fn list(args: &GcArgs, context: &Context) -> Result<(), Problem> {
    let (root, host) = args.place(context)?;
    let unneeded = match host.as_ref().and_then(|host| Some((host, args.keep(host)?))) {
        Some((host, keep)) => generations::unneeded(host, &keep)?,
        None => Vec::new(),
    };
    let links: BTreeSet<PathBuf> = unneeded.iter().map(Unneeded::link).collect();
    let store = LocalStore::open_for_reading(&root).map_err(|error| error.problem())?;
    let garbage = gc::survey(&store, &args.options(), &links).map_err(|error| error.problem())?;
    told::list(&context.output, &unneeded, &garbage)
}

fn collect(args: &GcArgs, context: &Context) -> Result<(), Problem> {
    let (root, host) = args.place(context)?;
    let store = LocalStore::open(&root).map_err(|error| error.problem())?;
    let mut told = Told::new(&context.output);
    if let Some(host) = &host
        && let Some(keep) = args.keep(host)
    {
        generations::delete(host, &keep, &mut |deleted| told.generation(deleted))?;
    }
    match gc::collect(&store, &args.options(), &mut |event| told.hear(event)) {
        Ok(collected) => told.done(&collected),
        Err(error) => {
            told.failed();
            Err(error.problem().leaves("what was deleted stays so; the store is whole"))
        }
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    let resolve = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    resolve(one) == resolve(other)
}

/// Parses a span before now.
fn before(text: &str) -> Result<Timestamp, String> {
    let span: jiff::Span = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    let span =
        span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|error| error.to_string())?;
    if span.is_negative() {
        return Err("a span must not be negative".to_owned());
    }
    Timestamp::now().checked_sub(span).map_err(|error| error.to_string())
}

/// Parses a number of bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let power = match unit.trim_start().trim_end_matches("iB").trim_end_matches('B') {
        "" => 0,
        "K" | "k" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        _ => return Err(format!("`{unit}` is no unit of size: take K, M, G or T")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("`{text}` is no size"))?;
    number.checked_mul(1 << (10 * power)).ok_or_else(|| format!("`{text}` is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        for (text, bytes) in [("0", 0), ("7", 7), ("7B", 7), ("2K", 2048), ("3 MiB", 3 << 20)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "-1", "1X", "1.5G", "99999999T"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn spans_have_days_and_are_not_negative() {
        let yesterday = before("1d").unwrap();
        let day = Timestamp::now().duration_since(yesterday);
        assert_eq!(day.as_hours(), 24);
        assert!(before("2w").is_ok() && before("12h").is_ok());
        assert!(before("-1d").is_err() && before("soon").is_err());
    }
}
