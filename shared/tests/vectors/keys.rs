//! Keys, and signatures bit by bit.

use shared::nix::{PublicKey, SecretKey};

use super::support::{cache, names, public_key, secret_key, text};

#[test]
fn keys_of_nix_are_parsed_and_printed_as_they_stand() {
    for name in names("keys", ".secret") {
        let secret = SecretKey::parse(&text(&name)).unwrap();
        assert_eq!(secret.reveal(), text(&name));
        let public = name.replace(".secret", ".public");
        assert_eq!(secret.public(), PublicKey::parse(&text(&public)).unwrap());
        assert_eq!(secret.public().to_string(), text(&public));
    }
}

#[test]
fn signatures_of_nix_are_made_again_bit_by_bit() {
    for (folder, signer, paths) in [
        ("cache-xz", "cache.test-1", 28),
        ("cache-zstd", "cache.test-1", 28),
        ("cache-none", "cache.test-1", 28),
        ("cache-bzip2-2.8", "legacy-2.8.test-1", 12),
    ] {
        let narinfos = cache(folder);
        assert_eq!(narinfos.len(), paths, "{folder}");
        for (name, narinfo) in narinfos {
            let fingerprint = narinfo.info.fingerprint();
            let signers = narinfo.info.signatures.iter().map(|signature| signature.key_name());
            assert!(signers.clone().any(|name| name == signer), "{name}");
            let again: Vec<_> =
                signers.map(|signer| secret_key(signer).sign(&fingerprint)).collect();
            assert_eq!(again, narinfo.info.signatures, "{name}");
            for signature in &narinfo.info.signatures {
                let key = public_key(signature.key_name());
                assert!(narinfo.info.voucher(&[key].into_iter().collect()).is_ok(), "{name}");
            }
        }
    }
}

#[test]
fn signing_adds_the_signature_once() {
    let (_, mut narinfo) = cache("cache-xz").remove(0);
    let before = narinfo.info.signatures.clone();
    narinfo.info.sign(&secret_key("cache.test-1"));
    assert_eq!(narinfo.info.signatures, before);
    narinfo.info.sign(&secret_key("untrusted.test-1"));
    assert_eq!(narinfo.info.signatures.len(), before.len() + 1);
}
