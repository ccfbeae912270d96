//! Fetching: makes a closure valid and roots it. Needs no lock, and changes no profile.

use std::error::Error;
use std::sync::Arc;

use shared::closure::ClosureIndex;
use shared::hints::Hints;
use shared::id::Digest;
use shared::problem::chain;
use shared::window::Opening;
use store::disk;
use store::local::LocalStore;
use store::substitute::{self, Cause, Limits, Observer, Share, Shares, Sources, SubstituteError};
use tokio_util::sync::CancellationToken;

use super::{ConvergeError, Converger, LOOK_AGAIN, Order, Stop, now};
use crate::crash;
use crate::gc::{line, make_room};
use crate::state::{Code, Event, Profile, Reason, Wanted};
use crate::windows;

/// Where closure indexes come from.
pub(crate) trait Closures: Send + Sync {
    /// Returns the closure index with this digest, and hints if there are any.
    ///
    /// Whatever goes wrong is a reason of the profile, mostly [`Code::ClosureIndex`].
    fn closure(
        &self,
        digest: Digest,
    ) -> impl Future<Output = Result<(ClosureIndex, Option<Hints>), Reason>> + Send;
}

impl Converger {
    /// Fetches what is wanted for as long as the windows let it; says nothing if one closed before
    /// the end. What is valid by then stays, and the next window goes on from there.
    pub(super) async fn fetch_in_window(
        &self,
        profile: &Profile,
        wanted: &Wanted,
        order: &Order,
        closures: &impl Closures,
        stop: &Stop,
    ) -> Result<Option<Event>, ConvergeError> {
        let closed = stop.order.child_token();
        let fetch = self.fetch(profile, wanted, order, closures, &closed);
        tokio::pin!(fetch);
        // Cancel safe: the fetch goes on below.
        tokio::select! {
            event = &mut fetch => return event.map(Some),
            () = window_closes(profile) => {}
        }
        closed.cancel();
        // It tidies up behind itself, and may just have come to its end.
        Ok(fetch.await.ok())
    }

    /// Fetches what is wanted, and says how that ended; an error if it was stopped.
    pub(super) async fn fetch(
        &self,
        profile: &Profile,
        wanted: &Wanted,
        order: &Order,
        closures: &impl Closures,
        stop: &CancellationToken,
    ) -> Result<Event, ConvergeError> {
        Ok(match self.try_to_fetch(profile, wanted, order, closures, stop).await {
            Ok(()) => Event::Fetched(wanted.path.clone()),
            // No failure of anybody, so nothing that the journal has to know.
            Err(_) if stop.is_cancelled() => return Err(ConvergeError::Stopped),
            Err(reason) => {
                tracing::warn!(
                    profile = %profile.name, version = %wanted.version, code = %reason.code,
                    "cannot fetch: {}", reason.text
                );
                Event::NotReady(wanted.path.clone(), reason)
            }
        })
    }

    async fn try_to_fetch(
        &self,
        profile: &Profile,
        wanted: &Wanted,
        order: &Order,
        closures: &impl Closures,
        stop: &CancellationToken,
    ) -> Result<(), Reason> {
        let (index, hints) = unless(stop, closures.closure(wanted.closure)).await?;
        if *index.root() != wanted.path {
            let text =
                format!("the closure index is of `{}`, not of `{}`", index.root(), wanted.path);
            return Err(Reason::new(Code::ClosureIndex, text));
        }
        let inner = Arc::clone(&self.inner);
        let store = blocking(move || inner.store()).await?;
        let closures = [index];
        let sources = match unless(stop, order.caches.open(hints)).await {
            Ok(sources) => sources,
            // What is here already needs no cache.
            Err(_) if is_valid(&store, &closures).await? => Sources::default(),
            Err(reason) => return Err(reason),
        };
        let shares = Shares::default();
        let observer = naming_liars(profile, crash::observe(&order.observer));
        let observer = shares.beside(observer);
        let run = self.substitute(&store, &closures, &sources, order, &observer, stop).await;
        for Share { cache, paths, downloaded, faults } in shares.get() {
            tracing::info!(profile = %profile.name, cache, paths, downloaded, faults, "fetched");
        }
        run?;
        crash::point("fetch.valid");
        let (name, path) = (profile.name.to_string(), wanted.path.clone());
        // So that the closure outlives this process, which a temporary root would not.
        blocking(move || store.add_root(&name, &path)).await?;
        crash::point("fetch.rooted");
        Ok(())
    }

