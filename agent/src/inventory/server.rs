//! Which server program or framework a process is, by which its backlog is set: from its command
//! line, its program, and the libraries it has loaded. The command line itself is not kept: it may
//! hold secrets.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use super::{elf::is_go, facts::Reads};
use crate::untrusted_file::open_magic_link;

/// A server program or framework.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "programs and frameworks, named as they call themselves")]
pub enum Server {
    Tornado,
    Gunicorn,
    Uvicorn,
    Hypercorn,
    /// aiohttp's own server.
    Aiohttp,
    Waitress,
    /// Python with some other server, or none that is known.
    Python,
    Uwsgi,
    /// Node.js.
    Node,
    /// A program written in Go, by its build information.
    Go,
    /// Apache Tomcat.
    Tomcat,
    /// Eclipse Jetty.
    Jetty,
    /// Another program on a Java virtual machine.
    Java,
    /// .NET, most often Kestrel.
    Dotnet,
    Puma,
    Unicorn,
    PhpFpm,
    /// nginx and what is built on it.
    Nginx,
    Haproxy,
    Envoy,
    /// Apache httpd.
    Apache,
    Lighttpd,
    /// Redis, or Valkey.
    Redis,
    /// PostgreSQL.
    Postgres,
    /// MySQL or MariaDB.
    Mysql,
    Memcached,
    /// systemd, which holds the sockets of its socket units.
    Systemd,
}

/// By the exact name of the program, or by what begins the title a process gives itself. A version
/// may follow.
const PROGRAMS: &[(&str, Server)] = &[
    ("gunicorn", Server::Gunicorn),
    ("uvicorn", Server::Uvicorn),
    ("hypercorn", Server::Hypercorn),
    ("waitress-serve", Server::Waitress),
    ("uwsgi", Server::Uwsgi),
    ("uwsgi-core", Server::Uwsgi),
    ("nodejs", Server::Node),
    ("node", Server::Node),
    ("dotnet", Server::Dotnet),
    ("puma", Server::Puma),
    ("unicorn", Server::Unicorn),
    ("unicorn_rails", Server::Unicorn),
    ("php-fpm", Server::PhpFpm),
    ("nginx", Server::Nginx),
    ("nginx-debug", Server::Nginx),
    ("openresty", Server::Nginx),
    ("haproxy", Server::Haproxy),
    ("envoy", Server::Envoy),
    ("apache2", Server::Apache),
    ("httpd", Server::Apache),
    ("httpd-prefork", Server::Apache),
    ("httpd-worker", Server::Apache),
    ("lighttpd", Server::Lighttpd),
    ("redis-server", Server::Redis),
    ("valkey-server", Server::Redis),
    ("postgres", Server::Postgres),
    ("mysqld", Server::Mysql),
    ("mysqld-debug", Server::Mysql),
    ("mariadbd", Server::Mysql),
    ("memcached", Server::Memcached),
    ("systemd", Server::Systemd),
];

/// What an interpreter runs: a module, a script's file name, a class, an archive.
const SCRIPTS: &[(&str, Server)] = &[
    ("gunicorn", Server::Gunicorn),
    ("gunicorn3", Server::Gunicorn),
    ("uvicorn", Server::Uvicorn),
    ("hypercorn", Server::Hypercorn),
    ("waitress", Server::Waitress),
    ("waitress-serve", Server::Waitress),
    ("tornado", Server::Tornado),
    ("aiohttp.web", Server::Aiohttp),
    ("uwsgi", Server::Uwsgi),
    ("puma", Server::Puma),
    ("unicorn", Server::Unicorn),
    ("unicorn_rails", Server::Unicorn),
    ("org.apache.catalina.startup.Bootstrap", Server::Tomcat),
    ("start.jar", Server::Jetty),
];

/// Libraries written in C that come with Python's frameworks.
const LIBRARIES: &[(&str, Server)] = &[
    ("/gunicorn/", Server::Gunicorn),
    ("/tornado/speedups", Server::Tornado),
    ("/aiohttp/_http_parser", Server::Aiohttp),
];

