//! What monitoring asks for: counts since the server started, and the fleet as it is.
//!
//! Nothing here is about one host: there may be a hundred thousand, and a series for each would
//! cost whoever keeps them more than the registry itself. Units are seconds and bytes.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};
use shared::version::SoftwareVersion;

use crate::{
    app::App,
    router::{FILE, TIMESTAMP},
};

mod fleet;
mod requests;

pub(crate) use fleet::{FleetError, Seen};
pub(crate) use requests::observe;

/// The beginning of every name.
const PREFIX: &str = "shoal_registry";

/// Seconds that answers take.
const ANSWERED: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// Seconds that reports are old when they come: a host that was cut off sends its outbox.
const LAG: [f64; 9] = [1.0, 5.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0];

/// Counts since the server started.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: Family<Request, Counter>,
    answered: Family<Route, Histogram>,
    reports: Family<Outcome, Counter>,
    publications: Family<Outcome, Counter>,
    report_lag: Histogram,
    /// Of `requests` and `answered`: what is counted without looking it up.
    plain: [PlainCounts; 2],
    /// Connections that are open.
    pub(crate) connections: Gauge,
    /// Requests that wait for a new `timestamp.json`.
    pub(crate) waiting: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    /// As the router has it: what was asked for would be a series for each host.
    route: String,
    method: &'static str,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Files of realms, by the routes that they are under.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Plain {
    Timestamp,
    File,
}

/// Counts of a route that only reads files.
#[derive(Debug)]
struct PlainCounts {
    ok: Counter,
    not_modified: Counter,
    answered: Histogram,
}

/// What may become of a report.
const REPORTED: [&str; 7] =
    ["stored", "challenged", "refused", "malformed", "limited", "busy", "error"];
/// What may become of a publication.
const PUBLISHED: [&str; 6] = ["published", "refused", "conflict", "malformed", "limited", "error"];

impl Default for Metrics {
    /// Begins with every outcome at zero, so that the first one is seen as a rise.
    fn default() -> Self {
        let requests: Family<Request, Counter> = Family::default();
        let answered: Family<Route, Histogram> =
            Family::new_with_constructor(|| Histogram::new(ANSWERED));
        let plain = [TIMESTAMP, FILE].map(|route| {
            let count = |code| {
                let labels = Request { route: route.to_owned(), method: "GET", code };
                requests.get_or_create_owned(&labels)
            };
            let answered = answered.get_or_create_owned(&Route { route: route.to_owned() });
            PlainCounts { ok: count(200), not_modified: count(304), answered }
        });
        let metrics = Self {
            requests,
            answered,
            plain,
            reports: Family::default(),
            publications: Family::default(),
            report_lag: Histogram::new(LAG),
            connections: Gauge::default(),
            waiting: Gauge::default(),
        };
        for outcome in REPORTED {
            drop(metrics.reports.get_or_create(&Outcome { outcome }));
        }
        for outcome in PUBLISHED {
            drop(metrics.publications.get_or_create(&Outcome { outcome }));
        }
        metrics
    }
}

impl Metrics {
    /// A report was stored that was made so many seconds ago, by the clock of its host.
    pub(crate) fn stored(&self, seconds: i64) {
        let seconds = i32::try_from(seconds.max(0)).unwrap_or(i32::MAX);
        self.report_lag.observe(f64::from(seconds));
    }

    /// A file was sent, or whoever asked has it; that took so long.
    pub(crate) fn plain(&self, what: Plain, code: StatusCode, time: Duration) {
        let [timestamp, file] = &self.plain;
        let counts = match what {
            Plain::Timestamp => timestamp,
            Plain::File => file,
        };
        let counter =
            if code == StatusCode::NOT_MODIFIED { &counts.not_modified } else { &counts.ok };
        counter.inc();
        counts.answered.observe(time.as_secs_f64());
    }

    /// A request was answered.
    fn answered(&self, route: &str, method: &Method, code: StatusCode, seconds: Option<f64>) {
        let labels = Request { route: route.to_owned(), method: word(method), code: code.as_u16() };
        self.requests.get_or_create(&labels).inc();
        if let Some(seconds) = seconds {
            self.answered.get_or_create(&Route { route: route.to_owned() }).observe(seconds);
        }
        if *method == Method::POST && route.ends_with("/reports") {
            self.reports.get_or_create(&Outcome { outcome: reported(code) }).inc();
        }
        if *method == Method::PUT && route.ends_with("/roles/{role}") {
            self.publications.get_or_create(&Outcome { outcome: published(code) }).inc();
        }
    }

    /// Writes everything as OpenMetrics.
    pub(crate) fn text(&self, app: &App, seen: &Seen) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix(PREFIX);
        let build = vec![("version", SoftwareVersion::current().to_string())];
        registry.register("build", "The registry that runs", Info::new(build));
        self.counters(&mut registry);
        fleet::register(&mut registry, app, seen);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }

    fn counters(&self, registry: &mut Registry) {
        registry.register("http_requests", "Requests that were answered", self.requests.clone());
        let help = "How long answers took, without those that waited for news";
        let answered = self.answered.clone();
        registry.register_with_unit("http_request_duration", help, Unit::Seconds, answered);
        registry.register("reports", "Reports of hosts", self.reports.clone());
        let help = "How old stored reports were when they came, by their hosts' clocks";
        registry.register_with_unit("report_lag", help, Unit::Seconds, self.report_lag.clone());
        registry.register("publishes", "Publications of roles", self.publications.clone());
        registry.register("connections", "Connections that are open", self.connections.clone());
        let help = "Requests that wait for a new timestamp";
        registry.register("long_polls", help, self.waiting.clone());
    }
}

/// Returns a method as a label: of those that anybody may invent there is one.
fn word(method: &Method) -> &'static str {
    let known = ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"];
    known.into_iter().find(|word| *word == method.as_str()).unwrap_or("other")
}

fn reported(code: StatusCode) -> &'static str {
    match code {
        StatusCode::OK => "stored",
        StatusCode::UNAUTHORIZED => "challenged",
        StatusCode::FORBIDDEN => "refused",
        StatusCode::TOO_MANY_REQUESTS => "limited",
        StatusCode::SERVICE_UNAVAILABLE => "busy",
        code if code.is_client_error() => "malformed",
        _ => "error",
    }
}

fn published(code: StatusCode) -> &'static str {
    match code {
        StatusCode::CREATED => "published",
        StatusCode::FORBIDDEN => "refused",
        StatusCode::PRECONDITION_FAILED | StatusCode::PRECONDITION_REQUIRED => "conflict",
        StatusCode::TOO_MANY_REQUESTS => "limited",
        code if code.is_client_error() => "malformed",
        _ => "error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_that_can_be_is_there_from_the_beginning() {
        for code in (100..600).filter_map(|code| StatusCode::from_u16(code).ok()) {
            assert!(REPORTED.contains(&reported(code)), "{code}");
            assert!(PUBLISHED.contains(&published(code)), "{code}");
        }
    }

    #[test]
    fn a_method_that_somebody_invents_makes_no_series() {
        assert_eq!(word(&Method::GET), "GET");
        assert_eq!(word(&Method::from_bytes(b"BREW").unwrap()), "other");
    }
}
