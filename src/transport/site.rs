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

/// How HTTP clients and pages may address one listener.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// In lower case.
    hosts: Vec<String>,
    /// In lower case.
    origins: Vec<String>,
}

impl Site {
    /// Takes names of the node, and the origins of pages elsewhere that may call it, all in lower case. IP addresses and
    /// `localhost` need no mention.
    pub fn new(hosts: Vec<String>, origins: Vec<String>) -> Self {
        Self { hosts, origins }
    }

    /// Refuses a request that addresses another host, or comes from a page that may not call.
    pub(super) fn screen(&self, head: &Parts) -> Result<(), Reply> {
        let host = host(head)?;
        if let Some(host) = host
            && !self.is_own(host)
        {
            return Err(misdirected(host));
        }
        let Some(origin) = head.headers.get(header::ORIGIN) else { return Ok(()) };
        let authority =
            origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, rest)| rest);
        if (authority.is_some() && authority == host) || self.is_welcome(origin) {
            return Ok(());
        }
        let text = "a page of another origin may not call this node, unless its origin is listed under [[listen]]: \
                    origins = [\"https://app.example\"]\n";
        Err(Reply::text(403, text))
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
        origin
            .to_str()
            .is_ok_and(|origin| self.origins.iter().any(|known| known.eq_ignore_ascii_case(origin)))
    }

    /// Whether a host, with or without a port, is this node. Ports are not looked at: one may be forwarded.
    fn is_own(&self, host: &str) -> bool {
        if let Some(literal) = host.strip_prefix('[') {
            return literal.split_once(']').is_some_and(|(ip, port)| {
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

/// The host and port that a request is for. Only HTTP/1.0 knows requests that do not tell.
fn host(head: &Parts) -> Result<Option<&str>, Reply> {
    if let Some(authority) = head.uri.authority() {
        return Ok(Some(authority.as_str()));
    }
    let mut hosts = head.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if head.version == Version::HTTP_10 => Ok(None),
        (Some(host), None) if !host.is_empty() => match host.to_str() {
            Ok(host) => Ok(Some(host)),
            Err(_) => Err(misdirected("")),
        },
        _ => Err(Reply::text(400, "a request has one Host\n")),
    }
}

/// Tells how to make a name known, if it can be one.
fn misdirected(host: &str) -> Reply {
    let name = name(host).to_ascii_lowercase();
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let known = !name.is_empty() && name.bytes().all(fits);
    let name = if known { name.as_str() } else { "name" };
    Reply::text(
        421,
        format!(
            "no node answers to this Host; if it is the name of this one, write under [[listen]]: \
             hosts = [\"{name}\"]\n"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let site = Site::new(vec!["board-a".to_owned(), "board-a.lan".to_owned()], Vec::new());
        for own in [
            "127.0.0.1",
            "10.0.0.7:7300",
            "[::1]",
            "[fe80::1]:7300",
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
