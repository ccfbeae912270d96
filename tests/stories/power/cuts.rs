//! The machine is switched off, and on again.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;
use tests::{
    Machine, Random,
    guest::{disk, line_of},
    long,
};

use super::lab::{DISK, Lab, PATHS};

/// Returns what follows `words` on the line that begins with them.
#[track_caller]
fn after<'a>(console: &'a str, words: &str) -> &'a str {
    let found = console.lines().find_map(|line| line.strip_prefix(words));
    found.unwrap_or_else(|| panic!("no `{words}` in\n{console}")).trim()
}

/// Returns when it was said, in seconds since the machine was switched on.
fn when(console: &str, words: &str) -> f64 {
    after(console, &format!("## {words} at ")).parse().unwrap()
}

/// Returns the round in which the power went, and whether what it brought was at work by then.
fn last_round(console: &str) -> (usize, bool) {
    let begun = console.lines().rfind(|line| line.contains(" begins at ")).unwrap();
    let round = begun.split(' ').nth(2).unwrap().parse().unwrap();
    (round, line_of(console, &format!("## round {round} is over")).is_some())
}

/// Checks what was found when the power was back, before the agent did anything.
fn check_before(lab: &Lab, console: &str, (round, over): (usize, bool)) {
    assert_eq!(after(console, "before nix ended with"), "0", "{console}");
    let complaint = |line: &&str| line.starts_with("before nix: ") && !line.ends_with("...");
    assert_eq!(console.lines().find(complaint), None, "{console}");
    let status: Value = serde_json::from_str(after(console, "before status:")).unwrap();
    let state = status["state"].as_str().unwrap();
    let usual = ["converged", "fetching", "waiting", "switching", "confirming"];
    assert!(usual.contains(&state), "{console}");
    let may_run = lab.may_run(if over { round } else { round - 1 });
    let link = after(console, "before link:");
    assert!(link == may_run[0] || !over && link == may_run[1], "{round} {over}\n{console}");
}

/// Checks what the host is like once a round has gone to its end.
fn check_after(lab: &Lab, console: &str, round: usize) {
    assert_eq!(after(console, &format!("round {round} ended with")), "0", "{console}");
    assert_eq!(after(console, &format!("sweep {round} ended with")), "0", "{console}");
    assert_eq!(after(console, "after nix ended with"), "0", "{console}");
    let complaint = |line: &&str| line.starts_with("after nix: ") && !line.ends_with("...");
    assert_eq!(console.lines().find(complaint), None, "{console}");
    assert_eq!(after(console, "after link:"), lab.root(round), "{console}");
    // The generations that it keeps, their closures, and nothing else.
    let generations = console.lines().filter_map(|line| line.strip_prefix("after generation: "));
    let kept: BTreeSet<_> =
        (round.saturating_sub(1).max(1)..=round).map(|it| lab.root(it)).collect();
    assert_eq!(generations.collect::<BTreeSet<_>>(), kept, "{console}");
    let entries = format!("{} entries", kept.len() * PATHS);
    assert_eq!(after(console, "after store:"), entries, "{console}");
}

#[test]
fn a_host_whose_power_is_cut_at_any_moment_converges_when_it_is_back() {
    let cuts: usize = if long() { 100 } else { 10 };
    // One for each time that the machine is switched on, and the one that it is cut off at last.
    let lab = Lab::new(cuts + 2);
    let image = lab.path("data.img");
    disk::make(&image, DISK, None);
    let machine = Machine::new(&lab.path("payload.img")).disk(&image);
    let mut random = Random::new("power::cuts");
    let (mut usual, mut inside) = (Duration::ZERO, 0);
    let mut last = None;
    for cut in 0..=cuts {
        let round = last.map_or(1, |(round, _)| round);
        let eager = random.below(2);
        let mut guest = machine.start(&format!("from={round} to={} eager={eager}", round + 1));
        guest.says("## recovered");
        let console = guest.console();
        if let Some(last) = last {
            check_before(&lab, &console, last);
        } else {
            let took = when(&console, "round 1 is swept") - when(&console, "round 1 begins");
            usual = Duration::try_from_secs_f64(took).unwrap();
        }
        check_after(&lab, &console, round);
        if cut < cuts {
            guest.says(&format!("## round {} begins", round + 1));
            let moment = usual * u32::try_from(random.below(1000)).unwrap() / 1000;
            guest.runs_for(moment, &format!("## round {} is swept", round + 1));
            let console = guest.cut();
            let (round, over) = last_round(&console);
            println!("cut {cut}: in round {round}, {}", if over { "over" } else { "under way" });
            inside += usize::from(!over);
            if over {
                // This machine has become faster since the first round.
                usual = usual * 3 / 4;
            }
            last = Some((round, over));
        }
    }
    assert!(inside * 3 >= cuts, "{inside} of {cuts} cuts hit a substitution");
}
