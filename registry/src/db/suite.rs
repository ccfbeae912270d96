//! What every implementation of [`Db`] must keep to: the tests take any.

use std::{collections::BTreeMap, sync::Arc};

use shared::{
    api::Publication,
    certificate::{self, Certificate},
    id::{Digest, GroupName, RealmName},
    report::{Attempt, ProfileReport, Reason, Report},
    state_word::StateWord,
    time::Time,
    version::VersionNumber,
};

use super::{
    Db,
    attempts::AttemptQuery,
    events::What,
    hosts::{Application, EnrolRefusal, HostQuery, Revocation, Standing},
    publications,
    reports::{Incoming, Stored},
    retention::{Pruned, Retention},
    tokens::{self, Grant, ReadToken, TokenError},
};
use crate::testing::{Host, group, realm_name};

mod search;

pub(super) use search::hosts_are_found_by_label_name_state_and_silence;

/// Makes a test of each function of the suite, for databases that `$open` opens anew.
macro_rules! suite {
    ($open:expr; $($name:ident)*) => {
        $(#[tokio::test]
        async fn $name() {
            let (_folder, db) = $open;
            $crate::db::suite::$name(&db).await;
        })*
    };
    ($open:expr) => {
        $crate::db::suite::suite! { $open;
            a_token_works_as_often_and_as_long_as_it_may
            a_token_is_for_its_groups_and_labels
            a_read_token_is_good_for_its_realm_until_it_ends_or_is_revoked
            an_answer_that_was_lost_is_given_again
            a_revoked_key_is_out_for_good_and_its_name_is_free
            a_machine_made_anew_replaces_the_one_before
            reports_come_in_their_order_and_once
            a_restored_machine_is_asked_once_and_goes_on_above_what_was_seen
            a_host_that_is_not_known_is_challenged_and_the_later_certificate_has_the_name
            lists_and_counts_follow_what_hosts_say_and_that_they_say_nothing
            lists_are_read_in_pages_by_group_and_state
            hosts_are_found_by_label_name_state_and_silence
            each_attempt_is_kept_once_it_has_ended
            the_history_is_added_to_once
            what_is_too_old_goes_and_revocations_stay
            hosts_that_have_seen_more_than_we_have_are_remembered
            a_restored_database_challenges_every_host_once
            two_writers_at_once_take_nothing_from_each_other
        }
    };
}
pub(super) use suite;

fn at(minute: u32) -> Time {
    Time::parse("2026-01-01T00:00:00Z").unwrap().plus(i64::from(minute) * 60)
}

fn certificate(host: &Host, groups: &[&str], not_after: Time) -> Certificate {
    Certificate {
        format: certificate::FORMAT,
        realm: realm_name(),
        host: host.raw_key().host_id(),
        key: host.raw_key(),
        name: host.name.clone(),
        groups: groups.iter().map(|name| group(name)).collect(),
        labels: BTreeMap::new(),
        not_after,
    }
}

fn application(host: &Host, groups: &[&str], token: &str, now: Time) -> Application {
    let certificate = certificate(host, groups, now.plus(9_000_000));
    let bytes = certificate.to_bytes().unwrap();
    let key = crate::testing::key(99);
    let envelope =
        shared::trust::dsse::Envelope::sign(certificate::PAYLOAD_TYPE, &bytes, &key).to_bytes();
    let envelope = String::from_utf8(envelope).unwrap();
    Application { certificate, envelope, token: tokens::hash(token) }
}

async fn token(db: &impl Db, text: &str, groups: &[&str], uses: u32) {
    let groups = groups.iter().map(|name| group(name)).collect();
    let (realm, labels, expires_at) = (realm_name(), BTreeMap::new(), at(60));
    let grant = Grant { realm, groups, labels, uses, expires_at };
    db.add_token(tokens::hash(text), grant, at(0)).await.unwrap();
}

/// Lets a host in, and returns what its reports carry.
async fn enrol(db: &impl Db, name: &str, seed: u8, groups: &[&str]) -> (Host, Certificate) {
    let host = Host::new(name, seed);
    let text = format!("token of {seed}");
    token(db, &text, groups, 1).await;
    let application = application(&host, groups, &text, at(0));
    let certificate = application.certificate.clone();
    db.enrol(application, at(0)).await.unwrap().unwrap();
    (host, certificate)
}

