//! A team that its owners gave no rights, and what it may try: every unit directive, file and
//! program that might make somebody else do something for it.

use tests::machine::Fleet;

use super::lab::{HostMachine, Lab};

/// Who runs this leaves a mark: its user, where its own may be; and a file wherever only others
/// may write.
const MARK: &str = "/bin/sh -c 'id -u >> %t/ran; for place in /root /etc /etc/systemd/system \
    /run/systemd/system /run/shoal /var/lib/shoal /nix/store /nix/var/nix/profiles/shoal \
    /run/user/$$(id -u cafe)/systemd; do touch $$place/pwned-%N 2>/dev/null; done; true'";

/// Lines of `[Service]` by which a team might become somebody else.
const DIRECTIVES: &[(&str, &str)] = &[
    ("plain", "ExecStart=MARK"),
    ("plus", "ExecStart=+MARK"),
    ("bang", "ExecStart=!MARK"),
    ("bangs", "ExecStart=!!MARK"),
    ("pre", "ExecStartPre=+MARK\nExecStart=MARK\nExecStartPost=+MARK\nExecStopPost=+MARK"),
    ("condition", "ExecCondition=+MARK\nExecStart=MARK"),
    ("root", "User=root\nExecStart=MARK"),
    ("group", "Group=root\nSupplementaryGroups=root shadow\nExecStart=MARK"),
    ("cafe", "User=cafe\nExecStart=MARK"),
    ("only", "PermissionsStartOnly=yes\nUser=shop\nExecStartPre=MARK\nExecStart=MARK"),
    ("dynamic", "DynamicUser=yes\nExecStart=MARK"),
    ("pam", "PAMName=login\nUser=root\nExecStart=MARK"),
    ("capability", "AmbientCapabilities=CAP_SETUID CAP_DAC_OVERRIDE\nExecStart=MARK"),
    ("bits", "SecureBits=keep-caps\nNoNewPrivileges=no\nExecStart=MARK"),
    ("users", "PrivateUsers=yes\nExecStart=+MARK"),
    ("bind", "BindPaths=/root:/tmp /etc:/mnt\nExecStart=MARK"),
    ("write", "ProtectSystem=no\nReadWritePaths=/ /etc /root\nExecStart=MARK"),
    ("directory", "RootDirectory=/\nExecStart=+MARK"),
    ("folders", "StateDirectory=../../etc\nExecStart=MARK"),
    ("output", "StandardOutput=file:/etc/pwned-output\nExecStart=MARK"),
    ("append", "StandardOutput=append:/root/pwned-append\nExecStart=MARK"),
    ("pid", "PIDFile=/run/pwned-pid\nExecStart=MARK"),
    ("slice", "Slice=system.slice\nDelegate=yes\nExecStart=MARK"),
    ("secret", "LoadCredential=shadow:/etc/shadow\nEnvironmentFile=/etc/shadow\nExecStart=MARK"),
    ("namespace", "NetworkNamespacePath=/proc/1/ns/net\nExecStart=+MARK"),
    ("exit", "FailureAction=exit-force\nSuccessAction=none\nExecStart=MARK"),
];

/// Programs and settings that other things of a host look for in such folders.
const PLANTED: &[&str] = &[
    "etc/systemd/system-generators/shop",
    "etc/systemd/user-generators/shop",
    "lib/systemd/system-generators/shop",
    "lib/systemd/user-generators/shop",
    "lib/systemd/system-shutdown/shop",
    "lib/systemd/system-environment-generators/shop",
    "bin/activate",
    "bin/deactivate",
    "bin/switch-to-configuration",
];

