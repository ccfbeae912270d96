use proptest::prelude::*;

use super::*;

fn ours() -> SoftwareVersion {
    SoftwareVersion::parse("0.1.0").unwrap()
}

pub(crate) fn golden() -> String {
    [
        r#"{"format":1,"realm":"main","group":"eu-prod","profile":"webshop","epoch":0,"version":42,"min_agent":"0.1.0","#,
        r#""note":"3.0","provenance":{"git":"9f3c"},"#,
        r#""entries":[{"match":{"system":"x86_64-linux","hosts":[],"labels":{"region":"eu"}},"#,
        r#""path":"/nix/store/0a455acx720hx0zfwn0q7gn8y2jrvllr-webshop-3.0","closure":""#,
        &Digest([9; 32]).to_string(),
        r#"","paths":61,"nar_size":402653184}],"#,
        r#""shards":null,"#,
        r#""activation":{"kind":"systemd","timeout":300},"#,
        r#""health":{"deadline":120,"soak":60,"checks":[{"name":"web","kind":"http","url":"http://127.0.0.1:8080/","#,
        r#""status":200,"interval":5,"timeout":3,"retries":3}]},"#,
        r#""rollout":null,"requires":[],"windows":{"fetch":[],"switch":[{"cron":"0 2 * * *","zone":"Europe/Berlin","length":7200}],"reboot":[]},"#,
        r#""retire":null}"#,
    ]
    .concat()
}

fn parse(text: &str) -> Result<Manifest, ManifestError> {
    Manifest::parse(text.as_bytes(), ours())
}

fn host(name: &str, system: &str, labels: &[(&str, &str)]) -> HostFacts {
    let label = |(name, value): &(&str, &str)| {
        (LabelName::parse(name).unwrap(), LabelValue::parse(value).unwrap())
    };
    HostFacts {
        name: HostName::parse(name).unwrap(),
        system: System::parse(system).unwrap(),
        labels: labels.iter().map(label).collect(),
    }
}

#[test]
fn reads_and_writes_the_same_bytes() {
    let manifest = parse(&golden()).unwrap();
    assert_eq!(String::from_utf8(manifest.to_bytes().unwrap()).unwrap(), golden());
}

#[test]
fn every_key_is_required_and_no_other_is_allowed() {
    let value: serde_json::Value = serde_json::from_str(&golden()).unwrap();
    for key in value.as_object().unwrap().keys() {
        let mut without = value.clone();
        without.as_object_mut().unwrap().remove(key);
        assert!(parse(&without.to_string()).is_err(), "{key}");
    }
    let mut more = value.clone();
    more["extra"] = 1.into();
    assert!(parse(&more.to_string()).is_err());
    assert!(parse(&value.to_string()).is_ok());
}

