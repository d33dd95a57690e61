//! The end of the chain: a receiver as Alertmanager's `webhook_config` calls it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use anyhow::Result;
use axum::{Json, Router, extract::State, routing::post};
use serde::Deserialize;
use tokio::{net::TcpListener, runtime::Runtime};

/// An alert as it arrived.
#[derive(Clone, Debug)]
pub struct Notification {
    pub at: Instant,
    alert: Alert,
}

#[derive(Clone, Debug, Deserialize)]
struct Alert {
    status: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

/// What Alertmanager posts (Alertmanager: notify/webhook `Message`), as far as it matters here.
#[derive(Deserialize)]
struct Message {
    alerts: Vec<Alert>,
}

impl Notification {
    /// Whether it says that the alert has ended.
    pub fn is_resolved(&self) -> bool {
        self.alert.status == "resolved"
    }

    /// A label; empty where there is none.
    pub fn label(&self, name: &str) -> &str {
        self.alert.labels.get(name).map_or("", String::as_str)
    }

    /// An annotation; empty where there is none.
    pub fn annotation(&self, name: &str) -> &str {
        self.alert.annotations.get(name).map_or("", String::as_str)
    }

    /// One line.
    pub fn summary(&self) -> String {
        format!("[{}] {}", self.alert.status, self.annotation("summary"))
    }
}

type Received = Arc<Mutex<Vec<Notification>>>;

/// The receiver; it ends with the value.
pub struct Webhook {
    /// Where it listens.
    pub addr: SocketAddr,
    received: Received,
    _runtime: Runtime,
}

impl Webhook {
    /// Starts it on a port of loopback.
    pub fn start() -> Result<Self> {
        let runtime = Runtime::new()?;
        let received = Received::default();
        let router = Router::new().route("/", post(receive)).with_state(Arc::clone(&received));
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let addr = listener.local_addr()?;
        runtime.spawn(async move { axum::serve(listener, router).await });
        Ok(Self { addr, received, _runtime: runtime })
    }

    /// Everything that has arrived so far, oldest first.
    pub fn all(&self) -> Vec<Notification> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn receive(State(received): State<Received>, Json(message): Json<Message>) {
    let at = Instant::now();
    let alerts = message.alerts.into_iter().map(|alert| Notification { at, alert });
    received.lock().unwrap_or_else(PoisonError::into_inner).extend(alerts);
}
