//! Servers whose certificate is no good, or that do not speak TLS at all.

use tests::{
    Answer,
    fault::{Certificates, Step},
};

use super::{Case, check_all};

#[test]
fn servers_that_are_not_who_they_should_be_are_not_talked_to() {
    let certificates = Certificates::new();
    let authority = certificates.authority();
    let trusting = ["--ca-file", authority.to_str().unwrap()];
    let shown = |name: &str, code: i32, says: &[&str], identity: &str| {
        Case::new(name, code, says, |_, _| None).over_tls(certificates.identity(identity))
    };
    let says = &["cannot get `nix-cache-info`", "certificate"];
    check_all(&[
        shown("a good one", 0, &[], "good").with(&trusting),
        shown("one of an authority that nobody named", 6, says, "good"),
        shown("one that it signed itself", 6, says, "self").with(&trusting),
        shown("one for another name", 6, says, "other").with(&trusting),
        shown("one that has expired", 6, says, "expired").with(&trusting),
        Case::new("HTTP where TLS should be", 6, &["nix-cache-info"], |_, _| None).plain_as_tls(),
        Case::new("an end in the middle of an archive", 6, &["-big", "broke off"], |ask, goods| {
            // Without a length, and without the word that ends TLS, this could be all of it.
            let nar = goods.nar("big");
            (ask.path() == goods.narinfo("big").url).then(|| {
                Answer::head(200, &[("Connection", "close")])
                    .send(&nar[..nar.len() / 2])
                    .then(Step::Close)
            })
        })
        .over_tls(certificates.identity("good"))
        .with(&trusting),
    ]);
}
