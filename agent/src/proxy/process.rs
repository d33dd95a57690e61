//! Which processes are a proxy: by the program they run and by who started them, for any user can give a
//! process a proxy's name (prctl(2)), or run a copy of the program.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::ProxyKind;

/// Whether the process is one of the proxy's: it runs the proxy's program, and root, the proxy's unit or a
/// container of the system has started it.
pub(crate) fn is(proxy: ProxyKind, pid: u32) -> bool {
    Process(pid).is(proxy)
}

/// The processes of the proxy that procfs shows.
pub(crate) fn all(proxy: ProxyKind) -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(move |pid| is(proxy, *pid))
}

/// The number by which a process or thread knows itself: in the innermost PID namespace, the last of
/// `NSpid` in proc_pid_status(5).
pub(super) fn own_number(directory: &Path) -> Option<u32> {
    let status = fs::read_to_string(directory.join("status")).ok()?;
    field(&status, "NSpid:")?.last()?.parse().ok()
}

struct Process(u32);

impl Process {
    fn is(&self, proxy: ProxyKind) -> bool {
        let Some(program) = self.program() else { return false };
        let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        runs(proxy, name) && (self.is_roots(&program) || self.is_managed(name))
    }

    /// The file that it executes, which may have been replaced since.
    fn program(&self) -> Option<PathBuf> {
        let link = fs::read_link(self.directory().join("exe")).ok()?;
        let shown = link.to_str()?;
        Some(shown.strip_suffix(" (deleted)").unwrap_or(shown).into())
    }

    /// Whether root runs it, or the process that started it as another of the same program: a worker
    /// gives its privileges up.
    fn is_roots(&self, program: &Path) -> bool {
        let Some(status) = self.status() else { return false };
        let is_root =
            |status: &str| field(status, "Uid:").and_then(|mut uids| uids.next()) == Some("0");
        let parent = || {
            let parent = Self(field(&status, "PPid:")?.next()?.parse().ok()?);
            let is_same = parent.program().is_some_and(|other| other == *program);
            parent.status().filter(|_| is_same)
        };
        is_root(&status) || parent().is_some_and(|status| is_root(&status))
    }

    fn is_managed(&self, name: &str) -> bool {
        let is_systems = |group: &str| is_systems(group, name);
        groups(self.0).lines().any(|line| line.splitn(3, ':').nth(2).is_some_and(is_systems))
    }

    fn status(&self) -> Option<String> {
        fs::read_to_string(self.directory().join("status")).ok()
    }

    fn directory(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.0))
    }
}

/// Whether a control group is a container of the system's, or a unit with the program's name: users'
/// processes run in others, such as cron's. What lies below `user.slice` is made by users.
fn is_systems(group: &str, program: &str) -> bool {
    let is_its = |unit: &str| unit.ends_with(".service") && unit.contains(program);
    let parts = || group.split('/');
    parts().all(|part| part != "user.slice")
        && parts().any(|part| is_its(part) || container_in(part).is_some())
}

/// The container's id, 64 hexadecimal digits, in a path or a control group's name.
pub(super) fn container_in(text: &str) -> Option<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words
        .into_iter()
        .find(|word| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The control groups that the process belongs to, as procfs shows them.
pub(super) fn groups(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default()
}

/// Whether a program's file bears the proxy's name, with a version behind it or not.
fn runs(proxy: ProxyKind, name: &str) -> bool {
    let names: &[&str] = match proxy {
        ProxyKind::Nginx => &["nginx", "nginx-debug", "openresty", "tengine", "angie", "freenginx"],
        ProxyKind::Haproxy => &["haproxy"],
        ProxyKind::Envoy => &["envoy"],
        ProxyKind::Caddy => &["caddy"],
        ProxyKind::Apache => &["apache2", "httpd"],
        ProxyKind::Traefik => &["traefik"],
    };
    let is_version = |rest: &str| {
        rest.is_empty()
            || rest
                .strip_prefix(['-', '.'])
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    names.iter().any(|own| name.strip_prefix(own).is_some_and(is_version))
}

fn field<'a>(status: &'a str, name: &str) -> Option<std::str::SplitAsciiWhitespace<'a>> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_known_by_its_whole_name() {
        for name in ["nginx", "nginx-1.30.4", "openresty", "angie"] {
            assert!(runs(ProxyKind::Nginx, name), "{name}");
        }
        for name in ["nginx-prometheus-exporter", "nginxx", "my-nginx", "python3.11", ""] {
            assert!(!runs(ProxyKind::Nginx, name), "{name}");
        }
        assert!(runs(ProxyKind::Envoy, "envoy-1.40"));
        assert!(!runs(ProxyKind::Haproxy, "haproxy_exporter"));
    }

    #[test]
    fn a_users_groups_are_not_the_systems() {
        let id = "3f".repeat(32);
        for group in [
            "/system.slice/nginx.service",
            &format!("/system.slice/docker-{id}.scope"),
            &format!("/docker/{id}"),
            &format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"),
        ] {
            assert!(is_systems(group, "nginx"), "{group}");
        }
        for group in [
            "/",
            "/user.slice/user-1000.slice/session-1.scope",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service",
            &format!("/user.slice/user-1000.slice/user@1000.service/docker-{id}.scope"),
            "/system.slice",
            "/system.slice/cron.service",
        ] {
            assert!(!is_systems(group, "nginx"), "{group}");
        }
    }

    #[test]
    fn a_name_alone_makes_no_proxy() {
        // This test's own program is none, whatever it calls itself.
        assert!(!is(ProxyKind::Nginx, std::process::id()));
        assert_eq!(own_number(Path::new("/proc/self")), Some(std::process::id()));
    }

    #[test]
    fn a_log_of_a_container_names_it() {
        let id = "0123456789abcdef".repeat(4);
        let path = format!("/var/log/containers/web-1_shop_nginx-{id}.log");
        assert_eq!(container_in(&path), Some(id.as_str()));
        assert_eq!(container_in("/var/log/nginx/error.log"), None);
    }
}
