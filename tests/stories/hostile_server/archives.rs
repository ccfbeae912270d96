//! Archives that are none, as real compressed files with a narinfo that is right about them.

use std::{fs, sync::Arc};

use shared::nix::narinfo::Compression;
use tests::{Answer, Goods, fault::compress, fixture};

use super::{Case, check_all};

/// What Nix refuses, by file name, with why.
fn hostile() -> Vec<(String, String)> {
    let table = fs::read_to_string(fixture("nix/nar-hostile/expect.tsv")).unwrap();
    let rows = table.lines().skip(1).map(|line| {
        let mut fields = line.split('\t').map(str::to_owned);
        (fields.next().unwrap(), fields.next().unwrap())
    });
    rows.collect()
}

/// Sells one hostile archive, signed by the key that is trusted; the honest one has another.
fn goods(nar: &[u8], compression: Compression) -> Goods {
    let mut goods = Goods::new();
    goods.add_nar("hostile", nar, compression, &[]);
    goods
}

#[test]
fn every_hostile_archive_has_a_row() {
    let mut files: Vec<_> = fs::read_dir(fixture("nix/nar-hostile"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "expect.tsv")
        .collect();
    files.sort();
    let mut rows: Vec<_> = hostile().into_iter().map(|(file, _)| file).collect();
    rows.sort();
    assert_eq!(files, rows);
    assert!(rows.len() >= 57, "{}", rows.len());
}

#[test]
fn every_hostile_archive_is_refused_though_a_trusted_key_signed_it() {
    let compressions = [Compression::Zstd, Compression::Xz, Compression::None];
    let cases: Vec<_> = hostile()
        .into_iter()
        .zip(compressions.into_iter().cycle())
        .map(|((file, why), compression)| {
            let nar = fs::read(fixture("nix/nar-hostile").join(&file)).unwrap();
            // A size of 0 cannot even be said.
            let says = if nar.is_empty() { "narinfo" } else { "its archive is refused" };
            let bad = goods(&nar, compression);
            Case::new(format!("{file}: {why}"), 4, &["-hostile", says], move |ask, _| {
                Some(bad.answer(ask))
            })
            .of(Arc::new(honest()))
            .beyond_help()
        })
        .collect();
    check_all(&cases);
}

/// Sells something good as the same path.
fn honest() -> Goods {
    let mut goods = Goods::new();
    goods.add_file("hostile", b"not at all\n", Compression::Zstd, &[]);
    goods
}

#[test]
fn archives_that_are_not_those_that_were_promised_are_refused() {
    let says = &["-big", "refused"];
    let archive = |nar: &[u8]| zstd::decode_all(nar).unwrap();
    let packed = |nar: &[u8]| Answer::whole(200, &[], &compress(Compression::Zstd, nar));
    check_all(&[
        Case::nar("that of another path", 4, says, |_, _| {
            Answer::whole(200, &[], super::usual().nar("root"))
        }),
        Case::nar("one bit is another", 4, says, move |_, nar| {
            let mut nar = archive(nar);
            nar[5000] ^= 1;
            packed(&nar)
        }),
        Case::nar("8 bytes less", 4, says, move |_, nar| {
            let nar = archive(nar);
            packed(&nar[..nar.len() - 8])
        }),
        Case::nar("cut in the middle", 4, says, move |_, nar| {
            let nar = archive(nar);
            packed(&nar[..nar.len() / 2])
        }),
        Case::nar("8 bytes more", 4, says, move |_, nar| {
            packed(&[archive(nar), vec![0; 8]].concat())
        }),
        Case::nar("twice", 4, says, move |_, nar| packed(&archive(nar).repeat(2))),
        Case::nar("nothing", 4, says, move |_, _| packed(b"")),
        Case::nar("something else each time", 4, says, move |ask, nar| {
            let mut nar = archive(nar);
            let place = 1000 + ask.before;
            nar[place] ^= 1;
            packed(&nar)
        }),
    ]);
}
