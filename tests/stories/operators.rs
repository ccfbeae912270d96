//! What operators look at all day: hosts, why they are not there yet, what differs, how the fleet is.

use serde_json::Value;
use tests::{Builder, Host, Realm, Service, Signer, bin, run, tool};

/// A realm whose group `eu` takes profile `web` from the builder's cache, and the team that
/// publishes it.
struct World {
    realm: Realm,
    builder: Builder,
}

impl World {
    fn new() -> Self {
        let (realm, builder) = (Realm::new(), Builder::new());
        // Nothing of a team runs as root unless the owners say so, and whoever runs this may be root.
        let root = rustix::process::geteuid().is_root();
        let profile = if root { "web:exec:privileged" } else { "web:exec" };
        let cache = builder.cache_url();
        let create = ["group", "create", "eu", "--cache", &cache, "--profile", profile];
        realm.operator().sign(&create).ok();
        let key = realm.signer("web").key("web");
        realm.operator().sign(&["team", "add", "web", "--key", &key, "--may", "eu/web"]).ok();
        Self { realm, builder }
    }

    fn publish(&self, activate: &str, note: &str) -> String {
        let path = self.builder.service("web", activate, &[]);
        self.builder.push(&path).ok();
        let root = self.builder.root();
        let words = ["publish", "manifest", "eu/web", &path, "--root", root.to_str().unwrap()];
        let more = ["--activation", "exec", "--note", note];
        self.realm.signer("web").sign(&[words.as_slice(), &more].concat()).ok();
        path
    }

    /// Three versions, of which `host-1` runs the second: the third cannot start.
    fn failed() -> (Self, Host) {
        let world = Self::new();
        world.publish("echo one", "1.0");
        let host = Host::enrol(&world.realm, "eu", "host-1");
        host.run(&["once"]).ok();
        world.publish("echo two", "2.0");
        host.run(&["once"]).ok();
        world.publish("printf 'the till\\033[31m is missing' >&2; exit 1", "3.0");
        host.run(&["once"]).fails(8);
        (world, host)
    }

    fn operator(&self) -> Signer<'_> {
        self.realm.operator()
    }

    /// Runs a command of the operator's on a terminal that speaks this language.
    fn on_a_terminal(&self, words: &[&str], language: &str) -> String {
        let command = self.operator().registry();
        let mut script = tool("script");
        let words: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
        let typed = format!("{} {}", command.get_program().to_str().unwrap(), words.join(" "));
        script.args(["--quiet", "--return", "--command", &typed, "/dev/null"]);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        script.env("LC_ALL", language).env("TERM", "xterm").env_remove("NO_COLOR");
        run(&mut script).ok()
    }
}

fn json(text: &str) -> Value {
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1, "one object in one line: {text}");
    serde_json::from_str(text).unwrap()
}

