//! Nothing of a team runs as root unless the owners of the group say so.

use std::{fs, os::unix::fs::PermissionsExt as _};

use rustix::process::geteuid;
use tests::{Builder, Host, Realm};

use super::{publish, team};

/// Converges one host on a profile that the policy describes so, and returns the host.
fn converge(profile: &str) -> Host {
    let builder = Builder::new();
    let realm = Realm::new();
    let cache = builder.cache_url();
    realm.operator().sign(&["group", "create", "eu", "--cache", &cache, "--profile", profile]).ok();
    let host = Host::enrol(&realm, "eu", "host-1");
    // Where anybody may look and leave a note.
    let folder = host.root();
    fs::create_dir_all(folder.join("notes")).unwrap();
    for folder in [folder.parent().unwrap(), &folder] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(folder.join("notes"), fs::Permissions::from_mode(0o777)).unwrap();
    let web = team(&realm, "web");
    publish(
        &web,
        &builder,
        "web",
        "id -u > \"$SHOAL_ROOT/notes/who\"; id -G >> \"$SHOAL_ROOT/notes/who\"",
    );
    host.run(&["once"]);
    host
}

fn who(host: &Host) -> Option<String> {
    fs::read_to_string(host.root().join("notes/who")).ok()
}

#[test]
fn a_profile_runs_as_the_user_that_the_policy_names_or_not_at_all() {
    let host = converge("web:exec:user=nobody");
    if geteuid().is_root() {
        assert_eq!(host.state("web"), "converged");
        let who = who(&host).unwrap();
        let words: Vec<&str> = who.split_whitespace().collect();
        assert!(words.len() == 2 && !words.contains(&"0"), "neither root nor in its groups: {who}");
    } else {
        assert_eq!(host.state("web"), "waiting user_refused");
        assert_eq!(who(&host), None);
    }
}

#[test]
fn a_user_that_does_not_exist_is_no_reason_to_run_as_root() {
    let host = converge("web:exec:user=nobody-at-all");
    assert_eq!(host.state("web"), "waiting user_refused");
    assert_eq!((who(&host), host.current("web")), (None, None));
}

#[test]
fn without_a_user_only_an_agent_that_is_not_root_runs_it_as_itself() {
    let host = converge("web:exec");
    let root = geteuid().is_root();
    let expected = if root { "waiting user_refused" } else { "converged" };
    assert_eq!(host.state("web"), expected);
    assert_eq!(who(&host).is_none(), root);
}
