//! `agent store dump` and `agent store restore`.

use std::{
    io::{BufReader, Write as _},
    path::PathBuf,
};

use clap::Args;
use shared::{
    nix::nar::{ReadError, WriteError, Writer, read},
    problem::{Kind, Problem},
};
use store::archive::{DumpError, Unpacker, dump as dump_tree};

use crate::output::Output;

/// Bytes of an archive that are read at once.
const BUFFER_LEN: usize = 256 * 1024;

/// Write what is at a path as a Nix archive to stdout, as `nix-store --dump` does.
#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    /// A file or directory anywhere.
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

/// Unpack the Nix archive on stdin, as `nix-store --restore` does.
///
/// Files get the modes and times that they would have in a store. Nothing is ever written outside
/// DEST, and what was unpacked of an archive that turns out to be bad stays there.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// Where to unpack it; must not exist.
    #[arg(value_name = "DEST")]
    target: PathBuf,
}

pub(super) fn dump(args: &DumpArgs, output: &Output) -> Result<(), Problem> {
    let mut writer = Writer::new(output.stdout());
    dump_tree(&args.path, &mut writer).map_err(|error| dump_problem(&error))?;
    let flushed = writer.finish().and_then(|mut stdout| stdout.flush().map_err(WriteError::Io));
    flushed.map_err(|error| dump_problem(&DumpError::Visit(error)))
}

pub(super) fn restore(args: &RestoreArgs) -> Result<(), Problem> {
    let mut input = BufReader::with_capacity(BUFFER_LEN, std::io::stdin().lock());
    let mut unpacker = Unpacker::new(&args.target)
        .map_err(|error| Problem::from_error(Kind::Runtime, "restore", &error))?;
    read(&mut input, &mut unpacker).map_err(|error| match &error {
        ReadError::Io(_) => Problem::from_error(Kind::Runtime, "read", &error),
        ReadError::Malformed { .. } => Problem::from_error(Kind::Trust, "malformed", &error),
        ReadError::Visit(error) => Problem::from_error(Kind::Runtime, "restore", error),
    })
}

fn dump_problem(error: &DumpError<WriteError>) -> Problem {
    let code = match error {
        DumpError::Io { .. } => "read",
        DumpError::Unsupported { .. } | DumpError::Visit(WriteError::Tree(_)) => "unsupported",
        DumpError::Visit(WriteError::Io(_)) => "output",
    };
    Problem::from_error(Kind::Runtime, code, error)
}
