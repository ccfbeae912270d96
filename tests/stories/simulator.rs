//! Many hosts at once, as the fleet simulator plays them; `tests/bench/fleet` runs it with thousands.

use serde_json::Value;
use tests::{bin, run, scratch, tool};

#[test]
fn a_fleet_loses_no_report_over_a_publication_and_a_restart() {
    let folder = scratch();
    let mut fleet = tool(bin("fleet"));
    fleet.arg("simulate").arg(bin("registry")).arg(folder.path());
    // Hosts, seconds, seconds between polls and reports, connections, polls that wait.
    let told = run(fleet.args(["300", "9", "2", "2", "20", "60"])).ok();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["reports_lost"], &told["hosts_behind"]), (&0.into(), &0.into()), "{told}");
    assert_eq!(told["hosts"], 300);
    let seen = &told["seen"];
    assert!(seen["reports"]["count"].as_u64() >= Some(2 * 300), "{told}");
    assert!(seen["polls"]["count"].as_u64() >= Some(240), "{told}");
    // A poll with nothing new, both ways.
    assert!((1..=300).contains(&seen["poll_bytes"].as_u64().unwrap()), "{told}");
}
