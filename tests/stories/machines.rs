//! The machines themselves: what every story on them relies on.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use rustix::process::{Pid, Signal, kill_process};
use tests::{eventually, machine::Fleet, tool};

#[test]
fn two_machines_reach_each_other_and_come_back_from_a_reboot_and_from_death() {
    let fleet = Fleet::new();
    let mut one = fleet.machine("one", 11);
    let mut two = fleet.machine("two", 12);
    for machine in [&one, &two] {
        assert_eq!(machine.shell("systemctl is-system-running"), "running");
        assert!(machine.shell("agent --version").starts_with("agent "));
    }
    let reaches = |from: &tests::machine::Machine<'_>, to: &str| {
        from.run(&["timeout", "5", "bash", "-c", &format!("exec 3<>/dev/tcp/{to}/7")]).code
            == Some(0)
    };
    let socket = "[Socket]\nListenStream=7\nAccept=yes\n[Install]\nWantedBy=sockets.target\n";
    two.write("/etc/systemd/system/echo.socket", socket);
    let service = "[Service]\nStandardInput=socket\nExecStart=cat\n";
    two.write("/etc/systemd/system/echo@.service", service);
    two.shell("systemctl daemon-reload; systemctl --quiet enable --now echo.socket");
    assert!(reaches(&one, &two.address));
    two.unplug();
    assert!(!reaches(&one, &two.address));
    two.plug_in();
    eventually("the cable is in again", || reaches(&one, &two.address).then_some(()));

    one.shell("echo kept > /root/note; cat /proc/sys/kernel/random/boot_id > /run/was-up");
    one.reboot();
    assert_eq!(one.shell("cat /root/note; ls /run/was-up 2>&1 || true"), {
        "kept\nls: cannot access '/run/was-up': No such file or directory"
    });
    two.shell("echo kept > /root/note");
    two.kill();
    assert_eq!(fs::read_to_string(two.outside("/root/note")).unwrap(), "kept\n");
    two.start();
    assert!(reaches(&one, &two.address));
}

#[test]
fn a_machine_may_have_a_small_disk() {
    let fleet = Fleet::new();
    let machine = fleet.machine_with_disk("small", 11, "48m");
    let fill = machine.run(&["dd", "if=/dev/zero", "of=/root/fill", "bs=1M", "count=100"]);
    assert!(fill.stderr.contains("No space left on device"), "{fill}");
}

#[test]
fn nothing_of_a_fleet_outlives_whoever_made_it() {
    // Another process of this very test, which is killed while it has a machine.
    if std::env::var_os("SHOAL_ABANDON_A_FLEET").is_some() {
        let fleet = Fleet::new();
        let _machine = fleet.machine("orphan", 11);
        println!("\nholder {}", fleet.holder().as_raw_nonzero());
        loop {
            std::thread::park();
        }
    }
    let mut maker = tool(std::env::current_exe().unwrap());
    maker.args(["--exact", "--nocapture", "machines::nothing_of_a_fleet_outlives_whoever_made_it"]);
    maker.envs(std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("SHOAL_")));
    maker.env("SHOAL_ABANDON_A_FLEET", "1").stdout(Stdio::piped());
    let mut maker = maker.spawn().unwrap();
    let lines = BufReader::new(maker.stdout.take().unwrap()).lines();
    let holder =
        lines.map(Result::unwrap).find_map(|it| Some(it.strip_prefix("holder ")?.to_owned()));
    let holder = holder.expect("it says who holds the fleet");
    kill_process(Pid::from_child(&maker), Signal::KILL).unwrap();
    maker.wait().unwrap();
    let left_of = |what: &str| {
        // Whatever is in the same process namespace, or was made for it.
        tool("sh").args(["-c", what]).output().unwrap().stdout
    };
    eventually("nothing is left", || {
        let gone = !fs::exists(format!("/proc/{holder}")).unwrap();
        (gone && left_of("pgrep -f -- '--machine=[o]rphan'").is_empty()).then_some(())
    });
    eventually("no cgroup is left", || {
        left_of("find /sys/fs/cgroup -name 'shoal-*-orphan'").is_empty().then_some(())
    });
}
