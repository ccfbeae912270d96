//! What the API is: `/openapi.json` for programs, `/docs` for people. Both are made from the code.

use std::{collections::BTreeMap, fmt::Write as _};

use axum::{
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use serde_json::Value;
use utoipa::{
    PartialSchema as _, ToSchema as _,
    openapi::{
        Content, InfoBuilder, OpenApi, Ref, RefOr, ResponseBuilder,
        path::{HttpMethod, Operation},
        security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
    },
};

use super::error::Refusal;
use crate::access::{Access, Mode};

/// What any operation may answer when it does not do what it was asked to.
const REFUSALS: [(&str, &str); 9] = [
    ("400", "The address or the body is not of its form"),
    ("401", "Who asks must say who they are; of a report also: its counter does not count"),
    ("403", "Who asks may not"),
    ("404", "There is no such thing"),
    ("408", "The request took too long to come"),
    ("413", "The request is too large"),
    ("422", "What was sent is refused"),
    ("429", "Too many requests; `Retry-After` says when to come again"),
    ("503", "There is too much to do just now; `Retry-After` says when to come again"),
];

/// What a publication may be answered, too.
const OF_PUBLICATIONS: [(&str, &str); 2] =
    [("412", "The role has moved since"), ("428", "The request does not say what it follows on")];

/// What the description calls a read token.
const READ_TOKEN: &str = "read_token";

const STYLE: &str = include_str!("docs.css");

/// Completes the description that the routes gave of themselves.
pub(crate) fn complete(mut api: OpenApi, access: &Access) -> OpenApi {
    api.info = InfoBuilder::new()
        .title("Shoal registry")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "What is known of a fleet. Everything here is read only, but for what hosts and \
             publishers send, and that counts by its signatures alone.\n\nWhere a read token is asked for, \
             `registry token create NAME` makes one on the server; it is sent as \
             `Authorization: Bearer TOKEN`, lets its holder read, and nothing else.\n\nA list has `items` and \
             `next_cursor`, which is `null` at its end. Answers carry strong entity tags. A refusal \
             is a problem as in RFC 9457, with `code`, `fix` and `next` beside its members.",
        ))
        .license(Some(utoipa::openapi::License::new("Apache-2.0")))
        .build();
    api.servers = None;
    let components = api.components.get_or_insert_default();
    let mut schemas = vec![(Refusal::name().into_owned(), Refusal::schema())];
    Refusal::schemas(&mut schemas);
    components.schemas.extend(schemas);
    let bearer = Http::builder().scheme(HttpAuthScheme::Bearer);
    let bearer = bearer.description(Some("A read token, of `registry token create NAME`")).build();
    components
        .security_schemes
        .insert(READ_TOKEN.to_owned(), RefOr::T(SecurityScheme::Http(bearer)));
    for (path, item) in &mut api.paths.paths {
        // What this server asks for, not what one might.
        let mode = match path.as_str() {
            "/metrics" => access.metrics,
            path if path.starts_with("/api/") => access.reads,
            _ => Mode::Open,
        };
        for (method, operation) in operations(item) {
            if method == HttpMethod::Get && mode != Mode::Open {
                let nothing: [&str; 0] = [];
                operation.security = Some(vec![SecurityRequirement::new(READ_TOKEN, nothing)]);
            }
            let refusals = REFUSALS.iter().copied();
            if method == HttpMethod::Put {
                add(operation, refusals.chain(OF_PUBLICATIONS));
            } else {
                add(operation, refusals);
            }
            if method == HttpMethod::Get {
                let unchanged = ResponseBuilder::new().description("It did not change");
                operation.responses.responses.insert("304".to_owned(), unchanged.build().into());
            }
            if method == HttpMethod::Post {
                add(operation, [("501", "This server cannot do it")].into_iter());
            }
        }
    }
    api
}

fn operations(
    item: &mut utoipa::openapi::PathItem,
) -> impl Iterator<Item = (HttpMethod, &mut Operation)> {
    let all = [
        (HttpMethod::Get, item.get.as_mut()),
        (HttpMethod::Put, item.put.as_mut()),
        (HttpMethod::Post, item.post.as_mut()),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation?)))
}

