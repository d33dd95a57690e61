//! Clients and neighbours that write a proxy's words: no event may come of them, and none of the
//! proxy's own may be lost beside them.

use std::{
    fs::{self, Permissions},
    net::{SocketAddr, UdpSocket},
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::PathBuf,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Case, Check, Served, Target};
use crate::{
    nginx::{NGINX, spawn},
    serving::{free_address, until_connected},
};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "log-lines",
        attack: "a client's requests break nginx's error log into lines of its own",
        run: a_client_writes_lines,
    },
    Case {
        name: "log-neighbour",
        attack: "another user's process is called nginx and writes to nginx's log",
        run: a_neighbour_writes_lines,
    },
    Case {
        name: "syslog-program",
        attack: "sshd logs a client's words in HAProxy's form",
        run: another_program_logs,
    },
    Case {
        name: "cri-streams",
        attack: "a container's two streams interleave, one in pieces",
        run: two_streams_interleave,
    },
];

const FORGE: &str = include_str!("logs/forge.py");
const NEIGHBOUR: &str = include_str!("logs/neighbour.py");
/// How long the agent has for what was written.
const PATIENCE: Duration = Duration::from_secs(20);

/// A real nginx with static files, a realm with a password and an upstream that refuses.
struct Nginx {
    master: Child,
    addr: SocketAddr,
    log: PathBuf,
}

