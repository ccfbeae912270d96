//! What a daemon shows of itself: to systemd, at its socket, and to monitoring.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::Duration;

use tests::{Builder, Host, Service, bin, eventually, run, scratch, tool};

use super::{ACTIVATE, publish, realm, team};

/// Reads what a daemon sends to its supervisor until one of the lines is this.
fn hears(supervisor: &UnixDatagram, wanted: &str) -> Vec<String> {
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    while !heard.iter().any(|line: &String| line.contains(wanted)) {
        let length = supervisor.recv(&mut buffer).unwrap_or_else(|error| {
            panic!("{wanted}: {error}; heard {heard:#?}");
        });
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        heard.extend(text.lines().map(str::to_owned));
    }
    heard
}

#[test]
fn a_supervisor_hears_that_the_daemon_is_ready_lives_and_stops() {
    let builder = Builder::new();
    let realm = realm(&builder, &["web"]);
    let web = team(&realm, "web");
    let host = Host::enrol(&realm, "eu", "host-1");
    publish(&web, &builder, "web", ACTIVATE);
    let folder = scratch();
    let path = folder.path().join("notify.sock");
    let supervisor = UnixDatagram::bind(&path).unwrap();
    supervisor.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let mut command = host.agent();
    command.arg("run").env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000");
    let mut daemon = Service::start(&mut command, "the agent runs");
    hears(&supervisor, "READY=1");
    hears(&supervisor, "STATUS=web converged #1");
    hears(&supervisor, "WATCHDOG=1");
    assert_eq!(daemon.terminate(), Some(0));
    hears(&supervisor, "STOPPING=1");
}

/// Lets another user ask the daemon, from a folder that everyone can reach.
fn asked_as_nobody(folder: &Path, socket: &Path) -> String {
    let (program, config) = (folder.join("agent"), folder.join("agent.toml"));
    if !program.exists() {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(bin("agent"), &program).unwrap();
        let trust = format!("[trust]\nroot_sha256 = \"{}\"\n", "0".repeat(64));
        let daemon = format!("[daemon]\nsocket = \"{}\"\n", socket.display());
        fs::write(&config, format!("state_dir = \"/nonexistent\"\n{trust}{daemon}")).unwrap();
    }
    let mut command = tool("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program);
    run(command.arg("--config").arg(config).args(["status", "--json"])).stdout
}

#[test]
fn a_daemon_tells_status_to_whom_it_may_and_the_disk_tells_it_afterwards() {
    let builder = Builder::new();
    let realm = realm(&builder, &["web"]);
    let web = team(&realm, "web");
    let host = Host::enrol(&realm, "eu", "host-1");
    publish(&web, &builder, "web", ACTIVATE);
    let folder = scratch();
    let socket = folder.path().join("run/agent.sock");
    let configure = |readers: &str| {
        host.configure(&format!(
            "[daemon]\nsocket = \"{}\"\nreaders = \"{readers}\"\n",
            socket.display()
        ));
    };
    configure("everyone");
    let mut daemon = Service::start(host.agent().arg("run"), "converged");
    let told = || {
        let text = host.run(&["status", "--json"]).ok();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let status = told();
    assert_eq!(status["daemon"]["pid"], daemon.id());
    assert_eq!(status["profiles"][0]["state"], "converged");
    let text = host.run(&["status"]).ok();
    assert!(text.contains(&format!("Daemon      pid {}", daemon.id())), "{text}");
    let pid = format!("\"pid\":{}", daemon.id());
    assert!(asked_as_nobody(folder.path(), &socket).contains(&pid));

    assert_eq!(daemon.terminate(), Some(0));
    assert!(!socket.exists());
    assert_eq!(told()["daemon"], serde_json::Value::Null);
    assert!(host.run(&["status"]).ok().contains("no daemon answers: told from the disk"));

    configure("root");
    let daemon = Service::start(host.agent().arg("run"), "the agent runs");
    eventually("the daemon answers root", || {
        (told()["daemon"]["pid"] == daemon.id()).then_some(())
    });
    assert!(!asked_as_nobody(folder.path(), &socket).contains("\"pid\""));
    daemon.stop();
    // Its socket is still there, and nobody answers.
    assert!(socket.exists() && UnixStream::connect(&socket).is_err());
    assert_eq!(told()["daemon"], serde_json::Value::Null);
    let mut daemon = Service::start(host.agent().arg("run"), "the agent runs");
    eventually("the next daemon answers", || {
        (told()["daemon"]["pid"] == daemon.id()).then_some(())
    });
    assert_eq!(daemon.terminate(), Some(0));
}

/// Asks a server for a path, and returns the whole answer.
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn monitoring_sees_states_versions_attempts_and_bytes() {
    let builder = Builder::new();
    let realm = realm(&builder, &["web"]);
    let web = team(&realm, "web");
    let host = Host::enrol(&realm, "eu", "host-1");
    host.configure("[registry]\npoll = 1\nwait = 5\n[daemon]\nmetrics = \"127.0.0.1:0\"\n");
    publish(&web, &builder, "web", ACTIVATE);
    let mut daemon = Service::start(host.agent().arg("run"), "metrics are served");
    let url = daemon.url();
    let address = url.strip_prefix("http://").and_then(|url| url.strip_suffix("/metrics"));
    let address = address.unwrap().to_owned();
    let scrape = || get(&address, "/metrics");
    let has = |line: &str| {
        eventually(line, || scrape().lines().any(|known| known == line).then_some(()));
    };
    has("shoal_agent_state{profile=\"web\",state=\"converged\"} 1");
    has("shoal_agent_state{profile=\"web\",state=\"failed\"} 0");
    has("shoal_agent_version{profile=\"web\",kind=\"running\"} 1");
    has("shoal_agent_attempts_total{profile=\"web\",outcome=\"converged\"} 1");
    has("shoal_agent_reports_total{outcome=\"taken\"} 1");
    let text = scrape();
    for name in
        ["fetch_bytes_total{cache=", "fetch_paths_total{cache=", "polls_total{outcome=\"changed\"}"]
    {
        assert!(text.contains(&format!("\nshoal_agent_{name}")), "{name} in {text}");
    }
    publish(&web, &builder, "web", "exit 3");
    has("shoal_agent_attempts_total{profile=\"web\",outcome=\"rolled_back\"} 1");
    has("shoal_agent_version{profile=\"web\",kind=\"wanted\"} 2");
    has("shoal_agent_version{profile=\"web\",kind=\"running\"} 1");
    assert!(get(&address, "/").starts_with("HTTP/1.1 404"));
    assert_eq!(daemon.terminate(), Some(0));
}
