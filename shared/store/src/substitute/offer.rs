//! Offers of caches: where a NAR is said to be, once somebody we trust vouches for its path.

use shared::{
    closure::ClosureEntry,
    hints::Hints,
    nix::{NarInfo, PathInfo, TrustedKeys, narinfo::Compression},
};

use super::FaultCause;

/// A NAR to be had from one cache, for a path that somebody vouches for.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    /// What to register: pinned by the closure, with signatures or content address.
    pub(super) info: PathInfo,
    /// Where the file is; hostile.
    pub(super) url: String,
    /// How it is compressed.
    pub(super) compression: Compression,
}

impl Offer {
    /// Makes an offer of what hints say of a path and a cache, if anybody vouches for it.
    pub(super) fn from_hints(
        entry: &ClosureEntry<'_>,
        hints: &[Hints],
        cache: &str,
        trusted: &TrustedKeys,
    ) -> Option<Self> {
        hints.iter().find_map(|hints| {
            let told = hints.get(entry.path())?;
            let nar = told.nars.iter().find(|nar| hints.is_at(nar.cache, cache))?;
            let info = PathInfo {
                signatures: told.signatures.clone(),
                content_address: told.content_address.clone(),
                deriver: told.deriver.clone(),
                ..pinned(entry)
            };
            info.voucher(trusted).ok()?;
            Some(Self { info, url: nar.url.clone(), compression: nar.compression })
        })
    }

    /// Makes an offer of a narinfo, if it is what the closure pins and anybody vouches for it.
    pub(super) fn from_narinfo(
        entry: &ClosureEntry<'_>,
        narinfo: NarInfo,
        trusted: &TrustedKeys,
    ) -> Result<Self, FaultCause> {
        let told = &narinfo.info;
        let wanted = pinned(entry);
        let differs = |field, told: &dyn ToString, wanted: &dyn ToString| FaultCause::Differs {
            field,
            told: told.to_string(),
            wanted: wanted.to_string(),
            vouched: narinfo.info.voucher(trusted).is_ok(),
        };
        if told.nar_hash != wanted.nar_hash {
            return Err(differs("NarHash", &told.nar_hash, &wanted.nar_hash));
        }
        if told.nar_size != wanted.nar_size {
            return Err(differs("NarSize", &told.nar_size, &wanted.nar_size));
        }
        if told.references != wanted.references {
            let odd = told.references.symmetric_difference(&wanted.references).next();
            let odd = odd.map(|path| format!("`{path}`")).unwrap_or_default();
            let (told, wanted) = if told.references.len() > wanted.references.len() {
                (format!("also {odd}"), "fewer".to_owned())
            } else {
                (format!("not {odd}"), "other ones".to_owned())
            };
            return Err(differs("References", &told, &wanted));
        }
        told.voucher(trusted).map_err(|why| FaultCause::untrusted(why, trusted))?;
        Ok(Self { info: narinfo.info, url: narinfo.url, compression: narinfo.compression })
    }
}

/// What the closure says of a path, with nobody to vouch for it yet.
fn pinned(entry: &ClosureEntry<'_>) -> PathInfo {
    PathInfo {
        path: entry.path().clone(),
        nar_hash: entry.nar_hash(),
        nar_size: entry.nar_size(),
        references: entry.references().cloned().collect(),
        deriver: None,
        signatures: Vec::new(),
        content_address: None,
    }
}
