//! The first process in a test guest: makes a bare kernel usable, runs one command, says how it
//! ended, and leaves the virtual machine.
//!
//! Standard output of the command goes to the second serial port and nothing else does, so that
//! the host reads it clean; standard error goes to the console, with the kernel's messages.

mod machine;

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    os::unix::ffi::OsStrExt,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use nix::{
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
    sys::{
        termios::{self, SetArg},
        wait::{WaitStatus, wait},
    },
    unistd::Pid,
};

/// File systems and where they belong. Some kernels lack some of the later ones.
const FILE_SYSTEMS: [(&str, &str); 10] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("devpts", "/dev/pts"),
    ("tmpfs", "/dev/shm"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("tracefs", "/sys/kernel/tracing"),
    ("bpf", "/sys/fs/bpf"),
    ("cgroup2", "/sys/fs/cgroup"),
];

/// What init reports when it could not even start the command.
const NOT_RUN: i32 = 125;

fn main() {
    let code = run().unwrap_or_else(|error| {
        eprintln!("init: {error:#}");
        NOT_RUN
    });
    println!("VM-RESULT {code}");
    machine::leave(code == 0);
}

fn run() -> Result<i32> {
    for (kind, at) in FILE_SYSTEMS {
        fs::create_dir_all(at).with_context(|| format!("create {at}"))?;
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mount {kind} on {at}"))?;
    }
    load_modules()?;
    run_to_end(Command::new("/usr/bin/ip").args(["link", "set", "lo", "up"]))?;

    let arguments = fs::read("/command").context("read /command")?;
    let mut arguments = arguments.split(|byte| *byte == 0).map(OsStr::from_bytes);
    let program = arguments.next().context("/command is empty")?;
    let output = second_serial_port()?;
    let code = run_to_end(Command::new(program).args(arguments).stdout(output.try_clone()?))?;
    termios::tcdrain(&output).context("drain the second serial port")?;
    Ok(code)
}

/// In the order of their names, which the host numbered.
fn load_modules() -> Result<()> {
    let mut modules: Vec<_> = fs::read_dir("/modules")
        .context("read /modules")?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    modules.sort();
    for module in modules {
        finit_module(File::open(&module)?, c"", ModuleInitFlags::empty())
            .with_context(|| format!("load {}", module.display()))?;
    }
    Ok(())
}

/// Raw, so that the line passes bytes as they are.
fn second_serial_port() -> Result<File> {
    let port = OpenOptions::new().write(true).open("/dev/ttyS1").context("open /dev/ttyS1")?;
    let mut settings = termios::tcgetattr(&port).context("read /dev/ttyS1's settings")?;
    termios::cfmakeraw(&mut settings);
    termios::tcsetattr(&port, SetArg::TCSANOW, &settings).context("make /dev/ttyS1 raw")?;
    Ok(port)
}

/// Runs a command and returns its exit code as a shell would. Meanwhile reaps the orphans that fall
/// to the first process, lest a daemon that has ended seem to live on.
fn run_to_end(command: &mut Command) -> Result<i32> {
    let program = command.get_program().to_string_lossy().into_owned();
    let child = command
        .stdin(Stdio::null())
        .current_dir("/root")
        .env_clear()
        .env("HOME", "/root")
        .env("PATH", "/usr/sbin:/usr/bin")
        .env("LC_ALL", "C.UTF-8")
        .env("TERM", "dumb")
        .spawn()
        .with_context(|| format!("start {program}"))?;
    let child = Pid::from_raw(i32::try_from(child.id())?);
    loop {
        match wait().context("wait for the command")? {
            WaitStatus::Exited(pid, code) if pid == child => return Ok(code),
            WaitStatus::Signaled(pid, signal, _) if pid == child => return Ok(128 + signal as i32),
            _ => {}
        }
    }
}
