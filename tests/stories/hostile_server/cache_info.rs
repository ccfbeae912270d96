//! What a cache says of itself, when that is wrong.

use tests::Answer;

use super::{Case, check_all};

fn says(name: &str, code: i32, says: &[&str], body: impl Into<Vec<u8>>) -> Case {
    let body = body.into();
    Case::new(name, code, says, move |ask, _| {
        (ask.path() == "nix-cache-info").then(|| Answer::whole(200, &[], &body))
    })
}

#[test]
fn a_cache_that_says_nonsense_of_itself_is_left_alone_or_taken_as_it_is() {
    let other = &["is not usable", "store directory"];
    check_all(&[
        says("another store directory", 4, other, "StoreDir: /gnu/store\n"),
        says("no store directory that could be", 4, other, "StoreDir: /nix/store/../store\n"),
        says("two store directories", 4, other, "StoreDir: /nix/store\nStoreDir: /x\n"),
        says("no text", 4, &["no UTF-8 text"], [0xff, 0xfe]),
        says("10 MB", 4, &["more than 65536 bytes"], vec![b'\n'; 10_000_000]),
        says("nothing", 0, &[], ""),
        says(
            "noise in lines",
            0,
            &[],
            "\0\n\u{1b}[2J\n:\n::\nStoreDir /x\nPriority: 99999999999\n",
        ),
        Case::new("no file", 0, &[], |ask, _| {
            (ask.path() == "nix-cache-info").then(|| Answer::whole(404, &[], b""))
        }),
        Case::new("a file without an end", 4, &["more than 65536 bytes"], |ask, _| {
            (ask.path() == "nix-cache-info").then(|| {
                Answer::head(200, &[("Connection", "close")]).forever("WantMassQuery: 1\n")
            })
        }),
        Case::new("a file elsewhere", 6, &["redirect to another origin"], |ask, _| {
            (ask.path() == "nix-cache-info").then(|| Answer::redirect("http://169.254.169.254/"))
        }),
    ]);
}
