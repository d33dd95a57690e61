//! Running nginx masters.

use std::path::{Path, PathBuf};

use memchr::memmem;

use super::Process;
use crate::{lint::finding::Version, proxy::uprobe::binary};

/// What nginx calls a master process (ngx_master_process_cycle), in front of its command line.
const TITLE: &str = "nginx: master process ";
/// Where nginx lives if it was not built otherwise (auto/options).
const PREFIX: &str = "/usr/local/nginx/";
const CONFIGURATION: &str = "conf/nginx.conf";

/// Its configuration file, where the process is a master.
pub fn configuration(process: &Process) -> Option<PathBuf> {
    let line = process.words.join(" ");
    let arguments = line.strip_prefix(TITLE)?;
    Some(file(arguments, &Built::of(&program(process)), &process.working))
}

/// As its program message.
pub fn version(process: &Process) -> Option<Version> {
    binary::version(&program(process))?.parse().ok()
}

fn program(process: &Process) -> Vec<u8> {
    binary::program_of_process(process.pid).unwrap_or_default()
}

/// Where nginx was told to live when it was built, from the text for `-V`.
struct Built {
    prefix: PathBuf,
    configuration: PathBuf,
}

impl Built {
    fn of(program: &[u8]) -> Self {
        let option = |name: &[u8]| {
            let at = memmem::find(program, name)? + name.len();
            let end =
                program[at..].iter().take(4096).position(|b| matches!(b, b' ' | 0 | b'\n'))?;
            Some(PathBuf::from(String::from_utf8_lossy(&program[at..at + end]).into_owned()))
        };
        Self {
            prefix: option(b"--prefix=").unwrap_or_else(|| PREFIX.into()),
            configuration: option(b"--conf-path=").unwrap_or_else(|| CONFIGURATION.into()),
        }
    }
}

/// `-c`, relative to `-p`, relative to where it was started.
fn file(arguments: &str, built: &Built, working: &Path) -> PathBuf {
    let words: Vec<&str> = arguments.split_ascii_whitespace().collect();
    // `-c FILE` and `-cFILE`, as ngx_get_options takes them.
    let option = |name: &str| {
        let at = words.iter().position(|word| word.starts_with(name))?;
        let value = &words[at][name.len()..];
        if value.is_empty() { words.get(at + 1).copied() } else { Some(value) }
    };
    let prefix = option("-p").map_or_else(|| built.prefix.clone(), PathBuf::from);
    let file = option("-c").map_or_else(|| built.configuration.clone(), PathBuf::from);
    working.join(prefix).join(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_found_as_nginx_finds_it() {
        let debian =
            Built::of(b"x --prefix=/usr/share/nginx --conf-path=/etc/nginx/nginx.conf y\0");
        let plain = Built::of(b"");
        let found =
            |arguments, built| file(arguments, built, Path::new("/srv")).display().to_string();
        assert_eq!(found("/usr/sbin/nginx -g daemon off;", &debian), "/etc/nginx/nginx.conf");
        assert_eq!(found("nginx", &plain), "/usr/local/nginx/conf/nginx.conf");
        assert_eq!(found("nginx -c /tmp/n.conf", &debian), "/tmp/n.conf");
        assert_eq!(found("nginx -p/opt/n -c n.conf", &debian), "/opt/n/n.conf");
        assert_eq!(found("nginx -p here -c n.conf", &debian), "/srv/here/n.conf");
    }
}
