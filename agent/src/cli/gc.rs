//! `agent gc`: garbage collection, with or without Nix on the host.

mod told;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use jiff::{SpanRelativeTo, Timestamp};
use shared::problem::{Kind, Problem};
use store::gc::{self, KeepOutputs};
use store::local::{LocalStore, LocalStoreError};
use tokio_util::sync::CancellationToken;

use self::told::Told;
use crate::cli::{Context, Host, config};
use crate::gc::{Judged, Keep, delete, judge, options, plain_options};
use crate::{crash, stop};

/// What the configuration says of garbage.
const CONFIGURATION: &str = "\
[gc] in the configuration, all optional:
  keep = 3               keep the newest 3 generations of each profile
  older_than = 2592000   keep those that were replaced less than so many seconds ago
  every = 86400          the daemon collects by itself after a switch, or when a generation has
                         become old enough, and not more often than this, in seconds; 0, the
                         default, is never
  min_free = 536870912   a fetch that would leave less collects first, as much as it needs, and
                         goes on; 0 is never, and this the default
  max_free = 0           if so, collect until so much is free

With neither `keep` nor `older_than`, no generation is deleted. The agent collects by itself only in
a store that its user owns.";

/// Delete what no profile, root or running process needs any more.
///
/// Finds roots as Nix does, and may run beside Nix. With `--keep` or `--older-than`, or `[gc]` in
/// the configuration, it first deletes old generations of the profiles of this host. Never one that
/// is current, last good, booted, booted next, or that a switch leads to or back to; and none of a
/// profile that is pinned or in the middle of a switch. With `--root` alone it leaves generations
/// as they are.
#[derive(Debug, Args)]
#[command(after_long_help = CONFIGURATION)]
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
    /// Also keep the outputs of live derivations, as `keep-outputs = true` of `nix.conf`, which is
    /// read for this and `keep-derivations` where there is one.
    #[arg(long)]
    keep_outputs: bool,
    /// Delete nothing: list each generation with why it stays or goes, then what would be deleted.
    #[arg(long)]
    dry_run: bool,
}

impl GcArgs {
    /// Returns the root of the store that is written to.
    pub(crate) fn writes_to(&self, context: &Context) -> Result<Option<PathBuf>, Problem> {
        if self.dry_run { Ok(None) } else { Ok(Some(self.place(context)?.0)) }
    }

    /// Returns the store's root, and the host that it is of, if it is one's.
    fn place(&self, context: &Context) -> Result<(PathBuf, Option<Host>), Problem> {
        let asked = self.asks_for_generations();
        let configured = context.config.is_some() || config::path(context).exists();
        let root = match &self.root {
            None if !asked && !configured => return Ok(("/".into(), None)),
            Some(root) if !asked => {
                // Its journals count whoever asks; a store of its own has none.
                let host = configured.then(|| Host::open(context).ok()).flatten();
                let own = host.filter(|host| is_same(&host.settings.store.root, root));
                return Ok((root.clone(), own));
            }
            root @ (Some(_) | None) => root,
        };
        let host = Host::open(context)?;
        let own = host.settings.store.root.clone();
        if root.as_ref().is_some_and(|other| !is_same(other, &own)) {
            let what = format!("the profiles of this host are below `{}`", own.display());
            return Err(Problem::new(Kind::Usage, "other_root", what)
                .leaves("nothing changed")
                .fix("leave out `--root`, or `--keep` and `--older-than`"));
        }
        Ok((own, Some(host)))
    }

    const fn asks_for_generations(&self) -> bool {
        self.keep.is_some() || self.older_than.is_some()
    }

    /// Returns which generations are kept, if any are to go.
    fn keep(&self, host: &Host, now: Timestamp) -> Option<Keep> {
        if self.root.is_some() && !self.asks_for_generations() {
            return None;
        }
        let configured = host.settings.gc;
        let ago = |span: Duration| now.checked_sub(span).unwrap_or(Timestamp::MIN);
        let since = self.older_than.or_else(|| configured.older_than.map(ago));
        Keep::new(self.keep.or(configured.keep), since)
    }

    fn options(&self, host: Option<&Host>) -> Result<gc::Options, Problem> {
        let mut options = match host {
            Some(host) => options(&host.converger)?,
            None => plain_options()?,
        };
        if self.keep_outputs {
            options.keep.outputs = KeepOutputs::Yes;
        }
        Ok(gc::Options { max_freed: self.max_freed, ..options })
    }
}

/// Runs it, on a thread that may block.
pub(crate) async fn run(args: GcArgs, context: &Context) -> Result<(), Problem> {
    let context = context.clone();
    let work = if args.dry_run {
        tokio::task::spawn_blocking(move || list(&args, &context))
    } else {
        let stop = stop::on_signal()?;
        tokio::task::spawn_blocking(move || collect(&args, &context, &stop))
    };
    work.await.map_err(|error| Problem::from_error(Kind::Runtime, "internal", &error))?
}

fn list(args: &GcArgs, context: &Context) -> Result<(), Problem> {
    let (root, host) = args.place(context)?;
    let now = Timestamp::now();
    let judged = match &host {
        Some(host) => judge(&host.converger, args.keep(host, now).as_ref(), now)?,
        None => Vec::new(),
    };
    let links: BTreeSet<PathBuf> =
        judged.iter().filter(|it| !it.verdict.keeps()).map(Judged::link).collect();
    let options = args.options(host.as_ref())?;
    let store = LocalStore::open_for_reading(&root).map_err(|error| error.problem())?;
    let garbage = gc::survey(&store, &options, &links).map_err(|error| error.problem())?;
    told::list(&context.output, &judged, now, &garbage)
}

fn collect(args: &GcArgs, context: &Context, stop: &CancellationToken) -> Result<(), Problem> {
    let (root, host) = args.place(context)?;
    let now = Timestamp::now();
    let store = LocalStore::open(&root).map_err(|error| failed(&error))?;
    let mut told = Told::new(&context.output, now);
    if let Some(host) = &host
        && let Some(keep) = args.keep(host, now)
    {
        delete(&host.converger, &keep, now, &mut |judged| told.generation(judged))?;
    }
    // What a journal needs is read behind that, when no switch was under way.
    let options = gc::Options { stop: stop.clone(), ..args.options(host.as_ref())? };
    let collected = gc::collect(&store, &options, &mut |event| {
        crash::collecting(&event);
        told.hear(event);
    });
    match collected {
        Ok(collected) => {
            told.done(&collected)?;
            if stop.is_cancelled() { Err(stop::interrupted()) } else { Ok(()) }
        }
        Err(error) => {
            told.failed();
            Err(failed(&error).leaves("what was deleted stays so; the store is whole"))
        }
    }
}

/// Tells why nothing can be collected: what else deletes garbage is no advice here.
fn failed(error: &LocalStoreError) -> Problem {
    let problem = error.problem();
    if !error.is_disk_full() {
        return problem;
    }
    let fix = "delete something else there by hand: the database grows by some KiB before \
        anything can go";
    problem.leaves("nothing changed").fix(fix).next("agent gc")
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