/// What only the user's own manager may run, and nobody else.
fn attack() -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut starts = String::new();
    for (name, lines) in DIRECTIVES {
        let lines = lines.replace("MARK", MARK);
        let text = format!("[Service]\nType=oneshot\n{lines}\n");
        files.push((format!("shop_{name}.service"), text));
        starts.push_str(&format!("systemctl --user start shop_{name}.service; "));
    }
    // Sockets, timers and paths of the same kind.
    let socket = "[Socket]\nListenStream=/run/shop.sock\nSocketUser=root\nSocketMode=4777\n\
        ExecStartPre=+MARK\nService=shop_plain.service\n";
    files.push(("shop_own.socket".into(), socket.replace("MARK", MARK)));
    let timer = "[Timer]\nOnActiveSec=0\nUnit=user@0.service\n";
    files.push(("shop_late.timer".into(), timer.into()));
    starts.push_str("systemctl --user start shop_own.socket shop_late.timer; ");
    // What it may ask of others.
    starts.push_str(
        "systemctl stop till.service; systemctl --user --machine=cafe@ stop cafe.service; \
         systemctl link /nix/store; systemctl set-environment LD_PRELOAD=/tmp/x.so; \
         systemd-run touch /root/pwned-run; loginctl disable-linger cafe; \
         pkill sleep; touch /run/user/0/pwned; ",
    );
    let main = format!(
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nTimeoutStartSec=120\n\
         ExecStart=/bin/sh -c '{starts} true'\n[Install]\nWantedBy=multi-user.target\n"
    );
    files.push(("shop.service".into(), main));
    let planted = "#!/bin/sh\ntouch /root/pwned-planted /etc/pwned-planted\n";
    files.extend(PLANTED.iter().map(|place| ((*place).into(), planted.into())));
    let bus =
        "[D-BUS Service]\nName=org.freedesktop.shop\nExec=/bin/touch /root/pwned-bus\nUser=root\n";
    files.push(("share/dbus-1/system-services/org.freedesktop.shop.service".into(), bus.into()));
    files
}

const IDLE: &str = "[Service]\nType=exec\nExecStart=/bin/sleep infinity\n\
    [Install]\nWantedBy=multi-user.target\n";

fn publish(lab: &Lab<'_>, data: &str, files: &[(String, String)]) {
    let files: Vec<_> = files.iter().map(|(name, text)| (&**name, &**text)).collect();
    lab.publish("shop", data, &files);
}

/// Everywhere that a team without rights must not have been.
fn check(host: &HostMachine<'_>, uid: &str) {
    let marks = host.machine.shell("find / -xdev -name '*pwned*' -not -path '/proc/*' || true");
    assert_eq!(marks, "");
    for tree in ["/run", "/nix/store", "/tmp"] {
        assert_eq!(host.machine.shell(&format!("find {tree} -name '*pwned*'")), "");
    }
    let ran = host.machine.shell(&format!("cat /run/user/{uid}/ran"));
    assert!(ran.lines().count() > 5, "{ran}");
    assert!(ran.lines().all(|line| line == uid), "{ran}");
    let ours = host.machine.shell("ls /run/systemd/system /etc/systemd/system; cat /etc/passwd");
    assert!(!ours.contains("shop_"), "{ours}");
    let set = host.machine.shell("find /nix -xdev -perm /7000 -not -path /nix/store");
    assert_eq!(set, "", "the store has no file that gives rights");
}

#[test]
fn a_confined_team_runs_nothing_as_anybody_else_beside_a_privileged_one() {
    let fleet = Fleet::new();
    let profiles = ["shop:systemd:user=shop", "cafe:systemd:user=cafe", "till:systemd:privileged"];
    let lab = Lab::new(&fleet, &profiles);
    let host = lab.host("host-1", 11);
    host.add_user("shop");
    host.add_user("cafe");
    let uid = host.machine.shell("id -u shop");
    lab.publish("cafe", "cafe", &[("cafe.service", IDLE)]);
    lab.publish("till", "till", &[("till.service", IDLE)]);
    let once = || host.machine.run(&["agent", "--quiet", "once"]);
    once().ok();
    let others = || {
        let cafe = host.of_user("cafe", "show --value --property=MainPID cafe.service");
        (host.property("till.service", "MainPID"), cafe)
    };
    let before = others();
    assert!(before.0 != "0" && before.1 != "0", "{before:?}");
    let owner = host.machine.shell(&format!("stat -c %U /proc/{}", before.1));
    assert_eq!(owner, "cafe");

    publish(&lab, "attack", &attack());
    let ran = once();
    assert_eq!(host.state("shop"), "converged 1", "{ran}");
    check(&host, &uid);
    assert_eq!(others(), before, "nobody else was touched");

    refuses_names_of_others(&lab, &host);
    assert_eq!(others(), before);

    // Its own folder is its own: whoever links units for it must not be led elsewhere.
    host.machine.shell(&format!(
        "su -s /bin/sh shop -c 'cd /run/user/{uid}/systemd && mv user was \
         && ln -s /etc/systemd/system user && mkdir -p ../shoal 2>/dev/null; \
         rm -rf ../shoal; ln -s /etc ../shoal'"
    ));
    lab.publish("shop", "led", &[("shop_led.service", IDLE)]);
    once();
    let led = host.machine.shell("ls /etc /etc/systemd/system");
    assert!(!led.contains("shop_led") && !led.contains("shop.json"), "{led}");
    assert_eq!(others(), before);

    ends_with_its_user(&lab, &host, &uid);
    assert_eq!(others(), before);
}

