use proptest::prelude::*;

use super::*;

const A: &str = "0a455acx720hx0zfwn0q7gn8y2jrvllr";
const B: &str = "1a455acx720hx0zfwn0q7gn8y2jrvllr";
const C: &str = "2a455acx720hx0zfwn0q7gn8y2jrvllr";
const HASH: &str = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";

/// A root `web` that needs `lib` and itself, `lib` needs `data`.
fn golden() -> String {
    format!(
        "shoal-closure 1 /nix/store 3 600 {B}-web\n\
         {A}-lib {HASH} 100 {C}\n\
         {B}-web {HASH} 200 {A},{B}\n\
         {C}-data {HASH} 300 -\n"
    )
}

fn error(text: &str) -> ClosureError {
    ClosureIndex::parse(text.as_bytes()).expect_err(text)
}

#[test]
fn reads_and_writes_the_same_bytes() {
    let text = golden();
    let index = ClosureIndex::parse(text.as_bytes()).unwrap();
    assert_eq!(index.to_bytes(), text.as_bytes());
    assert_eq!(index.digest(), Digest::of(text.as_bytes()));
    assert_eq!(index.root().name(), "web");
    assert_eq!((index.len(), index.nar_size()), (3, 600));
    let web = index.get(index.root()).unwrap();
    let references: Vec<&str> = web.references().map(StorePath::name).collect();
    assert_eq!(references, ["lib", "web"]);
    assert_eq!(index.by_hash_part(C).unwrap().nar_size(), 300);
    assert!(index.by_hash_part("").is_none());
}

#[test]
fn path_infos_make_the_same_index() {
    let index = ClosureIndex::parse(golden().as_bytes()).unwrap();
    let infos: Vec<PathInfo> = index
        .entries()
        .map(|entry| PathInfo {
            path: entry.path().clone(),
            nar_hash: entry.nar_hash(),
            nar_size: entry.nar_size(),
            references: entry.references().cloned().collect(),
            deriver: None,
            signatures: Vec::new(),
            content_address: None,
        })
        .collect();
    assert_eq!(ClosureIndex::from_paths(index.root(), infos.iter().rev()).unwrap(), index);
    let not_closed = ClosureIndex::from_paths(index.root(), &infos[..2]);
    assert!(matches!(not_closed, Err(ClosureError::NotClosed { .. })));
}

#[test]
fn refuses_another_digest_than_the_one_asked_for() {
    let text = golden();
    assert!(ClosureIndex::parse_named(text.as_bytes(), Digest::of(text.as_bytes())).is_ok());
    let refused = ClosureIndex::parse_named(text.as_bytes(), Digest([0; 32]));
    assert!(matches!(refused, Err(ClosureError::Digest { .. })));
}

