//! From a pinned root and stored state to trusted metadata: the TUF client workflow (§5.3-5.6),
//! with the files handed in.

use std::collections::BTreeSet;

use jiff::Timestamp;
use sigstore_tuf::{Metadata, Role as _, Root, Snapshot, Targets, TrustedMetadataSet};

use super::error::Error;
use super::lookup::not_behind;
use super::metadata::{self, Ruled};
use super::rules::{ForkRule, Rules};
use super::stored::{Stored, first_seen};
use super::threshold;
use super::trusted::{Clock, Trusted, check_fresh};
use super::{Folder, Need};
use crate::nix::Sha256;

/// A refresh under way: ask [`Refresh::need`], fetch, [`Refresh::feed`], and so on until nothing
/// is needed; then [`Refresh::finish`].
///
/// After any error the refresh is over, and the stored state is what it was.
#[derive(Debug)]
pub struct Refresh {
    rules: Rules,
    clock: Clock,
    now: Timestamp,
    set: TrustedMetadataSet,
    stored: Stored,
    /// The first version of root in this refresh, for the cap on new ones.
    first_root: u64,
    rotated: Rotated,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Root,
    Timestamp,
    Snapshot,
    Targets,
    Done,
}

impl Refresh {
    /// Starts from the root that the host's configuration pins, or from the stored one that was
    /// reached from it.
    ///
    /// # Errors
    /// When the pinned root itself breaks the rules or is not signed by its own keys.
    pub fn new(rules: Rules, pinned: &[u8], stored: Stored, clock: Clock) -> Result<Self, Error> {
        let digest = Sha256::of(pinned);
        let start = match &stored.root {
            Some(root) if stored.pinned == Some(digest) => root.clone(),
            Some(_) | None => pinned.to_vec(),
        };
        let root = read::<Root>(&start, "root", "root.json", rules.sizes.root, &rules)?;
        verify_root(&root, root.signed(), "root.json")?;
        let set = TrustedMetadataSet::from_root(&start)
            .map_err(|source| Error::Core { file: "root.json".to_owned(), source })?;
        let known = stored.root.as_deref().map(Metadata::<Root>::from_slice);
        let rotated = match known {
            None => Rotated::default(),
            Some(Ok(known)) => Rotated::between(known.signed(), set.root()),
            Some(Err(_)) => Rotated { timestamp: true, snapshot: true },
        };
        let first_root = set.root().version;
        let stored = Stored { pinned: Some(digest), root: Some(start), ..stored };
        let now = clock.now;
        Ok(Self { rules, clock, now, set, stored, first_root, rotated, phase: Phase::Root })
    }

    /// Opens stored state without any source: what is stored must be whole and still fresh.
    ///
    /// This is what follows a poll with nothing new.
    ///
    /// # Errors
    /// When something is missing, not verified or expired.
    pub fn offline(
        rules: Rules,
        pinned: &[u8],
        stored: Stored,
        clock: Clock,
    ) -> Result<Trusted, Error> {
        let timestamp = stored.timestamp.clone();
        let mut refresh = Self::new(rules, pinned, stored, clock)?;
        while let Some(need) = refresh.need() {
            let bytes = timestamp.clone().filter(|_| need.name == "timestamp.json");
            refresh.feed(&need.name, bytes)?;
        }
        refresh.finish()
    }

    /// Returns the file that is needed next; none when the refresh is complete.
    #[must_use]
    pub fn need(&self) -> Option<Need> {
        let (role, max_len) = match self.phase {
            Phase::Root => ("root", self.rules.sizes.root),
            Phase::Timestamp => ("timestamp", self.rules.sizes.timestamp),
            Phase::Snapshot => ("snapshot", self.rules.sizes.snapshot),
            Phase::Targets => ("targets", self.rules.sizes.targets),
            Phase::Done => return None,
        };
        let name = match (self.phase, self.pin()) {
            (Phase::Root, _) => format!("{}.root.json", self.set.root().version + 1),
            (_, Some((version, _))) if self.set.root().consistent_snapshot => {
                format!("{version}.{role}.json")
            }
            (_, _) => format!("{role}.json"),
        };
        Some(Need { folder: Folder::Metadata, name, max_len })
    }

