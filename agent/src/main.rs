//! Converges one host towards its signed desired state.
//!
//! Start reading at [`cli`], the tree of commands. `state` decides, `converge` acts, `client` talks
//! to the registry, and `trust_store` keeps what was verified. Nothing outside this program has
//! authority over the host: it decides from signed data, its own configuration and its own clock.

mod activate;
mod caches;
mod cli;
mod client;
mod config;
mod converge;
mod crash;
mod daemon;
mod dead_man;
mod desired;
mod enroll;
mod files;
mod floors;
mod gc;
mod health;
mod history;
mod host;
mod host_lock;
mod identity;
mod journal;
mod orders;
mod output;
mod pins;
mod progress;
mod report;
mod rounds;
mod service;
mod state;
mod status;
mod stop;
mod systems;
mod trust_store;
mod windows;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use shared::human::without_passwords;
use shared::problem::{Kind, Problem};

use crate::cli::{Cli, Context};
use crate::output::Output;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let output = Output::new(&cli.global);
    match start(cli, &output) {
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
        let problem = Problem::of_usage("agent", &without_passwords(&said));
        Output::for_programs().problem(&problem);
    } else {
        // It repeats what was typed.
        let styled = without_passwords(&error.render().ansi().to_string());
        // Whoever closed it hears the exit code.
        let _nobody_reads = anstream::stderr().write_all(styled.as_bytes());
    }
    ExitCode::from(Kind::Usage.exit_code())
}

/// Prepares the process, which must happen before any thread starts, and runs the command.
fn start(cli: Cli, output: &Output) -> Result<(), Problem> {
    output::start_tracing(&cli.global, cli.command.life());
    // Fails only if a provider is installed already, which nothing before this line does.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let context = Context { output: output.clone(), config: cli.global.config.clone() };
    if let Some(root) = cli.command.writes_to(&context)? {
        store::local::make_writable(&root).map_err(|error| error.problem())?;
    }
    // One thread decides and talks to the network, so that bytes on their way to a decoder are
    // handed over once. What blocks or computes has threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::from_error(Kind::Runtime, "runtime", &error))?;
    runtime.block_on(cli::run(cli.command, &context))
}
