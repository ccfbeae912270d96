//! Bodies that are too long, too short, too slow, or of another form than was asked for.

use shared::nix::narinfo::Compression;
use tests::{
    Answer,
    fault::{Step, compress},
};

use super::{Case, check_all};

/// Answers with a length of one's own choice.
fn length(length: impl std::fmt::Display, body: &[u8]) -> Answer {
    let length = format!("{length}");
    Answer::head(200, &[("ETag", "\"x\""), ("Content-Length", &length)]).send(body)
}

/// A zstd frame that decoders skip, with a kibibyte in it.
fn skippable() -> Vec<u8> {
    let mut frame = vec![0x50, 0x2a, 0x4d, 0x18, 0, 4, 0, 0];
    frame.resize(8 + 1024, 0);
    frame
}

#[test]
fn bodies_of_another_length_than_promised() {
    check_all(&[
        Case::nar("a length that is short", 4, &["-big", "refused"], |_, nar| {
            length(nar.len() / 2, nar)
        }),
        Case::nar("a length that is long, then the end", 6, &["-big", "broke off"], |_, nar| {
            length(nar.len() + 1000, nar).then(Step::Close)
        }),
        Case::nar("a length of 2^62, then the end", 6, &["-big", "broke off"], |_, nar| {
            length(1_u64 << 62, nar).then(Step::Close)
        }),
        Case::nar("a length of 0", 4, &["-big", "refused"], |_, nar| length(0, nar)),
        Case::nar("a length that is negative", 6, &["cannot get `nar/"], |_, nar| length(-1, nar)),
        Case::nar("a length that is no number", 6, &["cannot get `nar/"], |_, nar| {
            length("many", nar)
        }),
        Case::nar("two lengths", 6, &["cannot get `nar/"], |_, nar| {
            Answer::head(200, &[("Content-Length", "7"), ("Content-Length", "8")]).send(nar)
        }),
        Case::nar("no length, and cut in the middle", 4, &["-big", "refused"], |_, nar| {
            Answer::head(200, &[("Connection", "close")])
                .send(&nar[..nar.len() / 2])
                .then(Step::Close)
        }),
        Case::nar("no length, and whole", 0, &[], |_, nar| {
            Answer::head(200, &[("Connection", "close")]).send(nar).then(Step::Close)
        }),
        Case::nar("a body behind the body", 0, &[], |_, nar| {
            length(nar.len(), nar).send("HTTP/1.1 200 .\r\nContent-Length: 1000000\r\n\r\nx")
        }),
        Case::nar("no body at all", 4, &["-big"], |_, _| Answer::head(204, &[])),
        Case::nar("not modified, though nobody asked", 6, &["-big", "status 304"], |_, _| {
            Answer::head(304, &[])
        }),
        Case::nar("a part, though nobody asked", 4, &["-big"], |_, nar| {
            let half = nar.len() / 2;
            let range = format!("bytes {half}-{}/{}", nar.len() - 1, nar.len());
            Answer::whole(206, &[("Content-Range", &range)], &nar[half..])
        }),
    ]);
}

#[test]
fn bodies_without_an_end() {
    let endless = || Answer::head(200, &[("Connection", "close")]);
    let chunked = || Answer::head(200, &[("Transfer-Encoding", "chunked")]);
    check_all(&[
        Case::nar("noise for ever", 4, &["-big", "refused"], move |_, _| {
            endless().forever(b"noise!")
        }),
        Case::nar("zeros behind the archive for ever", 4, &["-big", "refused"], move |_, nar| {
            endless().send(nar).forever(vec![0; 4096])
        }),
        Case::nar(
            "empty frames before the archive for ever",
            4,
            &["-big", "refused"],
            move |_, _| endless().forever(skippable()),
        ),
        Case::nar(
            "empty frames behind the archive for ever",
            4,
            &["-big", "refused"],
            move |_, nar| endless().send(nar).forever(skippable()),
        ),
        Case::new("xz padding for ever", 4, &["-small", "refused"], move |ask, goods| {
            (ask.path() == goods.narinfo("small").url)
                .then(|| endless().send(goods.nar("small")).forever(vec![0; 4096]))
        }),
        Case::nar("chunks for ever", 4, &["-big", "refused"], move |_, _| {
            chunked().forever("400\r\n".to_owned() + &"x".repeat(1024) + "\r\n")
        }),
        Case::nar("chunks of one byte, whole", 0, &[], move |_, nar| {
            let mut body = Vec::new();
            for byte in nar {
                body.extend([b'1', b'\r', b'\n', *byte, b'\r', b'\n']);
            }
            chunked().send(body).send("0\r\n\r\n")
        }),
        Case::narinfo("a narinfo for ever", 4, &[".narinfo", "more than"], move |_, text| {
            endless().send(text).forever("Sig: x:AAAA\n")
        }),
        Case::narinfo("a narinfo of 10 MB", 4, &[".narinfo", "more than"], |_, text| {
            let mut body = text.as_bytes().to_vec();
            body.resize(10_000_000, b'\n');
            Answer::whole(200, &[], &body)
        }),
    ]);
}

