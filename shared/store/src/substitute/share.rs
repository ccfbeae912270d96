//! What each cache contributed to a substitution.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;

use super::{Event, Observer};

/// What one cache contributed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Share {
    /// The cache.
    pub cache: String,
    /// Paths that came from it.
    pub paths: u64,
    /// Bytes that came from it, also those that came to nothing.
    pub downloaded: u64,
    /// How often it failed or lied.
    pub faults: u64,
}

/// Counts by cache what an observer hears. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Shares(Arc<Mutex<BTreeMap<String, Share>>>);

impl Shares {
    /// Returns an observer that counts, and passes everything on.
    #[must_use]
    pub fn beside(&self, observer: Observer) -> Observer {
        let shares = self.clone();
        Arc::new(move |event| {
            shares.hear(&event);
            observer(event);
        })
    }

    /// Counts an event.
    pub fn hear(&self, event: &Event<'_>) {
        match event {
            Event::Started { cache, .. } => self.add(cache, |_| ()),
            Event::Downloaded { cache, bytes } => self.add(cache, |it| it.downloaded += bytes),
            Event::Finished { cache, .. } => self.add(cache, |it| it.paths += 1),
            Event::Faulty(fault) => self.add(&fault.cache, |it| it.faults += 1),
            Event::Discovered { .. }
            | Event::Planned(_)
            | Event::Unpacked(_)
            | Event::Dropped(_)
            | Event::Spared { .. }
            | Event::Reached(_)
            | Event::Registering
            | Event::Ended => {}
        }
    }

    /// Returns the shares, by the names of the caches.
    #[must_use]
    pub fn get(&self) -> Vec<Share> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn add(&self, cache: &str, add: impl FnOnce(&mut Share)) {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get_mut(cache) {
            return add(share);
        }
        let none = Share { cache: cache.to_owned(), paths: 0, downloaded: 0, faults: 0 };
        add(shares.entry(cache.to_owned()).or_insert(none));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cache_has_what_came_from_it() {
        let shares = Shares::default();
        let observer = shares.beside(Arc::new(|_| {}));
        let path = &shared::nix::StorePath::from_base_name(&format!("{}-p", "0".repeat(32)));
        let path = path.as_ref().unwrap();
        observer(Event::Started { path, cache: "b", nar_size: 1 });
        observer(Event::Downloaded { cache: "a", bytes: 5 });
        observer(Event::Downloaded { cache: "a", bytes: 7 });
        observer(Event::Finished { path, cache: "a" });
        let share = |cache: &str, paths, downloaded| Share {
            cache: cache.to_owned(),
            paths,
            downloaded,
            faults: 0,
        };
        assert_eq!(shares.get(), [share("a", 1, 12), share("b", 0, 0)]);
    }
}
