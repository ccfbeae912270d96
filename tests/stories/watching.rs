//! Alerts and dashboard: rules that Prometheus' own tool tests, and metrics that are really served.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use tests::{Builder, Host, Realm, Service, eventually, run, tool};

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(deploy(path)).unwrap()
}

#[test]
fn each_alert_fires_when_it_should_and_links_a_runbook_that_is_there() {
    let rules = deploy("prometheus/rules.yml");
    let checked = run(tool("promtool").args(["check", "rules"]).arg(&rules)).ok();
    assert!(checked.contains("14 rules found"), "{checked}");
    run(tool("promtool").args(["test", "rules"]).arg(deploy("prometheus/tests.yml"))).ok();

    let (rules, tests) = (read("prometheus/rules.yml"), read("prometheus/tests.yml"));
    let runbooks = read("prometheus/runbooks.md");
    for alert in rules.split("- alert: ").skip(1) {
        let name = alert.lines().next().unwrap();
        let fires = format!("alertname: {name}\n        exp_alerts:");
        assert!(tests.contains(&fires), "no test sees {name} fire");
        let link = alert.split("runbook: deploy/prometheus/runbooks.md#").nth(1).unwrap();
        let anchor = link.lines().next().unwrap();
        let headings = runbooks.lines().filter_map(|line| line.strip_prefix("## "));
        assert!(headings.map(str::to_lowercase).any(|it| it == anchor), "no runbook {anchor}");
        assert!(alert.contains("next: "), "{name} names no next command");
    }
}

/// Returns the names of our metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let ours = |it: &&str| it.starts_with("shoal_registry_") || it.starts_with("shoal_agent_");
    text.split(word).filter(ours).map(str::to_owned).collect()
}

#[test]
fn what_rules_and_dashboard_ask_for_is_served_by_a_real_registry_and_a_real_agent() {
    let dashboard = read("grafana/shoal.json");
    let parsed: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    assert!(parsed["panels"].as_array().unwrap().len() > 10);
    let mut asked = names(&dashboard);
    asked.extend(names(&read("prometheus/rules.yml")));
    assert!(asked.len() > 15, "{asked:?}");

    let builder = Builder::new();
    let realm = Realm::new();
    let create =
        ["group", "create", "eu", "--cache", &builder.cache_url(), "--profile", "web:none"];
    realm.operator().sign(&create).ok();
    let key = realm.signer("web").key("web");
    realm.operator().sign(&["team", "add", "web", "--key", &key, "--may", "eu/web"]).ok();
    let path = builder.add("web-1.0", &[("share/web", "1")], &[]);
    builder.push(&path).ok();
    let root = builder.root();
    let publish = ["publish", "manifest", "eu/web", &path, "--root", root.to_str().unwrap()];
    realm.signer("web").sign(&publish).ok();
    let host = Host::enrol(&realm, "eu", "host-1");
    host.configure("[registry]\npoll = 1\nwait = 5\n[daemon]\nmetrics = \"127.0.0.1:0\"\n");
    let mut daemon = Service::start(host.agent().arg("run"), "metrics are served");
    let agent = daemon.url();
    let registry = format!("{}/metrics", realm.url);
    let missing = || {
        let served = names(&(tests::get(&agent) + &tests::get(&registry)));
        asked.difference(&served).cloned().collect::<Vec<_>>()
    };
    eventually("all metrics are served", || missing().is_empty().then_some(()));
    let text = tests::get(&registry);
    let converged =
        "shoal_registry_hosts{realm=\"main\",group=\"eu\",state=\"converged\"} 1".to_owned();
    assert!(text.lines().any(|line| line == converged), "{text}");
    assert!(!text.contains("host-1"), "a series for each host:\n{text}");
    assert_eq!(daemon.terminate(), Some(0));
}
