//! A host whose disk fills up keeps running what it ran, says so, and goes on when there is room.

use tests::{Builder, Host, Nix, Realm, Signer, bin, run, scratch, tool};

use super::{ACTIVATE, team};

/// A host on a small disk of its own; everything it does happens in one script, as root of a user
/// and mount namespace. The script knows `agent`, `publish PATH` and `$HOST`.
fn on_a_small_disk(realm: &Realm, web: &Signer<'_>, builder: &Builder, script: &str) -> String {
    let prelude = r#"
        mount -t tmpfs -o size=24m none "$HOST"
        agent() { "$AGENT" --config "$HOST/agent.toml" "$@"; }
        publish() {
            HOME="$TEAM" SHOAL_REGISTRY="$URL" "$REGISTRY" -q publish manifest eu/web "$1" \
                --root "$BUILDER" --activation exec --yes --passphrase-file "$PASSPHRASE" > /dev/null
        }
        fill() { head -c 64M /dev/zero > "$HOST/filler" 2> /dev/null || true; }
        mkdir "$HOST/agent.toml.d"
        printf '[store]\nmin_free = 0\n' > "$HOST/agent.toml.d/small.toml"
        agent -q enroll "$URL" --group eu --name small --trust "$TRUST" --token "$TOKEN" \
            --state-dir "$HOST/state" --root "$HOST/root"
    "#;
    let folder = scratch();
    let data = realm.data();
    let words = ["host", "enroll-token", "--group", "eu", "--data", data.to_str().unwrap()];
    let token = realm.operator().run(&words).ok();
    let [_, passphrase] = realm.passphrase();
    let nix = Nix::at(&folder.path().join("root"));
    let mut command = tool("unshare");
    let of_nix = nix.command("nix-store");
    command.envs(of_nix.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command.env("HOST", folder.path()).env("AGENT", bin("agent")).env("REGISTRY", bin("registry"));
    command.env("TEAM", web.home()).env("URL", &realm.url).env("BUILDER", builder.root());
    command.env("TRUST", &realm.fingerprint).env("TOKEN", token.trim());
    command.env("PASSPHRASE", passphrase);
    command.args(["--user", "--map-root-user", "--mount", "sh", "-euc"]);
    run(command.arg(format!("{prelude}\n{script}"))).ok()
}

/// A realm whose hosts run `web` as root: as who they are in their namespace.
fn realm(builder: &Builder) -> Realm {
    let realm = Realm::new();
    let cache = builder.cache_url();
    let web = "web:exec:privileged";
    realm.operator().sign(&["group", "create", "eu", "--cache", &cache, "--profile", web]).ok();
    realm
}

fn build(builder: &Builder, name: &str, activate: &str) -> String {
    let path = builder.service(name, activate, &[]);
    builder.push(&path).ok();
    path
}

#[test]
fn a_disk_that_is_full_before_a_fetch_keeps_what_runs_and_the_next_round_goes_on() {
    let builder = Builder::new();
    let realm = realm(&builder);
    let web = team(&realm, "web");
    let first = build(&builder, "web", ACTIVATE);
    let large = format!("{ACTIVATE} # {}", "x".repeat(4 << 20));
    let second = build(&builder, "web", &large);
    let script = format!(
        r#"
        publish {first}; agent -q once > /dev/null
        publish {second}
        fill
        for free in 0 32 128 512 2048; do
            truncate -s "-${{free}}K" "$HOST/filler"
            code=0; said=$(agent -q once 2>&1 > /dev/null) || code=$?
            echo "$free: $code $(agent status --oneline | head -n 1) $(cat "$HOST/root/active-web")"
            echo "$said" | head -n 1
            "$AGENT" -q store verify --check-contents --root "$HOST/root"
            rm "$HOST/filler"; fill
        done
        rm "$HOST/filler"
        agent retry web > /dev/null || true
        agent -q once > /dev/null
        echo "at last: $(cat "$HOST/root/active-web")"
        nix-store --store "local?root=$HOST/root" --verify --check-contents
        "#
    );
    let told = on_a_small_disk(&realm, &web, &builder, &script);
    for free in [0, 32, 128, 512, 2048] {
        let line = told.lines().find(|line| line.starts_with(&format!("{free}: "))).unwrap();
        assert!(line.ends_with(" 1") && line.contains(": 3 "), "{told}");
    }
    assert!(told.contains("disk_full"), "{told}");
    assert!(told.contains("at last: 2"), "{told}");
}

#[test]
fn a_disk_that_fills_up_in_the_middle_of_a_switch_does_not_keep_the_host_from_going_back() {
    let builder = Builder::new();
    let realm = realm(&builder);
    let web = team(&realm, "web");
    let first = build(&builder, "web", "test -w \"$SHOAL_ROOT\"");
    let fills = "head -c 64M /dev/zero > \"$SHOAL_ROOT/../filler\" || echo full; exit 1";
    let second = build(&builder, "web", fills);
    let script = format!(
        r#"
        publish {first}; agent -q once > /dev/null
        publish {second}
        code=0; agent -q once > /dev/null 2>&1 || code=$?
        echo "full: $code"
        test "$(stat -f -c %a "$HOST")" -lt 64
        agent status --oneline
        readlink "$HOST/root/nix/var/nix/profiles/shoal/web"
        rm "$HOST/filler"
        agent -q once > /dev/null 2>&1 || true
        agent status --oneline
        nix-store --store "local?root=$HOST/root" --verify --check-contents
        "#
    );
    let told = on_a_small_disk(&realm, &web, &builder, &script);
    assert!(told.contains("full: 8") || told.contains("full: 3"), "{told}");
    let lines: Vec<&str> = told.lines().filter(|line| line.contains("web ")).collect();
    assert_eq!(lines.len(), 2, "{told}");
    assert!(lines.iter().all(|line| line.contains("rolled_back #1 → #2 generation 1")), "{told}");
    assert!(told.contains("web-1-link"), "{told}");
}

#[test]
fn a_host_says_what_it_lacks_by_an_exit_code() {
    let builder = Builder::new();
    let realm = super::realm(&builder, &["web"]);
    let web = team(&realm, "web");
    let host = Host::enrol(&realm, "eu", "host-1");
    host.configure("[store]\nmin_free = 9000000000000000000\n");
    super::publish(&web, &builder, "web", ACTIVATE);
    let said = host.run(&["once"]).fails(3);
    assert!(said.contains("must stay free") && said.contains("are missing"), "{said}");
    assert!(said.contains("error[disk_full]"), "{said}");
    assert_eq!(host.state("web"), "waiting disk_full");
    assert_eq!(host.profile("web")["next"], "agent gc");
    assert_eq!(host.current("web"), None);
}

#[test]
fn garbage_makes_way_for_what_would_not_fit_unless_it_is_told_to_stay() {
    let builder = Builder::new();
    let realm = realm(&builder);
    let web = team(&realm, "web");
    let first = build(&builder, "web", ACTIVATE);
    let large = format!("{ACTIVATE} # {}", "x".repeat(4 << 20));
    let second = build(&builder, "web", &large);
    let script = format!(
        r#"
        publish {first}; agent -q once > /dev/null
        for garbage in 1 2; do
            yes $garbage | head -c 3M > "$HOST/garbage"
            "$AGENT" store add --root "$HOST/root" "$HOST/garbage" > /dev/null
        done
        rm "$HOST/garbage"
        publish {second}
        fill; truncate -s -1M "$HOST/filler"
        printf '[gc]\nmin_free = 0\n' > "$HOST/agent.toml.d/gc.toml"
        code=0; agent -q once > /dev/null 2>&1 || code=$?
        echo "stays: $code $(agent status --oneline | head -n 1)"
        rm "$HOST/agent.toml.d/gc.toml"
        agent retry web > /dev/null || true
        agent -q once > /dev/null
        echo "goes: $(cat "$HOST/root/active-web") $(ls "$HOST/root/nix/store" | grep -c garbage)"
        nix-store --store "local?root=$HOST/root" --verify --check-contents
        "#
    );
    let told = on_a_small_disk(&realm, &web, &builder, &script);
    assert!(told.contains("stays: 3 ") && told.contains("disk_full"), "{told}");
    // As much as is needed goes, and no more.
    assert!(told.contains("goes: 2 1\n") || told.contains("goes: 2 0\n"), "{told}");
}
