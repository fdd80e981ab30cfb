//! The host names by which a listener may be addressed, and the page origins that may call it.
//!
//! A browser sends the requests of any page that its user visits, also to nodes that only its user's machine can reach.
//! `Origin` names the page. `Host` shows by which name the page found the node: a page can make its own name resolve to
//! the node's address (DNS rebinding) and is then of the same origin. So a name is accepted only if nobody else can
//! control it, or if it is configured.

use std::net::{Ipv4Addr, Ipv6Addr};

use hyper::header::{self, HeaderValue};
use hyper::{Method, Version};

use crate::origin::{self, default_port};
use crate::transport::http::{HttpRequest, HttpResponse};

/// The hosts and origins that requests to one listener may have.
#[derive(Clone, Debug, Default)]
pub(super) struct HostPolicy {
    /// In lower case.
    hosts: Vec<String>,
    /// Normalized by [`origin::normalize`].
    origins: Vec<String>,
    /// The configured address, for error messages.
    listener: String,
    /// The listener uses TLS, so that its own pages were loaded by `https`.
    tls: bool,
}

impl HostPolicy {
    /// Creates a policy. `hosts` are further names of the node, in lower case; IP addresses and `localhost` are always
    /// accepted. `origins` are the pages of other sites that may call the node, normalized by `origin::normalize`.
    /// `listener` is the address that error messages show.
    pub(super) fn new(hosts: Vec<String>, origins: Vec<String>, listener: &str) -> Self {
        Self { hosts, origins, listener: listener.to_owned(), tls: false }
    }

    /// Sets whether the listener uses TLS.
    #[must_use]
    pub(super) fn with_tls(self, tls: bool) -> Self {
        Self { tls, ..self }
    }

    /// Rejects a request for another host, or from a page that may not call this node.
    pub(super) fn check(&self, request: &HttpRequest) -> Result<(), HttpResponse> {
        let host = host_of(request).map_err(|error| match error {
            HostError::NotText => self.misdirected(""),
            HostError::NotOne => HttpResponse::text(400, "a request must have exactly one Host\n"),
        })?;
        if let Some(host) = host
            && !self.is_own_host(host)
        {
            return Err(self.misdirected(host));
        }
        let mut origins = request.headers().get_all(header::ORIGIN).iter();
        let origin = match (origins.next(), origins.next()) {
            (None, _) => return self.check_without_origin(request, host),
            (Some(origin), None) => origin,
            _ => return Err(HttpResponse::text(400, "a request must have at most one Origin\n")),
        };
        let is_same = origin.to_str().is_ok_and(|origin| self.is_same_origin(origin, host));
        if is_same || self.allows_origin(origin) { Ok(()) } else { Err(self.origin_denied(origin)) }
    }

    /// Rejects requests that a page of another site makes its browser send without an `Origin`: for images, scripts,
    /// and forms of old browsers. Browsers mark them by `Sec-Fetch-Site` (<https://www.w3.org/TR/fetch-metadata/>), or
    /// at least by `Referer`. Following a link to the node is allowed.
    fn check_without_origin(&self, request: &HttpRequest, host: Option<&str>) -> Result<(), HttpResponse> {
        let headers = request.headers();
        let is = |name: &str, value: &str| headers.get(name).is_some_and(|found| found == value);
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let is_allowed = if headers.contains_key("sec-fetch-site") {
            is("sec-fetch-site", "same-origin")
                || is("sec-fetch-site", "none")
                || (is_read && is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document"))
        } else {
            let referer = headers.get(header::REFERER).and_then(|referer| referer.to_str().ok());
            is_read
                || referer
                    .and_then(origin_of)
                    .is_none_or(|origin| self.is_same_origin(&origin, host) || self.origins.contains(&origin))
        };
        if is_allowed {
            return Ok(());
        }
        let text = "a page of another site must send its Origin to call this node\n";
        Err(HttpResponse::text(403, text))
    }

    /// Returns `true` if the page of this origin was loaded from this node. Without TLS on this listener, the page may
    /// still have been loaded by `https`, through a proxy.
    fn is_same_origin(&self, origin: &str, host: Option<&str>) -> bool {
        let (Some((scheme, authority)), Some(host)) = (origin.split_once("://"), host) else { return false };
        let Some(port) = default_port(scheme) else { return false };
        let without_port =
            |authority: &'_ str| authority.strip_suffix(port).unwrap_or(authority).to_ascii_lowercase();
        let is_scheme_possible = !self.tls || matches!(scheme, "https" | "wss");
        is_scheme_possible && (authority == host || without_port(authority) == without_port(host))
    }

    /// Returns the response to a denied origin, with the configuration line that would allow it.
    fn origin_denied(&self, origin: &HeaderValue) -> HttpResponse {
        let known = origin.to_str().ok().and_then(origin::normalize);
        let (client, line) = match &known {
            Some(origin) => (format!("a client of the origin {origin}"), origin.as_str()),
            None => ("a client of another origin".to_owned(), "https://app.example"),
        };
        let section = self.config_section();
        HttpResponse::text(
            403,
            format!(
                "{client} may not call this node; to allow it, write {section}: origins = [\"{line}\"]\n"
            ),
        )
    }

    /// Returns where this listener's configuration is, for an error message.
    fn config_section(&self) -> String {
        match &*self.listener {
            "" => "under [[listen]]".to_owned(),
            address => format!("under the [[listen]] with address = {address:?}"),
        }
    }

    /// Returns the response to a wrong host, with the configuration line that would allow it.
    fn misdirected(&self, host: &str) -> HttpResponse {
        let name = without_port(host).to_ascii_lowercase();
        let is_valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        let is_name = (1..=253).contains(&name.len()) && name.bytes().all(is_valid);
        let (name, section) = (if is_name { name.as_str() } else { "name" }, self.config_section());
        HttpResponse::text(
            421,
            format!(
                "this node does not serve this Host; if it is a name of this node, write {section}: hosts = [\"{name}\"]\n"
            ),
        )
    }

    /// Answers a CORS preflight (<https://fetch.spec.whatwg.org/#http-cors-protocol>) of an allowed origin.
    pub(super) fn preflight(&self, request: &HttpRequest) -> Option<HttpResponse> {
        let headers = request.headers();
        let is_preflight = *request.method() == Method::OPTIONS
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        let is_allowed = || headers.get(header::ORIGIN).is_some_and(|origin| self.allows_origin(origin));
        (is_preflight && is_allowed()).then(|| HttpResponse::empty(204))
    }

    /// Adds the headers that let the page of an allowed origin read the response.
    pub(super) fn add_cors_headers(&self, origin: Option<&HeaderValue>, response: &mut HttpResponse) {
        if self.origins.is_empty() {
            return;
        }
        response.set_header(header::VARY, HeaderValue::from_static("Origin"));
        let Some(origin) = origin.filter(|origin| self.allows_origin(origin)) else { return };
        response.set_header(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "Authorization, Content-Type"),
        ] {
            response.set_header(name, HeaderValue::from_static(value));
        }
    }

