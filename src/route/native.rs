//! Functions of a server in this process, called from the network.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::builder::{RegistryBuilder, RegistryError};
use super::call::{Call, CallRef, Responder};
use super::result::encode;
use super::{Description, Provider, ProviderKind};
use crate::chan::{CallError, Client, FunctionId, Functions, Kind, Reach, Scope, Sink};
use crate::message::number::with_whole_numbers;
use crate::message::{Fault, RawJson, code};

/// Functions for callers in this process and over the network, with arguments and results that have a JSON form.
///
/// Parameters become arguments: an array becomes a tuple, an array of one element also a plain value, an object a struct,
/// and no parameters `()` or an `Option`. A result is any value that implements [`Serialize`]; the error of a
/// `Result` becomes a [`Fault`].
#[derive(Debug)]
pub enum Network {}

/// A table of functions for the network, made by [`Functions::exported`].
pub type Exports<S> = Functions<S, Network>;

impl Reach for Network {
    type Export = Export;
}

impl<A: DeserializeOwned + Send + 'static, R: Serialize + Send + 'static> Scope<A, R> for Network {
    fn export(_: &FunctionId, _: Kind) -> Export {
        Export(Arc::new(|client, id, kind, params, to| {
            // Decodes, and encodes if the function runs at once.
            let answered = client.catch_panic("a call from the network", || {
                let arguments = match arguments::<A>(params) {
                    Ok(arguments) => arguments,
                    Err(fault) => return to.refuse(fault),
                };
                match to {
                    To::Prompt(out) => {
                        let result = client.run_in_place::<A, R>(id, kind, arguments).ok()?;
                        Some(result.map_err(|error| fault(&error)).and_then(|result| encode(out, &result)))
                    }
                    To::Later(reply) => {
                        client.submit_when_room::<A, R>(id, kind, arguments, NativeReply(reply));
                        None
                    }
                }
            });
            answered.unwrap_or_else(|panicked| Some(Err(fault(&panicked))))
        }))
    }
}

impl<S: 'static> Functions<S, Network> {
    /// Creates an empty table for callers in this process and over the network.
    ///
    /// ```
    /// use chanrpc::chan::{Functions, Id1, Server};
    /// use chanrpc::route::Registry;
    ///
    /// const ADD: Id1<i64, i64> = Id1::new("add");
    ///
    /// let mut functions = Functions::exported();
    /// functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    ///
    /// let server = Server::new(0, functions.clone());
    /// let mut registry = Registry::builder("example");
    /// registry.export(&functions, &server.client())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn exported() -> Self {
        Self::empty()
    }
}

impl RegistryBuilder {
    /// Makes the functions of a table callable under their texts; `client` is one of the server or scheduler that has
    /// the table. Functions that are named by a number or a type remain for this process alone.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry does not take a name.
    pub fn export<S: 'static>(
        &mut self,
        functions: &Exports<S>,
        client: &Client,
    ) -> Result<&mut Self, RegistryError> {
        for (id, kind, export) in functions.exports() {
            let FunctionId::Text(name) = id else { continue };
            let provider =
                NativeProvider { client: client.clone(), id: id.clone(), kind, export: export.clone() };
            self.provide(name, None, provider)?;
        }
        Ok(self)
    }
}

/// Decodes parameters, calls the function through a client and encodes its result. Returns `None` if the reply comes
/// later, or if the function was to be answered at once and could not be.
#[derive(Clone)]
pub struct Export(Arc<Caller>);

type Caller = dyn Fn(&Client, &FunctionId, Kind, Option<&RawJson<'_>>, To<'_>) -> Option<Result<(), Fault>>
    + Send
    + Sync;

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Export")
    }
}

/// Where a result goes.
enum To<'a> {
    /// To a buffer, if the function can run at once.
    Prompt(&'a mut Vec<u8>),
    /// To a caller that waits.
    Later(Responder),
}

impl To<'_> {
    fn refuse(self, fault: Fault) -> Option<Result<(), Fault>> {
        match self {
            Self::Prompt(_) => Some(Err(fault)),
            Self::Later(reply) => {
                reply.send(Err(fault));
                None
            }
        }
    }
}

/// Takes a function's result to the caller.
struct NativeReply(Responder);

