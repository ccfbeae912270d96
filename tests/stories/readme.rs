//! The README tells the truth: every command that it names is there, and every file.

use std::{collections::BTreeSet, fs, path::Path};

use tests::{run, shoal};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Returns what stands between single backticks, and each command of a block of code.
fn code() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let blocks = text.split("```");
    let found: BTreeSet<_> = blocks
        .enumerate()
        .flat_map(|(number, part)| {
            let inside = number % 2 == 1;
            let pieces: Vec<_> = if inside {
                part.lines().filter(|line| line.starts_with("./")).collect()
            } else {
                part.split('`').skip(1).step_by(2).collect()
            };
            pieces.into_iter().map(|piece| piece.trim().to_owned())
        })
        .collect();
    assert!(found.len() > 30, "{found:?}");
    found
}

#[test]
fn every_command_in_the_readme_is_there() {
    let mut seen = 0;
    for line in code() {
        let mut words = line.split_whitespace();
        let Some(program @ ("agent" | "registry")) = words.next() else { continue };
        let verbs =
            words.take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-'));
        let verbs: Vec<_> = verbs.filter(|word| !word.starts_with("--")).collect();
        let help = run(shoal(program).args(&verbs).arg("--help"));
        assert_eq!(help.code, Some(0), "`{line}`: {help}");
        seen += 1;
    }
    assert!(seen > 20, "only {seen} commands found");
}

#[test]
fn every_file_in_the_readme_is_there() {
    let mut seen = 0;
    for line in code() {
        let word = line.split_whitespace().next().unwrap_or_default();
        let path = word.trim_start_matches("./");
        let ours = ["shared/", "agent/", "registry/", "tests/", "deploy/", ".ci/"];
        if ours.iter().any(|folder| path.starts_with(folder)) {
            assert!(root().join(path).exists(), "`{line}`: there is no {path}");
            seen += 1;
        }
    }
    assert!(seen > 10, "only {seen} files found");
}
