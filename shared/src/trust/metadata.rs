//! From bytes to metadata that keeps the rules; whether it is signed comes after.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sigstore_tuf::metadata::RoleKeys;
use sigstore_tuf::{Delegations, Key, Metadata, Role, Root, Snapshot, Targets, Timestamp};

use super::fence::{self, FenceError, Pattern};
use super::keys::PublicKey;
use super::rules::{FenceRule, FormRule, KeyRule, MAX_DELEGATIONS, MAX_VERSION, Rules, Violation};
use crate::id::TargetPath;
use crate::json::{self, Controls};
use crate::nix::Sha256;
use crate::time::Time;

/// The four roles of a root.
pub const TOP_LEVEL: [&str; 4] = ["root", "snapshot", "targets", "timestamp"];

/// A kind of metadata with rules of its own.
pub trait Ruled: Role {
    /// Checks what is special to this kind; `role` is the role that the file is of.
    ///
    /// # Errors
    /// When a rule is broken.
    fn check(&self, role: &str, rules: &Rules) -> Result<(), Violation>;

    /// Returns the members that TUF does not name.
    fn extra(&self) -> &BTreeMap<String, Value>;
}

/// Reads the metadata of `role`, of at most `max` bytes, by the rules.
///
/// # Errors
/// When a rule is broken. Signatures are not looked at.
pub fn read<T: Ruled>(
    bytes: &[u8],
    role: &str,
    max: u64,
    rules: &Rules,
) -> Result<Metadata<T>, Violation> {
    let max_len = usize::try_from(max).unwrap_or(usize::MAX);
    if bytes.len() > max_len {
        return Err(Violation::TooLarge { max });
    }
    let controls = match rules.form {
        FormRule::Exact => Controls::Refused,
        FormRule::AsInTuf => Controls::Allowed,
    };
    json::check(bytes, max_len, controls)?;
    let metadata = Metadata::<T>::from_slice(bytes).map_err(Violation::Metadata)?;
    let signed = metadata.signed();
    if let Some(expected) = &rules.realm {
        let found = signed.extra().get("x-realm").and_then(Value::as_str).unwrap_or("");
        if found != expected {
            let (expected, found) = (expected.clone(), found.to_owned());
            return Err(Violation::Realm { expected, found });
        }
    }
    if signed.version() == 0 {
        return Err(Violation::Version(0));
    }
    if rules.form == FormRule::Exact {
        check_form(bytes, signed.version())?;
    }
    signed.check(role, rules)?;
    Ok(metadata)
}

/// Returns the time at which a timestamp says that it was signed.
#[must_use]
pub fn signed_at(timestamp: &Timestamp) -> Option<jiff::Timestamp> {
    timestamp.extra.get("x-signed-at").and_then(Value::as_str).and_then(time)
}

fn time(text: &str) -> Option<jiff::Timestamp> {
    Time::parse(text).ok().map(jiff::Timestamp::from)
}

fn form(message: impl Into<String>) -> Violation {
    Violation::Form(message.into())
}

/// Checks what the core reads leniently: the members of the envelope, and how times are written.
fn check_form(bytes: &[u8], version: u64) -> Result<(), Violation> {
    if version > MAX_VERSION {
        return Err(Violation::Version(version));
    }
    let value: Value = serde_json::from_slice(bytes).map_err(|_| form("not JSON"))?;
    let members: Vec<&String> = value.as_object().into_iter().flatten().map(|(k, _)| k).collect();
    if members != ["signatures", "signed"] {
        return Err(form("has members beside `signatures` and `signed`"));
    }
    let signatures = value.get("signatures").and_then(Value::as_array);
    // One spelling of each signature, so that no other bytes pass for the same file.
    let exact = |signature: &Value| {
        let sig = signature.get("sig").and_then(Value::as_str).unwrap_or("");
        let raw = data_encoding::HEXLOWER.decode(sig.as_bytes());
        signature.as_object().is_some_and(|object| object.len() == 2)
            && raw.is_ok_and(|raw| raw.len() == 64)
    };
    if !signatures.is_some_and(|list| list.iter().all(exact)) {
        return Err(form("a signature is not `keyid` and `sig` of 128 lower-case digits"));
    }
    let expires = value.pointer("/signed/expires").and_then(Value::as_str).unwrap_or("");
    if time(expires).is_none() {
        return Err(form(format!("`expires` is `{expires}`, not `YYYY-MM-DDTHH:MM:SSZ`")));
    }
    Ok(())
}

fn check_keys(keys: &BTreeMap<String, Key>, rules: &Rules) -> Result<(), Violation> {
    if rules.keys == KeyRule::AsDeclared {
        return Ok(());
    }
    if keys.len() > MAX_DELEGATIONS {
        return Err(form(format!("more than {MAX_DELEGATIONS} keys")));
    }
    for (id, key) in keys {
        let refused = |why: &str| Violation::Key { id: id.clone(), why: why.to_owned() };
        if key.keytype != "ed25519" || key.scheme != "ed25519" {
            return Err(refused("not Ed25519"));
        }
        if !key.extra.is_empty() || !key.keyval.extra.is_empty() {
            return Err(refused("has further members"));
        }
        let public = PublicKey::from_hex(&key.keyval.public)
            .map_err(|_| refused("not 64 lower-case digits of a usable key"))?;
        if public.key_id().as_str() != id {
            return Err(refused("its id is not the SHA-256 of its canonical form"));
        }
    }
    Ok(())
}