#[test]
fn refuses_every_other_way_to_write_it() {
    let text = golden();
    for (from, to) in [
        ("shoal-closure 1", "shoal-closure 2"),
        ("shoal-closure 1", "Shoal-closure 1"),
        ("/nix/store", "/gnu/store"),
        (" 3 600", " 03 600"),
        (" 3 600", " 3 601"),
        (" 3 600", " 4 600"),
        (" 3 600", " 99999999999999999999 600"),
        (" 3 600", "  3 600"),
        ("-web\n", "-web \n"),
        (" 100 ", " 0100 "),
        (" 100 ", " +100 "),
        (" 100 ", " -1 "),
        (" 100 ", " 0x64 "),
        (" 100 ", "  100 "),
        (" 100 ", "\t100 "),
        (" 100 ", " 18446744073709551615 "),
        (" 300 -", " 300 "),
        (" 300 -", " 300"),
        (" 300 -", " 300 -,"),
        (" 300 -", " 300 - "),
        (" 300 -\n", " 300 -\r\n"),
        (" 300 -\n", " 300 -"),
        (" 300 -\n", " 300 -\n\n"),
        (&format!("{A},{B}"), &format!("{B},{A}")),
        (&format!("{A},{B}"), &format!("{A},{A},{B}")),
        (&format!("{A},{B}"), &format!("{A},{B},")),
        (&format!("{A}-lib"), &format!("{A}-../lib")),
        (&format!("{A}-lib"), &format!("{A}-")),
        (&HASH[..8], "AAAAAAAA"),
        ("lib", "l\u{e4}b"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        error(&changed);
    }
    assert_eq!(ClosureIndex::parse(b"\xff\n"), Err(ClosureError::NotText));
    error("");
    error("\n");
}

#[test]
fn refuses_what_is_no_closure() {
    let missing = golden().replace(" -\n", &format!(" {}\n", A.replace('0', "3")));
    assert!(matches!(error(&missing), ClosureError::NotClosed { .. }));
    let unreachable = golden().replace(&format!("100 {C}"), "100 -");
    assert!(
        matches!(error(&unreachable), ClosureError::Unreachable(path) if path.name() == "data")
    );
    let rootless = golden().replacen("-web", "-other", 1);
    assert!(matches!(error(&rootless), ClosureError::NoRoot(_)));
    let lines: Vec<String> = golden().lines().map(|line| format!("{line}\n")).collect();
    let swapped = [&lines[0], &lines[2], &lines[1], &lines[3]].map(String::as_str).concat();
    assert!(matches!(error(&swapped), ClosureError::Order(3)));
    let twice = [&lines[0], &lines[1], &lines[1], &lines[2]].map(String::as_str).concat();
    assert!(matches!(error(&twice), ClosureError::Order(3)));
}

#[test]
fn a_header_alone_reserves_no_memory() {
    let huge = format!("shoal-closure 1 /nix/store 18446744073709551615 1 {A}-x\n");
    error(&huge);
}

#[test]
fn splits_hints_off_behind_the_empty_line() {
    let digest = Digest::of(golden().as_bytes());
    let both = format!("{}\nshoal-hints 1 {digest}\ncache 0 https://cache.example\n", golden());
    let (index, hints) = read_with_hints(both.as_bytes()).unwrap();
    assert_eq!(index.digest(), digest);
    assert_eq!(hints.unwrap().unwrap().caches().count(), 1);
    for alone in [golden(), format!("{}\n", golden())] {
        assert!(read_with_hints(alone.as_bytes()).unwrap().1.is_none());
    }
    let foreign = both.replace(&digest.to_string(), &Digest([0; 32]).to_string());
    assert!(read_with_hints(foreign.as_bytes()).unwrap().1.unwrap().is_err());
}

/// A closure where path 0 needs all others, and each some of the later ones.
fn arbitrary_index() -> impl Strategy<Value = ClosureIndex> {
    let path = (any::<[u8; 20]>(), "[a-z]{1,8}(-[0-9.]{1,4})?", any::<u32>(), any::<u64>());
    proptest::collection::vec(path, 1..20).prop_map(|drafts| {
        let name = |(hash, name, ..): &([u8; 20], String, u32, u64)| {
            let hash = crate::nix::base32::encode(hash);
            StorePath::from_base_name(&format!("{hash}-{name}")).unwrap()
        };
        let paths: Vec<StorePath> = drafts.iter().map(name).collect();
        let infos = drafts.iter().enumerate().map(|(at, (_, _, size, bits))| PathInfo {
            path: paths[at].clone(),
            nar_hash: Sha256::of(&size.to_be_bytes()),
            nar_size: u64::from(*size),
            references: (0..paths.len())
                .filter(|other| at == 0 || (*other >= at && bits >> other & 1 == 1))
                .map(|other| paths[other].clone())
                .collect(),
            deriver: None,
            signatures: Vec::new(),
            content_address: None,
        });
        ClosureIndex::from_paths(&paths[0], &infos.collect::<Vec<_>>()).unwrap()
    })
}

proptest! {
    #[test]
    fn every_closure_survives_the_round_trip(index in arbitrary_index()) {
        prop_assert_eq!(ClosureIndex::parse(&index.to_bytes()), Ok(index));
    }

    #[test]
    fn a_changed_byte_is_refused_or_means_another_index(
        index in arbitrary_index(), at: prop::sample::Index, byte: u8,
    ) {
        let bytes = index.to_bytes();
        let mut changed = bytes.clone();
        changed[at.index(bytes.len())] = byte;
        if let Ok(parsed) = ClosureIndex::parse(&changed) {
            prop_assert_eq!(parsed.to_bytes(), changed);
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
        let _parsed = read_with_hints(&bytes);
    }
}
