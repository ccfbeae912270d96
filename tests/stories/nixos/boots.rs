//! Real boot loaders, on emulated machines: a system is booted once, and stays only if it is confirmed.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use serde_json::Value;
use tests::{
    Builder, Guest, Host, Realm, copy_folder,
    guest::{
        self,
        computer::{BootLoader, Computer},
    },
    long, run, shoal,
};

use super::lab::{Hardware, System, build};
use crate::systemd::lab::{CONFIG, deploy};

/// What becomes of the second version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It comes up, and its health checks fail.
    Unhealthy,
    /// It never comes up, until somebody cuts its power.
    NeverUp,
}

/// Installs a machine that runs version 0, and whose realm publishes 1 and then 2.
fn install(loader: BootLoader, ending: Ending, orders: &str) -> Computer {
    let computer = Computer::new(loader);
    let (builder, realm) = (Builder::new(), Realm::new());
    let words = computer.kernel_words();
    let kernel = guest::kernel();
    let system = |version, linux, booted| {
        let hardware = Some(Hardware { loader, kernel: &kernel, kernel_words: &words });
        build(&builder, System { version, kernel: linux, activate: "", booted, hardware })
    };
    let hangs = "echo '## hangs'; while :; do sleep 600; done";
    let first = system("0", "6.12", "");
    let good = system("1", "6.13", "");
    let bad = system("2", "6.14", if ending == Ending::NeverUp { hangs } else { "" });
    for path in [&first, &good, &bad] {
        builder.push(path).ok();
    }

    let cache = builder.cache_url();
    let group =
        ["group", "create", "eu", "--cache", &cache, "--profile", "system:nixos:privileged"];
    realm.operator().sign(&group).ok();
    let team = realm.signer("system");
    let words = ["team", "add", "system", "--key", &team.key("system"), "--may", "eu/system"];
    realm.operator().sign(&words).ok();
    let host = Host::enrol(&realm, "eu", "host-1");
    let tree = computer.tree();
    let stamps = tree.join("story/timestamps");
    fs::create_dir_all(&stamps).unwrap();
    let store = builder.root();
    let checks = [("1", &good, "up=unit:dbus.service"), ("2", &bad, "up=tcp:127.0.0.1:9")];
    for (version, path, check) in checks {
        let publish = ["publish", "manifest", "eu/system", path, "--activation", "nixos"];
        let more = ["--root", store.to_str().unwrap(), "--check", check, "--deadline", "6"];
        team.sign(&[&publish[..], &more].concat()).ok();
        let stamp = realm.files().join("metadata/timestamp.json");
        fs::copy(stamp, stamps.join(version)).unwrap();
    }

    copy_folder(&realm.files(), &tree.join("story/mirror/r/main"));
    copy_folder(&builder.cache(), &tree.join("story/cache"));
    let mut install = shoal("agent");
    install.args(["copy-closure", "--from", &builder.cache_url(), "--root"]).arg(&tree).arg(&first);
    run(&mut install).ok();
    let profiles = tree.join("nix/var/nix/profiles");
    fs::create_dir_all(&profiles).unwrap();
    symlink(&first, profiles.join("system-1-link")).unwrap();
    symlink("system-1-link", profiles.join("system")).unwrap();
    add_host(&tree, &host, &realm.fingerprint, orders);
    computer.inside(&format!(
        "{first}/bin/install-bootloader {first}
         systemctl --quiet enable shoal-boot shoal-recover shoal-agent mirror story"
    ));
    computer.install();
    computer
}

