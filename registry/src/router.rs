//! Every route of the server, grouped by who asks.

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{get, post, put},
};
use tower_http::catch_panic::CatchPanicLayer;

use crate::{api, app::App, static_files};

/// The largest publication, all parts together.
pub(crate) const MAX_PUBLICATION: usize = 128 * 1024 * 1024;
/// The largest request to enrol.
const MAX_ENROLMENT: usize = 64 * 1024;

/// Returns the whole server.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        // Agents and mirrors: plain files.
        .route("/r/{realm}/metadata/timestamp.json", get(static_files::timestamp))
        .route("/r/{realm}/{*path}", get(static_files::file))
        .route("/cache/{*path}", get(static_files::cache))
        // Publishers.
        .route(
            "/api/v1/realms/{realm}/roles/{role}",
            put(api::roles::publish).layer(DefaultBodyLimit::max(MAX_PUBLICATION)),
        )
        // Hosts.
        .route(
            "/api/v1/realms/{realm}/enrol",
            post(api::enrol::enrol).layer(DefaultBodyLimit::max(MAX_ENROLMENT)),
        )
        .route(
            "/api/v1/realms/{realm}/reports",
            post(api::reports::report).layer(DefaultBodyLimit::max(shared::report::MAX_LEN)),
        )
        // Operators.
        .route("/api/v1/realms/{realm}/hosts", get(api::hosts::list))
        .route("/api/v1/realms/{realm}/hosts/{host}", get(api::hosts::show))
        .route("/api/v1/realms/{realm}/hosts/{host}/attempts", get(api::attempts::list))
        .route("/api/v1/realms/{realm}/hosts/{host}/attempts/{attempt}", get(api::attempts::show))
        .route("/api/v1/realms/{realm}/hosts/{host}/generations", get(api::attempts::generations))
        .route("/api/v1/realms/{realm}/groups", get(api::groups::list))
        .route("/api/v1/realms/{realm}/groups/{group}", get(api::groups::show))
        .route("/api/v1/realms/{realm}/groups/{group}/manifests", get(api::manifests::in_force))
        .route(
            "/api/v1/realms/{realm}/groups/{group}/manifests/{profile}",
            get(api::manifests::versions),
        )
        .route(
            "/api/v1/realms/{realm}/groups/{group}/manifests/{profile}/{version}",
            get(api::manifests::show),
        )
        .route("/api/v1/realms/{realm}/groups/{group}/diff", get(api::diff::show))
        .route("/api/v1/realms/{realm}/fleet", get(api::fleet::show))
        .route("/api/v1/realms/{realm}/teams", get(api::teams::list))
        .route("/api/v1/realms/{realm}/teams/{team}", get(api::teams::show))
        .route("/api/v1/realms/{realm}/keys", get(api::teams::keys))
        .route("/api/v1/realms/{realm}/keys/{key}", get(api::teams::key))
        .route("/api/v1/realms/{realm}/caches", get(api::caches::list))
        .route("/api/v1/realms/{realm}/coverage", get(api::caches::coverage))
        .route("/api/v1/realms/{realm}/audit", get(api::audit::list))
        .route("/api/v1/realms/{realm}/counts", get(api::hosts::counts))
        .route("/api/v1/realms/{realm}/groups/{group}/history", get(api::history::list))
        // Whoever watches the server.
        .route("/livez", get(api::health::live))
        .route("/readyz", get(api::health::ready))
        .fallback(api::not_found)
        .layer(DefaultBodyLimit::max(shared::report::MAX_LEN))
        .layer(CatchPanicLayer::new())
        .with_state(app)
}
