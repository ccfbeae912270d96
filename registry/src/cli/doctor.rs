//! `registry doctor`: looks for what is, or will be, in the way of whoever runs a registry or
//! publishes there.

use jiff::{SignedDuration, Timestamp};
use reqwest::StatusCode;
use serde_json::{Value, json};
use shared::{
    api::{Fleet, Key},
    finding::{self, Finding, Level},
    human,
    problem::{Kind, Problem},
    version::SoftwareVersion,
};

use super::Context;
use crate::{
    client::{Client, Told},
    keys::Listed,
    roles, signer,
    trusted_realm::TrustedRealm,
};

/// How long before its end a role that people sign is told of.
const SOON: SignedDuration = SignedDuration::from_hours(14 * 24);
/// How long before its end the root is told of: a new one takes a ceremony.
const ROOT_SOON: SignedDuration = SignedDuration::from_hours(30 * 24);
/// How long before its end what the registry signs by itself is told of: that was due for days.
const ONLINE_SOON: SignedDuration = SignedDuration::from_hours(12);
/// How far apart two clocks may be, in seconds; HTTP tells whole ones, and an answer takes time.
const APART: i64 = 10;
/// How far apart they may be before signed times contradict them, in seconds.
const FAR_APART: i64 = 300;
/// After how long a backup is old, in seconds; as in the alert `BackupOld`.
const BACKUP_OLD: i64 = 2 * 86_400;
/// Room on the registry's disk below which it is told of, in bytes; as in the alert `RegistryDisk`.
const ROOM: u64 = 1 << 30;

/// Look for what is, or will be, in the way of the registry and of your own set-up, and say what to
/// do about it
///
/// Asks the registry, looks at your own keys, and changes nothing. Ends with 1 if there is an error;
/// warnings alone are no failure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Looks at everything.
pub(crate) async fn run(_args: &Args, context: &Context<'_>) -> Result<(), Problem> {
    let findings = look(context).await?;
    let (errors, warnings) =
        (finding::count(&findings, Level::Error), finding::count(&findings, Level::Warning));
    let json = json!({
        "schema": "doctor.v1",
        "errors": errors,
        "warnings": warnings,
        "findings": findings,
    });
    context.output.data(&finding::render(&findings), &json)?;
    if errors == 0 {
        return Ok(());
    }
    let what = format!("{} found", human::count(errors, "error"));
    Err(Problem::new(Kind::Negative, "errors", what).leaves("nothing changed"))
}

async fn look(context: &Context<'_>) -> Result<Vec<Finding>, Problem> {
    let client = Client::of(&context.settings)?;
    let before = Timestamp::now();
    let mut findings = match client.ask("version").await {
        Err(problem) => vec![of_problem("registry", &problem)],
        Ok(told) => {
            // By its middle, as NTP does: the way there and the way back take about as long.
            let now = Timestamp::now();
            let middle = now - now.duration_since(before) / 2;
            let mut findings =
                vec![version(&told, &context.settings.registry.value), clock(told.date, middle)];
            findings.extend(ready(client.ask("readyz?verbose").await));
            findings.extend(of_metrics(client.ask("metrics").await, now));
            findings.extend(behind(client.get("fleet", &[]).await));
            findings
        }
    };
    // What is signed is judged by what this signer trusts, not by what the registry says of it.
    match roles::open(&context.settings).await {
        Ok((realm, _)) => findings.extend(signed(&realm, Timestamp::now()).await),
        Err(problem) => findings.push(of_problem("trust", &problem)),
    }
    findings.push(keys(context, &client).await);
    Ok(findings)
}

/// Tells a problem as a finding.
fn of_problem(subject: &str, problem: &Problem) -> Finding {
    let mut text = problem.what.clone();
    for cause in &problem.causes {
        text.push_str(&format!(": {cause}"));
    }
    let found = Finding::new(Level::Error, subject, text);
    match problem.next.as_ref().or(problem.fix.as_ref()) {
        Some(next) => found.next(next),
        None => found,
    }
}

fn version(told: &Told, url: &str) -> Finding {
    let theirs = serde_json::from_str::<Value>(&told.text).ok();
    let theirs = theirs.as_ref().and_then(|it| it.get("version")?.as_str());
    let Some(theirs) = theirs.and_then(|it| SoftwareVersion::parse(it).ok()) else {
        let text = format!("{url} answers {}, but not as a registry does", told.status.as_u16());
        return Finding::new(Level::Error, "registry", text).next("registry config show");
    };
    let ours = SoftwareVersion::current();
    if theirs == ours {
        return Finding::new(Level::Ok, "registry", format!("{url} answers, version {theirs}"));
    }
    let text = format!("{url} has version {theirs}, this program {ours}");
    Finding::new(Level::Warning, "registry", text).next("install the same version on both sides")
}

