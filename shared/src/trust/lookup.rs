//! The walk from `targets` to one target: pre-order, each role verified by whoever delegates to
//! it, nothing fetched that this target does not need.

use std::collections::{BTreeMap, BTreeSet};

use sha2::Digest as _;
use sigstore_tuf::metadata::RoleKeys;
use sigstore_tuf::{Key, MetaFile, Metadata, Role as _, TargetFile, Targets};

use super::error::Error;
use super::keys::KeyId;
use super::metadata;
use super::rules::{FenceRule, Violation};
use super::stored::{StoredTarget, first_seen};
use super::trusted::{Trusted, check_fresh};
use super::verified::Verified;
use super::{Folder, Need, threshold};
use crate::id::TargetPath;

/// A found target, and what to store of the way to it.
#[derive(Debug)]
pub struct Found {
    /// The target's bytes.
    pub target: Verified<Vec<u8>>,
    /// The state to save before anything acts on them.
    pub stored: StoredTarget,
}

/// A search under way: ask [`Lookup::need`], fetch, [`Lookup::feed`], until nothing is needed;
/// then [`Lookup::finish`].
///
/// After any error the search is over. Files of one name never change, so that a caller with
/// several searches may feed all of them from one cache.
#[derive(Debug)]
pub struct Lookup<'a> {
    trusted: &'a Trusted,
    path: String,
    /// What was stored before: a file that still fits is not fetched again.
    known: StoredTarget,
    /// What the walk went through, to be stored.
    walked: StoredTarget,
    /// The roles still to visit, the next one last.
    ahead: Vec<Visit>,
    visited: BTreeSet<String>,
    state: State,
}

/// A role, and the delegation by which it is reached.
#[derive(Debug)]
struct Visit {
    role: String,
    keys: BTreeMap<String, Key>,
    authority: RoleKeys,
}

/// Where the target is listed.
#[derive(Debug)]
struct Listed {
    file: TargetFile,
    role: String,
    version: u64,
    signers: Vec<KeyId>,
}

#[derive(Debug)]
enum State {
    Role(Visit),
    Target(Listed),
    Found(Verified<Vec<u8>>),
    Over,
}

impl<'a> Lookup<'a> {
    pub(super) fn new(
        trusted: &'a Trusted,
        path: &str,
        known: StoredTarget,
    ) -> Result<Self, Error> {
        let mut lookup = Self {
            trusted,
            path: path.to_owned(),
            known,
            walked: StoredTarget::default(),
            ahead: Vec::new(),
            visited: BTreeSet::from(["targets".to_owned()]),
            state: State::Over,
        };
        let targets = trusted.set.targets_role("targets").ok_or(Error::Unfinished)?;
        lookup.visit("targets", targets, Vec::new())?;
        Ok(lookup)
    }

    /// Returns the file that is needed next; none when the target is found.
    #[must_use]
    pub fn need(&self) -> Option<Need> {
        match &self.state {
            State::Role(visit) => Some(self.role_need(&visit.role)),
            State::Target(listed) => Some(self.target_need(&listed.file)),
            State::Found(_) | State::Over => None,
        }
    }

    /// Takes the file that was needed, or that the source does not have it.
    ///
    /// # Errors
    /// When the file is not acceptable, or no role lists the target. The search is over then.
    pub fn feed(&mut self, name: &str, bytes: Option<Vec<u8>>) -> Result<(), Error> {
        match self.need() {
            Some(need) if need.name == name => {}
            Some(_) | None => return Err(Error::Unasked { fed: name.to_owned() }),
        }
        let Some(bytes) = bytes else {
            return Err(Error::Behind { what: format!("it has no `{name}`") });
        };
        match std::mem::replace(&mut self.state, State::Over) {
            State::Role(visit) => self.take_role(&visit, name, bytes),
            State::Target(listed) => self.take_target(listed, name, bytes),
            State::Found(_) | State::Over => Err(Error::Unasked { fed: name.to_owned() }),
        }
    }

    /// Ends a complete search.
    ///
    /// # Errors
    /// When files are still needed, or the search failed.
    pub fn finish(self) -> Result<Found, Error> {
        match self.state {
            State::Found(target) => Ok(Found { target, stored: self.walked }),
            State::Role(_) | State::Target(_) | State::Over => Err(Error::Unfinished),
        }
    }

    /// Returns the roles that the walk went through so far, to be stored.
    #[must_use]
    pub const fn walked(&self) -> &StoredTarget {
        &self.walked
    }

    /// Looks for the target in a verified role, or queues the roles that it delegates to.
    fn visit(&mut self, role: &str, targets: &Targets, signers: Vec<KeyId>) -> Result<(), Error> {
        if let Some(file) = targets.target(&self.path) {
            let (file, role, version) = (file.clone(), role.to_owned(), targets.version);
            return self.look_at(Listed { file, role, version, signers });
        }
        let mut children = Vec::new();
        for (index, delegation) in self.matching(role, targets)? {
            let Some(delegations) = &targets.delegations else { break };
            let Some(child) = delegations.roles.get(index) else { break };
            children.push(Visit {
                role: child.name.clone(),
                keys: delegations.keys.clone(),
                authority: child.role_keys(),
            });
            if delegation == Terminating::Yes {
                self.ahead.clear();
                break;
            }
        }
        self.ahead.extend(children.into_iter().rev());
        self.advance()
    }

