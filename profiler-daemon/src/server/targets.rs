//! `/sd`: the processes as targets, in Prometheus's HTTP service-discovery form.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Extension, State},
    http::{HeaderMap, header::HOST},
};
use serde::Serialize;

use super::{App, endpoints, peer::Peer, refused::Refused};

/// A group of targets with the same labels.
#[derive(Debug, Serialize)]
pub(super) struct Group {
    targets: [String; 1],
    labels: BTreeMap<&'static str, String>,
}

/// Each process as a target whose profiles are under its own prefix.
pub(super) async fn answer(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Result<Json<Vec<Group>>, Refused> {
    let address = headers.get(HOST).and_then(|host| host.to_str().ok());
    let address = address.filter(|host| !host.is_empty()).unwrap_or("127.0.0.1:6065");
    let processes = endpoints::list(&app, peer).await?;
    let group = |process: &std::sync::Arc<crate::profile::Process>| {
        let prefix = format!("/pid/{}", process.pid);
        Group {
            targets: [address.to_owned()],
            labels: BTreeMap::from([
                ("__profile_path_prefix__", prefix.clone()),
                ("__meta_rprofd_path_prefix", prefix),
                ("__meta_rprofd_pid", process.pid.to_string()),
                ("__meta_rprofd_comm", process.comm.to_string()),
                ("__meta_rprofd_exe", process.exe.to_string()),
                ("__meta_rprofd_cgroup", process.cgroup.to_string()),
                ("service_name", process.comm.to_string()),
                ("comm", process.comm.to_string()),
                ("pid", process.pid.to_string()),
            ]),
        }
    };
    Ok(Json(processes.iter().map(group).collect()))
}
