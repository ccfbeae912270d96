//! The harness itself: what the other stories stand on works.

use std::io::{Read as _, Write as _};

use tests::{
    Nix, Request, Response, Server, Service, copy_folder, fixture, run, scratch, shoal, tool,
};

const ROOT: &str = "/nix/store/8z53hvy6z9j309dj7laj128c6fsckzcg-nixos-system-testhost-1";

#[test]
fn both_programs_say_who_they_are() {
    for name in ["agent", "registry"] {
        let version = run(shoal(name).arg("--version")).ok();
        assert!(version.starts_with(name), "{version}");
    }
}

#[test]
fn real_nix_substitutes_over_our_server_into_a_store_of_its_own() {
    let folder = scratch();
    let server = Server::new(&fixture("nix/cache-xz"));
    let keys = std::fs::read_to_string(fixture("nix/keys/cache.test-1.public")).unwrap();
    let nix = Nix::at(&folder.path().join("root"));
    nix.substitute(&server.url(), &keys, ROOT).ok();
    nix.verify();
    assert_eq!(nix.valid_paths().len(), 26);
    assert!(nix.real(ROOT).is_dir());
    let hash = nix.nix_store(&["-q", "--hash", ROOT]).ok();
    assert_eq!(hash.trim(), nix.dump_hash(ROOT));
    assert!(server.take_requests().iter().any(|request| request.path() == "/nix-cache-info"));

    let profile = folder.path().join("profile");
    nix.nix_env(&profile, &["--set", ROOT]).ok();
    let generations = nix.nix_env(&profile, &["--list-generations"]).ok();
    assert!(generations.contains("(current)"), "{generations}");
}

#[test]
fn the_server_does_as_it_is_told() {
    let ask = |server: &Server, lines: &str| {
        let mut stream =
            std::net::TcpStream::connect(server.url().trim_start_matches("http://")).unwrap();
        stream.write_all(format!("{lines}\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let folder = scratch();
    copy_folder(&fixture("nix/keys"), folder.path());
    std::fs::write(folder.path().join("file"), "0123456789").unwrap();
    let server = Server::new(folder.path());

    let whole = ask(&server, "GET /file?query HTTP/1.1");
    assert!(whole.starts_with("HTTP/1.1 200") && whole.ends_with("\r\n\r\n0123456789"), "{whole}");
    let rest = ask(&server, "GET /file HTTP/1.1\r\nRange: bytes=7-");
    assert!(rest.starts_with("HTTP/1.1 206") && rest.ends_with("\r\n\r\n789"), "{rest}");
    assert!(rest.contains("Content-Range: bytes 7-9/10"), "{rest}");
    let head = ask(&server, "HEAD /file HTTP/1.1");
    assert!(head.contains("Content-Length: 10") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(ask(&server, "GET /../file HTTP/1.1").starts_with("HTTP/1.1 404"));

    let targets: Vec<_> =
        server.take_requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/file?query", "/file", "/file", "/../file"]);

    server.answer("/file", Response::new(200, "0123456789").cut_after(4));
    let cut = ask(&server, "GET /file HTTP/1.1");
    assert!(cut.contains("Content-Length: 10") && cut.ends_with("\r\n\r\n0123"), "{cut}");
    server.hook(|request: &Request| {
        (request.method == "GET").then(|| Response::redirect("/elsewhere"))
    });
    assert!(ask(&server, "GET /file HTTP/1.1").contains("302 .\r\nLocation: /elsewhere\r\n"));
}

#[test]
fn a_service_is_heard_and_ended() {
    let script = "echo serves http://127.0.0.1:1/ now >&2; trap 'exit 7' TERM; \
        while :; do sleep 0.01; done";
    let mut service = Service::start(tool("sh").args(["-c", script]), "serves");
    assert_eq!(service.url(), "http://127.0.0.1:1");
    assert!(service.is_running());
    assert_eq!(service.terminate(), Some(7));
    assert!(!service.is_running());
    assert_eq!(service.stop(), "serves http://127.0.0.1:1/ now\n");
}
