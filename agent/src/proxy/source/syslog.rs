//! Syslog over UDP, TCP and Unix datagram sockets, as tasks of the agent's runtime.

use std::{
    fs,
    io::ErrorKind,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use log::info;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream, UdpSocket, UnixDatagram},
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Frames, Interpreter, SourceStats, framing::Frame, pace::Pace, udp_drops};
use crate::{essential, proxy::event::ProxyEvent, time::UnixMs};

/// Longer datagrams are cut by the kernel; nginx sends 2078 bytes at most, HAProxy what `len` allows.
const LONGEST_DATAGRAM: usize = 64 * 1024;
/// What the kernel keeps for the agent while it is busy. SO_RCVBUF takes what `rmem_max` allows.
const RECEIVE_BUFFER: usize = 4 << 20;
/// How often the kernel's drops are looked up.
const LOOK: Duration = Duration::from_secs(1);
/// Senders connected at once.
const MOST_CONNECTIONS: usize = 256;
/// A sender that is silent for so long has sent all of a record.
const SILENCE: Duration = Duration::from_millis(200);
/// After an error that may go on, such as no descriptors left.
const PAUSE: Duration = Duration::from_millis(200);

/// Receives datagrams at `addr`.
pub(super) fn udp(
    addr: SocketAddr,
    mut interpreter: Interpreter,
    events: mpsc::Sender<ProxyEvent>,
    stop: CancellationToken,
) -> Result<Arc<SourceStats>> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, None)
        .and_then(|socket| bound(socket, &addr.into()))
        .with_context(|| format!("cannot listen at --syslog udp://{addr}; set another address"))?;
    let socket = UdpSocket::from_std(socket.into()).context("registering the socket")?;
    let stats = Arc::clone(interpreter.stats());
    let pace = Arc::new(Pace::default());
    let receive = async move {
        let inode = udp_drops::inode(&socket);
        let mut buffer = vec![0; LONGEST_DATAGRAM];
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                received = socket.recv(&mut buffer) => match received {
                    Ok(length) => {
                        if !datagram(&mut interpreter, &buffer[..length], &events, &pace).await {
                            return;
                        }
                    }
                    Err(_) => pause(interpreter.stats()).await,
                },
                _ = look.tick() => {
                    if let Some(dropped) = inode.and_then(udp_drops::of) {
                        interpreter.stats().dropped.store(dropped, Ordering::Relaxed);
                    }
                }
            }
        }
    };
    essential::helper("syslog", async move {
        stop.run_until_cancelled(receive).await;
    });
    Ok(stats)
}

/// Receives datagrams at the path, which it takes over from one who has left it. Anybody may send:
/// nginx's workers are not root, and lines are trusted for nothing but their form.
pub(super) fn unix(
    path: &Path,
    mut interpreter: Interpreter,
    events: mpsc::Sender<ProxyEvent>,
    stop: CancellationToken,
) -> Result<Arc<SourceStats>> {
    let shown = path.display();
    clear(path)
        .with_context(|| format!("cannot listen at --syslog unix://{shown}; set another path"))?;
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)
        .and_then(|socket| bound(socket, &SockAddr::unix(path)?))
        .with_context(|| format!("cannot listen at --syslog unix://{shown}; set another path"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))
        .with_context(|| format!("making {shown} writable for proxies"))?;
    let socket = UnixDatagram::from_std(socket.into()).context("registering the socket")?;
    let stats = Arc::clone(interpreter.stats());
    let pace = Arc::new(Pace::default());
    let receive = async move {
        let mut buffer = vec![0; LONGEST_DATAGRAM];
        loop {
            match socket.recv(&mut buffer).await {
                Ok(length) => {
                    if !datagram(&mut interpreter, &buffer[..length], &events, &pace).await {
                        return;
                    }
                }
                Err(_) => pause(interpreter.stats()).await,
            }
        }
    };
    essential::helper("syslog", async move {
        stop.run_until_cancelled(receive).await;
    });
    Ok(stats)
}