/// Names, folders and links of others: refused as a whole, and nothing is touched.
fn refuses_names_of_others(lab: &Lab<'_>, host: &HostMachine<'_>) {
    let refused: &[(&str, &str)] = &[
        ("cafe.service", IDLE),
        ("user@0.service", IDLE),
        (
            "lib/systemd/system/cafe.service.d/override.conf",
            "[Service]\nExecStart=\nExecStart=/bin/true\n",
        ),
        ("shop.mount", "[Mount]\nWhat=/dev/sda\nWhere=/shop\n"),
        ("lib/systemd/system/default.target.wants/cafe.service", "x"),
    ];
    for (number, file) in refused.iter().enumerate() {
        lab.publish("shop", &number.to_string(), &[*file, ("shop_extra.service", IDLE)]);
        host.machine.run(&["agent", "--quiet", "once"]);
        assert_eq!(host.state("shop"), "waiting units_refused 1", "{}", file.0);
    }
    let links = host.of_user("shop", "list-unit-files 'shop_extra*' --no-legend");
    assert!(!links.contains("shop_extra"), "{links}");
}

/// When the owners stop it, nothing that it left behind goes on.
fn ends_with_its_user(lab: &Lab<'_>, host: &HostMachine<'_>, uid: &str) {
    host.machine.shell(&format!(
        "su -s /bin/sh shop -c 'rm -f /run/user/{uid}/systemd/user /run/user/{uid}/shoal; \
         XDG_RUNTIME_DIR=/run/user/{uid} systemd-run --user --quiet sleep 6000'"
    ));
    lab.realm.operator().sign(&["group", "set", "eu", "--stop", "shop"]).ok();
    host.machine.run(&["agent", "--quiet", "once"]);
    if host.state("shop") != "converged policy_stop" {
        // What it did to its own folder made a step back fail, which an operator has to see.
        host.machine.run(&["agent", "--quiet", "retry", "shop"]);
    }
    assert_eq!(host.state("shop"), "converged policy_stop");
    let left = "for p in /proc/[0-9]*; do [ \"$(stat -c %U $p 2>/dev/null)\" != shop ] \
        || tr '\\0' ' ' < $p/cmdline; done";
    assert_eq!(host.machine.shell(left), "");
}

#[test]
fn a_user_that_is_not_there_or_is_root_starts_nothing() {
    let fleet = Fleet::new();
    let profiles = ["ghost:systemd:user=ghost", "rooted:systemd:user=toor", "one:systemd:user=one"];
    let lab = Lab::new(&fleet, &profiles);
    let host = lab.host("host-1", 11);
    host.add_user("one");
    host.machine.shell("useradd --non-unique --uid 0 toor");
    for profile in ["ghost", "rooted", "one"] {
        lab.publish(profile, profile, &[(&format!("{profile}.service"), IDLE)]);
    }
    host.machine.run(&["agent", "--quiet", "once"]);
    assert_eq!(host.state("ghost"), "waiting user_refused");
    assert_eq!(host.state("rooted"), "waiting user_refused");
    assert_eq!(host.state("one"), "converged 1");
    assert_eq!(host.machine.shell("ls /run/systemd/system"), "");
}
