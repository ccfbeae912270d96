//! What the server does by itself beside answering: silence becomes `stale`, and what is older than
//! it has to be goes.

use std::{sync::Arc, time::Duration};

use shared::time::Time;

use crate::{app::App, db::Db as _};

/// How often the server looks whether hosts have become silent.
const LOOK: Duration = Duration::from_secs(1);

/// How often it deletes what is too old.
const PRUNE: Duration = Duration::from_secs(3600);

/// Keeps up until the server stops.
pub(super) async fn run(app: Arc<App>) {
    let started = app.time();
    let mut look = tokio::time::interval(LOOK);
    let mut prune = tokio::time::interval(PRUNE);
    // A server that was held up has nothing to make up for.
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // Cancel safe: all of them only wait.
            () = app.stopping.cancelled() => return,
            _ = look.tick() => look_for_silence(&app, started).await,
            _ = prune.tick() => delete_old(&app).await,
        }
    }
}

/// Nobody could report while the server was down, so that time is no silence of theirs.
async fn look_for_silence(app: &App, started: Time) {
    let patience = i64::from(app.stale_after);
    let now = app.time();
    if now < started.plus(patience) {
        return;
    }
    loop {
        match app.db.mark_silent(now.plus(-patience)).await {
            Ok(0) => return,
            Ok(hosts) => tracing::info!(hosts, "hosts have become silent"),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "cannot look for silent hosts");
                return;
            }
        }
    }
}

async fn delete_old(app: &App) {
    match app.db.prune(app.retention, app.time()).await {
        Ok(pruned) => tracing::debug!(?pruned, "deleted what is older than it has to be"),
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, "cannot delete what is too old");
        }
    }
}
