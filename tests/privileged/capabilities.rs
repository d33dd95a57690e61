//! The agent with exactly the capabilities that it asks for, in a user of its own, and with each of
//! them taken away: what the table in `floodmark::capabilities` says is lost is lost, and the rest works
//! on.

#![expect(clippy::unwrap_used, reason = "a test's helpers may fail as the test may")]
#![allow(unsafe_code, reason = "runs code between fork and exec")]

mod support;

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use floodmark::capabilities::{NEEDS, Need, When};
use nix::{
    sys::prctl,
    unistd::{Gid, Uid, setgid, setgroups, setuid},
};
use serde_json::Value;
use support::Namespace;

/// Nobody's in particular.
const USER: u32 = 61_435;

/// What the agent sees of a listener in another namespace, and of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    listener: bool,
    owner: bool,
    /// Signals that are had by eBPF programs.
    programs: usize,
}

/// The agent's program where its user may run it.
fn agent(directory: &Path) -> Option<PathBuf> {
    let Some(agent) = std::env::var_os("FLOODMARK_AGENT") else {
        println!("skipped: FLOODMARK_AGENT does not say where the agent is");
        return None;
    };
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    let copy = directory.join("floodmark");
    fs::copy(agent, &copy).unwrap();
    Some(copy)
}

/// The output of the agent's command with these capabilities and no others.
fn output(agent: &Path, arguments: &[&str], held: &[&Need]) -> std::process::Output {
    let held: Vec<caps::Capability> = held.iter().map(|need| need.capability).collect();
    let mut command = Command::new(agent);
    command.args(arguments).current_dir("/");
    let become_user = move || {
        let all = held.iter().copied().collect();
        let failed = |_| std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        for capability in caps::read(None, caps::CapSet::Bounding).map_err(failed)? {
            if !held.contains(&capability) {
                caps::drop(None, caps::CapSet::Bounding, capability).map_err(failed)?;
            }
        }
        caps::securebits::set_keepcaps(true).map_err(failed)?;
        setgroups(&[])?;
        setgid(Gid::from_raw(USER))?;
        setuid(Uid::from_raw(USER))?;
        caps::set(None, caps::CapSet::Permitted, &all).map_err(failed)?;
        caps::set(None, caps::CapSet::Effective, &all).map_err(failed)?;
        caps::set(None, caps::CapSet::Inheritable, &all).map_err(failed)?;
        caps::set(None, caps::CapSet::Ambient, &all).map_err(failed)?;
        prctl::set_no_new_privs()?;
        Ok(())
    };
    // SAFETY: between fork and exec the child of this single test makes system calls and allocates.
    unsafe { command.pre_exec(become_user) };
    command.output().unwrap()
}

fn seen(agent: &Path, port: u16, held: &[&Need]) -> Seen {
    let listeners = output(agent, &["listeners", "--json"], held);
    let listeners: Value = serde_json::from_slice(&listeners.stdout).unwrap();
    let ends = format!(":{port}");
    let listener =
        listeners["listeners"].as_array().unwrap().iter().find(|listener| {
            listener["id"]["addr"].as_str().is_some_and(|addr| addr.ends_with(&ends))
        });
    let owner = listener.is_some_and(|it| !it["owners"].as_array().unwrap().is_empty());
    let doctor = output(agent, &["doctor", "--json"], held);
    let doctor: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let is_program = |signal: &&Value| {
        matches!(signal["rung"].as_str(), Some("fentry" | "kprobe" | "tracepoint"))
    };
    let programs = doctor["signals"].as_array().unwrap().iter().filter(is_program).count();
    Seen { listener: listener.is_some(), owner, programs }
}

/// Whether the canary could sing.
fn has_canary(agent: &Path, held: &[&Need]) -> bool {
    let canary = output(agent, &["doctor", "--canary", "--json"], held);
    serde_json::from_slice::<Value>(&canary.stdout)
        .is_ok_and(|it| it["canary"].as_object().is_some_and(|heard| !heard.is_empty()))
}

#[test]
fn root_each_capability_taken_away_costs_what_the_table_says() {
    let Some(namespace) = Namespace::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    let Some(agent) = agent(directory.path()) else { return };
    let listener = namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    let granted: Vec<&Need> = NEEDS
        .iter()
        .filter(|need| matches!(need.when, When::Always | When::WithoutSysAdmin))
        .collect();
    let without = |gone: &[&str]| -> Vec<&Need> {
        let is_kept = |need: &&&Need| !gone.contains(&need.capability.to_string().as_str());
        granted.iter().filter(is_kept).copied().collect()
    };
    let all = seen(&agent, port, &granted);
    println!("{:<36}{:<10}{:<8}signals by programs", "without", "listener", "owner");
    let show = |what: &str, it: Seen| {
        println!("{what:<36}{:<10}{:<8}{}", it.listener, it.owner, it.programs);
    };
    show("none", all);
    assert!(all.listener && all.owner, "the capabilities granted are enough");
    if all.programs == 0 {
        println!("skipped: this kernel takes no eBPF programs at all");
        return;
    }
    let expected: &[(&[&str], Seen)] = &[
        (&["CAP_SYS_PTRACE"], Seen { owner: false, ..all }),
        (&["CAP_DAC_READ_SEARCH"], Seen { owner: false, ..all }),
        (&["CAP_NET_ADMIN"], all),
        (&["CAP_BPF"], all),
        (&["CAP_PERFMON"], all),
        (&["CAP_SYS_ADMIN"], Seen { listener: false, owner: false, ..all }),
    ];
    let mut taken: BTreeSet<&str> = BTreeSet::new();
    for (gone, expected) in expected {
        let is = seen(&agent, port, &without(gone));
        show(&gone.join(", "), is);
        assert_eq!(is, *expected, "without {gone:?}");
        taken.extend(*gone);
    }
    // What CAP_SYS_ADMIN stands for shows once it is gone as well.
    for gone in ["CAP_BPF", "CAP_PERFMON"] {
        let is = seen(&agent, port, &without(&["CAP_SYS_ADMIN", gone]));
        show(&format!("CAP_SYS_ADMIN, {gone}"), is);
        assert!(is.programs < all.programs, "without CAP_SYS_ADMIN and {gone}");
    }
    let canaries = [&[][..], &["CAP_NET_ADMIN"], &["CAP_SYS_ADMIN"]];
    let sang = canaries.map(|gone| has_canary(&agent, &without(gone)));
    println!(
        "canary: with all {}, without CAP_NET_ADMIN {}, without CAP_SYS_ADMIN {}",
        sang[0], sang[1], sang[2]
    );
    assert_eq!(sang, [true, false, false]);
    let tried: BTreeSet<String> = granted.iter().map(|need| need.capability.to_string()).collect();
    assert_eq!(tried, taken.iter().map(ToString::to_string).collect(), "each was taken away");
}