impl Nginx {
    fn start(target: &Target) -> Result<Self> {
        let (addr, refusing) = (free_address()?, free_address()?);
        let directory = target.directory();
        let configuration = format!(
            "daemon off; user root; pid nginx.pid; worker_processes 2; error_log error.log warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    large_client_header_buffers 4 32k;
    server {{
        listen {addr};
        root static;
        location /app {{ proxy_pass http://{refusing}; }}
        location /raw {{ proxy_pass http://{refusing}$uri; }}
        location /secret {{ auth_basic on; auth_basic_user_file users; }}
        location /again {{ rewrite ^/again(.*)$ /other$1 last; }}
    }}
}}
"
        );
        fs::create_dir_all(directory.join("static"))?;
        fs::write(directory.join("users"), "known:{PLAIN}x\n")?;
        fs::write(directory.join("nginx.conf"), configuration)?;
        let log = directory.join("error.log");
        fs::write(&log, "")?;
        fs::set_permissions(&log, Permissions::from_mode(0o666))?;
        let master = spawn(Command::new(NGINX), directory)?;
        let nginx = Self { master, addr, log };
        until_connected(addr, "nginx")?;
        Ok(nginx)
    }

    /// Asks for what the upstream refuses.
    fn fail(&self) {
        let url = format!("http://{}/app", self.addr);
        let _ = ureq::get(url).config().timeout_global(Some(Duration::from_secs(5))).build().call();
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM to the master ends its workers too.
        let _ = kill(Pid::from_raw(self.master.id() as i32), Signal::SIGTERM);
        let _ = self.master.wait();
    }
}

/// Starts the agent and waits until it follows its sources: before its first tick there are no metrics.
fn serve(target: &Target, arguments: &[&str]) -> Result<Served> {
    let served = target.serve(arguments)?;
    let begun = Instant::now();
    while served.get("/metrics").is_err() {
        ensure!(begun.elapsed() < PATIENCE, "the agent has no metrics");
        thread::sleep(Duration::from_millis(100));
    }
    Ok(served)
}

/// Sum of a counter.
fn count(served: &Served, name: &str, labels: &[&str]) -> Result<f64> {
    Ok(served.metric(&format!("{name}{{"), labels)?.iter().sum())
}

/// Waits until the agent has counted so many events, and then whether more come.
fn events(served: &Served, expected: f64) -> Result<f64> {
    let begun = Instant::now();
    while count(served, "floodmark_proxy_events_total", &[])? < expected
        && begun.elapsed() < PATIENCE
    {
        thread::sleep(Duration::from_millis(200));
    }
    thread::sleep(Duration::from_secs(2));
    count(served, "floodmark_proxy_events_total", &[])
}

fn exactly(what: &str, seen: f64, expected: f64) -> Check {
    Check::that(format!("{what}: {expected}"), (seen - expected).abs() < 0.5, seen.to_string())
}

fn a_client_writes_lines(target: &Target) -> Result<Vec<Check>> {
    let nginx = Nginx::start(target)?;
    let log = nginx.log.display().to_string();
    let served = serve(target, &["--nginx-error-log", &log])?;
    // The agent has begun to follow the log before it serves.
    let genuine = target.directory().join("genuine");
    let arguments = [
        nginx.addr.to_string(),
        nginx.master.id().to_string(),
        target.directory().join("static").display().to_string(),
        genuine.display().to_string(),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    ensure!(target.python(FORGE, &arguments)?.wait()?, "the attack failed");
    let genuine: f64 = fs::read_to_string(genuine)?.trim().parse()?;
    let seen = events(&served, genuine)?;
    let mut forged = 0.0;
    for event in ["peer_marked", "peer_back", "no_live_peers"] {
        let label = format!("event=\"{event}\"");
        forged += count(&served, "floodmark_proxy_events_total", &[&label])?;
    }
    Ok(vec![
        Check::that(
            "no more events than failures",
            seen <= genuine,
            format!("{seen} of {genuine}"),
        ),
        // One that stands where a record might have been cut is left out.
        Check::that(
            "nine of ten failures are seen",
            seen >= 0.9 * genuine,
            format!("{seen} of {genuine}"),
        ),
        exactly("markings and outages, all of them forged", forged, 0.0),
        Check::that(
            "lines that are not nginx's own are counted",
            count(&served, "floodmark_source_lines_foreign_total", &[])? > 0.0,
            count(&served, "floodmark_source_lines_foreign_total", &[])?.to_string(),
        ),
        exactly(
            "events whose writer is not known",
            count(&served, "floodmark_source_events_unverified_total", &[])?,
            0.0,
        ),
    ])
}

fn a_neighbour_writes_lines(target: &Target) -> Result<Vec<Check>> {
    let nginx = Nginx::start(target)?;
    let log = nginx.log.display().to_string();
    let served = serve(target, &["--nginx-error-log", &log])?;
    // A copy of nginx itself, which a user runs, has the log open while it is asked for writers.
    let attacker = target.python(NEIGHBOUR, &[&log])?;
    thread::sleep(Duration::from_secs(3));
    nginx.fail();
    let seen = events(&served, 1.0)?;
    drop(attacker);
    Ok(vec![
        exactly("events of nginx's own", seen, 1.0),
        Check::that(
            "the neighbour's lines are counted",
            count(&served, "floodmark_source_lines_foreign_total", &[])? > 0.0,
            count(&served, "floodmark_source_lines_foreign_total", &[])?.to_string(),
        ),
    ])
}

fn another_program_logs(target: &Target) -> Result<Vec<Check>> {
    let path = target.directory().join("syslog.sock");
    let bound = free_udp()?;
    let unix = format!("unix://{}", path.display());
    let udp = format!("nginx=udp://{bound}");
    let served = serve(target, &["--syslog", &unix, "--syslog", &udp])?;
    let state = "Server app/s1 is DOWN, reason: Layer4 timeout, check duration: 300ms.";
    let sender = UnixDatagram::unbound()?;
    let network = UdpSocket::bind("127.0.0.1:0")?;
    let date = Command::new("date").args(["-u", "+%b %e %H:%M:%S"]).output()?.stdout;
    let date = String::from_utf8(date)?.trim().to_owned();
    for program in ["sshd[812]", "sudo", "kernel", "CRON[3]", "haproxyd-fake[1]x"] {
        let message = format!("<38>{date} {program}: {state}");
        sender.send_to(message.as_bytes(), &path)?;
        network.send_to(message.as_bytes(), bound)?;
    }
    // Bound to nginx, the input takes nothing of HAProxy's.
    let genuine = format!("<129>{date} haproxy[812]: {state}");
    network.send_to(genuine.as_bytes(), bound)?;
    sender.send_to(genuine.as_bytes(), &path)?;
    let seen = events(&served, 1.0)?;
    Ok(vec![
        exactly("events of HAProxy's own", seen, 1.0),
        exactly(
            "events whose writer is not known",
            count(&served, "floodmark_source_events_unverified_total", &[])?,
            1.0,
        ),
    ])
}

fn free_udp() -> Result<SocketAddr> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?)
}

fn two_streams_interleave(target: &Target) -> Result<Vec<Check>> {
    let log = target.directory().join("0.log");
    fs::write(&log, "")?;
    let named = format!("nginx={}", log.display());
    let served = serve(target, &["--proxy-log", &named])?;
    let date = |format: &str| -> Result<String> {
        let said = Command::new("date").args(["-u", format]).output()?.stdout;
        Ok(String::from_utf8(said)?.trim().to_owned())
    };
    let (now, local) = (date("+%Y-%m-%dT%H:%M:%S.%NZ")?, date("+%Y/%m/%d %H:%M:%S")?);
    let check =
        |n: u8| format!("{now} stderr F {local} [error] 7#7: disable check peer: 10.0.0.{n}:80\n");
    let out = |tag: &str, text: &str| format!("{now} stdout {tag} {text}\n");
    // In pieces of standard output: a line that, were it one of standard error, would be an event.
    let planted = format!("{local} [error] 7#7: disable check peer: 6.6.6.6:80");
    let (begin, end) = planted.split_at(30);
    let lines = [
        check(1),
        out("P", "192.0.2.1 - - GET /aaaa"),
        check(2),
        out("F", "bbbb"),
        check(3),
        out("P", "x "),
        format!("{now} stderr P {begin}\n"),
        out("F", end),
        format!("{now} stderr F and no more\n"),
    ];
    fs::write(&log, lines.concat())?;
    let seen = events(&served, 3.0)?;
    Ok(vec![exactly("peers taken out on standard error", seen, 3.0)])
}
