//! Which host runs which root: the file that `--hosts` names.

use std::{collections::BTreeMap, path::Path};

use shared::{
    id::HostName,
    nix::StorePath,
    problem::{Kind, Problem},
};

use crate::closure::StoreArgs;

/// The root of each host, or nothing for one that is to have no entry of its own any more.
pub(crate) type HostRoots = BTreeMap<HostName, Option<StorePath>>;

/// Reads lines of `HOST PATH`, or `HOST -`; empty ones and what begins with `#` are left out.
///
/// # Errors
/// When it cannot be read; a line that makes no sense is named.
pub(crate) fn read(file: &Path, store: &StoreArgs) -> Result<HostRoots, Problem> {
    let refused = |cause: String| {
        let what = format!("cannot use `{}`", file.display());
        Problem::new(Kind::Usage, "hosts_file", what).because(cause).leaves("nothing changed")
    };
    let text = std::fs::read_to_string(file).map_err(|error| refused(error.to_string()))?;
    let mut roots = HostRoots::new();
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = |cause: String| {
            refused(format!("line {number}: {cause}")).fix("write `HOST PATH`, or `HOST -`")
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        let [host, path] = words.as_slice() else {
            return Err(at(format!("{} words, not two", words.len())));
        };
        let host = HostName::parse(host).map_err(|error| at(error.to_string()))?;
        let root = match *path {
            "-" => None,
            path => Some(store.resolve(path).map_err(|problem| at(problem.what))?),
        };
        if roots.insert(host.clone(), root).is_some() {
            return Err(at(format!("`{host}` is named twice")));
        }
    }
    if roots.is_empty() {
        return Err(refused("it names no host".to_owned()).fix("write a line `HOST PATH` for each"));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<HostRoots, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path(), &StoreArgs::default()).map_err(|problem| problem.causes.join("; "))
    }

    #[test]
    fn each_line_gives_a_host_its_root_or_takes_it_away() {
        let path = format!("/nix/store/{}-web-1", "1".repeat(32));
        let roots = check(&format!("# the fleet\n\nweb-1 {path}\n  web-2\t-\n")).unwrap();
        let root = |host: &str| roots[&host.parse::<HostName>().unwrap()].clone();
        assert_eq!(root("web-1").unwrap().to_string(), path);
        assert_eq!((root("web-2"), roots.len()), (None, 2));
    }

    #[test]
    fn a_line_that_makes_no_sense_is_named() {
        for (text, says) in [
            ("", "no host"),
            ("web-1 -\nweb-2", "line 2: 1 words"),
            ("web-1 - -", "line 1: 3 words"),
            ("Web_1 -", "line 1: "),
            ("web-1 /etc", "line 1: "),
            ("web-1 -\nweb-1 -", "line 2: `web-1` is named twice"),
        ] {
            let said = check(text).unwrap_err();
            assert!(said.contains(says), "{text}: {said}");
        }
    }
}
