//! `floodmark lint`: what in a proxy's configuration brings the incident about.

mod baseline;
mod human;
mod json;
mod sarif;

use std::{
    env,
    io::{Read, stdin},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use self::baseline::Baseline;
use super::{
    HEALTHY, TROUBLE, UNABLE,
    output::{print, print_coloured, print_json},
};
use crate::{
    capabilities,
    lint::{
        Report,
        finding::{Facts, Finding, Format, Level, Version},
        kind::guess,
        root::{LARGEST, Root},
        rules,
        running::{self, Running},
        text::Home,
    },
    untrusted_file,
};

/// Arguments of `floodmark lint`.
#[derive(Debug, Args)]
pub(super) struct LintArgs {
    /// nginx's main file with all it includes, what `nginx -T` printed, haproxy.cfg or Envoy's YAML or
    /// JSON; - for standard input
    #[arg(value_name = "FILE", required_unless_present_any = ["running", "rules"])]
    files: Vec<PathBuf>,
    /// Read what the nginxes, HAProxys and Envoys running on this host read, in containers too; --format
    /// narrows it to one of them
    #[arg(long, conflicts_with = "files")]
    running: bool,
    /// Say what the files are, where their names and first words do not
    #[arg(long, value_enum)]
    format: Option<FormatArg>,
    /// Take this directory for / when FILE or what it includes begins with /
    #[arg(long, value_name = "DIR", conflicts_with = "running")]
    root: Option<PathBuf>,
    /// Leave this rule out (repeatable)
    #[arg(long, value_name = "RULE", value_parser = rule)]
    allow: Vec<&'static str>,
    /// nginx's version, as `nginx -v` message; unknown, it is taken for old
    #[arg(long, value_name = "VERSION", value_parser = str::parse::<Version>)]
    nginx_version: Option<Version>,
    /// Requests per second at the busiest upstream: with --latency, tells whether `keepalive` is enough
    #[arg(long, value_name = "PER_SECOND", requires = "latency")]
    #[arg(value_parser = positive, allow_negative_numbers = true)]
    rate: Option<f64>,
    /// Seconds that the upstream takes for one request
    #[arg(long, value_name = "SECONDS", requires = "rate")]
    #[arg(value_parser = positive, allow_negative_numbers = true)]
    latency: Option<f64>,
    /// Processors of the proxy's host, for `worker_processes auto`
    #[arg(long, value_name = "N")]
    processors: Option<u64>,
    /// Seconds after which the application closes idle connections
    #[arg(long, value_name = "SECONDS", value_parser = positive, allow_negative_numbers = true)]
    app_idle_timeout: Option<f64>,
    /// Leave out the findings that this file holds, as --print-baseline printed it
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Print all findings as a baseline for later runs, and exit with 0
    #[arg(long, conflicts_with_all = ["json", "sarif", "baseline"])]
    print_baseline: bool,
    /// Exit with 1 only for findings of this level or a worse one
    #[arg(long, value_enum, value_name = "LEVEL", default_value = "note")]
    fail_on: FailOn,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Print SARIF 2.1.0, for whatever shows findings beside code
    #[arg(long, conflicts_with = "json")]
    sarif: bool,
    /// Describe every rule, and look at nothing
    #[arg(long, conflicts_with_all = ["files", "running"])]
    rules: bool,
}

/// From which level on a finding makes the command fail.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum FailOn {
    /// Every finding
    Note,
    /// Warnings
    Warning,
    /// No finding
    Never,
}

