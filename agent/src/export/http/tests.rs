use std::net::SocketAddr;

use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

use super::{
    super::{
        fixture::{snapshot, standing},
        server::bind,
        web::WebConfig,
    },
    *,
};
use crate::kernel::Signal;

struct Server {
    addr: SocketAddr,
    latest: watch::Sender<Option<Arc<Snapshot>>>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<Result<()>>,
}

impl Server {
    async fn start(snapshot: Option<Snapshot>) -> Self {
        Self::start_with(snapshot, WebConfig::default()).await
    }

    async fn start_with(snapshot: Option<Snapshot>, web: WebConfig) -> Self {
        let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (latest, received) = watch::channel(snapshot.map(Arc::new));
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(serve(listener, received, Web::new(web, Vec::new()), stopped));
        Self { addr, latest, stop, serving }
    }

    /// Status, head and body of the answer.
    async fn get(&self, path: &str) -> (u16, String, String) {
        self.ask(path, "x-nothing: 1").await
    }

    async fn ask(&self, path: &str, field: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\n{field}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_lowercase(), body.to_owned())
    }
}

#[tokio::test]
async fn is_alive_before_it_is_ready() {
    let server = Server::start(None).await;
    assert_eq!(server.get("/healthz").await.0, 200);
    for path in ["/readyz", "/metrics", "/api/v1/report"] {
        assert_eq!(server.get(path).await.0, 503, "{path}");
    }
    assert_eq!(server.get("/").await.0, 200);
    server.latest.send_replace(Some(Arc::new(snapshot())));
    let (status, _, body) = server.get("/readyz").await;
    assert_eq!((status, body.as_str()), (200, "ready\nsyn_drops netlink\n"));
    assert_eq!(server.get("/nowhere").await.0, 404);
}

#[tokio::test]
async fn serves_metrics_and_report() {
    let server = Server::start(Some(snapshot())).await;
    let (status, head, body) = server.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("\nfloodmark_build_info{"), "{body}");
    let (status, head, body) = server.get("/api/v1/report").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/json"), "{head}");
    let report: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(report["listeners"][0]["tally"]["syn/accept_queue_full"], 10);
}

#[tokio::test]
async fn the_landing_page_names_the_listener_and_escapes_its_owner() {
    let server = Server::start(Some(snapshot())).await;
    let (_, head, body) = server.get("/").await;
    assert!(head.contains("content-type: text/html"), "{head}");
    assert!(
        body.contains("<td>10.0.0.2:8000</td><td>app1</td><td>tor&quot;nado &lt;&amp;"),
        "{body}"
    );
    assert!(body.contains("<td>129 / 128</td><td>18"), "{body}");
    assert!(body.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn is_not_ready_when_blind_or_stuck() {
    let mut snapshot = snapshot();
    assert_eq!(readiness(&snapshot, Duration::ZERO).0, StatusCode::OK);
    let (status, text) = readiness(&snapshot, STALE * 2);
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.contains("30 s ago"), "{text}");
    assert!(!is_dead(STALE * 2) && is_dead(DEAD * 2));
    snapshot.standings = vec![standing(Signal::SynDrops, Rung::None)];
    assert_eq!(readiness(&snapshot, Duration::ZERO).0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_port_in_use_is_named_with_the_remedy() {
    let server = Server::start(None).await;
    let error = format!("{:#}", bind(server.addr).await.unwrap_err());
    assert!(error.contains(&server.addr.to_string()), "{error}");
    assert!(error.contains("--listen") && error.contains("in use"), "{error}");
}

#[tokio::test]
async fn a_client_that_never_ends_its_request_does_not_keep_it_from_stopping() {
    let server = Server::start(Some(snapshot())).await;
    let mut stuck = TcpStream::connect(server.addr).await.unwrap();
    stuck.write_all(b"GET / HTTP/1.1\r\nhost").await.unwrap();
    // Connections are taken in order: once this one is answered, the server waits for the other.
    assert_eq!(server.get("/healthz").await.0, 200);
    server.stop.send_replace(true);
    let hang = Duration::from_secs(60);
    tokio::time::timeout(hang, server.serving).await.expect("it hangs").unwrap().unwrap();
    assert!(TcpStream::connect(server.addr).await.is_err());
}

#[tokio::test]
async fn a_thousand_silent_connections_do_not_keep_it_from_answering() {
    let server = Server::start(Some(snapshot())).await;
    let mut silent = Vec::new();
    for _ in 0..1000 {
        silent.push(TcpStream::connect(server.addr).await.unwrap());
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(server.get(path).await.0, 200, "{path}");
    }
    let mut byte = [0];
    assert!(matches!(silent[0].read(&mut byte).await, Ok(0) | Err(_)), "the oldest is closed");
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let server = Server::start(Some(snapshot())).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    // All of it is read, so that the answer is not lost to a reset.
    let endless = format!("GET /healthz HTTP/1.1\r\nx-long: {}", "a".repeat(16 << 10));
    stream.write_all(&endless.as_bytes()[..16 << 10]).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn a_browser_may_do_nothing_with_an_answer_and_ask_for_no_foreign_host() {
    let server = Server::start(Some(snapshot())).await;
    for path in ["/", "/metrics", "/api/v1/report", "/healthz", "/nowhere"] {
        let (_, head, _) = server.get(path).await;
        for field in [
            "content-security-policy: default-src 'none'",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
        ] {
            assert!(head.contains(field), "{path}: {field} in {head}");
        }
        let (status, head, _) = server.ask(path, "host: rebound.example").await;
        assert_eq!(status, 421, "{path}");
        assert!(head.contains("nosniff"), "{head}");
    }
}

#[tokio::test]
async fn what_the_agent_saw_is_told_to_its_users_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("web.yml");
    let hash = bcrypt::hash("se:cret", 4).unwrap();
    std::fs::write(&file, format!("basic_auth_users:\n  prometheus: {hash}\n")).unwrap();
    let server = Server::start_with(Some(snapshot()), WebConfig::read(&file).unwrap()).await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(server.get(path).await.0, 200, "{path}");
    }
    let basic = |credentials: &str| format!("authorization: Basic {}", BASE64.encode(credentials));
    for path in ["/", "/metrics", "/api/v1/report", "/api/v1/listeners"] {
        let (status, head, _) = server.get(path).await;
        assert_eq!(status, 401, "{path}");
        assert!(head.contains("www-authenticate: basic realm="), "{head}");
        // The second time it is remembered.
        for _ in 0..2 {
            assert_eq!(server.ask(path, &basic("prometheus:se:cret")).await.0, 200, "{path}");
        }
    }
    for wrong in ["prometheus:secret", "nobody:se:cret", ":", "prometheus"] {
        assert_eq!(server.ask("/metrics", &basic(wrong)).await.0, 401, "{wrong}");
    }
    for wrong in ["authorization: Basic !", "authorization: Bearer x", "authorization: Basic"] {
        assert_eq!(server.ask("/metrics", wrong).await.0, 401, "{wrong}");
    }
}
