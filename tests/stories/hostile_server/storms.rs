//! Servers that are out of order, for a while or for ever.

use tests::{Answer, fault::Step};

use super::{Case, check_all};

const STORM: [u16; 8] = [400, 408, 429, 500, 502, 503, 504, 511];

#[test]
fn servers_that_are_out_of_order() {
    let mut cases = Vec::new();
    for status in STORM {
        let says = status.to_string();
        let all = format!("{status} to everything");
        cases.push(Case::new(all, 6, &[&says, "nix-cache-info"], move |_, _| {
            Some(Answer::whole(status, &[], b"no"))
        }));
        let narinfo = format!("{status} to a narinfo");
        cases.push(Case::narinfo(narinfo, 6, &[&says, ".narinfo"], move |_, _| {
            Answer::whole(status, &[], b"no")
        }));
        let archive = format!("{status} to an archive");
        cases.push(Case::nar(archive, 6, &[&says, "nar/"], move |_, _| {
            Answer::whole(status, &[], b"no")
        }));
    }
    for status in [408, 429, 500, 502, 503, 504] {
        cases.push(Case::new(format!("{status} now and then"), 0, &[], move |ask, _| {
            (ask.before == 0).then(|| Answer::whole(status, &[("Retry-After", "0")], b"later"))
        }));
    }
    check_all(&cases);
}

#[test]
fn servers_that_hang_up() {
    check_all(&[
        Case::new("at once, always", 6, &["nix-cache-info"], |_, _| {
            Some(Answer::default().then(Step::Close))
        }),
        Case::new("with a reset, always", 6, &["nix-cache-info"], |_, _| {
            Some(Answer::default().then(Step::Reset))
        }),
        Case::new("behind each answer", 0, &[], |ask, goods| {
            Some(goods.answer(ask).then(Step::Close))
        }),
        Case::new("at once, now and then", 0, &[], |ask, _| {
            (ask.before == 0).then(|| Answer::default().then(Step::Reset))
        }),
    ]);
}

#[test]
fn servers_that_have_nothing() {
    check_all(&[
        Case::new("404 to all but its description", 6, &["does not have the path"], |ask, _| {
            (ask.path() != "nix-cache-info").then(|| Answer::whole(404, &[], b""))
        })
        .unnamed(),
        Case::narinfo("403 to a narinfo", 6, &["does not have the path"], |_, _| {
            Answer::whole(403, &[], b"")
        })
        .unnamed(),
        Case::nar("404 to an archive", 6, &["-big", "it has a narinfo, but no `nar/"], |_, _| {
            Answer::whole(404, &[], b"")
        }),
        Case::nar("410 to an archive", 6, &["-big", "it has a narinfo, but no `nar/"], |_, _| {
            Answer::whole(410, &[], b"")
        }),
    ]);
}
