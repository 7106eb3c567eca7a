//! `/healthz`: the process answers. `/readyz`: it can store and deliver messages, or why not.

use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use serde::Serialize;
use tokio::sync::watch;

use crate::{shutdown::Tasks, store::Health};

#[derive(Debug, Clone)]
struct Watched {
    bus: watch::Receiver<Health>,
    tasks: Tasks,
}

#[derive(Serialize)]
struct Report {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

pub fn routes(bus: watch::Receiver<Health>, tasks: Tasks) -> Router {
    Router::new()
        .route("/healthz", get(|| async { Json(Report { status: "ok", reason: None }) }))
        .route("/readyz", get(ready))
        .with_state(Watched { bus, tasks })
}

async fn ready(State(watched): State<Watched>) -> impl IntoResponse {
    let not_ready = |reason: String| {
        let report = Report { status: "not ready", reason: Some(reason) };
        (StatusCode::SERVICE_UNAVAILABLE, Json(report))
    };
    if watched.tasks.is_stopping() {
        return not_ready("this node is stopping".into());
    }
    let health = watched.bus.borrow().clone();
    match health {
        Health::Ready => (StatusCode::OK, Json(Report { status: "ready", reason: None })),
        Health::Down { reason } => not_ready(reason),
    }
}