fn add(operation: &mut Operation, refusals: impl Iterator<Item = (&'static str, &'static str)>) {
    for (status, says) in refusals {
        let schema = RefOr::Ref(Ref::from_schema_name(Refusal::name()));
        let content = Content::new(Some(schema));
        let response = ResponseBuilder::new().description(says);
        let response = response.content(shared::api::PROBLEM, content).build();
        operation.responses.responses.insert(status.to_owned(), response.into());
    }
}

/// Writes a page for people.
pub(crate) fn page(api: &Value) -> String {
    let mut tags: BTreeMap<&str, String> = BTreeMap::new();
    let paths = api.get("paths").and_then(Value::as_object).into_iter().flatten();
    for (path, item) in paths {
        for (method, operation) in item.as_object().into_iter().flatten() {
            let tag = operation.pointer("/tags/0").and_then(Value::as_str).unwrap_or("more");
            tags.entry(tag).or_default().push_str(&section(method, path, operation));
        }
    }
    let text = |at: &str| escape(api.pointer(at).and_then(Value::as_str).unwrap_or_default());
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><link rel=\"stylesheet\" href=\"/docs/style.css\"></head>\n\
         <body><header><h1>{title} {version}</h1><p>{says}</p>\
         <p>For programs: <a href=\"/openapi.json\">openapi.json</a>.</p></header>\n<main>\n",
        title = text("/info/title"),
        version = text("/info/version"),
        says = text("/info/description").replace("\n\n", "</p><p>"),
    );
    for (tag, sections) in tags {
        // Writing to a string cannot fail.
        let _infallible = write!(html, "<h2>{}</h2>\n{sections}", escape(tag));
    }
    html.push_str("</main></body></html>\n");
    html
}

fn section(method: &str, path: &str, operation: &Value) -> String {
    let text = |value: &Value, name: &str| {
        escape(value.get(name).and_then(Value::as_str).unwrap_or_default())
    };
    let mut html = format!(
        "<section><h3><code>{} {}</code></h3><p>{}{}</p>",
        escape(&method.to_uppercase()),
        escape(path),
        text(operation, "summary"),
        if operation.get("security").is_some() { " (with a read token)" } else { "" }
    );
    let parameters = operation.get("parameters").and_then(Value::as_array);
    let rows: String = parameters
        .into_iter()
        .flatten()
        .filter(|parameter| parameter.get("in").and_then(Value::as_str) == Some("query"))
        .map(|parameter| {
            let (name, says) = (text(parameter, "name"), text(parameter, "description"));
            format!("<tr><th scope=\"row\"><code>{name}</code></th><td>{says}</td></tr>")
        })
        .collect();
    if !rows.is_empty() {
        let _infallible = write!(html, "<table>{rows}</table>");
    }
    let answers = operation.get("responses").and_then(Value::as_object).into_iter().flatten();
    for (status, answer) in answers.filter(|(status, _)| status.starts_with('2')) {
        let schema = answer.pointer("/content/application~1json/schema/$ref");
        let schema = schema.and_then(Value::as_str).and_then(|name| name.rsplit('/').next());
        let says = text(answer, "description");
        let _infallible = write!(html, "<p>{}: {says}", escape(status));
        if let Some(schema) = schema {
            let _infallible = write!(html, " (<code>{}</code>)", escape(schema));
        }
        html.push_str("</p>");
    }
    html.push_str("</section>\n");
    html
}

/// Answers with the page; nothing that it shows comes from elsewhere.
pub(crate) fn html(page: String) -> Response {
    let security = [
        (header::CONTENT_SECURITY_POLICY, "default-src 'self'; frame-ancestors 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
    ];
    (security, page).into_response()
}

/// Answers with the page's looks.
pub(crate) async fn style() -> ([(HeaderName, HeaderValue); 1], &'static str) {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/css; charset=utf-8"))], STYLE)
}

fn escape(text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    escaped.replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_shows_text_and_never_runs_it() {
        let evil = "<script>alert('x')</script>";
        let operation = json!({"tags": [evil], "summary": evil,
            "parameters": [{"in": "query", "name": evil, "description": evil}]});
        let page = page(&json!({"info": {"title": evil}, "paths": {evil: {"get": operation}}}));
        assert!(!page.contains("<script"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)"), "{page}");
    }
}
