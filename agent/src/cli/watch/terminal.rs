//! The terminal, taken and given back: however this ends, it is as it was before.

use std::{panic, process::exit};

use anyhow::{Context, Result};
use ratatui::DefaultTerminal;

/// As Rust ends a process whose main thread panics.
const PANICKED: i32 = 101;

/// Takes the terminal: raw, and another screen than the one with the shell's lines.
///
/// # Errors
///
/// When the terminal is none, or is gone.
pub fn take() -> Result<DefaultTerminal> {
    // A panic gives the terminal back before it speaks.
    let terminal = ratatui::try_init().context("setting the terminal up")?;
    let speak = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        speak(panic);
        // Whichever thread it was: others would draw over the words.
        exit(PANICKED);
    }));
    Ok(terminal)
}

/// Gives it back.
///
/// # Errors
///
/// When the terminal is gone.
pub fn give_back() -> Result<()> {
    ratatui::try_restore().context("giving the terminal back")
}

#[cfg(test)]
mod tests {
    use std::{
        env,
        fs::File,
        io::Read,
        process::{Command, Stdio},
    };

    use nix::{pty::openpty, sys::termios::tcgetattr};

    use super::*;

    #[test]
    #[ignore = "run by the test below, on a terminal of its own"]
    fn it_panics() {
        let _terminal = take().unwrap();
        std::thread::spawn(|| panic!("what went wrong")).join().unwrap();
    }

    #[test]
    fn a_panic_in_any_thread_gives_it_back_and_is_read() {
        let pty = openpty(None, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        let side = || Stdio::from(pty.slave.try_clone().unwrap());
        let name = concat!(module_path!(), "::it_panics").split_once("::").unwrap().1;
        let mut child = Command::new(env::current_exe().unwrap())
            .args([name, "--exact", "--ignored", "--nocapture"])
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(PANICKED));
        assert_eq!(tcgetattr(&pty.slave).unwrap(), before);
        drop(pty.slave);
        let mut said = Vec::new();
        // The end is an error: nobody holds the other side any longer.
        let _ = File::from(pty.master).read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said);
        let left = said.rfind("\x1b[?1049l").expect(&said);
        assert!(said[left..].contains("what went wrong"), "{said:?}");
        assert!(said[left..].contains("\x1b[?25h") || !said.contains("\x1b[?25l"), "{said:?}");
    }
}
