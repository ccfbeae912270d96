//! `agent run`, and commands that its operator types meanwhile.

use std::{fs, os::unix::fs::PermissionsExt as _};

use tests::{Builder, Host, Random, Realm, Response, Server, Service, eventually, run, tool};

use super::{ACTIVATE, active, profile, publish, publish_path, realm, team};

/// Waits until a profile is in a state, as `agent status` tells it.
fn becomes(host: &Host, state: &str) {
    eventually(state, || (host.state("web") == state).then_some(()));
}

fn runs(host: &Host, version: &str) {
    eventually(version, || (active(host, "web").as_deref() == Some(version)).then_some(()));
}

#[test]
fn a_daemon_follows_what_is_published_and_yields_to_its_operator() {
    let builder = Builder::new();
    let realm = realm(&builder, &["web"]);
    let web = team(&realm, "web");
    let host = Host::enrol(&realm, "eu", "host-1");
    host.configure("[registry]\npoll = 1\nwait = 5\n");
    let first = publish(&web, &builder, "web", ACTIVATE);
    let mut daemon = Service::start(host.agent().arg("run"), "converged");
    becomes(&host, "converged");
    let second = publish(&web, &builder, "web", &format!("{ACTIVATE}; true"));
    runs(&host, "2");
    becomes(&host, "converged");

    host.run(&["rollback", "web", "--reason", "slow"]);
    assert_eq!(host.current("web"), Some(first.clone()));
    publish(&web, &builder, "web", &format!("{ACTIVATE}; true; true"));
    eventually("the daemon has version 3", || {
        (host.profile("web")["wanted"]["version"] == 3).then_some(())
    });
    assert_eq!(host.state("web"), "pinned pinned");
    assert_eq!(host.current("web"), Some(first));
    host.run(&["unpin", "web"]);
    runs(&host, "3");
    becomes(&host, "converged");
    host.run(&["rollback", "web", "2"]);
    assert_eq!(host.current("web"), Some(second));

    assert_eq!(daemon.terminate(), Some(0));
    host.nix().verify();
}

