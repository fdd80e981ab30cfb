//! Functions that this node offers at another one: `[[offer]]`.

use super::forward::{self, ForwardTarget};
use super::table::{Field, Result, Table};

pub(super) const HEADING: &str = "[[offer]]";

/// Functions that this node offers at another one, to which it connects: an `[[offer]]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferConfig {
    /// The other node.
    pub to: ForwardTarget,
    /// Patterns of this node's functions.
    pub functions: Vec<String>,
    /// What the other node calls them begins with this.
    pub prefix: String,
    /// Other connections may offer the same functions.
    pub is_shared: bool,
}

/// Parses an `[[offer]]` table.
pub(super) fn parse(table: &Table<'_>) -> Result<OfferConfig> {
    table.allow(&["to", "functions", "as", "share", "token_file", "tls"]);
    let token_file = table.get("token_file").map(Field::path).transpose()?;
    let tls = table.get("tls").map(forward::tls).transpose()?;
    let to = table.require("to", "\"vps:7300\"")?;
    let to = forward::target(to, to, &token_file, &tls, false)?;
    let functions = table.require("functions", "[\"disk.*\"]")?;
    let functions: Vec<_> = functions
        .list("a list of names such as [\"disk.*\", \"uptime\"]")?
        .map(|field| field.visible_name("disk.*").map(str::to_owned))
        .collect::<Result<_>>()?;
    let prefix = table.get("as").map(|field| field.visible_name("board-a.")).transpose()?;
    let is_shared = match table.get("share") {
        None => false,
        Some(field) => match field.value.get_ref().as_str() {
            Some("one") => false,
            Some("any") => true,
            _ => return Err(field.expected("\"one\" or \"any\"")),
        },
    };
    let prefix = prefix.unwrap_or_default().to_owned();
    Ok(OfferConfig { to, functions, prefix, is_shared })
}
