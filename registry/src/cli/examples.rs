//! A fleet as the API tells it, for the tests of what is written of it.

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use shared::api::HostSummary;

/// When all of it is looked at.
pub(super) fn now() -> Timestamp {
    "2026-03-01T14:08:20Z".parse().unwrap()
}

/// Reads an answer of the API.
pub(super) fn answer<T: DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).unwrap()
}

/// A store path of this letter and name.
pub(super) fn path(letter: char, name: &str) -> String {
    format!("/nix/store/{}-{name}", letter.to_string().repeat(32))
}

/// What a host says of its profile `web/app`.
pub(super) fn profile(state: &str, since: &str, running: u32, why: Option<(&str, &str)>) -> Value {
    json!({
        "group": "web", "profile": "app", "state": state, "since": since,
        "reason": why.map(|(code, text)| json!({"code": code, "text": text})),
        "next": why.map(|_| "agent status"),
        "wanted": {"epoch": 0, "version": 42, "path": path('b', "app-3.0")},
        "running": {
            "epoch": 0, "version": running, "generation": running + 77,
            "path": path('a', if running == 42 { "app-3.0" } else { "app-2.9" }),
        },
        "healthy_since": null,
        "attempt": null,
    })
}

/// A host with this profile.
pub(super) fn host(name: &str, seen: &str, profile: &Value) -> Value {
    json!({
        "host": name.as_bytes().iter().map(|it| format!("{it:02x}")).collect::<String>()
            .repeat(11).get(..64).unwrap(),
        "name": name, "groups": ["web"], "labels": {"region": "eu"},
        "state": profile["state"], "reason": profile["reason"], "since": profile["since"],
        "next": profile["next"], "reported_at": seen, "agent": "0.1.0", "profiles": [profile],
    })
}

/// Five hosts that are not converged, and one that is.
pub(super) fn hosts() -> Vec<HostSummary> {
    let fetching = ("fetching", "cache-b does not answer");
    let mut silent = host(
        "web-21",
        "2026-03-01T11:08:20Z",
        &profile("fetching", "2026-03-01T11:08:00Z", 40, Some(fetching)),
    );
    silent["state"] = "stale".into();
    silent["since"] = "2026-03-01T11:08:20Z".into();
    silent["reason"] = json!({"code": "no_report", "text": "no report since 2026-03-01T11:08:20Z"});
    silent["next"] = "on web-21: agent status".into();
    let mut held = profile(
        "pinned",
        "2026-03-01T12:08:20Z",
        41,
        Some(("pinned", "root, until 18:00: kernel panic")),
    );
    held["next"] = "agent unpin app".into();
    let mut rolled_back = profile(
        "rolled_back",
        "2026-03-01T14:04:20Z",
        41,
        // A host may say anything.
        Some(("health_failed", "http-8080: answered 502 \u{1b}[31m3 times\u{202e}")),
    );
    rolled_back["next"] = "agent retry app".into();
    let switching = profile(
        "switching",
        "2026-03-01T14:08:09Z",
        41,
        Some(("in_progress", "restarting 3 units")),
    );
    let json = vec![
        silent,
        host("web-17", "2026-03-01T14:08:11Z", &rolled_back),
        host("web-09", "2026-03-01T14:08:12Z", &held),
        host("web-04", "2026-03-01T14:08:18Z", &switching),
        host(
            "web-01",
            "2026-03-01T14:08:18Z",
            &profile("converged", "2026-03-01T14:03:02Z", 42, None),
        ),
    ];
    answer(json.into())
}