impl Server {
    /// What runs behind `/proc/PID`, given as a directory, the name its kernel keeps of it, and its
    /// command line. May be slow: it opens the process's executable.
    pub(super) fn of_process(
        process: &Path,
        command: &str,
        arguments: &[&str],
        reads: &mut Reads,
    ) -> Option<Self> {
        let exe = fs::read_link(process.join("exe")).unwrap_or_default();
        let program = exe.file_name().and_then(|name| name.to_str()).unwrap_or(command);
        let program = program.strip_suffix(" (deleted)").unwrap_or(program);
        match Self::of_words(program, arguments) {
            Some(Self::Python) => {
                let maps = reads.text(&process.join("maps")).unwrap_or_default();
                Some(Self::of_libraries(&maps).unwrap_or(Self::Python))
            }
            None if is_go_program(&process.join("exe")) => Some(Self::Go),
            found => found,
        }
    }

    /// By program and command line alone.
    fn of_words(program: &str, arguments: &[&str]) -> Option<Self> {
        // Many programs in one, none of which is the one whose name it was called by.
        if program == "busybox" {
            return None;
        }
        let title = arguments.first().copied().unwrap_or_default();
        let named = |word| PROGRAMS.iter().find(|(name, _)| is_named(word, name)).map(|row| row.1);
        // A process can choose its title, but not the name of its program.
        named(program)
            .or_else(|| named(title).filter(|server| *server != Self::Systemd))
            .or_else(|| Self::interpreted(program, arguments))
    }

    /// By what an interpreter was told to run.
    fn interpreted(program: &str, arguments: &[&str]) -> Option<Self> {
        let interpreter = Interpreter::of(program)?;
        let script = interpreter.script(arguments.get(1..).unwrap_or_default());
        let known = script.and_then(|script| {
            SCRIPTS.iter().find(|(name, _)| is_script(script, name)).map(|row| row.1)
        });
        known.or(match interpreter {
            Interpreter::Python => Some(Self::Python),
            Interpreter::Java => Some(Self::Java),
            Interpreter::Ruby => None,
        })
    }

    fn of_libraries(maps: &str) -> Option<Self> {
        LIBRARIES.iter().find(|(path, _)| maps.contains(path)).map(|found| found.1)
    }
}

fn basename(word: &str) -> &str {
    let word = word.split([' ', ':']).next().unwrap_or_default();
    word.rsplit('/').next().unwrap_or(word)
}

/// `php-fpm8.2`, `envoy-1.40` and `python3.13t` have the names of their programs;
/// `node-problem-detector` and `nginx-prometheus-exporter` are other programs.
fn is_named(word: &str, name: &str) -> bool {
    let Some(version) = basename(word).strip_prefix(name) else { return false };
    let version = version.strip_prefix('-').unwrap_or(version).trim_end_matches(['d', 'm', 't']);
    let is_version = version.starts_with(|c: char| c.is_ascii_digit())
        && version.chars().all(|c| c.is_ascii_digit() || c == '.');
    basename(word) == name || is_version
}

/// A module within a package (`uvicorn.main`), or a file in some directory.
fn is_script(script: &str, name: &str) -> bool {
    let file = script.rsplit('/').next().unwrap_or(script);
    file == name || script.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))
}

/// A program that runs another one, which its arguments name.
#[derive(Clone, Copy)]
enum Interpreter {
    Python,
    Ruby,
    Java,
}

impl Interpreter {
    fn of(program: &str) -> Option<Self> {
        let names = [
            ("python", Self::Python),
            ("pypy", Self::Python),
            ("ruby", Self::Ruby),
            ("java", Self::Java),
        ];
        names.into_iter().find(|(name, _)| is_named(program, name)).map(|row| row.1)
    }

    /// What it runs. A name among the script's own arguments is not meant.
    fn script<'a>(self, arguments: &[&'a str]) -> Option<&'a str> {
        match self {
            Self::Python => first_operand(arguments, "WX", "m", "c").map(|found| found.0),
            Self::Ruby => {
                let (script, rest) = first_operand(arguments, "CEIr", "", "e")?;
                match (basename(script), rest) {
                    ("bundle" | "bundler", ["exec", command, ..]) => Some(command),
                    _ => Some(script),
                }
            }
            Self::Java => java_main(arguments),
        }
    }
}

