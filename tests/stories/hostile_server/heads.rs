//! Answers whose head is wrong, endless, or never comes.

use tests::{Answer, fault::Step};

use super::{Case, check_all};

#[test]
fn heads_that_are_too_long_or_no_heads() {
    let ok = "HTTP/1.1 200 .\r\n";
    let says = &["cannot get `nar/"];
    let many: String = (0..5000).map(|number| format!("X-{number}: x\r\n")).collect();
    check_all(&[
        Case::nar("headers for ever", 6, says, move |_, _| {
            Answer::raw(ok).forever("X-More: and more\r\n")
        }),
        Case::nar("a header without an end", 6, says, move |_, _| {
            Answer::raw(format!("{ok}X-More: ")).forever("and more")
        }),
        Case::nar("a header name without an end", 6, says, move |_, _| {
            Answer::raw(ok).forever("x")
        }),
        Case::nar("thousands of headers", 6, says, move |_, nar| {
            let length = format!("Content-Length: {}\r\n\r\n", nar.len());
            Answer::raw(format!("{ok}{many}{length}")).send(nar)
        }),
        Case::nar("a status line without an end", 6, says, |_, _| {
            Answer::raw("HTTP/1.1 200 ").forever("ok")
        }),
        Case::nar("nothing but noise", 6, says, |_, nar| Answer::raw(nar).then(Step::Close)),
        Case::nar("no HTTP at all", 6, says, |_, _| {
            Answer::raw("SSH-2.0-OpenSSH_9.6\r\n").then(Step::Close)
        }),
        Case::nar("another protocol", 6, &["status 101"], |_, _| {
            let headers = [("Upgrade", "h2c"), ("Connection", "upgrade")];
            Answer::head(101, &headers).then(Step::Close)
        }),
        Case::nar("a status of 999", 6, &["999"], |_, _| Answer::whole(999, &[], b"")),
        Case::nar("a status of 42", 6, says, |_, _| Answer::whole(42, &[], b"")),
        Case::nar("an end before the head", 6, says, |_, _| Answer::default().then(Step::Close)),
        Case::nar("a reset before the head", 6, says, |_, _| Answer::default().then(Step::Reset)),
        Case::narinfo("headers for ever before a narinfo", 6, &[".narinfo"], move |_, _| {
            Answer::raw(ok).forever("X-More: and more\r\n")
        }),
        Case::narinfo("NUL and line feeds in headers", 6, &[".narinfo"], move |_, text| {
            let length = format!("Content-Length: {}\r\n\r\n", text.len());
            Answer::raw(format!("{ok}X-\0: \u{1b}[2J\n \n{length}{text}"))
        }),
    ]);
}