#[test]
fn a_manifest_from_the_future_is_unsupported_and_not_misspelt() {
    let future = golden().replacen(r#""format":1"#, r#""format":2,"shape":"other""#, 1);
    assert!(parse(&future).unwrap_err().is_unsupported());
    let newer = golden().replacen("0.1.0", "0.2.0", 1).replacen(r#""note""#, r#""remark""#, 1);
    assert!(parse(&newer).unwrap_err().is_unsupported());
    assert!(!parse(&golden().replacen("note", "remark", 1)).unwrap_err().is_unsupported());
}

#[test]
fn refuses_what_contradicts_itself_or_a_limit() {
    for (from, to) in [
        (r#""version":42"#, r#""version":0"#),
        (r#""version":42"#, r#""version":4294967296"#),
        (r#""version":42"#, r#""version":42.0"#),
        (r#""version":42"#, r#""version":"42""#),
        (r#""version":42"#, r#""version":42,"version":42"#),
        (r#""epoch":0"#, r#""epoch":-1"#),
        (r#""git":"9f3c""#, r#""git":"9f3c","git":"9f3d""#),
        (r#""git":"9f3c""#, r#""git":"\n""#),
        (r#""note":"3.0""#, r#""note":null"#),
        (r#""group":"eu-prod""#, r#""group":"../prod""#),
        ("/nix/store/0a455", "/nix/store/../0a455"),
        (r#""paths":61"#, r#""paths":0"#),
        (r#""hosts":[]"#, r#""hosts":["Web 1"]"#),
        (r#""timeout":300"#, r#""timeout":0"#),
        (r#""kind":"systemd""#, r#""kind":"docker""#),
        (r#""kind":"http""#, r#""kind":"tcp""#),
        (r#""status":200,"#, ""),
        (r#""status":200,"#, r#""status":200,"unit":"x.service","#),
        (r#""status":200,"#, r#""status":200,"unit":null,"#),
        (r#""status":200,"#, r#""status":99,"#),
        ("http://127", "gopher://127"),
        ("0 2 * * *", "0 2 * *"),
        ("0 2 * * *", "@daily"),
        ("Europe/Berlin", ""),
        (r#""length":7200"#, r#""length":0"#),
        (r#""retire":null"#, r#""retire":"stop""#),
        (r#""retire":null"#, r#""retire":"yes""#),
        (r#""shards":null"#, r#""shards":{"bits":1,"digests":[]}"#),
    ] {
        let changed = golden().replacen(from, to, 1);
        assert_ne!(changed, golden(), "{from}");
        assert!(parse(&changed).is_err(), "{to}");
    }
    let long = golden().replace("9f3c", &"x".repeat(MAX_LEN));
    assert!(parse(&long).is_err());
}

#[test]
fn what_is_asked_for_is_told_by_name() {
    let manifest = parse(&golden()).unwrap();
    let needed = [Feature::ActivationSystemd, Feature::Health, Feature::Windows];
    assert_eq!(manifest.features(), needed);
    assert_eq!(manifest.unsupported(&[Feature::ActivationSystemd]), needed[1..]);

    let mut other = manifest;
    other.rollout = Some(serde_json::json!({}));
    other.requires = vec![serde_json::json!("db")];
    other.entries.clear();
    other.shards = Some(Shards { bits: 1, digests: vec![Digest([0; 32]), Digest([1; 32])] });
    let parsed = Manifest::parse(&other.to_bytes().unwrap(), ours()).unwrap();
    assert_eq!(parsed.unsupported(&needed), [Feature::Requires, Feature::Rollout, Feature::Shards]);
}

#[test]
fn a_retired_service_has_no_entries() {
    let mut manifest = parse(&golden()).unwrap();
    manifest.retire = Some(Retire::Stop);
    assert!(manifest.to_bytes().is_err());
    manifest.entries.clear();
    let parsed = Manifest::parse(&manifest.to_bytes().unwrap(), ours()).unwrap();
    assert_eq!(parsed.retire, Some(Retire::Stop));
}

#[test]
fn every_kind_of_check_survives_the_round_trip() {
    let mut manifest = parse(&golden()).unwrap();
    for probe in [
        Probe::Tcp { address: "127.0.0.1:80".to_owned() },
        Probe::Command { argv: vec!["bin/check".to_owned(), String::new()] },
        Probe::Unit { unit: "webshop.service".to_owned() },
        Probe::Registry,
        Probe::Http {
            url: "https://shop.example/live".to_owned(),
            status: 204,
            contains: Some("open".to_owned()),
        },
    ] {
        manifest.health.checks[0].probe = probe;
        let parsed = Manifest::parse(&manifest.to_bytes().unwrap(), ours()).unwrap();
        assert_eq!(parsed, manifest);
    }
}

#[test]
fn the_first_entry_that_matches_wins() {
    let mut manifest = parse(&golden()).unwrap();
    let everywhere = manifest.entries[0].clone();
    let mut one_host = everywhere.clone();
    one_host.selector.hosts = vec![HostName::parse("web-1").unwrap()];
    one_host.paths = 1;
    manifest.entries = vec![one_host, everywhere];
    let selected = |host| manifest.select(&host).map(|entry| entry.paths);
    assert_eq!(selected(host("web-1", "x86_64-linux", &[("region", "eu"), ("x", "y")])), Some(1));
    assert_eq!(selected(host("web-2", "x86_64-linux", &[("region", "eu")])), Some(61));
    assert_eq!(selected(host("web-2", "aarch64-linux", &[("region", "eu")])), None);
    assert_eq!(selected(host("web-1", "x86_64-linux", &[("region", "us")])), None);
    assert_eq!(selected(host("web-1", "x86_64-linux", &[])), None);
}

#[test]
fn refuses_a_manifest_of_another_place() {
    let manifest = parse(&golden()).unwrap();
    let main = RealmName::parse("main").unwrap();
    let place = |text| TargetPath::parse(text).unwrap();
    assert_eq!(manifest.check_place(&main, &place("eu-prod/webshop")), Ok(()));
    for other in ["us-prod/webshop", "eu-prod/shop", "eu-prod/_policy"] {
        assert!(manifest.check_place(&main, &place(other)).is_err(), "{other}");
    }
    let other = RealmName::parse("other").unwrap();
    assert!(manifest.check_place(&other, &place("eu-prod/webshop")).is_err());
}

proptest! {
    #[test]
    fn a_changed_byte_is_refused_or_survives_the_round_trip(
        at: prop::sample::Index, byte: u8,
    ) {
        let mut changed = golden().into_bytes();
        let length = changed.len();
        changed[at.index(length)] = byte;
        if let Ok(parsed) = Manifest::parse(&changed, ours()) {
            let written = parsed.to_bytes().unwrap();
            prop_assert_eq!(Manifest::parse(&written, ours()), Ok(parsed));
        }
    }
}
