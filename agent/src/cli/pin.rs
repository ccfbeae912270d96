//! `agent pin`, `unpin`, `rollback`, `retry` and `confirm`: what somebody on the host decides.
//!
//! Each works beside a running daemon: they share the host's lock and its journal.

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use shared::id::ProfileName;
use shared::problem::{Kind, Problem};

use crate::cli::{Context, Host, status};
use crate::state::{Pin, Profile, State};
use crate::stop;

/// Hold a profile as it is, against everything that is published.
#[derive(Debug, Args)]
pub(crate) struct PinArgs {
    /// The profile.
    #[arg(value_name = "PROFILE")]
    profile: ProfileName,
    #[command(flatten)]
    hold: Hold,
}

/// Let a pinned profile follow its manifest again.
#[derive(Debug, Args)]
pub(crate) struct UnpinArgs {
    /// The profile.
    #[arg(value_name = "PROFILE")]
    profile: ProfileName,
}

/// Go back to an older generation, and pin the profile there.
///
/// Pins, because the next poll would undo it otherwise; `agent unpin` lifts the pin.
#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The profile.
    #[arg(value_name = "PROFILE")]
    profile: ProfileName,
    /// The generation to go back to; the one before the current one if not given.
    #[arg(value_name = "GENERATION")]
    generation: Option<u64>,
    #[command(flatten)]
    hold: Hold,
}

/// Try again what failed here, without waiting for a newer version.
#[derive(Debug, Args)]
pub(crate) struct RetryArgs {
    /// The profile.
    #[arg(value_name = "PROFILE")]
    profile: ProfileName,
}

/// Call a switch good before its health checks do.
///
/// For a switch that is `confirming`: it is kept, also if a check would have failed later.
#[derive(Debug, Args)]
pub(crate) struct ConfirmArgs {
    /// The profile.
    #[arg(value_name = "PROFILE")]
    profile: ProfileName,
}

/// Why a profile is held, and until when.
#[derive(Debug, Args)]
struct Hold {
    /// Why; status and reports show it.
    #[arg(long, value_name = "TEXT", default_value = "by hand")]
    reason: String,
    /// Until when: a time such as 2026-03-01T18:00:00Z, or a span such as 2h.
    #[arg(long, value_name = "TIME|SPAN", value_parser = until)]
    until: Option<Timestamp>,
}

impl Hold {
    fn pin(&self) -> Pin {
        let now = Timestamp::now();
        let since = Timestamp::from_second(now.as_second()).unwrap_or(now);
        Pin { reason: self.reason.clone(), since, until: self.until }
    }
}

/// Pins a profile.
pub(crate) async fn pin(args: PinArgs, context: &Context) -> Result<(), Problem> {
    let host = Host::open(context)?;
    host.profile(&args.profile)?;
    let pinned = host.converger.pin(args.profile, Some(args.hold.pin())).await;
    let profile = pinned.map_err(|error| error.problem())?;
    tell(&host, &profile, context)
}

/// Lifts a pin.
pub(crate) async fn unpin(args: UnpinArgs, context: &Context) -> Result<(), Problem> {
    let host = Host::open(context)?;
    host.profile(&args.profile)?;
    let unpinned = host.converger.pin(args.profile, None).await;
    let profile = unpinned.map_err(|error| error.problem())?;
    tell(&host, &profile, context)
}

/// Goes back to a generation.
pub(crate) async fn rollback(args: RollbackArgs, context: &Context) -> Result<(), Problem> {
    let host = Host::open(context)?;
    let before = host.profile(&args.profile)?.running.map(|running| running.generation);
    let pin = args.hold.pin();
    let stop = stop::on_signal()?;
    let name = args.profile.clone();
    let outcome = host.converger.roll_back(name, args.generation, pin, &stop).await;
    let profile = outcome.map_err(|error| error.problem())?;
    tell(&host, &profile, context)?;
    if let Some(reason) = &profile.unhealthy {
        let what = format!("`{}` went back, and is not healthy there", args.profile);
        return Err(Problem::new(Kind::Failed, "unhealthy", what)
            .because(reason.text.clone())
            .leaves("runs the generation that was asked for, and is pinned")
            .next(format!("agent health {}", args.profile)));
    }
    let after = profile.running.as_ref().map(|running| running.generation);
    if after == before && args.generation != before {
        let what = format!("`{}` did not go back", args.profile);
        return Err(Problem::new(Kind::RolledBack, "rollback_failed", what)
            .leaves("runs what it ran before, and is pinned")
            .next("agent status"));
    }
    Ok(())
}

/// Forgets that a version failed.
pub(crate) async fn retry(args: RetryArgs, context: &Context) -> Result<(), Problem> {
    let host = Host::open(context)?;
    host.profile(&args.profile)?;
    let outcome = host.converger.retry(args.profile).await;
    let profile = outcome.map_err(|error| error.problem())?;
    tell(&host, &profile, context)?;
    context.output.talk("the daemon goes on by itself; without one: agent once");
    Ok(())
}

/// Confirms the switch that is under way.
pub(crate) async fn confirm(args: ConfirmArgs, context: &Context) -> Result<(), Problem> {
    let host = Host::open(context)?;
    let before = host.profile(&args.profile)?;
    if !matches!(before.state, State::Confirming { .. }) {
        let what = format!("`{}` has no switch that waits to be confirmed", args.profile);
        return Err(Problem::new(Kind::Conflict, "not_confirming", what)
            .leaves("nothing changed")
            .next("agent status"));
    }
    let outcome = host.converger.confirm(args.profile).await;
    let profile = outcome.map_err(|error| error.problem())?;
    tell(&host, &profile, context)
}

fn tell(host: &Host, profile: &Profile, context: &Context) -> Result<(), Problem> {
    let mut told = host.status()?;
    told.profiles.retain(|told| told.profile == profile.name);
    status::show(&told, true, context)
}

fn until(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        let is_to_come = time > Timestamp::now();
        return is_to_come.then_some(time).ok_or_else(|| format!("{time} is over already"));
    }
    let span: SignedDuration = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    let now = Timestamp::now();
    let end = now.checked_add(span).map_err(|error| error.to_string())?;
    Ok(Timestamp::from_second(end.as_second()).unwrap_or(end))
}
