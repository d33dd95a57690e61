//! Programs that listen on a host's port for a container and connect onward: Docker's userland
//! proxy, and what rootless container engines have in its place.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
};

use super::Owner;

/// Docker's, which says on its command line where it leads.
const DOCKER_PROXY: &str = "docker-proxy";

/// Where the process forwards what it accepts, if it is a forwarder.
pub(super) fn onward(owner: &Owner) -> Option<SocketAddr> {
    if owner.command != DOCKER_PROXY {
        return None;
    }
    let line = fs::read(format!("/proc/{}/cmdline", owner.pid)).ok()?;
    let words: Vec<String> = line
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    docker_proxy(&words)
}

/// `docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 8080 -container-ip 172.17.0.2
/// -container-port 80` (moby: cmd/docker-proxy).
fn docker_proxy(words: &[String]) -> Option<SocketAddr> {
    let after = |name: &str| {
        let at = words.iter().position(|word| word.trim_start_matches('-') == name)?;
        words.get(at + 1)
    };
    if after("proto").is_some_and(|protocol| protocol != "tcp") {
        return None;
    }
    let ip: IpAddr = after("container-ip")?.parse().ok()?;
    Some(SocketAddr::new(ip, after("container-port")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_docker_proxy_says_where_it_leads() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let line = "/usr/bin/docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 8080 \
                    -container-ip 172.17.0.2 -container-port 80 -use-listen-fd";
        assert_eq!(docker_proxy(&words(line)), Some("172.17.0.2:80".parse().unwrap()));
        assert_eq!(docker_proxy(&words(&line.replace("tcp", "udp"))), None);
        assert_eq!(docker_proxy(&words("docker-proxy -container-ip x -container-port 80")), None);
        assert_eq!(docker_proxy(&words("docker-proxy -container-ip 172.17.0.2")), None);
    }
}
