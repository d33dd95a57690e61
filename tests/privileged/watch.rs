//! `floodmark watch` on a terminal of its own: whatever ends it, the terminal is as it was.

#![expect(clippy::unwrap_used, reason = "a test's helpers may fail as the test may")]

mod support;

use std::{
    fs::File,
    io::Read,
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    libc::winsize,
    pty::openpty,
    sys::{
        signal::{Signal, kill},
        termios::{LocalFlags, Termios, tcgetattr},
    },
    unistd::Pid,
};
use support::agent;

/// A terminal of 80 columns and 24 rows with a program in it.
struct Screen {
    child: Child,
    /// The program's side, held open to look at its settings.
    inner: OwnedFd,
    /// What the program writes.
    written: mpsc::Receiver<Vec<u8>>,
    before: Termios,
    so_far: Vec<u8>,
}

impl Screen {
    fn start(agent: &Path) -> Self {
        let size = winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        let side = || Stdio::from(pty.slave.try_clone().unwrap());
        let mut command = Command::new(agent);
        command.arg("watch").stdin(side()).stdout(side()).stderr(side());
        let child = command.spawn().unwrap();
        drop(command);
        let (sender, written) = mpsc::channel();
        let mut outer = File::from(pty.master);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = outer.read(&mut bytes) {
                let _ = sender.send(bytes[..length].to_vec());
            }
        });
        Self { child, inner: pty.slave, written, before, so_far: Vec::new() }
    }

    fn settings(&self) -> Termios {
        tcgetattr(&self.inner).unwrap()
    }

    fn has(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.so_far).contains(text)
    }

    /// Reads until there is this text.
    fn wait_for(&mut self, text: &str) {
        while !self.has(text) {
            // The terminal stays open on this side, whatever becomes of the program.
            let more = self.written.recv_timeout(Duration::from_secs(90));
            self.so_far.extend(more.unwrap_or_else(|_| panic!("no {text:?} for 90 s")));
        }
    }

    /// Whether what was switched on at first was switched off in the end.
    fn is_off(&self, on: &str, off: &str) -> bool {
        let text = String::from_utf8_lossy(&self.so_far);
        text.rfind(on) < text.rfind(off)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn root_whatever_ends_it_the_terminal_is_given_back() {
    let Some(agent) = agent() else { return };
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut screen = Screen::start(&agent);
        screen.wait_for("q quit");
        assert!(screen.has("\x1b[?1049h"), "{signal}: no screen of its own");
        let is_raw = !screen.settings().local_flags.contains(LocalFlags::ICANON);
        assert!(is_raw, "{signal}: keys come by the line");

        kill(Pid::from_raw(screen.child.id() as i32), signal).unwrap();
        let status = screen.child.wait().unwrap();
        screen.wait_for("\x1b[?1049l");
        assert_eq!(status.code(), Some(0), "{signal}");
        assert_eq!(screen.settings(), screen.before, "{signal}: the terminal's settings");
        assert!(screen.is_off("\x1b[?25l", "\x1b[?25h"), "{signal}: the cursor stays hidden");
    }
}
