//! `registry completions`: a script that completes commands in a shell.

use clap::CommandFactory as _;
use shared::problem::Problem;

use crate::output::Output;

/// Print a script that completes this program's commands in a shell
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

/// Prints the script.
pub(crate) fn run(args: &Args, output: &Output) -> Result<(), Problem> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "registry", &mut script);
    output.bytes(&script)
}
