use proptest::prelude::*;

use super::*;

const GIB: u64 = 1 << 30;

const fn space(bytes: u64, inodes: u64) -> Space {
    Space { bytes, inodes }
}

fn any_space() -> impl Strategy<Value = Space> {
    let amount = || prop_oneof![any::<u64>(), 0..4 * GIB, Just(0), Just(u64::MAX)];
    (amount(), amount()).prop_map(|(bytes, inodes)| Space { bytes, inodes })
}

#[test]
fn a_closure_of_nixpkgs_takes_about_what_it_was_measured_to_take() {
    // 150 paths, 0.23 GB of NARs: 8 600 files and 2 800 directories were counted on disk.
    let needs = needs(150, 230_000_000, 4096);
    assert!((11_400..20_000).contains(&needs.store.inodes), "{needs:?}");
    let overhead = needs.store.bytes - 230_000_000;
    assert!((25_000_000..40_000_000).contains(&overhead), "{needs:?}");
    assert_eq!(needs.state.bytes, 150 * (16 * 1024 + 256));
}

#[test]
fn blocks_that_are_reserved_for_root_are_not_free_and_no_count_is_no_limit() {
    let stat = Statvfs {
        block_size: 4096,
        blocks: 1000,
        available_blocks: 10,
        inodes: 100,
        available_inodes: 7,
    };
    assert_eq!(Space::of_statvfs(&stat), space(40_960, 7));
    // btrfs counts no inodes; a tmpfs may have neither limit.
    let stat = Statvfs { inodes: 0, available_inodes: 0, ..stat };
    assert_eq!(Space::of_statvfs(&stat), space(40_960, u64::MAX));
    let stat = Statvfs { blocks: 0, available_blocks: 0, ..stat };
    assert_eq!(Space::of_statvfs(&stat), Space::UNLIMITED);
}

#[test]
fn what_is_missing_is_told_in_bytes_or_in_inodes() {
    let floor = Floor::new(GIB, 1 << 20);
    let told = |free, needed| floor.check(free, needed).unwrap_err().to_string();
    assert_eq!(
        told(space(2 * GIB, 1 << 20), space(3 * GIB, 5)),
        "3.0 GiB are needed, 1.0 GiB must stay free, 2.0 GiB are free: 2.0 GiB are missing"
    );
    assert_eq!(
        told(space(9 * GIB, 3000), space(GIB, 5000)),
        "5032 inodes are needed, 1000 inodes must stay free, 3000 inodes are free: \
         3032 inodes are missing"
    );
    let lack = Floor::new(0, 1 << 20).check(space(5, 5), space(1024, 5)).unwrap_err();
    assert_eq!(lack.to_string(), "1.0 KiB are needed, 5 B are free: 1019 B are missing");
}

proptest! {
    #[test]
    fn what_is_checked_leaves_the_floor(
        free in any_space(), needed in any_space(), min_free in 0..8 * GIB,
    ) {
        let floor = Floor::new(min_free, 1 << 30);
        match floor.check(free, needed) {
            Ok(()) => {
                prop_assert!(free.covers(needed));
                prop_assert!(free.bytes == u64::MAX || free.bytes - needed.bytes >= min_free);
            }
            Err(lack) => {
                prop_assert_ne!(lack.missing(), Space::default());
                // Freeing what is said to be missing is enough.
                let then = free.plus(lack.missing());
                prop_assert!(floor.check(then, needed).is_ok(), "{:?}", lack);
            }
        }
    }

    #[test]
    fn grants_never_cross_the_floor_and_end_soon_when_others_do(
        free in 0..GIB / 4, min_free in 1..GIB / 8,
        steps in prop::collection::vec((0_u64..256 * 1024, 0_u64..2 * 1024 * 1024), 1..400),
        alone in any::<bool>(),
    ) {
        let floor = Floor::new(min_free, 1 << 30);
        let mut disk = Space { bytes: free, inodes: 1 << 30 };
        let mut granted = Space::default();
        let mut below = 0;
        for (ours, others) in steps {
            let wanted = Space { bytes: ours, inodes: 1 };
            if !granted.covers(wanted) {
                match floor.grant(disk, wanted) {
                    Ok(more) => granted = more,
                    Err(_) => break,
                }
            }
            granted = granted.minus(wanted);
            disk = disk.minus(wanted);
            below += if disk.bytes < min_free { ours } else { 0 };
            if !alone {
                disk = disk.minus(Space { bytes: others, inodes: 1 });
            }
        }
        prop_assert!(below <= if alone { 0 } else { GRANT.bytes }, "{below}");
    }

    #[test]
    fn what_was_checked_is_granted_to_the_last_byte(
        min_free in 0..GIB, pieces in prop::collection::vec(0_u64..256 * 1024, 1..200),
    ) {
        let floor = Floor::new(min_free, 1 << 30);
        let needed = Space { bytes: pieces.iter().sum(), inodes: pieces.len() as u64 };
        // Exactly as much room as the check asks for.
        let lack = floor.check(Space::default(), needed);
        let Err(lack) = lack else { return Ok(()) };
        let mut disk = lack.missing();
        prop_assert!(floor.check(disk, needed).is_ok());
        let mut granted = Space::default();
        for piece in pieces {
            let wanted = Space { bytes: piece, inodes: 1 };
            if !granted.covers(wanted) {
                granted = floor.grant(disk, wanted).unwrap();
            }
            granted = granted.minus(wanted);
            disk = disk.minus(wanted);
        }
        prop_assert!(disk.bytes >= min_free);
    }

    #[test]
    fn no_number_makes_an_estimate_wrap_round(
        paths in any::<usize>(), nar_size in any::<u64>(), block_size in any::<u64>(),
    ) {
        let needs = needs(paths, nar_size, block_size);
        prop_assert!(needs.store.bytes >= nar_size);
        prop_assert!(needs.store.inodes >= paths as u64);
    }
}
