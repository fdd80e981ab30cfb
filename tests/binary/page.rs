//! The page that a node serves, over HTTP. `ci/page` opens it in a browser.

use crate::support::{HttpReply, Node};

const FILES: [(&str, &str); 10] = [
    ("/", "text/html; charset=utf-8"),
    ("/calls.js", "text/javascript; charset=utf-8"),
    ("/connection.js", "text/javascript; charset=utf-8"),
    ("/dom.js", "text/javascript; charset=utf-8"),
    ("/form.js", "text/javascript; charset=utf-8"),
    ("/functions.js", "text/javascript; charset=utf-8"),
    ("/health.js", "text/javascript; charset=utf-8"),
    ("/page.js", "text/javascript; charset=utf-8"),
    ("/text.js", "text/javascript; charset=utf-8"),
    ("/style.css", "text/css; charset=utf-8"),
];

fn ask(node: &Node, method: &str, path: &str) -> HttpReply {
    let mut client = node.connect();
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n\r\n", node.address()));
    client.http()
}

/// Returns the value of a header.
fn header<'a>(reply: &'a HttpReply, name: &str) -> Option<&'a str> {
    reply.head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[test]
fn page_files_have_a_strict_content_security_policy() {
    let node = Node::demo();
    for (path, kind) in FILES {
        let reply = ask(&node, "GET", path);
        assert_eq!(reply.status, 200, "{path}");
        assert_eq!(header(&reply, "content-type"), Some(kind));
        let policy = header(&reply, "content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        for loose in ["unsafe", "*", "http", "ws:", "wss:"] {
            assert!(!policy.contains(loose), "{policy}");
        }
        assert_eq!(header(&reply, "x-content-type-options"), Some("nosniff"));
        assert_eq!(header(&reply, "referrer-policy"), Some("no-referrer"));
        assert_eq!(header(&reply, "cache-control"), Some("no-store"));
    }
}

#[test]
fn head_matches_get() {
    let node = Node::demo();
    for (path, _) in FILES {
        let body = ask(&node, "GET", path).body;
        let mut client = node.connect();
        client.send(format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
        let head = String::from_utf8(client.rest()).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(head.to_ascii_lowercase().contains(&format!("content-length: {}\r\n", body.len())), "{head}");
    }
}

#[test]
fn page_is_small_and_references_no_other_host() {
    let node = Node::demo();
    let bodies = FILES.map(|(path, _)| ask(&node, "GET", path).body);
    let size: usize = bodies.iter().map(String::len).sum();
    assert!(size <= 48 * 1024, "the page has {size} bytes, and each is one of the binary");
    for (body, (path, _)) in bodies.iter().zip(FILES) {
        // XML namespaces, which are never fetched.
        let body = body.replace("http://www.w3.org/2000/svg", "");
        assert!(!body.contains("://"), "{path} names another host");
        for inline in [" style=", " onclick=", "<style", "javascript:", "innerHTML", "eval("] {
            assert!(!body.contains(inline), "{path} has {inline:?}, which its policy forbids");
        }
    }
}

#[test]
fn other_methods_get_the_allowed_ones() {
    let node = Node::demo();
    for (method, path, status, allowed) in [
        ("PUT", "/", 405, Some("GET, HEAD, POST")),
        ("GET", "/rpc", 405, Some("POST")),
        ("DELETE", "/page.js", 405, Some("GET, HEAD")),
        ("PUT", "/healthz", 405, Some("GET, HEAD")),
        ("GET", "/index.html", 404, None),
        ("GET", "/../page.js", 404, None),
    ] {
        let reply = ask(&node, method, path);
        assert_eq!((reply.status, header(&reply, "allow")), (status, allowed), "{method} {path}");
        assert!(reply.body.starts_with("GET / for a page"), "{}", reply.body);
    }
}
