//! The network between a host and its caches: proxies, passwords, authorities, caps.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use tests::{Host, Nix, Ran, Realm, Response, Server, Service, fixture, run, scratch, shoal, tool};

use crate::tls::{make_certificates, serve};

const ROOT: &str = "/nix/store/8z53hvy6z9j309dj7laj128c6fsckzcg-nixos-system-testhost-1";
const LOGIN: &str = "deploy";
const PASSWORD: &str = "hunter2";
/// `deploy:hunter2`, as it goes over the wire.
const ENCODED: &str = "ZGVwbG95Omh1bnRlcjI=";

fn copy(url: &str, root: &Path) -> Command {
    let key = fs::read_to_string(fixture("nix/keys/cache.test-1.public")).unwrap();
    let mut agent = shoal("agent");
    agent.args(["copy-closure", "--from", url, "--trusted-public-key", key.trim(), "--root"]);
    agent.arg(root).arg(ROOT);
    agent
}

/// Says everything that there is to say.
fn at_trace_level(command: &mut Command) -> Ran {
    run(command.env("SHOAL_LOG", "trace").args(["-vvv"]))
}

#[track_caller]
fn assert_no_secret(ran: &Ran) {
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(said.contains("TRACE") || said.contains("DEBUG"), "it says too little: {ran}");
    for secret in [PASSWORD, ENCODED] {
        assert!(!said.contains(secret), "`{secret}` is in this: {ran}");
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Debian's tinyproxy, which notes whom it is asked for.
struct Proxy {
    _folder: TempDir,
    service: Service,
    address: String,
}

impl Proxy {
    #[track_caller]
    fn new(more: &str) -> Self {
        let (folder, port) = (scratch(), free_port());
        let config = folder.path().join("tinyproxy.conf");
        let text = format!("Port {port}\nListen 127.0.0.1\nLogLevel Info\nMaxClients 64\n{more}");
        fs::write(&config, text).unwrap();
        let mut proxy = tool("tinyproxy");
        let service =
            Service::start(proxy.arg("-d").arg("-c").arg(config), "Accepting connections");
        Self { _folder: folder, service, address: format!("127.0.0.1:{port}") }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns how many requests it noted that hold these words.
    fn noted(&self, words: &str) -> usize {
        let talk = self.service.talk();
        let requests = talk.lines().filter(|line| line.contains("Request (file descriptor"));
        requests.filter(|line| line.contains(words)).count()
    }
}

#[test]
fn caches_are_asked_through_the_proxy_of_the_environment() {
    let (folder, server, proxy) =
        (scratch(), Server::new(&fixture("nix/cache-xz")), Proxy::new(""));
    let url = server.url();
    for (name, variable) in [("one", "http_proxy"), ("two", "all_proxy")] {
        let before = proxy.noted(&url);
        let root = folder.path().join(name);
        run(copy(&url, &root).env(variable, proxy.url())).ok();
        assert_eq!(Nix::at(&root).valid_paths().len(), 26);
        assert!(proxy.noted(&url) > before, "{variable}: {}", proxy.service.talk());
        // Each request came by the proxy, and none around it.
        let asked = server.take_requests();
        assert!(asked.iter().all(|request| request.headers.contains_key("via")), "{asked:?}");
    }
    let direct = folder.path().join("direct");
    let mut agent = copy(&url, &direct);
    run(agent.env("http_proxy", proxy.url()).env("no_proxy", "example.org,127.0.0.1")).ok();
    assert!(!server.take_requests().iter().any(|it| it.headers.contains_key("via")));
}

#[test]
fn a_socks_proxy_reaches_caches_whose_names_it_alone_has_to_know() {
    let (folder, server) = (scratch(), Server::new(&fixture("nix/cache-xz")));
    let port = free_port().to_string();
    let mut proxy = tool("microsocks");
    proxy.args(["-i", "127.0.0.1", "-p", &port]);
    let listens = || TcpStream::connect(format!("127.0.0.1:{port}")).is_ok();
    let proxy = Service::start_until(&mut proxy, listens);
    let url = server.url().replace("127.0.0.1", "localhost");
    let root = folder.path().join("root");
    run(copy(&url, &root).env("all_proxy", format!("socks5h://127.0.0.1:{port}"))).ok();
    assert_eq!(Nix::at(&root).valid_paths().len(), 26);
    let place = url.trim_start_matches("http://");
    assert!(proxy.talk().contains(&format!("connected to {place}")), "{}", proxy.talk());
}

#[test]
fn a_cache_over_tls_is_asked_through_a_tunnel() {
    let (folder, proxy) = (scratch(), Proxy::new(""));
    make_certificates(folder.path());
    let (_server, url) = serve(folder.path(), "");
    let root = folder.path().join("root");
    let mut agent = copy(&url, &root);
    agent.arg("--ca-file").arg(folder.path().join("ca.pem"));
    run(agent.env("https_proxy", proxy.url())).ok();
    assert_eq!(Nix::at(&root).valid_paths().len(), 26);
    let place = url.trim_start_matches("https://");
    assert!(proxy.noted(&format!("CONNECT {place}")) > 0, "{}", proxy.service.talk());
}

#[test]
fn the_password_of_a_proxy_opens_it_and_is_never_told() {
    let (folder, server) = (scratch(), Server::new(&fixture("nix/cache-xz")));
    let proxy = Proxy::new(&format!("BasicAuth {LOGIN} {PASSWORD}\n"));
    let root = folder.path().join("root");
    let run_with = |user: &str| {
        let proxy = format!("http://{user}{}", proxy.address);
        at_trace_level(copy(&server.url(), &root).env("http_proxy", proxy))
    };
    let said = run_with("").fails(6);
    assert!(said.contains("status 407") && said.contains("address of the proxy"), "{said}");
    let refused = run_with(&format!("nobody:{PASSWORD}@"));
    assert_no_secret(&refused);
    refused.fails(6);
    let taken = run_with(&format!("{LOGIN}:{PASSWORD}@"));
    assert_no_secret(&taken);
    taken.ok();
}

#[test]
fn agent_and_registry_ask_a_registry_through_the_proxy() {
    let (realm, proxy) = (Realm::new(), Proxy::new(""));
    realm.operator().sign(&["group", "create", "eu-prod"]).ok();
    let host = Host::enrol(&realm, "eu-prod", "host-1");
    assert_eq!(proxy.noted(&realm.url), 0);
    drop(run(host.agent().arg("once").env("http_proxy", proxy.url())));
    let noted = proxy.noted(&format!("{}/r/main/metadata/timestamp.json", realm.url));
    assert!(noted > 0, "{}", proxy.service.talk());
    let operator = realm.operator();
    run(operator.registry().args(["hosts", "eu-prod"]).env("http_proxy", proxy.url())).ok();
    let noted = proxy.noted(&format!("{}/api/v1", realm.url));
    assert!(noted > 0, "{}", proxy.service.talk());
}

#[test]
fn authorities_of_the_environment_are_believed_instead_of_the_systems() {
    let folder = scratch();
    make_certificates(folder.path());
    let (_server, url) = serve(folder.path(), "");
    let authority = folder.path().join("ca.pem");
    for variable in ["SSL_CERT_FILE", "NIX_SSL_CERT_FILE"] {
        run(copy(&url, &folder.path().join(variable)).env(variable, &authority)).ok();
    }
    // Nix's own outranks the general one, and a mistake in it is told by its name.
    let root = folder.path().join("root");
    let mut agent = copy(&url, &root);
    agent.env("SSL_CERT_FILE", &authority).env("NIX_SSL_CERT_FILE", "/nonexistent");
    let said = run(&mut agent).fails(2);
    assert!(said.contains("`/nonexistent` (NIX_SSL_CERT_FILE)"), "{said}");
}

/// Serves a cache to whoever knows the password.
fn closed_server() -> Server {
    let server = Server::new(&fixture("nix/cache-xz"));
    server.hook(|request| {
        let knows = request.headers.get("authorization");
        let knows = knows.is_some_and(|header| *header == format!("Basic {ENCODED}"));
        (!knows).then(|| Response::new(401, ""))
    });
    server
}

fn netrc(folder: &Path, text: &str) -> PathBuf {
    let file = folder.join("netrc");
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file
}

#[test]
fn a_password_opens_a_cache_and_is_in_nothing_that_is_said() {
    let (folder, server) = (scratch(), closed_server());
    let machine = format!("machine 127.0.0.1 login {LOGIN} password \"{PASSWORD}\"");
    let file = netrc(folder.path(), &machine);
    let root = folder.path().join("root");
    let said = run(&mut copy(&server.url(), &root)).fails(6);
    assert!(said.contains("status 401") && said.contains("netrc"), "{said}");

    let taken = at_trace_level(copy(&server.url(), &root).arg("--netrc").arg(&file));
    assert_no_secret(&taken);
    taken.ok();
    assert_eq!(Nix::at(&root).valid_paths().len(), 26);
    run(copy(&server.url(), &folder.path().join("two")).env("NETRC", &file)).ok();

    // Also where it is in the address, and where what it opens is broken.
    let url = server.url().replace("http://", &format!("http://{LOGIN}:{PASSWORD}@"));
    let taken = at_trace_level(&mut copy(&url, &folder.path().join("three")));
    assert_no_secret(&taken);
    taken.ok();
    server.answer("/nix-cache-info", Response::new(500, ""));
    for mut agent in [copy(&url, &root), copy(&server.url(), &root)] {
        let refused = at_trace_level(agent.arg("--json").arg("--netrc").arg(&file));
        assert_no_secret(&refused);
        refused.fails(6);
    }
}

#[test]
fn a_password_goes_to_its_own_host_alone_and_never_in_the_clear() {
    let (folder, server, other) = (scratch(), closed_server(), closed_server());
    let file = netrc(folder.path(), &format!("default login {LOGIN} password {PASSWORD}"));
    let root = folder.path().join("root");
    // To another origin it is not carried, because nobody goes there.
    let elsewhere = other.url();
    server.hook(move |request| Some(Response::redirect(&format!("{elsewhere}{}", request.target))));
    let refused = at_trace_level(copy(&server.url(), &root).arg("--netrc").arg(&file));
    assert_no_secret(&refused);
    refused.fails(6);
    assert!(server.take_requests().iter().all(|it| it.headers.contains_key("authorization")));
    assert!(other.take_requests().is_empty());

    // Whoever stands between us and another machine reads plain HTTP: here he is the proxy.
    let between = Server::new(folder.path());
    let mut agent = copy("http://cache.example", &root);
    agent.arg("--netrc").arg(&file).env("http_proxy", between.url());
    let refused = at_trace_level(&mut agent);
    assert_no_secret(&refused);
    assert!(refused.stderr.contains("not sent over plain HTTP"), "{refused}");
    let seen = between.take_requests();
    assert!(seen.iter().any(|request| request.target.starts_with("http://cache.example/")));
    assert!(!seen.iter().any(|request| request.headers.contains_key("authorization")), "{seen:?}");
}

#[test]
fn a_file_of_passwords_that_others_can_read_is_refused_with_what_mends_it() {
    let (folder, server) = (scratch(), closed_server());
    let file = netrc(folder.path(), &format!("default login {LOGIN} password {PASSWORD}"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let root = folder.path().join("root");
    let said = run(copy(&server.url(), &root).arg("--netrc").arg(&file)).fails(2);
    assert!(said.contains(&format!("chmod 600 {}", file.display())), "{said}");
    assert!(server.take_requests().is_empty());
}

#[test]
fn a_configuration_with_a_password_in_an_address_is_refused_without_repeating_it() {
    let folder = scratch();
    let file = folder.path().join("agent.toml");
    let trust = format!("[trust]\nroot_sha256 = \"{}\"\n", "0".repeat(64));
    for section in ["[[cache]]\nurl = ", "[registry]\nurls = "] {
        let url = format!("\"https://{LOGIN}:{PASSWORD}@cache.example\"");
        let value = if section.contains("urls") { format!("[{url}]") } else { url };
        fs::write(&file, format!("{section}{value}\n{trust}")).unwrap();
        let mut agent = shoal("agent");
        let ran = run(agent.arg("--config").arg(&file).args(["config", "show"]));
        assert!(!ran.to_string().contains(PASSWORD), "{ran}");
        assert!(ran.fails(2).contains("netrc"));
    }
}

#[test]
fn a_command_line_with_a_password_that_is_wrong_elsewhere_is_refused_without_repeating_it() {
    let url = format!("ftp://{LOGIN}:{PASSWORD}@cache.example/x");
    for more in [&[][..], &["--json"]] {
        for (program, words) in [
            ("agent", &["copy-closure", ROOT, "--from"][..]),
            ("agent", &["copy-closure", "--min-free", "much", "--from"]),
            ("registry", &["cache", "push", ROOT, "--to"]),
            ("registry", &["closure-index", ROOT, "--cache"]),
        ] {
            let ran = run(shoal(program).args(words).arg(&url).args(more));
            assert!(!ran.stdout.contains(PASSWORD) && !ran.stderr.contains(PASSWORD), "{ran}");
            let said = ran.fails(2);
            assert!(said.contains("much") || said.contains("ftp://***@cache.example/x"), "{said}");
        }
    }
}

#[test]
fn a_cap_on_bandwidth_holds() {
    let (folder, server) = (scratch(), Server::new(&fixture("nix/cache-xz")));
    let rate: u32 = 4096;
    let start = Instant::now();
    let mut agent = copy(&server.url(), &folder.path().join("root"));
    let told = run(agent.args(["--json", "--bandwidth", &rate.to_string()])).ok();
    let took = start.elapsed();
    let done: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    let downloaded = done["downloaded"].as_u64().unwrap();
    // Never faster; how much slower is the machine's business.
    let least = Duration::from_secs_f64(downloaded as f64 / f64::from(rate) * 0.8);
    assert!(downloaded > u64::from(rate) && took >= least, "{downloaded} bytes in {took:?}");
}

#[test]
fn the_outcome_names_the_share_and_the_faults_of_each_cache() {
    let folder = scratch();
    let (liar, honest) = (Server::new(&fixture("nix/cache-xz")), fixture("nix/cache-xz"));
    let root = honest.clone();
    liar.hook(move |request| {
        let is_nar = request.path().starts_with("/nar/");
        is_nar.then(|| {
            Response::file(&root, request).map_body(|body| {
                let middle = body.len() / 2;
                body[middle] ^= 1;
            })
        })
    });
    let honest = format!("file://{}", honest.display());
    let mut agent = copy(&liar.url(), &folder.path().join("root"));
    let told = run(agent.args(["--json", "--from", &honest])).ok();
    let lines: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let done = lines.last().unwrap();
    assert_eq!(done["event"], "done", "{done}");
    let share = |cache: &str, key: &str| {
        let caches = done["caches"].as_array().unwrap();
        let share = caches.iter().find(|it| it["cache"] == cache).unwrap();
        share[key].as_u64().unwrap()
    };
    assert_eq!((share(&liar.url(), "paths"), share(&honest, "paths")), (0, 26));
    assert_eq!(share(&honest, "faults"), 0);
    let faults = lines.iter().filter(|line| line["event"] == "fault").count() as u64;
    assert!(faults > 0 && share(&liar.url(), "faults") == faults, "{done}");
    assert!(share(&liar.url(), "downloaded") > 0 && share(&honest, "downloaded") > 0, "{done}");
    let downloaded = done["downloaded"].as_u64().unwrap();
    assert_eq!(share(&liar.url(), "downloaded") + share(&honest, "downloaded"), downloaded);
}
