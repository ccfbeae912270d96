//! `agent run`: goes round, lets every profile follow its orders, and reports.
//!
//! One task owns the rounds, one each profile, one the reports. A registry that is slow, down or
//! hostile keeps none of the others from going on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shared::id::ProfileName;
use shared::problem::{Problem, chain};
use shared::report::ProfileReport;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::client::{News, Source, TrustFacts};
use crate::config::{Registry, Settings};
use crate::converge::{ConvergeError, Converger, Order};
use crate::gc::Collector;
use crate::progress;
use crate::report::{self, Outbox, Pace, Reporter, SendError};
use crate::rounds::Rounds;
use crate::service::{Service, Watcher};
use crate::state::Profile;

/// How long changes are gathered before they are reported.
const GATHER: Duration = Duration::from_millis(200);

/// How long the longest pause between two rounds is while no source is good.
const MAX_BACKOFF: Duration = Duration::from_secs(900);

/// How long a stopping daemon waits for what must come to its end.
const DRAIN: Duration = Duration::from_secs(600);

/// A profile's task, and the end of its orders.
struct Follower {
    orders: watch::Sender<Option<Order>>,
    task: JoinHandle<()>,
}

/// Runs until cancelled; `process` is cancelled as well unless it runs again with other settings.
pub(crate) async fn run(
    settings: &Settings,
    cancel: &CancellationToken,
    process: &CancellationToken,
) -> Result<(), Problem> {
    let mut rounds = Rounds::leaving(settings, cancel.clone())?;
    let mut service = Service::start(settings, rounds.converger(), cancel).await?;
    match rounds.converger().recover().await {
        Ok(recovered) => service.recovered(&recovered),
        // A program of a switch goes on without us.
        Err(ConvergeError::Stopped) => {}
        Err(error) => return Err(error.problem()),
    }
    let watcher = service.watcher();
    let changed = Arc::new(Notify::new());
    let (facts, facts_seen) = watch::channel(rounds.client().record().facts);
    let reports = start_reports(settings, &rounds, facts_seen, &changed, (&watcher, cancel));
    let collector = Collector::new(rounds.converger().clone(), settings.gc);
    let collector = tokio::spawn(collector.run(cancel.clone()));
    let mut followers = BTreeMap::new();
    let mut failures = 0;
    while !cancel.is_cancelled() {
        let started = tokio::time::Instant::now();
        let wait = settings.registry.wait;
        service.round_begins();
        let observer = |profile: &ProfileName| watcher.count(progress::logged(profile));
        let round = tokio::select! {
            // Cancel safe: a round that is dropped has committed what it verified or nothing.
            () = cancel.cancelled() => break,
            round = rounds.round(wait, &observer) => round,
        };
        let round = match round {
            Ok(round) => round,
            Err(error) => {
                // The profiles' own tasks go on; perhaps somebody mends the disk meanwhile.
                tracing::error!(error = %chain(&error), "cannot go round");
                let record = rounds.client().record();
                service.round_ended(None, record, failures, settings.registry.poll);
                rest(settings.registry.poll, cancel).await;
                continue;
            }
        };
        failures = if round.trouble.is_some() { failures + 1 } else { 0 };
        facts.send_replace(rounds.client().record().facts);
        let pause = pause(&settings.registry, round.news, failures, started.elapsed());
        service.round_ended(Some(&round), rounds.client().record(), failures, pause);
        for order in round.orders {
            follow(&mut followers, order, &rounds, &changed, (&watcher, cancel));
        }
        rest(pause, cancel).await;
    }
    let is_last = process.is_cancelled();
    service.stopping(is_last);
    drain(followers, [reports, collector]).await;
    service.stopped(is_last).await;
    Ok(())
}

/// Waits, but not past the end.
async fn rest(pause: Duration, cancel: &CancellationToken) {
    tokio::select! {
        // Cancel safe: both only wait.
        () = cancel.cancelled() => {}
        () = tokio::time::sleep(pause) => {}
    }
}

