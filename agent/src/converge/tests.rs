//! Profiles driven for real: a cache, a store, links and programs, without a registry.

mod crashes;
mod health;
mod lab;

use shared::state_word::StateWord;
use shared::version::VersionNumber;

use self::lab::{ACTIVATE, Lab};
use super::*;
use crate::state::{Code, Reason};

#[tokio::test]
async fn a_first_version_is_fetched_switched_to_and_activated() {
    let lab = Lab::new();
    let profile = lab.run("web", &lab.publish("web", 1, ACTIVATE)).await;
    assert_eq!(profile.explain(now()).word, StateWord::Converged);
    assert_eq!(lab.generations("web"), [1]);
    let (root, link) = (lab.root().display().to_string(), lab.converger().link(&lab::name("web")));
    let running = profile.running.unwrap();
    let new = format!("{root}/nix/store/{}", running.path.base_name());
    let told = format!("{}|lab|web|1||{new}|{root}|/", link.display());
    assert_eq!(lab.active("web").unwrap(), told);
    assert!(lab.roots().is_empty(), "the generation is root enough");
}

#[tokio::test]
async fn a_daemon_keeps_nothing_from_the_collector_once_a_fetch_has_ended() {
    let lab = Lab::new();
    let daemon = lab.converger();
    lab.run_by(&daemon, "web", &lab.publish("web", 1, ACTIVATE)).await;
    let temp_roots = lab.root().join("nix/var/nix/temproots");
    assert_eq!(std::fs::read_dir(temp_roots).unwrap().count(), 0);
}

#[tokio::test]
async fn a_version_that_fails_is_rolled_back_kept_out_and_taken_when_newer() {
    let lab = Lab::new();
    lab.run("web", &lab.publish("web", 1, ACTIVATE)).await;
    let first = lab.active("web").unwrap();
    let bad = lab.publish("web", 2, "echo no such table >&2; exit 7");
    let profile = lab.run("web", &bad).await;
    let explained = profile.explain(now());
    assert_eq!(explained.word, StateWord::RolledBack);
    let reason = explained.reason.unwrap();
    assert_eq!(reason.code, Code::ActivationFailed);
    assert!(reason.text.ends_with("ended with 7"), "{}", reason.text);
    assert_eq!(explained.next.unwrap(), "agent retry web");
    assert_eq!(profile.record.unwrap().log, "no such table");
    assert_eq!(lab.generations("web"), [1], "only good generations stay");
    assert_ne!(lab.active("web").unwrap(), first, "the old one was activated again");

    let runs = lab.runs("web");
    lab.run("web", &bad).await;
    assert_eq!(lab.runs("web"), runs, "a refused version is not tried again");
    let profile = lab.run("web", &lab.publish("web", 3, ACTIVATE)).await;
    assert_eq!(profile.explain(now()).word, StateWord::Converged);
}

#[tokio::test]
async fn a_first_version_that_fails_leaves_nothing_behind() {
    let lab = Lab::new();
    let profile = lab.run("web", &lab.publish("web", 1, "exit 1")).await;
    assert_eq!(profile.explain(now()).word, StateWord::RolledBack);
    assert_eq!(profile.running, None);
    assert!(lab.generations("web").is_empty());
    assert!(lab.roots().is_empty());
}

#[tokio::test]
async fn retry_lifts_a_refusal() {
    let lab = Lab::new();
    let flag = lab.root().join("fixed");
    let script = format!("test -e {} || exit 1; {ACTIVATE}", flag.display());
    let order = lab.publish("web", 1, &script);
    lab.run("web", &order).await;
    std::fs::write(flag, "").unwrap();
    lab.converger().retry(lab::name("web")).await.unwrap();
    let profile = lab.run("web", &order).await;
    assert_eq!(profile.explain(now()).word, StateWord::Converged);
}

#[tokio::test]
async fn an_activation_that_hangs_is_ended_and_rolled_back() {
    let lab = Lab::new();
    lab.run("web", &lab.publish("web", 1, ACTIVATE)).await;
    let mut slow = lab.publish("web", 2, "sleep 1000");
    lab::set_timeout(&mut slow, 1);
    let profile = lab.run("web", &slow).await;
    let reason = profile.explain(now()).reason.unwrap();
    assert_eq!(reason.code, Code::ActivationTimeout);
    assert!(lab.active("web").unwrap().contains("|1|"));
}

