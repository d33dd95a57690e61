//! What was rendered of the newest snapshot, once however many ask for it: what it takes to render
//! thousands of series is many times what the page takes.

use std::sync::{Arc, Weak};

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::{sync::Mutex, task::spawn_blocking};

use crate::agent::Snapshot;

/// One form of the newest snapshot that was asked for in it.
#[derive(Clone, Default)]
pub(super) struct Rendered(Arc<Mutex<(Weak<Snapshot>, Bytes)>>);

impl Rendered {
    /// This snapshot's, by `render` unless it is there. Whoever asks meanwhile waits, without keeping a
    /// thread: the rendering has one, which it keeps to its end even if its client hangs up.
    pub(super) async fn of(
        &self,
        snapshot: &Arc<Snapshot>,
        render: impl FnOnce(&Snapshot) -> Result<Vec<u8>> + Send + 'static,
    ) -> Result<Bytes> {
        let mut kept = Arc::clone(&self.0).lock_owned().await;
        let this = Arc::downgrade(snapshot);
        if kept.0.ptr_eq(&this) {
            return Ok(kept.1.clone());
        }
        let snapshot = Arc::clone(snapshot);
        let rendering = spawn_blocking(move || {
            *kept = (this, render(&snapshot)?.into());
            Ok(kept.1.clone())
        });
        rendering.await.context("rendering a page")?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::{super::fixture::snapshot, *};

    #[tokio::test]
    async fn a_snapshot_is_rendered_once_and_the_next_anew() {
        let rendered = Rendered::default();
        let (first, second) = (Arc::new(snapshot()), Arc::new(snapshot()));
        let renderings = Arc::new(AtomicU8::new(0));
        let mut answers = Vec::new();
        for snapshot in [&first, &first, &second, &second] {
            let renderings = Arc::clone(&renderings);
            let render = move |_: &Snapshot| Ok(vec![renderings.fetch_add(1, Ordering::Relaxed)]);
            answers.push(rendered.of(snapshot, render).await.unwrap()[0]);
        }
        assert_eq!(answers, [0, 0, 1, 1]);
    }

    #[tokio::test]
    async fn what_could_not_be_rendered_is_tried_again() {
        let rendered = Rendered::default();
        let snapshot = Arc::new(snapshot());
        assert!(rendered.of(&snapshot, |_| anyhow::bail!("refused")).await.is_err());
        assert_eq!(rendered.of(&snapshot, |_| Ok(vec![1])).await.unwrap(), vec![1]);
    }
}
