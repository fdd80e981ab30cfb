//! The web page of a node: lists its functions and calls them over WebSocket.
//!
//! The files are small and written by hand, since they are part of the binary. They load nothing from other hosts;
//! [`HEADERS`] makes the browser enforce that.

/// A file for browsers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct File {
    pub(crate) content_type: &'static str,
    pub(crate) text: &'static str,
}

/// The headers of each file: the page runs only its own script, connects only to its own node, cannot be framed, and is
/// never served from a cache.
pub(crate) const HEADERS: [(&str, &str); 4] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
];

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Returns the file at a path, if there is one.
pub(crate) fn file(path: &str) -> Option<File> {
    let (content_type, text) = match path {
        "/" => ("text/html; charset=utf-8", include_str!("index.html")),
        "/page.js" => (SCRIPT, include_str!("page.js")),
        "/calls.js" => (SCRIPT, include_str!("calls.js")),
        "/connection.js" => (SCRIPT, include_str!("connection.js")),
        "/dom.js" => (SCRIPT, include_str!("dom.js")),
        "/form.js" => (SCRIPT, include_str!("form.js")),
        "/functions.js" => (SCRIPT, include_str!("functions.js")),
        "/health.js" => (SCRIPT, include_str!("health.js")),
        "/text.js" => (SCRIPT, include_str!("text.js")),
        "/style.css" => ("text/css; charset=utf-8", include_str!("style.css")),
        _ => return None,
    };
    Some(File { content_type, text })
}