fn clock(theirs: Option<Timestamp>, ours: Timestamp) -> Finding {
    let Some(theirs) = theirs else {
        return Finding::new(Level::Warning, "clock", "the registry does not tell the time")
            .next("let the proxy before it pass the header `Date` on");
    };
    let apart = theirs.as_second() - ours.as_second();
    let level = match apart.abs() {
        0..=APART => return Finding::new(Level::Ok, "clock", "the registry has the same time"),
        ..=FAR_APART => Level::Warning,
        _ => Level::Error,
    };
    let span = human::span(SignedDuration::from_secs(apart.abs()));
    let side = if apart < 0 { "behind" } else { "ahead of" };
    let text = format!("the registry's clock is {span} {side} this machine's");
    Finding::new(level, "clock", text).next("on both: timedatectl status")
}

/// Reads what `/readyz?verbose` tells: a line for each check, then notes.
fn ready(told: Result<Told, Problem>) -> Vec<Finding> {
    let told = match told {
        Ok(told) => told,
        Err(problem) => return vec![of_problem("ready", &problem)],
    };
    let mut findings = Vec::new();
    let mut passed = 0;
    for line in told.text.lines() {
        if line.starts_with("[+]") {
            passed += 1;
        } else if let Some(failed) = line.strip_prefix("[-]") {
            findings.push(
                Finding::new(Level::Error, "ready", failed.to_owned())
                    .next("on the server: look at the log of registry serve"),
            );
        } else if !line.starts_with("readyz check") {
            findings.push(
                Finding::new(Level::Warning, "ready", line.to_owned()).next("registry recover"),
            );
        }
    }
    let fails = findings.iter().any(|finding| finding.level == Level::Error);
    if passed == 0 || (!told.status.is_success() && !fails) {
        let text = format!("`/readyz` answers {}", told.status.as_u16());
        findings.push(Finding::new(Level::Error, "ready", text).next("registry config show"));
    }
    if findings.is_empty() {
        let text = format!("the registry passes its own {passed} checks");
        findings.push(Finding::new(Level::Ok, "ready", text));
    }
    findings
}

/// Reads from the metrics what the API does not tell: backups and room.
fn of_metrics(told: Result<Told, Problem>, now: Timestamp) -> Vec<Finding> {
    let told = match told {
        Ok(told) if told.status == StatusCode::OK => told,
        Ok(told) => {
            let status = told.status.as_u16();
            let text = format!("not known: `/metrics` answers {status} to whoever asks from here");
            let finding = Finding::new(Level::Warning, "backup, disk", text);
            return vec![finding.next("on the server: registry doctor")];
        }
        Err(problem) => return vec![of_problem("backup, disk", &problem)],
    };
    let value = |name: &str| {
        let mut lines = told.text.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.split(' ').next()?.parse::<f64>().ok().filter(|value| value.is_finite())
    };
    vec![
        backup(value("shoal_registry_last_backup_timestamp_seconds"), now),
        room(value("shoal_registry_free_bytes")),
    ]
}

fn backup(made: Option<f64>, now: Timestamp) -> Finding {
    // Whole seconds of this century.
    #[expect(clippy::cast_possible_truncation, reason = "it saturates, and is compared only")]
    let at = made.map(|seconds| seconds as i64);
    let next = "on the server: registry backup";
    match at.and_then(|at| Timestamp::from_second(at).ok()) {
        None => {
            Finding::new(Level::Warning, "backup", "the registry does not tell of it").next(next)
        }
        Some(at) if at.as_second() == 0 => {
            Finding::new(Level::Warning, "backup", "none was ever made").next(next)
        }
        Some(at) => {
            let text = format!("the last was made {}", human::ago(at, now));
            if now.as_second() - at.as_second() > BACKUP_OLD {
                return Finding::new(Level::Warning, "backup", text).next(next);
            }
            Finding::new(Level::Ok, "backup", text)
        }
    }
}

fn room(free: Option<f64>) -> Finding {
    let Some(free) = free else {
        return Finding::new(Level::Warning, "disk", "the registry does not tell its room")
            .next("on the server: df -h");
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it saturates, and is shown only"
    )]
    let free = free as u64;
    let text = format!("{} free at the registry", human::size(free));
    if free < ROOM {
        return Finding::new(Level::Warning, "disk", text).next("on the server: registry gc");
    }
    Finding::new(Level::Ok, "disk", text)
}

