//! A group whose hosts have roots of their own: more entries than fit into one manifest.

use std::{fmt::Write as _, fs};

use tests::{Builder, Host, Proxy, Ran, Realm, Response, Signer};

/// Hosts with a root of their own: more than one manifest has room for.
const HOSTS: usize = 600;

/// A realm whose group `eu` takes `web`, a proxy before its registry, and a team.
struct World {
    builder: Builder,
    realm: Realm,
    proxy: Proxy,
}

impl World {
    fn new() -> Self {
        let (builder, realm) = (Builder::new(), Realm::new());
        let cache = builder.cache_url();
        let words = ["group", "create", "eu", "--cache", &cache, "--profile", "web:none"];
        realm.operator().sign(&words).ok();
        let web = realm.signer("web");
        let words = ["team", "add", "web", "--key", &web.key("web"), "--may", "eu/web"];
        realm.operator().sign(&words).ok();
        let proxy = Proxy::new(&realm.url);
        Self { builder, realm, proxy }
    }

    fn team(&self) -> Signer<'_> {
        self.realm.signer("web")
    }

    fn host(&self, name: &str) -> Host {
        Host::enrol_at(&self.realm, &self.proxy.url(), "eu", name)
    }

    /// Builds a root and puts it into the cache.
    fn root(&self, text: &str) -> String {
        let path = self.builder.add("web", &[("bin/web", text)], &[]);
        self.builder.push(&path).ok();
        path
    }

    /// Publishes what single hosts run, by the lines of a file, and perhaps what all others run.
    fn publish(&self, lines: &str, others: Option<&str>) -> Ran {
        let file = self.builder.root().join("hosts");
        fs::write(&file, lines).unwrap();
        let (file, root) = (file.to_str().unwrap(), self.builder.root());
        let mut words = vec!["publish", "manifest", "eu/web"];
        words.extend(others);
        words.extend(["--hosts", file, "--root", root.to_str().unwrap()]);
        self.team().sign(&words)
    }

    /// Has a host look, and returns the shards and closure indexes that it asked for since another
    /// one did.
    fn asks(&self, host: &Host) -> Vec<String> {
        host.run(&["once"]).ok();
        let paths = self.proxy.take_requests().into_iter().map(|ask| ask.path().to_owned());
        let files = paths.filter(|path| path.contains("/shards/") || path.contains("/closures/"));
        files.filter(|path| !path.ends_with(".hints")).collect()
    }
}

/// Gives every host one of two roots.
fn lines(one: &str, two: &str) -> String {
    let mut lines = String::new();
    for number in 0..HOSTS {
        writeln!(lines, "host-{number} {}", if number % 2 == 0 { one } else { two }).unwrap();
    }
    lines
}

#[test]
fn every_host_of_a_large_group_fetches_its_own_shard_and_nothing_of_the_others() {
    let world = World::new();
    let [one, two, rest] = ["one", "two", "rest"].map(|text| world.root(text));
    let said = world.publish(&lines(&one, &two), Some(&rest)).ok();
    assert!(said.contains("Published eu/web 1"), "{said}");
    let shown = world.team().run(&["manifest", "show", "eu/web"]).ok();
    assert!(shown.contains("in 4 shards"), "{shown}");
    let seen = world.realm.operator().run(&["verify", "--all"]).ok();
    assert!(seen.contains(" closure ") && !seen.contains("refused"), "{seen}");

    let hosts = [("host-0", &one), ("host-1", &two), ("host-599", &two), ("db-1", &rest)];
    let hosts = hosts.map(|(name, root)| {
        let host = world.host(name);
        let asked = world.asks(&host);
        assert_eq!(asked.len(), 2, "one shard, one index: {asked:?}");
        assert_eq!(host.current("web").as_ref(), Some(root));
        assert_eq!(host.state("web"), "converged");
        host
    });

    // One host changes: it learns of that from its shard; the others have theirs already.
    let three = world.root("three");
    world.publish(&format!("host-0 {three}\nhost-599 -\n"), None).ok();
    let asked = hosts.each_ref().map(|host| world.asks(host).len());
    assert_eq!(asked[0], 2, "its shard and the new index");
    let runs = hosts.each_ref().map(|host| host.current("web").unwrap());
    assert_eq!(runs.each_ref(), [&three, &two, &rest, &rest]);
    assert!(asked[1] <= 1 && asked[3] <= 1, "{asked:?}");

    // Nothing new: not even the shard is asked for, also by an agent that starts anew.
    for host in &hosts {
        assert_eq!(world.asks(host), Vec::<String>::new());
    }
}

#[test]
fn a_shard_that_is_not_the_one_or_not_there_changes_nothing_on_the_host() {
    let world = World::new();
    let [one, two] = ["one", "two"].map(|text| world.root(text));
    world.publish(&lines(&one, &one), None).ok();
    let host = world.host("host-7");
    host.run(&["once"]).ok();
    world.publish(&lines(&one, &two), None).ok();

    world.proxy.change(|request, answer| {
        if !request.path().contains("/shards/") {
            return answer;
        }
        answer.map_body(|body| body.extend_from_slice(b" "))
    });
    let said = host.run(&["once"]).fails(4);
    assert!(said.contains("another shard than the manifest pins"), "{said}");
    assert_eq!(host.state("web"), "untrusted untrusted");
    world.proxy.change(|request, answer| {
        if request.path().contains("/shards/") { Response::new(404, "") } else { answer }
    });
    let said = host.run(&["once"]).fails(6);
    assert!(said.contains("has no shard"), "{said}");
    assert_eq!(host.state("web"), "stale no_fresh_source");
    assert_eq!(host.current("web"), Some(one));
    host.nix().verify();

    world.proxy.honest();
    host.run(&["once"]).ok();
    assert_eq!(host.current("web"), Some(two));
}
