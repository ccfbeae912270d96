//! Finding hosts by what they are, in several orders, page by page.

use StateWord::{Converged, Failed, Held};

use super::*;
use crate::db::hosts::Sort;

/// Reads a list page by page, and returns the names in their order.
async fn pages(db: &impl Db, query: &HostQuery) -> Vec<String> {
    let mut query = query.clone();
    let mut names = Vec::new();
    loop {
        let page = db.hosts(query.clone()).await.unwrap();
        assert!(page.rows.len() <= query.limit);
        names.extend(page.rows.iter().map(|row| row.certificate.name.to_string()));
        let Some(next) = page.next else { return names };
        assert!(next > query.after, "it goes on");
        query.after = next;
    }
}

pub(in super::super) async fn hosts_are_found_by_label_name_state_and_silence(db: &impl Db) {
    let labels = |region: &str| [("region".parse().unwrap(), region.parse().unwrap())].into();
    for (seed, name, region, state) in [
        (40, "db-1", "eu", Some(Held)),
        (41, "web-1", "eu", Some(Converged)),
        (42, "web-2", "us", Some(Failed)),
        (43, "web-3", "eu", Some(Failed)),
        (44, "web-4", "eu", None),
    ] {
        let host = Host::new(name, seed);
        let text = format!("token of {seed}");
        token(db, &text, &["eu-prod"], 1).await;
        let mut application = application(&host, &["eu-prod"], &text, at(0));
        application.certificate.labels = labels(region);
        let certificate = application.certificate.clone();
        db.enrol(application, at(0)).await.unwrap().unwrap();
        let Some(state) = state else { continue };
        // The higher the seed, the longer ago.
        let report = |it: &mut Report| it.profiles = vec![profile(state)];
        tell(db, &(host, certificate), (1, None), report, at(100 - u32::from(seed))).await;
    }
    let label = |region: &str| Some(("region".parse().unwrap(), region.parse().unwrap()));
    for limit in [1, 2, 100] {
        let all = HostQuery::first(realm_name(), limit);
        let found = async |query: HostQuery| pages(db, &query).await;
        let eu = found(HostQuery { label: label("eu"), ..all.clone() }).await;
        assert_eq!(eu, ["db-1", "web-1", "web-3", "web-4"]);
        let failed = Some(vec![Failed, Held]);
        let query = HostQuery { label: label("eu"), states: failed.clone(), ..all.clone() };
        assert_eq!(found(query.clone()).await, ["db-1", "web-3"]);
        let worst = HostQuery { sort: Sort::State, ..query };
        assert_eq!(found(worst).await, ["web-3", "db-1"]);
        let begin = Some("web".to_owned());
        let webs = HostQuery { begin: begin.clone(), ..all.clone() };
        assert_eq!(found(webs).await, ["web-1", "web-2", "web-3", "web-4"]);
        let webs = HostQuery { begin: begin.clone(), states: failed, ..all.clone() };
        assert_eq!(found(webs.clone()).await, ["web-2", "web-3"]);
        let elsewhere = HostQuery { group: Some(group("us-prod")), ..webs };
        assert_eq!(found(elsewhere).await, [""; 0]);
        let worst = HostQuery { begin, sort: Sort::State, ..all.clone() };
        assert_eq!(found(worst).await, ["web-2", "web-3", "web-4", "web-1"]);
        let silent = HostQuery { sort: Sort::Seen, ..all.clone() };
        assert_eq!(found(silent.clone()).await, ["web-4", "web-3", "web-2", "web-1", "db-1"]);
        let silent = HostQuery { label: label("eu"), ..silent };
        assert_eq!(found(silent).await, ["web-4", "web-3", "web-1", "db-1"]);
    }
    // Those that count as silent come before those that were heard.
    db.mark_silent(at(58)).await.unwrap();
    let silent = HostQuery { sort: Sort::Seen, ..HostQuery::first(realm_name(), 1) };
    assert_eq!(pages(db, &silent).await, ["web-4", "web-3", "web-2", "web-1", "db-1"]);
    let host = db.host(realm_name(), "web-3".to_owned()).await.unwrap().unwrap();
    let revocation = Revocation { at: at(70), why: "lost".to_owned() };
    db.revoke(realm_name(), host.certificate.host, revocation).await.unwrap();
    let eu = HostQuery { label: label("eu"), ..HostQuery::first(realm_name(), 100) };
    assert_eq!(pages(db, &eu).await, ["db-1", "web-1", "web-4"]);
}