    /// Returns the places of the delegations that may hold the path, in order.
    fn matching(&self, role: &str, targets: &Targets) -> Result<Vec<(usize, Terminating)>, Error> {
        let malformed = |source| Error::Malformed { file: format!("{role}.json"), source };
        let Some(delegations) = &targets.delegations else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        match self.trusted.rules.fence {
            FenceRule::Fenced => {
                let path = TargetPath::parse(&self.path).map_err(|error| Error::Fence {
                    file: self.path.clone(),
                    source: error.into(),
                })?;
                let patterns = metadata::patterns(delegations).map_err(malformed)?;
                for (index, patterns) in patterns.iter().enumerate() {
                    if patterns.iter().any(|pattern| pattern.matches(&path)) {
                        found.push((index, Terminating::Yes));
                    }
                }
            }
            FenceRule::AsInTuf => {
                for (index, child) in delegations.roles.iter().enumerate() {
                    let matches = child.matches_path(&self.path);
                    let reserved = metadata::TOP_LEVEL.contains(&child.name.as_str());
                    if matches.map_err(|error| malformed(Violation::Metadata(error)))? && !reserved
                    {
                        let ends = child.terminating;
                        found.push((index, if ends { Terminating::Yes } else { Terminating::No }));
                    }
                }
            }
        }
        Ok(found)
    }

    /// Goes to the next role that the snapshot knows; the stored file serves if it still fits.
    fn advance(&mut self) -> Result<(), Error> {
        while let Some(visit) = self.ahead.pop() {
            let pinned = self.trusted.pinned_version(&visit.role).is_some();
            if !pinned || self.visited.contains(&visit.role) {
                continue;
            }
            if self.visited.len() >= self.trusted.rules.max_visits {
                break;
            }
            let Some(known) = self.known.roles.get(&visit.role).cloned() else {
                self.state = State::Role(visit);
                return Ok(());
            };
            match self.accept(&visit, &visit.role, &known) {
                Ok((targets, signers)) => return self.enter(&visit, &targets, signers, known),
                Err(_) => {
                    self.state = State::Role(visit);
                    return Ok(());
                }
            }
        }
        Err(Error::NotListed { path: self.path.clone() })
    }

    fn take_role(&mut self, visit: &Visit, name: &str, bytes: Vec<u8>) -> Result<(), Error> {
        let (targets, signers) = self.accept(visit, name, &bytes)?;
        if let Some(known) = self.known.roles.get(&visit.role)
            && let Ok((known, _)) = self.signed(visit, name, known)
        {
            not_behind(&known, &targets, name)?;
        }
        self.enter(visit, &targets, signers, bytes)
    }

    fn enter(
        &mut self,
        visit: &Visit,
        targets: &Metadata<Targets>,
        signers: Vec<KeyId>,
        bytes: Vec<u8>,
    ) -> Result<(), Error> {
        let role = &visit.role;
        let seen = self.seen(role, targets.signed().version);
        self.visited.insert(role.clone());
        self.walked.roles.insert(role.clone(), bytes);
        self.walked.seen.insert(role.clone(), seen);
        self.visit(role, targets.signed(), signers)
    }

    fn seen(&self, role: &str, version: u64) -> super::Seen {
        first_seen(&self.known.seen, role, version, self.trusted.now)
    }

    /// Verifies a role's file on the edge by which it is reached, and that it is fresh.
    fn accept(
        &self,
        visit: &Visit,
        name: &str,
        bytes: &[u8],
    ) -> Result<(Metadata<Targets>, Vec<KeyId>), Error> {
        let (targets, signers) = self.verify(visit, name, bytes)?;
        let signed = targets.signed();
        let seen = self.seen(&visit.role, signed.version);
        let rules = &self.trusted.rules;
        check_fresh(&visit.role, signed.expires(), Some(&seen), rules, self.trusted.now)?;
        Ok((targets, signers))
    }

    fn signed(
        &self,
        visit: &Visit,
        name: &str,
        bytes: &[u8],
    ) -> Result<(Metadata<Targets>, Vec<KeyId>), Error> {
        let rules = &self.trusted.rules;
        let file = || name.to_owned();
        let targets = metadata::read::<Targets>(bytes, &visit.role, rules.sizes.delegated, rules)
            .map_err(|source| Error::Malformed { file: file(), source })?;
        let signers = threshold::verify(&targets, &visit.keys, &visit.authority, &visit.role)
            .map_err(|source| Error::Signatures { file: file(), source })?;
        Ok((targets, signers))
    }