fn profile(state: StateWord) -> ProfileReport {
    ProfileReport {
        group: group("eu-prod"),
        profile: "web".parse().unwrap(),
        state,
        since: at(0),
        reason: Some(Reason { code: "code".to_owned(), text: "text".to_owned() }),
        next: Some("agent status".to_owned()),
        wanted: None,
        running: None,
        healthy_since: None,
        attempt: None,
    }
}

fn incoming(certificate: &Certificate, report: Report) -> Incoming {
    Incoming {
        certificate: Arc::new(certificate.clone()),
        envelope: String::new(),
        payload: report.to_bytes().unwrap(),
        report,
        signatures: "[]".to_owned(),
        nonce: "fresh".to_owned(),
        ahead: None,
    }
}

/// Sends a report that a host writes, and returns what became of it.
async fn tell(
    db: &impl Db,
    (host, certificate): &(Host, Certificate),
    (counter, nonce): (u64, Option<&str>),
    change: impl FnOnce(&mut Report),
    now: Time,
) -> Stored {
    let mut report = host.report(counter, nonce);
    report.time = at(0);
    change(&mut report);
    db.ingest(incoming(certificate, report), now).await.unwrap()
}

fn challenge(highest: Option<u64>) -> Stored {
    Stored::Challenge { nonce: "fresh".to_owned(), highest }
}

async fn names(db: &impl Db, group: Option<&str>, states: Option<&[StateWord]>) -> Vec<String> {
    let query = HostQuery {
        group: group.map(|name| GroupName::parse(name).unwrap()),
        states: states.map(<[StateWord]>::to_vec),
        ..HostQuery::first(realm_name(), 100)
    };
    let found = db.hosts(query).await.unwrap().rows;
    found.iter().map(|row| row.certificate.name.to_string()).collect()
}

pub(super) async fn a_token_works_as_often_and_as_long_as_it_may(db: &impl Db) {
    token(db, "secret", &["eu-prod"], 1).await;
    let (one, two) = (Host::new("web-1", 11), Host::new("web-2", 12));
    let ask = |host, token, now| db.enrol(application(host, &["eu-prod"], token, now), now);
    let refused = |error: TokenError| Err(EnrolRefusal::Token(error));
    assert_eq!(ask(&one, "guess", at(1)).await.unwrap(), refused(TokenError::Unknown));
    assert_eq!(ask(&one, "secret", at(60)).await.unwrap(), refused(TokenError::Expired(at(60))));
    assert!(ask(&one, "secret", at(1)).await.unwrap().is_ok());
    assert_eq!(ask(&two, "secret", at(1)).await.unwrap(), refused(TokenError::Used));
    let events = db.events(realm_name(), 0, 10).await.unwrap();
    let what: Vec<What> = events.iter().map(|noted| noted.event.what).collect();
    assert_eq!(what, [What::TokenMade, What::Enrolled]);
    assert_eq!(db.events(realm_name(), events[0].number, 10).await.unwrap(), events[1..]);
}

pub(super) async fn a_token_is_for_its_groups_and_labels(db: &impl Db) {
    let label = ("region".parse().unwrap(), "eu".parse().unwrap());
    let grant = Grant {
        realm: realm_name(),
        groups: vec![group("eu-prod")],
        labels: BTreeMap::from([label.clone()]),
        uses: 9,
        expires_at: at(60),
    };
    db.add_token(tokens::hash("secret"), grant, at(0)).await.unwrap();
    let host = Host::new("web-1", 11);
    let foreign = application(&host, &["us-prod"], "secret", at(1));
    let refused = db.enrol(foreign, at(1)).await.unwrap().unwrap_err();
    assert_eq!(refused, EnrolRefusal::Token(TokenError::Group(group("us-prod"))));
    let mut labelled = application(&host, &["eu-prod"], "secret", at(1));
    let refused = db.enrol(labelled.clone(), at(1)).await.unwrap().unwrap_err();
    let (name, value) = label.clone();
    assert_eq!(refused, EnrolRefusal::Token(TokenError::Label(name, value)));
    labelled.certificate.labels = BTreeMap::from([label]);
    assert!(db.enrol(labelled, at(1)).await.unwrap().is_ok());
}

