//! The page that a node serves: what it offers, and a form to call it, over WebSocket.
//!
//! Its files are as small as hand-written files are, since they are part of the binary. They ask no other host for
//! anything, and [`HEADERS`] has the browser see to that.

/// A file of the page.
pub(crate) struct File {
    pub(crate) content_type: &'static str,
    pub(crate) text: &'static str,
}

/// The headers of each file: it runs nothing but its own script, talks to nobody but its own node, lies in no frame, and
/// is always that of the node that runs now.
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

/// Finds the file that lies at a path.
pub(crate) fn file(path: &str) -> Option<File> {
    let (content_type, text) = match path {
        "/" => ("text/html; charset=utf-8", include_str!("index.html")),
        "/page.js" => ("text/javascript; charset=utf-8", include_str!("page.js")),
        "/style.css" => ("text/css; charset=utf-8", include_str!("style.css")),
        _ => return None,
    };
    Some(File { content_type, text })
}