    fn allows_origin(&self, origin: &HeaderValue) -> bool {
        let normalized = || origin::normalize(origin.to_str().ok()?);
        !self.origins.is_empty() && normalized().is_some_and(|origin| self.origins.contains(&origin))
    }

    /// Returns `true` if a host, with or without a port, is this node. The port is ignored, since it may be forwarded.
    fn is_own_host(&self, host: &str) -> bool {
        if let Some(literal) = host.strip_prefix('[') {
            return literal.split_once(']').is_some_and(|(ip, port)| {
                // Some clients send the zone too, as `%eth0` or as `%25eth0`.
                let ip = ip.split_once('%').map_or(ip, |(ip, _)| ip);
                ip.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || port.starts_with(':'))
            });
        }
        let name = without_port(host);
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        name.parse::<Ipv4Addr>().is_ok()
            || is("localhost")
            || ends_with_ignore_case(name, ".localhost")
            || self.hosts.iter().any(|host| is(host))
    }
}

/// Returns a host without its port and without the trailing dot of the root.
fn without_port(host: &str) -> &str {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.strip_suffix('.').unwrap_or(name)
}

fn ends_with_ignore_case(text: &str, suffix: &str) -> bool {
    let start = text.len().checked_sub(suffix.len());
    start.and_then(|at| text.get(at..)).is_some_and(|text| text.eq_ignore_ascii_case(suffix))
}

/// Returns the normalized origin of a URL.
fn origin_of(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    origin::normalize(&format!("{scheme}://{authority}"))
}

/// Why the host of a request is unknown.
enum HostError {
    NotText,
    NotOne,
}

/// Returns the host and port that a request is for. Only HTTP/1.0 allows a request without them.
fn host_of(request: &HttpRequest) -> Result<Option<&str>, HostError> {
    if let Some(authority) = request.uri().authority() {
        return Ok(Some(authority.as_str()));
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if request.version() == Version::HTTP_10 => Ok(None),
        (Some(host), None) if !host.is_empty() => match host.to_str() {
            Ok(host) => Ok(Some(host)),
            Err(_) => Err(HostError::NotText),
        },
        _ => Err(HostError::NotOne),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let policy = HostPolicy::new(vec!["board-a".to_owned(), "board-a.lan".to_owned()], Vec::new(), "");
        for own in [
            "127.0.0.1",
            "10.0.0.7:7300",
            "[::1]",
            "[fe80::1]:7300",
            "[fe80::1%eth0]:7300",
            "[fe80::1%25eth0]",
            "localhost",
            "LocalHost:7300",
            "localhost.",
            "a.localhost:80",
            "board-a",
            "Board-A:7300",
            "board-a.:7300",
            "board-a.lan:1",
        ] {
            assert!(policy.is_own_host(own), "{own}");
        }
        for other in [
            "",
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evillocalhost",
            "board-a.evil",
            "xboard-a",
            "[::1",
            "[::1]x",
            "[evil]",
            "[evil%eth0]",
            "127.1",
            "0x7f000001",
            "user@board-a",
            "board-a..",
            "..",
        ] {
            assert!(!policy.is_own_host(other), "{other}");
        }
    }
}
