//! The program `registry`: what operators and teams type, and the server that they publish to.
//!
//! Start at [`cli`], where every command is one file. The commands sign with keys from the
//! signer's own folder ([`keys`]); the server never sees those.

use std::process::ExitCode;

use clap::Parser as _;

mod api;
mod app;
mod blobs;
mod cli;
mod client;
mod closure;
mod config;
mod db;
mod diff;
mod draft;
mod files;
mod keys;
mod output;
mod policy_edit;
mod preflight;
mod publish;
mod realm;
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

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
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
