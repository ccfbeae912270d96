use expect_test::expect;
use serde_json::json;

use super::*;
use crate::cli::examples::{answer, now, path};

fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

/// A host that went back, and all that it last said.
fn detail() -> HostDetail {
    let summary = crate::cli::examples::hosts().remove(1);
    let mut json = serde_json::to_value(&summary).unwrap();
    let more = json!({
        "enrolled_at": "2026-01-01T00:00:00Z",
        "not_after": "2027-02-05T00:00:00Z",
        "as_of": "2026-03-01T14:08:20Z",
        "report": {
            "format": 1, "realm": "main", "host": json["host"], "name": "web-17",
            "boot_id": "9f1c6f3e-6c1d-4f5e-8a43-0d4a0d8f1b11", "counter": 812, "nonce": null,
            "time": "2026-03-01T14:08:10Z", "agent": "0.1.0", "system": "x86_64-linux",
            "labels": {"region": "eu"}, "clock": "synchronized",
            "free": {"store": 44_023_414_784_u64, "boot": 222_298_112},
            "trust": {"root": 3, "timestamp": 812, "snapshot": null,
                      "signed_at": "2026-03-01T13:20:00Z"},
            "profiles": json["profiles"],
        },
    });
    let Value::Object(more) = more else { panic!("an object") };
    json.as_object_mut().unwrap().extend(more);
    answer(json)
}

fn attempt(log: &str) -> HostAttempt {
    answer(json!({
        "id": "9a18568b4974c525", "group": "web", "profile": "app", "state": "rolled_back",
        "since": "2026-03-01T14:04:20Z",
        "reason": {"code": "health_failed", "text": "http-8080: answered 502 3 times"},
        "next": "agent retry app",
        "wanted": {"epoch": 0, "version": 42, "path": path('b', "app-3.0")},
        "running": null,
        "phases": [
            {"phase": "fetching", "began": "2026-03-01T14:03:01Z", "seconds": 6},
            {"phase": "switching", "began": "2026-03-01T14:03:07Z", "seconds": 4},
            {"phase": "confirming", "began": "2026-03-01T14:03:11Z", "seconds": 66},
        ],
        "log": log, "log_is_cut": false, "told_at": "2026-03-01T14:04:21Z",
    }))
}

#[test]
fn a_host_is_told_with_its_profiles_and_attempts() {
    let detail = detail();
    let attempts = [attempt("bind: address in use")];
    let text = head(&detail, now()) + &profiles(&detail, now()) + &list(&attempts, now());
    expect![[r#"
        web-17 · ↩R rolled_back · web
        Seen      9s ago · agent 0.1.0 · x86_64-linux · clock kept right · store 41.0 GiB free · boot 212.0 MiB free
        Enrolled  59d 14h ago; its certificate ends in 340d 9h
        Labels    region=eu
        Trusts    root 3, timestamp 812, signed 48m 20s ago

        web/app  ↩R rolled_back (4m ago)
          Running   #41  generation 118  /nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-app-2.9
          Wanted    #42  /nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-app-3.0
          Why       http-8080: answered 502  [31m3 times  [health_failed]
          Next      on web-17: agent retry app

        ATTEMPT           PROFILE  ENDED   WANTED  OUTCOME         TOOK    REASON
        9a18568b4974c525  web/app  4m ago  #42     ↩R rolled_back  1m 16s  http-8080: answered 502 3 times
    "#]].assert_eq(&plain(&text));
}

#[test]
fn why_tells_what_is_published_what_changes_what_was_said_and_what_next() {
    let detail = detail();
    let lines: String = (1..=20).map(|line| format!("line {line}\u{1b}[2J\n")).collect();
    let in_force = json!({
        "target": "web/app", "epoch": 0, "version": 43, "digest": "0".repeat(64), "role": "platform",
        "role_version": 7, "signers": [], "published_at": "2026-03-01T14:08:10Z", "note": "",
        "in_force": true, "take": null, "files": {"target": "", "role": ""},
    });
    let told = Why {
        profile: detail.summary.profiles[0].clone(),
        in_force: Some(answer(in_force)),
        change: Some(answer(crate::cli::diff::tests::two_packages())),
        attempt: Some(attempt(&lines)),
    };
    expect![[r#"

        web/app  ↩R rolled_back (4m ago)
          Running   #41  generation 118  /nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-app-2.9
          Wanted    #42  /nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-app-3.0
          Why       http-8080: answered 502  [31m3 times  [health_failed]
          Next      on web-17: agent retry app
          In force  #43, published 10s ago; the host has not told of it
          Change    2 changed, 1 added · closure 1.8 GiB (+1.1 MiB) · a host downloads at most 38.0 MiB in 14 paths
          Last      Attempt 9a18568b4974c525 of web/app to #42: ↩R rolled_back 4m ago
                    fetching 6s → switching 4s → confirming 1m 6s
                    │ line 9 [2J
                    │ line 10 [2J
                    │ line 11 [2J
                    │ line 12 [2J
                    │ line 13 [2J
                    │ line 14 [2J
                    │ line 15 [2J
                    │ line 16 [2J
                    │ line 17 [2J
                    │ line 18 [2J
                    │ line 19 [2J
                    │ line 20 [2J
                    All of it: registry host web-17 --log 9a18568b4974c525
    "#]].assert_eq(&plain(&why(&detail, &[told], now())));
}

#[test]
fn what_an_attempt_wrote_does_nothing_to_a_terminal() {
    let hostile = "<script>\u{1b}]0;owned\u{7}\r\nnext\u{9b}31m\u{202e}\n\n";
    assert_eq!(output(&attempt(hostile)), "<script> ]0;owned \nnext 31m \n");
    assert_eq!(output(&attempt("\n")), "");
    assert!(about(&attempt(""), now()).ends_with("It wrote nothing.\n"));
}
