//! Which server program or framework a process is, by which its backlog is set: from its command
//! line, its program, and the libraries it has loaded. The command line itself is not kept: it may
//! hold secrets.

use std::{
    fs::{self, File},
    path::Path,
};

use object::{Object, ReadCache};
use serde::{Deserialize, Serialize};

/// A server program or framework.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Server {
    /// Tornado.
    Tornado,
    /// Gunicorn.
    Gunicorn,
    /// Uvicorn.
    Uvicorn,
    /// Hypercorn.
    Hypercorn,
    /// aiohttp's own server.
    Aiohttp,
    /// Waitress.
    Waitress,
    /// Python with some other server, or none that is known.
    Python,
    /// uWSGI.
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
    /// Puma.
    Puma,
    /// Unicorn.
    Unicorn,
    /// PHP-FPM.
    PhpFpm,
    /// nginx and what is built on it.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// Envoy.
    Envoy,
    /// Apache httpd.
    Apache,
    /// lighttpd.
    Lighttpd,
    /// Redis, or Valkey.
    Redis,
    /// PostgreSQL.
    Postgres,
    /// MySQL or MariaDB.
    Mysql,
    /// memcached.
    Memcached,
    /// systemd, which holds the sockets of its socket units.
    Systemd,
}

/// By the name of the program, or by what begins the title a process gives itself.
const PROGRAMS: &[(&str, Server)] = &[
    ("gunicorn", Server::Gunicorn),
    ("uvicorn", Server::Uvicorn),
    ("hypercorn", Server::Hypercorn),
    ("waitress-serve", Server::Waitress),
    ("uwsgi", Server::Uwsgi),
    ("nodejs", Server::Node),
    ("node", Server::Node),
    ("dotnet", Server::Dotnet),
    ("puma", Server::Puma),
    ("unicorn", Server::Unicorn),
    ("php-fpm", Server::PhpFpm),
    ("nginx", Server::Nginx),
    ("openresty", Server::Nginx),
    ("haproxy", Server::Haproxy),
    ("envoy", Server::Envoy),
    ("apache2", Server::Apache),
    ("httpd", Server::Apache),
    ("lighttpd", Server::Lighttpd),
    ("redis-server", Server::Redis),
    ("valkey-server", Server::Redis),
    ("postgres", Server::Postgres),
    ("mysqld", Server::Mysql),
    ("mariadbd", Server::Mysql),
    ("memcached", Server::Memcached),
    ("systemd", Server::Systemd),
];

/// Arguments by which an interpreter is told what to run: a module, a script, a class.
const MODULES: &[(&str, Server)] = &[
    ("gunicorn", Server::Gunicorn),
    ("uvicorn", Server::Uvicorn),
    ("hypercorn", Server::Hypercorn),
    ("waitress", Server::Waitress),
    ("tornado", Server::Tornado),
    ("aiohttp.web", Server::Aiohttp),
    ("uwsgi", Server::Uwsgi),
    ("puma", Server::Puma),
    ("unicorn", Server::Unicorn),
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
    /// What runs behind `/proc/PID`, given as a directory, and the name its kernel keeps of it.
    pub fn of_process(process: &Path, command: &str) -> Option<Self> {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let arguments: Vec<&str> = line.split('\0').filter(|word| !word.is_empty()).collect();
        let exe = fs::read_link(process.join("exe")).unwrap_or_default();
        let program = exe.file_name().and_then(|name| name.to_str()).unwrap_or(command);
        let program = program.strip_suffix(" (deleted)").unwrap_or(program);
        match Self::of_words(program, &arguments) {
            Some(Self::Python) => {
                let maps = fs::read_to_string(process.join("maps")).unwrap_or_default();
                Some(Self::of_libraries(&maps).unwrap_or(Self::Python))
            }
            None if is_go(&process.join("exe")) => Some(Self::Go),
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
        let named = |name: &str| {
            let begins = |word: &str| begins_as_word(basename(word), name);
            PROGRAMS.iter().any(|(known, _)| *known == name) && (begins(program) || begins(title))
        };
        if let Some((_, server)) = PROGRAMS.iter().find(|(name, _)| named(name)) {
            return Some(*server);
        }
        let interpreter = match basename(program) {
            name if name.starts_with("python") || name.starts_with("pypy") => Self::Python,
            name if name.starts_with("java") => Self::Java,
            name if name.starts_with("ruby") => {
                return MODULES.iter().find(|(name, _)| runs(arguments, name)).map(|found| found.1);
            }
            _ => return None,
        };
        let module = MODULES.iter().find(|(name, _)| runs(arguments, name));
        Some(module.map_or(interpreter, |found| found.1))
    }

    fn of_libraries(maps: &str) -> Option<Self> {
        LIBRARIES.iter().find(|(path, _)| maps.contains(path)).map(|found| found.1)
    }
}

fn basename(word: &str) -> &str {
    let word = word.split([' ', ':']).next().unwrap_or_default();
    word.rsplit('/').next().unwrap_or(word)
}

/// `php-fpm8.2` and `nginx` are; `nodemon` is not `node`.
fn begins_as_word(word: &str, name: &str) -> bool {
    word.strip_prefix(name).is_some_and(|rest| {
        rest.chars().next().is_none_or(|c| c.is_ascii_digit() || c == '.' || c == '-')
    })
}

/// Whether an interpreter was told to run `name`: by `-m name`, as a script, as a class or jar.
fn runs(arguments: &[&str], name: &str) -> bool {
    let is_it = |word: &&&str| {
        let script = word.rsplit('/').next().unwrap_or(word);
        **word == name || script == name || word.starts_with(&format!("{name}."))
    };
    arguments.iter().skip(1).any(|word| is_it(&word))
}

/// Go's linker leaves a section of its own (cmd/link, debug/buildinfo).
fn is_go(exe: &Path) -> bool {
    let Ok(file) = File::open(exe) else { return false };
    let cache = ReadCache::new(file);
    object::File::parse(&cache).is_ok_and(|file| file.section_by_name(".go.buildinfo").is_some())
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
        assert_eq!(Server::of_process(own, "floodmark"), None);
    }
}