pub(super) async fn a_read_token_is_good_for_its_realm_until_it_ends_or_is_revoked(db: &impl Db) {
    let (realm, other): (RealmName, RealmName) = (realm_name(), "other".parse().unwrap());
    let read_token = |realm: &RealmName, name: &str, until| ReadToken {
        realm: realm.clone(),
        name: name.parse().unwrap(),
        created_at: at(0),
        expires_at: at(until),
    };
    let add = async |text: &str, token| db.add_read_token(tokens::hash(text), token).await.unwrap();
    let kept = read_token(&realm, "grafana", 60);
    assert!(add("one", kept.clone()).await);
    assert!(!add("two", kept.clone()).await, "a name is one token's");
    assert!(add("three", read_token(&other, "grafana", 60)).await);
    let good = async |text: &str, realm: Option<&RealmName>, now| {
        db.may_read(tokens::hash(text), realm.cloned(), now).await.unwrap()
    };
    assert!(good("one", Some(&realm), at(59)).await && good("one", None, at(59)).await);
    assert!(!good("one", Some(&realm), at(60)).await, "it has ended");
    assert!(!good("one", Some(&other), at(1)).await);
    assert!(!good("two", None, at(1)).await);
    let listed = db.read_tokens(realm.clone()).await.unwrap();
    assert_eq!(listed, std::slice::from_ref(&kept));

    assert!(db.revoke_read_token(realm.clone(), kept.name.clone(), at(2)).await.unwrap());
    assert!(!good("one", None, at(2)).await && good("three", None, at(2)).await);
    assert!(!db.revoke_read_token(realm.clone(), kept.name, at(2)).await.unwrap());
    let events = db.events(realm, 0, 10).await.unwrap();
    let what: Vec<What> = events.iter().map(|noted| noted.event.what).collect();
    assert_eq!(what, [What::ReadTokenMade, What::ReadTokenRevoked]);
    // Ended ones go with the other tokens.
    let retention = Retention { tokens: Some(60), ..Retention::default() };
    assert_eq!(db.prune(retention, at(61)).await.unwrap().tokens, 0);
    assert_eq!(db.prune(retention, at(62)).await.unwrap().tokens, 1);
}

pub(super) async fn an_answer_that_was_lost_is_given_again(db: &impl Db) {
    token(db, "secret", &["eu-prod"], 1).await;
    let host = Host::new("web-1", 11);
    let ask = |now| db.enrol(application(&host, &["eu-prod"], "secret", now), now);
    let first = ask(at(1)).await.unwrap().unwrap();
    // The token has ended and was used up; the host asks for what it got.
    assert_eq!(ask(at(90)).await.unwrap().unwrap(), first);
}

pub(super) async fn a_revoked_key_is_out_for_good_and_its_name_is_free(db: &impl Db) {
    let known = enrol(db, "web-1", 11, &["eu-prod"]).await;
    assert_eq!(tell(db, &known, (1, None), |_| (), at(1)).await, Stored::Yes);
    let revocation = Revocation { at: at(2), why: "stolen".to_owned() };
    let id = known.1.host;
    assert!(db.revoke(realm_name(), id, revocation.clone()).await.unwrap());
    let told = tell(db, &known, (2, None), |_| (), at(3)).await;
    assert_eq!(told, Stored::Revoked(revocation.clone()));
    assert!(names(db, None, None).await.is_empty());
    assert!(db.counts(realm_name(), None).await.unwrap().is_empty());
    let found = db.host(realm_name(), "web-1".to_owned()).await.unwrap().unwrap();
    assert_eq!(found.standing, Standing::Revoked(revocation));

    token(db, "secret", &["eu-prod"], 9).await;
    let again = application(&known.0, &["eu-prod"], "secret", at(4));
    let refused = db.enrol(again, at(4)).await.unwrap().unwrap_err();
    assert!(matches!(refused, EnrolRefusal::Revoked { .. }), "{refused}");
    let anew = Host::new("web-1", 12);
    let anew = application(&anew, &["eu-prod"], "secret", at(4));
    let new = anew.certificate.host;
    assert!(db.enrol(anew, at(4)).await.unwrap().is_ok());
    let found = db.host(realm_name(), "web-1".to_owned()).await.unwrap().unwrap();
    assert_eq!((found.certificate.host, found.standing), (new, Standing::Good));
    let roster = db.roster(realm_name(), String::new(), 10).await.unwrap();
    assert_eq!(roster.len(), 2);
    let unknown = Host::new("web-9", 19).raw_key().host_id();
    let revocation = Revocation { at: at(2), why: "no".to_owned() };
    assert!(!db.revoke(realm_name(), unknown, revocation).await.unwrap());
}

