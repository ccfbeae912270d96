//! `agent doctor`: looks for what will be in the way, and says what to do about it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use shared::finding::{self, Finding, Level};
use shared::human;
use shared::problem::{Kind, Problem, chain};
use shared::state_word::StateWord;
use store::cache::{BinaryCache, Location, Network};
use store::local::LocalStore;

use crate::cli::{Context, Host};
use crate::client::TrustFacts;
use crate::host;
use crate::report;
use crate::rounds::Rounds;
use crate::status::Status;

/// How long before it expires a trust statement is told of.
const SOON: SignedDuration = SignedDuration::from_hours(24);

/// How far the clock may be behind what was signed.
const BEHIND: SignedDuration = SignedDuration::from_mins(5);

/// Look for what is, or will be, in the way of this host, and say what to do about it.
///
/// Asks the registry and the caches, and changes nothing that runs. Ends with 1 if there is an
/// error; warnings alone are no failure.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {}

#[derive(Serialize)]
struct Shown {
    schema: &'static str,
    errors: usize,
    warnings: usize,
    findings: Vec<Finding>,
}

/// Looks at everything.
pub(crate) async fn run(_args: DoctorArgs, context: &Context) -> Result<(), Problem> {
    let host = Host::open(context)?;
    let now = Timestamp::now();
    let (asked, caches) = ask(&host).await?;
    let status = host.status()?;
    let facts = crate::client::PollRecord::load(&host.settings.state_dir);
    let facts = facts.map_err(|trouble| trouble.problem())?.facts;
    let mut findings = vec![clock(host::is_clock_synchronised(), facts.as_ref(), now)];
    findings.push(trust(facts.as_ref(), now));
    findings.extend(asked);
    findings.extend(caches);
    findings.push(store(&host));
    findings.push(enrolment(&host));
    findings.extend(profiles(&status));
    let count = |level| finding::count(&findings, level);
    let (errors, warnings) = (count(Level::Error), count(Level::Warning));
    if context.output.is_json() {
        let schema = "doctor.v1";
        context.output.json(&Shown { schema, errors, warnings, findings })?;
    } else {
        context.output.data(finding::render(&findings).trim_end())?;
    }
    if errors == 0 {
        return Ok(());
    }
    let what = format!("{} found", human::count(errors, "error"));
    Err(Problem::new(Kind::Negative, "errors", what).leaves("nothing changed"))
}

/// Asks the registry once, and each cache that is allowed by what it says.
async fn ask(host: &Host) -> Result<(Vec<Finding>, Vec<Finding>), Problem> {
    let mut rounds = Rounds::new(&host.settings)?;
    let observer: store::substitute::Observer = Arc::new(|_| ());
    let round = rounds.round(Duration::ZERO, &|_| Arc::clone(&observer)).await;
    let round = round.map_err(|error| error.problem())?;
    let urls: Vec<String> = host.settings.registry.urls.iter().map(ToString::to_string).collect();
    let registry = match &round.trouble {
        Some(trouble) => Finding::new(Level::Error, "registry", chain(trouble)).next("agent once"),
        None if urls.is_empty() => {
            Finding::new(Level::Error, "registry", "the configuration names no registry")
                .next("agent config show")
        }
        None => Finding::new(Level::Ok, "registry", format!("{} answers", urls.join(", "))),
    };
    let mut asked = vec![registry];
    for (group, reason) in &host.status()?.registry.groups {
        let text = format!("nothing of it can be used: {}", reason.text);
        let finding = Finding::new(Level::Error, format!("group {group}"), text);
        asked.push(finding.next(format!("registry verify {group}/_policy")));
    }
    let mut known: BTreeMap<String, (Location, Network)> = BTreeMap::new();
    for order in round.orders {
        let network = order.caches.network;
        for (location, _) in order.caches.locations {
            known.insert(location.to_string(), (location, network.clone()));
        }
    }
    let mut caches = Vec::new();
    for (name, (location, network)) in known {
        let (_, errors) = BinaryCache::open_all(&[(location, None)], &[], &network).await;
        caches.push(match errors.first() {
            None => Finding::new(Level::Ok, "cache", format!("{name} answers")),
            // The others may have all that is needed.
            Some(error) => Finding::new(Level::Warning, "cache", chain(error)),
        });
    }
    Ok((asked, caches))
}

fn clock(is_synchronised: bool, facts: Option<&TrustFacts>, now: Timestamp) -> Finding {
    let signed = facts.and_then(|facts| facts.signed_at);
    if let Some(behind) = signed.map(|signed| signed.duration_since(now)).filter(|it| *it > BEHIND)
    {
        let text = format!("it is {} behind what was signed", human::span(behind));
        return Finding::new(Level::Error, "clock", text).next("timedatectl status");
    }
    if is_synchronised {
        return Finding::new(Level::Ok, "clock", "somebody keeps it right");
    }
    Finding::new(Level::Warning, "clock", "nobody says that it is kept right")
        .next("timedatectl status")
}