#[test]
fn a_daemon_says_in_its_log_how_far_a_long_fetch_is() {
    let (builder, realm) = (Builder::new(), Realm::new());
    let cache = Server::new(&builder.cache());
    let words = ["group", "create", "eu", "--cache", &cache.url(), "--profile", &profile("web")];
    realm.operator().sign(&words).ok();
    let web = team(&realm, "web");
    let host = Host::enrol(&realm, "eu", "host-1");
    // It takes 14 seconds, and every ten there is a line.
    host.configure("[registry]\npoll = 1\nwait = 5\n[store]\nbandwidth = 50000\n");
    let noise = Random::new("daemon::fetch").bytes(900_000);
    let noise: String = noise.into_iter().map(|byte| char::from(b'!' + byte % 90)).collect();
    let activate = format!("#!/bin/sh\n{ACTIVATE}\n");
    let path = builder.add("web", &[("bin/activate", &activate), ("noise", &noise)], &[]);
    builder.push(&path).ok();
    publish_path(&web, &builder, "web", &path).ok();
    let mut daemon = Service::start(host.agent().arg("run"), "fetching");
    let line = daemon.says("seconds_left=");
    for part in ["0/1 paths", " of 879.", "KiB/s", " left", &cache.url(), "profile=web"] {
        assert!(line.contains(part), "no `{part}` in {line}");
    }
    becomes(&host, "converged");
    assert_eq!(active(&host, "web").as_deref(), Some("1"));
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn a_daemon_takes_a_changed_configuration_on_sighup_and_keeps_the_old_one_if_it_is_bad() {
    let builder = Builder::new();
    let realm = realm(&builder, &["web"]);
    let web = team(&realm, "web");
    let host = Host::enrol(&realm, "eu", "host-1");
    host.configure("[registry]\npoll = 1\nwait = 5\n");
    publish(&web, &builder, "web", ACTIVATE);
    let mut daemon = Service::start(host.agent().arg("run"), "converged");
    becomes(&host, "converged");
    let hang_up = |daemon: &Service| {
        let id = rustix::process::Pid::from_raw(daemon.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::HUP).unwrap();
    };
    let drop_in = host.state_dir().parent().unwrap().join("agent.toml.d/50.toml");
    std::fs::write(&drop_in, "[profile]\nallow = []\n").unwrap();
    hang_up(&daemon);
    let told = daemon.says("that of before holds");
    assert!(told.contains("unknown key `profile.allow`; did you mean `profiles.allow`"), "{told}");
    std::fs::write(&drop_in, "state_dir = \"/elsewhere\"\n").unwrap();
    hang_up(&daemon);
    daemon.says("`state_dir` cannot change while the agent runs");
    // What only shows when it is used.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let metrics = format!("[daemon]\nmetrics = \"{}\"\n", taken.local_addr().unwrap());
    std::fs::write(&drop_in, metrics).unwrap();
    hang_up(&daemon);
    daemon.says("(os error 98): `daemon.metrics` is");
    // It would lead commands elsewhere as well.
    std::fs::remove_file(&drop_in).unwrap();
    publish(&web, &builder, "web", &format!("{ACTIVATE}; true"));
    runs(&host, "2");
    becomes(&host, "converged");

    std::fs::write(&drop_in, "[profiles]\nallow = [\"db\"]\n").unwrap();
    hang_up(&daemon);
    becomes(&host, "waiting not_allowed");
    std::fs::remove_file(&drop_in).unwrap();
    hang_up(&daemon);
    becomes(&host, "converged");
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn a_daemon_that_is_told_to_end_ends_a_switch_first() {
    let builder = Builder::new();
    let realm = realm(&builder, &["web"]);
    let web = team(&realm, "web");
    let host = Host::enrol(&realm, "eu", "host-1");
    let slow = format!("touch \"$SHOAL_ROOT/begun\"; sleep 3; {ACTIVATE}");
    publish(&web, &builder, "web", &slow);
    let mut daemon = Service::start(host.agent().arg("run"), "fetch");
    let begun = host.root().join("begun");
    eventually("the activation begins", || begun.exists().then_some(()));
    assert_eq!(daemon.terminate(), Some(0));
    assert_eq!(active(&host, "web").as_deref(), Some("1"));
    assert_eq!(host.state("web"), "converged");
}

#[test]
fn a_daemon_opens_a_cache_of_its_own_with_its_password_and_tells_it_to_nobody() {
    let builder = Builder::new();
    let realm = realm(&builder, &["web"]);
    let web = team(&realm, "web");
    let host = Host::enrol(&realm, "eu", "host-1");
    let path = publish(&web, &builder, "web", ACTIVATE);
    let cache = Server::new(&builder.cache());
    // `deploy:hunter2`.
    cache.hook(|request| {
        let given = request.headers.get("authorization").map(String::as_str);
        (given != Some("Basic ZGVwbG95Omh1bnRlcjI=")).then(|| Response::new(401, "who is it?"))
    });
    let netrc = realm.folder().join("netrc");
    fs::write(&netrc, "machine 127.0.0.1 login deploy password hunter2\n").unwrap();
    fs::set_permissions(&netrc, fs::Permissions::from_mode(0o600)).unwrap();
    // Nothing but this host's own cache has it.
    host.configure("[trust]\ncaches = []\n");
    host.configure(&format!("[[cache]]\nurl = \"{}\"\n", cache.url()));
    host.run(&["once"]).fails(1);
    assert_eq!(host.state("web"), "fetching fetch_failed");
    let told = host.profile("web")["reason"]["text"].to_string();
    assert!(told.contains("401"), "{told}");

    let with_password = format!("[[cache]]\nurl = \"{}\"\nnetrc = {netrc:?}\n", cache.url());
    fs::remove_file(host.state_dir().with_file_name("agent.toml.d").join("01.toml")).unwrap();
    host.configure(&with_password);
    host.run(&["retry", "web"]);
    let mut agent = host.agent();
    agent.args(["-v", "run"]).env("SHOAL_LOG", "trace");
    let mut daemon = Service::start(&mut agent, "converged");
    becomes(&host, "converged");
    assert_eq!(host.current("web"), Some(path));
    assert_eq!(daemon.terminate(), Some(0));
    let kept = run(tool("grep").args(["-rE", "hunter2|ZGVwbG95"]).arg(host.state_dir()));
    assert_eq!((kept.code, &*kept.stdout), (Some(1), ""), "{kept}");
    let said = daemon.talk();
    assert!(said.contains("TRACE") && !said.contains("hunter2") && !said.contains("ZGVwbG95"));
}