/// Returns how long to wait for the next round: jittered, so that no fleet polls in step.
fn pause(registry: &Registry, news: News, failures: u32, taken: Duration) -> Duration {
    let poll = registry.poll;
    if failures > 0 {
        let doubled = poll.saturating_mul(1 << (failures - 1).min(8));
        return doubled.min(MAX_BACKOFF.max(poll)).mul_f64(rand::random_range(0.5..1.0));
    }
    // A registry that held the request back is asked again at once; one that did not would spin.
    let held_back = taken >= registry.wait / 2 || news == News::Some;
    if !registry.wait.is_zero() && held_back {
        return Duration::from_millis(rand::random_range(0..500));
    }
    poll.mul_f64(rand::random_range(0.8..1.2))
}

fn follow(
    followers: &mut BTreeMap<ProfileName, Follower>,
    order: Order,
    rounds: &Rounds,
    changed: &Arc<Notify>,
    (watcher, cancel): (&Watcher, &CancellationToken),
) {
    let follower = followers.entry(order.profile.clone()).or_insert_with(|| {
        let (orders, seen) = watch::channel(None);
        let (converger, closures) = (rounds.converger().clone(), rounds.client().closures());
        let told = tell_of(watcher.clone(), Arc::clone(changed));
        let (cancel, name) = (cancel.clone(), order.profile.clone());
        let task = tokio::spawn(async move {
            converger.follow(&name, seen, &closures, &cancel, told).await;
        });
        Follower { orders, task }
    });
    // A new order ends a fetch for an older one, so only what differs is sent.
    follower.orders.send_if_modified(|current| {
        let same = current.as_ref().is_some_and(|current| is_same(current, &order));
        if !same {
            *current = Some(order);
        }
        !same
    });
}

/// Tells whether two orders ask for the same, from the same caches, on the word of the same keys.
fn is_same(one: &Order, other: &Order) -> bool {
    one.group == other.group
        && one.desired == other.desired
        && one.windows == other.windows
        && one.caches.locations == other.caches.locations
        && one.caches.trusted == other.caches.trusted
}

/// Returns what hears of every step of a profile.
fn tell_of(
    watcher: Watcher,
    changed: Arc<Notify>,
) -> impl Fn(Result<Profile, ConvergeError>) + Send + 'static {
    move |outcome| {
        match outcome {
            Ok(profile) => watcher.profile(&profile),
            Err(error) => tracing::error!(error = %chain(&error), "cannot drive a profile"),
        }
        changed.notify_one();
    }
}

fn start_reports(
    settings: &Settings,
    rounds: &Rounds,
    facts: watch::Receiver<Option<TrustFacts>>,
    changed: &Arc<Notify>,
    (watcher, cancel): (&Watcher, &CancellationToken),
) -> JoinHandle<()> {
    let sources = rounds.client().sources().to_vec();
    let (settings, converger) = (settings.clone(), rounds.converger().clone());
    let (changed, cancel, watcher) = (Arc::clone(changed), cancel.clone(), watcher.clone());
    tokio::spawn(async move {
        let work = send_reports(&settings, &sources, &converger, facts, (&changed, &watcher));
        // Cancel safe: a report that is cut off waits in the outbox.
        tokio::select! {
            () = cancel.cancelled() => {}
            () = work => {}
        }
    })
}

/// Reports every change, and now and then that nothing changed; what is not taken waits.
async fn send_reports(
    settings: &Settings,
    sources: &[Source],
    converger: &Converger,
    facts: watch::Receiver<Option<TrustFacts>>,
    (changed, watcher): (&Notify, &Watcher),
) {
    let mut outbox = Outbox::of(&settings.state_dir);
    let mut pace = Pace::default();
    let mut noted: Option<Vec<ProfileReport>> = None;
    let mut lost = false;
    let mut beat_at = tokio::time::Instant::now();
    loop {
        let beat = tokio::select! {
            // Cancel safe: a notice is kept until it is taken, and the others only wait.
            () = changed.notified() => false,
            () = tokio::time::sleep_until(beat_at) => true,
            () = pace.pause_ends() => false,
        };
        if beat {
            // Jittered, so that hosts that got their power back together do not stay in step.
            let pause = settings.registry.heartbeat.mul_f64(rand::random_range(0.8..1.2));
            beat_at = tokio::time::Instant::now() + pause;
        }
        tokio::time::sleep(GATHER).await;
        let reporter = match Reporter::new(settings, sources) {
            Ok(reporter) => reporter,
            Err(error) => {
                heed(Err(error), &mut lost, &mut pace);
                continue;
            }
        };
        if let Ok(profiles) = converger.profiles() {
            let told = report::profile_reports(&profiles);
            if beat || noted.as_ref() != Some(&told) {
                let facts = *facts.borrow();
                if let Err(error) = reporter.note(&mut outbox, &profiles, facts.as_ref()) {
                    tracing::warn!(error = %chain(&error), "a report is kept in memory alone");
                }
                noted = Some(told);
            }
        }
        if pace.is_pausing() {
            continue;
        }
        let result = reporter.send(&mut outbox).await;
        watcher.reported(result.is_ok());
        heed(result, &mut lost, &mut pace);
    }
}

