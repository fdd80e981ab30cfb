//! The first messages of a connection: `INFO` of the server, `CONNECT` of the client.

use std::fmt;

use serde::Serialize;

use crate::message::Object;

/// The version of the protocol in which the server tells of other servers, and that it stops.
const PROTOCOL: u8 = 1;

/// What a server tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerInfo {
    /// Distinguishes it from others.
    pub id: String,
    /// The maximum length of a message, with its headers.
    pub max_payload: usize,
    /// Messages may have headers.
    pub has_headers: bool,
    /// The connection must be encrypted.
    pub requires_tls: bool,
    /// The connection can be encrypted.
    pub has_tls: bool,
    /// The server is about to stop.
    pub is_stopping: bool,
    /// To be signed by the client.
    pub nonce: Option<String>,
    /// Further servers, each as `host:port`.
    pub others: Vec<String>,
}

impl ServerInfo {
    /// Reads the JSON of `INFO`. `None` if it is not that.
    pub fn read(json: &str) -> Option<Self> {
        let info: Object<'_> = serde_json::from_str(json).ok()?;
        let is = |name| info.get(name) == Some("true");
        Some(Self {
            id: info.required("server_id").ok()?,
            max_payload: info.get("max_payload").map_or(Some(1 << 20), |number| number.parse().ok())?,
            has_headers: is("headers"),
            requires_tls: is("tls_required"),
            has_tls: is("tls_required") || is("tls_available"),
            is_stopping: is("ldm"),
            nonce: info.text("nonce").ok()?,
            others: info
                .get("connect_urls")
                .map_or(Some(Vec::new()), |list| serde_json::from_str(list).ok())?,
        })
    }
}

/// How the client shows who it is.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// The name of the user.
    pub user: Option<String>,
    /// The password of the user.
    pub password: Option<String>,
    /// A token instead.
    pub token: Option<String>,
    /// The public key of the user.
    pub nkey: Option<String>,
    /// What an authority says of the user, in place of its key.
    pub jwt: Option<String>,
    /// The server's nonce, signed by the user.
    pub signature: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Returns the line by which a client of a name introduces itself.
pub fn connect_line(name: &str, credentials: &Credentials, is_encrypted: bool) -> String {
    #[derive(Serialize)]
    struct Connect<'a> {
        verbose: bool,
        pedantic: bool,
        tls_required: bool,
        name: &'a str,
        lang: &'a str,
        version: &'a str,
        protocol: u8,
        echo: bool,
        headers: bool,
        no_responders: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pass: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        auth_token: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        nkey: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        jwt: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        sig: Option<&'a str>,
    }
    let connect = Connect {
        verbose: false,
        pedantic: false,
        tls_required: is_encrypted,
        name,
        lang: "chanrpc",
        version: env!("CARGO_PKG_VERSION"),
        protocol: PROTOCOL,
        echo: true,
        headers: true,
        no_responders: true,
        user: credentials.user.as_deref(),
        pass: credentials.password.as_deref(),
        auth_token: credentials.token.as_deref(),
        nkey: credentials.nkey.as_deref(),
        jwt: credentials.jwt.as_deref(),
        sig: credentials.signature.as_deref(),
    };
    format!("CONNECT {}\r\n", serde_json::to_string(&connect).unwrap_or_default())
}

/// Returns the control line by which all who are asked at a subject answer at another one, as often as they like. In lower
/// case, since it is no call, which is completed.
pub fn inquiry(subject: &str, reply: &str) -> String {
    format!("pub {subject} {reply} 0\r\n")
}
