//! Servers that send the client elsewhere.

use tests::{Answer, Server, fixture};

use super::{Case, check_all};

/// Where nothing must ever be fetched from: metadata services, this machine, its files.
const FORBIDDEN: [&str; 12] = [
    "http://169.254.169.254/latest/meta-data/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://[::ffff:169.254.169.254]/",
    "http://0x7f000001/",
    "http://localhost/",
    "http://[::1]/",
    "//169.254.169.254/",
    "file:///etc/passwd",
    "ftp://127.0.0.1/",
    "data:application/octet-stream,x",
    "gopher://127.0.0.1:70/",
];

#[test]
fn redirects_to_addresses_that_nobody_should_ask() {
    let mut cases = Vec::new();
    for place in FORBIDDEN {
        let name = format!("an archive at {place}");
        cases.push(Case::nar(name, 6, &["-big", "`nar/"], move |_, _| Answer::redirect(place)));
        let name = format!("a narinfo at {place}");
        cases.push(Case::narinfo(name, 6, &["-big", ".narinfo"], move |_, _| {
            Answer::redirect(place)
        }));
    }
    check_all(&cases);
}

#[test]
fn redirects_to_others_are_never_followed() {
    let other = Server::new(&fixture("nix/cache-zstd"));
    let elsewhere = other.url();
    let by_name = elsewhere.replace("127.0.0.1", "localhost");
    let with_user = elsewhere.replace("http://", "http://127.0.0.1@");
    let case = |name: &str, to: String| {
        Case::nar(name, 6, &["redirect to another origin"], move |ask, _| {
            Answer::redirect(&format!("{to}/{}", ask.path()))
        })
    };
    check_all(&[
        case("another port", elsewhere),
        case("another name of this machine", by_name),
        case("a user name that looks like a host", with_user),
        Case::nar("another scheme", 6, &["redirect to another origin"], |ask, _| {
            Answer::redirect(&format!("{}/{}", ask.url.replace("http:", "https:"), ask.path()))
        }),
        Case::new("another port at the second step", 6, &["redirect to another origin"], {
            let elsewhere = other.url();
            move |ask, goods| match ask.path() {
                "step" => Some(Answer::redirect(&elsewhere)),
                path => (path == goods.narinfo("big").url).then(|| Answer::redirect("/step")),
            }
        }),
    ]);
    assert!(other.take_requests().is_empty());
}

#[test]
fn redirects_that_lead_nowhere() {
    let count = |ask: &tests::Ask<'_>| ask.request.target.matches('x').count();
    check_all(&[
        Case::nar("to itself", 6, &["more than 5 redirects"], |ask, _| {
            Answer::redirect(&ask.request.target)
        }),
        Case::new("in a circle of two", 6, &["more than 5 redirects"], |ask, goods| {
            let url = &goods.narinfo("big").url;
            (ask.path() == url)
                .then(|| Answer::redirect("/other"))
                .or_else(|| (ask.path() == "other").then(|| Answer::redirect(&format!("/{url}"))))
        }),
        Case::new("on and on", 6, &["more than 5 redirects"], move |ask, goods| {
            let url = &goods.narinfo("big").url;
            ask.path()
                .starts_with(&**url)
                .then(|| Answer::redirect(&format!("/{url}?{}", "x".repeat(count(ask) + 1))))
        }),
        Case::nar("without a place", 6, &["-big"], |_, _| Answer::whole(302, &[], b"")),
        Case::nar("to nonsense", 6, &["-big"], |_, _| Answer::redirect("http://[")),
        Case::new("on its own ground, five times", 0, &[], move |ask, goods| {
            let url = &goods.narinfo("big").url;
            (ask.path() == url && count(ask) < 5)
                .then(|| Answer::redirect(&format!("/{url}?{}", "x".repeat(count(ask) + 1))))
        }),
        Case::new("a permanent one of everything to itself", 6, &["redirects"], |ask, _| {
            Some(Answer::whole(301, &[("Location", &ask.request.target)], b""))
        }),
    ]);
}
