//! Windows hold back what hosts do, and say until when: the real programs, by their own clocks.

use std::{process::Command, sync::mpsc};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde_json::Value;
use tests::{Builder, Host, Ran, Realm, Server, Signer, run, tool};

struct Story {
    builder: Builder,
    realm: Realm,
    host: Host,
}

impl Story {
    fn new() -> Self {
        let builder = Builder::new();
        let cache = builder.cache_url();
        Self::with_cache(builder, &cache)
    }

    fn with_cache(builder: Builder, cache: &str) -> Self {
        let realm = Realm::new();
        let create = ["group", "create", "eu", "--cache", cache, "--profile", "web:none"];
        realm.operator().sign(&create).ok();
        let key = realm.signer("web").key("web");
        realm.operator().sign(&["team", "add", "web", "--key", &key, "--may", "eu/web"]).ok();
        let host = Host::enrol(&realm, "eu", "host-1");
        Self { builder, realm, host }
    }

    fn team(&self) -> Signer<'_> {
        self.realm.signer("web")
    }

    fn publish(&self, text: &str, options: &[&str]) -> String {
        let path = self.builder.add("web", &[("share/web", text)], &[]);
        self.builder.push(&path).ok();
        let root = self.builder.root();
        let publish = ["publish", "manifest", "eu/web", &path, "--root", root.to_str().unwrap()];
        self.team().sign(&[&publish[..], options].concat()).ok();
        path
    }

    /// Runs the agent with its clock this far ahead.
    fn later(&self, hours: i64, arguments: &[&str]) -> Ran {
        self.by_clock(&format!("+{hours}h"), arguments)
    }

    /// Runs the agent by a clock that libfaketime describes so; how long it waits is not faked.
    fn by_clock(&self, clock: &str, arguments: &[&str]) -> Ran {
        let agent = self.host.agent();
        let mut faked = tool("faketime");
        faked.args(["-f", clock]).arg(agent.get_program()).args(agent.get_args());
        faked.env("DONT_FAKE_MONOTONIC", "1");
        environment(&mut faked, &agent);
        run(faked.args(arguments))
    }
}

fn environment(to: &mut Command, from: &Command) {
    for (name, value) in from.get_envs() {
        match value {
            Some(value) => to.env(name, value),
            None => to.env_remove(name),
        };
    }
}

/// A window of an hour that opens so many hours from now, in this zone; and when.
fn opens_in(hours: i64, zone: &str) -> (String, Timestamp) {
    let then = Timestamp::now().checked_add(SignedDuration::from_hours(hours)).unwrap();
    let then = then.to_zoned(TimeZone::get(zone).unwrap());
    let minute = then.with().second(0).subsec_nanosecond(0).build().unwrap();
    (minute.strftime(&format!("%M %H * * * {zone} 1h")).to_string(), minute.timestamp())
}

#[test]
fn a_host_switches_in_the_windows_of_its_team_its_owners_and_its_own() {
    let story = Story::new();
    let host = &story.host;
    let first = story.publish("1", &[]);
    host.run(&["once"]).ok();
    let (window, opens) = opens_in(6, "Europe/Berlin");
    story.publish("2", &["--switch-window", &window]);
    let planned: Value = serde_json::from_str(&host.run(&["plan", "--json"]).stdout).unwrap();
    assert_eq!(planned["profiles"][0]["until"], opens.to_string());
    let told = host.run(&["once"]).fails(1);
    assert!(told.contains(&format!("no window is open to switch until {opens}")), "{told}");
    assert_eq!(host.state("web"), "waiting window_closed");
    let waiting = host.profile("web");
    assert_eq!(waiting["until"], opens.to_string());
    assert_eq!(waiting["next"], "agent plan web");
    assert!(host.run(&["status"]).ok().contains("(in 5h "));
    // The bytes are here already: only the switch waits.
    assert_eq!(host.nix().valid_paths().len(), 2);
    assert_eq!(host.current("web"), Some(first.clone()));

    story.later(5, &["once"]).fails(1);
    assert_eq!(host.current("web"), Some(first));
    story.later(6, &["once"]).ok();
    let second = host.current("web");
    // The owners' windows and the host's own narrow that.
    let (owners, _) = opens_in(6, "UTC");
    story.realm.operator().sign(&["group", "set", "eu", "--switch-window", &owners]).ok();
    let third = story.publish("3", &[]);
    host.configure(&window_config("switch", &opens_in(7, "America/New_York").0));
    story.later(6, &["once"]).fails(1);
    assert_eq!(host.current("web"), second, "the host's own is not open yet");
    host.configure("[windows]\nswitch = []\n");
    story.later(6, &["once"]).ok();
    assert_eq!(host.current("web"), Some(third));

    story.realm.operator().sign(&["group", "set", "eu", "--no-windows"]).ok();
    let fourth = story.publish("4", &["--no-windows"]);
    host.run(&["once"]).ok();
    assert_eq!(host.current("web"), Some(fourth));
    host.nix().verify();
}

