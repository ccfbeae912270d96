//! Whatever happens to a host, in whatever order.

use proptest::prelude::*;

use super::*;

fn desired() -> impl Strategy<Value = Desired> {
    let run = (0_u32..3, 1_u32..20, 0_u8..4).prop_map(|(epoch, number, root)| Desired::Run {
        wanted: wanted(version(epoch, number), root),
    });
    let codes = [
        Code::PolicyHold,
        Code::Epoch,
        Code::Untrusted,
        Code::NoFreshSource,
        Code::Unsupported,
        Code::ProfileClaimedTwice,
    ];
    prop_oneof![
        8 => run,
        1 => prop::sample::select(codes.to_vec()).prop_map(freeze),
        1 => Just(stop()),
    ]
}

fn happening() -> impl Strategy<Value = Happening> {
    let end = prop_oneof![
        6 => Just(End::Works),
        2 => Just(End::Fails),
        1 => Just(End::CrashBefore),
        1 => Just(End::CrashBetween),
        1 => Just(End::CrashAfter),
        1 => Just(End::NeedsReboot),
        1 => Just(End::NotReady),
    ];
    prop_oneof![
        6 => desired().prop_map(Happening::Desired),
        20 => end.prop_map(Happening::Acts),
        2 => any::<u16>().prop_map(Happening::Later),
        1 => Just(Happening::Pin),
        2 => Just(Happening::Unpin),
        1 => Just(Happening::Retry),
        1 => any::<u8>().prop_map(Happening::RollBack),
        1 => (0_u8..4).prop_map(Happening::Stranger),
        2 => proptest::option::of(0_u8..8).prop_map(Happening::DeadMan),
        1 => any::<(bool, bool, bool)>().prop_map(|(fetch, switch, reboot)| {
            Happening::Windows(fetch, switch, reboot)
        }),
        1 => any::<bool>().prop_map(Happening::Looked),
        1 => Just(Happening::Confirm),
        1 => Just(Happening::Reboot),
        1 => Just(Happening::BootEntryGone),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_host_always_keeps_a_good_generation_and_converges_when_things_work_again(
        happenings in prop::collection::vec(happening(), 0..80),
        root in 0_u8..4,
        is_system in any::<bool>(),
        by_reboot in any::<bool>(),
    ) {
        let mut host = if is_system { Host::machine() } else { Host::new() };
        let end = if by_reboot { End::NeedsReboot } else { End::Works };
        for happening in happenings {
            host.happens(happening);
        }
        host.pin = None;
        host.open = Openings::default();
        host.reboot();
        for number in [1, 2] {
            let wanted = wanted(version(3, number), root);
            host.happens(Happening::Desired(Desired::Run { wanted }));
            host.settle_by(end);
        }
        let generation = host.link().unwrap().generation;
        host.feed(Event::Looked(generation, None));
        prop_assert_eq!(host.profile.explain(host.now).word, StateWord::Converged);
        prop_assert_eq!(host.link().unwrap().path, path(root));
        if let Some(machine) = &host.system {
            prop_assert_eq!(&machine.default, &path(root), "what runs is what is booted next");
        }
    }
}
