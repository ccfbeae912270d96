//! Narinfo files: what must be read, what must be refused, and what Nix read.

use std::collections::BTreeSet;

use serde_json::Value;
use shared::nix::{Hash, NarInfo, Sha256, StorePath, path_info::Voucher};

use super::support::{bytes, cache, names, table, text, trusted};

#[test]
fn each_file_gives_what_is_required() {
    for row in table("narinfo/expect.tsv") {
        let name = &row["file"];
        let asked = StorePath::parse(&row["path"]).unwrap();
        let parsed = NarInfo::parse(&bytes(&format!("narinfo/{name}")));
        let voucher = parsed.as_ref().map(|narinfo| narinfo.info.voucher(&trusted()));
        match row["required"].as_str() {
            "parse+trusted" => {
                let expected = Voucher::Key("cache.test-1".to_owned());
                assert_eq!(voucher, Ok(Ok(expected)), "{name}");
            }
            "untrusted" => assert!(matches!(voucher, Ok(Err(_))), "{name}: {voucher:?}"),
            "error" => assert!(parsed.is_err(), "{name}: {parsed:?}"),
            "tolerate-or-error" => {}
            other => panic!("{name}: required {other}"),
        }
        if let Ok(narinfo) = parsed {
            assert_eq!(narinfo.info.path, asked, "{name}");
            assert_same(
                name,
                &narinfo,
                &serde_json::from_str(&row["nix_2.34.8_parsed_json"]).unwrap(),
            );
        }
    }
}

/// Compares with what `nix path-info --json` of 2.34.8 printed.
fn assert_same(name: &str, narinfo: &NarInfo, json: &Value) {
    fn texts(json: &Value) -> BTreeSet<String> {
        let array = json.as_array().unwrap().iter();
        array.map(|item| item.as_str().unwrap().to_owned()).collect()
    }
    fn printed<T: ToString>(items: impl IntoIterator<Item = T>) -> BTreeSet<String> {
        items.into_iter().map(|item| item.to_string()).collect()
    }
    let info = &narinfo.info;
    let nar_hash = Sha256::parse(json["narHash"].as_str().unwrap());
    assert_eq!(Ok(info.nar_hash), nar_hash, "{name}");
    assert_eq!(Some(info.nar_size), json["narSize"].as_u64(), "{name}");
    assert_eq!(printed(&info.references), texts(&json["references"]), "{name}");
    let deriver = info.deriver.as_ref().map(ToString::to_string);
    assert_eq!(deriver.as_deref(), json["deriver"].as_str(), "{name}");
    let address = info.content_address.as_ref().map(ToString::to_string);
    assert_eq!(address.as_deref(), json["ca"].as_str(), "{name}");
    assert_eq!(printed(&info.signatures), texts(&json["signatures"]), "{name}");
    assert_eq!(Some(narinfo.url.as_str()), json["url"].as_str(), "{name}");
    assert_eq!(Some(narinfo.compression.name()), json["compression"].as_str(), "{name}");
    let file_hash = json["downloadHash"].as_str().map(|hash| Hash::parse(hash).unwrap());
    assert_eq!(narinfo.file_hash, file_hash, "{name}");
    assert_eq!(narinfo.file_size, json["downloadSize"].as_u64(), "{name}");
}

#[test]
fn every_file_has_a_line_in_the_table() {
    let listed: BTreeSet<_> = table("narinfo/expect.tsv")
        .into_iter()
        .map(|row| format!("narinfo/{}", row["file"]))
        .collect();
    assert_eq!(listed, names("narinfo", ".narinfo"));
}

#[test]
fn what_nix_wrote_is_written_to_the_same_bytes() {
    for folder in
        ["cache-xz", "cache-zstd", "cache-none", "cache-ca", "cache-ca-2.8", "cache-bzip2-2.8"]
    {
        for (name, narinfo) in cache(folder) {
            assert_eq!(narinfo.to_string(), text(&name), "{name}");
        }
    }
}

#[test]
fn the_closure_of_the_table_is_what_the_caches_say() {
    let printed = |paths: &mut dyn Iterator<Item = &StorePath>| {
        paths.map(StorePath::base_name).collect::<Vec<_>>().join(" ")
    };
    for folder in ["cache-xz", "cache-zstd", "cache-none"] {
        let mut narinfos = cache(folder);
        narinfos.sort_by(|(_, a), (_, b)| a.info.path.cmp(&b.info.path));
        let rows = table("closure.tsv");
        assert_eq!(rows.len(), narinfos.len());
        for (row, (name, NarInfo { info, .. })) in rows.iter().zip(narinfos) {
            assert_eq!(row["path"], info.path.to_string(), "{name}");
            assert_eq!(row["narHash"], info.nar_hash.to_string(), "{name}");
            assert_eq!(row["narSize"], info.nar_size.to_string(), "{name}");
            assert_eq!(row["references"], printed(&mut info.references.iter()), "{name}");
            assert_eq!(row["deriver"], printed(&mut info.deriver.iter()), "{name}");
            let address = info.content_address.map(|address| address.to_string());
            assert_eq!(row["ca"], address.unwrap_or_default(), "{name}");
        }
    }
}
