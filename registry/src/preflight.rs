//! Whether hosts will be able to take a closure: every path is in a cache, and vouched for.
//!
//! [`judge`] decides on one path and is pure; [`survey`] walks the closure and asks the caches.
//! What the caches say is what counts, because that is what hosts get; the local store only
//! tells of paths that no cache has, and notices a cache that is wrong about contents.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use shared::nix::{
    NarInfo, PathInfo, StorePath, TrustedKeys,
    path_info::{Untrusted, Voucher},
};
use store::cache::{BinaryCache, CacheError};

/// How many narinfos are asked for at the same time.
const REQUESTS: usize = 32;

/// A narinfo, and which of the caches has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) cache: usize,
    pub(crate) narinfo: NarInfo,
}

/// A path that hosts can take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) info: PathInfo,
    /// The caches that have these bytes, the best one first.
    pub(crate) offers: Vec<Offer>,
}

/// Why hosts would not take a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// No cache of the policy has it.
    Missing,
    /// A cache has it, but nobody whom the policy trusts vouches for it.
    Unvouched { cache: usize, why: Untrusted },
    /// A cache has other bytes than a content-addressed path of the local store.
    OtherBytes { cache: usize },
}

/// What is known of whole closures.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub(crate) accepted: BTreeMap<StorePath, Accepted>,
    pub(crate) flawed: BTreeMap<StorePath, Flaw>,
}

/// Where a survey looks.
#[derive(Debug)]
pub(crate) struct Sources<'a> {
    pub(crate) caches: &'a [BinaryCache],
    pub(crate) builders: &'a TrustedKeys,
    /// The closure in the local store; empty when the path is not valid there.
    pub(crate) local: &'a BTreeMap<StorePath, PathInfo>,
}

/// Decides on one path by what the caches offer, in the order of the caches.
pub(crate) fn judge(
    offers: Vec<Offer>,
    local: Option<&PathInfo>,
    builders: &TrustedKeys,
) -> Result<Accepted, Flaw> {
    let mut flaw = Flaw::Missing;
    let mut chosen: Option<Accepted> = None;
    for offer in offers {
        let info = &offer.narinfo.info;
        if let Some(accepted) = &mut chosen {
            // Another cache helps only with the very bytes that the index will pin.
            if same_contents(&accepted.info, info) {
                accepted.offers.push(offer);
            }
            continue;
        }
        match info.voucher(builders) {
            Ok(Voucher::ContentAddress(_))
                if local.is_some_and(|local| !same_contents(local, info)) =>
            {
                flaw = Flaw::OtherBytes { cache: offer.cache };
            }
            Ok(Voucher::ContentAddress(_) | Voucher::Key(_)) => {
                chosen = Some(Accepted { info: info.clone(), offers: vec![offer] });
            }
            Err(why) => {
                let unvouched = Flaw::Unvouched { cache: offer.cache, why };
                flaw = if flaw == Flaw::Missing { unvouched } else { flaw };
            }
        }
    }
    chosen.ok_or(flaw)
}

/// Walks the closures of `roots`, asking all caches for each path, once.
///
/// # Errors
/// When a cache cannot be reached or makes no sense; that a path is missing is no error.
pub(crate) async fn survey(
    roots: &BTreeSet<StorePath>,
    sources: &Sources<'_>,
    progress: &mut dyn FnMut(usize),
) -> Result<Survey, CacheError> {
    let mut survey = Survey::default();
    let mut seen = roots.clone();
    let mut frontier: Vec<StorePath> = roots.iter().cloned().collect();
    while !frontier.is_empty() {
        let mut asked = stream::iter(frontier.drain(..).map(|path| async move {
            let offers = offers(&path, sources.caches).await?;
            Ok::<_, CacheError>((path, offers))
        }))
        .buffer_unordered(REQUESTS);
        let mut next = Vec::new();
        while let Some((path, offers)) = asked.try_next().await? {
            let local = sources.local.get(&path);
            let told = offers.first().map(|offer| offer.narinfo.info.references.clone());
            let references = match judge(offers, local, sources.builders) {
                Ok(accepted) => {
                    let references = accepted.info.references.clone();
                    survey.accepted.insert(path, accepted);
                    references
                }
                Err(flaw) => {
                    // The walk goes on below a flaw, so that all of them are told at once.
                    survey.flawed.insert(path, flaw);
                    local.map(|info| info.references.clone()).or(told).unwrap_or_default()
                }
            };
            next.extend(references.into_iter().filter(|path| seen.insert(path.clone())));
            progress(survey.accepted.len() + survey.flawed.len());
        }
        drop(asked);
        frontier = next;
    }
    Ok(survey)
}

