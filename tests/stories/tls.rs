//! Caches over TLS, with certificate authorities of one's own.

use std::{fs, path::Path};

use tests::{Nix, Ran, Server, Service, fixture, run, scratch, shoal, tool};

const ROOT: &str = "/nix/store/8z53hvy6z9j309dj7laj128c6fsckzcg-nixos-system-testhost-1";

/// Serves a folder over TLS; with a third argument it sends everybody there instead.
const SERVER: &str = r#"
import functools, http.server, ssl, sys
folder, certificate, elsewhere = sys.argv[1:4]
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if elsewhere and not self.path.endswith("nix-cache-info"):
            self.send_response(302)
            self.send_header("Location", elsewhere + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            super().do_GET()
handler = functools.partial(Handler, directory=folder)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate)
server.socket = context.wrap_socket(server.socket, server_side=True)
print("serves port", server.server_port, flush=True)
server.serve_forever()
"#;

/// Makes an authority, `ca.pem`, and a server's key with a certificate of it, `server.pem`.
pub(crate) fn make_certificates(folder: &Path) {
    let script = r#"set -e
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=test-ca -days 2
openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=127.0.0.1
printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n' > extensions
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
    -extfile extensions -out server.crt
cat server.key server.crt > server.pem"#;
    run(tool("sh").args(["-c", script]).current_dir(folder)).ok();
}

/// Starts a server over TLS and returns its URL.
#[track_caller]
pub(crate) fn serve(folder: &Path, elsewhere: &str) -> (Service, String) {
    let mut python = tool("python3");
    python.args(["-c", SERVER]).arg(fixture("nix/cache-xz")).arg(folder.join("server.pem"));
    let service = Service::start(python.arg(elsewhere), "serves port");
    let port = service.ready.rsplit(' ').next().unwrap().to_owned();
    (service, format!("https://127.0.0.1:{port}"))
}

#[track_caller]
fn copy(url: &str, root: &Path, ca_file: Option<&Path>) -> Ran {
    let key = fs::read_to_string(fixture("nix/keys/cache.test-1.public")).unwrap();
    let mut agent = shoal("agent");
    agent.args(["copy-closure", "--from", url, "--trusted-public-key", &key, "--root"]).arg(root);
    if let Some(file) = ca_file {
        agent.arg("--ca-file").arg(file);
    }
    run(agent.arg(ROOT))
}

#[test]
fn an_authority_of_ones_own_is_trusted_only_when_it_is_named() {
    let folder = scratch();
    make_certificates(folder.path());
    let (_server, url) = serve(folder.path(), "");
    let root = folder.path().join("root");
    let authority = folder.path().join("ca.pem");
    copy(&url, &root, None).fails(6);
    copy(&url, &root, Some(&folder.path().join("missing"))).fails(2);
    copy(&url, &root, Some(&folder.path().join("server.key"))).fails(2);
    copy(&url, &root, Some(&authority)).ok();
    let nix = Nix::at(&root);
    nix.verify();
    assert_eq!(nix.valid_paths().len(), 26);
}

#[test]
fn https_never_becomes_http() {
    let folder = scratch();
    make_certificates(folder.path());
    let plain = Server::new(&fixture("nix/cache-xz"));
    let (_server, url) = serve(folder.path(), &plain.url());
    let root = folder.path().join("root");
    let said = copy(&url, &root, Some(&folder.path().join("ca.pem"))).fails(6);
    assert!(said.contains("redirect to another origin"), "{said}");
    assert!(plain.take_requests().is_empty());
}
