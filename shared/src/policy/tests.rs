use proptest::prelude::*;

use super::*;

fn ours() -> SoftwareVersion {
    SoftwareVersion::parse("0.1.0").unwrap()
}

fn golden() -> String {
    let key = format!("cache.example-1:{}", data_encoding::BASE64.encode(&[0; 32]));
    [
        r#"{"format":1,"realm":"main","group":"eu-prod","version":7,"min_agent":"0.1.0","#,
        r#""profiles":{"system":{"take":"yes","activations":["nixos"],"privileged":true,"epoch":0},"#,
        r#""webshop":{"take":"yes","activations":["systemd"],"privileged":false,"user":"webshop","epoch":0}},"#,
        r#""caches":[{"url":"https://cache.example","priority":40}],"builders":[""#,
        &key,
        r#""],"enrolment":[""#,
        &RawKey([3; 32]).to_string(),
        r#""],"windows":{"fetch":[],"switch":[],"reboot":[]},"#,
        r#""rollout":{"max_wave_percent":20,"min_soak":60,"default":null}}"#,
    ]
    .concat()
}

#[test]
fn reads_and_writes_the_same_bytes() {
    let policy = Policy::parse(golden().as_bytes(), ours()).unwrap();
    assert_eq!(String::from_utf8(policy.to_bytes().unwrap()).unwrap(), golden());
    assert_eq!(policy.unsupported(&[]), []);
}

#[test]
fn refuses_what_contradicts_itself_or_is_misspelt() {
    for (from, to) in [
        (r#""format":1"#, r#""format":0"#),
        (r#""version":7"#, r#""version":0"#),
        (r#""take":"yes""#, r#""take":"no""#),
        (r#""user":"webshop""#, r#""user":null"#),
        (r#""user":"webshop""#, r#""user":"root""#),
        (r#""user":"webshop""#, r#""usr":"webshop""#),
        (r#""privileged":true"#, r#""privileged":false"#),
        (r#""privileged":false"#, r#""privileged":true"#),
        (r#""privileged":true"#, r#""privileged":true,"user":"webshop""#),
        ("https://cache.example", "cache.example"),
        ("https://cache.example", "https://cache.example /"),
        ("cache.example-1:", "cache.example-1: "),
        (r#""max_wave_percent":20"#, r#""max_wave_percent":101"#),
        (r#""min_soak":60"#, r#""min_soak":0.5"#),
        (r#","default":null"#, ""),
        (r#""windows":{"fetch":[],"#, r#""windows":{"#),
        (r#""system":{"#, r#""webshop":{"#),
    ] {
        let changed = golden().replacen(from, to, 1);
        assert_ne!(changed, golden(), "{from}");
        assert!(Policy::parse(changed.as_bytes(), ours()).is_err(), "{to}");
    }
}

#[test]
fn what_is_not_built_yet_is_told_by_name() {
    let window = r#"{"cron":"0 2 * * *","zone":"UTC","length":7200}"#;
    let asks = golden()
        .replace(r#""default":null"#, r#""default":{"waves":[1]}"#)
        .replace(r#""switch":[]"#, &format!(r#""switch":[{window}]"#));
    let policy = Policy::parse(asks.as_bytes(), ours()).unwrap();
    assert_eq!(policy.unsupported(&[]), [Feature::Rollout, Feature::Windows]);
    assert_eq!(policy.unsupported(&[Feature::Windows]), [Feature::Rollout]);
}

#[test]
fn refuses_a_policy_of_another_group_or_realm() {
    let policy = Policy::parse(golden().as_bytes(), ours()).unwrap();
    let main = RealmName::parse("main").unwrap();
    let place = |text| TargetPath::parse(text).unwrap();
    assert_eq!(policy.check_place(&main, &place("eu-prod/_policy")), Ok(()));
    assert!(policy.check_place(&main, &place("us-prod/_policy")).is_err());
    let other = RealmName::parse("other").unwrap();
    assert!(policy.check_place(&other, &place("eu-prod/_policy")).is_err());
}

proptest! {
    #[test]
    fn a_changed_byte_is_refused_or_survives_the_round_trip(
        at: prop::sample::Index, byte: u8,
    ) {
        let mut changed = golden().into_bytes();
        let length = changed.len();
        changed[at.index(length)] = byte;
        if let Ok(parsed) = Policy::parse(&changed, ours()) {
            let written = parsed.to_bytes().unwrap();
            prop_assert_eq!(Policy::parse(&written, ours()), Ok(parsed));
        }
    }
}