#[tokio::test]
async fn hold_keeps_and_stop_deactivates_and_removes() {
    let lab = Lab::new();
    lab.run("web", &lab.publish("web", 1, ACTIVATE)).await;
    let hold = Desired::Freeze { reason: Reason::new(Code::PolicyHold, "held") };
    let profile = lab.run("web", &hold).await;
    assert_eq!(profile.explain(now()).word, StateWord::Held);
    assert!(lab.active("web").is_some());
    let stop = Desired::Stop { version: None, reason: Reason::new(Code::PolicyStop, "stopped") };
    let profile = lab.run("web", &stop).await;
    assert_eq!(profile.explain(now()).word, StateWord::Converged);
    assert_eq!(profile.running, None);
    assert_eq!(lab.active("web"), None, "bin/deactivate ran");
    assert!(lab.generations("web").is_empty());
    let profile = lab.run("web", &lab.publish("web", 2, ACTIVATE)).await;
    assert_eq!(profile.explain(now()).word, StateWord::Converged);
}

#[tokio::test]
async fn the_operator_goes_back_and_the_profile_stays_there_until_unpinned() {
    let lab = Lab::new();
    lab.run("web", &lab.publish("web", 1, ACTIVATE)).await;
    let second = lab.publish("web", 2, &format!("{ACTIVATE} # 2"));
    lab.run("web", &second).await;
    let pin = Pin { reason: "slow".into(), since: now(), until: None };
    let profile = lab
        .converger()
        .roll_back(lab::name("web"), None, pin, &CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(profile.explain(now()).word, StateWord::Pinned);
    assert_eq!(profile.running.as_ref().unwrap().generation, 1);
    assert_eq!(profile.running.unwrap().version.unwrap().version.get(), 1);
    assert!(lab.active("web").unwrap().contains("|1|"));
    let profile = lab.run("web", &second).await;
    assert_eq!(profile.explain(now()).word, StateWord::Pinned);
    assert!(lab.active("web").unwrap().contains("|1|"));
    lab.converger().pin(lab::name("web"), None).await.unwrap();
    let profile = lab.run("web", &second).await;
    assert_eq!(profile.explain(now()).word, StateWord::Converged);
    assert_eq!(lab.generations("web"), [1, 2], "the generation of version 2 serves again");
}

#[tokio::test]
async fn there_is_nothing_before_the_first_generation() {
    let lab = Lab::new();
    lab.run("web", &lab.publish("web", 1, ACTIVATE)).await;
    let pin = || Pin { reason: "slow".into(), since: now(), until: None };
    let refused =
        lab.converger().roll_back(lab::name("web"), None, pin(), &CancellationToken::new()).await;
    assert!(matches!(refused, Err(ConvergeError::NoOlderGeneration(_))), "{refused:?}");
    let refused = lab
        .converger()
        .roll_back(lab::name("web"), Some(9), pin(), &CancellationToken::new())
        .await;
    assert!(matches!(refused, Err(ConvergeError::NoGeneration { .. })), "{refused:?}");
    assert_eq!(lab.converger().profiles().unwrap()[0].pin, None, "a refusal pins nothing");
}

#[tokio::test]
async fn two_teams_on_one_host_do_not_hurt_each_other() {
    let lab = Lab::new();
    let bad = lab.publish("db", 1, "sleep 0.2; exit 1");
    let good = lab.publish("web", 1, ACTIVATE);
    let absent = lab.publish_nowhere("cron", 1);
    let (db, web, cron) =
        tokio::join!(lab.run("db", &bad), lab.run("web", &good), lab.run("cron", &absent));
    assert_eq!(db.explain(now()).word, StateWord::RolledBack);
    assert_eq!(web.explain(now()).word, StateWord::Converged);
    assert_eq!(cron.explain(now()).word, StateWord::Fetching);
    assert_eq!(cron.explain(now()).reason.unwrap().code, Code::FetchFailed);
}

#[tokio::test]
async fn what_runs_on_a_live_host_is_what_a_first_switch_goes_back_to() {
    let lab = Lab::new();
    let stranger = lab.set_by_hand("web");
    let profile = lab.run("web", &lab.publish("web", 1, "exit 1")).await;
    assert_eq!(profile.explain(now()).word, StateWord::RolledBack);
    assert_eq!(profile.running.unwrap().path, stranger);
    assert_eq!(lab.generations("web"), [1]);
}

#[tokio::test]
async fn a_journal_that_cannot_be_read_is_loud_and_changes_nothing() {
    let lab = Lab::new();
    let first = lab.publish("web", 1, ACTIVATE);
    lab.run("web", &first).await;
    let journal = lab.state_dir().join("journal/web.json");
    std::fs::write(&journal, "{").unwrap();
    let second = lab.publish("web", 2, ACTIVATE);
    let profile = lab.run("web", &second).await;
    let explained = profile.explain(now());
    assert_eq!(explained.word, StateWord::Failed);
    assert_eq!(explained.reason.unwrap().code, Code::JournalCorrupt);
    assert_eq!(lab.generations("web"), [1]);
    assert_eq!(std::fs::read(journal.with_extension("corrupt")).unwrap(), b"{");
    lab.converger().retry(lab::name("web")).await.unwrap();
    let profile = lab.run("web", &second).await;
    assert_eq!(profile.explain(now()).word, StateWord::Converged);
}

#[tokio::test]
async fn what_is_in_the_store_already_needs_no_cache() {
    let lab = Lab::new();
    let order = lab.publish("web", 1, ACTIVATE);
    lab.run("web", &order).await;
    lab.run("web", &lab.publish("web", 2, "true")).await;
    lab.lose_cache();
    let Desired::Run { mut wanted } = order else { panic!() };
    wanted.version.version = VersionNumber::new(3).unwrap();
    let profile = lab.run("web", &Desired::Run { wanted }).await;
    assert_eq!(profile.explain(now()).word, StateWord::Converged);
    let profile = lab.run("web", &lab.publish_nowhere("web", 4)).await;
    assert_eq!(profile.explain(now()).reason.unwrap().code, Code::FetchFailed);
    assert!(lab.active("web").unwrap().contains("|3|"), "and nothing changes without one");
}

#[tokio::test]
async fn an_index_of_another_root_is_refused() {
    let lab = Lab::new();
    let Desired::Run { wanted: mut other } = lab.publish("db", 1, ACTIVATE) else { panic!() };
    let Desired::Run { wanted } = lab.publish("web", 1, "true") else { panic!() };
    other.path = wanted.path;
    let profile = lab.run("web", &Desired::Run { wanted: other }).await;
    assert_eq!(profile.explain(now()).reason.unwrap().code, Code::ClosureIndex);
}

#[tokio::test]
async fn an_unchanged_root_takes_the_next_version_without_activation() {
    let lab = Lab::new();
    lab.run("web", &lab.publish("web", 1, ACTIVATE)).await;
    let runs = lab.runs("web");
    let profile = lab.run("web", &lab.publish("web", 2, ACTIVATE)).await;
    assert_eq!(profile.running.unwrap().version.unwrap().version.get(), 2);
    assert_eq!(lab.runs("web"), runs);
    assert_eq!(lab.generations("web"), [1]);
}

#[tokio::test]
async fn a_link_that_somebody_moved_is_moved_back() {
    let lab = Lab::new();
    let order = lab.publish("web", 1, ACTIVATE);
    lab.run("web", &order).await;
    lab.set_by_hand("web");
    let profile = lab.run("web", &order).await;
    assert_eq!(profile.explain(now()).word, StateWord::Converged);
    assert_eq!(lab.generations("web"), [1, 2, 3]);
}

/// Whoever can serve an old manifest must gain nothing by a lost journal, nor by a host that leaves
/// a group and joins it again.
#[tokio::test]
async fn neither_a_lost_journal_nor_another_group_lowers_the_floor() {
    let lab = Lab::new();
    let (old, new) = (lab.publish("web", 4, ACTIVATE), lab.publish("web", 5, ACTIVATE));
    lab.run("web", &new).await;
    let refused = |profile: &Profile| {
        let reason = profile.explain(now()).reason.map(|reason| reason.code);
        assert_eq!(reason, Some(Code::VersionWentBack), "{profile:?}");
    };
    let first = lab.publish("web", 1, ACTIVATE);
    let other = lab.run_in("other", &lab.converger(), "web", &first).await;
    assert_eq!(other.explain(now()).word, StateWord::Converged, "its versions are its own");
    refused(&lab.run("web", &old).await);
    assert_eq!(lab.run("web", &new).await.explain(now()).word, StateWord::Converged);

    std::fs::remove_dir_all(lab.state_dir().join("journal")).unwrap();
    refused(&lab.run("web", &old).await);
    assert_eq!(lab.run("web", &new).await.explain(now()).word, StateWord::Converged);
    std::fs::write(lab.state_dir().join("journal/web.json"), "{").unwrap();
    let floor = lab.run("web", &old).await.floor;
    assert_eq!(floor.unwrap().version, VersionNumber::new(5).unwrap());
}
