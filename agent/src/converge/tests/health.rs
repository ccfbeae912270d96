//! Switches that work, and versions that do not: health checks decide.

use shared::health::{Check, Health, Probe};

use super::lab::name;
use super::*;

/// A check that passes while the active version is one of these, as its activation wrote it.
fn runs_one_of(versions: &str) -> Health {
    let active = "cut -d'|' -f4 $SHOAL_ROOT/active-$SHOAL_PROFILE";
    passes(&format!("{active} | grep -x '[{versions}]'"))
}

/// A check that passes if this script does.
fn passes(script: &str) -> Health {
    let argv = ["/bin/sh", "-c", script].map(ToOwned::to_owned).into();
    let check = Check {
        name: "version".parse().unwrap(),
        probe: Probe::Command { argv },
        interval: 1,
        timeout: 60,
        retries: 1,
    };
    Health { deadline: 1, soak: 0, checks: vec![check] }
}

fn checked(mut desired: Desired, health: Health) -> Desired {
    if let Desired::Run { wanted, .. } = &mut desired {
        wanted.checkup.health = health;
    }
    desired
}

fn told(profile: &Profile) -> (StateWord, Option<Code>) {
    let explained = profile.explain(now());
    (explained.word, explained.reason.map(|reason| reason.code))
}

#[tokio::test]
async fn a_version_that_is_not_healthy_goes_back_to_one_that_is() {
    let lab = Lab::new();
    let first = checked(lab.publish("web", 1, ACTIVATE), runs_one_of("1"));
    let profile = lab.run("web", &first).await;
    assert_eq!(told(&profile), (StateWord::Converged, None));
    let second = lab.publish("web", 2, &format!("{ACTIVATE}; true"));
    let profile = lab.run("web", &checked(second.clone(), runs_one_of("1"))).await;
    assert_eq!(told(&profile), (StateWord::RolledBack, Some(Code::HealthFailed)));
    let text = profile.explain(now()).reason.unwrap().text;
    assert_eq!(text, "version did not pass within 1 s: ended with 1");
    assert_eq!(lab.generations("web"), [1]);
    assert!(lab.active("web").unwrap().contains("|1|"));
    let third = lab.publish("web", 3, &format!("{ACTIVATE}; true"));
    let profile = lab.run("web", &checked(third, runs_one_of("3"))).await;
    assert_eq!(told(&profile), (StateWord::Converged, None));
}

#[tokio::test]
async fn what_is_not_healthy_after_going_back_either_has_failed() {
    let lab = Lab::new();
    let well = || passes("! test -e $SHOAL_ROOT/sick");
    lab.run("web", &checked(lab.publish("web", 1, ACTIVATE), well())).await;
    let second = lab.publish("web", 2, "touch $SHOAL_ROOT/sick");
    let profile = lab.run("web", &checked(second, well())).await;
    assert_eq!(told(&profile), (StateWord::Failed, Some(Code::RollbackFailed)), "{profile:?}");
    assert_eq!(lab.current("web"), Some(1));
}

#[tokio::test]
async fn going_back_is_checked_and_kept_whatever_the_checks_say() {
    let lab = Lab::new();
    lab.run("web", &checked(lab.publish("web", 1, ACTIVATE), runs_one_of("1"))).await;
    let second = lab.publish("web", 2, "echo '|||1|' > $SHOAL_ROOT/active-$SHOAL_PROFILE");
    lab.run("web", &checked(second, runs_one_of("1"))).await;
    let third = lab.publish("web", 3, &format!("{ACTIVATE}; true"));
    lab.run("web", &checked(third, runs_one_of("3"))).await;
    let pin = || Pin { reason: "a test".into(), since: now(), until: None };
    let (converger, stop) = (lab.converger(), CancellationToken::new());
    let back = |to| converger.roll_back(name("web"), Some(to), pin(), &stop);
    let profile = back(1).await.unwrap();
    assert_eq!(told(&profile), (StateWord::Pinned, Some(Code::Pinned)));
    std::fs::remove_file(lab.root().join("active-web")).unwrap();
    let profile = lab.converger().look(&profile).await.unwrap();
    assert_eq!(told(&profile), (StateWord::Failed, Some(Code::Unhealthy)));
    assert_eq!(lab.current("web"), Some(1), "told, and not undone");
    let profile = back(3).await.unwrap();
    assert_eq!(told(&profile), (StateWord::Pinned, Some(Code::Pinned)), "well again");
}

#[tokio::test]
async fn a_switch_that_soaks_can_be_confirmed_or_taken_back_by_its_operator() {
    let lab = Lab::new();
    let soaks = |version: &str| Health { soak: 3600, ..runs_one_of(version) };
    let first = checked(lab.publish("web", 1, ACTIVATE), soaks("1"));
    let until = |converger: Converger, word| async move {
        loop {
            let profiles = converger.profiles().unwrap();
            if profiles.first().is_some_and(|it| it.state_is_soaking() == word) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let converger = lab.converger();
    let (profile, ()) = tokio::join!(lab.run("web", &first), async {
        until(lab.converger(), true).await;
        converger.confirm(name("web")).await.unwrap();
    });
    assert_eq!(told(&profile), (StateWord::Converged, None));
    let second = checked(lab.publish("web", 2, &format!("{ACTIVATE}; true")), soaks("2"));
    let (profile, ()) = tokio::join!(lab.run("web", &second), async {
        until(lab.converger(), true).await;
        let pin = Pin { reason: "a test".into(), since: now(), until: None };
        let stop = CancellationToken::new();
        converger.roll_back(name("web"), None, pin, &stop).await.unwrap();
    });
    assert_eq!(profile.running.as_ref().unwrap().generation, 1);
    assert_eq!(told(&profile), (StateWord::RolledBack, Some(Code::HealthFailed)));
}

impl Profile {
    fn state_is_soaking(&self) -> bool {
        matches!(self.state, State::Confirming { passed: Some(_), .. })
    }
}