fn check_authority(
    role: &str,
    authority: &RoleKeys,
    keys: &BTreeMap<String, Key>,
    rules: &Rules,
) -> Result<(), Violation> {
    let distinct: BTreeSet<&String> = authority.keyids.iter().collect();
    let threshold = authority.threshold;
    let possible = match rules.keys {
        KeyRule::AsDeclared => threshold >= 1,
        KeyRule::Ed25519ByHash => {
            // Ids are hashes of keys by now, so distinct ids are distinct keys.
            (1..=distinct.len()).contains(&threshold)
                && distinct.len() == authority.keyids.len()
                && distinct.iter().all(|id| keys.contains_key(*id))
        }
    };
    if !possible {
        return Err(Violation::Threshold {
            role: role.to_owned(),
            threshold,
            keys: distinct.len(),
        });
    }
    Ok(())
}

impl Ruled for Root {
    fn check(&self, _: &str, rules: &Rules) -> Result<(), Violation> {
        check_keys(&self.keys, rules)?;
        for (role, authority) in &self.roles {
            check_authority(role, authority, &self.keys, rules)?;
        }
        if rules.form == FormRule::Exact {
            if !self.consistent_snapshot {
                return Err(form("`consistent_snapshot` is not true"));
            }
            if !self.roles.keys().map(String::as_str).eq(TOP_LEVEL) {
                return Err(form("its roles are not exactly root, snapshot, targets, timestamp"));
            }
        }
        Ok(())
    }

    fn extra(&self) -> &BTreeMap<String, Value> {
        &self.extra
    }
}

impl Ruled for Timestamp {
    fn check(&self, _: &str, rules: &Rules) -> Result<(), Violation> {
        if rules.form == FormRule::Exact {
            if signed_at(self).is_none() {
                return Err(form("`x-signed-at` is missing or no time"));
            }
            check_pins(self.meta.iter().map(|(name, pin)| (name.as_str(), pin.version)))?;
            if !self.meta.keys().eq(["snapshot.json"]) {
                return Err(form("pins something else than `snapshot.json`"));
            }
        }
        Ok(())
    }

    fn extra(&self) -> &BTreeMap<String, Value> {
        &self.extra
    }
}

impl Ruled for Snapshot {
    fn check(&self, _: &str, rules: &Rules) -> Result<(), Violation> {
        if rules.form == FormRule::Exact {
            check_pins(self.meta.iter().map(|(name, pin)| (name.as_str(), pin.version)))?;
        }
        if rules.fence == FenceRule::Fenced {
            for name in self.meta.keys() {
                let role = name.strip_suffix(".json").unwrap_or(name);
                if role != "targets" && fence::role_kind(role)? == fence::RoleKind::TopLevel {
                    return Err(form(format!("pins `{name}`")));
                }
            }
        }
        Ok(())
    }

    fn extra(&self) -> &BTreeMap<String, Value> {
        &self.extra
    }
}

fn check_pins<'a>(mut pins: impl Iterator<Item = (&'a str, u64)>) -> Result<(), Violation> {
    pins.try_for_each(|(name, version)| match version {
        _ if !name.ends_with(".json") => Err(form(format!("pins `{name}`"))),
        1..=MAX_VERSION => Ok(()),
        _ => Err(Violation::Version(version)),
    })
}

impl Ruled for Targets {
    fn check(&self, role: &str, rules: &Rules) -> Result<(), Violation> {
        if let Some(delegations) = &self.delegations {
            check_keys(&delegations.keys, rules)?;
            for delegation in &delegations.roles {
                let authority = delegation.role_keys();
                check_authority(&delegation.name, &authority, &delegations.keys, rules)?;
            }
        }
        match rules.fence {
            FenceRule::AsInTuf => Ok(()),
            FenceRule::Fenced => check_fenced(self, role),
        }
    }

    fn extra(&self) -> &BTreeMap<String, Value> {
        &self.extra
    }
}

/// Checks the names and delegations of a targets role. Which of its targets lie in its own fence
/// is for its delegator to say: a lookup never comes here for one that does not.
fn check_fenced(targets: &Targets, role: &str) -> Result<(), Violation> {
    for (path, target) in &targets.targets {
        TargetPath::parse(path).map_err(FenceError::from)?;
        if target.hashes.get("sha256").and_then(|hash| Sha256::from_hex(hash)).is_none() {
            return Err(form(format!("target `{path}` has no SHA-256")));
        }
    }
    if role == "targets" && !targets.targets.is_empty() {
        return Err(form("the role `targets` only delegates"));
    }
    let Some(delegations) = &targets.delegations else { return Ok(()) };
    let patterns = patterns(delegations)?;
    if patterns.iter().map(Vec::len).sum::<usize>() > MAX_DELEGATIONS {
        return Err(form(format!("more than {MAX_DELEGATIONS} patterns")));
    }
    let mut names = BTreeSet::new();
    for (delegation, patterns) in delegations.roles.iter().zip(&patterns) {
        if !delegation.terminating {
            return Err(form(format!("delegation to `{}` does not terminate", delegation.name)));
        }
        if delegation.path_hash_prefixes.is_some() {
            return Err(form(format!("delegation to `{}` is by hash", delegation.name)));
        }
        if !names.insert(&delegation.name) {
            return Err(form(format!("delegates to `{}` twice", delegation.name)));
        }
        fence::check_delegation(role, &delegation.name, patterns)?;
    }
    let named = delegations.roles.iter().zip(&patterns);
    fence::check_overlaps(named.map(|(role, list)| (role.name.as_str(), list.as_slice())))?;
    Ok(())
}

/// Parses the patterns of each delegation, in order.
///
/// # Errors
/// When one is no pattern.
pub fn patterns(delegations: &Delegations) -> Result<Vec<Vec<Pattern>>, Violation> {
    let parse = |paths: &Vec<String>| paths.iter().map(|path| path.parse()).collect();
    let mut all = Vec::new();
    for delegation in &delegations.roles {
        all.push(delegation.paths.as_ref().map(parse).transpose()?.unwrap_or_default());
    }
    Ok(all)
}