    /// Takes the file that was needed, or that the source does not have it.
    ///
    /// After a poll that found the timestamp unchanged, feed the stored one.
    ///
    /// # Errors
    /// When the file, or what it proves, is not acceptable. The refresh is over then.
    pub fn feed(&mut self, name: &str, bytes: Option<Vec<u8>>) -> Result<(), Error> {
        match self.need() {
            Some(need) if need.name == name => {}
            Some(_) | None => return Err(Error::Unasked { fed: name.to_owned() }),
        }
        match (self.phase, bytes) {
            (Phase::Root, Some(bytes)) => self.take_root(name, bytes),
            (Phase::Root, None) => self.end_roots(),
            (Phase::Timestamp, Some(bytes)) => self.take_timestamp(name, bytes),
            (Phase::Snapshot, Some(bytes)) => self.take_snapshot(name, bytes),
            (Phase::Targets, Some(bytes)) => self.take_targets(name, bytes),
            (Phase::Done, _) | (_, None) => {
                Err(Error::Behind { what: format!("it has no `{name}`") })
            }
        }
    }

    /// Returns what is verified so far.
    ///
    /// Hosts save only what [`Trusted::stored`] returns, all together; this is for the conformance
    /// suite, which looks at each file.
    #[must_use]
    pub const fn progress(&self) -> &Stored {
        &self.stored
    }

    /// Ends a complete refresh.
    ///
    /// # Errors
    /// When files are still needed.
    pub fn finish(self) -> Result<Trusted, Error> {
        if self.phase != Phase::Done {
            return Err(Error::Unfinished);
        }
        let Self { rules, set, stored, now, .. } = self;
        Ok(Trusted { rules, set, stored, now })
    }

    /// §5.3.4-7: the next root, signed by the keys of the last one and by its own.
    fn take_root(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), Error> {
        let expected = self.set.root().version + 1;
        if expected - self.first_root > self.rules.max_roots {
            return Err(Error::TooManyRoots { max: self.rules.max_roots });
        }
        let root = read::<Root>(&bytes, "root", name, self.rules.sizes.root, &self.rules)?;
        let found = root.signed().version;
        if found != expected {
            return Err(Error::RootVersion { file: name.to_owned(), expected, found });
        }
        verify_root(&root, self.set.root(), name)?;
        verify_root(&root, root.signed(), name)?;
        let rotated = Rotated::between(self.set.root(), root.signed());
        self.set
            .update_root(&bytes)
            .map_err(|source| Error::Core { file: name.to_owned(), source })?;
        self.rotated.timestamp |= rotated.timestamp;
        self.rotated.snapshot |= rotated.snapshot;
        self.stored.root = Some(bytes);
        Ok(())
    }

    /// §5.3.8-11, with the time floor: what was signed by keys that are no longer root's is
    /// forgotten before root's own expiry is judged.
    fn end_roots(&mut self) -> Result<(), Error> {
        if self.rotated.timestamp || self.rotated.snapshot {
            self.stored.timestamp = None;
            self.stored.snapshot = None;
            self.stored.seen.retain(|role, _| role != "timestamp" && role != "snapshot");
        }
        if self.rotated.timestamp {
            self.stored.floor = None;
        }
        self.now = self.clock.effective(self.stored.floor);
        check_fresh("root", self.set.root().expires, None, &self.rules, self.now)?;
        self.remember();
        self.phase = Phase::Timestamp;
        Ok(())
    }

    /// Feeds what is stored, so that nothing can go back behind it. Whether it is still fresh does
    /// not matter for that; it is asked before use.
    fn remember(&mut self) {
        let Stored { timestamp, snapshot, targets, .. } = &mut self.stored;
        let keep = |file: &mut Option<Vec<u8>>, known: bool| {
            if !known {
                *file = None;
            }
            known
        };
        let (set, rules) = (&mut self.set, &self.rules);
        let known = timestamp.as_deref().is_some_and(|bytes| {
            accepts::<sigstore_tuf::Timestamp>(bytes, "timestamp", rules)
                && set.update_timestamp(bytes, Timestamp::MIN).is_ok()
        });
        let known = keep(timestamp, known)
            && snapshot.as_deref().is_some_and(|bytes| {
                accepts::<Snapshot>(bytes, "snapshot", rules)
                    && set.update_snapshot(bytes, Timestamp::MIN).is_ok()
            });
        let known = keep(snapshot, known);
        // Signed by other people than the snapshot: kept whatever becomes of that.
        let signed = targets.as_deref().is_some_and(|bytes| {
            read::<Targets>(bytes, "targets", "targets.json", u64::MAX, rules)
                .is_ok_and(|file| verify(&file, set.root(), "targets", "targets.json").is_ok())
        });
        if keep(targets, signed)
            && known
            && let Some(bytes) = targets
        {
            // What the snapshot does not pin any more is no use, and still a floor.
            drop(set.update_targets(bytes, Timestamp::MIN));
        }
    }

