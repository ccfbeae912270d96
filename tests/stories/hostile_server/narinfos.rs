//! Narinfos that lie, that nobody vouches for, or that are not the same twice.

use shared::nix::{NarInfo, SecretKey, Sha256, narinfo::Compression};
use tests::{
    Answer, Goods,
    fault::{Step, compress},
};

use super::{Case, check_all};

/// Answers with the narinfo as `change` makes it.
fn changed(
    name: &str,
    says: &[&str],
    change: impl Fn(NarInfo) -> NarInfo + Send + Sync + 'static,
) -> Case {
    Case::narinfo(name, 4, says, move |_, text| {
        let narinfo = NarInfo::parse(text.as_bytes()).unwrap();
        Answer::whole(200, &[], change(narinfo).to_string().as_bytes())
    })
}

/// Answers with whatever `change` makes of the text.
fn text(
    name: &str,
    says: &[&str],
    change: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
) -> Case {
    Case::narinfo(name, 4, says, move |_, text| Answer::whole(200, &[], &change(text)))
}

/// Has the words that every refusal of a narinfo has.
const BAD: &[&str] = &["bad narinfo", "-big"];

#[test]
fn narinfos_that_are_none() {
    check_all(&[
        text("empty", BAD, |_| Vec::new()),
        text("a page", BAD, |_| b"<html>It works!</html>\n".to_vec()),
        text("noise", BAD, |text| compress(Compression::Zstd, text.as_bytes())),
        text("NUL", BAD, |text| text.replace("URL", "\0").into_bytes()),
        text("cut", BAD, |text| text.as_bytes()[..text.len() - 1].to_vec()),
        text("other line ends", BAD, |text| text.replace('\n', "\r\n").into_bytes()),
        // The last one wins, as in Nix: then the signature does not fit.
        text("two sizes", &["-big", "sign"], |text| {
            (text.to_owned() + "NarSize: 1\n").into_bytes()
        }),
        text("two hashes", &["-big", "sign"], |text| {
            let other = Sha256::of(b"other");
            format!("{text}NarHash: {other}\n").into_bytes()
        }),
        text("two paths", &["tells of", "-big"], |text| {
            format!("{text}StorePath: {}\n", super::usual().root()).into_bytes()
        }),
        text("two lists of references", BAD, |text| {
            format!("{text}References: x\nReferences: y\n").into_bytes()
        }),
        text("two URLs", &["-big", "names `http://169.254.169.254/x`"], |text| {
            format!("{text}URL: http://169.254.169.254/x\n").into_bytes()
        }),
        text("a size of 2^64", BAD, |text| {
            text.replace("NarSize: ", "NarSize: 18446744073709551616").into_bytes()
        }),
        text("an unknown compression", BAD, |text| {
            text.replace("Compression: zstd", "Compression: pied-piper").into_bytes()
        }),
        text("a thousand signatures of nobody", &["-big"], |text| {
            let unsigned = text.lines().filter(|line| !line.starts_with("Sig"));
            let mut text = unsigned.map(|line| format!("{line}\n")).collect::<String>();
            text.extend((0..1000).map(|number| format!("Sig: nobody-{number}:AAAA\n")));
            text.into_bytes()
        }),
    ]);
}