    /// Substitutes; where the disk is too full for it, what is dead goes first, and once.
    ///
    /// The closure has temporary roots meanwhile, and what arrived of it stays.
    async fn substitute(
        &self,
        store: &Arc<LocalStore>,
        closures: &[ClosureIndex],
        sources: &Sources,
        order: &Order,
        observer: &Observer,
        stop: &CancellationToken,
    ) -> Result<(), Reason> {
        let last = Limits { stop: stop.clone(), ..order.limits.clone() };
        let limits = Limits { min_free: last.min_free.max(order.gc.min_free), ..last.clone() };
        let first = substitute::run(store, closures, sources, &limits, observer).await;
        let error = match first {
            Ok(_) => return Ok(()),
            Err(error) if error.cause() == Cause::DiskFull => error,
            Err(error) => return Err(refuse(&error)),
        };
        // Whoever drops this wants something else by now, so the collection ends too.
        let stop = stop.child_token();
        let _guard = stop.clone().drop_guard();
        let (converger, gc) = (self.clone(), order.gc);
        let collected = tokio::task::spawn_blocking(move || {
            let freed = make_room(&converger, &gc, &error, &stop);
            (freed, error)
        });
        let (freed, error) =
            collected.await.map_err(|error| Reason::new(Code::StoreFailed, error.to_string()))?;
        match freed {
            // What may be given up for room does not count, for there is nothing to give up.
            Ok(0) if limits.min_free == last.min_free => return Err(refuse(&error)),
            Ok(_) => {}
            Err(problem) => tracing::warn!("cannot make room: {}", line(&problem)),
        }
        let again = substitute::run(store, closures, sources, &last, observer).await;
        again.map(drop).map_err(|error| refuse(&error))
    }
}

/// Waits until no window to fetch is open any more.
async fn window_closes(profile: &Profile) {
    while windows::look(&profile.windows, now()).fetch == Opening::Open {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Waits for the network only as long as nobody says stop.
async fn unless<T>(
    stop: &CancellationToken,
    work: impl Future<Output = Result<T, Reason>>,
) -> Result<T, Reason> {
    let stopped = || Err(Reason::new(Code::FetchFailed, "stopped"));
    stop.run_until_cancelled(work).await.unwrap_or_else(stopped)
}

/// Says in the log which cache delivered what had to be refused.
fn naming_liars(profile: &Profile, observer: Observer) -> Observer {
    let name = profile.name.clone();
    Arc::new(move |event| {
        if let substitute::Event::Faulty(fault) = event
            && fault.cause.is_lie()
        {
            tracing::warn!(profile = %name, path = %fault.path, "a cache lied: {}", fault.line());
        }
        observer(event);
    })
}

async fn is_valid(store: &Arc<LocalStore>, closures: &[ClosureIndex]) -> Result<bool, Reason> {
    let (store, closures) = (Arc::clone(store), closures.to_vec());
    let planned = blocking(move || substitute::plan(&store, &closures)).await?;
    Ok(planned.missing.is_empty())
}

/// Runs what blocks on a thread that may; a failure is the store's.
async fn blocking<T: Send + 'static, E: Error + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Reason> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| {
            let full = disk::is_full(&error);
            Reason::new(if full { Code::DiskFull } else { Code::StoreFailed }, chain(&error))
        }),
        Err(error) => Err(Reason::new(Code::StoreFailed, error.to_string())),
    }
}

fn refuse(error: &SubstituteError) -> Reason {
    let code = match error.cause() {
        Cause::Conflict => Code::Conflict,
        Cause::DiskFull => Code::DiskFull,
        Cause::RefusedBytes => Code::RefusedBytes,
        Cause::FetchFailed => Code::FetchFailed,
        Cause::StoreFailed => Code::StoreFailed,
    };
    let problem = error.problem();
    let mut text = problem.what;
    for cause in problem.causes {
        text.push_str("; ");
        text.push_str(&cause);
    }
    Reason::new(code, text)
}