    /// §5.4.
    fn take_timestamp(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), Error> {
        let max = self.rules.sizes.timestamp;
        let new = read::<sigstore_tuf::Timestamp>(&bytes, "timestamp", name, max, &self.rules)?;
        verify(&new, self.set.root(), "timestamp", name)?;
        let version = new.signed().version;
        let known = self.set.timestamp().map(|known| (known.version, known.expires));
        match (known, &self.stored.timestamp) {
            (Some((known, _)), _) if version < known => {
                return Err(Error::Behind {
                    what: format!("its timestamp is version {version}, ours is {known}"),
                });
            }
            (Some((known, expires)), Some(ours)) if version == known => {
                if self.rules.fork == ForkRule::Refused {
                    same(ours, &new, name)?;
                }
                self.check("timestamp", version, expires)?;
            }
            (Some(_) | None, _) => {
                self.set
                    .update_timestamp(&bytes, Timestamp::MIN)
                    .map_err(|source| core(name, source))?;
                self.check("timestamp", version, new.signed().expires())?;
                self.stored.timestamp = Some(bytes);
            }
        }
        if let Some(signed) = self.set.timestamp().and_then(metadata::signed_at) {
            let signed = self.clock.bounded(signed);
            self.stored.floor = Some(self.stored.floor.map_or(signed, |floor| floor.max(signed)));
        }
        self.phase = Phase::Snapshot;
        self.reuse_snapshot()
    }

    /// Skips the fetch when the snapshot that is pinned is the stored one.
    fn reuse_snapshot(&mut self) -> Result<(), Error> {
        let Some((version, pinned)) = self.pin() else {
            return Err(pin("timestamp.json", "it pins no snapshot"));
        };
        let Some(known) = self.set.snapshot() else { return Ok(()) };
        let expires = known.expires;
        if known.version != version {
            return Ok(());
        }
        let ours = self.stored.snapshot.as_deref().map(Sha256::of);
        if pinned.is_some() && pinned != ours {
            return Err(Error::Fork { file: format!("{version}.snapshot.json"), version });
        }
        if self.check("snapshot", version, expires).is_err() {
            return Ok(());
        }
        self.phase = Phase::Targets;
        self.reuse_targets()
    }

    /// §5.5.
    fn take_snapshot(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), Error> {
        let new =
            read::<Snapshot>(&bytes, "snapshot", name, self.rules.sizes.snapshot, &self.rules)?;
        verify(&new, self.set.root(), "snapshot", name)?;
        self.check_pinned(name, new.signed().version)?;
        if let Some(known) = self.set.snapshot() {
            no_role_goes_back(known, new.signed(), name)?;
            if let (true, Some(ours)) =
                (known.version == new.signed().version, &self.stored.snapshot)
            {
                same(ours, &new, name)?;
            }
        }
        self.set.update_snapshot(&bytes, Timestamp::MIN).map_err(|source| core(name, source))?;
        self.check("snapshot", new.signed().version, new.signed().expires())?;
        self.stored.snapshot = Some(bytes);
        self.phase = Phase::Targets;
        // The core forgot targets with the old snapshot; the stored ones may still be pinned.
        if let Some(bytes) = &self.stored.targets
            && accepts::<Targets>(bytes, "targets", &self.rules)
        {
            drop(self.set.update_targets(bytes, Timestamp::MIN));
        }
        self.reuse_targets()
    }

    fn reuse_targets(&mut self) -> Result<(), Error> {
        let Some((version, _)) = self.pin() else {
            return Err(pin("snapshot.json", "it pins no targets"));
        };
        let Some(known) = self.set.targets_role("targets") else { return Ok(()) };
        let expires = known.expires;
        if known.version == version && self.check("targets", version, expires).is_ok() {
            self.phase = Phase::Done;
        }
        Ok(())
    }

    /// §5.6.
    fn take_targets(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), Error> {
        let new = read::<Targets>(&bytes, "targets", name, self.rules.sizes.targets, &self.rules)?;
        verify(&new, self.set.root(), "targets", name)?;
        self.check_pinned(name, new.signed().version)?;
        if let (ForkRule::Refused, Some(ours)) = (self.rules.fork, &self.stored.targets) {
            let ours = Metadata::<Targets>::from_slice(ours).map_err(|error| core(name, error))?;
            not_behind(&ours, &new, name)?;
        }
        self.set.update_targets(&bytes, Timestamp::MIN).map_err(|source| core(name, source))?;
        self.check("targets", new.signed().version, new.signed().expires())?;
        self.stored.targets = Some(bytes);
        self.phase = Phase::Done;
        Ok(())
    }