    fn verify(
        &self,
        visit: &Visit,
        name: &str,
        bytes: &[u8],
    ) -> Result<(Metadata<Targets>, Vec<KeyId>), Error> {
        let (targets, signers) = self.signed(visit, name, bytes)?;
        let Some(pin) = self.pin(&visit.role) else { return Err(Error::Unfinished) };
        let (found, pinned) = (targets.signed().version, pin.version);
        if found < pinned {
            let what = format!("its `{name}` is version {found}, not {pinned}");
            return Err(Error::Behind { what });
        }
        if found > pinned {
            let what = format!("it is version {found}, not {pinned}");
            return Err(Error::Pin { file: name.to_owned(), what });
        }
        check_bytes(bytes, name, pin.length, pin.hashes.as_ref())?;
        Ok((targets, signers))
    }

    fn pin(&self, role: &str) -> Option<&MetaFile> {
        self.trusted.set.snapshot()?.meta.get(&format!("{role}.json"))
    }

    /// The target is listed: the stored bytes serve if they are the ones.
    fn look_at(&mut self, listed: Listed) -> Result<(), Error> {
        let max = self.trusted.rules.sizes.target;
        if listed.file.length > max {
            let (file, source) = (self.path.clone(), Violation::TooLarge { max });
            return Err(Error::Malformed { file, source });
        }
        match self.known.target.take() {
            Some(bytes) if check_target(&bytes, &self.path, &listed.file).is_ok() => {
                self.found(listed, bytes);
            }
            Some(_) | None => self.state = State::Target(listed),
        }
        Ok(())
    }

    fn take_target(&mut self, listed: Listed, name: &str, bytes: Vec<u8>) -> Result<(), Error> {
        check_target(&bytes, name, &listed.file)?;
        self.found(listed, bytes);
        Ok(())
    }

    fn found(&mut self, listed: Listed, bytes: Vec<u8>) {
        let Listed { role, version, signers, .. } = listed;
        self.walked.target = Some(bytes.clone());
        self.state = State::Found(Verified::new(bytes, self.path.clone(), role, version, signers));
    }

    fn role_need(&self, role: &str) -> Need {
        let encoded = encode(role);
        let name = match self.trusted.pinned_version(role) {
            Some(version) if self.trusted.set.root().consistent_snapshot => {
                format!("{version}.{encoded}.json")
            }
            Some(_) | None => format!("{encoded}.json"),
        };
        Need { folder: Folder::Metadata, name, max_len: self.trusted.rules.sizes.delegated }
    }

    fn target_need(&self, file: &TargetFile) -> Need {
        let hash = file.hashes.get("sha256").or_else(|| file.hashes.values().next());
        let name = match (hash, self.path.rsplit_once('/')) {
            _ if !self.trusted.set.root().consistent_snapshot => self.path.clone(),
            (None, _) => self.path.clone(),
            (Some(hash), Some((folder, last))) => format!("{folder}/{hash}.{last}"),
            (Some(hash), None) => format!("{hash}.{}", self.path),
        };
        Need { folder: Folder::Targets, name, max_len: file.length }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Terminating {
    Yes,
    No,
}

/// Writes a role's name so that it is one segment of a URL; ours never change by this.
fn encode(role: &str) -> String {
    let mut text = String::new();
    for byte in role.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => {
                text.push(char::from(byte));
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// Refuses what its signers took on from: an older version, or another content of this one.
///
/// The snapshot says so too, but new online keys start it anew; what the same people signed is no
/// business of theirs. `known` must be signed by those who may sign now: so a stolen key that ran
/// ahead holds nobody back once it is replaced.
pub(super) fn not_behind(
    known: &Metadata<Targets>,
    new: &Metadata<Targets>,
    name: &str,
) -> Result<(), Error> {
    let (ours, version) = (known.signed().version, new.signed().version);
    if version < ours {
        let what = format!("its `{name}` is version {version}, ours is {ours}");
        return Err(Error::Behind { what });
    }
    if version == ours && known.signed_canonical() != new.signed_canonical() {
        return Err(Error::Fork { file: name.to_owned(), version });
    }
    Ok(())
}

fn check_target(bytes: &[u8], file: &str, listed: &TargetFile) -> Result<(), Error> {
    check_bytes(bytes, file, Some(listed.length), Some(&listed.hashes))
}

/// Checks bytes against a pin: the exact length, and every hash that we know, at least one.
pub(super) fn check_bytes(
    bytes: &[u8],
    file: &str,
    length: Option<u64>,
    hashes: Option<&BTreeMap<String, String>>,
) -> Result<(), Error> {
    let refused = |what: String| Err(Error::Pin { file: file.to_owned(), what });
    if let Some(length) = length
        && usize::try_from(length) != Ok(bytes.len())
    {
        return refused(format!("it has {} bytes, not {length}", bytes.len()));
    }
    let Some(hashes) = hashes else { return Ok(()) };
    let mut checked = false;
    for (algorithm, expected) in hashes {
        let found = match algorithm.as_str() {
            "sha256" => data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(bytes)),
            "sha512" => data_encoding::HEXLOWER.encode(&sha2::Sha512::digest(bytes)),
            _ => continue,
        };
        if !found.eq_ignore_ascii_case(expected) {
            return refused(format!("its {algorithm} is `{found}`, not `{expected}`"));
        }
        checked = true;
    }
    if !checked {
        return refused("no hash of it is of a kind that we know".to_owned());
    }
    Ok(())
}
