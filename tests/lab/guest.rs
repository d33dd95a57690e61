//! Process 1 of a test guest: makes a system of an initramfs, runs the command named in `/command`,
//! and ends the machine with its result.

use std::{
    fs::{self, File, OpenOptions},
    io, os::fd::AsRawFd, path::Path,
    process::Command,
};

use nix::mount::{MsFlags, mount};

const MOUNTS: &[(&str, &str)] = &[
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/tmp"),
    ("tmpfs", "/run"),
    ("tracefs", "/sys/kernel/tracing"),
    ("bpf", "/sys/fs/bpf"),
    ("cgroup2", "/sys/fs/cgroup"),
];
/// The command's standard output, apart from the console's noise.
const OUTPUT: &str = "/dev/ttyS1";
/// Port of QEMU's isa-debug-exit device, and what is written there.
const EXIT_PORT: u16 = 0xf4;
const PASSED: u32 = 16;
const FAILED: u32 = 17;

/// Never returns.
pub fn init() -> ! {
    for (kind, target) in MOUNTS {
        // A kernel without one of them shows in whatever needs it.
        let _ = fs::create_dir_all(target);
        if let Err(error) = mount(Some(*kind), *target, Some(*kind), MsFlags::empty(), None::<&str>)
        {
            eprintln!("init: mounting {target}: {error}");
        }
    }
    for module in fs::read_to_string("/mods/order").unwrap_or_default().lines() {
        if let Err(error) = insert(&Path::new("/mods").join(module)) {
            eprintln!("init: inserting {module}: {error}");
        }
    }
    let passed = match run() {
        Ok(passed) => passed,
        Err(error) => {
            eprintln!("init: {error}");
            false
        }
    };
    println!("VM-RESULT {}", if passed { "pass" } else { "fail" });
    leave(if passed { PASSED } else { FAILED })
}

fn run() -> io::Result<bool> {
    let path = "/bin:/sbin:/usr/bin:/usr/sbin";
    Command::new("/bin/ip").args(["link", "set", "lo", "up"]).status()?;
    let text = fs::read_to_string("/command")?;
    let mut words = text.lines();
    let program = words.next().unwrap_or("floodmark");
    let output = OpenOptions::new().write(true).open(OUTPUT)?;
    let program = path
        .split(':')
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.exists())
        .unwrap_or_else(|| program.into());
    let status = Command::new(program)
        .args(words)
        .env("PATH", path)
        .env("RUST_BACKTRACE", "1")
        .stdout(output)
        .status()?;
    eprintln!("init: {status}");
    Ok(status.success())
}

fn insert(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    // SAFETY: finit_module(2) reads the descriptor and an empty parameter string.
    let result =
        unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Ends the machine. Debian's kernels have no /dev/port, hence the instruction.
fn leave(code: u32) -> ! {
    nix::unistd::sync();
    #[cfg(target_arch = "x86_64")]
    // SAFETY: ioperm opens the four ports of the exit device to this process, and the write to the
    // first of them ends the machine.
    unsafe {
        if libc::ioperm(EXIT_PORT.into(), 4, 1) == 0 {
            std::arch::asm!("out dx, eax", in("dx") EXIT_PORT, in("eax") code);
        }
    }
    // Without the device: a power-off, which counts as a failure.
    let _ = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_POWER_OFF);
    std::process::exit(1)
}