fn behind(fleet: Result<Fleet, Problem>) -> Option<Finding> {
    let fleet = match fleet {
        Ok(fleet) => fleet,
        Err(problem) => return Some(of_problem("fleet", &problem)),
    };
    let ahead = fleet.freshness.seen_ahead?;
    let text = format!(
        "a host has seen timestamp {ahead}, these files end at {}: they may be of an old backup",
        fleet.freshness.timestamp
    );
    Some(Finding::new(Level::Error, "files", text).next("on the server: registry recover"))
}

/// Looks at when what is signed ends, first what hosts cannot go on without.
async fn signed(realm: &TrustedRealm, now: Timestamp) -> Vec<Finding> {
    let trusted = realm.trusted();
    let mut findings = Vec::new();
    for (role, soon, next) in [
        ("root", ROOT_SOON, "ask the holders of the root's keys for a new root"),
        ("targets", SOON, "registry trust renew"),
        (
            "snapshot",
            ONLINE_SOON,
            "on the server: registry serve signs it anew; its log says why not",
        ),
        (
            "timestamp",
            ONLINE_SOON,
            "on the server: registry serve signs it anew; its log says why not",
        ),
    ] {
        let version = trusted.version(role).map(|it| format!("version {it}")).unwrap_or_default();
        findings.extend(trusted.expires(role).map(|ends| {
            let finding = expiry(role, &version, ends, now, soon);
            if finding.level == Level::Ok { finding } else { finding.next(next) }
        }));
    }
    match trusted.targets() {
        Err(error) => findings.push(of_problem("targets", &roles::problem(&error))),
        Ok(targets) => {
            for delegation in &targets.delegations {
                findings.extend(delegated(realm, &delegation.role, now).await);
            }
        }
    }
    findings
}

/// Looks at what a team or the owners of a group have signed.
async fn delegated(realm: &TrustedRealm, role: &str, now: Timestamp) -> Option<Finding> {
    let signed = match realm.role(role).await {
        Ok(signed) => signed?,
        Err(problem) => return Some(of_problem(&format!("role {role}"), &problem)),
    };
    let ends = Timestamp::from(signed.header.expires);
    let version = format!("version {}", signed.header.version);
    let finding = expiry(&format!("role {role}"), &version, ends, now, SOON);
    let next = match role.strip_prefix("owners.") {
        Some(group) => format!("its owners: registry group set {group} …"),
        None => format!("team {role}: registry publish manifest …"),
    };
    Some(if finding.level == Level::Ok { finding } else { finding.next(next) })
}

fn expiry(
    subject: &str,
    version: &str,
    ends: Timestamp,
    now: Timestamp,
    soon: SignedDuration,
) -> Finding {
    let left = ends.duration_since(now);
    if left.is_negative() {
        let text = format!("{version} has expired at {ends}: hosts take nothing new of it");
        return Finding::new(Level::Error, subject, text);
    }
    let level = if left < soon { Level::Warning } else { Level::Ok };
    Finding::new(level, subject, format!("{version}, valid for {}", human::span(left)))
}

/// Looks at this signer's own keys.
async fn keys(context: &Context<'_>, client: &Client) -> Finding {
    let folder = signer::keys(&context.settings);
    let own = match folder.list() {
        Ok(own) => own,
        Err(error) => return of_problem("your keys", &signer::problem(&error)),
    };
    match client.pages::<Key>("keys", &[], usize::MAX).await {
        Ok(known) => usable(&own, &known.items),
        Err(problem) => of_problem("your keys", &problem),
    }
}

fn usable(own: &[Listed], known: &[Key]) -> Finding {
    if own.is_empty() {
        return Finding::new(Level::Ok, "your keys", "none: you can look, and not publish");
    }
    let told: Vec<(&str, Vec<&str>)> =
        own.iter().map(|key| (key.name.as_str(), roles_of(key, known))).collect();
    let text = told.iter().map(|(name, roles)| match roles.as_slice() {
        [] => format!("{name} signs for nothing"),
        roles => format!("{name} signs for {}", roles.join(", ")),
    });
    let text: Vec<String> = text.collect();
    let finding = |level| Finding::new(level, "your keys", text.join("; "));
    if told.iter().all(|(_, roles)| roles.is_empty()) {
        let next = "ask who runs the realm: registry team add TEAM --key …";
        return finding(Level::Warning).next(next);
    }
    finding(Level::Ok)
}

