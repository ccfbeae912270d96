//! Trees and narinfos made up by proptest: what is written is read again.

use proptest::{collection, option, prelude::*};
use shared::nix::{
    ContentAddress, Hash, NarInfo, PathInfo, PublicKey, SecretKey, Sha256, Signature, StorePath,
    base32, content_address::Method, narinfo::Compression,
};

use super::{support::count, tree::Tree};

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("no part of a name", |byte| *byte != 0 && *byte != b'/');
    collection::vec(byte, 1..20).prop_filter("dots", |name| name != b"." && name != b"..")
}

fn tree() -> impl Strategy<Value = Tree> {
    let file = (any::<bool>(), collection::vec(any::<u8>(), 0..100))
        .prop_map(|(executable, contents)| Tree::Regular { executable, contents });
    let target = collection::vec(1..=u8::MAX, 1..60).prop_map(|target| Tree::Symlink { target });
    prop_oneof![3 => file, 1 => target].prop_recursive(6, 40, 6, |inner| {
        collection::btree_map(name(), inner, 0..6).prop_map(Tree::Directory)
    })
}

fn sha256() -> impl Strategy<Value = Sha256> {
    any::<[u8; 32]>().prop_map(Sha256)
}

fn store_path() -> impl Strategy<Value = StorePath> {
    (sha256(), "[0-9a-zA-Z+_?=][0-9a-zA-Z+._?=-]{0,40}")
        .prop_map(|(digest, name)| StorePath::from_digest(&digest, &name).unwrap())
}

fn content_address() -> impl Strategy<Value = ContentAddress> {
    let method = prop_oneof![Just(Method::Text), Just(Method::Flat), Just(Method::Recursive)];
    (method, sha256()).prop_map(|(method, hash)| ContentAddress { method, hash: hash.into() })
}

fn secret_key() -> impl Strategy<Value = SecretKey> {
    ("[a-z0-9.-]{1,20}", any::<[u8; 32]>())
        .prop_map(|(name, seed)| SecretKey::from_seed(&name, &seed).unwrap())
}

fn path_info() -> impl Strategy<Value = PathInfo> {
    let references = collection::btree_set(store_path(), 0..5);
    let keys = collection::vec(secret_key(), 0..3);
    let deriver = option::of(store_path());
    let address = option::of(content_address());
    (store_path(), sha256(), 1..=u64::MAX, references, deriver, keys, address).prop_map(
        |(path, nar_hash, nar_size, references, deriver, keys, content_address)| {
            let mut info = PathInfo {
                path,
                nar_hash,
                nar_size,
                references,
                deriver,
                signatures: Vec::new(),
                content_address,
            };
            keys.iter().for_each(|key| info.sign(key));
            info.signatures.sort();
            info
        },
    )
}

fn narinfo() -> impl Strategy<Value = NarInfo> {
    let compression = prop_oneof![
        Just(Compression::None),
        Just(Compression::Xz),
        Just(Compression::Zstd),
        Just(Compression::Bzip2),
        Just(Compression::Gzip),
        Just(Compression::Brotli),
        Just(Compression::Lz4),
    ];
    let file_hash = option::of(sha256().prop_map(Hash::from));
    (path_info(), "[!-~]{1,60}", compression, file_hash, any::<Option<u64>>()).prop_map(
        |(info, url, compression, file_hash, file_size)| NarInfo {
            info,
            url,
            compression,
            file_hash,
            file_size,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(count(256)) })]

    #[test]
    fn a_tree_that_is_written_is_read_again(tree in tree(), piece in 1_usize..200) {
        let mut archive = tree.to_nar(piece).unwrap();
        archive.extend_from_slice(b"behind it");
        let (again, rest) = Tree::read(&archive).unwrap();
        prop_assert_eq!(again, tree);
        prop_assert_eq!(rest, b"behind it");
    }

    #[test]
    fn a_narinfo_that_is_written_is_read_again(narinfo in narinfo()) {
        prop_assert_eq!(NarInfo::parse(narinfo.to_string().as_bytes()), Ok(narinfo));
    }

    #[test]
    fn a_signature_holds_until_anything_signed_changes(
        mut info in path_info(),
        key in secret_key(),
        other in store_path(),
    ) {
        info.content_address = None;
        info.sign(&key);
        let trusted = [key.public()].into_iter().collect();
        prop_assert!(info.voucher(&trusted).is_ok());
        let changes: [fn(&mut PathInfo, StorePath); 4] = [
            |info, other| info.path = other,
            |info, _| info.nar_hash.0[0] ^= 1,
            |info, _| info.nar_size ^= 1,
            |info, other| { info.references.insert(other); },
        ];
        for change in changes {
            let mut changed = info.clone();
            change(&mut changed, other.clone());
            prop_assert!(changed.voucher(&trusted).is_err());
        }
    }

    #[test]
    fn keys_and_signatures_that_are_printed_are_parsed_again(key in secret_key(), text in ".*") {
        let public = key.public();
        prop_assert_eq!(PublicKey::parse(&public.to_string()), Ok(public.clone()));
        prop_assert_eq!(SecretKey::parse(&key.reveal()).unwrap().public(), public);
        let signature = key.sign(&text);
        prop_assert_eq!(Signature::parse(&signature.to_string()), Ok(signature));
    }

    #[test]
    fn digits_that_are_written_are_read_again(bytes in any::<[u8; 32]>()) {
        prop_assert_eq!(base32::decode::<32>(base32::encode(&bytes).as_bytes()), Ok(bytes));
    }

    #[test]
    fn no_parser_panics_on_any_text(text in ".*") {
        let _: [bool; 6] = [
            StorePath::parse(&text).is_ok(),
            Hash::parse(&text).is_ok(),
            ContentAddress::parse(&text).is_ok(),
            PublicKey::parse(&text).is_ok(),
            Signature::parse(&text).is_ok(),
            NarInfo::parse(text.as_bytes()).is_ok(),
        ];
    }
}