pub(super) async fn a_machine_made_anew_replaces_the_one_before(db: &impl Db) {
    let old = enrol(db, "web-1", 11, &["eu-prod"]).await;
    token(db, "other", &["us-prod"], 9).await;
    let anew = Host::new("web-1", 12);
    let taken = application(&anew, &["us-prod"], "other", at(1));
    let refused = db.enrol(taken, at(1)).await.unwrap().unwrap_err();
    assert_eq!(refused, EnrolRefusal::Token(TokenError::Name(group("eu-prod"))));
    let new = enrol(db, "web-1", 12, &["eu-prod"]).await;
    assert_eq!(names(db, None, None).await, ["web-1"]);
    let told = tell(db, &old, (1, None), |_| (), at(2)).await;
    assert_eq!(told, Stored::Replaced(new.1.host));
    assert_eq!(tell(db, &new, (1, None), |_| (), at(2)).await, Stored::Yes);
}

pub(super) async fn reports_come_in_their_order_and_once(db: &impl Db) {
    let host = enrol(db, "web-1", 11, &["eu-prod"]).await;
    let tell = |counter| tell(db, &host, (counter, None), |_| (), at(1));
    assert_eq!(tell(5).await, Stored::Yes);
    assert_eq!(tell(5).await, Stored::Yes, "the same report again is no replay");
    assert_eq!(tell(9).await, Stored::Yes);
    assert_eq!(tell(8).await, challenge(Some(9)));
    // Another one of the same number is not the same.
    let other = self::tell(db, &host, (9, None), |it| it.boot_id = "x".to_owned(), at(1));
    assert_eq!(other.await, challenge(Some(9)));
    assert_eq!(tell(10).await, Stored::Yes);
    let found = db.host(realm_name(), host.1.host.to_string()).await.unwrap().unwrap();
    assert_eq!(found.report.unwrap().counter, 10);
}

pub(super) async fn a_restored_machine_is_asked_once_and_goes_on_above_what_was_seen(db: &impl Db) {
    let host = enrol(db, "web-1", 11, &["eu-prod"]).await;
    let tell = |counter, nonce| tell(db, &host, (counter, nonce), |_| (), at(1));
    for counter in [1, 2, 3, 40] {
        assert_eq!(tell(counter, None).await, Stored::Yes);
    }
    // Its snapshot was of the time of its second report.
    assert_eq!(tell(3, None).await, challenge(Some(40)));
    assert_eq!(tell(3, Some("guessed")).await, challenge(Some(40)));
    assert_eq!(tell(41, Some("fresh")).await, Stored::Yes);
    assert_eq!(tell(42, None).await, Stored::Yes);
    // The answer is good for one report, and what was told before for none.
    assert_eq!(tell(5, Some("fresh")).await, challenge(Some(42)));
    assert_eq!(tell(40, None).await, challenge(Some(42)));
}