fn trust(facts: Option<&TrustFacts>, now: Timestamp) -> Finding {
    let Some(facts) = facts else {
        let finding = Finding::new(Level::Error, "trust", "nothing was ever verified");
        return finding.next("agent once");
    };
    let root = format!("root version {}", facts.root);
    let Some(left) = facts.expires_at.map(|at| at.duration_since(now)) else {
        return Finding::new(Level::Ok, "trust", root);
    };
    if left.is_negative() {
        let text = format!("{root}; what is signed has expired, so nothing changes");
        return Finding::new(Level::Error, "trust", text).next("agent once");
    }
    let level = if left < SOON { Level::Warning } else { Level::Ok };
    Finding::new(level, "trust", format!("{root}; valid for {}", human::span(left)))
}

fn store(host: &Host) -> Finding {
    let settings = &host.settings.store;
    if settings.root.join("nix/var/nix/db").exists()
        && let Err(error) = LocalStore::open_for_reading(&settings.root)
    {
        return Finding::new(Level::Error, "store", chain(&error)).next("agent store verify");
    }
    let Some(free) = host::free_space(&settings.root) else {
        return Finding::new(Level::Warning, "store", "nobody could say how much room it has");
    };
    let room = format!("{} free", human::size(free));
    if free < settings.min_free {
        let least = human::size(settings.min_free);
        let text = format!("{room}, and {least} must stay so: nothing can be fetched");
        return Finding::new(Level::Error, "store", text).next("agent gc --dry-run");
    }
    Finding::new(Level::Ok, "store", room)
}

fn enrolment(host: &Host) -> Finding {
    if report::certificate_path(&host.settings.state_dir).exists() {
        return Finding::new(Level::Ok, "enrolment", "this host has a certificate");
    }
    Finding::new(Level::Warning, "enrolment", "no certificate, so nothing is reported")
        .next("agent enroll --help")
}

fn profiles(status: &Status) -> Vec<Finding> {
    let finding = |profile: &crate::status::ProfileStatus| {
        let level = match profile.state {
            StateWord::Untrusted | StateWord::Failed | StateWord::RolledBack | StateWord::Stale => {
                Level::Error
            }
            StateWord::Pinned
            | StateWord::Held
            | StateWord::RebootPending
            | StateWord::Confirming
            | StateWord::Switching
            | StateWord::Fetching
            | StateWord::Waiting => Level::Warning,
            StateWord::Converged => Level::Ok,
        };
        let why = profile.reason.as_ref().map_or(String::new(), |it| format!(": {}", it.text));
        let text = format!("{}{why}", profile.state);
        let found = Finding::new(level, format!("profile {}", profile.profile), text);
        Finding { next: profile.next.clone(), ..found }
    };
    status.profiles.iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn facts(signed: i64, expires: i64) -> TrustFacts {
        TrustFacts {
            root: 3,
            timestamp: 812,
            snapshot: None,
            signed_at: Some(at(signed)),
            expires_at: Some(at(expires)),
        }
    }

    #[test]
    fn shows_each_finding_with_what_to_do_about_it() {
        let findings = [
            clock(true, Some(&facts(0, 1)), at(100)),
            trust(Some(&facts(0, 91 * 86_400)), at(0)),
            Finding::new(Level::Warning, "enrolment", "no certificate").next("agent enroll --help"),
            Finding::new(Level::Error, "profile webshop", "rolled_back: front: answered 502 twice")
                .next("agent retry webshop"),
        ];
        let shown = anstream::adapter::strip_str(&finding::render(&findings)).to_string();
        expect![[r#"
            ✓ clock            somebody keeps it right
            ✓ trust            root version 3; valid for 91d
            ! enrolment        no certificate
                               next: agent enroll --help
            ✗ profile webshop  rolled_back: front: answered 502 twice
                               next: agent retry webshop
            1 error, 1 warning
        "#]]
        .assert_eq(&shown);
    }

    #[test]
    fn a_clock_and_a_signature_are_judged_by_each_other() {
        let check = |finding: Finding, level: Level, words: &str| {
            assert!(finding.level == level && finding.text.contains(words), "{finding:?}");
            assert!(level == Level::Ok || finding.next.is_some() || words == "valid for");
        };
        check(clock(true, Some(&facts(1000, 0)), at(600)), Level::Error, "behind what was signed");
        check(clock(true, Some(&facts(1000, 0)), at(700)), Level::Ok, "keeps it right");
        check(clock(false, None, at(700)), Level::Warning, "nobody says");
        check(trust(None, at(0)), Level::Error, "ever verified");
        check(trust(Some(&facts(0, 100)), at(101)), Level::Error, "has expired");
        check(trust(Some(&facts(0, 100)), at(99)), Level::Warning, "valid for");
    }
}