impl FailOn {
    fn level(self) -> Option<Level> {
        match self {
            Self::Note => Some(Level::Note),
            Self::Warning => Some(Level::Warning),
            Self::Never => None,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatArg {
    Nginx,
    Haproxy,
    Envoy,
}

impl From<FormatArg> for Format {
    fn from(format: FormatArg) -> Self {
        match format {
            FormatArg::Nginx => Self::Nginx,
            FormatArg::Haproxy => Self::Haproxy,
            FormatArg::Envoy => Self::Envoy,
        }
    }
}

/// Exit status 1 where something was found.
pub(super) fn lint(args: &LintArgs) -> Result<ExitCode> {
    if args.rules {
        print(&human::rules())?;
        return Ok(ExitCode::from(HEALTHY));
    }
    let baseline = args.baseline.as_deref().map(Baseline::read).transpose()?;
    let mut report = if args.running { look_at_running(args)? } else { look_at_files(args)? };
    report.findings.retain(|finding| !args.allow.contains(&finding.rule.id));
    let known = baseline.map_or(0, |baseline| baseline.apply(&mut report));
    for missing in &report.missing {
        log::warn!("{missing}");
    }
    for broken in &report.broken {
        log::error!("{broken}");
    }
    if args.print_baseline {
        print_json(&serde_json::to_value(Baseline::of(&report))?)?;
        return Ok(ExitCode::from(if report.broken.is_empty() { HEALTHY } else { UNABLE }));
    }
    if args.json {
        print_json(&json::object(&report))?;
    } else if args.sarif {
        print_json(&sarif::log(&report))?;
    } else {
        print_coloured(&human::tell(&report, known))?;
    }
    Ok(ExitCode::from(status(args, &report)))
}

/// What could not be read outweighs what was found.
fn status(args: &LintArgs, report: &Report) -> u8 {
    let fails =
        |finding: &Finding| args.fail_on.level().is_some_and(|level| finding.level <= level);
    if !report.broken.is_empty() {
        UNABLE
    } else if report.findings.iter().any(fails) {
        TROUBLE
    } else {
        HEALTHY
    }
}

fn facts(args: &LintArgs) -> Facts {
    Facts {
        version: args.nginx_version,
        rate: args.rate,
        latency: args.latency,
        processors: args.processors,
        idle_timeout: args.app_idle_timeout,
    }
}

/// Every file that can be read is looked at, even if another cannot.
fn look_at_files(args: &LintArgs) -> Result<Report> {
    let here = env::current_dir().context("finding the current directory")?;
    let root = args.root.as_deref().unwrap_or(Path::new("/"));
    let root = Root::new(root).context("--root takes a directory that can be read")?;
    let opened: Vec<Result<Box<dyn Read>>> =
        args.files.iter().map(|file| open(file, args, &root)).collect();
    capabilities::drop_all()?;
    let mut report = Report::default();
    let mut errors = Vec::new();
    for (file, input) in args.files.iter().zip(opened) {
        let looked =
            input.and_then(|input| look_at_file(file, input, &here, &root, args, &mut report));
        errors.extend(looked.err());
    }
    match errors.pop() {
        Some(only) if args.files.len() == 1 => return Err(only),
        last => report.broken.extend(errors.into_iter().chain(last).map(|e| format!("{e:#}"))),
    }
    Ok(report)
}

fn look_at_file(
    file: &Path,
    input: Box<dyn Read>,
    here: &Path,
    root: &Root,
    args: &LintArgs,
    report: &mut Report,
) -> Result<()> {
    let is_input = file == Path::new("-");
    let path = if is_input { here.join("stdin") } else { here.join(file) };
    // What was called by a relative name is shown by one.
    let base = if file.is_absolute() { PathBuf::new() } else { here.to_owned() };
    report.texts.show(Home::Base(base));
    let shown = if is_input { "standard input".into() } else { file.to_string_lossy() };
    let bytes =
        untrusted_file::read_all(input, LARGEST).with_context(|| format!("cannot read {shown}"))?;
    ensure!(!bytes.is_empty(), "{shown} is empty");
    let path = if args.root.is_some() { Path::new("/").join(file) } else { path };
    let format = match args.format {
        Some(format) => Format::from(format),
        None => guess(&path, &bytes).map_err(|error| error.context(shown.into_owned()))?,
    };
    report.look(format, root, &path, &bytes, &facts(args))
}

fn open(file: &Path, args: &LintArgs, root: &Root) -> Result<Box<dyn Read>> {
    Ok(if file == Path::new("-") {
        Box::new(stdin())
    } else if args.root.is_some() {
        Box::new(root.open(file).context("is FILE a path below --root?")?)
    } else {
        let opened = untrusted_file::open(file);
        Box::new(opened.with_context(|| format!("cannot read {}", file.display()))?)
    })
}

/// What can be looked at is, even where something else cannot.
fn look_at_running(args: &LintArgs) -> Result<Report> {
    let wanted = args.format.map(Format::from);
    let proxies = running::proxies().into_iter();
    let mut proxies =
        proxies.filter(|it| wanted.is_none_or(|format| it.format == format)).peekable();
    ensure!(
        proxies.peek().is_some(),
        "--running: no {} runs on this host that may be looked at; is this root?",
        wanted.map_or("nginx, haproxy or envoy", Format::name)
    );
    let mut report = Report::default();
    let mut failures = Vec::new();
    let mut looked_at = 0;
    // Other users' roots are opened as long as that is possible.
    let proxies: Vec<_> = proxies.map(|proxy| (Root::new(&proxy.root), proxy)).collect();
    capabilities::drop_all()?;
    for (root, proxy) in proxies {
        match root.and_then(|root| look_at(&proxy, &root, &mut report, facts(args))) {
            Ok(()) => looked_at += 1,
            Err(error) => {
                failures.push(error.context(format!(
                    "the {} of process {}",
                    proxy.format.name(),
                    proxy.pid
                )));
            }
        }
    }
    match failures.pop() {
        Some(error) if looked_at == 0 => return Err(error),
        last => report.broken.extend(failures.into_iter().chain(last).map(|e| format!("{e:#}"))),
    }
    Ok(report)
}

fn look_at(proxy: &Running, root: &Root, report: &mut Report, given: Facts) -> Result<()> {
    report.texts.show(if proxy.is_here { Home::default() } else { Home::Root(proxy.root.clone()) });
    let parts = proxy.parts(root)?;
    let processors = std::thread::available_parallelism().map(|n| n.get() as u64).ok();
    let facts = Facts {
        version: given.version.or(proxy.version),
        processors: given.processors.or(processors),
        ..given
    };
    match &parts[..] {
        [(path, bytes)] => report.look(proxy.format, root, path, bytes, &facts),
        several => report.look_at_parts(several),
    }
}

fn rule(text: &str) -> Result<&'static str> {
    let known = rules().find(|rule| rule.id == text);
    known.map(|rule| rule.id).context("no rule has this name; --rules names them")
}

fn positive(text: &str) -> Result<f64> {
    let number: f64 = text.parse().ok().context("not a number")?;
    ensure!(number > 0.0 && number.is_finite(), "must be more than nothing");
    Ok(number)
}

#[cfg(test)]
mod tests;
