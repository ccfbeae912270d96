//! A signed manifest and a cache made to harm: the host stays on what it runs and says why, and
//! one honest cache is enough.

use std::{collections::BTreeSet, fs, path::Path};

use tests::{Builder, Host, Realm, Request, Response, Server};

use super::{ACTIVATE, active, profile, publish, team};

/// What a cache does to each request.
type Lie = fn(&Path, &Request) -> Option<Response>;

struct Case {
    name: &'static str,
    lie: Lie,
    /// The state of the profile, and the code of its reason.
    state: &'static str,
    /// How `agent once` ends.
    code: i32,
    /// What the reason says beside the cache.
    says: &'static str,
}

fn is_nar(request: &Request) -> bool {
    request.path().starts_with("/nar/")
}

fn is_narinfo(request: &Request) -> bool {
    request.path().ends_with(".narinfo")
}

fn other_bytes(cache: &Path, request: &Request) -> Option<Response> {
    is_nar(request).then(|| {
        Response::file(cache, request).map_body(|body| {
            let middle = body.len() / 2;
            body[middle] ^= 1;
        })
    })
}

fn half(cache: &Path, request: &Request) -> Option<Response> {
    is_nar(request).then(|| Response::file(cache, request).cut_after(40))
}

fn bomb(_: &Path, request: &Request) -> Option<Response> {
    is_nar(request).then(|| Response::new(200, vec![0; 4 << 20]))
}

/// With hints nobody asks for narinfos as long as the NARs are there.
fn other_narinfos(cache: &Path, request: &Request) -> Option<Response> {
    if is_nar(request) {
        return Some(Response::new(404, ""));
    }
    is_narinfo(request).then(|| {
        Response::file(cache, request).map_body(|body| {
            let text = String::from_utf8(body.clone()).unwrap();
            *body = text.replace("NarSize: ", "NarSize: 1").into_bytes();
        })
    })
}

fn elsewhere(_: &Path, request: &Request) -> Option<Response> {
    is_nar(request).then(|| Response::redirect("http://169.254.169.254/latest/meta-data"))
}

fn nothing(_: &Path, request: &Request) -> Option<Response> {
    (is_nar(request) || is_narinfo(request)).then(|| Response::new(404, ""))
}

fn out_of_order(_: &Path, request: &Request) -> Option<Response> {
    is_nar(request).then(|| Response::new(500, "no"))
}

/// As many a proxy says that somebody has to log in first.
fn a_page(_: &Path, _: &Request) -> Option<Response> {
    Some(Response::new(200, "<html>Log in</html>\n"))
}

const CASES: [Case; 8] = [
    case("other bytes", other_bytes, "waiting refused_bytes", 4, "refused"),
    case("a bomb", bomb, "waiting refused_bytes", 4, "refused"),
    case("other narinfos", other_narinfos, "waiting refused_bytes", 4, "NarSize"),
    case("half of a NAR", half, "fetching fetch_failed", 1, "broke off"),
    case("a redirect to metadata", elsewhere, "fetching fetch_failed", 1, "another origin"),
    case("nothing", nothing, "fetching fetch_failed", 1, "does not have the path"),
    case("out of order", out_of_order, "fetching fetch_failed", 1, "500"),
    case("a page for everything", a_page, "waiting refused_bytes", 4, "bad narinfo"),
];

const fn case(
    name: &'static str,
    lie: Lie,
    state: &'static str,
    code: i32,
    says: &'static str,
) -> Case {
    Case { name, lie, state, code, says }
}

/// A realm whose group knows one cache.
fn realm(cache: &Server) -> Realm {
    let realm = Realm::new();
    let words = ["group", "create", "eu", "--cache", &cache.url(), "--profile", &profile("web")];
    realm.operator().sign(&words).ok();
    realm
}

/// Nothing is in the store that is not valid, or was not there before.
#[track_caller]
fn check_that_it_keeps(host: &Host, before: &[String], name: &str) {
    let nix = host.nix();
    nix.verify();
    assert_eq!(nix.valid_paths(), before, "{name}");
    let entries = fs::read_dir(nix.real("/nix/store")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: BTreeSet<String> =
        names.filter(|name| name != ".links").map(|name| format!("/nix/store/{name}")).collect();
    assert_eq!(names, before.iter().cloned().collect(), "{name}");
}

#[test]
fn a_host_stays_where_it_is_as_long_as_all_that_it_is_offered_has_to_be_refused() {
    let builder = Builder::new();
    let cache = Server::new(&builder.cache());
    let realm = realm(&cache);
    let web = team(&realm, "web");
    let host = Host::enrol(&realm, "eu", "host-1");
    let first = publish(&web, &builder, "web", ACTIVATE);
    host.run(&["once"]).ok();
    let before = host.nix().valid_paths();
    let second = publish(&web, &builder, "web", &format!("{ACTIVATE}; true"));
    for Case { name, lie, state, code, says } in CASES {
        let folder = builder.cache();
        cache.hook(move |request| lie(&folder, request));
        // Else the pause behind the failure before it would be kept.
        host.run(&["retry", "web"]);
        let said = host.run(&["once"]).fails(code);
        assert!(said.contains("error[") && said.contains("still running"), "{name}: {said}");
        let told = host.profile("web");
        let text = told["reason"]["text"].as_str().unwrap();
        assert!(text.contains(says) && text.contains(&cache.url()), "{name}: {told}");
        assert_eq!(told["next"], "agent retry web", "{told}");
        assert_eq!(host.state("web"), state, "{name}: {told}");
        assert_eq!(
            (host.current("web"), active(&host, "web")),
            (Some(first.clone()), Some("1".to_owned()))
        );
        check_that_it_keeps(&host, &before, name);
    }
    // It was never anything but the cache.
    cache.hook(|_| None);
    host.run(&["retry", "web"]);
    host.run(&["once"]).ok();
    assert_eq!((host.current("web"), active(&host, "web")), (Some(second), Some("2".to_owned())));
    host.nix().verify();
}

#[test]
fn one_honest_cache_behind_a_hostile_one_is_enough() {
    let builder = Builder::new();
    let (hostile, honest) = (Server::new(&builder.cache()), Server::new(&builder.cache()));
    let realm = realm(&hostile);
    let web = team(&realm, "web");
    let host = Host::enrol(&realm, "eu", "host-1");
    // Its own, and asked after that of the policy.
    host.configure(&format!("[[cache]]\nurl = \"{}\"\npriority = 90\n", honest.url()));
    for (number, Case { name, lie, .. }) in (1..).zip(CASES) {
        hostile.hook(|_| None);
        let path = publish(&web, &builder, "web", &format!("{ACTIVATE}; : {number}"));
        let folder = builder.cache();
        hostile.hook(move |request| lie(&folder, request));
        let ran = host.run(&["once"]);
        assert_eq!(ran.code, Some(0), "{name}: {ran}");
        let version = Some(number.to_string());
        assert_eq!((host.current("web"), active(&host, "web")), (Some(path), version), "{name}");
    }
    let valid = host.nix().valid_paths();
    check_that_it_keeps(&host, &valid, "all of them");
}
