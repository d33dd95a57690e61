//! What was rendered of the newest snapshot, once however many ask for it: what it takes to render
//! thousands of series is many times what the page takes.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::Result;
use bytes::Bytes;

use crate::agent::Snapshot;

/// One form of the newest snapshot that was asked for in it.
#[derive(Default)]
pub(super) struct Rendered(Mutex<(Weak<Snapshot>, Bytes)>);

impl Rendered {
    /// This snapshot's, by `render` unless it is there. Whoever asks meanwhile waits.
    pub(super) fn of(
        &self,
        snapshot: &Arc<Snapshot>,
        render: impl FnOnce(&Snapshot) -> Result<Vec<u8>>,
    ) -> Result<Bytes> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let this = Arc::downgrade(snapshot);
        if !kept.0.ptr_eq(&this) {
            *kept = (this, render(snapshot)?.into());
        }
        Ok(kept.1.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fixture::snapshot, *};

    #[test]
    fn a_snapshot_is_rendered_once_and_the_next_anew() {
        let rendered = Rendered::default();
        let (first, second) = (Arc::new(snapshot()), Arc::new(snapshot()));
        let mut renderings = 0;
        let mut ask = |snapshot| {
            let render = |_: &Snapshot| {
                renderings += 1;
                Ok(vec![renderings])
            };
            rendered.of(snapshot, render).unwrap()[0]
        };
        assert_eq!([ask(&first), ask(&first), ask(&second), ask(&second)], [1, 1, 2, 2]);
    }

    #[test]
    fn what_could_not_be_rendered_is_tried_again() {
        let rendered = Rendered::default();
        let snapshot = Arc::new(snapshot());
        assert!(rendered.of(&snapshot, |_| anyhow::bail!("refused")).is_err());
        assert_eq!(rendered.of(&snapshot, |_| Ok(vec![1])).unwrap(), vec![1]);
    }
}
