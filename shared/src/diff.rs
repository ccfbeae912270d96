//! What changes between two closures, told by package as people think of it.

use std::collections::{BTreeMap, BTreeSet};

use owo_colors::OwoColorize as _;
use serde::{Deserialize, Serialize};

use crate::{
    closure::{ClosureEntry, ClosureIndex},
    human,
    nix::StorePath,
};

/// How much one path weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight {
    /// The size of its NAR.
    pub nar: u64,
    /// The size of the file that a cache sends for it, where that is known.
    pub file: Option<u64>,
}

/// The paths of a closure.
pub type Closure = BTreeMap<StorePath, Weight>;

/// What happens to a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Change {
    /// Other versions.
    Changed,
    /// The same versions, built anew.
    Rebuilt,
    /// It was not there.
    Added,
    /// It is there no more.
    Removed,
}

/// One package that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Package {
    /// Its name.
    pub name: String,
    /// What happens to it.
    pub change: Change,
    /// The versions before; a package without a version has an empty one.
    pub before: Vec<String>,
    /// The versions after.
    pub after: Vec<String>,
    /// Bytes of those of its paths that go.
    pub size_before: u64,
    /// Bytes of those of its paths that come.
    pub size_after: u64,
}

/// All that changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Diff {
    /// Each package that is not as it was.
    pub packages: Vec<Package>,
    /// Bytes of the closure before.
    pub size_before: u64,
    /// Bytes of the closure after.
    pub size_after: u64,
    /// How many paths a host lacks that has the closure of before.
    pub new_paths: usize,
    /// How many bytes it must download for them; NAR sizes where no file size is known.
    pub download: u64,
    /// Whether a NAR size stands in for a file size in `download`.
    pub download_is_upper_bound: bool,
}

/// Returns the paths of a closure index; what files a cache sends for them is not known.
#[must_use]
pub fn weights(index: &ClosureIndex) -> Closure {
    let weight = |entry: ClosureEntry<'_>| {
        (entry.path().clone(), Weight { nar: entry.nar_size(), file: None })
    };
    index.entries().map(weight).collect()
}

/// Compares two closures.
#[must_use]
pub fn diff(before: &Closure, after: &Closure) -> Diff {
    let old = packages(before, after);
    let new = packages(after, before);
    let names: BTreeSet<&str> = old.keys().chain(new.keys()).copied().collect();
    let none = Versions::default();
    let mut packages: Vec<Package> = names
        .into_iter()
        .map(|name| compare(name, old.get(name).unwrap_or(&none), new.get(name).unwrap_or(&none)))
        .collect();
    packages.sort_by(|a, b| (a.change, &a.name).cmp(&(b.change, &b.name)));
    let lacking: Vec<&Weight> = after
        .iter()
        .filter_map(|(path, weight)| (!before.contains_key(path)).then_some(weight))
        .collect();
    Diff {
        packages,
        size_before: before.values().map(|weight| weight.nar).sum(),
        size_after: after.values().map(|weight| weight.nar).sum(),
        new_paths: lacking.len(),
        download: lacking.iter().map(|weight| weight.file.unwrap_or(weight.nar)).sum(),
        download_is_upper_bound: lacking.iter().any(|weight| weight.file.is_none()),
    }
}

impl Diff {
    /// Writes one line for each package, up to so many, then a line for the whole.
    #[must_use]
    pub fn render(&self, most: usize) -> String {
        format!("{}{}\n", self.list(most), self.summary())
    }

    /// Writes one line for each package, up to so many.
    #[must_use]
    pub fn list(&self, most: usize) -> String {
        let shown = self.packages.get(..most).unwrap_or(&self.packages);
        let width = shown.iter().map(|package| package.name.len()).max().unwrap_or(0);
        let moves: Vec<String> = shown.iter().map(Package::versions).collect();
        let wide = moves.iter().map(|text| text.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for (package, versions) in shown.iter().zip(&moves) {
            let sign = match package.change {
                Change::Changed => "~".yellow().to_string(),
                Change::Rebuilt => "=".dimmed().to_string(),
                Change::Added => "+".green().to_string(),
                Change::Removed => "-".red().to_string(),
            };
            let size = human::size_change(package.size_before, package.size_after);
            text.push_str(&format!("{sign} {:<width$}  {versions:<wide$}  {size}\n", package.name));
        }
        let hidden = self.packages.len() - shown.len();
        if hidden > 0 {
            text.push_str(&format!("  and {hidden} more\n"));
        }
        text
    }

    /// Says how many packages change, and what the closure weighs.
    #[must_use]
    pub fn counts(&self) -> String {
        let count = |change| self.packages.iter().filter(|p| p.change == change).count();
        let counts: Vec<String> = [
            (count(Change::Changed), "changed"),
            (count(Change::Rebuilt), "rebuilt"),
            (count(Change::Added), "added"),
            (count(Change::Removed), "removed"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
        let counts = if counts.is_empty() { "no package".to_owned() } else { counts.join(", ") };
        let change = human::size_change(self.size_before, self.size_after);
        format!("{counts} · closure {} ({change})", human::size(self.size_after))
    }

    /// Says the whole in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let most = if self.download_is_upper_bound { "at most " } else { "" };
        format!(
            "{} · a host downloads {most}{} in {}",
            self.counts(),
            human::size(self.download),
            human::count(self.new_paths, "path"),
        )
    }
}

impl Package {
    fn versions(&self) -> String {
        let list = |versions: &[String]| {
            let named: Vec<&str> = versions
                .iter()
                .map(|version| if version.is_empty() { "no version" } else { version.as_str() })
                .collect();
            if named == ["no version"] { String::new() } else { named.join(", ") }
        };
        let (before, after) = (list(&self.before), list(&self.after));
        match self.change {
            Change::Rebuilt => format!("{after} rebuilt").trim_start().to_owned(),
            Change::Added => after,
            Change::Removed => before,
            Change::Changed => format!("{before} → {after}"),
        }
    }
}

#[derive(Debug, Default)]
struct Versions<'a> {
    versions: BTreeSet<&'a str>,
    size: u64,
}

/// Groups the paths that are only in `closure`, so that a package shows what of it changes.
fn packages<'a>(closure: &'a Closure, other: &Closure) -> BTreeMap<&'a str, Versions<'a>> {
    let mut packages: BTreeMap<&str, Versions<'_>> = BTreeMap::new();
    for (path, weight) in closure.iter().filter(|(path, _)| !other.contains_key(*path)) {
        let (name, version) = split_name(path.name());
        let package = packages.entry(name).or_default();
        package.versions.insert(version);
        package.size = package.size.saturating_add(weight.nar);
    }
    packages
}

