//! By which names a listener is addressed, and which pages may call it.
//!
//! A browser carries the requests of any page that its user visits, also to nodes that only its user's machine can
//! reach. `Origin` tells which page that is. `Host` tells by which name it has found the node: a page can have its own
//! name resolved to a node's address (DNS rebinding), and then is of the same origin. So a name counts only if it
//! cannot be taken over, or is known here.

use std::net::{Ipv4Addr, Ipv6Addr};

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Version};

use super::http::Reply;
use crate::origin::{self, default_port};

/// How HTTP clients and pages may address one listener.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// In lower case.
    hosts: Vec<String>,
    /// As [`origin::parse`] gives them.
    origins: Vec<String>,
    /// Where it listens, as configured.
    listener: String,
    /// TLS is spoken, so that its own pages have come by it.
    secure: bool,
}

impl Site {
    /// Takes names of the node in lower case, and the origins of pages elsewhere that may call it in the form that
    /// `origin::parse` gives. IP addresses and `localhost` need no mention. `listener` is what refusals call it.
    pub fn new(hosts: Vec<String>, origins: Vec<String>, listener: &str) -> Self {
        Self { hosts, origins, listener: listener.to_owned(), secure: false }
    }

    /// Sets whether TLS is spoken.
    #[must_use]
    pub fn over_tls(self, secure: bool) -> Self {
        Self { secure, ..self }
    }

    /// Refuses a request that addresses another host, or comes from a page that may not call.
    pub(super) fn screen(&self, head: &Parts) -> Result<(), Reply> {
        let host = host(head).map_err(|refused| match refused {
            BadHost::Garbled => self.misdirected(""),
            BadHost::NotOne => Reply::text(400, "a request has one Host\n"),
        })?;
        if let Some(host) = host
            && !self.is_own(host)
        {
            return Err(self.misdirected(host));
        }
        let mut origins = head.headers.get_all(header::ORIGIN).iter();
        let origin = match (origins.next(), origins.next()) {
            (None, _) => return self.screen_without_origin(head, host),
            (Some(origin), None) => origin,
            _ => return Err(Reply::text(400, "a request has one Origin at most\n")),
        };
        let is_own = origin.to_str().is_ok_and(|origin| self.is_own_origin(origin, host));
        if is_own || self.is_welcome(origin) { Ok(()) } else { Err(self.unwelcome(origin)) }
    }

