//! Paths that vouch for themselves: nobody's key is needed, but every byte is checked.

use std::convert::Infallible;

use shared::nix::{
    ContentAddress, Hash, NarInfo, Sha256, TrustedKeys,
    content_address::{ContentHasher, SelfReference},
    nar::{self, Node, Visit},
    path_info::Voucher,
};

use super::support::{cache, nar_of};

/// Feeds the contents of files to a hasher.
struct Contents<'a>(&'a mut ContentHasher);

impl Visit for Contents<'_> {
    type Error = Infallible;

    fn enter(&mut self, _name: &[u8], _node: &Node) -> Result<(), Infallible> {
        Ok(())
    }

    fn contents(&mut self, piece: &[u8]) -> Result<(), Infallible> {
        self.0.contents(piece);
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Checks the NAR of `narinfo`; returns the claimed address, and the hash its contents have.
fn address_and_contents(folder: &str, narinfo: &NarInfo) -> (ContentAddress, Hash) {
    let info = &narinfo.info;
    let nar = nar_of(folder, narinfo);
    assert_eq!(nar.len() as u64, info.nar_size, "{}", info.path);
    assert_eq!(Sha256::of(&nar), info.nar_hash, "{}", info.path);
    let address = info.content_address.clone().unwrap();
    let own = (info.self_reference() == SelfReference::Yes).then_some(&info.path);
    let mut hasher = ContentHasher::new(&address, own);
    nar.chunks(1000).for_each(|chunk| hasher.nar(chunk));
    nar::read(&mut nar.as_slice(), &mut Contents(&mut hasher)).unwrap();
    (address, hasher.finish())
}

#[test]
fn every_content_addressed_path_is_accepted_without_any_key() {
    let narinfos = cache("cache-ca");
    assert_eq!(narinfos.len(), 16);
    for (name, narinfo) in narinfos {
        assert!(narinfo.info.signatures.is_empty(), "{name}");
        let voucher = narinfo.info.voucher(&TrustedKeys::default());
        let (address, contents) = address_and_contents("cache-ca", &narinfo);
        assert_eq!(voucher, Ok(Voucher::ContentAddress(address.clone())), "{name}");
        assert_eq!(contents, address.hash, "{name}");
    }
}

#[test]
fn the_hash_rule_before_nix_2_17_is_refused() {
    let narinfos = cache("cache-ca-2.8");
    assert_eq!(narinfos.len(), 1);
    for (name, narinfo) in narinfos {
        let (address, contents) = address_and_contents("cache-ca-2.8", &narinfo);
        assert_ne!(contents, address.hash, "{name}");
    }
}

#[test]
fn another_name_reference_or_hash_makes_another_path() {
    let all = cache("cache-ca");
    let other = all.iter().map(|(_, narinfo)| &narinfo.info).next_back().unwrap().clone();
    for (name, narinfo) in &all {
        let mut renamed = narinfo.info.clone();
        let base_name = format!("{}-renamed", renamed.path.hash_part());
        renamed.path = shared::nix::StorePath::from_base_name(&base_name).unwrap();
        assert!(renamed.voucher(&TrustedKeys::default()).is_err(), "{name}");

        let mut referring = narinfo.info.clone();
        if !referring.references.insert(other.path.clone()) {
            referring.references.remove(&other.path);
        }
        assert!(referring.voucher(&TrustedKeys::default()).is_err(), "{name}");

        let mut changed = narinfo.info.clone();
        if changed.path != other.path && changed.content_address != other.content_address {
            changed.content_address.clone_from(&other.content_address);
            assert!(changed.voucher(&TrustedKeys::default()).is_err(), "{name}");
        }
    }
}
