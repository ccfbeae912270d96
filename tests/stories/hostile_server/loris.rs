//! Servers that are slow on purpose: they hold whoever waits for them, for as long as they may.

use std::time::Duration;

use tests::{Answer, fault::Step};

use super::{Case, check_all};

/// What makes an agent impatient enough for a test; the usual limits are the same with other numbers.
const IMPATIENT: &[&str] = &["--stall-timeout", "2", "--min-rate-over", "2"];

/// Says something that never ends, a byte at a time, often enough to be no silence.
fn drip(bytes: impl Into<Vec<u8>>) -> Step {
    Step::Drip { bytes: bytes.into(), pause: Duration::from_millis(50) }
}

fn head(length: usize) -> Answer {
    Answer::head(200, &[("ETag", "\"x\""), ("Content-Length", &length.to_string())])
}

#[test]
fn heads_that_drip() {
    let dripping = || Answer::raw("HTTP/1.1 200 .\r\nX-More: ").then(drip("more"));
    let nar = |name: &str, answer: fn() -> Answer| {
        let says = &["-big", "cannot get `nar/", "no answer within 2 s"];
        Case::nar(name, 6, says, move |_, _| answer()).with(IMPATIENT)
    };
    check_all(&[
        nar("of a NAR", dripping),
        nar("of a NAR, one header after the other", || {
            Answer::raw("HTTP/1.1 200 .\r\n").then(drip("X: y\r\n"))
        }),
        nar("of a NAR, from the first byte", || Answer::default().then(drip("H"))),
        nar("of a NAR, which never begin", || Answer::default().then(Step::Stall)),
        Case::narinfo("of a narinfo", 6, &[".narinfo"], move |_, _| dripping()).with(IMPATIENT),
        Case::new("of everything", 6, &["nix-cache-info"], move |_, _| Some(dripping()))
            .with(IMPATIENT),
    ]);
}

#[test]
fn bodies_that_drip() {
    let too_slow = &["-big", "broke off", "bytes a second are wanted", "--min-rate"];
    check_all(&[
        Case::nar("a NAR", 6, too_slow, |_, nar| head(nar.len()).then(drip(nar))).with(IMPATIENT),
        Case::nar("a NAR behind its half", 6, too_slow, |_, nar| {
            head(nar.len()).send(&nar[..nar.len() / 2]).then(drip(nar))
        })
        .with(IMPATIENT),
        Case::nar("a NAR in chunks", 6, too_slow, |_, _| {
            let chunked = [("Transfer-Encoding", "chunked")];
            Answer::head(200, &chunked).then(drip("1\r\nx\r\n"))
        })
        .with(IMPATIENT),
        Case::nar("a NAR without an end", 6, too_slow, |_, nar| {
            Answer::head(200, &[("Connection", "close")]).then(drip(nar))
        })
        .with(IMPATIENT),
        Case::narinfo("a narinfo", 6, &[".narinfo"], |_, text| head(text.len()).then(drip(text)))
            .with(IMPATIENT),
        Case::new("a description", 6, &["nix-cache-info"], |ask, _| {
            (ask.path() == "nix-cache-info").then(|| head(1000).then(drip("Priority: 1\n")))
        })
        .with(IMPATIENT),
    ]);
}

#[test]
fn bodies_that_stop() {
    // Silence is the slowest rate of all, and that would be noticed first.
    const PATIENT: &[&str] = &["--stall-timeout", "2", "--min-rate-over", "60"];
    let silent = &["-big", "broke off", "cannot get `nar/", "not a byte within 2 s"];
    check_all(&[
        Case::nar("behind the head", 6, silent, |_, nar| head(nar.len()).then(Step::Stall))
            .with(PATIENT),
        Case::nar("in the middle", 6, silent, |_, nar| {
            head(nar.len()).send(&nar[..nar.len() / 2]).then(Step::Stall)
        })
        .with(PATIENT),
        Case::narinfo("a narinfo, behind its head", 6, &[".narinfo"], |_, text| {
            head(text.len()).then(Step::Stall)
        })
        .with(PATIENT),
    ]);
}

/// Slow is not broken: what keeps its rate is waited for, however long it takes.
#[test]
fn a_line_that_is_merely_thin() {
    let slowly = |nar: &[u8]| {
        let pause = Duration::from_millis(100);
        head(nar.len()).then(Step::Slowly { bytes: nar.to_vec(), piece: 4096, pause })
    };
    let thin = Case::nar("a NAR", 0, &[], move |_, nar| slowly(nar)).with(IMPATIENT);
    check_all(&[
        thin,
        Case::nar("a NAR for who wants more", 6, &["are wanted"], move |_, nar| slowly(nar))
            .with(IMPATIENT)
            .with(&["--min-rate", "10000000"]),
        Case::nar("a NAR for who wants nothing", 0, &[], move |_, nar| {
            let pause = Duration::from_millis(1500);
            let (begin, rest) = nar.split_at(3);
            head(nar.len()).then(Step::Slowly { bytes: begin.to_vec(), piece: 1, pause }).send(rest)
        })
        .with(&["--stall-timeout", "60", "--min-rate-over", "1", "--min-rate", "0"]),
    ]);
}
