//! What systemd is told (sd_notify(3)); where it is not what started the agent, nothing.

use std::sync::Arc;

use log::debug;
use sd_notify::NotifyState;
use tokio::sync::watch;

use crate::{agent::Snapshot, kernel::Rung};

/// Tells that the agent is ready once it has sampled, and feeds the watchdog at each sample: an agent
/// that no longer samples is no longer any good, whatever else in it may still run. Never ends by
/// itself before the agent does.
pub(super) async fn keep_told(mut latest: watch::Receiver<Option<Arc<Snapshot>>>) {
    let mut is_ready = false;
    while latest.changed().await.is_ok() {
        let Some(status) = latest.borrow_and_update().as_deref().map(status) else { continue };
        tell(&[NotifyState::Watchdog, NotifyState::Status(&status)]);
        if !is_ready {
            tell(&[NotifyState::Ready]);
            is_ready = true;
        }
    }
}

/// That the configuration is being read again; [`reloaded`] ends it.
pub(super) fn reloading() {
    let since = NotifyState::monotonic_usec_now();
    tell(&[NotifyState::Reloading].into_iter().chain(since).collect::<Vec<_>>());
}

/// That the reading is over, whatever came of it.
pub(super) fn reloaded() {
    tell(&[NotifyState::Ready]);
}

/// That the agent comes to its end.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn status(snapshot: &Snapshot) -> String {
    let had = snapshot.standings.iter().filter(|standing| standing.rung != Rung::None).count();
    let dropped: u64 = snapshot.report.listeners.iter().map(|it| it.tally.drops()).sum();
    format!(
        "{had} of {} signals, {} listeners, {dropped} handshake segments dropped",
        snapshot.standings.len(),
        snapshot.view.listeners.len(),
    )
}

fn tell(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        debug!("telling systemd: {error}");
    }
}
