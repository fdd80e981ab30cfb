//! Functions that this node offers at another one: `[[offer]]`.

use super::forward::{self, ForwardTarget};
use super::table::{Field, Table};

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
pub(super) fn parse(table: &Table<'_>) -> Option<OfferConfig> {
    table.allow(&["to", "functions", "as", "share", "token_file", "tls"]);
    let token_file = table.read("token_file", Field::path);
    let tls = table.read("tls", forward::tls);
    let to =
        table.read_required("to", "\"vps:7300\"", |to| forward::target(to, to, &token_file, &tls, false));
    let names = |field: Field<'_>| field.names("disk.*", "\"disk.*\", \"uptime\"");
    let functions = table.read_required("functions", "[\"disk.*\"]", names);
    let prefix = table.read("as", |field| {
        let prefix = field.visible_name("board-a.")?;
        if prefix.starts_with("rpc.") || prefix.starts_with("$/") {
            return Err(field.fail(&format!(
                "names that begin with {prefix:?} are reserved, and the other node refuses them; choose another, such as \"board-a.\""
            )));
        }
        Ok(prefix.to_owned())
    });
    let mut is_shared = false;
    table.choice("share", &[("one", false), ("any", true)], &mut is_shared);
    Some(OfferConfig { to: to?, functions: functions?, prefix: prefix.unwrap_or_default(), is_shared })
}
