//! The README tells the truth: every command that it names is there, and every file.

use std::{collections::BTreeSet, fs, net::TcpListener, path::Path};

use tests::{bin, run, scratch, shoal, tool};

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

/// Stands in for the person: says yes, waits for the server to come up, and ends it at the end.
const PERSON: &str = r#"
set -euo pipefail
trap 'kill $(jobs -p)' EXIT
registry() {
  case $1 in
    # In the background this is a shell of its own, and the server has to take its place.
    serve) exec registry "$@" ;;
    init | key | hosts | host | cache) command registry "$@" ;;
    *)
      until (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; do sleep 0.05; done
      command registry "$@" --yes
      ;;
  esac
}
"#;

#[test]
fn what_the_readme_does_by_hand_works_line_by_line() {
    let folder = scratch();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let script = readme.split("```bash").nth(1).unwrap().split("```").next().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let script = script
        .replace(":8420", &format!(":{port}"))
        .replace("registry serve", &format!("registry serve --listen 127.0.0.1:{port}"));
    fs::create_dir(folder.path().join("credentials")).unwrap();
    fs::write(folder.path().join("credentials/passphrase"), "of the readme").unwrap();

    let programs = bin("agent").parent().unwrap().display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
    let mut bash = tool("bash");
    bash.current_dir(&folder).env("PATH", path).env("PORT", port).env("HOME", folder.path());
    bash.env("CREDENTIALS_DIRECTORY", folder.path().join("credentials"));
    let said = run(bash.args(["-c", &format!("{PERSON}{script}")])).ok();
    let (status, door) = said.split_once("\nopen\n").expect(&said);
    assert!(status.contains("converged"), "{said}");
    assert!(door.contains("host-1") && door.contains("converged"), "{said}");
}