/// Accepts connections at `addr`.
pub(super) fn tcp(
    addr: SocketAddr,
    interpreter: Interpreter,
    events: mpsc::Sender<ProxyEvent>,
    stop: CancellationToken,
) -> Result<Arc<SourceStats>> {
    let listener = Socket::new(Domain::for_address(addr), Type::STREAM, None)
        .and_then(|socket| {
            socket.set_reuse_address(true)?;
            let socket = bound(socket, &addr.into())?;
            socket.listen(128)?;
            Ok(socket)
        })
        .with_context(|| format!("cannot listen at --syslog tcp://{addr}; set another address"))?;
    let listener = TcpListener::from_std(listener.into()).context("registering the socket")?;
    let stats = Arc::clone(interpreter.stats());
    let pace = Arc::new(Pace::default());
    let connections = Arc::new(AtomicUsize::new(0));
    let stopped = stop.clone();
    let accept = async move {
        while !events.is_closed() {
            let Ok((stream, peer)) = listener.accept().await else {
                pause(interpreter.stats()).await;
                continue;
            };
            if connections.fetch_add(1, Ordering::Relaxed) >= MOST_CONNECTIONS {
                connections.fetch_sub(1, Ordering::Relaxed);
                SourceStats::count(&interpreter.stats().dropped);
                continue;
            }
            info!("{}: {peer} connected", interpreter.name());
            let (reader, events) = (interpreter.for_stream(), events.clone());
            let connections = Arc::clone(&connections);
            let (stop, pace) = (stop.clone(), Arc::clone(&pace));
            essential::helper("syslog", async move {
                stop.run_until_cancelled(connection(stream, reader, events, &pace)).await;
                connections.fetch_sub(1, Ordering::Relaxed);
            });
        }
    };
    essential::helper("syslog", async move {
        stopped.run_until_cancelled(accept).await;
    });
    Ok(stats)
}

async fn connection(
    mut stream: TcpStream,
    mut interpreter: Interpreter,
    events: mpsc::Sender<ProxyEvent>,
    pace: &Pace,
) {
    let mut frames = Frames::default();
    let mut chunk = vec![0; 16 * 1024];
    loop {
        match timeout(SILENCE, stream.read(&mut chunk)).await {
            Ok(Ok(0)) => break,
            Ok(Ok(length)) => frames.push(&chunk[..length]),
            Err(_) if frames.held() == 0 => {
                if !hand_over(interpreter.settle(), &events).await {
                    return;
                }
            }
            Err(_) => {}
            Ok(Err(_)) => {
                SourceStats::count(&interpreter.stats().errors);
                break;
            }
        }
        for frame in frames.by_ref() {
            match frame {
                Frame::Message(message) => {
                    pace.turn().await;
                    let heard = interpreter.read(message.trim_ascii_end(), UnixMs::now());
                    if !hand_over(heard, &events).await {
                        return;
                    }
                }
                Frame::TooLong => SourceStats::count(&interpreter.stats().lines_too_long),
            }
        }
    }
    let last = frames.ending().map(|last| interpreter.read(&last, UnixMs::now()));
    let heard = last.into_iter().flatten().chain(interpreter.settle());
    hand_over(heard.collect(), &events).await;
}

/// One datagram, which holds one record of the proxy's, whole; false when nobody listens any more.
async fn datagram(
    interpreter: &mut Interpreter,
    message: &[u8],
    events: &mpsc::Sender<ProxyEvent>,
    pace: &Pace,
) -> bool {
    pace.turn().await;
    let mut heard = interpreter.read(message.trim_ascii_end(), UnixMs::now());
    heard.append(&mut interpreter.settle());
    hand_over(heard, events).await
}

/// False when nobody listens any more.
async fn hand_over(heard: Vec<ProxyEvent>, events: &mpsc::Sender<ProxyEvent>) -> bool {
    for event in heard {
        if events.send(event).await.is_err() {
            return false;
        }
    }
    !events.is_closed()
}
fn bound(socket: Socket, addr: &SockAddr) -> std::io::Result<Socket> {
    socket.set_nonblocking(true)?;
    // As much as rmem_max allows; root may have more.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    socket.bind(addr)?;
    Ok(socket)
}

/// Makes way for a new socket where an old one is left behind, and for nothing else.
fn clear(path: &Path) -> Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if !metadata.file_type().is_socket() {
        bail!("the path exists and is not a socket");
    }
    let probe = std::os::unix::net::UnixDatagram::unbound()?;
    match probe.connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(fs::remove_file(path)?),
        Ok(()) => bail!("another process already listens there"),
        Err(error) => Err(error.into()),
    }
}

async fn pause(stats: &SourceStats) {
    SourceStats::count(&stats.errors);
    sleep(PAUSE).await;
}

#[cfg(test)]
mod tests;
