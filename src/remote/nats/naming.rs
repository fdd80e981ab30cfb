//! The names of functions as subjects, and replies of services as results.

use crate::codec::nats::{NOT_JSON, subject_of};
use crate::message::{Fault, RawJson, code};

/// How a function or family is called over NATS.
#[derive(Clone, Debug)]
pub struct Naming {
    /// In front of each name, with a dot.
    pub prefix: String,
    /// The subject in place of a name.
    pub subject: Option<String>,
    /// Replies are texts.
    pub is_text: bool,
}

impl Naming {
    /// Returns the subject of a function.
    ///
    /// # Errors
    /// If the name cannot be one.
    pub(crate) fn subject(&self, method: &str) -> Result<String, Fault> {
        if let Some(subject) = &self.subject {
            return Ok(subject.clone());
        }
        let found = subject_of(&self.prefix, method).filter(|subject| !subject.ends_with(".>"));
        found.ok_or_else(|| {
            let message = format!("{method:?} is no NATS subject: a part of it is empty, * or >");
            Fault::new(code::UNKNOWN_FUNCTION, message)
        })
    }

    /// Returns the result of a call for its reply.
    pub(crate) fn result(&self, reply: Result<RawJson<'static>, Fault>) -> Result<RawJson<'static>, Fault> {
        match reply {
            Ok(json) if self.is_text => {
                RawJson::of(json.get()).map_err(|error| Fault::new(code::INTERNAL, error.to_string()))
            }
            Err(Fault { code: code::INTERNAL, message, data: Some(data) }) if message == NOT_JSON => {
                // A node that has forwarded the call adds itself to data that are an object only.
                match self.is_text {
                    true => Ok(RawJson::checked(data.get().to_owned())),
                    false => {
                        let message = format!("{NOT_JSON}: output = \"text\" takes it as a text");
                        Err(Fault { data: Some(data), ..Fault::new(code::INTERNAL, message) })
                    }
                }
            }
            reply => reply,
        }
    }
}
