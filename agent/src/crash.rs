//! Named places between any two writes, where tests end the process as a power cut would.
//!
//! `SHOAL_CRASH_AT=<name>` ends it at the first passage of that place, `<name>:<n>` at the n-th,
//! and a number alone at the n-th place whatever its name. Release builds have none of this, and
//! the store knows nothing of it: its steps come as events of a substitution.
//!
//! | name | where |
//! |---|---|
//! | `file.write` `file.written` `file.renamed` | around each write of trust state, journal, pins, counters |
//! | `fetch.valid` `fetch.rooted` | the closure is valid, and kept from the collector |
//! | `switch.linked` `switch.activated` | the link leads to the new generation, and it is at work |
//! | `stop.deactivated` `stop.removed` | the profile is out of work, and its links are gone |
//! | `rollback.linked` `rollback.activated` `rollback.forgotten` | the way back, step by step |
//! | `root.removed` | only the generation keeps the closure |
//! | `substitute.rooted` `substitute.locked` | temporary roots, then locks |
//! | `substitute.started` | a cache has begun to answer; nothing of the path is written |
//! | `substitute.unpacked` | a piece of an archive, up to 256 KiB, was read and is to be written |
//! | `substitute.finished` | a path is whole, though not valid |
//! | `substitute.registering` `substitute.synced` | all paths are whole, then they are on disk |
//! | `substitute.inserted` `substitute.committed` | within the transaction, and behind it |
//! | `substitute.unlocked` | nothing is left but the temporary roots |
//! | `gc.generation` | the link of an old generation is gone |
//! | `gc.found` | nothing is deleted yet, and it is known what will be |
//! | `gc.invalidated` | rows are gone, their files are there |
//! | `gc.deleted` | a path or leftover is gone |
//! | `gc.unsharing` | only names in `.links` are left over |

use std::sync::Arc;

use store::gc;
use store::local::Step;
use store::substitute::{Event, Observer};

/// Lets each step of a substitution be such a place, before `observer` hears of it.
pub(crate) fn observe(observer: &Observer) -> Observer {
    if !cfg!(debug_assertions) {
        return Arc::clone(observer);
    }
    let observer = Arc::clone(observer);
    Arc::new(move |event| {
        if let Some(name) = place(&event) {
            point(name);
        }
        observer(event);
    })
}

const fn place(event: &Event<'_>) -> Option<&'static str> {
    Some(match event {
        Event::Reached(Step::Rooted) => "substitute.rooted",
        Event::Reached(Step::Locked) => "substitute.locked",
        Event::Started { .. } => "substitute.started",
        Event::Unpacked(_) => "substitute.unpacked",
        Event::Finished { .. } => "substitute.finished",
        Event::Registering => "substitute.registering",
        Event::Reached(Step::Synced) => "substitute.synced",
        Event::Reached(Step::Inserted) => "substitute.inserted",
        Event::Reached(Step::Committed) => "substitute.committed",
        Event::Reached(Step::Unlocked) => "substitute.unlocked",
        Event::Discovered { .. }
        | Event::Planned(_)
        | Event::Downloaded { .. }
        | Event::Dropped(_)
        | Event::Spared { .. }
        | Event::Faulty(_)
        | Event::Ended => return None,
    })
}

/// Lets each step of a collection be such a place.
pub(crate) fn collecting(event: &gc::Event<'_>) {
    match event {
        gc::Event::Found { .. } => point("gc.found"),
        gc::Event::Invalidated(_) => point("gc.invalidated"),
        gc::Event::Deleted { .. } => point("gc.deleted"),
        gc::Event::Unsharing => point("gc.unsharing"),
        gc::Event::Waiting | gc::Event::Stuck { .. } => {}
    }
}

/// Ends the process here if the environment asks for it.
#[cfg(debug_assertions)]
pub(crate) fn point(name: &str) {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ALL: AtomicU64 = AtomicU64::new(0);
    static NAMED: Mutex<std::collections::BTreeMap<String, u64>> =
        Mutex::new(std::collections::BTreeMap::new());

    let Ok(wanted) = std::env::var("SHOAL_CRASH_AT") else { return };
    let all = ALL.fetch_add(1, Ordering::SeqCst).saturating_add(1);
    let named = NAMED.lock().map_or(0, |mut named| {
        let count = named.entry(name.to_owned()).or_default();
        *count = count.saturating_add(1);
        *count
    });
    let (at, count) = wanted.split_once(':').unwrap_or((&wanted, "1"));
    if at.parse() == Ok(all) || (at == name && count.parse() == Ok(named)) {
        tracing::error!(point = name, "ends here as `SHOAL_CRASH_AT` asks");
        // SIGKILL, so that nothing is flushed, dropped or tidied.
        let _sent =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        std::thread::park();
    }
}

/// Does nothing in a release build.
#[cfg(not(debug_assertions))]
pub(crate) const fn point(_name: &str) {}
