//! Functions that another node provides: `forward`.

use std::path::PathBuf;
use std::time::Duration;

use super::table::{DAY, Field, MIN_DURATION, Result, Table};
use crate::address::NodeAddress;

/// Another node that provides a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardConfig {
    /// Host and port of the other node, after the dialect if it is not the usual one, as typed.
    pub to: String,
    /// The timeout of a call; by default the node's call deadline applies.
    pub timeout: Option<Duration>,
    /// The file with the token to present to the other node; path as typed.
    pub token_file: Option<PathBuf>,
    /// The TLS files, if the other node requires TLS.
    pub tls: Option<ForwardTlsConfig>,
}

/// The TLS files for connections to another node, in PEM; paths as typed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ForwardTlsConfig {
    /// The authorities that must have issued the other node's certificate.
    pub ca: PathBuf,
    /// The certificate to present to the other node, and its private key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Parses the keys of a forwarded function.
pub(super) fn parse(table: &Table<'_>, to: Field<'_>) -> Result<ForwardConfig> {
    const KNOWN: [&str; 9] =
        ["name", "description", "forward", "timeout", "token_file", "tls", "workers", "queue", "when_full"];
    if let Some((key, _)) = table.entries.iter().find(|(key, _)| !KNOWN.contains(&key.get_ref().as_ref())) {
        let message =
            format!("a forwarded function takes no {}; it takes {}", key.get_ref(), KNOWN.join(", "));
        return Err(table.source.fail(key.span().start, message));
    }
    let (address, parsed) = to.address::<NodeAddress>()?;
    if parsed.address.port() == 0 {
        return Err(to.fail(&format!(
            "{address:?} has port 0, which cannot be connected to; name the other node's port"
        )));
    }
    let token_file = table.get("token_file").map(Field::path).transpose()?;
    let tls = table.get("tls").map(tls).transpose()?;
    let mut forward = ForwardConfig { to: address.to_owned(), timeout: None, token_file, tls };
    table.duration("timeout", MIN_DURATION..=DAY, &mut forward.timeout)?;
    Ok(forward)
}

/// Parses the `tls` of a forwarded function. The trusted authorities are explicit; the machine's own are never used.
fn tls(field: Field<'_>) -> Result<ForwardTlsConfig> {
    let wanted = "a table with the file of the authorities to trust, { ca = \"ca.pem\" }";
    let table = field.table("tls").ok_or_else(|| field.expected(wanted))?;
    table.allow(&["ca", "certificate", "key"])?;
    let ca = table.require("ca", "\"ca.pem\"")?.path()?;
    let identity = match (table.get("certificate"), table.get("key")) {
        (Some(certificate), Some(key)) => Some((certificate.path()?, key.path()?)),
        (None, None) => None,
        _ => return Err(table.fail("needs certificate and key, or neither")),
    };
    Ok(ForwardTlsConfig { ca, identity })
}
