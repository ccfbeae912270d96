//! Asks managers for the state of single units, for health checks.

use std::path::Path;
use std::process::Stdio;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use shared::problem::chain;
use tokio::io::AsyncReadExt as _;

use super::manager::Manager as Connection;
use crate::activate::exec;
use crate::activate::user::{Account, Host};
use crate::health::units::{Manager, Units};

/// Longest answer that is looked at.
const MAX_ANSWER: u64 = 64;

/// The managers of a host whose init is systemd.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostUnits;

impl Units for HostUnits {
    fn active_state<'a>(
        &'a self,
        manager: Manager,
        unit: &'a str,
    ) -> BoxFuture<'a, Result<String, String>> {
        async move {
            match manager {
                Manager::System => of_host(unit).await,
                Manager::User(uid) => of_user(uid, unit).await,
            }
        }
        .boxed()
    }
}

async fn of_host(unit: &str) -> Result<String, String> {
    let asked = async { Connection::of_host().await?.state(unit).await };
    asked.await.map_err(|error| chain(&error))
}

/// Asks as the user: whatever its bus answers, it answers to a program of its own rights.
async fn of_user(uid: u32, unit: &str) -> Result<String, String> {
    let program = exec::find("systemctl").ok_or("this host has no `systemctl`")?;
    let host = Host::read(Vec::new()).map_err(|error| error.to_string())?;
    let mut command = tokio::process::Command::new(program);
    command.args(["--user", "is-active", "--", unit]).env_clear();
    command.env("XDG_RUNTIME_DIR", Path::new("/run/user").join(uid.to_string()));
    if host.uid != uid {
        let Account { gid, .. } = host.account(uid).ok_or("the profile's user has gone")?;
        command.uid(uid).gid(gid);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.current_dir("/").spawn().map_err(|error| error.to_string())?;
    let mut answer = String::new();
    if let Some(stdout) = child.stdout.take() {
        let read = stdout.take(MAX_ANSWER).read_to_string(&mut answer).await;
        read.map_err(|error| error.to_string())?;
    }
    // Its exit code says no more than its answer does.
    let _ended = child.wait().await.map_err(|error| error.to_string())?;
    match answer.trim() {
        "" => Err("the manager of the profile's user does not answer".to_owned()),
        state => Ok(state.to_owned()),
    }
}
