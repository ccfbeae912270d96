//! A registry that is lost, made again of a backup.

use std::{fs, path::Path};

use tests::{
    Builder, Host, Realm, Service, copy_folder,
    fleet::{GROUP, Member, make_data},
    run, scratch, shoal,
};

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn serve(data: &Path) -> Service {
    let mut command = shoal("registry");
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
    Service::start(&mut command, "http://")
}

fn token(data: &Path) -> String {
    let mut token = shoal("registry");
    token.args(["host", "enroll-token", "--group", GROUP, "--uses", "9", "--data"]).arg(data);
    run(&mut token).ok().trim().to_owned()
}

#[test]
fn a_backup_made_under_load_holds_all_that_was_acknowledged_before_it() {
    let folder = scratch();
    let data = folder.path().join("data");
    make_data(&data).unwrap();
    let server = serve(&data);
    let token = token(&data);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let http = reqwest::Client::builder().tls_certs_only([]).build().unwrap();
    let url = server.url();
    let send = async |member: &Member, url: &str, counter| {
        let body = member.report(counter, 1).unwrap();
        let url = format!("{url}/api/v1/realms/main/reports");
        http.post(url).body(body).send().await.unwrap()
    };
    let backup = folder.path().join("backup");
    let (members, acknowledged) = runtime.block_on(async {
        let mut members = Vec::new();
        for number in 0..4 {
            members.push(Member::enrol(&http, &url, &token, number).await.unwrap());
        }
        let mut command = shoal("registry");
        command.args(["backup", "--data"]).arg(&data).arg("--to").arg(&backup);
        let mut backing_up = None;
        let mut acknowledged = 0;
        for counter in 1.. {
            for member in &members {
                assert_eq!(send(member, &url, counter).await.status(), 200);
            }
            if counter == 5 {
                acknowledged = counter;
                let mut command = std::mem::replace(&mut command, shoal("registry"));
                backing_up = Some(std::thread::spawn(move || run(&mut command)));
            }
            if backing_up.as_ref().is_some_and(std::thread::JoinHandle::is_finished) {
                break;
            }
        }
        backing_up.unwrap().join().unwrap().ok();
        (members, acknowledged)
    });
    drop(server);
    let restored = folder.path().join("restored");
    run(shoal("registry").arg("restore").arg(&backup).arg("--data").arg(&restored)).ok();
    let mut server = serve(&restored);
    server.says("restored from a backup");
    let url = server.url();
    runtime.block_on(async {
        for member in &members {
            let known = http.get(format!("{url}/api/v1/realms/main/hosts/{}", member.name));
            let known: serde_json::Value = known.send().await.unwrap().json().await.unwrap();
            let counter = known["report"]["counter"].as_u64().unwrap();
            assert!(counter >= acknowledged, "{counter} of {acknowledged}");
            // What hosts told since then is not known, so nothing is taken without a fresh word.
            assert_eq!(send(member, &url, counter + 1000).await.status(), 401);
        }
    });
    run(shoal("registry").arg("restore").arg(&backup).arg("--data").arg(&restored)).fails(5);
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn a_registry_restored_from_an_old_backup_says_so_and_is_brought_above_what_hosts_have_seen() {
    let mut realm = Realm::new();
    let builder = Builder::new();
    let operator = realm.operator();
    let cache = builder.cache_url();
    operator.sign(&["group", "create", "eu", "--cache", &cache, "--profile", "web:none"]).ok();
    let key = realm.signer("shop").key("shop");
    operator.sign(&["team", "add", "shop", "--key", &key, "--may", "eu/web"]).ok();
    let publish = |realm: &Realm, version: u32| {
        let root = builder.add("web", &[("text", &format!("web {version}"))], &[]);
        builder.push(&root).ok();
        let store = builder.root();
        let words = ["publish", "manifest", "eu/web", &root, "--activation", "none", "--root"];
        realm.signer("shop").sign(&[&words[..], &[path(&store)]].concat()).ok();
        Some(root)
    };
    let host = Host::enrol(&realm, "eu", "web-1");
    let follows = |realm: &Realm| {
        host.configure(&format!("[registry]\nurls = [\"{}\"]\n", realm.url));
        host.run(&["once"])
    };
    publish(&realm, 1);
    follows(&realm).ok();
    let (backup, mirror) = (realm.folder().join("backup"), realm.folder().join("mirror"));
    let data = realm.data();
    realm.operator().run(&["backup", "--data", path(&data), "--to", path(&backup)]).ok();
    let second = publish(&realm, 2);
    follows(&realm).ok();
    copy_folder(&realm.files(), &mirror);

    realm.stop();
    let words = ["restore", path(&backup), "--data", path(&data), "--replace"];
    realm.operator().run(&words).ok();
    realm.start();
    // It is merely behind: the host keeps what it runs, and tells.
    follows(&realm).fails(6);
    assert_eq!(host.current("web"), second);
    let ready = tests::get(&format!("{}/readyz", realm.url));
    assert!(ready.contains("registry recover"), "{ready}");

    let recover = ["recover", "--data", path(&data), "--from", path(&mirror)];
    realm.operator().run(&recover).fails(5);
    realm.stop();
    let told = realm.operator().run(&recover).ok();
    assert!(told.contains("1 version of roles taken"), "{told}");
    realm.start();
    follows(&realm).ok();
    assert_eq!(host.current("web"), second);
    let third = publish(&realm, 3);
    follows(&realm).ok();
    assert_eq!(host.current("web"), third);
    let ready = tests::get(&format!("{}/readyz", realm.url));
    assert_eq!(ready, "ok\n");
    let log = realm.operator().run(&["audit", "log", "--data", path(&data)]).ok();
    assert!(log.contains("restored") && log.contains("recovered"), "{log}");
    realm.stop();
    realm.operator().run(&recover[..3]).fails(1);
    assert!(fs::read_dir(data.join("backups")).unwrap().count() > 0, "what was there is kept");
}
