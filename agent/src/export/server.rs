//! The HTTP server: accepts connections, keeps them within limits and ends them.

mod connections;
mod guard;
mod stream;

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use axum::{
    Router,
    body::Body,
    http::Request,
    middleware::{from_fn_with_state, map_response},
};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::TokioIo,
    server::graceful::{GracefulShutdown, Watcher},
    service::TowerToHyperService,
};
use log::warn;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{interval, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use self::{
    connections::{Connections, Place},
    guard::{Hosts, own_hosts_only, with_headers},
    stream::Stream,
};
use super::web::Web;

pub use self::guard::parse_host;
pub(super) use self::{connections::Source, guard::CONTENT_SECURITY_POLICY};

/// What anybody may ask, and what does not count as a page.
pub(super) const HEALTH_PATHS: [&str; 2] = ["/healthz", "/readyz"];
/// Connections that may wait to be accepted; the kernel takes the smaller of this and somaxconn.
const BACKLOG: u32 = 4096;
/// How long a request may go on after the agent was told to stop.
const GRACE: Duration = Duration::from_millis(500);
/// How long a client may leave what was sent to it unacknowledged or unread (tcp(7)).
const UNREAD: Duration = Duration::from_secs(30);
/// A request's head at most; hyper answers 431 to a longer one.
const LONGEST_HEAD: usize = 16 << 10;
/// Descriptors at most: connections, and those that are about to close.
const SLOTS: usize = connections::MOST + 64;
/// The soft limit of descriptors to ask for.
const DESCRIPTORS: u64 = 8192;
/// How long to wait after a connection could not be accepted, for want of descriptors for example.
const RETRY: Duration = Duration::from_millis(50);
/// How often connections are looked at that have taken too long.
const SWEEP: Duration = Duration::from_secs(1);
/// How often it is logged that connections were closed to make room.
const REPORT: Duration = Duration::from_secs(60);

/// Takes the address.
///
/// # Errors
///
/// When it is taken already or not to be had, with what to do about it.
pub async fn bind(addr: SocketAddr) -> Result<TcpListener> {
    raise_descriptor_limit();
    listen(addr)
        .with_context(|| format!("cannot listen on {addr}; choose another address with --listen"))
}

/// Without a descriptor, nothing can be accepted, and nobody makes room: of 1024, which is the usual soft
/// limit, many clients and many logs leave none.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(DESCRIPTORS)), hard)
    });
    if let Err(error) = raised {
        warn!("cannot raise the limit of file descriptors: {error}");
    }
}

fn listen(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As tokio and std do: an address whose old connections are in TIME_WAIT is free.
    socket.set_reuseaddr(true)?;
    // Connections inherit it.
    SockRef::from(&socket).set_tcp_user_timeout(Some(UNREAD))?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)?.into_std()
}

/// Serves `pages` until `stop` turns true, then lets running requests end, though not for long: a
/// client that never ends its request must not keep the agent from stopping.
///
/// # Errors
///
/// When the socket fails.
pub(super) async fn serve(
    listener: TcpListener,
    pages: Router,
    web: Web,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let listener =
        tokio::net::TcpListener::from_std(listener).context("registering the HTTP socket")?;
    let addr = listener.local_addr().context("reading the HTTP socket's address")?;
    if !addr.ip().is_loopback() && !web.authenticates {
        warn!(
            "no authentication at {addr}: every client that reaches it can read the data. Listen \
             on loopback, or see \"TLS and passwords\" in docs/security.md"
        );
    }
    let pages = match Hosts::of(addr, &web.allowed_hosts) {
        Some(hosts) => pages.layer(from_fn_with_state(Arc::new(hosts), own_hosts_only)),
        None => pages,
    };
    let server = Server {
        pages: TowerToHyperService::new(pages.layer(map_response(with_headers))),
        web,
        connections: Connections::default(),
    };
    let slots = Arc::new(Semaphore::new(SLOTS));
    let graceful = GracefulShutdown::new();
    // The sender gone is a stop as well.
    let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
    tokio::pin!(stopped);
    let (mut sweep, mut report) = (interval(SWEEP), interval(REPORT));
    let mut crowded_out = 0;
    loop {
        tokio::select! {
            () = &mut stopped => break,
            _ = sweep.tick() => crowded_out += server.connections.close_expired(Instant::now()),
            _ = report.tick() => tell_crowded_out(std::mem::take(&mut crowded_out)),
            (stream, addr, slot) = accept(&listener, &slots) => {
                server.open(stream, addr, slot, graceful.watcher());
            }
        }
    }
    drop(listener);
    let _ = timeout(GRACE, graceful.shutdown()).await;
    server.connections.close_all();
    // Each connection's task holds one.
    let _ = slots.acquire_many(SLOTS as u32).await;
    Ok(())
}

fn tell_crowded_out(count: u64) {
    if count > 0 {
        warn!("closed {count} HTTP connections in the last minute to make room for others");
    }
}

async fn accept(
    listener: &tokio::net::TcpListener,
    slots: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    loop {
        // Never closed.
        let Ok(slot) = Arc::clone(slots).acquire_owned().await else { continue };
        match listener.accept().await {
            Ok((stream, addr)) => return (stream, addr, slot),
            Err(_) => sleep(RETRY).await,
        }
    }
}

struct Server {
    pages: TowerToHyperService<Router>,
    web: Web,
    connections: Connections,
}

impl Server {
    /// Serves a connection in a task of its own, until it ends or its place is taken away.
    fn open(
        &self,
        stream: TcpStream,
        addr: SocketAddr,
        slot: OwnedSemaphorePermit,
        watcher: Watcher,
    ) {
        let (place, closed) = self.connections.admit(addr.into());
        let (pages, tls) = (self.pages.clone(), self.web.tls.as_ref().map(|tls| tls.get()));
        let conversation = async move {
            match tls {
                Some(tls) => match TlsAcceptor::from(tls).accept(stream).await {
                    Ok(stream) => converse(stream, place, pages, watcher).await,
                    Err(error) => log::debug!("TLS with {addr}: {error}"),
                },
                None => converse(stream, place, pages, watcher).await,
            }
        };
        tokio::spawn(async move {
            tokio::select! {
                _ = closed => {}
                () = conversation => {}
            }
            drop(slot);
        });
    }
}

/// Answers requests until one of both sides ends it.
async fn converse<S>(stream: S, place: Place, pages: TowerToHyperService<Router>, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let place = Arc::new(place);
    let stream = Stream { inner: stream, place: Arc::clone(&place) };
    let service = service_fn(|request: Request<Incoming>| {
        let place = Arc::clone(&place);
        place.works(!HEALTH_PATHS.contains(&request.uri().path()));
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(place.source);
        let answer = pages.call(request);
        async move {
            let answer = answer.await;
            place.sends();
            answer
        }
    });
    let connection = http1::Builder::new()
        // The time that each phase may take is limited by `Connections`.
        .header_read_timeout(None)
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        log::debug!("HTTP: {error}");
    }
}