pub(super) async fn a_host_that_is_not_known_is_challenged_and_the_later_certificate_has_the_name(
    db: &impl Db,
) {
    let of = |seed: u8, not_after| {
        let host = Host::new("web-1", seed);
        let certificate = certificate(&host, &["eu-prod"], not_after);
        (host, certificate)
    };
    let (new, old) = (of(12, at(900)), of(11, at(800)));
    assert_eq!(tell(db, &new, (7, None), |_| (), at(1)).await, challenge(None));
    assert_eq!(tell(db, &old, (7, None), |_| (), at(1)).await, Stored::Replaced(new.1.host));
    assert_eq!(tell(db, &new, (7, Some("fresh")), |_| (), at(1)).await, Stored::Yes);
    let newest = of(13, at(950));
    assert_eq!(tell(db, &newest, (1, None), |_| (), at(2)).await, challenge(None));
    assert_eq!(tell(db, &new, (8, None), |_| (), at(3)).await, Stored::Replaced(newest.1.host));
    assert_eq!(names(db, Some("eu-prod"), None).await, ["web-1"]);
}

pub(super) async fn lists_and_counts_follow_what_hosts_say_and_that_they_say_nothing(db: &impl Db) {
    use StateWord::{Converged, Failed, Stale};
    let host = enrol(db, "web-1", 11, &["eu-prod"]).await;
    let counts = async |name: &str| {
        let counts = db.counts(realm_name(), Some(group(name))).await.unwrap();
        counts.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(counts("eu-prod").await, [(Stale, 1)], "it has never reported");
    let say = |counter, state, now| {
        tell(db, &host, (counter, None), move |it| it.profiles = vec![profile(state)], now)
    };
    assert_eq!(say(1, Converged, at(1)).await, Stored::Yes);
    assert_eq!(counts("eu-prod").await, [(Converged, 1)]);
    assert_eq!(db.mark_silent(at(1)).await.unwrap(), 0, "it was heard just then");
    assert_eq!(db.mark_silent(at(2)).await.unwrap(), 1);
    assert_eq!(db.mark_silent(at(2)).await.unwrap(), 0);
    assert_eq!(counts("eu-prod").await, [(Stale, 1)]);
    assert_eq!(names(db, None, Some(&[Stale])).await, ["web-1"]);
    assert_eq!(say(2, Failed, at(3)).await, Stored::Yes);
    assert_eq!(db.mark_silent(at(9)).await.unwrap(), 1);
    assert_eq!(counts("eu-prod").await, [(Failed, 1)], "silence hides nothing worse");
    assert_eq!(say(3, Converged, at(10)).await, Stored::Yes);
    assert_eq!(counts("eu-prod").await, [(Converged, 1)]);
    // The host's groups are those of its newest certificate, whichever it shows.
    let (old, mut new) = (host.1.clone(), host.1.clone());
    new.groups = vec![group("us-prod")];
    new.not_after = new.not_after.plus(1);
    for (counter, certificate) in [(4, new), (5, old)] {
        let host = (Host::new("web-1", 11), certificate);
        assert_eq!(tell(db, &host, (counter, None), |_| (), at(11)).await, Stored::Yes);
        assert_eq!(counts("eu-prod").await, []);
        assert_eq!(counts("us-prod").await, [(Converged, 1)]);
    }
}

pub(super) async fn lists_are_read_in_pages_by_group_and_state(db: &impl Db) {
    use StateWord::{Converged, Failed, Held};
    for (seed, state) in (30..).zip([Converged, Held, Failed, Held, Converged]) {
        let groups: &[&str] = if seed % 2 == 0 { &["eu-prod", "even"] } else { &["eu-prod"] };
        let host = enrol(db, &format!("web-{seed}"), seed, groups).await;
        tell(db, &host, (1, None), |it| it.profiles = vec![profile(state)], at(1)).await;
    }
    assert_eq!(names(db, Some("even"), None).await, ["web-30", "web-32", "web-34"]);
    let bad = names(db, None, Some(&[Held, Failed, Held])).await;
    assert_eq!(bad, ["web-31", "web-32", "web-33"]);
    assert_eq!(names(db, Some("even"), Some(&[Held])).await, [""; 0]);
    let mut seen = Vec::new();
    let states = Some(vec![Held, Converged]);
    let mut query = HostQuery { states, ..HostQuery::first(realm_name(), 2) };
    loop {
        let page = db.hosts(query.clone()).await.unwrap();
        seen.extend(page.rows.iter().map(|row| row.certificate.name.to_string()));
        let Some(next) = page.next else { break };
        query.after = next;
    }
    assert_eq!(seen, ["web-30", "web-31", "web-33", "web-34"]);
    let elsewhere = RealmName::parse("other").unwrap();
    assert!(db.counts(elsewhere, None).await.unwrap().is_empty());
}

pub(super) async fn each_attempt_is_kept_once_it_has_ended(db: &impl Db) {
    let host = enrol(db, "web-1", 11, &["eu-prod"]).await;
    let say = |counter, id: &str, state, phases| {
        let attempt = Attempt {
            id: id.to_owned(),
            phases: vec![("fetching".to_owned(), at(0), 1); phases],
            log: "log".to_owned(),
        };
        let profile = ProfileReport { attempt: Some(attempt), ..profile(state) };
        tell(db, &host, (counter, None), move |it| it.profiles = vec![profile], at(1))
    };
    say(1, "", StateWord::Fetching, 1).await;
    say(2, "a", StateWord::Confirming, 2).await;
    say(3, "a", StateWord::RolledBack, 3).await;
    say(4, "a", StateWord::Held, 3).await;
    say(5, "b", StateWord::Converged, 2).await;
    let kept = db.attempts(AttemptQuery::latest(realm_name(), host.1.host, 10)).await.unwrap();
    let kept: Vec<_> = kept
        .iter()
        .map(|row| (row.profile.attempt.as_ref().unwrap().id.as_str(), row.profile.state))
        .collect();
    assert_eq!(kept, [("b", StateWord::Converged), ("a", StateWord::RolledBack)]);
    for counter in 6..600 {
        say(counter, &counter.to_string(), StateWord::Converged, 1).await;
    }
    let kept = db.attempts(AttemptQuery::latest(realm_name(), host.1.host, 1000)).await.unwrap();
    assert_eq!(kept.len(), 500, "no host fills the disk");
}

pub(super) async fn the_history_is_added_to_once(db: &impl Db) {
    let first = Publication {
        target: "eu-prod/web".parse().unwrap(),
        epoch: 0,
        version: VersionNumber::new(1).unwrap(),
        digest: Digest::of(b"manifest"),
        role: "webteam".to_owned(),
        role_version: 1,
        signers: vec!["key".to_owned()],
        published_at: at(1),
        note: String::new(),
    };
    let versions = vec![("webteam".to_owned(), 1)];
    let missing = || db.missing_roles(realm_name(), versions.clone());
    assert_eq!(missing().await.unwrap(), versions);
    // Anybody may send a published role again.
    for published_at in [at(1), at(2)] {
        let again = Publication { published_at, ..first.clone() };
        let role = ("webteam".to_owned(), 1);
        db.add_publications(realm_name(), role, vec![again], published_at).await.unwrap();
    }
    assert!(missing().await.unwrap().is_empty());
    let query = |group_name: &str, profile: Option<&str>| publications::Query {
        realm: realm_name(),
        group: group(group_name),
        profile: profile.map(|name| name.parse().unwrap()),
        limit: 9,
        version: None,
        skip: 0,
    };
    let found = db.publications(query("eu-prod", Some("web"))).await.unwrap();
    assert_eq!(found, [first]);
    for (group, profile) in [("eu-prod", Some("db")), ("eu", None), ("eu-prod-2", None)] {
        assert!(db.publications(query(group, profile)).await.unwrap().is_empty(), "{group}");
    }
    let events = db.events(realm_name(), 0, 10).await.unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].event.detail, "version 1: eu-prod/web version 1");
}