    /// Judges freshness by the real time, and notes when the version was first seen.
    fn check(&mut self, role: &str, version: u64, expires: Timestamp) -> Result<(), Error> {
        let seen = first_seen(&self.stored.seen, role, version, self.now);
        check_fresh(role, expires, Some(&seen), &self.rules, self.now)?;
        self.stored.seen.insert(role.to_owned(), seen);
        Ok(())
    }

    /// Returns the version, and the digest if any, that the file above pins for this phase's.
    fn pin(&self) -> Option<(u64, Option<Sha256>)> {
        let pin = match self.phase {
            Phase::Snapshot => self.set.timestamp()?.snapshot_meta(),
            Phase::Targets => self.set.snapshot()?.meta.get("targets.json"),
            Phase::Root | Phase::Timestamp | Phase::Done => None,
        }?;
        let digest = pin.hashes.as_ref().and_then(|hashes| hashes.get("sha256"));
        Some((pin.version, digest.and_then(|hex| Sha256::from_hex(hex))))
    }

    /// An older version, validly signed, comes from a mirror that lags; a newer one from a liar.
    fn check_pinned(&self, name: &str, found: u64) -> Result<(), Error> {
        match self.pin() {
            Some((pinned, _)) if found < pinned => Err(Error::Behind {
                what: format!("its `{name}` is version {found}, not {pinned}"),
            }),
            Some((pinned, _)) if found > pinned => {
                Err(pin(name, &format!("it is version {found}, not {pinned}")))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Which online roles got other keys.
#[derive(Debug, Clone, Copy, Default)]
struct Rotated {
    timestamp: bool,
    snapshot: bool,
}

impl Rotated {
    fn between(old: &Root, new: &Root) -> Self {
        let keys = |root: &Root, role| -> BTreeSet<String> {
            root.role(role).map(|keys| keys.keyids.iter().cloned().collect()).unwrap_or_default()
        };
        let differ = |role| keys(old, role) != keys(new, role);
        Self { timestamp: differ("timestamp"), snapshot: differ("snapshot") }
    }
}

fn read<T: Ruled>(
    bytes: &[u8],
    role: &str,
    file: &str,
    max: u64,
    rules: &Rules,
) -> Result<Metadata<T>, Error> {
    metadata::read(bytes, role, max, rules)
        .map_err(|source| Error::Malformed { file: file.to_owned(), source })
}

fn accepts<T: Ruled>(bytes: &[u8], role: &str, rules: &Rules) -> bool {
    metadata::read::<T>(bytes, role, u64::MAX, rules).is_ok()
}

fn verify<T: Ruled>(
    metadata: &Metadata<T>,
    root: &Root,
    role: &str,
    file: &str,
) -> Result<(), Error> {
    let authority = root.role(role).ok_or_else(|| pin("root.json", "it names no such role"))?;
    threshold::verify(metadata, &root.keys, authority, role)
        .map(drop)
        .map_err(|source| Error::Signatures { file: file.to_owned(), source })
}

fn verify_root(new: &Metadata<Root>, by: &Root, file: &str) -> Result<(), Error> {
    verify(new, by, "root", file)
}

/// Refuses another content under a version that is known; signatures may differ.
fn same<T: Ruled>(ours: &[u8], new: &Metadata<T>, file: &str) -> Result<(), Error> {
    let known = Metadata::<T>::from_slice(ours).map_err(|source| core(file, source))?;
    if known.signed_canonical() != new.signed_canonical() {
        return Err(Error::Fork { file: file.to_owned(), version: new.signed().version() });
    }
    Ok(())
}

/// §5.5.5: what was once listed stays, and does not go back.
fn no_role_goes_back(known: &Snapshot, new: &Snapshot, file: &str) -> Result<(), Error> {
    for (subject, was) in &known.meta {
        let (file, subject) = (file.to_owned(), subject.clone());
        match new.meta.get(&subject) {
            None => return Err(Error::Removed { file, subject }),
            Some(is) if is.version < was.version => {
                let (trusted, offered) = (was.version, is.version);
                return Err(Error::Rollback { file, subject, trusted, offered });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn pin(file: &str, what: &str) -> Error {
    Error::Pin { file: file.to_owned(), what: what.to_owned() }
}

fn core(file: &str, source: sigstore_tuf::Error) -> Error {
    let file = file.to_owned();
    if let sigstore_tuf::Error::Rollback { role, trusted, new } = source {
        return Error::Rollback { file, subject: role, trusted, offered: new };
    }
    if let sigstore_tuf::Error::IntegrityMismatch(what) = source {
        return Error::Pin { file, what };
    }
    Error::Core { file, source }
}