    /// Refuses what a page elsewhere has its browser send without an `Origin`: images, scripts, forms of old browsers.
    /// Browsers then tell by `Sec-Fetch-Site` (<https://www.w3.org/TR/fetch-metadata/>) or at least by `Referer`. A link to
    /// the node may be followed.
    fn screen_without_origin(&self, head: &Parts, host: Option<&str>) -> Result<(), Reply> {
        let is = |name: &str, value: &str| head.headers.get(name).is_some_and(|found| found == value);
        let is_read = matches!(head.method, Method::GET | Method::HEAD);
        let is_welcome = if head.headers.contains_key("sec-fetch-site") {
            is("sec-fetch-site", "same-origin")
                || is("sec-fetch-site", "none")
                || (is_read && is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document"))
        } else {
            let referer = head.headers.get(header::REFERER).and_then(|referer| referer.to_str().ok());
            is_read
                || referer
                    .and_then(origin_of)
                    .is_none_or(|origin| self.is_own_origin(&origin, host) || self.origins.contains(&origin))
        };
        if is_welcome {
            return Ok(());
        }
        let text = "a page of another site may not call this node without telling its Origin\n";
        Err(Reply::text(403, text))
    }

    /// Returns `true` if a page of this origin has come from this node. Without TLS here it may have come by TLS all the
    /// same, through a proxy.
    fn is_own_origin(&self, origin: &str, host: Option<&str>) -> bool {
        let (Some((scheme, authority)), Some(host)) = (origin.split_once("://"), host) else { return false };
        let Some(port) = default_port(scheme) else { return false };
        let without =
            |authority: &'_ str| authority.strip_suffix(port).unwrap_or(authority).to_ascii_lowercase();
        let fits = !self.secure || matches!(scheme, "https" | "wss");
        fits && (authority == host || without(authority) == without(host))
    }

    /// Tells which line lets the client in.
    fn unwelcome(&self, origin: &HeaderValue) -> Reply {
        let known = origin.to_str().ok().and_then(origin::parse);
        let (who, line) = match &known {
            Some(origin) => (format!("a client of the origin {origin}"), origin.as_str()),
            None => ("a client of another origin".to_owned(), "https://app.example"),
        };
        let place = self.place();
        Reply::text(
            403,
            format!("{who} may not call this node; to let it, write {place}: origins = [\"{line}\"]\n"),
        )
    }

    /// Where a line of configuration belongs.
    fn place(&self) -> String {
        match &*self.listener {
            "" => "under [[listen]]".to_owned(),
            address => format!("under the [[listen]] with address = {address:?}"),
        }
    }

    /// Tells how to make a name known, if it can be one.
    fn misdirected(&self, host: &str) -> Reply {
        let name = name(host).to_ascii_lowercase();
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        let known = (1..=253).contains(&name.len()) && name.bytes().all(fits);
        let (name, place) = (if known { name.as_str() } else { "name" }, self.place());
        Reply::text(
            421,
            format!(
                "no node answers to this Host; if it is the name of this one, write {place}: hosts = [\"{name}\"]\n"
            ),
        )
    }

    /// Answers the question whether a page elsewhere may send what it wants to (the preflight of
    /// <https://fetch.spec.whatwg.org/#http-cors-protocol>).
    pub(super) fn preflight(&self, head: &Parts) -> Option<Reply> {
        if head.method != Method::OPTIONS || !head.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
        {
            return None;
        }
        let welcome = head.headers.get(header::ORIGIN).is_some_and(|origin| self.is_welcome(origin));
        welcome.then(|| Reply::text(204, ""))
    }

    /// Adds what lets a page elsewhere see the answer, if it may call.
    pub(super) fn share(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        if self.origins.is_empty() {
            return;
        }
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        let Some(origin) = origin.filter(|origin| self.is_welcome(origin)) else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "Authorization, Content-Type"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }

    fn is_welcome(&self, origin: &HeaderValue) -> bool {
        let known = || origin::parse(origin.to_str().ok()?);
        !self.origins.is_empty() && known().is_some_and(|origin| self.origins.contains(&origin))
    }

    /// Whether a host, with or without a port, is this node. Ports are not looked at: one may be forwarded.
    fn is_own(&self, host: &str) -> bool {
        if let Some(literal) = host.strip_prefix('[') {
            return literal.split_once(']').is_some_and(|(ip, port)| {
                // Some clients send the zone along, as `%eth0` or as `%25eth0`.
                let ip = ip.split_once('%').map_or(ip, |(ip, _)| ip);
                ip.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || port.starts_with(':'))
            });
        }
        let name = name(host);
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        name.parse::<Ipv4Addr>().is_ok()
            || is("localhost")
            || ends_with_ignore_case(name, ".localhost")
            || self.hosts.iter().any(|host| is(host))
    }
}

/// A host without its port and the root's dot.
fn name(host: &str) -> &str {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.strip_suffix('.').unwrap_or(name)
}

fn ends_with_ignore_case(text: &str, end: &str) -> bool {
    let beginning = text.len().checked_sub(end.len());
    beginning.and_then(|at| text.get(at..)).is_some_and(|text| text.eq_ignore_ascii_case(end))
}

/// The origin of an address of the web.
fn origin_of(address: &str) -> Option<String> {
    let (scheme, rest) = address.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    origin::parse(&format!("{scheme}://{authority}"))
}

/// Why a request has no host.
enum BadHost {
    Garbled,
    NotOne,
}

/// The host and port that a request is for. Only HTTP/1.0 knows requests that do not tell.
fn host(head: &Parts) -> Result<Option<&str>, BadHost> {
    if let Some(authority) = head.uri.authority() {
        return Ok(Some(authority.as_str()));
    }
    let mut hosts = head.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if head.version == Version::HTTP_10 => Ok(None),
        (Some(host), None) if !host.is_empty() => match host.to_str() {
            Ok(host) => Ok(Some(host)),
            Err(_) => Err(BadHost::Garbled),
        },
        _ => Err(BadHost::NotOne),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let site = Site::new(vec!["board-a".to_owned(), "board-a.lan".to_owned()], Vec::new(), "");
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
            assert!(site.is_own(own), "{own}");
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
            assert!(!site.is_own(other), "{other}");
        }
    }
}
