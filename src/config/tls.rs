//! `tls` of listeners and of forwarded functions.

use super::read::path;
use super::table::{Field, Result};
use super::{ForwardTls, ListenTls};

/// Reads what makes a listener speak TLS.
pub(super) fn listen(field: Field<'_>) -> Result<ListenTls> {
    let example = "{ certificate = \"node.pem\", key = \"node.key\" }";
    let table =
        field.table("tls").ok_or_else(|| field.expected(&format!("a table of files such as {example}")))?;
    table.allow(&["certificate", "key", "client_ca"])?;
    let certificate = path(table.require("certificate", "\"node.pem\"")?)?;
    let key = path(table.require("key", "\"node.key\"")?)?;
    let client_ca = table.get("client_ca").map(path).transpose()?;
    Ok(ListenTls { certificate, key, client_ca })
}

/// Reads what makes a forwarded function speak TLS. Which authorities it trusts is never left to the machine.
pub(super) fn forward(field: Field<'_>) -> Result<ForwardTls> {
    let wanted = "a table with the file of the authorities to trust, { ca = \"ca.pem\" }";
    let table = field.table("tls").ok_or_else(|| field.expected(wanted))?;
    table.allow(&["ca", "certificate", "key"])?;
    let ca = path(table.require("ca", "\"ca.pem\"")?)?;
    let identity = match (table.get("certificate"), table.get("key")) {
        (Some(certificate), Some(key)) => Some((path(certificate)?, path(key)?)),
        (None, None) => None,
        _ => return Err(table.fail("needs certificate and key, or neither")),
    };
    Ok(ForwardTls { ca, identity })
}
