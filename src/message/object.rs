//! Objects of JSON whose members are read one by one.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of an object, in the form of JSON. One type for all objects of a reply, so that the binary has the code
/// that reads them once.
pub(crate) struct Object<'a>(Vec<(String, &'a RawValue)>);

impl Object<'_> {
    /// Returns a member, unless it is `null`.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(member, _)| member == name)?;
        Some(value.get()).filter(|json| *json != "null")
    }

    /// Returns a member that is a text.
    ///
    /// # Errors
    /// If it is none.
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, serde_json::Error> {
        self.get(name).map(serde_json::from_str).transpose()
    }

    /// Returns a member that must be a text.
    ///
    /// # Errors
    /// If it is none, or is missing.
    pub(crate) fn required(&self, name: &str) -> Result<String, serde_json::Error> {
        serde_json::from_str(self.required_json(name)?)
    }

    pub(super) fn required_json(&self, name: &str) -> Result<&str, serde_json::Error> {
        self.get(name).ok_or_else(|| Error::custom(format_args!("missing field `{name}`")))
    }

    /// Reads each element of a member that is a list of objects, and is empty if missing.
    ///
    /// # Errors
    /// If it is no such list, or `read` fails.
    pub(crate) fn list<T>(
        &self,
        name: &str,
        read: impl Fn(&Object<'_>) -> Result<T, serde_json::Error>,
    ) -> Result<Vec<T>, serde_json::Error> {
        serde_json::from_str::<Vec<Object<'_>>>(self.get(name).unwrap_or("[]"))?.iter().map(read).collect()
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}