/// The first word that is no option, and those after it. `valued` options take a value, `module`
/// options name what is run, after `code` ones follows a program's text.
fn first_operand<'a, 'b>(
    mut words: &'b [&'a str],
    valued: &str,
    module: &str,
    code: &str,
) -> Option<(&'a str, &'b [&'a str])> {
    while let [word, rest @ ..] = words {
        words = rest;
        let Some(flags) = word.strip_prefix('-') else { return Some((word, rest)) };
        if flags.starts_with('-') {
            words = &rest[usize::from(flags == "-check-hash-based-pycs").min(rest.len())..];
            continue;
        }
        for (at, flag) in flags.char_indices() {
            let value = &flags[at + flag.len_utf8()..];
            if code.contains(flag) {
                return None;
            } else if module.contains(flag) {
                let next = || rest.first().map(|next| (*next, &rest[1..]));
                return if value.is_empty() { next() } else { Some((value, rest)) };
            } else if valued.contains(flag) {
                words = &rest[usize::from(value.is_empty()).min(rest.len())..];
                break;
            }
        }
    }
    None
}

/// `java [options] CLASS`, `java [options] -jar FILE`, `java [options] -m MODULE`.
fn java_main<'a>(arguments: &[&'a str]) -> Option<&'a str> {
    const VALUED: &[&str] = &[
        "-cp",
        "-classpath",
        "--class-path",
        "-p",
        "--module-path",
        "--upgrade-module-path",
        "--add-modules",
        "--limit-modules",
        "--add-opens",
        "--add-exports",
        "--add-reads",
        "--patch-module",
        "--enable-native-access",
    ];
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match *word {
            "-jar" | "-m" | "--module" => return words.next().copied(),
            word if VALUED.contains(&word) => drop(words.next()),
            word if word.starts_with(['-', '@']) => {}
            word => return Some(word),
        }
    }
    None
}

