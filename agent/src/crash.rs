//! Named places between any two writes, where tests end the process as a power cut would.
//!
//! `SHOAL_CRASH_AT=<name>` ends it at the first passage of that place, `<name>:<n>` at the n-th,
//! and a number alone at the n-th place whatever its name. Release builds have none of this.
//!
//! | name | where |
//! |---|---|
//! | `file.write` `file.written` `file.renamed` | around each write of trust state, journal, pins, counters |
//! | `fetch.valid` `fetch.rooted` | the closure is valid, and kept from the collector |
//! | `switch.linked` `switch.activated` | the link leads to the new generation, and it is at work |
//! | `stop.deactivated` `stop.removed` | the profile is out of work, and its links are gone |
//! | `rollback.linked` `rollback.activated` `rollback.forgotten` | the way back, step by step |
//! | `root.removed` | only the generation keeps the closure |

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
