//! The kernel's own account of the BPF programs: how often each ran, and for how long.

use std::{collections::BTreeMap, time::Duration};

use aya::programs::{ProgramInfo, loaded_programs};

/// What one program has cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub runs: u64,
    /// Time in all of them.
    pub time: Duration,
}

impl Cost {
    /// What was added since `before`.
    pub fn since(self, before: Self) -> Self {
        Self { runs: self.runs - before.runs, time: self.time - before.time }
    }

    /// Nanoseconds per run; `None` if it never ran.
    pub fn mean_ns(self) -> Option<f64> {
        (self.runs > 0).then(|| self.time.as_nanos() as f64 / self.runs as f64)
    }
}

/// A program in the kernel.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Its name, of which the kernel keeps 15 bytes.
    pub name: String,
    /// Its cost since statistics were first enabled.
    pub cost: Cost,
}

/// Every program in the kernel, by id. One that goes while they are listed is left out.
pub fn read() -> BTreeMap<u32, Loaded> {
    loaded_programs().flatten().map(|info| (info.id(), loaded(&info))).collect()
}

fn loaded(info: &ProgramInfo) -> Loaded {
    Loaded {
        name: String::from_utf8_lossy(info.name()).into_owned(),
        cost: Cost { runs: info.run_count(), time: info.run_time() },
    }
}