impl<R: Serialize + Send + 'static> Sink<R> for NativeReply {
    fn answer(self: Box<Self>, result: Result<R, CallError>) {
        let mut out = Vec::new();
        let written = result.map_err(|error| fault(&error)).and_then(|result| encode(&mut out, &result));
        self.0.send(written.and_then(|()| RawJson::written(out)));
    }

    fn is_abandoned(&self) -> bool {
        self.0.is_cancelled()
    }

    fn poll_abandoned(&self, cx: &Context<'_>) -> Poll<()> {
        self.0.poll_cancelled(cx)
    }
}

/// One function of a server, as a registry reaches it.
struct NativeProvider {
    client: Client,
    id: FunctionId,
    kind: Kind,
    export: Export,
}

impl Provider for NativeProvider {
    fn call(&self, call: Call<'_>) {
        (self.export.0)(&self.client, &self.id, self.kind, call.params.as_ref(), To::Later(call.responder));
    }

    fn try_call(&self, call: &CallRef<'_>, out: &mut Vec<u8>) -> Option<Result<(), Fault>> {
        (self.export.0)(&self.client, &self.id, self.kind, call.params.as_ref(), To::Prompt(out))
    }

    fn describe(&self) -> Description {
        let target = Some(self.client.server_name().to_owned());
        Description {
            provider: ProviderKind::Native,
            kind: Some(self.kind),
            target,
            ..Description::default()
        }
    }
}

/// Takes parameters as what a function asks for. Numbers with a point are taken as the whole ones that they are where
/// these are asked for.
fn arguments<A: DeserializeOwned>(params: Option<&RawJson<'_>>) -> Result<A, Fault> {
    let text = params.map_or("null", RawJson::get);
    fit(text).or_else(|fault| with_whole_numbers(text).map_or(Err(fault), |text| fit(&text)))
}

fn fit<A: DeserializeOwned>(text: &str) -> Result<A, Fault> {
    serde_json::from_str(text).or_else(|error| {
        let inner = text[1..].strip_suffix([']', '}']).map(str::trim_ascii);
        let plain = match inner {
            Some("") => Some("null"),
            Some(only) if text.starts_with('[') => Some(only),
            _ => None,
        };
        // Several elements are no JSON text, so only one alone passes here.
        plain.and_then(|text| serde_json::from_str(text).ok()).ok_or_else(|| misfit(&error))
    })
}

/// Characters of what is told of parameters that do not fit.
const LONGEST_MISFIT: usize = 500;

/// What is wrong with parameters. Where they are so in our text tells the caller nothing.
fn misfit(error: &serde_json::Error) -> Fault {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    // They may be quoted in it, however long.
    let (what, more) = match what.char_indices().nth(LONGEST_MISFIT) {
        Some((end, _)) => (&what[..end], "…"),
        None => (what, ""),
    };
    Fault::invalid_params(format!("the parameters do not fit: {what}{more}"))
}

/// For functions that call others, and whose callers get to know why that failed.
impl From<CallError> for Fault {
    fn from(error: CallError) -> Self {
        fault(&error)
    }
}

fn fault(error: &CallError) -> Fault {
    let code = match error {
        CallError::Unknown(_) => code::UNKNOWN_FUNCTION,
        CallError::KindMismatch { .. } | CallError::TypeMismatch { .. } => code::INVALID_PARAMS,
        CallError::Full | CallError::Busy { .. } => code::BUSY,
        CallError::Unreachable { .. } => return Fault::not_sent(error.to_string()),
        CallError::Lost { .. } => return Fault::lost(error.to_string()),
        CallError::Closed => code::CLOSED,
        CallError::Deadline => code::DEADLINE,
        CallError::WouldDeadlock { .. } => code::WOULD_DEADLOCK,
        CallError::Panicked(_) | CallError::Unanswered => code::INTERNAL,
        CallError::Failed(error) => {
            return match (error.downcast_ref::<Fault>(), error.downcast_ref::<CallError>()) {
                (Some(of_function), _) => of_function.clone(),
                (_, Some(of_call)) => fault(of_call),
                _ => Fault::new(code::FAILED, error.to_string()),
            };
        }
    };
    Fault::new(code, error.to_string())
}