fn window_config(kind: &str, window: &str) -> String {
    let words: Vec<&str> = window.split(' ').collect();
    let (cron, zone) = (words[..5].join(" "), words[5]);
    format!("[windows]\n{kind} = [{{ cron = \"{cron}\", zone = \"{zone}\", length = 3600 }}]\n")
}

#[test]
fn outside_its_window_nothing_is_fetched_and_a_person_outranks_every_window() {
    let story = Story::new();
    let host = &story.host;
    let first = story.publish("1", &[]);
    host.run(&["once"]).ok();
    story.publish("2", &[]);
    host.run(&["once"]).ok();
    let (window, _) = opens_in(3, "Asia/Kolkata");
    host.configure(&window_config("fetch", &window));
    let third = story.publish("3", &[]);
    host.run(&["once"]).fails(1);
    assert_eq!(host.state("web"), "waiting window_closed");
    assert_eq!(host.nix().valid_paths().len(), 2, "nothing was fetched");
    host.configure(&window_config("switch", &window));
    let over = ["pin", "web", "--until", "2020-01-01T00:00:00Z"];
    assert!(host.run(&over).fails(2).contains("is over already"));
    host.run(&["rollback", "web", "--until", "1h"]).ok();
    assert_eq!(host.current("web"), Some(first.clone()));
    // The pin ends by itself, and the windows hold as before.
    story.later(2, &["once"]).fails(1);
    assert_eq!(host.current("web"), Some(first));
    story.later(3, &["once"]).ok();
    assert_eq!(host.current("web"), Some(third));
    let told = story.later(3, &["status", "--oneline"]).ok();
    assert!(told.contains("converged"), "by its own clock the pin has ended: {told}");
}

#[test]
fn a_fetch_that_is_under_way_ends_with_its_window_and_goes_on_in_the_next() {
    let builder = Builder::new();
    let cache = Server::new(&builder.cache());
    let story = Story::with_cache(builder, &cache.url());
    let host = &story.host;
    let second = story.publish("1", &[]);
    // It sends nothing of a NAR for as long as the story holds this end.
    let (release, held) = mpsc::channel::<()>();
    cache.hook(move |request| {
        if request.path().starts_with("/nar/") {
            let _ended = held.recv();
        }
        None
    });
    let (window, _) = opens_in(0, "UTC");
    host.configure(&window_config("fetch", &window));
    // So that it does not grow stale meanwhile.
    host.configure("[registry]\npoll = 3600\n");
    // Ten minutes go by in each second, so that the hour of the window soon has.
    let told = story.by_clock("+0 x600", &["once"]).fails(1);
    assert!(told.contains("no window is open to fetch until"), "{told}");
    assert_eq!(host.state("web"), "waiting window_closed");
    assert_eq!(host.nix().valid_paths().len(), 0);
    assert_eq!(host.current("web"), None);
    drop(release);
    story.later(24, &["once"]).ok();
    assert_eq!(host.current("web"), Some(second));
}

#[test]
fn a_service_that_ends_waits_for_its_window_too() {
    let story = Story::new();
    let host = &story.host;
    let first = story.publish("1", &[]);
    host.run(&["once"]).ok();
    let (window, _) = opens_in(6, "UTC");
    let retire = ["publish", "manifest", "eu/web", "--retire", "stop", "--switch-window", &window];
    story.team().sign(&retire).ok();
    host.run(&["once"]).fails(1);
    assert_eq!(host.state("web"), "waiting window_closed");
    assert_eq!(host.current("web"), Some(first));
    story.later(6, &["once"]).ok();
    assert_eq!(host.current("web"), None);
    assert_eq!(host.state("web"), "converged retired");
}

#[test]
fn a_window_that_cannot_be_is_refused_where_it_is_written() {
    let story = Story::new();
    let set = |window: &str| {
        story.realm.operator().sign(&["group", "set", "eu", "--switch-window", window]).fails(2)
    };
    assert!(set("0 2 * * Europe/Berlin 2h").contains("has not five fields"));
    assert!(set("0 2 1 * 1 UTC 2h").contains("a day of the month and a day of the week"));
    assert!(set("0 0 30 2 * UTC 2h").contains("never opens"));
    assert!(set("0 2 * * * Europe/Atlantis 2h").contains("no time zone `Europe/Atlantis`"));
    story.host.configure("[[windows.switch]]\ncron = \"0 2 * * 8\"\nzone = \"UTC\"\nlength = 60\n");
    let told = story.host.run(&["status"]).fails(2);
    assert!(told.contains("the day of week `8` has a number that it cannot have"), "{told}");
}
