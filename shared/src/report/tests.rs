use proptest::prelude::*;

use super::*;

fn golden() -> String {
    let path = "/nix/store/0a455acx720hx0zfwn0q7gn8y2jrvllr-webshop-3.0";
    [
        r#"{"format":1,"realm":"main","host":""#,
        &HostId([1; 32]).to_string(),
        r#"","name":"web-17","boot_id":"b0071d","counter":812,"nonce":null,"#,
        r#""time":"2026-03-01T14:08:20Z","agent":"0.1.0","system":"x86_64-linux","labels":{},"#,
        r#""clock":"synchronized","free":{"store":44023414784,"boot":null},"#,
        r#""trust":{"root":1,"timestamp":812,"snapshot":""#,
        &Digest([2; 32]).to_string(),
        r#"","signed_at":"2026-03-01T14:00:00Z"},"#,
        r#""profiles":[{"group":"eu-prod","profile":"webshop","state":"rolled_back","#,
        r#""since":"2026-03-01T14:04:00Z","#,
        r#""reason":{"code":"health_failed","text":"web: 502 three times"},"#,
        r#""next":"agent retry webshop","wanted":{"epoch":0,"version":42,"path":""#,
        path,
        r#""},"running":{"epoch":0,"version":41,"path":""#,
        path,
        r#"","generation":118},"healthy_since":"2026-03-01T14:05:00Z","#,
        r#""attempt":{"id":"a1","phases":[["fetching","2026-03-01T14:03:50Z",6]],"log":"…"}}]}"#,
    ]
    .concat()
}

#[test]
fn reads_and_writes_the_same_bytes() {
    let report = Report::parse(golden().as_bytes()).unwrap();
    assert_eq!(String::from_utf8(report.to_bytes().unwrap()).unwrap(), golden());
    assert_eq!(report.state(), Some(StateWord::RolledBack));
}

#[test]
fn a_machine_with_nixos_tells_of_its_three_systems() {
    let mut report = Report::parse(golden().as_bytes()).unwrap();
    let path = "/nix/store/0a455acx720hx0zfwn0q7gn8y2jrvllr-nixos-system-web-17".parse().ok();
    report.systems = Some(Systems { running: path.clone(), booted: path, next_boot: None });
    let bytes = report.to_bytes().unwrap();
    assert!(String::from_utf8_lossy(&bytes).contains(r#""next_boot":null"#));
    assert_eq!(Report::parse(&bytes).unwrap(), report);
}

#[test]
fn lets_keys_of_newer_agents_through() {
    let newer = golden().replacen("{", r#"{"future":[1],"#, 1);
    assert_eq!(Report::parse(newer.as_bytes()), Report::parse(golden().as_bytes()));
}

#[test]
fn refuses_a_state_without_reason_or_next_command() {
    for (from, to) in [
        (r#""next":"agent retry webshop""#, r#""next":null"#),
        (r#"{"code":"health_failed","text":"web: 502 three times"}"#, "null"),
    ] {
        let changed = golden().replace(from, to);
        let refused = Report::parse(changed.as_bytes());
        assert!(matches!(refused, Err(ReportError::Unexplained { .. })), "{to}");
        let converged = changed.replace("rolled_back", "converged");
        assert!(Report::parse(converged.as_bytes()).is_ok());
    }
}

#[test]
fn refuses_what_is_no_report() {
    for (from, to) in [
        (r#""format":1"#, r#""format":2"#),
        (r#""counter":812"#, r#""counter":-1"#),
        (r#""counter":812"#, r#""counter":9007199254740993"#),
        (r#""nonce":null,"#, ""),
        ("rolled_back", "green"),
        ("14:08:20Z", "14:08:20.5Z"),
        (r#""counter":812"#, r#""counter":812,"counter":813"#),
    ] {
        assert!(Report::parse(golden().replace(from, to).as_bytes()).is_err(), "{to}");
    }
    let long = golden().replace("502", &"5".repeat(MAX_LEN));
    assert!(Report::parse(long.as_bytes()).is_err());
}

proptest! {
    #[test]
    fn a_changed_byte_is_refused_or_survives_the_round_trip(
        at: prop::sample::Index, byte: u8,
    ) {
        let mut changed = golden().into_bytes();
        let length = changed.len();
        changed[at.index(length)] = byte;
        if let Ok(parsed) = Report::parse(&changed) {
            let written = parsed.to_bytes().unwrap();
            prop_assert_eq!(Report::parse(&written), Ok(parsed));
        }
    }
}
