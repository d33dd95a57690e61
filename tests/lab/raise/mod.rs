//! `floodmark raise` against the truth: an incident that it ends under load, and what it must leave
//! alone. Each case is a real server in namespaces of its own.

mod cases;
mod incident;
mod stage;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use self::stage::Stage;
use crate::check::Check;

/// Arguments of `floodmark-lab raise`.
#[derive(Debug, Args)]
pub struct RaiseArgs {
    /// The agent
    #[arg(long)]
    agent: PathBuf,
    /// A Python with Tornado
    #[arg(long)]
    python: PathBuf,
}

struct Case {
    name: &'static str,
    what: &'static str,
    run: fn(&Stage) -> Result<Vec<Check>>,
}

const CASES: &[Case] = &[
    Case {
        name: "incident",
        what: "Tornado behind nginx overflows; raised as diagnose says, and restored, under load",
        run: incident::run,
    },
    Case {
        name: "group",
        what: "a SO_REUSEPORT group of nginx's workers, found by the pid of one of them",
        run: cases::group,
    },
    Case {
        name: "container",
        what: "a server in a PID and network namespace of its own, found by address and by pid",
        run: cases::container,
    },
    Case {
        name: "restarted",
        what: "the server restarts with a longer backlog of its own before --undo",
        run: cases::restarted,
    },
    Case {
        name: "refused",
        what: "without rights, and what is not to be raised",
        run: cases::refused,
    },
];

/// Plays the cases; true if all of it holds. The last line is that of a test runner.
pub fn raise(args: &RaiseArgs) -> Result<bool> {
    let mut passed = 0;
    for case in CASES {
        println!("{}: {}", case.name, case.what);
        // A case that could not be played has failed; the others still are.
        let checks = Stage::new(args, case.name).and_then(|stage| (case.run)(&stage));
        let checks = checks.unwrap_or_else(|error| {
            vec![Check::that("it can be played", false, format!("{error:#}"))]
        });
        checks.iter().for_each(|check| println!("{check}"));
        passed += usize::from(!checks.is_empty() && checks.iter().all(|check| check.holds));
    }
    println!("{passed} passed, 0 skipped, {} failed", CASES.len() - passed);
    Ok(passed == CASES.len())
}