fn same_contents(a: &PathInfo, b: &PathInfo) -> bool {
    a.nar_hash == b.nar_hash && a.nar_size == b.nar_size && a.references == b.references
}

async fn offers(path: &StorePath, caches: &[BinaryCache]) -> Result<Vec<Offer>, CacheError> {
    let mut offers = Vec::new();
    for (cache, source) in caches.iter().enumerate() {
        if let Some(narinfo) = source.narinfo(path).await? {
            offers.push(Offer { cache, narinfo });
        }
    }
    Ok(offers)
}

#[cfg(test)]
mod tests {
    use shared::nix::{ContentAddress, SecretKey, Sha256};

    use super::*;

    fn secret(name: &str) -> SecretKey {
        SecretKey::from_seed(name, &[7; 32]).unwrap()
    }

    fn offer(cache: usize, bytes: &[u8]) -> Offer {
        let path = format!("{}-web-1", "1".repeat(32));
        let nar_hash = Sha256::of(bytes);
        let text = format!(
            "StorePath: /nix/store/{path}\nURL: nar/x.nar\nCompression: none\n\
             NarHash: {nar_hash}\nNarSize: 120\nReferences: \n"
        );
        Offer { cache, narinfo: NarInfo::parse(text.as_bytes()).unwrap() }
    }

    fn signed(cache: usize, bytes: &[u8], key: &str) -> Offer {
        let mut offer = offer(cache, bytes);
        offer.narinfo.info.sign(&secret(key));
        offer
    }

    fn addressed(cache: usize, bytes: &[u8]) -> Offer {
        let mut offer = offer(cache, bytes);
        let hash = Sha256::of(bytes);
        let address = ContentAddress::parse(&format!("fixed:r:{hash}")).unwrap();
        let itself = &mut offer.narinfo.info;
        itself.path =
            address.store_path("web-1", &BTreeSet::new(), itself.self_reference()).unwrap();
        itself.content_address = Some(address);
        offer
    }

    fn builders() -> TrustedKeys {
        [secret("builder-1").public()].into_iter().collect()
    }

    #[test]
    fn a_path_that_no_cache_has_is_missing() {
        assert_eq!(judge(vec![], None, &builders()), Err(Flaw::Missing));
    }

    #[test]
    fn a_builder_of_the_policy_vouches_and_another_does_not() {
        let told = judge(vec![signed(0, b"a", "builder-1")], None, &builders()).unwrap();
        assert_eq!(told.offers.len(), 1);
        let told = judge(vec![signed(0, b"a", "stranger-1")], None, &builders());
        assert!(matches!(told, Err(Flaw::Unvouched { cache: 0, .. })), "{told:?}");
        let told = judge(vec![offer(0, b"a")], None, &builders());
        assert!(matches!(told, Err(Flaw::Unvouched { cache: 0, .. })), "{told:?}");
    }

    #[test]
    fn a_second_cache_counts_only_with_the_same_bytes() {
        let same = vec![signed(0, b"a", "builder-1"), offer(1, b"a"), offer(2, b"b")];
        let told = judge(same, None, &builders()).unwrap();
        let caches: Vec<_> = told.offers.iter().map(|offer| offer.cache).collect();
        assert_eq!(caches, [0, 1]);
    }

    #[test]
    fn an_unvouched_first_cache_does_not_hide_a_good_second() {
        let told = judge(vec![offer(0, b"b"), signed(1, b"a", "builder-1")], None, &builders());
        assert_eq!(told.unwrap().offers[0].cache, 1);
    }

    #[test]
    fn a_cache_with_other_bytes_of_a_content_addressed_path_is_noticed() {
        let good = addressed(0, b"a");
        let local = good.narinfo.info.clone();
        assert!(judge(vec![good.clone()], Some(&local), &TrustedKeys::default()).is_ok());
        let mut wrong = good;
        wrong.narinfo.info.nar_hash = Sha256::of(b"other");
        let told = judge(vec![wrong], Some(&local), &TrustedKeys::default());
        assert_eq!(told, Err(Flaw::OtherBytes { cache: 0 }));
    }
}
