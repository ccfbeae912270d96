//! Opening several caches: none of them may hold up the others.

use std::time::Instant;

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use shared::hints::Hints;

use super::{BinaryCache, CacheError, CacheInfo, Location, Network, Transport, Verdict};
use crate::net::limits::OPEN_GRACE;

impl BinaryCache {
    /// Opens several caches at once; those that cannot be used are told apart, as errors.
    ///
    /// Each comes with a priority that outranks the one it claims. The order is that in which to
    /// ask: by priority, then as given.
    ///
    /// Once one is there, the others get [`OPEN_GRACE`]. One that is late, or is left out for what
    /// it did before, is not waited for, but is still asked for what nobody else has.
    ///
    /// If there is but one, and `hints` name it, nothing that it could say of itself matters:
    /// then the first request is for what is wanted, two round trips earlier.
    pub async fn open_all(
        locations: &[(Location, Option<u32>)],
        hints: &[Hints],
        network: &Network,
    ) -> (Vec<Self>, Vec<CacheError>) {
        let mut opening = Opening { network, ready: Vec::new(), errors: Vec::new() };
        let mut waiting = Vec::new();
        let mut asked = FuturesUnordered::new();
        let now = Instant::now();
        for (index, (location, priority)) in locations.iter().enumerate() {
            let place = Place { index, location, priority: *priority };
            match Self::unopened(location, network) {
                Ok(cache) if locations.len() == 1 && cache.is_hinted(hints) => {
                    opening.take_unready(&place, cache);
                }
                Ok(cache) if cache.is_left_out(now) => opening.take_unready(&place, cache),
                Ok(cache) => {
                    asked.push(cache.clone().read_info_of(index, locations.len()));
                    waiting.push((place, cache));
                }
                Err(error) => opening.errors.push(error),
            }
        }
        let mut grace = None;
        loop {
            let next = match grace {
                Some(end) => tokio::time::timeout_at(end, asked.next()).await,
                None => Ok(asked.next().await),
            };
            let Ok(next) = next else {
                waiting
                    .into_iter()
                    .for_each(|(place, cache)| opening.take_late(&place, cache, now));
                break;
            };
            let Some((index, info)) = next else { break };
            let found = waiting.iter().position(|(place, _)| place.index == index);
            let Some((place, cache)) = found.map(|at| waiting.swap_remove(at)) else { continue };
            match info {
                Ok(info) => {
                    opening.take(&place, cache, &info, now);
                    grace.get_or_insert_with(|| tokio::time::Instant::now() + OPEN_GRACE);
                }
                Err(error) => opening.refuse(&place, error, now),
            }
        }
        opening.done()
    }

    /// Says whether it is not worth a wait; a folder always is.
    fn is_left_out(&self, now: Instant) -> bool {
        self.is_http() && self.record.lock().standing(0, now).is_left_out()
    }

    /// Says whether hints name this cache; a folder is asked for what it is all the same, because
    /// that takes no time.
    fn is_hinted(&self, hints: &[Hints]) -> bool {
        self.is_http() && hints.iter().any(|hints| hints.names(&self.name))
    }

    const fn is_http(&self) -> bool {
        matches!(self.transport, Transport::Http(_))
    }

    async fn read_info_of(
        mut self,
        index: usize,
        caches: usize,
    ) -> (usize, Result<CacheInfo, CacheError>) {
        if caches > 1 {
            self.hurry();
        }
        (index, self.read_info().await)
    }
}

/// A cache that is to be opened: its place in the list, where it is, and its priority, if given.
struct Place<'a> {
    index: usize,
    location: &'a Location,
    priority: Option<u32>,
}

struct Opening<'a> {
    network: &'a Network,
    ready: Vec<(usize, BinaryCache)>,
    errors: Vec<CacheError>,
}

impl Opening<'_> {
    fn take(
        &mut self,
        place: &Place<'_>,
        mut cache: BinaryCache,
        info: &CacheInfo,
        asked: Instant,
    ) {
        cache.info = CacheInfo { priority: place.priority.or(info.priority) };
        cache.record.lock().answered(asked);
        self.ready.push((place.index, cache));
    }

    /// Takes one that said nothing of itself: it comes last unless somebody gave it a priority.
    fn take_unready(&mut self, place: &Place<'_>, mut cache: BinaryCache) {
        cache.info.priority = Some(place.priority.unwrap_or(u32::MAX));
        self.ready.push((place.index, cache));
    }

    fn take_late(&mut self, place: &Place<'_>, cache: BinaryCache, asked: Instant) {
        self.network.note_unopened(place.location, asked);
        let name = cache.name.to_string();
        self.errors.push(CacheError::Late { cache: name, grace: OPEN_GRACE });
        self.take_unready(place, cache);
    }

    fn refuse(&mut self, place: &Place<'_>, error: CacheError, asked: Instant) {
        if matches!(error.verdict(), Verdict::Unreachable(_)) {
            self.network.note_unopened(place.location, asked);
        }
        self.errors.push(error);
    }

    fn done(mut self) -> (Vec<BinaryCache>, Vec<CacheError>) {
        // Nix counts a missing priority as 0 too.
        self.ready.sort_by_key(|(index, cache)| (cache.info.priority.unwrap_or(0), *index));
        (self.ready.into_iter().map(|(_, cache)| cache).collect(), self.errors)
    }
}