pub(super) async fn what_is_too_old_goes_and_revocations_stay(db: &impl Db) {
    let (gone, out) =
        (enrol(db, "web-1", 11, &["eu-prod"]).await, enrol(db, "web-2", 12, &["eu-prod"]).await);
    let here = enrol(db, "web-3", 13, &["eu-prod"]).await;
    let attempt = Attempt { id: "a".to_owned(), phases: Vec::new(), log: String::new() };
    let ended = ProfileReport { attempt: Some(attempt), ..profile(StateWord::Converged) };
    for (host, minute) in [(&gone, 1), (&out, 1), (&here, 100)] {
        let profiles = vec![ended.clone()];
        tell(db, host, (1, None), |it| it.profiles = profiles, at(minute)).await;
    }
    let revocation = Revocation { at: at(2), why: "stolen".to_owned() };
    db.revoke(realm_name(), out.1.host, revocation).await.unwrap();
    let never = Retention { attempts: None, hosts: None, tokens: None };
    assert_eq!(db.prune(never, at(1000)).await.unwrap(), Pruned::default());
    let hour = Retention { attempts: Some(3600), hosts: Some(3600), tokens: Some(3600) };
    let pruned = db.prune(hour, at(121)).await.unwrap();
    assert_eq!(pruned, Pruned { attempts: 2, hosts: 1, tokens: 3 });
    assert_eq!(names(db, None, None).await, ["web-3"]);
    assert_eq!(db.counts(realm_name(), None).await.unwrap()[&StateWord::Converged], 1);
    let told = tell(db, &out, (2, None), |_| (), at(122)).await;
    assert!(matches!(told, Stored::Revoked(_)));
    assert_eq!(
        db.attempts(AttemptQuery::latest(realm_name(), here.1.host, 9)).await.unwrap().len(),
        1
    );
}