#[test]
fn an_operator_finds_the_host_that_failed_why_and_what_it_said() {
    let (world, _host) = World::failed();
    let operator = world.operator();

    let listed = operator.run(&["hosts", "eu", "--state", "!converged", "--sort", "state"]).ok();
    for words in ["host-1", "eu/web", "↩R rolled_back", "#2 → #3", "on host-1: agent retry web"]
    {
        assert!(listed.contains(words), "{words}: {listed}");
    }
    assert_eq!(operator.run(&["hosts", "--state", "converged"]).ok(), "");
    assert_eq!(operator.run(&["hosts", "--label", "region=eu"]).ok(), "");
    assert_eq!(operator.run(&["hosts", "--name", "host-2"]).ok(), "");
    operator.run(&["hosts", "--state", "green"]).fails(2);
    let listed = json(&operator.run(&["hosts", "--state", "rolled_back", "--json"]).ok());
    assert_eq!((&listed["schema"], &listed["of"]), (&"hosts.v1".into(), &1.into()));
    assert_eq!(listed["hosts"][0]["reason"]["code"], "activation_failed");

    let shown = operator.run(&["host", "host-1"]).ok();
    assert!(shown.contains("host-1 · ↩R rolled_back · eu"), "{shown}");
    assert_eq!(shown.matches("eu/web").count(), 4, "the profile and three attempts: {shown}");
    let why = operator.run(&["host", "host-1", "--why"]).ok();
    for words in ["Running   #2", "Wanted    #3", "[activation_failed]", "1 rebuilt", "│ the till"]
    {
        assert!(why.contains(words), "{words}: {why}");
    }
    let log = operator.run(&["host", "host-1", "--log"]).ok();
    assert_eq!(log, "the till [31m is missing\n");
    let told = json(&operator.run(&["host", "host-1", "--json"]).ok());
    let attempts = told["attempts"].as_array().unwrap();
    let states: Vec<_> = attempts.iter().map(|it| it["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["rolled_back", "converged", "converged"], "the latest first");
    let first = attempts[2]["id"].as_str().unwrap();
    assert_eq!(operator.run(&["host", "host-1", "--log", first]).ok(), "one\n");
    let why = json(&operator.run(&["host", "host-1", "--why", "--json"]).ok());
    assert_eq!(why["why"][0]["change"]["changes"][0]["diff"]["packages"][0]["name"], "web");
}

#[test]
fn two_versions_differ_for_all_hosts_and_for_one_by_what_it_runs() {
    let (world, host) = World::failed();
    let operator = world.operator();
    let told = operator.run(&["diff", "eu"]);
    assert!(told.stdout.contains("eu/web  #2 → #3\n"), "{told}");
    assert!(told.stdout.contains("Activation exec"), "{told}");
    assert!(told.stdout.contains(" · a host downloads at most "), "{told}");
    told.fails(1);
    let told = json(&operator.run(&["diff", "eu/web", "1", "#3", "--json"]).stdout);
    assert_eq!((&told["schema"], &told["differs"]), (&"manifest-diff.v1".into(), &true.into()));
    assert_eq!(told["manifests"][0]["published"]["note"], "3.0");
    let same = operator.run(&["diff", "eu", "3", "3"]).ok();
    assert!(same.contains("Every host keeps what it runs"), "{same}");
    operator.run(&["diff", "eu", "1", "9"]).fails(2);
    let of_host = operator.run(&["diff", "--host", "host-1"]);
    assert!(of_host.stdout.contains("#2 → #3 for host-1"), "{of_host}");
    of_host.fails(1);
    world.publish("echo four", "4.0");
    host.run(&["once"]).ok();
    let settled = operator.run(&["diff", "--host", "host-1"]).ok();
    assert!(settled.contains("#4 → #4 for host-1"), "{settled}");
    let why = operator.run(&["host", "host-1", "--why"]).ok();
    assert!(why.contains("all that is wanted of it runs"), "{why}");
}

#[test]
fn a_name_that_is_not_there_is_answered_with_the_one_that_was_meant() {
    let (world, _host) = World::failed();
    for (words, meant) in [
        (["hosts", "ue"].as_slice(), "did you mean `eu`?"),
        (&["diff", "ue"], "did you mean `eu`?"),
        (&["diff", "eu/wbe"], "did you mean `web`?"),
        (&["diff", "--host", "hots-1"], "did you mean `host-1`?"),
        (&["group", "show", "ue"], "did you mean `eu`?"),
        (&["group", "set", "ue", "--cache", "http://a"], "did you mean `eu`?"),
        (&["team", "show", "wbe"], "did you mean `web`?"),
        (&["host", "hots-1"], "did you mean `host-1`?"),
        (&["host", "HOST-1"], "there is no host `HOST-1`"),
        (&["host", "../hosts"], "there is no host `../hosts`"),
        (&["host", "enrol-token"], "did you mean the command `registry host enroll-token`?"),
        (&["host", "host-1", "--log", "0"], "there is no attempt `0`"),
    ] {
        let said = world.operator().run(words).fails(2);
        assert!(said.contains(meant) && said.contains("next: registry "), "{words:?}: {said}");
    }
}

#[test]
fn groups_and_teams_are_listed_and_shown_with_who_may_sign_what() {
    let (world, _host) = World::failed();
    let operator = world.operator();
    let plain = |words: &[&str]| {
        let said = operator.run(words).ok();
        said.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(plain(&["group", "list"]).ends_with("eu 1 0 (0 %) web 1 1 of 1"));
    let group = plain(&["group", "show", "eu"]);
    for words in ["eu · 1 host · 1 rolled_back", "profile web: take", "eu/web #3", "3.0"] {
        assert!(group.contains(words), "{words}: {group}");
    }
    let group = json(&operator.run(&["group", "show", "eu", "--json"]).ok());
    assert_eq!(group["schema"], "group-show.v1");
    assert_eq!((&group["policy"]["version"], &group["hosts"]["hosts"]), (&1.into(), &1.into()));
    let policy = json(&operator.run(&["group", "show", "eu", "--policy"]).ok().replace('\n', " "));
    assert_eq!(policy["profiles"]["web"]["take"], "yes");

    let team = world.realm.signer("web").run(&["team", "show", "web"]).ok();
    for words in ["May publish  eu/web", "yours: web", "version 3, valid for ", "eu/web  "] {
        assert!(team.contains(words), "{words}: {team}");
    }
    let team = json(&operator.run(&["team", "show", "web", "--json"]).ok());
    assert_eq!(team["published"]["targets"].as_object().unwrap().len(), 1, "{team}");
}

#[test]
fn the_fleet_is_told_at_a_glance_and_the_doctor_says_what_to_do() {
    let (mut world, _host) = World::failed();
    let status = world.operator().run(&["status"]).ok();
    for words in ["main · 1 host · as of", "Needs attention: 1", "registry host host-1 --why"] {
        assert!(status.contains(words), "{words}: {status}");
    }
    let told = json(&world.operator().run(&["status", "--json"]).ok());
    assert_eq!((&told["schema"], &told["hosts"]), (&"status.v1".into(), &1.into()));

    let told = world.operator().run(&["doctor"]).ok();
    let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in [
        "answers, version ",
        "the registry has the same time",
        "the registry passes its own ",
        "! backup none was ever made",
        "✓ root version 1",
        "✓ role owners.eu version 1",
        "✓ role web version 3",
        "signs for targets",
        "0 errors, 1 warning",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    let data = world.realm.data();
    world.operator().run(&["backup", "--data", data.to_str().unwrap()]).ok();
    let told = json(&world.operator().run(&["doctor", "--json"]).ok());
    assert_eq!((&told["schema"], &told["warnings"]), (&"doctor.v1".into(), &0.into()), "{told}");
    let mut stranger = world.operator().registry();
    let told = run(stranger.env("HOME", world.realm.folder()).arg("doctor"));
    assert!(told.stdout.contains("there is no root of trust"), "{told}");
    told.fails(1);
    world.realm.stop();
    let told = world.operator().run(&["doctor"]);
    assert!(told.stdout.contains("✗ registry") && told.stdout.contains("next: "), "{told}");
    told.fails(1);
}

#[test]
fn who_watches_is_told_what_changes_until_they_have_seen_enough() {
    let (world, host) = World::failed();
    let mut json_lines = world.operator().registry();
    let mut list =
        Service::start(json_lines.args(["hosts", "eu", "--watch", "--json"]), "hosts.v1");
    let mut text = world.operator().registry();
    let mut one = Service::start(text.args(["host", "host-1", "--watch"]), "host-1 · ");
    world.publish("echo four", "4.0");
    host.run(&["once"]).ok();
    let event = json(&format!("{}\n", list.says("\"host.converged\"")));
    assert_eq!((&event["schema"], &event["host"]["name"]), (&"event.v1".into(), &"host-1".into()));
    one.says("  host-1  ✓= converged");
    one.says("host-1 · ✓= converged");
    for watcher in [&mut list, &mut one] {
        assert_eq!(watcher.interrupt(), Some(130));
        assert!(!watcher.talk().contains("error["), "stopped without a word");
    }
}

/// Presses Tab twice behind what is typed, and prints what bash offers.
const TAB: &str = r#"
source <(registry completions bash)
COMP_WORDS=(registry "$@")
COMP_CWORD=$#
COMP_LINE="${COMP_WORDS[*]}"
COMP_POINT=${#COMP_LINE}
$(complete -p registry | sed 's/.*-F \([^ ]*\).*/\1/') registry "${!#}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

#[test]
fn bash_completes_the_names_that_the_registry_knows_and_stays_quiet_without_it() {
    let (mut world, _host) = World::failed();
    let programs = bin("registry").parent().unwrap().display().to_string();
    let tab = |world: &World, words: &[&str]| {
        let command = world.operator().registry();
        let mut bash = tool("bash");
        for (name, value) in command.get_envs().filter_map(|(name, value)| Some((name, value?))) {
            bash.env(name, value);
        }
        bash.env("PATH", format!("{programs}:{}", std::env::var("PATH").unwrap()));
        let ran = run(bash.args(["-c", TAB, "bash"]).args(words));
        assert_eq!(ran.stderr, "", "{words:?}");
        let offered: Vec<String> = ran.ok().lines().map(str::to_owned).collect();
        assert!(!offered.iter().any(|it| it.starts_with(['[', '<'])), "{words:?}: {offered:?}");
        offered
    };
    assert!(tab(&world, &["hosts", ""]).contains(&"eu".to_owned()));
    assert_eq!(tab(&world, &["hosts", "e"]), ["eu"]);
    assert_eq!(tab(&world, &["host", "--why", "ho"]), ["host-1"]);
    assert_eq!(tab(&world, &["diff", "--host", "ho"]), ["host-1"]);
    assert_eq!(tab(&world, &["history", "eu"]), ["eu/web"]);
    assert_eq!(tab(&world, &["team", "show", "w"]), ["web"]);
    assert_eq!(tab(&world, &["hosts", "--wa"]), ["--watch"]);
    assert!(tab(&world, &["sta"]).contains(&"status".to_owned()));
    let url = world.realm.url.clone();
    world.realm.stop();
    assert_eq!(tab(&world, &["--registry", &url, "host", "--why", "ho"]), [""]);
}

#[test]
fn a_terminal_gets_colours_and_glyphs_or_ascii_and_a_pipe_gets_neither_colour() {
    let (world, _host) = World::failed();
    for words in [["hosts"].as_slice(), &["status"], &["host", "host-1"], &["doctor"]] {
        let terminal = world.on_a_terminal(words, "C.UTF-8");
        assert!(terminal.contains("\u{1b}["), "{words:?}: {terminal:?}");
        let ascii = world.on_a_terminal(words, "C");
        assert!(ascii.is_ascii() && ascii.contains("\u{1b}["), "{words:?}: {ascii:?}");
        let piped = world.operator().run(words).stdout;
        assert!(!piped.contains('\u{1b}'), "{words:?}: {piped:?}");
    }
    let terminal = world.on_a_terminal(&["hosts"], "C.UTF-8");
    assert!(terminal.contains("↩R rolled_back"), "{terminal:?}");
    assert!(world.on_a_terminal(&["hosts"], "C").contains("<R rolled_back"));
}
