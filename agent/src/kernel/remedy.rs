//! Why a kernel refuses a rung, and what would help: error numbers say neither.

use std::{fs, path::Path};

use super::hooks::Attach;

/// Capabilities that loading and attaching take (`bpf_capable`, `perfmon_capable`), by number.
const CAPABILITIES: [(u32, &str); 2] = [(39, "CAP_BPF"), (38, "CAP_PERFMON")];
/// Stands for both.
const CAP_SYS_ADMIN: u32 = 21;

/// What stands in the way of attaching like this, as far as can be told from outside; `None` where
/// nothing does that is known.
pub fn remedy(attach: Attach) -> Option<String> {
    missing_capabilities().or_else(lockdown).or_else(|| match attach {
        Attach::Entry | Attach::Exit => function_tracer(),
        Attach::KprobeEntry | Attach::KprobeExit => kprobes(),
        Attach::Tracepoint => None,
    })
}

/// Names of the capabilities that this process lacks.
pub fn missing_capabilities() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    missing_in(effective(&status)?)
}

fn effective(status: &str) -> Option<u64> {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

fn missing_in(effective: u64) -> Option<String> {
    let has = |bit: u32| effective >> bit & 1 == 1;
    if has(CAP_SYS_ADMIN) {
        return None;
    }
    let missing: Vec<&str> =
        CAPABILITIES.iter().filter(|(bit, _)| !has(*bit)).map(|(_, name)| *name).collect();
    match missing.as_slice() {
        [] => None,
        [one] => Some(format!("{one} is missing: grant it, or run as root")),
        more => Some(format!("{} are missing: grant them, or run as root", more.join(" and "))),
    }
}

/// In confidentiality mode the kernel lets nobody read its memory (LOCKDOWN_BPF_READ_KERNEL).
fn lockdown() -> Option<String> {
    let modes = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    modes
        .contains("[confidentiality]")
        .then(|| "lockdown is confidentiality: boot without it, or with lockdown=integrity".into())
}

/// Trampolines are patched in by ftrace.
fn function_tracer() -> Option<String> {
    match fs::read_to_string("/proc/sys/kernel/ftrace_enabled") {
        Err(_) => Some("CONFIG_FUNCTION_TRACER is off in this kernel".into()),
        Ok(value) if value.trim() == "0" => {
            Some("kernel.ftrace_enabled is 0: sysctl -w kernel.ftrace_enabled=1".into())
        }
        Ok(_) => None,
    }
}

fn kprobes() -> Option<String> {
    let exists = Path::new("/sys/bus/event_source/devices/kprobe").exists();
    (!exists).then(|| "CONFIG_KPROBES or CONFIG_KPROBE_EVENTS is off in this kernel".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_capabilities_that_are_missing() {
        assert_eq!(effective("Name:\tx\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(missing_in(1 << CAP_SYS_ADMIN), None);
        assert_eq!(missing_in(1 << 38 | 1 << 39), None);
        assert_eq!(
            missing_in(1 << 39).unwrap(),
            "CAP_PERFMON is missing: grant it, or run as root"
        );
        assert!(missing_in(0).unwrap().starts_with("CAP_BPF and CAP_PERFMON are missing"));
    }
}
