//! The purity gate of crate `shared` bites: what reads files, clocks and the like is refused.

use std::{fs, path::Path, process::Command};

use tests::{run, scratch};

/// One line for each kind of thing that the crate must not do.
const IMPURE: [&str; 14] = [
    r#"drop(std::fs::read("x"));"#,
    r#"drop(std::fs::File::open("x"));"#,
    r#"drop(std::path::Path::new("x").exists());"#,
    r#"drop(std::os::unix::fs::symlink("x", "y"));"#,
    r#"drop(std::env::var("x"));"#,
    r#"drop(std::net::TcpStream::connect("x"));"#,
    r#"drop(std::os::unix::net::UnixStream::connect("x"));"#,
    r#"drop(std::process::Command::new("x"));"#,
    "std::process::exit(1);",
    "drop(std::thread::spawn(|| {}));",
    "drop(std::time::Instant::now());",
    "drop(std::time::SystemTime::now());",
    "drop(jiff::Timestamp::now());",
    "drop(jiff::Zoned::now());",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

#[test]
fn clippy_refuses_every_impure_call_in_shared() {
    let folder = scratch();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    fs::create_dir(folder.path().join("src")).unwrap();
    for name in ["shared/clippy.toml", "Cargo.lock"] {
        let path = Path::new(name);
        fs::copy(root().join(path), folder.path().join(path.file_name().unwrap())).unwrap();
    }
    write(
        "Cargo.toml",
        "[package]\nname = \"impure\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
         [dependencies]\njiff = \"0.2\"\n[workspace]\n\
         [lints.clippy]\ndisallowed_methods = \"deny\"\ndisallowed_types = \"deny\"\n",
    );
    let functions = IMPURE.iter().enumerate();
    let functions = functions.map(|(number, line)| format!("pub fn f{number}() {{ {line} }}\n"));
    write("src/lib.rs", &functions.collect::<String>());

    // Not in an empty environment: cargo has to find its compiler and what it fetched.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut clippy = Command::new(cargo);
    clippy.current_dir(&folder).env("CARGO_TARGET_DIR", folder.path().join("target"));
    let said = run(clippy.args(["clippy", "--offline", "--quiet"])).fails(101);
    for (number, line) in IMPURE.iter().enumerate() {
        let place = format!("src/lib.rs:{}:", number + 1);
        assert!(said.contains(&place), "not refused: {line}\n{said}");
    }
    assert!(said.contains("error: use of a disallowed method `std::fs::read`"), "{said}");
    assert!(!said.contains("does not refer to"), "the gate names what is not there:\n{said}");
}

#[test]
fn the_inner_clippy_files_repeat_the_outer_one() {
    let outer = fs::read_to_string(root().join(".clippy.toml")).unwrap();
    for inner in ["shared/clippy.toml", "shared/store/clippy.toml"] {
        let inner_text = fs::read_to_string(root().join(inner)).unwrap();
        assert!(inner_text.contains(&outer), "{inner} lacks lines of .clippy.toml");
    }
}
