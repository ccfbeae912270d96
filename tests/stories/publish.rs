//! From `registry init` to a published manifest, as an operator and two teams live through it.

use tests::{run, shoal};

#[test]
fn a_misspelt_command_is_told_what_was_meant() {
    let said = run(shoal("registry").args(["publsh"])).fails(2);
    assert!(said.contains("publish") || said.contains("unrecognized subcommand"), "{said}");
}