#[test]
fn chunks_that_are_no_chunks() {
    let chunked = || Answer::head(200, &[("Transfer-Encoding", "chunked"), ("ETag", "\"x\"")]);
    let says = &["-big"];
    check_all(&[
        Case::nar("a chunk size that is no number", 6, says, move |_, _| chunked().send("zz\r\nx")),
        Case::nar("a chunk size of 2^64", 6, says, move |_, _| {
            chunked().send("10000000000000000\r\nx").then(Step::Stall)
        }),
        Case::nar("a chunk size without an end", 6, says, move |_, _| chunked().forever("1")),
        Case::nar("a chunk extension without an end", 6, says, move |_, _| {
            chunked().send("5;").forever("x=y;")
        }),
        Case::nar("no line feed behind a chunk", 6, says, move |_, nar| {
            chunked().send("100\r\n").send(&nar[..0x100]).send("xx100\r\n")
        }),
        Case::nar("no last chunk", 6, says, move |_, nar| {
            chunked().send(format!("{:x}\r\n", nar.len())).send(nar).send("\r\n").then(Step::Close)
        }),
        Case::nar("trailers without an end", 6, says, move |_, nar| {
            chunked()
                .send(format!("{:x}\r\n", nar.len()))
                .send(nar)
                .send("\r\n0\r\n")
                .forever("X-More: and more\r\n")
        }),
        Case::nar("chunked and a length", 0, &[], |_, nar| {
            let headers = [("Transfer-Encoding", "chunked"), ("Content-Length", "7")];
            let size = format!("{:x}\r\n", nar.len());
            Answer::head(200, &headers).send(size).send(nar).send("\r\n0\r\n\r\n")
        }),
        Case::nar("a transfer encoding that nobody knows", 0, &[], |_, nar| {
            let headers = [("Transfer-Encoding", "gzip, chunked, x")];
            Answer::head(200, &headers).send(nar).then(Step::Close)
        }),
    ]);
}

#[test]
fn bodies_encoded_for_transport_in_a_way_that_was_not_asked_for() {
    let encoded = |name: &'static str, encode: fn(&[u8]) -> Vec<u8>| {
        Case::nar(name, 4, &["-big", "content encoding"], move |_, nar| {
            Answer::whole(200, &[("Content-Encoding", name)], &encode(nar))
        })
    };
    check_all(&[
        encoded("gzip", |nar| compress(Compression::Gzip, nar)),
        encoded("br", |nar| compress(Compression::Brotli, nar)),
        encoded("zstd", |nar| compress(Compression::Zstd, nar)),
        encoded("x-gzip, identity", |nar| nar.to_vec()),
        Case::nar("an encoding in the second header", 4, &["-big"], |_, nar| {
            let headers = [("Content-Encoding", "identity"), ("Content-Encoding", "gzip")];
            Answer::whole(200, &headers, &compress(Compression::Gzip, nar))
        }),
        Case::nar("identity", 0, &[], |_, nar| {
            Answer::whole(200, &[("Content-Encoding", "identity")], nar)
        }),
        Case::narinfo("a narinfo with gzip", 4, &[".narinfo", "content encoding"], |_, text| {
            let body = compress(Compression::Gzip, text.as_bytes());
            Answer::whole(200, &[("Content-Encoding", "gzip")], &body)
        }),
    ]);
}
