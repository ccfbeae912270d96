//! The program `registry`: what operators and teams type, and the server that they publish to.
//!
//! Start at [`cli`], where every command is one file. The commands sign with keys from the
//! signer's own folder ([`keys`]); the server never sees those.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use shared::human::without_passwords;
use shared::problem::{Kind, Problem};

mod access;
mod api;
mod app;
mod audit;
mod backup;
mod blobs;
mod certificates;
mod cli;
mod client;
mod closure;
mod config;
mod db;
mod draft;
mod files;
mod health_edit;
mod host_roots;
mod keys;
mod metrics;
mod output;
mod policy_edit;
mod preflight;
mod publish;
mod realm;
mod recover;
mod roles;
mod router;
mod serve;
mod signer;
mod static_files;
mod table;
#[cfg(test)]
mod testing;
mod trusted_realm;
mod verify;
mod window_edit;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let output = output::Output::new(&cli.global);
    output::start_logging(&cli.global, cli.command.log_level());
    // The one place that chooses a cryptography provider; a second call would be a mistake.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::error!("a TLS provider was installed twice");
    }
    match cli::run(cli, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            output.problem(&problem);
            ExitCode::from(problem.kind.exit_code())
        }
    }
}

/// Tells what is wrong with the command line, or the help that it asks for, in the form asked for.
fn refuse(error: &clap::Error) -> ExitCode {
    let mut words = std::env::args_os().skip(1).take_while(|word| word != "--");
    let is_json = words.any(|word| word == "--json");
    let said = error.to_string();
    if !error.use_stderr() || (!is_json && !said.contains("://")) {
        error.exit()
    }
    if is_json {
        let problem = Problem::of_usage("registry", &without_passwords(&said));
        output::Output::for_programs().problem(&problem);
    } else {
        // It repeats what was typed.
        let styled = without_passwords(&error.render().ansi().to_string());
        // Whoever closed it hears the exit code.
        let _nobody_reads = anstream::stderr().write_all(styled.as_bytes());
    }
    ExitCode::from(Kind::Usage.exit_code())
}
