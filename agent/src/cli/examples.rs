//! Examples in `--help` and the manual pages: one for each common use. A test parses every line.

/// Of `run`.
pub(super) const RUN: &str = "Examples:
  # serve metrics, and follow nginx's log
  floodmark run --nginx-error-log /var/log/nginx/error.log
  # receive HAProxy's syslog, and read its servers' addresses from its command socket
  floodmark run --syslog unix:///run/floodmark.sock --haproxy-servers /run/haproxy/admin.sock
  # for Prometheus on another host; write each verdict as a line of JSON
  floodmark run --listen 0.0.0.0:9435 --verdicts";

/// Of `correlate`.
pub(super) const CORRELATE: &str = "Examples:
  # for agents that publish to the same server: floodmark run --nats nats://bus.example:4222
  floodmark correlate --nats nats://bus.example:4222 --json
  # a second reader, on another host
  floodmark correlate --nats nats://bus.example:4222 --name second";

/// Of `diagnose`.
pub(super) const DIAGNOSE: &str = "Examples:
  # during an incident: what is lost, why, and what to change
  floodmark diagnose --nginx-error-log /var/log/nginx/error.log
  # for a script: a whole minute; the exit status says whether there is trouble
  floodmark diagnose --duration 60s --full --json
  # would a longer queue have helped?
  floodmark diagnose --what-if backlog=4096
  # later, on another machine
  floodmark diagnose incident.fmr";

/// Of `record`.
pub(super) const RECORD: &str = "Examples:
  # ten minutes, without client addresses and request lines
  floodmark record incident.fmr --duration 10m --redact
  # the minutes before an alert, from the running agent
  floodmark record incident.fmr --from-agent
  # a copy without client addresses and request lines
  floodmark record send.fmr --redact-from incident.fmr";

/// Of `replay`.
pub(super) const REPLAY: &str = "Examples:
  # later, on another machine
  floodmark replay incident.fmr
  floodmark replay incident.fmr --what-if accept-rate=+50%";

/// Of `report`.
pub(super) const REPORT: &str = "Examples:
  floodmark report incident.fmr --output incident.html
  # the next five minutes; the page needs no network and no scripts
  floodmark report --duration 5m --nginx-error-log /var/log/nginx/error.log --output now.html";

/// Of `watch`.
pub(super) const WATCH: &str = "Examples:
  floodmark watch
  # with markings of an nginx whose log level hides them
  floodmark watch --nginx-uprobes
  # without colours
  NO_COLOR=1 floodmark watch";

/// Of `listeners`.
pub(super) const LISTENERS: &str = "Examples:
  floodmark listeners
  # for a script: exit status 1 if a queue is filling or something was dropped
  floodmark listeners --only-trouble --json
  # high-water marks, updated every second
  floodmark listeners --watch";

/// Of `raise`.
pub(super) const RAISE: &str = "Examples:
  # end an incident now; change the configuration later
  floodmark raise 10.0.0.5:8000 --backlog 1024
  # from a script, if several namespaces listen on this port
  floodmark raise 8000 --container web --backlog 1024 --yes
  # restore the earlier limit
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
  # what this kernel allows, and what prevents more
  floodmark doctor
  # run the self-test: drop handshakes on purpose, in a namespace of its own
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
