//! The process dies at every named place, one after the other; each time the next one converges.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus};

use shared::state_word::StateWord;
use store::local::{CheckContents, LocalStore};
use tokio_util::sync::CancellationToken;

use super::lab::{ACTIVATE, Lab, name};
use crate::converge::now;
use crate::state::{Code, Desired, Pin, Profile, Reason};

/// Tells the child which folder to act in.
const LAB: &str = "SHOAL_TEST_LAB";

/// More places than any one step passes.
const TOO_MANY: usize = 80;

/// What the child does: follows `order.json`, or goes back one generation if there is none.
async fn act(lab: &Lab, folder: &Path) -> Profile {
    match std::fs::read(folder.join("order.json")) {
        Ok(order) => lab.run("web", &serde_json::from_slice::<Desired>(&order).unwrap()).await,
        Err(_) => {
            let pin = Pin { reason: "a test".into(), since: now(), until: None };
            let stop = CancellationToken::new();
            lab.converger().roll_back(name("web"), Some(1), pin, &stop).await.unwrap()
        }
    }
}

#[tokio::test]
async fn the_part_of_the_child_that_another_test_kills() {
    if let Ok(folder) = std::env::var(LAB) {
        let folder = Path::new(&folder);
        act(&Lab::at(folder), folder).await;
    }
}

fn run_child(folder: &Path, crash_at: Option<usize>) -> ExitStatus {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .arg("--exact")
        .arg("converge::tests::crashes::the_part_of_the_child_that_another_test_kills");
    child.env(LAB, folder).env_remove("SHOAL_CRASH_AT");
    if let Some(place) = crash_at {
        child.env("SHOAL_CRASH_AT", place.to_string());
    }
    let output = child.output().unwrap();
    output.status
}

/// Dies at every place of one step, each time on a fresh copy of the host, and ends it then.
///
/// Leaves the folder as the step leaves it that nobody interrupts.
fn interrupt(folder: &Path, order: Option<&Desired>, expect: impl Fn(&Lab, &Profile)) {
    let file = folder.join("order.json");
    match order {
        Some(order) => std::fs::write(file, serde_json::to_vec(order).unwrap()).unwrap(),
        None => drop(std::fs::remove_file(file)),
    }
    let before = Lab::at(folder).active("web");
    for place in 1..TOO_MANY {
        let scratch = tempfile::tempdir().unwrap();
        let copy = scratch.path().join("lab");
        // Only the host is changed; what it reads may be shared. Links stay links.
        let copied = Command::new("cp").arg("-a").arg(folder).arg(&copy).status().unwrap();
        assert!(copied.success());
        let status = run_child(&copy, Some(place));
        if status.success() {
            assert!(place > 1, "no place was passed");
            assert!(run_child(folder, None).success());
            return;
        }
        assert_eq!(status.signal(), Some(9), "place {place}");
        check_interrupted(&copy, before.is_some(), place);
        let lab = Lab::at(&copy);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(lab.converger().recover()).unwrap();
        let profile = runtime.block_on(act(&lab, &copy));
        expect(&lab, &profile);
        assert!(lab.roots().is_empty(), "place {place}: a root is left");
    }
    panic!("the step passes more than {TOO_MANY} places");
}

/// What holds before anybody has recovered anything.
fn check_interrupted(folder: &Path, had_one: bool, place: usize) {
    let lab = Lab::at(folder);
    if lab.root().join("nix/var/nix/db").exists() {
        let store = LocalStore::open(&lab.root()).unwrap();
        let report = &mut |damage| panic!("place {place}: {damage}");
        store.verify(CheckContents::Yes, report).unwrap();
    }
    let stopping = lab.generations("web").is_empty();
    assert!(!had_one || stopping || lab.current("web").is_some(), "place {place}: no generation");
}

#[test]
fn every_crash_leads_to_where_no_crash_leads() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().canonicalize().unwrap();
    let lab = Lab::at(&folder);
    let runs = |number: u64, version: u32, word: StateWord| {
        move |lab: &Lab, profile: &Profile| {
            assert_eq!(profile.explain(now()).word, word, "{profile:?}");
            let running = profile.running.as_ref().unwrap();
            assert_eq!((running.generation, lab.current("web")), (number, Some(number)));
            assert!(lab.active("web").unwrap().contains(&format!("|{version}|")));
        }
    };
    interrupt(&folder, Some(&lab.publish("web", 1, ACTIVATE)), runs(1, 1, StateWord::Converged));
    let second = lab.publish("web", 2, &format!("{ACTIVATE} # 2"));
    interrupt(&folder, Some(&second), runs(2, 2, StateWord::Converged));
    let bad = lab.publish("web", 3, "exit 1");
    interrupt(&folder, Some(&bad), runs(2, 2, StateWord::RolledBack));
    // That version 3 is refused outranks the pin.
    interrupt(&folder, None, runs(1, 1, StateWord::RolledBack));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(lab.converger().pin(name("web"), None)).unwrap();
    let reason = Reason::new(Code::PolicyStop, "stopped");
    interrupt(&folder, Some(&Desired::Stop { version: None, reason }), |lab, profile| {
        assert_eq!(profile.explain(now()).word, StateWord::Converged);
        assert_eq!((profile.running.as_ref(), lab.active("web")), (None, None));
        assert!(lab.generations("web").is_empty());
    });
}
