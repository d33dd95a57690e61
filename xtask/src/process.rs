//! Ending a command with everything that it has started.

use std::{
    collections::HashMap,
    fs, io,
    process::{Child, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How often a running command is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long what was asked to end may take to clean up.
const GRACE: Duration = Duration::from_secs(10);

/// Waits for `child`, for `limit` at most; `None` when it was ended for that.
///
/// # Errors
///
/// When it cannot be waited for.
pub fn wait_within(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let status = wait(child, limit)?;
    if status.is_none() {
        end(child)?;
    }
    Ok(status)
}

fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        let status = child.try_wait()?;
        if status.is_some() || started.elapsed() >= limit {
            return Ok(status);
        }
        thread::sleep(LOOK);
    }
}

/// Asks the whole family to end, and makes whoever is left after [`GRACE`].
fn end(child: &mut Child) -> io::Result<()> {
    let family = family(child.id());
    for signal in [Signal::SIGTERM, Signal::SIGCONT] {
        send(&family, signal);
    }
    wait(child, GRACE)?;
    send(&family, Signal::SIGKILL);
    child.wait().map(drop)
}

fn send(family: &[u32], signal: Signal) {
    for pid in family {
        // One that has ended meanwhile needs no signal.
        let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
    }
}

/// `first` and all its descendants, by what procfs says of parents.
fn family(first: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let stat = fs::read_to_string(entry.path().join("stat"));
        if let (Some(pid), Some(parent)) = (pid, stat.ok().as_deref().and_then(parent)) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut family = vec![first];
    let mut next = 0;
    while let Some(pid) = family.get(next) {
        family.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    family
}

/// The parent in a line of proc(5)'s `stat`: the second word behind the name, which may hold anything.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_parent_stands_behind_a_name_with_blanks_and_brackets() {
        assert_eq!(parent("12 (a) b) (c) S 7 12 12 0"), Some(7));
        assert_eq!(parent("12"), None);
    }

    #[test]
    fn what_ends_in_time_has_a_status() {
        let mut child = Command::new("true").spawn().unwrap();
        let status = wait_within(&mut child, Duration::from_secs(60)).unwrap();
        assert!(status.unwrap().success());
    }

    /// A grandchild that stands still and one that would not hear of ending go with it.
    #[test]
    fn what_does_not_end_in_time_is_ended_with_its_descendants() {
        let script = "sleep 600 & kill -STOP $!; sh -c 'trap \"\" TERM; sleep 600' & wait";
        let mut shell = Command::new("sh");
        let mut child = shell.args(["-c", script]).stdin(Stdio::null()).spawn().unwrap();
        until(|| family(child.id()).len() == 4);
        let family = family(child.id());
        assert_eq!(wait_within(&mut child, Duration::ZERO).unwrap(), None);
        let is_alive = |pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.is_ok_and(|stat| !stat.contains(") Z "))
        };
        until(|| !family.iter().any(is_alive));
    }

    fn until(is_so: impl Fn() -> bool) {
        let started = Instant::now();
        while !is_so() {
            assert!(started.elapsed() < GRACE, "it does not come to that");
            thread::sleep(LOOK);
        }
    }
}
