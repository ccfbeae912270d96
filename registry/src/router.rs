//! Every route of the server, grouped by who asks; where each lies stands above its handler.

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::header,
    middleware::{from_fn, from_fn_with_state, map_response},
    response::{IntoResponse as _, Response},
    routing::get,
};
use bytes::Bytes;
use shared::problem::{Kind, Problem};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::{
        CompressionLayer, Predicate as _,
        predicate::{DefaultPredicate, NotForContentType, SizeAbove},
    },
};
use utoipa::openapi::OpenApi;
use utoipa_axum::{
    router::{OpenApiRouter, UtoipaMethodRouterExt as _},
    routes,
};

use crate::{
    access,
    api::{self, error::ApiError},
    app::App,
    metrics::observe,
    static_files,
};

/// The largest publication, all parts together.
pub(crate) const MAX_PUBLICATION: usize = 128 * 1024 * 1024;
/// The largest request to enrol.
const MAX_ENROLMENT: usize = 64 * 1024;
/// The shortest answer that is compressed, in bytes.
const WORTH_COMPRESSING: u64 = 512;

/// Where a realm says what is current.
pub(crate) const TIMESTAMP: &str = "/r/{realm}/metadata/timestamp.json";
/// All other files of a realm.
pub(crate) const FILE: &str = "/r/{realm}/{*path}";

/// Returns the whole server; [`static_files::at_once`] is asked before it.
pub(crate) fn router(app: Arc<App>) -> Router {
    let of_metrics = from_fn_with_state(Arc::clone(&app), access::metrics);
    let of_reads = from_fn_with_state(Arc::clone(&app), access::reads);
    let documented =
        open().merge(metrics().route_layer(of_metrics)).merge(reads().route_layer(of_reads));
    let (api, description) = documented.split_for_parts();
    Router::new()
        // Agents and mirrors: plain files.
        .route(TIMESTAMP, get(static_files::timestamp))
        .route(FILE, get(static_files::file))
        .route("/cache/{*path}", get(static_files::cache))
        .merge(read_often(api, &api::docs::complete(description, &app.access)))
        .fallback(api::not_found)
        .method_not_allowed_fallback(api::not_allowed)
        .layer(DefaultBodyLimit::max(shared::report::MAX_LEN))
        .layer(CatchPanicLayer::custom(|_| panicked()))
        // Outermost, so that whatever is answered is counted.
        .layer(from_fn_with_state(Arc::clone(&app), observe))
        .with_state(app)
}

/// Returns the routes of the API that anybody may ask, with what they say of themselves: what comes
/// to them counts by its signatures, or tells nothing of a fleet.
fn open() -> OpenApiRouter<Arc<App>> {
    let limit = DefaultBodyLimit::max;
    OpenApiRouter::default()
        // Publishers.
        .routes(routes!(api::roles::publish).layer(limit(MAX_PUBLICATION)))
        // Hosts.
        .routes(routes!(api::enrol::enrol).layer(limit(MAX_ENROLMENT)))
        .routes(routes!(api::reports::report).layer(limit(shared::report::MAX_LEN)))
        // Whoever watches the server.
        .routes(routes!(api::health::live))
        .routes(routes!(api::health::ready))
        .routes(routes!(api::health::version))
}

/// Returns what tells how the fleet is, in numbers.
fn metrics() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::default().routes(routes!(api::health::metrics))
}

/// Returns what is known of a realm.
fn reads() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::default()
        .routes(routes!(api::fleet::show))
        .routes(routes!(api::hosts::counts))
        .routes(routes!(api::hosts::list))
        .routes(routes!(api::hosts::show))
        .routes(routes!(api::attempts::list))
        .routes(routes!(api::attempts::show))
        .routes(routes!(api::attempts::generations))
        .routes(routes!(api::groups::list))
        .routes(routes!(api::groups::show))
        .routes(routes!(api::history::list))
        .routes(routes!(api::manifests::in_force))
        .routes(routes!(api::manifests::versions))
        .routes(routes!(api::manifests::show))
        .routes(routes!(api::diff::show))
        .routes(routes!(api::teams::list))
        .routes(routes!(api::teams::show))
        .routes(routes!(api::teams::keys))
        .routes(routes!(api::teams::key))
        .routes(routes!(api::caches::list))
        .routes(routes!(api::caches::coverage))
        .routes(routes!(api::audit::list))
        .routes(routes!(api::events::follow))
}

/// Adds the description to the API, and to all of it what those need who read often: entity tags, and
/// compression of what is not a stream of events.
fn read_often(api: Router<Arc<App>>, description: &OpenApi) -> Router<Arc<App>> {
    let description = serde_json::to_value(description).unwrap_or_default();
    let page = api::docs::page(&description);
    let json = Bytes::from(description.to_string());
    let json = move || async move { ([(header::CONTENT_TYPE, "application/json")], json) };
    let compression = CompressionLayer::new().compress_when(
        DefaultPredicate::new()
            .and(NotForContentType::const_new(api::events::JSON_LINES))
            .and(SizeAbove::new(WORTH_COMPRESSING)),
    );
    api.route("/openapi.json", get(json))
        .route("/docs", get(async || api::docs::html(page)))
        .route("/docs/style.css", get(api::docs::style))
        .layer(from_fn(api::conditional::tag))
        .layer(compression)
        .layer(map_response(api::conditional::tag_encoding))
}

/// Answers for a handler that has ended as none should.
fn panicked() -> Response {
    tracing::error!("a request failed in a way that it should not");
    let problem = Problem::new(Kind::Runtime, "internal", "the registry could not do it");
    let problem = problem.fix("its log says why");
    ApiError::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, problem).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Access;

    fn described() -> OpenApi {
        let all = open().merge(metrics()).merge(reads()).into_openapi();
        api::docs::complete(all, &Access::default())
    }

    #[test]
    fn every_route_is_documented_but_for_plain_files_and_the_description_itself() {
        let (ours, _tests) = include_str!("router.rs").split_once("#[cfg(test)]").unwrap();
        let bare: Vec<_> = ours.lines().filter(|line| line.contains(".route(")).collect();
        let known =
            ["(TIMESTAMP,", "(FILE,", "/cache/", "/openapi.json", "/docs\"", "/docs/style.css"];
        assert_eq!(bare.len(), known.len(), "documented routes are added with `routes!`");
        for (line, known) in bare.iter().zip(known) {
            assert!(line.contains(known), "{line}");
        }
        let described = described();
        let routed = ours.matches("routes!(").count();
        let operations = described
            .paths
            .paths
            .values()
            .map(|item| [&item.get, &item.put, &item.post].into_iter().flatten().count());
        assert_eq!(operations.sum::<usize>(), routed);
    }

    #[test]
    fn every_operation_says_what_it_is_and_what_its_parameters_are() {
        let described = described();
        let described = serde_json::to_value(described).unwrap();
        assert!(described["openapi"].as_str().unwrap().starts_with("3.1"), "{described}");
        for (path, item) in described["paths"].as_object().unwrap() {
            for operation in item.as_object().unwrap().values() {
                assert!(operation["summary"].as_str().is_some_and(|it| !it.is_empty()), "{path}");
                let parameters = operation["parameters"].as_array();
                for parameter in parameters.into_iter().flatten().filter(|it| it["in"] == "query") {
                    let says = parameter["description"].as_str();
                    assert!(says.is_some_and(|it| !it.is_empty()), "{path}: {parameter}");
                }
            }
        }
    }
}