#[test]
fn narinfos_that_nobody_vouches_for() {
    let stranger = SecretKey::from_seed("stranger-1", &[9; 32]).unwrap();
    let namesake = SecretKey::from_seed("fault.test-1", &[9; 32]).unwrap();
    let signed_by = |name: &str, key: SecretKey| {
        changed(name, &["-big", "signed by"], move |mut it| {
            it.info.signatures.clear();
            it.info.sign(&key);
            it
        })
    };
    check_all(&[
        changed("unsigned", &["-big", "sign"], |mut it| {
            it.info.signatures.clear();
            it
        }),
        signed_by("signed by a stranger", stranger),
        signed_by("signed by a namesake", namesake),
        changed("another size", &["-big", "sign"], |mut it| {
            it.info.nar_size += 8;
            it
        }),
        changed("a size of 2^63", &["-big", "sign"], |mut it| {
            it.info.nar_size = 1 << 63;
            it
        }),
        changed("another hash", &["-big", "sign"], |mut it| {
            it.info.nar_hash.0[0] ^= 1;
            it
        }),
        changed("a reference more", &["-big", "sign"], |mut it| {
            it.info.references.insert(it.info.path.clone());
            it
        }),
        Case::narinfo("another path", 4, &["tells of", "-big"], |_, _| {
            Answer::whole(200, &[], super::usual().narinfo("small").to_string().as_bytes())
        }),
        text("another name", &["tells of", "-big"], |text| {
            text.replacen("-big", "-pig", 1).into_bytes()
        }),
        text("another store", BAD, |text| {
            text.replacen("/nix/store/", "/gnu/store/", 1).into_bytes()
        }),
        text("a path that leads up", BAD, |text| {
            text.replacen("/nix/store/", "/nix/store/../store/", 1).into_bytes()
        }),
    ]);
}

#[test]
fn narinfos_that_point_elsewhere() {
    let urls = [
        "http://169.254.169.254/latest/meta-data/iam",
        "http://[fd00:ec2::254]/latest",
        "http://localhost/x.nar",
        "https://cache.example/x.nar",
        "//169.254.169.254/x",
        "file:///etc/passwd",
        "/etc/passwd",
        "../../etc/passwd",
        "nar/../../../etc/passwd",
        "nar/%2e%2e/x.nar",
        "nar/./x.nar",
        "nar\\x.nar",
        "nar/x.nar#y",
        "nar/x\u{1b}[2Jy.nar",
        "nar/ x.nar",
    ];
    let cases: Vec<_> = urls
        .into_iter()
        .map(|url| changed(url, &["-big"], move |it| NarInfo { url: url.to_owned(), ..it }))
        .collect();
    check_all(&cases);
}

/// The same paths with other contents, signed by the same key.
fn other_goods() -> Goods {
    let mut goods = Goods::new();
    goods.add_file("big", b"nothing of that size\n", Compression::Zstd, &[]);
    goods
}

#[test]
fn a_narinfo_that_is_another_one_when_asked_for_again_is_not_what_is_wanted() {
    let first = Case::new("the second time", 4, &["-big", "NarHash", "wants"], |ask, goods| {
        let other = other_goods();
        if ask.path() == goods.narinfo("big").url {
            return Some(Answer::whole(404, &[], b""));
        }
        let again = ask.path() == goods.narinfo_file("big") && ask.before > 0;
        again.then(|| Answer::whole(200, &[], other.narinfo("big").to_string().as_bytes()))
    });
    check_all(&[first]);
}

/// The first cache settles what `big` is to be, and then has no such thing; the next one has another
/// build of it, and its word is as good.
#[test]
fn a_narinfo_that_is_signed_as_well_and_has_no_good_nar_stands_in_the_way_of_nobody() {
    let other_build = |name: &str, code, says: &[&str], nar: fn(&Goods) -> Answer| {
        let other = other_goods();
        Case::new(name, code, says, move |ask, goods| {
            if ask.path() == goods.narinfo_file("big") {
                let narinfo = other.narinfo("big").to_string();
                return Some(Answer::whole(200, &[], narinfo.as_bytes()));
            }
            (ask.path() == other.narinfo("big").url).then(|| nar(&other))
        })
    };
    check_all(&[
        other_build("a wrong one", 4, &["-big", "refused"], |other| {
            let mut nar = other.nar("big").to_vec();
            let middle = nar.len() / 2;
            nar[middle] ^= 1;
            Answer::whole(200, &[], &nar)
        }),
        other_build("none", 6, &["-big", "it has a narinfo, but no `nar/"], |_| {
            Answer::whole(404, &[], b"")
        }),
        other_build("half a one", 6, &["-big", "broke off"], |other| {
            let nar = other.nar("big");
            let length = nar.len().to_string();
            let half = &nar[..nar.len() / 2];
            Answer::head(200, &[("Content-Length", &length)]).send(half).then(Step::Close)
        }),
        other_build("500", 6, &["-big", "500"], |_| Answer::whole(500, &[], b"")),
    ]);
}