pub(super) async fn hosts_that_have_seen_more_than_we_have_are_remembered(db: &impl Db) {
    assert_eq!(db.seen_ahead(realm_name()).await.unwrap(), None);
    for (seed, seen) in [(11, 8), (12, 12), (13, 10)] {
        let (host, certificate) = enrol(db, &format!("web-{seed}"), seed, &["eu-prod"]).await;
        let report = host.report(1, None);
        let report = Incoming { ahead: Some(seen), ..incoming(&certificate, report) };
        assert_eq!(db.ingest(report, at(1)).await.unwrap(), Stored::Yes);
    }
    let ahead = db.seen_ahead(realm_name()).await.unwrap().unwrap();
    let host = Host::new("web-12", 12).raw_key().host_id();
    assert_eq!((ahead.timestamp, ahead.hosts, ahead.host), (12, 3, host));
    let revocation = Revocation { at: at(2), why: "it lies".to_owned() };
    db.revoke(realm_name(), host, revocation).await.unwrap();
    assert_eq!(db.seen_ahead(realm_name()).await.unwrap().unwrap().timestamp, 10);
    db.forget_ahead(realm_name()).await.unwrap();
    assert_eq!(db.seen_ahead(realm_name()).await.unwrap(), None);
}

pub(super) async fn a_restored_database_challenges_every_host_once(db: &impl Db) {
    let host = enrol(db, "web-1", 11, &["eu-prod"]).await;
    let tell = |counter, nonce| tell(db, &host, (counter, nonce), |_| (), at(1));
    assert_eq!(tell(5, None).await, Stored::Yes);
    db.forget_counters().await.unwrap();
    assert_eq!(tell(9, None).await, challenge(None), "it may have been told before");
    assert_eq!(tell(9, Some("fresh")).await, Stored::Yes);
    assert_eq!(tell(10, None).await, Stored::Yes);
}

pub(super) async fn two_writers_at_once_take_nothing_from_each_other(db: &impl Db) {
    token(db, "secret", &["eu-prod"], 20).await;
    let hosts: Vec<Host> = (0..32).map(|n| Host::new(&format!("web-{n}"), n + 100)).collect();
    let asked = hosts.iter().map(|host| {
        let db = db.clone();
        let application = application(host, &["eu-prod"], "secret", at(1));
        tokio::spawn(async move { db.enrol(application, at(1)).await.unwrap() })
    });
    let asked: Vec<_> = asked.collect();
    let mut let_in = 0;
    for answer in asked {
        let_in += u32::from(answer.await.unwrap().is_ok());
    }
    assert_eq!(let_in, 20, "a token is used as often as it may be");
    assert_eq!(names(db, None, None).await.len(), 20);
}
