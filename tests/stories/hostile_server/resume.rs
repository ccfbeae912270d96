//! Archives that break off, and servers that go on with something else.

use shared::nix::narinfo::Compression;
use tests::{
    Answer, Ask,
    fault::{Step, compress},
};

use super::{Case, check_all};

const ETAG: &str = "\"one\"";

/// Promises all and ends behind `length` bytes.
fn broken(body: &[u8], length: usize) -> Answer {
    let all = body.len().to_string();
    Answer::head(200, &[("ETag", ETAG), ("Accept-Ranges", "bytes"), ("Content-Length", &all)])
        .send(&body[..length])
        .then(Step::Close)
}

/// Sends `rest` and says that it goes from `from` to the end of `all` bytes.
fn part(etag: &str, from: usize, all: usize, rest: &[u8]) -> Answer {
    let range = format!("bytes {from}-{}/{all}", all - 1);
    Answer::whole(206, &[("ETag", etag), ("Content-Range", &range)], rest)
}

fn is_resumed(ask: &Ask<'_>) -> bool {
    ask.request.headers.contains_key("range")
}

/// Breaks off in the middle each time, and goes on with `answer`.
fn resumed(
    name: &str,
    code: i32,
    says: &[&str],
    answer: impl Fn(&[u8], usize) -> Answer + Send + Sync + 'static,
) -> Case {
    Case::nar(name, code, says, move |ask, nar| {
        let half = nar.len() / 2;
        if is_resumed(ask) { answer(nar, half) } else { broken(nar, half) }
    })
}

/// Breaks off in the middle the first time, goes on with `answer`, and is honest when asked anew.
fn resumed_once(
    name: &str,
    code: i32,
    says: &[&str],
    answer: impl Fn(&[u8], usize) -> Answer + Send + Sync + 'static,
) -> Case {
    Case::nar(name, code, says, move |ask, nar| {
        let half = nar.len() / 2;
        match (is_resumed(ask), ask.before) {
            (true, _) => answer(nar, half),
            (false, 0) => broken(nar, half),
            (false, _) => Answer::file(ask.request, ETAG, nar),
        }
    })
}

#[test]
fn an_archive_that_is_continued_by_something_else_is_not_taken() {
    let off = &["-big", "broke off"];
    let refused = &["-big", "refused"];
    check_all(&[
        resumed("well", 0, &[], |nar, half| part(ETAG, half, nar.len(), &nar[half..])),
        resumed("from another start", 6, off, |nar, half| {
            part(ETAG, half - 1, nar.len(), &nar[half - 1..])
        }),
        resumed("from the start", 6, off, |nar, _| part(ETAG, 0, nar.len(), nar)),
        resumed("of another whole", 6, off, |nar, half| {
            part(ETAG, half, nar.len() + 7, &nar[half..])
        }),
        resumed("without a range", 6, off, |nar, half| {
            Answer::whole(206, &[("ETag", ETAG)], &nar[half..])
        }),
        resumed("with a range of nonsense", 6, off, |nar, half| {
            let headers = [("ETag", ETAG), ("Content-Range", "bytes many-/more")];
            Answer::whole(206, &headers, &nar[half..])
        }),
        resumed("with the whole as a part", 6, off, |nar, _| {
            Answer::whole(206, &[("ETag", ETAG)], nar)
        }),
        resumed("with several parts", 6, off, |nar, half| {
            let headers = [("ETag", ETAG), ("Content-Type", "multipart/byteranges; boundary=x")];
            let head = format!("--x\r\nContent-Range: bytes {half}-/{}\r\n\r\n", nar.len());
            let body = [head.as_bytes(), &nar[half..], b"\r\n--x--\r\n"].concat();
            Answer::whole(206, &headers, &body)
        }),
        resumed("with an encoding", 6, &["-big", "content encoding"], |nar, half| {
            let body = compress(Compression::Gzip, &nar[half..]);
            let range = format!("bytes {half}-{}/{}", nar.len() - 1, nar.len());
            let headers = [("ETag", ETAG), ("Content-Range", &range), ("Content-Encoding", "gzip")];
            Answer::whole(206, &headers, &body)
        }),
        resumed("with 404", 6, off, |_, _| Answer::whole(404, &[], b"")),
        resumed("with 416", 6, &["-big", "416"], |_, _| Answer::whole(416, &[], b"")),
        resumed("with a redirect", 6, &["-big", "redirect"], |_, _| {
            Answer::redirect("http://169.254.169.254/")
        }),
        resumed("with bytes of another archive, as the same file", 4, refused, |nar, half| {
            let other = vec![0x55; nar.len() - half];
            part(ETAG, half, nar.len(), &other)
        }),
        resumed("with bytes of another archive, as another file", 6, off, |nar, half| {
            let other = vec![0x55; nar.len() - half];
            part("\"two\"", half, nar.len(), &other)
        }),
        resumed("for ever", 4, refused, |nar, half| {
            let range = format!("bytes {half}-{}/{}", nar.len() - 1, nar.len());
            Answer::head(206, &[("ETag", ETAG), ("Content-Range", &range)])
                .send(&nar[half..])
                .forever("and more")
        }),
    ]);
}

#[test]
fn an_archive_that_cannot_be_continued_is_begun_anew() {
    check_all(&[
        resumed_once("the whole file instead of a part", 0, &[], |nar, _| {
            Answer::whole(200, &[("ETag", ETAG)], nar)
        }),
        resumed_once("another file instead of a part", 0, &[], |nar, half| {
            part("\"two\"", half, nar.len(), &vec![0x55; nar.len() - half])
        }),
        resumed_once("no such range", 0, &[], |_, _| Answer::whole(416, &[], b"")),
        resumed_once("nothing", 0, &[], |_, _| Answer::whole(404, &[], b"")),
        Case::nar("a server without ETags", 0, &[], |ask, nar| {
            let all = nar.len().to_string();
            match ask.before {
                0 => Answer::head(200, &[("Content-Length", &all)])
                    .send(&nar[..nar.len() / 2])
                    .then(Step::Close),
                _ => Answer::whole(200, &[], nar),
            }
        }),
        Case::nar("a weak ETag", 0, &[], |ask, nar| {
            let all = nar.len().to_string();
            let headers = [("ETag", "W/\"one\""), ("Content-Length", &all)];
            assert!(!is_resumed(ask), "a weak ETag promises nothing");
            match ask.before {
                0 => Answer::head(200, &headers).send(&nar[..nar.len() / 2]).then(Step::Close),
                _ => Answer::whole(200, &headers[..1], nar),
            }
        }),
    ]);
}

#[test]
fn a_connection_may_break_anywhere() {
    let mut cases = Vec::new();
    for eighth in 0..8 {
        let cut = move |nar: &[u8]| nar.len() * eighth / 8;
        cases.push(Case::nar(format!("once behind {eighth}/8"), 0, &[], move |ask, nar| match ask
            .before
        {
            0 => broken(nar, cut(nar)),
            _ => Answer::file(ask.request, ETAG, nar),
        }));
        cases.push(Case::nar(format!("once behind {eighth}/8, reset"), 0, &[], move |ask, nar| {
            let all = nar.len().to_string();
            match ask.before {
                0 => Answer::head(200, &[("ETag", ETAG), ("Content-Length", &all)])
                    .send(&nar[..cut(nar)])
                    .then(Step::Reset),
                _ => Answer::file(ask.request, ETAG, nar),
            }
        }));
        let name = format!("always behind {eighth}/8");
        cases.push(Case::nar(name, 6, &["-big", "broke off"], move |_, nar| broken(nar, cut(nar))));
    }
    check_all(&cases);
}