/// Adds the agent, as deploy/README.md says, and what surrounds it.
fn add_host(tree: &Path, host: &Host, fingerprint: &str, orders: &str) {
    let write = |path: &str, bytes: &[u8], mode| {
        let file = tree.join(path.trim_start_matches('/'));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, bytes).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    };
    deploy(|path, bytes| write(path, &bytes, 0o644));
    copy_folder(&host.state_dir(), &tree.join("var/lib/shoal"));
    fs::set_permissions(tree.join("var/lib/shoal"), fs::Permissions::from_mode(0o700)).unwrap();
    let config = format!(
        "groups = ['eu']\nhost.name = 'host-1'\ntrust.root_sha256 = '{fingerprint}'\n\
         trust.caches = []\nregistry.urls = ['http://127.0.0.1']\n\
         [[cache]]\nurl = 'file:///story/cache'\n[reboot]\nallow = 'one-shot'\n"
    );
    write("/etc/shoal/agent.toml", config.as_bytes(), 0o644);
    // The mirror answers at once, and never waits for news.
    let config = CONFIG.replace("wait = 20", "wait = 0");
    write("/etc/shoal/agent.toml.d/story.toml", config.as_bytes(), 0o644);
    write("/etc/NIXOS", b"", 0o644);
    for (name, words) in [
        (
            "mirror",
            "[Unit]\nBefore=shoal-agent.service\n[Service]\nType=forking\nExecStart=/story/main mirror\n",
        ),
        ("story", "[Unit]\nAfter=mirror.service dbus.service\n[Service]\nExecStart=/story/main\n"),
    ] {
        let unit = format!("{words}[Install]\nWantedBy=multi-user.target\n");
        write(&format!("/etc/systemd/system/{name}.service"), unit.as_bytes(), 0o644);
    }
    write("/story/main", include_bytes!("host.sh"), 0o755);
    write("/story/orders", orders.as_bytes(), 0o644);
    write("/story/newest", b"1\n", 0o644);
}

/// Switches it on; it boots this version.
#[track_caller]
fn boots(computer: &Computer, version: &str) -> Guest {
    let mut guest = computer.switch_on();
    let said = guest.says("## boots ");
    println!("{said}");
    assert_eq!(said, format!("## boots {version}"), "{}", guest.console());
    guest
}

/// Returns versions that run, were booted, and come next, as the agent told last.
fn systems(console: &str) -> [String; 3] {
    let told = console.lines().rfind(|line| line.starts_with("status: ")).unwrap();
    let status: Value = serde_json::from_str(told.trim_start_matches("status: ")).unwrap();
    ["running", "booted", "next_boot"].map(|which| {
        let path = status.pointer(&format!("/systems/{which}")).and_then(Value::as_str);
        path.and_then(|path| path.rsplit('-').next()).unwrap_or("unknown").to_owned()
    })
}

fn a_system_is_booted_once_and_stays_if_it_is_confirmed(loader: BootLoader, ending: Ending) {
    // The loader that boots once into the next system would boot the one that is confirmed by itself.
    let again = if ending == Ending::Unhealthy { "reboot\n" } else { "" };
    let computer = install(loader, ending, &format!("{again}publish 2\n"));
    let _went = boots(&computer, "0").ends();
    let mut guest = boots(&computer, "1");
    guest.says("## is converged");
    if ending == Ending::Unhealthy {
        let _went = guest.ends();
        guest = boots(&computer, "1");
        guest.says("## is converged");
    }
    assert_eq!(systems(&guest.console()), ["1", "1", "1"]);
    let _went = guest.ends();
    let mut guest = boots(&computer, "2");
    match ending {
        Ending::Unhealthy => drop(guest.ends()),
        Ending::NeverUp => {
            guest.says("## hangs");
            drop(guest.cut());
        }
    }
    let mut guest = boots(&computer, "1");
    guest.says(match ending {
        Ending::Unhealthy => "## is rolled_back health_failed",
        Ending::NeverUp => "## is rolled_back boot_entry_gone",
    });
    guest.says("## settled");
    assert_eq!(systems(&guest.console()), ["1", "1", "1"], "{}", guest.console());
    drop(guest.cut());
}

#[test]
fn grub_boots_a_system_once_and_it_stays_if_it_is_confirmed() {
    a_system_is_booted_once_and_stays_if_it_is_confirmed(BootLoader::Grub, Ending::Unhealthy);
    if long() {
        a_system_is_booted_once_and_stays_if_it_is_confirmed(BootLoader::Grub, Ending::NeverUp);
    }
}

#[test]
fn systemd_boot_boots_a_system_once_and_it_stays_if_it_is_confirmed() {
    a_system_is_booted_once_and_stays_if_it_is_confirmed(BootLoader::SystemdBoot, Ending::NeverUp);
    if long() {
        let ending = Ending::Unhealthy;
        a_system_is_booted_once_and_stays_if_it_is_confirmed(BootLoader::SystemdBoot, ending);
    }
}