/// Whether an executable was built by Go.
fn is_go_program(exe: &Path) -> bool {
    open_magic_link(exe).is_ok_and(is_go)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_its_command_line() {
        let cases: &[(&str, &str, Option<Server>)] = &[
            ("python3.11", "python3 -m gunicorn app:app -b :8000", Some(Server::Gunicorn)),
            ("python3.11", "/usr/bin/python3 /usr/bin/gunicorn app:app", Some(Server::Gunicorn)),
            ("python3.11", "gunicorn:|master|[app:app]", Some(Server::Gunicorn)),
            ("python3.11", "python -m uvicorn main:app", Some(Server::Uvicorn)),
            ("python3.11", "python /srv/venv/bin/uvicorn main:app", Some(Server::Uvicorn)),
            ("python3.11", "python /srv/venv/bin/hypercorn main:app", Some(Server::Hypercorn)),
            ("python3.11", "python -m aiohttp.web app:init", Some(Server::Aiohttp)),
            ("python3.11", "python3 server.py", Some(Server::Python)),
            ("uwsgi", "uwsgi --http :8000", Some(Server::Uwsgi)),
            ("node", "node server.js", Some(Server::Node)),
            ("nodemon-native", "nodemon-native server.js", None),
            (
                "java",
                "java -cp bootstrap.jar org.apache.catalina.startup.Bootstrap start",
                Some(Server::Tomcat),
            ),
            ("java", "java -jar /opt/jetty/start.jar", Some(Server::Jetty)),
            ("java", "java -jar app.jar", Some(Server::Java)),
            ("dotnet", "dotnet App.dll", Some(Server::Dotnet)),
            ("ruby3.1", "puma|6.4.0|(tcp://0.0.0.0:9292)", Some(Server::Puma)),
            ("ruby3.1", "ruby /usr/bin/unicorn -c x", Some(Server::Unicorn)),
            ("ruby3.1", "ruby app.rb", None),
            ("php-fpm8.2", "php-fpm:|pool|www", Some(Server::PhpFpm)),
            ("nginx", "nginx:|worker|process", Some(Server::Nginx)),
            ("haproxy", "/usr/sbin/haproxy -Ws -f x", Some(Server::Haproxy)),
            ("envoy-1.40", "envoy -c x", Some(Server::Envoy)),
            ("apache2", "/usr/sbin/apache2 -k start", Some(Server::Apache)),
            ("redis-server", "/usr/bin/redis-server|127.0.0.1:6379", Some(Server::Redis)),
            ("valkey-server", "valkey-server *:6379", Some(Server::Redis)),
            ("postgres", "/usr/lib/postgresql/15/bin/postgres -D x", Some(Server::Postgres)),
            ("mariadbd", "/usr/sbin/mariadbd", Some(Server::Mysql)),
            ("memcached", "/usr/bin/memcached -m 64", Some(Server::Memcached)),
            ("systemd", "/lib/systemd/systemd --system", Some(Server::Systemd)),
            ("busybox", "/bin/httpd -f", None),
            ("python3.13t", "python3 -Xdev -Wd -um uvicorn.main app:app", Some(Server::Uvicorn)),
            ("python3.11", "python3 -X dev -W d /usr/bin/gunicorn3 app", Some(Server::Gunicorn)),
            ("pypy3", "pypy3 -mhypercorn app", Some(Server::Hypercorn)),
            ("ruby3.1", "ruby -I lib /usr/bin/bundle exec puma -C x", Some(Server::Puma)),
            ("ruby3.1", "unicorn_rails|worker[0]", Some(Server::Unicorn)),
            ("node18", "node18 server.js", Some(Server::Node)),
            ("nodejs", "nodejs server.js", Some(Server::Node)),
            ("nginx-debug", "nginx:|worker|process", Some(Server::Nginx)),
            ("nginx-1.27.3", "nginx-1.27.3", Some(Server::Nginx)),
            ("php-fpm82", "php-fpm82 -F", Some(Server::PhpFpm)),
            ("java", "java -cp a:b --add-opens x/y=z Main gunicorn", Some(Server::Java)),
            // Other programs, whose names begin or end alike.
            ("node-problem-detector", "/node-problem-detector --logtostderr", None),
            ("node_exporter", "/bin/node_exporter", None),
            ("node-exporter", "/node-exporter", None),
            ("nginx-prometheus-exporter", "/usr/bin/nginx-prometheus-exporter", None),
            ("nginx-ingress-controller", "/nginx-ingress-controller", None),
            ("haproxy_exporter", "haproxy_exporter", None),
            ("haproxy-ingress", "haproxy-ingress", None),
            ("redis_exporter", "/redis_exporter", None),
            ("redis-server-exporter", "redis-server-exporter", None),
            ("envoy-ratelimit", "/bin/envoy-ratelimit", None),
            ("envoy-gateway", "envoy-gateway server", None),
            ("postgres_exporter", "/bin/postgres_exporter", None),
            ("postgres-operator", "/postgres-operator", None),
            ("memcached-exporter", "memcached-exporter", None),
            ("java-sidecar", "java-sidecar", None),
            ("systemd-resolved", "/lib/systemd/systemd-resolved", None),
            ("systemd-journal-gatewayd", "systemd-journal-gatewayd", None),
            ("python-agent", "python-agent", None),
            ("app", "systemd", None),
            // What a script is given is not what runs.
            ("python3.11", "python3 monitor.py --target gunicorn", Some(Server::Python)),
            ("python3.11", "python3 -m monitor uvicorn", Some(Server::Python)),
            ("python3.11", "python3 -c code gunicorn", Some(Server::Python)),
            ("python3.11", "python3 gunicorn-thing.py", Some(Server::Python)),
            ("python3.11", "python3 /srv/uvicorn_monitor", Some(Server::Python)),
            ("ruby3.1", "ruby watch.rb puma", None),
            ("java", "java -jar app.jar start.jar", Some(Server::Java)),
            ("cat", "cat", None),
        ];
        for (program, line, expected) in cases {
            // A title is one argument, blanks and all.
            let words: Vec<String> = line.split(' ').map(|word| word.replace('|', " ")).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            assert_eq!(Server::of_words(program, &words), *expected, "{program}: {line}");
        }
    }

    #[test]
    fn a_framework_is_known_by_what_python_has_loaded() {
        let maps = "7f00 r-xp 0 0 0 /v/lib/python3.11/site-packages/tornado/speedups.abi3.so\n";
        assert_eq!(Server::of_libraries(maps), Some(Server::Tornado));
        assert_eq!(Server::of_libraries("7f00 r-xp 0 0 0 /usr/lib/libc.so.6\n"), None);
    }

    #[test]
    fn this_test_is_no_server_and_not_written_in_go() {
        let own = Path::new("/proc/self");
        assert_eq!(Server::of_process(own, "floodmark", &[], &mut Reads::new(0)), None);
    }
}