fn compare(name: &str, old: &Versions<'_>, new: &Versions<'_>) -> Package {
    let change = match (old.versions.is_empty(), new.versions.is_empty()) {
        (true, _) => Change::Added,
        (_, true) => Change::Removed,
        _ if old.versions == new.versions => Change::Rebuilt,
        _ => Change::Changed,
    };
    let list = |versions: &BTreeSet<&str>| versions.iter().map(|&v| v.to_owned()).collect();
    Package {
        name: name.to_owned(),
        change,
        before: list(&old.versions),
        after: list(&new.versions),
        size_before: old.size,
        size_after: new.size,
    }
}

/// Splits as Nix does: the version starts behind the first `-` that no letter follows.
fn split_name(name: &str) -> (&str, &str) {
    let dash = name
        .match_indices('-')
        .map(|(at, _)| at)
        .find(|at| name.as_bytes().get(at + 1).is_some_and(|next| !next.is_ascii_alphabetic()));
    dash.and_then(|at| Some((name.get(..at)?, name.get(at + 1..)?))).unwrap_or((name, ""))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn closure(paths: &[(char, &str, u64, Option<u64>)]) -> Closure {
        let path = |letter: char, name: &str| {
            let hash = letter.to_string().repeat(32);
            StorePath::from_base_name(&format!("{hash}-{name}")).unwrap()
        };
        paths
            .iter()
            .map(|(letter, name, nar, file)| {
                (path(*letter, name), Weight { nar: *nar, file: *file })
            })
            .collect()
    }

    #[test]
    fn tells_changed_rebuilt_added_and_removed_packages() {
        let before = closure(&[
            ('1', "glibc-2.40-66", 30_000_000, None),
            ('2', "nginx-1.27.0", 9_000_000, None),
            ('3', "openssl-3.3.1", 6_000_000, None),
            ('4', "openssl-3.3.1-bin", 1_000_000, None),
            ('5', "app-unit", 500, None),
            ('6', "old-tool-1", 800, None),
        ]);
        let after = closure(&[
            ('1', "glibc-2.40-66", 30_000_000, None),
            ('a', "nginx-1.27.1", 9_100_000, Some(3_000_000)),
            ('b', "openssl-3.3.2", 6_000_000, Some(2_000_000)),
            ('4', "openssl-3.3.1-bin", 1_000_000, None),
            ('c', "app-unit", 600, Some(200)),
            ('d', "otel-agent-0.9", 200_000, Some(90_000)),
        ]);
        let told = diff(&before, &after);
        expect![[r#"
            ~ nginx       1.27.0 → 1.27.1  +97.6 KiB
            ~ openssl     3.3.1 → 3.3.2    +0 B
            = app-unit    rebuilt          +100 B
            + otel-agent  0.9              +195.3 KiB
            - old-tool    1                -800 B
            2 changed, 1 rebuilt, 1 added, 1 removed · closure 44.1 MiB (+292.2 KiB) · a host downloads 4.8 MiB in 4 paths
        "#]]
        .assert_eq(&anstream::adapter::strip_str(&told.render(40)).to_string());
    }

    #[test]
    fn a_long_list_is_cut_and_the_rest_counted() {
        let after = closure(&[('1', "a-1", 10, None), ('2', "b-1", 10, None)]);
        let text = diff(&Closure::new(), &after).render(1);
        assert_eq!(
            anstream::adapter::strip_str(&text).to_string().lines().nth(1),
            Some("  and 1 more")
        );
    }

    #[test]
    fn the_first_version_downloads_everything() {
        let after = closure(&[('1', "a-1", 1000, Some(400)), ('2', "b-1", 1000, None)]);
        let told = diff(&Closure::new(), &after);
        assert_eq!((told.new_paths, told.download), (2, 1400));
        assert!(told.download_is_upper_bound);
    }

    #[test]
    fn nothing_changes_between_equal_closures() {
        let same = closure(&[('1', "a-1", 1000, None)]);
        expect!["no package · closure 1000 B (+0 B) · a host downloads 0 B in 0 paths"]
            .assert_eq(&diff(&same, &same).summary());
    }

    #[test]
    fn a_version_starts_behind_a_dash_that_no_letter_follows() {
        for (name, package, version) in [
            ("nginx-1.27.0", "nginx", "1.27.0"),
            ("python3.12-requests-2.32", "python3.12-requests", "2.32"),
            ("unit-nginx.service", "unit-nginx.service", ""),
            ("glibc-2.40-66-bin", "glibc", "2.40-66-bin"),
            ("ends-", "ends-", ""),
        ] {
            assert_eq!(split_name(name), (package, version), "{name}");
        }
    }
}
