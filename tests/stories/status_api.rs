//! The status API as strangers meet it: calls made up from its own description, and hostile ones.

use std::{fs, process::Command};

use serde_json::Value;
use shared::{
    report::{Reason, Report},
    state_word::StateWord,
};
use tests::{Realm, fixture, fleet::Member, long, python, run};

/// A path without references, in the cache of the fixtures.
const SMALL: &str = "/nix/store/8a5dkmn6y99jrqzk5qqfsgpnrq081qka-base-1.0";

/// What an answer must keep to, whatever was asked.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance";

/// A realm with a group, two versions of a manifest, and a host that reported, as changed.
fn fleet(change: impl FnOnce(&mut Report)) -> (Realm, String) {
    let realm = Realm::new();
    let cache = format!("file://{}", fixture("nix/cache-zstd").display());
    let builder = fs::read_to_string(fixture("nix/keys/cache.test-1.public")).unwrap();
    let group = ["group", "create", "eu-prod", "--cache", &cache, "--builder", builder.trim()];
    realm.operator().sign(&[group.as_slice(), &["--profile", "web:none"]].concat()).ok();
    let key = realm.signer("web").key("web");
    realm.operator().sign(&["team", "add", "web", "--key", &key, "--may", "eu-prod/web"]).ok();
    for note in ["1.0", "<script>alert(1)</script>"] {
        let publish = ["publish", "manifest", "eu-prod/web", SMALL, "--activation", "none"];
        realm.signer("web").sign(&[publish.as_slice(), &["--note", note]].concat()).ok();
    }
    let mut token = realm.operator().registry();
    token.args(["host", "enroll-token", "--group", "eu-prod", "--data"]).arg(realm.data());
    let token = run(&mut token).ok().trim().to_owned();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let host = runtime.block_on(async {
        let http = reqwest::Client::builder().tls_certs_only([]).build().unwrap();
        let host = Member::enrol(&http, &realm.url, &token, 1).await.unwrap();
        let reports = format!("{}/api/v1/realms/main/reports", realm.url);
        let answer =
            http.post(reports).body(host.report_with(1, 1, change).unwrap()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        host.name.to_string()
    });
    (realm, host)
}

#[test]
fn no_call_made_up_from_the_description_is_answered_in_a_way_that_it_does_not_tell() {
    let (realm, host) = fleet(|_| ());
    let known = format!(
        "[parameters]\n\"path.realm\" = \"main\"\n\"path.group\" = \"eu-prod\"\n\
         \"path.profile\" = \"web\"\n\"path.version\" = 2\n\"path.host\" = \"{host}\"\n\
         \"path.attempt\" = \"0123456789abcdef\"\n\"path.team\" = \"web\"\n"
    );
    let examples = if long() { "200" } else { "8" };
    // Names that are made up lead nowhere; names that are there lead to what can be wrong.
    for (name, settings) in [("made-up", ""), ("known", known.as_str())] {
        let file = realm.folder().join(format!("{name}.toml"));
        fs::write(&file, settings).unwrap();
        let mut command = Command::new(python());
        command.current_dir(realm.folder()).env("NO_COLOR", "1");
        command.args(["-m", "schemathesis.cli", "--config-file"]).arg(&file).arg("run");
        command.args(["--checks", CHECKS, "--phases", "examples,coverage,fuzzing"]);
        command.args(["--max-examples", examples, "--seed", "1", "--warnings", "off"]);
        // What never ends has its own story.
        command.args(["--exclude-path-regex", "/events$", "--suppress-health-check", "all"]);
        let told = run(command.arg(format!("{}/openapi.json", realm.url))).ok();
        assert!(told.contains("No issues found"), "{told}");
    }
}

#[test]
fn what_a_hostile_host_says_is_text_in_json_and_does_nothing_to_a_terminal_or_a_log() {
    let hostile = "<script>alert(1)</script>\u{1b}]0;owned\u{7}\r\u{9b}31m\u{202e}\n| sh";
    let (realm, host) = fleet(|report| {
        for profile in &mut report.profiles {
            profile.state = StateWord::RolledBack;
            let (code, text) = (hostile.to_owned(), hostile.to_owned());
            profile.reason = Some(Reason { code, text });
            profile.next = Some(format!("agent status; {hostile}"));
            if let Some(attempt) = &mut profile.attempt {
                attempt.log = format!("{hostile}{}", "x".repeat(40_000));
                attempt.phases.iter_mut().for_each(|phase| phase.0 = hostile.to_owned());
            }
        }
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let told = |path: &str| {
        let url = format!("{}/api/v1/realms/main/{path}", realm.url);
        runtime.block_on(async {
            let http = reqwest::Client::builder().tls_certs_only([]).build().unwrap();
            let answer = http.get(url).send().await.unwrap();
            assert_eq!(answer.headers()["content-type"], "application/json");
            answer.text().await.unwrap()
        })
    };
    for path in ["hosts".to_owned(), "fleet".to_owned(), format!("hosts/{host}/attempts")] {
        let text = told(&path);
        assert!(!text.contains(|letter: char| letter.is_ascii_control()), "{path}: {text}");
        let json: Value = serde_json::from_str(&text).unwrap();
        assert!(!json.to_string().contains("agent status;"), "{path} names a command to paste");
    }
    let show = ["host", "show", &host, "--data", realm.data().to_str().unwrap()].map(str::to_owned);
    let data: Vec<&str> = show.iter().map(String::as_str).collect();
    for words in [["hosts"].as_slice(), &["hosts", "--json"], &["history", "eu-prod/web"], &data] {
        let ran = realm.operator().run(words);
        for said in [&ran.stdout, &ran.stderr] {
            let bad = |letter: char| letter.is_control() && letter != '\n';
            assert!(!said.contains(bad), "{words:?} wrote {said:?}");
        }
        ran.ok();
    }
    let logged = realm.log();
    assert!(!logged.contains(['\u{1b}', '\u{7}', '\u{9b}']), "{logged:?}");
}
