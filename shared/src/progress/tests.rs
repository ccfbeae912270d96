use expect_test::expect;

use super::*;

const MIB: u64 = 1 << 20;

fn half() -> Progress<'static> {
    Progress {
        done: Amount { paths: 37, bytes: 24_222_105 },
        total: Amount { paths: 61, bytes: 40_265_318 },
        rate: Some(6_500_000),
        cache: "from https://cache.example.org",
    }
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_line_of_a_log_says_everything() {
    expect![
        "60%, 23.0 MiB of 38.3 MiB, 37/61 paths, 6.1 MiB/s, 3s left, from https://cache.example.org"
    ]
    .assert_eq(&half().line());
    let begun = Progress { done: Amount::default(), rate: None, cache: "", ..half() };
    expect!["0%, 0 B of 38.3 MiB, 0/61 paths"].assert_eq(&begun.line());
    let stuck = Progress { rate: Some(0), ..half() };
    assert!(stuck.line().contains("0 B/s, stalled"), "{}", stuck.line());
}

#[test]
fn a_terminal_of_any_width_gets_what_fits() {
    let lines: Vec<String> =
        [200, 100, 80, 60, 40, 20, 5, 0].iter().map(|width| half().bar(*width)).collect();
    expect![[r#"
        [##############----------]  60%  23.0 MiB of 38.3 MiB  6.1 MiB/s  3s left  37/61 paths  from https://cache.example.org
        [##############----------]  60%  23.0 MiB of 38.3 MiB  6.1 MiB/s  3s left  37/61 paths  from https…
        [######----]  60%  23.0 MiB of 38.3 MiB  6.1 MiB/s  3s left  37/61 paths
        [######----]  60%  23.0 MiB of 38.3 MiB  6.1 MiB/s  3s left
         60%  6.1 MiB/s  3s left  from https:/…
         60%  from https:/…
         60%
    "#]]
    .assert_eq(&lines.join("\n"));
    for width in 0..300 {
        let name = "from https://a-very-long-name.of-a-cache.example.org/".repeat(5);
        let line = Progress { cache: &name, ..half() }.bar(width);
        assert!(line.chars().count() < width.max(1), "{width}: {line}");
    }
}

#[test]
fn it_is_never_more_than_done_nor_done_before_the_end() {
    let more = Progress { done: Amount { paths: 61, bytes: 99 * MIB }, ..half() };
    expect!["100%, 38.3 MiB of 38.3 MiB, 61/61 paths, 6.1 MiB/s, from https://cache.example.org"]
        .assert_eq(&more.line());
    let all_but_one = Progress { done: Amount { paths: 60, bytes: 99 * MIB }, ..half() };
    assert!(all_but_one.line().starts_with("99%"), "{}", all_but_one.line());
    let empty = Progress { done: Amount::default(), total: Amount::default(), ..half() };
    assert!(empty.line().starts_with("100%"), "{}", empty.line());
}

#[test]
fn a_rate_is_of_late_and_does_not_jump() {
    let mut meter = Meter::default();
    assert_eq!(meter.rate(), None);
    meter.note(seconds(0), 0);
    assert_eq!(meter.rate(), None);
    for second in 1..=60 {
        meter.note(seconds(second), second * MIB);
    }
    assert_eq!(meter.rate(), Some(MIB));
    // One burst is spread over the window.
    meter.note(seconds(61), 75 * MIB);
    let rate = meter.rate().unwrap();
    assert!(rate > MIB && rate < 3 * MIB, "{rate}");
    // Nothing comes any more: soon it is said to stand still.
    for second in 62..=77 {
        meter.note(seconds(second), 75 * MIB);
    }
    assert_eq!(meter.rate(), Some(0));
}

#[test]
fn what_is_dropped_makes_no_negative_rate_and_no_false_one_after() {
    let mut meter = Meter::default();
    for second in 0..=10 {
        meter.note(seconds(second), second * MIB);
    }
    meter.note(seconds(11), 2 * MIB);
    assert!(meter.rate().unwrap() < MIB);
    for second in 12..=40 {
        meter.note(seconds(second), (second - 9) * MIB);
        assert!(meter.rate().unwrap() <= MIB);
    }
    assert_eq!(meter.rate(), Some(MIB));
}

#[test]
fn noting_at_every_event_keeps_few_samples() {
    let mut meter = Meter::default();
    for millisecond in 0..60_000 {
        meter.note(Duration::from_millis(millisecond), millisecond * 1000);
    }
    assert!(meter.samples.len() < 100, "{}", meter.samples.len());
    assert_eq!(meter.rate(), Some(1_000_000));
}
