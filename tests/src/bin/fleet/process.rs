//! What the registry takes of the machine.

use std::time::Duration;

use anyhow::Context as _;

/// The clock's ticks per second in `/proc`.
const TICKS: u64 = 100;

/// Returns the time that a process has spent on the processor.
pub(crate) fn cpu(process: u32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("a name in parentheses")?;
    let fields: Vec<u64> =
        fields.split(' ').skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(Duration::from_millis(fields.iter().sum::<u64>() * 1000 / TICKS))
}

/// Returns the most memory that a process ever had, in MiB.
pub(crate) fn memory(process: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024)
}

/// Returns the memory of a process now, with its part of what it shares, in KiB.
pub(crate) fn proportional_memory(process: u32) -> anyhow::Result<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).context("Pss")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
