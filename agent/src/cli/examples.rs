//! What `--help` and the manual pages show: a line for each thing that people want of a command. A test
//! parses every line.

/// Of `run`.
pub(super) const RUN: &str = "Examples:
  # serve metrics, and follow an nginx beside it
  floodmark run --nginx-error-log /var/log/nginx/error.log
  # HAProxy speaks syslog; its servers' addresses come from its command socket
  floodmark run --syslog unix:///run/floodmark.sock --haproxy-servers /run/haproxy/admin.sock
  # for Prometheus on another host, with each verdict as a line of JSON
  floodmark run --listen 0.0.0.0:9435 --verdicts";

/// Of `correlate`.
pub(super) const CORRELATE: &str = "Examples:
  # beside the agents that tell on the same subject: floodmark run --nats nats://bus.example:4222
  floodmark correlate --nats nats://bus.example:4222 --json
  # a second reader, on another host
  floodmark correlate --nats nats://bus.example:4222 --name second";

/// Of `diagnose`.
pub(super) const DIAGNOSE: &str = "Examples:
  # in the middle of an incident: what is lost, why, and what to change
  floodmark diagnose --nginx-error-log /var/log/nginx/error.log
  # a whole minute, for a script: the exit status tells, the object says what
  floodmark diagnose --duration 60s --full --json
  # would a longer queue have helped?
  floodmark diagnose --what-if backlog=4096
  # the day after, on another machine
  floodmark diagnose incident.fmr";

/// Of `record`.
pub(super) const RECORD: &str = "Examples:
  # ten minutes, without client addresses and request lines
  floodmark record incident.fmr --duration 10m --redact
  # what the running agent saw in the minutes before the alarm
  floodmark record incident.fmr --from-agent
  # a copy to send, without clients and their requests
  floodmark record send.fmr --redact-from incident.fmr";

/// Of `replay`.
pub(super) const REPLAY: &str = "Examples:
  # the day after, on another machine
  floodmark replay incident.fmr
  floodmark replay incident.fmr --what-if accept-rate=+50%";

/// Of `report`.
pub(super) const REPORT: &str = "Examples:
  floodmark report incident.fmr --output incident.html
  # of the next five minutes; the page needs no network and no scripts, and can be printed
  floodmark report --duration 5m --nginx-error-log /var/log/nginx/error.log --output now.html";

/// Of `watch`.
pub(super) const WATCH: &str = "Examples:
  floodmark watch
  # with the markings of an nginx whose log does not tell of them
  floodmark watch --nginx-uprobes
  # in black and white
  NO_COLOR=1 floodmark watch";

/// Of `listeners`.
pub(super) const LISTENERS: &str = "Examples:
  floodmark listeners
  # for a script: exit status 1 where a queue is filling or something was dropped
  floodmark listeners --only-trouble --json
  # how high queues rise, second by second
  floodmark listeners --watch";

/// Of `raise`.
pub(super) const RAISE: &str = "Examples:
  # end an incident now; the configuration can follow
  floodmark raise 10.0.0.5:8000 --backlog 1024
  # one of several namespaces that listen on this port, from a script
  floodmark raise 8000 --container web --backlog 1024 --yes
  # as it was before
  floodmark raise 10.0.0.5:8000 --undo";

/// Of `lint`.
pub(super) const LINT: &str = "Examples:
  # what nginx itself would read
  nginx -T 2>/dev/null | floodmark lint -
  # in CI: files of a repository, findings for the code host
  floodmark lint --sarif --nginx-version 1.22.1 nginx.conf
  # a package's or an image's tree
  floodmark lint --root image/ /etc/nginx/nginx.conf
  # whatever runs here, in containers too
  floodmark lint --running
  # is keepalive enough for 2000 requests per second of 50 ms each?
  floodmark lint --rate 2000 --latency 0.05 --processors 8 nginx.conf
  floodmark lint haproxy.cfg envoy.yaml";

/// Of `doctor`.
pub(super) const DOCTOR: &str = "Examples:
  # what can be seen on this host, and what stands in the way of more
  floodmark doctor
  # prove it: lose handshakes on purpose, in a namespace of its own
  floodmark doctor --canary";

/// Of `config`.
pub(super) const CONFIG: &str = "Examples:
  floodmark config check /etc/floodmark/floodmark.toml
  floodmark config show";

/// Of `completions`.
pub(super) const COMPLETIONS: &str = "Examples:
  floodmark completions bash > /etc/bash_completion.d/floodmark
  floodmark completions zsh > /usr/local/share/zsh/site-functions/_floodmark
  floodmark completions fish > ~/.config/fish/completions/floodmark.fish";

/// Of `man`.
pub(super) const MAN: &str = "Examples:
  floodmark man | man -l -
  floodmark man --directory /usr/local/share/man/man1";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::Cli;

    /// The words of floodmark's own part of a line for a shell.
    fn words(line: &str) -> Vec<&str> {
        let from = line.find("floodmark").unwrap();
        line[from..].split(['|', '>']).next().unwrap().split_whitespace().collect()
    }

    #[test]
    fn every_command_shows_lines_that_it_takes() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let help = command.get_after_help().unwrap_or_else(|| panic!("{name} shows none"));
            let help = help.to_string();
            let lines = help.lines().skip(1).map(str::trim).filter(|line| !line.starts_with('#'));
            let mut shown = 0;
            for line in lines {
                let words = words(line);
                assert_eq!(words.get(1), Some(&name), "{line}");
                let parsed = Cli::command().try_get_matches_from(&words);
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
                shown += 1;
            }
            assert!(shown > 0, "{name}");
        }
    }

    #[test]
    fn the_command_line_is_whole() {
        Cli::command().debug_assert();
    }
}
