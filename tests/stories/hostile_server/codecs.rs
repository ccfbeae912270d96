//! Compressed files that become too much, need too much, or are of another kind than they say.

use std::sync::Arc;

use shared::nix::{NarInfo, narinfo::Compression};
use tests::{Answer, Ask, Goods, fault::compress};

use super::{Case, check_all, usual};

/// What many streams decode to each.
const PIECE: usize = 8 << 20;

/// Serves `file` as `big`, and says that it is compressed like this; nobody signs that.
fn serves(name: &str, code: i32, says: &[&str], compression: Compression, file: Vec<u8>) -> Case {
    let url = format!("nar/{}.nar", compression.name());
    Case::new(name, code, says, move |ask: &Ask<'_>, goods: &Goods| {
        if ask.path() == url {
            return Some(Answer::file(ask.request, "\"x\"", &file));
        }
        let it = goods.narinfo("big").clone();
        let it = NarInfo { url: url.clone(), compression, file_hash: None, file_size: None, ..it };
        (ask.path() == goods.narinfo_file("big"))
            .then(|| Answer::whole(200, &[], it.to_string().as_bytes()))
    })
}

/// The archive of `big`, not compressed.
fn archive() -> Vec<u8> {
    zstd::decode_all(usual().nar("big")).unwrap()
}

/// One zstd frame of stored blocks that claims a window of `1 << log` bytes.
fn frame(log: u8, contents: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3];
    let blocks: Vec<&[u8]> = contents.chunks(100_000).collect();
    for (number, block) in blocks.iter().enumerate() {
        let last = u32::from(number + 1 == blocks.len());
        let header = (u32::try_from(block.len()).unwrap() << 3) | last;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(block);
    }
    frame
}

/// The archive as an xz file whose dictionary is said to be as large as it can be.
fn xz_with_a_dictionary_of_4_gib() -> Vec<u8> {
    let mut file = compress(Compression::Xz, &archive());
    // The block header begins behind the stream header; its CRC covers all but itself.
    file[16] = 40;
    let mut crc = flate2::Crc::new();
    crc.update(&file[12..20]);
    file.splice(20..24, crc.sum().to_le_bytes());
    file
}

/// A brotli file with a window that only Brotli's own extension of its format knows.
fn brotli_with_a_window_of_1_gib(contents: &[u8]) -> Vec<u8> {
    let parameters = brotli::enc::BrotliEncoderParams {
        quality: 3,
        lgwin: 30,
        large_window: true,
        ..Default::default()
    };
    let mut file = Vec::new();
    brotli::BrotliCompress(&mut &*contents, &mut file, &parameters).unwrap();
    file
}

#[test]
fn bombs_end_at_the_size_that_is_signed() {
    let zeros = vec![0; PIECE];
    let much = |compression| compress(compression, &zeros).repeat(128);
    let behind = |compression| {
        let mut file = compress(compression, &archive());
        file.extend(much(compression));
        file
    };
    let says = &["-big", "refused"];
    check_all(&[
        serves("1 GiB of zeros, zstd", 4, says, Compression::Zstd, much(Compression::Zstd)),
        serves("1 GiB of zeros, xz", 4, says, Compression::Xz, much(Compression::Xz)),
        serves("1 GiB of zeros, gzip", 4, says, Compression::Gzip, much(Compression::Gzip)),
        serves("64 MiB of zeros, brotli", 4, says, Compression::Brotli, {
            compress(Compression::Brotli, &vec![0; 64 << 20])
        }),
        serves("1 GiB behind it, zstd", 4, says, Compression::Zstd, behind(Compression::Zstd)),
        serves("1 GiB behind it, xz", 4, says, Compression::Xz, behind(Compression::Xz)),
        serves("1 GiB behind it, gzip", 4, says, Compression::Gzip, behind(Compression::Gzip)),
    ]);
}

#[test]
fn decoders_get_no_more_memory_than_they_may_have() {
    let says = &["-big", "refused"];
    let dictionary = xz_with_a_dictionary_of_4_gib();
    let large = brotli_with_a_window_of_1_gib(&archive());
    check_all(&[
        serves("a zstd window of 1 GiB", 4, says, Compression::Zstd, frame(30, &archive())),
        serves("a zstd window of 256 MiB", 4, says, Compression::Zstd, frame(28, &archive())),
        serves("a zstd window of 128 MiB", 0, &[], Compression::Zstd, frame(27, &archive())),
        serves("an xz dictionary of 4 GiB", 4, says, Compression::Xz, dictionary),
        serves("a brotli window of 1 GiB", 4, says, Compression::Brotli, large),
    ]);
}

#[test]
fn a_large_brotli_window_is_refused_before_it_is_filled() {
    // All of it is what it should be: only the memory that it needs is too much.
    let mut goods = Goods::new();
    let contents = vec![b'x'; 200 << 20];
    goods.add_file("big", &contents, Compression::Zstd, &[]);
    let archive = zstd::decode_all(goods.nar("big")).unwrap();
    let file = brotli_with_a_window_of_1_gib(&archive);
    let case = serves("200 MiB", 4, &["-big", "refused"], Compression::Brotli, file);
    check_all(&[case.of(Arc::new(goods)).writes(256 << 20)]);
}

#[test]
fn files_of_another_kind_than_they_say_are_refused() {
    let all = [
        Compression::None,
        Compression::Zstd,
        Compression::Xz,
        Compression::Gzip,
        Compression::Brotli,
    ];
    let mut cases = Vec::new();
    for said in all {
        cases.push(serves(said.name(), 0, &[], said, compress(said, &archive())));
        for is in all.into_iter().filter(|is| *is != said) {
            let name = format!("{} that is {}", said.name(), is.name());
            cases.push(serves(&name, 4, &["-big", "refused"], said, compress(is, &archive())));
        }
        let file = compress(said, &archive());
        let cut = file[..file.len() - 1].to_vec();
        let name = format!("{} without its last byte", said.name());
        cases.push(serves(&name, 4, &["-big", "refused"], said, cut));
    }
    check_all(&cases);
}
