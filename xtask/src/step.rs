//! Running one long command: progress on the terminal, its output in a log below `target/xtask/`.

use std::{
    fs::{self, File},
    io::{IsTerminal, stderr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::{place, process};

/// How much of a failed command's output is shown; the log has the rest.
const TAIL_LINES: usize = 40;

/// How long what is set up or built may take: many times what it does take.
pub const LIMIT: Duration = Duration::from_secs(3600);

/// What a command did.
pub struct Ended {
    /// Whether it succeeded.
    pub ok: bool,
    /// How it ended, in words.
    how: String,
    /// Everything it wrote, on standard output and standard error.
    pub output: String,
    /// The log that holds the same.
    pub log: PathBuf,
    /// How long it took.
    pub took: Duration,
}

impl Ended {
    /// The end of the output, how the command ended, and where the whole of its output is.
    pub fn tail(&self) -> String {
        let lines: Vec<&str> = self.output.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        format!("{tail}\n{} (full log: {})", self.how, self.log.display())
    }
}

/// Runs `command` without input under the title shown, to its end. Where that does not come within
/// `limit`, the command is ended with all that it has started, and has failed.
///
/// # Errors
///
/// When the command cannot be started. Its failure is told by [`Ended::ok`].
pub fn run(title: &str, limit: Duration, command: &mut Command) -> Result<Ended> {
    let log = log_for(title)?;
    let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let progress = Progress::start(title);
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("start {}", Path::new(command.get_program()).display()))?;
    let status = process::wait_within(&mut child, limit).context("wait for it")?;
    let took = started.elapsed();
    let ok = status.is_some_and(|status| status.success());
    let how = status.map_or_else(
        || format!("no end within {} s", limit.as_secs()),
        |status| status.to_string(),
    );
    progress.finish(ok, took);
    let output = fs::read(&log).with_context(|| format!("read {}", log.display()))?;
    Ok(Ended { ok, how, output: String::from_utf8_lossy(&output).into_owned(), log, took })
}

/// As [`run`], where failure ends the whole: the error carries the remedy and the output's tail.
///
/// # Errors
///
/// When the command cannot be started or fails.
pub fn must(title: &str, remedy: &str, command: &mut Command) -> Result<String> {
    let ended = run(title, LIMIT, command).with_context(|| remedy.to_owned())?;
    if !ended.ok {
        bail!("{title}: {}\n{remedy}", ended.tail());
    }
    Ok(ended.output)
}

fn log_for(title: &str) -> Result<PathBuf> {
    let dir = place::target("xtask");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let word = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    Ok(dir.join(format!("{}.log", title.chars().map(word).collect::<String>())))
}

/// A spinner with the time elapsed; where nobody watches a terminal, a line at either end.
pub struct Progress {
    title: String,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Shows that `title` has begun.
    pub fn start(title: &str) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = bars().add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.set_message(title.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("{title} ...");
        }
        Self { title: title.to_owned(), bar }
    }

    /// Shows how it ended.
    pub fn finish(self, ok: bool, took: Duration) {
        let word = if ok { "ok" } else { "FAILED" };
        let line = format!("{}: {word} ({:.1} s)", self.title, took.as_secs_f64());
        match self.bar {
            Some(bar) => {
                bar.finish_and_clear();
                // Through the set of bars, so that a step still running is redrawn below.
                if bars().println(&line).is_err() {
                    eprintln!("{line}");
                }
            }
            None => eprintln!("{line}"),
        }
    }
}

/// Steps may run side by side, so their spinners share the terminal.
fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(MultiProgress::new)
}
