//! Closure indexes whose hints lead to others.

use shared::{
    hints::{Hints, NarHint},
    nix::{SecretKey, narinfo::Compression},
};
use tests::{Answer, Goods, Server, fixture};

use super::{Case, check_all};

/// Hints that are right, but for `change`; they name `cache`.
fn hints(goods: &Goods, cache: &str, change: impl Fn(&mut NarHint)) -> Hints {
    let mut hints = Hints::default();
    let cache = hints.add_cache(cache);
    for narinfo in goods.narinfos() {
        let told = hints.entry(&narinfo.info.path);
        let mut nar = NarHint {
            cache,
            compression: narinfo.compression,
            file_size: narinfo.file_size.unwrap(),
            url: narinfo.url.clone(),
        };
        change(&mut nar);
        told.nars.push(nar);
        told.signatures.clone_from(&narinfo.info.signatures);
    }
    hints
}

/// Hints at `url` for every archive; the cache itself is honest, so all ends well.
fn leads_to(url: &str) -> Case {
    let place = url.to_owned();
    Case::new(format!("to {url}"), 0, &[], |_, _| None)
        .indexed(move |goods, cache| hints(goods, cache, |nar| nar.url.clone_from(&place)))
}

#[test]
fn hints_that_lead_elsewhere_are_ignored() {
    let other = Server::new(&fixture("nix/cache-zstd"));
    let elsewhere = other.url();
    let mut cases: Vec<_> = [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/latest/meta-data/",
        "http://localhost/x",
        "//169.254.169.254/x",
        "file:///etc/passwd",
        "/etc/passwd",
        "../../../../etc/passwd",
        "nar/../../x",
        "nar/%2e%2e/%2e%2e/x",
        "nar/nothing",
        &format!("{elsewhere}/nar/x"),
    ]
    .into_iter()
    .map(leads_to)
    .collect();
    for place in ["http://169.254.169.254", "http://[fd00:ec2::254]", "file:///", &elsewhere] {
        let cache = place.to_owned();
        let case = Case::new(format!("the cache {place}"), 0, &[], |_, _| None);
        cases.push(case.indexed(move |goods, _| hints(goods, &cache, |_| ())));
    }
    let redirected = Case::nar("a redirect from there", 6, &["redirect to another origin"], {
        let to = elsewhere;
        move |_, _| Answer::redirect(&to)
    });
    cases.push(redirected.indexed(|goods, cache| hints(goods, cache, |_| ())));
    check_all(&cases);
    assert!(other.take_requests().is_empty());
}

#[test]
fn hints_that_lie_about_what_is_there_cost_a_request_and_nothing_else() {
    check_all(&[
        Case::new("another compression", 0, &[], |_, _| None).indexed(|goods, cache| {
            hints(goods, cache, |nar| nar.compression = Compression::Brotli)
        }),
        Case::new("another size", 0, &[], |_, _| None)
            .indexed(|goods, cache| hints(goods, cache, |nar| nar.file_size = u64::MAX)),
        Case::new("the archive of another", 0, &[], |_, _| None).indexed(|goods, cache| {
            let small = goods.narinfo("small").url.clone();
            hints(goods, cache, |nar| nar.url.clone_from(&small))
        }),
        Case::new("signatures of a stranger", 0, &[], |_, _| None).indexed(|goods, cache| {
            let stranger = SecretKey::from_seed("fault.test-1", &[9; 32]).unwrap();
            let mut hints = hints(goods, cache, |_| ());
            for narinfo in goods.narinfos() {
                let signature = stranger.sign(&narinfo.info.fingerprint());
                hints.entry(&narinfo.info.path).signatures = vec![signature];
            }
            hints
        }),
        Case::new("no hint at all", 0, &[], |_, _| None).indexed(|_, _| Hints::default()),
    ]);
}

#[test]
fn an_index_holds_whatever_a_cache_says() {
    check_all(&[
        Case::new("an archive that is another", 4, &["-big", "refused"], |ask, goods| {
            (ask.path() == goods.narinfo("big").url)
                .then(|| Answer::whole(200, &[], goods.nar("small")))
        })
        .indexed(|goods, cache| hints(goods, cache, |_| ())),
        Case::new("altered and signed again by the real key", 4, &["-big", "NarHash", "wants"], {
            |ask, goods| {
                let mut other = Goods::new();
                other.add_file("big", b"altered\n", Compression::Zstd, &[]);
                [other.narinfo_file("big"), other.narinfo("big").url.clone()]
                    .contains(&ask.path().to_owned())
                    .then(|| other.answer(ask))
                    .or_else(|| {
                        (ask.path() == goods.narinfo("big").url)
                            .then(|| Answer::whole(404, &[], b""))
                    })
            }
        })
        .indexed(|_, _| Hints::default()),
    ]);
}