/// Takes in how sending went; only a change is worth a line.
fn heed(result: Result<(), SendError>, lost: &mut bool, pace: &mut Pace) {
    let was_lost = std::mem::replace(lost, result.is_err());
    match result {
        Ok(()) => {
            pace.succeeded();
            if was_lost {
                tracing::info!("reports are taken again");
            }
        }
        Err(error) => {
            pace.failed(error.retry_after());
            if was_lost {
                tracing::debug!(error = %chain(&error), "a report was not sent");
            } else {
                tell_unsent(&error);
            }
        }
    }
}

fn tell_unsent(error: &SendError) {
    // Whoever did not enrol chose so, and was told.
    if matches!(error, SendError::NotEnrolled(_)) {
        tracing::info!("not enrolled, so nothing is reported");
    } else {
        tracing::warn!(error = %chain(error), "reports are not taken; they wait");
    }
}

/// Lets switches come to their end; fetches have ended with the cancellation.
async fn drain(followers: BTreeMap<ProfileName, Follower>, others: [JoinHandle<()>; 2]) {
    let ended = async {
        for Follower { orders, task } in followers.into_values() {
            drop(orders);
            drop(task.await);
        }
        for other in others {
            drop(other.await);
        }
    };
    if tokio::time::timeout(DRAIN, ended).await.is_err() {
        tracing::warn!("a profile's task did not end in time; the journal knows how far it was");
    }
}

#[cfg(test)]
mod tests {
    use shared::nix::PublicKey;
    use store::cache::{Network, NetworkOptions};
    use store::substitute::Limits;

    use super::*;
    use crate::caches::Caches;
    use crate::config::Gc;
    use crate::state::{Code, Desired, Reason};

    #[test]
    fn a_builder_key_that_comes_or_goes_makes_an_order_another() {
        let order = |keys: &[PublicKey]| Order {
            group: "eu-prod".parse().unwrap(),
            profile: "web".parse().unwrap(),
            desired: Desired::Freeze { reason: Reason::new(Code::NoManifest, "") },
            windows: None,
            caches: Caches {
                locations: Vec::new(),
                trusted: keys.iter().cloned().collect(),
                network: Network::new(&NetworkOptions::default()).unwrap(),
            },
            limits: Limits::default(),
            gc: Gc::default(),
            observer: Arc::new(|_| {}),
        };
        let key = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
        let key: PublicKey = key.parse().unwrap();
        assert!(is_same(&order(std::slice::from_ref(&key)), &order(std::slice::from_ref(&key))));
        assert!(!is_same(&order(std::slice::from_ref(&key)), &order(&[])));
        assert!(!is_same(&order(&[]), &order(&[key])));
    }

    #[test]
    fn pauses_are_jittered_back_off_and_end_at_once_where_the_registry_waits() {
        let seconds = Duration::from_secs;
        let registry = |wait: u64| Registry {
            poll: seconds(60),
            wait: seconds(wait),
            ..Registry::plain("http://localhost".parse().unwrap())
        };
        let check = |wait: u64, news, failures, taken: u64, least: u64, most: u64| {
            let pause = pause(&registry(wait), news, failures, seconds(taken));
            assert!((seconds(least)..=seconds(most)).contains(&pause), "{pause:?}");
        };
        check(0, News::None, 0, 0, 48, 72);
        check(0, News::Some, 0, 0, 48, 72);
        check(30, News::None, 0, 30, 0, 1);
        check(30, News::Some, 0, 1, 0, 1);
        // A mirror does not wait, whatever it is asked.
        check(30, News::None, 0, 1, 48, 72);
        check(30, News::None, 1, 0, 30, 60);
        check(0, News::None, 3, 0, 120, 240);
        check(0, News::None, 1000, 0, 450, 900);
    }
}