/// Returns the roles that a key signs for.
fn roles_of<'a>(key: &Listed, known: &'a [Key]) -> Vec<&'a str> {
    let known = known.iter().find(|it| it.public.0 == *key.public.as_bytes());
    known.into_iter().flat_map(|it| &it.roles).map(|it| it.fence.role.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use shared::api::{Fence, KeyRole};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn told(status: u16, text: &str) -> Result<Told, Problem> {
        let status = StatusCode::from_u16(status).unwrap();
        Ok(Told { status, date: None, text: text.to_owned() })
    }

    #[test]
    fn shows_each_finding_with_what_to_do_about_it() {
        let day = 86_400;
        let now = at(400 * day);
        let mut findings = vec![
            version(
                &told(200, r#"{"schema":"version.v1","version":"0.0.9"}"#).unwrap(),
                "https://registry.example",
            ),
            clock(Some(at(400 * day - 400)), now),
        ];
        let ready_text = "[+]ping ok\n[-]disk-room failed: 1.0 MiB free, 256.0 MiB needed\n\
                          readyz check failed\n";
        findings.extend(ready(told(503, ready_text)));
        let metrics = "shoal_registry_last_backup_timestamp_seconds 34300800.0\n\
                       shoal_registry_free_bytes 1048576\n";
        findings.extend(of_metrics(told(200, metrics), now));
        findings.push(expiry("root", "version 3", at(491 * day), now, ROOT_SOON));
        findings.push(
            expiry("targets", "version 7", at(409 * day), now, SOON).next("registry trust renew"),
        );
        let shown = anstream::adapter::strip_str(&finding::render(&findings)).to_string();
        expect![[r#"
            ! registry  https://registry.example has version 0.0.9, this program 0.1.0
                        next: install the same version on both sides
            ✗ clock     the registry's clock is 6m 40s behind this machine's
                        next: on both: timedatectl status
            ✗ ready     disk-room failed: 1.0 MiB free, 256.0 MiB needed
                        next: on the server: look at the log of registry serve
            ! backup    the last was made 3d ago
                        next: on the server: registry backup
            ! disk      1.0 MiB free at the registry
                        next: on the server: registry gc
            ✓ root      version 3, valid for 91d
            ! targets   version 7, valid for 9d
                        next: registry trust renew
            2 errors, 4 warnings
        "#]]
        .assert_eq(&shown);
    }

    #[test]
    fn a_clock_a_server_and_a_backup_are_judged() {
        let check = |finding: Finding, level: Level, words: &str| {
            assert!(finding.level == level && finding.text.contains(words), "{finding:?}");
            assert!(level == Level::Ok || finding.next.is_some(), "{finding:?}");
        };
        check(clock(Some(at(1000)), at(1010)), Level::Ok, "same time");
        check(clock(Some(at(1000)), at(1011)), Level::Warning, "11s behind");
        check(clock(Some(at(2000)), at(1011)), Level::Error, "16m 29s ahead of");
        check(clock(None, at(0)), Level::Warning, "does not tell");
        check(backup(Some(0.0), at(0)), Level::Warning, "none was ever made");
        check(backup(Some(100.0), at(160)), Level::Ok, "1m ago");
        check(backup(Some(100.0), at(260_000)), Level::Warning, "3d");
        check(backup(None, at(0)), Level::Warning, "not tell");
        check(room(Some(2e10)), Level::Ok, "18.6 GiB");
        check(room(Some(2e6)), Level::Warning, "1.9 MiB");
        let other = told(200, "<html>").unwrap();
        check(version(&other, "http://a"), Level::Error, "not as a registry does");
        let refused = of_metrics(told(401, ""), at(0)).remove(0);
        check(refused, Level::Warning, "answers 401");
        let passed = ready(told(200, "[+]ping ok\n[+]shutdown ok\nreadyz check passed\n"));
        check(passed.into_iter().next().unwrap(), Level::Ok, "2 checks");
        check(ready(told(404, "")).remove(0), Level::Error, "answers 404");
        check(
            expiry("root", "version 1", at(0), at(1), SOON).next("x"),
            Level::Error,
            "has expired",
        );
    }

    #[test]
    fn keys_that_sign_for_nothing_are_told_apart() {
        let key = crate::keys::generate().unwrap().public();
        let own = [Listed { name: "web".to_owned(), public: key }];
        let fence = Fence { role: "web".to_owned(), patterns: Vec::new(), threshold: 1 };
        let known = Key {
            id: key.key_id().to_string(),
            public: shared::id::RawKey(*key.as_bytes()),
            roles: vec![KeyRole { fence, expires: None }],
        };
        assert_eq!(usable(&own, &[known]).text, "web signs for web");
        assert_eq!(usable(&own, &[]).level, Level::Warning);
        assert_eq!(usable(&[], &[]).level, Level::Ok);
    }
}
