//! Names that are not there, and what was probably meant.

use shared::{
    api::{GroupDetail, GroupSummary, HostSummary, Page},
    id::GroupName,
    problem::{Kind, Problem},
};

use crate::client::Client;

/// Makes sure that a group is there.
///
/// # Errors
/// When it is not, with the name that is nearest to it, or it cannot be asked for.
pub(super) async fn known_group(client: &Client, group: &GroupName) -> Result<(), Problem> {
    let found = client.get::<GroupDetail>(&format!("groups/{group}"), &[]).await;
    match found {
        Ok(_) => Ok(()),
        Err(problem) => Err(group_problem(client, group, problem).await),
    }
}

/// Tells of a group that is not there what was probably meant; other problems stay as they are.
pub(super) async fn group_problem(client: &Client, group: &GroupName, problem: Problem) -> Problem {
    if problem.code != "not_found" {
        return problem;
    }
    let known = client.pages::<GroupSummary>("groups", &[], 5000).await;
    let known = known.map(|page| page.items).unwrap_or_default();
    let names = known.iter().map(|group| group.counts.group.as_str());
    if names.clone().any(|name| name == group.as_str()) {
        // The group is there; something of it is not.
        return problem;
    }
    no("no_group", "group", group.as_str(), names, "registry group list")
}

/// Tells of a host that is not there what was probably meant; other problems stay as they are.
pub(super) async fn host_problem(client: &Client, host: &str, problem: Problem) -> Problem {
    if problem.code != "not_found" {
        return problem;
    }
    let mut names: Vec<String> = Vec::new();
    // A fleet may be large: only hosts whose names begin alike are looked at, first more of it.
    for letters in [4, 2, 1, 0] {
        let begin: String = host.chars().take(letters).collect();
        let query = [("q", begin), ("limit", "500".to_owned())];
        let Ok(page) = client.get::<Page<HostSummary>>("hosts", &query).await else { break };
        names.extend(page.items.into_iter().map(|host| host.name.to_string()));
        if nearest(host, names.iter().map(String::as_str)).is_some() {
            break;
        }
    }
    no("no_host", "host", host, names.iter().map(String::as_str), "registry hosts")
}

/// Tells that there is no such thing, and what was probably meant.
pub(super) fn no<'a>(
    code: &str,
    kind: &str,
    name: &str,
    known: impl Iterator<Item = &'a str>,
    list: &str,
) -> Problem {
    let shown: String = name.chars().take(80).flat_map(char::escape_default).collect();
    let what = format!("there is no {kind} `{shown}`");
    let problem = Problem::new(Kind::Usage, code, what).leaves("nothing changed").next(list);
    match nearest(name, known) {
        Some(near) => problem.fix(format!("did you mean `{near}`?")),
        None => problem,
    }
}

/// Returns the name that is most like this one, if any is.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (far, near) =
        known.map(|known| (strsim::osa_distance(name, known), known)).min_by_key(|it| it.0)?;
    // One slip, or one for every three letters.
    (far <= (name.chars().count() / 3).max(1)).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered_and_none_where_nothing_is_near() {
        let known = ["web", "db", "edge-eu"];
        assert_eq!(nearest("wbe", known.into_iter()), Some("web"));
        assert_eq!(nearest("edge-ue", known.into_iter()), Some("edge-eu"));
        assert_eq!(nearest("mail", known.into_iter()), None);
        assert_eq!(nearest("d", known.into_iter()), Some("db"));
        assert_eq!(nearest("web", std::iter::empty()), None);
        let problem = no("no_group", "group", "w\u{1b}e", known.into_iter(), "registry group list");
        assert_eq!(problem.what, "there is no group `w\\u{1b}e`");
        assert_eq!(problem.kind.exit_code(), 2);
    }
}
