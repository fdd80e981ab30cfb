//! Functions of a server in this process, called from the network.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use smol::Executor;

use super::builder::{RegistryBuilder, RegistryError};
use super::call::{Call, CallRef, Responder as CallResponder};
use super::{Description, Provider, ProviderKind};
use crate::chan::{
    CallError, Client, FunctionId, Functions, Kind, Many, Names, One, RegisterError, Responder, Results,
    Running, Server, Settings, Sink, Zero,
};
use crate::message::finite::is_finite;
use crate::message::number::with_whole_numbers;
use crate::message::{Fault, NOT_FINITE, RawJson, code};
use crate::sched::{self, Handle, Scheduler};

/// A table of functions that both the network and this process can call.
///
/// Each function is registered once, with arguments and results that have a JSON form, and then
/// [`into_server`](Self::into_server) makes a server of the table, or
/// [`into_scheduler`](Self::into_scheduler) a scheduler. How JSON parameters become arguments: an
/// array becomes a tuple, an array of one element also a plain value, an object a struct, and no parameters
/// `()` or an `Option`.
///
/// Results: a function gives any value that implements [`Wire`]: plain values, [`Json`] around a type of your
/// own, or a `Result` whose error becomes the [`Fault`] that the caller sees.
pub struct Native<S> {
    functions: Functions<S>,
    wires: Vec<Function>,
}

struct Function {
    id: FunctionId,
    kind: Kind,
    caller: Caller,
}

/// Decodes parameters, calls the function through a client and encodes its result. `None` if the function was to
/// be answered at once, and could not be.
type Caller = Arc<
    dyn Fn(&Client, &FunctionId, Option<&RawJson<'_>>, To<'_>) -> Option<Result<(), Fault>> + Send + Sync,
>;

/// Where a result goes.
enum To<'a> {
    /// To a buffer, if the function can run at once.
    Prompt(&'a mut Vec<u8>),
    /// To a caller who waits.
    Later(CallResponder),
}

impl<S: 'static> Native<S> {
    /// Creates an empty table.
    pub fn new() -> Self {
        Self { functions: Functions::new(), wires: Vec::new() }
    }

    /// Registers a function of no result.
    ///
    /// # Errors
    /// As [`Functions::register0`].
    pub fn register0<A: DeserializeOwned + Send + 'static>(
        &mut self,
        id: impl Names<Zero, A, ()>,
        function: impl Fn(&mut S, A) + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError> {
        let id = id.into();
        self.functions.register0(id.clone(), function)?;
        Ok(self.wire::<A, ()>(id, Kind::Zero))
    }

    /// Registers a function of one result.
    ///
    /// # Errors
    /// As [`Functions::register0`].
    pub fn register1<A: DeserializeOwned + Send + 'static, R: Wire>(
        &mut self,
        id: impl Names<One, A, R>,
        function: impl Fn(&mut S, A) -> R + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError> {
        let id = id.into();
        self.functions.register1(id.clone(), function)?;
        Ok(self.wire::<A, R>(id, Kind::One))
    }

    /// Registers a function of several results.
    ///
    /// # Errors
    /// As [`Functions::register0`].
    pub fn register_n<A: DeserializeOwned + Send + 'static, R: Wire + Results>(
        &mut self,
        id: impl Names<Many, A, R>,
        function: impl Fn(&mut S, A) -> R + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError> {
        let id = id.into();
        self.functions.register_n(id.clone(), function)?;
        Ok(self.wire::<A, R>(id, Kind::Many))
    }

    /// Registers a function of no result that may answer later, through its [`Responder`].
    ///
    /// # Errors
    /// As [`Functions::register0`].
    pub fn defer0<A: DeserializeOwned + Send + 'static>(
        &mut self,
        id: impl Names<Zero, A, ()>,
        function: impl Fn(&mut S, A, Responder<()>) + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError> {
        let id = id.into();
        self.functions.defer0(id.clone(), function)?;
        Ok(self.wire::<A, ()>(id, Kind::Zero))
    }

    /// Registers a function of one result that may answer later, through its [`Responder`].
    ///
    /// # Errors
    /// As [`Functions::register0`].
    pub fn defer1<A: DeserializeOwned + Send + 'static, R: Wire>(
        &mut self,
        id: impl Names<One, A, R>,
        function: impl Fn(&mut S, A, Responder<R>) + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError> {
        let id = id.into();
        self.functions.defer1(id.clone(), function)?;
        Ok(self.wire::<A, R>(id, Kind::One))
    }

    /// Registers a function of several results that may answer later, through its [`Responder`].
    ///
    /// # Errors
    /// As [`Functions::register0`].
    pub fn defer_n<A: DeserializeOwned + Send + 'static, R: Wire + Results>(
        &mut self,
        id: impl Names<Many, A, R>,
        function: impl Fn(&mut S, A, Responder<R>) + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError> {
        let id = id.into();
        self.functions.defer_n(id.clone(), function)?;
        Ok(self.wire::<A, R>(id, Kind::Many))
    }

    /// Registers an async function of no result. See [`Functions::async0`].
    ///
    /// # Errors
    /// As [`Functions::register0`].
    pub fn async0<A: DeserializeOwned + Send + 'static>(
        &mut self,
        id: impl Names<Zero, A, ()>,
        function: impl for<'s> Fn(&'s mut S, A) -> Running<'s, ()> + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError>
    where
        S: Send,
    {
        let id = id.into();
        self.functions.async0(id.clone(), function)?;
        Ok(self.wire::<A, ()>(id, Kind::Zero))
    }

    /// Registers an async function of one result. See [`Functions::async0`].
    ///
    /// # Errors
    /// As [`Functions::register0`].
    pub fn async1<A: DeserializeOwned + Send + 'static, R: Wire>(
        &mut self,
        id: impl Names<One, A, R>,
        function: impl for<'s> Fn(&'s mut S, A) -> Running<'s, R> + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError>
    where
        S: Send,
    {
        let id = id.into();
        self.functions.async1(id.clone(), function)?;
        Ok(self.wire::<A, R>(id, Kind::One))
    }

    /// Registers an async function of several results. See [`Functions::async0`].
    ///
    /// # Errors
    /// As [`Functions::register0`].
    pub fn async_n<A: DeserializeOwned + Send + 'static, R: Wire + Results>(
        &mut self,
        id: impl Names<Many, A, R>,
        function: impl for<'s> Fn(&'s mut S, A) -> Running<'s, R> + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError>
    where
        S: Send,
    {
        let id = id.into();
        self.functions.async_n(id.clone(), function)?;
        Ok(self.wire::<A, R>(id, Kind::Many))
    }

    /// Makes a server of the table and has `registry` reach it under the functions' names. Functions named by a
    /// number or a type are for this process alone.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry does not take a name.
    pub fn into_server(
        self,
        state: S,
        settings: Settings,
        registry: &mut RegistryBuilder,
    ) -> Result<Server<S>, RegistryError> {
        let server = Server::with_settings(state, self.functions, settings);
        provide(self.wires, &server.client(), registry)?;
        Ok(server)
    }

    /// Makes a scheduler of the table, as [`Scheduler::with_settings`] does, and has `registry` reach it under the
    /// functions' names.
    ///
    /// # Errors
    /// As [`into_server`](Self::into_server).
    pub fn into_scheduler(
        self,
        executor: &Arc<Executor<'static>>,
        settings: sched::Settings,
        registry: &mut RegistryBuilder,
        state: impl FnOnce(&Handle<S>) -> S,
    ) -> Result<Scheduler<S>, RegistryError> {
        let scheduler = Scheduler::with_settings(executor, self.functions, settings, state);
        provide(self.wires, &scheduler.client(), registry)?;
        Ok(scheduler)
    }

    fn wire<A: DeserializeOwned + Send + 'static, R: Wire>(
        &mut self,
        id: FunctionId,
        kind: Kind,
    ) -> &mut Self {
        let caller: Caller = Arc::new(move |client, id, params, to| {
            // Decoding, and encoding if the function is run at once.
            let answered = client.watch("a call from the network", || {
                let arguments = match arguments::<A>(params) {
                    Ok(arguments) => arguments,
                    Err(fault) => return to.refuse(fault),
                };
                match to {
                    To::Prompt(out) => {
                        let result = client.run_in_place::<A, R>(id, kind, arguments).ok()?;
                        Some(result.map_err(|error| fault(&error)).and_then(|result| result.write(out)))
                    }
                    To::Later(reply) => {
                        client.submit_when_room::<A, R>(id, kind, arguments, NativeReply(reply));
                        None
                    }
                }
            });
            answered.unwrap_or_else(|panicked| Some(Err(fault(&panicked))))
        });
        self.wires.push(Function { id, kind, caller });
        self
    }
}

/// Has `registry` reach functions under their names.
fn provide(
    wires: Vec<Function>,
    client: &Client,
    registry: &mut RegistryBuilder,
) -> Result<(), RegistryError> {
    for Function { id, kind, caller } in wires {
        let FunctionId::Text(name) = id.clone() else { continue };
        let provider = NativeProvider { client: client.clone(), id, kind, caller };
        registry.provide(&name, None, provider)?;
    }
    Ok(())
}

impl<S: 'static> Default for Native<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> fmt::Debug for Native<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.wires.iter().map(|function| &function.id)).finish()
    }
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
struct NativeReply(CallResponder);

impl<R: Wire> Sink<R> for NativeReply {
    fn answer(self: Box<Self>, result: Result<R, CallError>) {
        let mut out = Vec::new();
        let written = result.map_err(|error| fault(&error)).and_then(|result| result.write(&mut out));
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
    caller: Caller,
}

impl Provider for NativeProvider {
    fn call(&self, call: Call<'_>) {
        (self.caller)(&self.client, &self.id, call.params.as_ref(), To::Later(call.responder));
    }

    fn try_call(&self, ask: &CallRef<'_>, out: &mut Vec<u8>) -> Option<Result<(), Fault>> {
        (self.caller)(&self.client, &self.id, ask.params.as_ref(), To::Prompt(out))
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

/// A result that can travel.
pub trait Wire: Send + 'static {
    /// Appends the result as JSON, or tells the caller's fault instead.
    ///
    /// # Errors
    /// The fault that the caller gets; what was appended by then is dropped.
    fn write(self, out: &mut Vec<u8>) -> Result<(), Fault>;
}

/// Has any type with a JSON form travel as a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: Serialize + Send + 'static> Wire for Json<T> {
    fn write(self, out: &mut Vec<u8>) -> Result<(), Fault> {
        encode(out, &self.0)
    }
}

impl<T: Serialize + Send + 'static, E: Into<Fault> + Send + 'static> Wire for Result<T, E> {
    fn write(self, out: &mut Vec<u8>) -> Result<(), Fault> {
        encode(out, &self.map_err(Into::into)?)
    }
}

impl Wire for Box<RawValue> {
    fn write(self, out: &mut Vec<u8>) -> Result<(), Fault> {
        out.extend_from_slice(self.get().as_bytes());
        Ok(())
    }
}

macro_rules! wire {
    ($([$($generic:ident)*] $type:ty;)+) => {$(
        impl<$($generic: Serialize + Send + 'static),*> Wire for $type {
            fn write(self, out: &mut Vec<u8>) -> Result<(), Fault> {
                encode(out, &self)
            }
        }
    )+};
}

wire! {
    [] (); [] bool; [] char; [] String; [] &'static str; [] serde_json::Value;
    [] i8; [] i16; [] i32; [] i64; [] i128; [] isize; [] u8; [] u16; [] u32; [] u64; [] u128; [] usize; [] f32; [] f64;
    [T] Option<T>; [T] Vec<T>;
    [A B] (A, B); [A B C] (A, B, C); [A B C D] (A, B, C, D); [A B C D E] (A, B, C, D, E);
    [A B C D E F] (A, B, C, D, E, F); [A B C D E F G] (A, B, C, D, E, F, G);
    [A B C D E F G H] (A, B, C, D, E, F, G, H);
}

fn encode(out: &mut Vec<u8>, value: &impl Serialize) -> Result<(), Fault> {
    let start = out.len();
    let unfit =
        |why: &dyn fmt::Display| Fault::new(code::INTERNAL, format!("the result has no JSON form: {why}"));
    serde_json::to_writer(&mut *out, value).map_err(|error| unfit(&error))?;
    if is_finite(&out[start..], value) { Ok(()) } else { Err(unfit(&NOT_FINITE)) }
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
        CallError::Full => code::BUSY,
        CallError::Closed => code::CLOSED,
        CallError::Deadline => code::DEADLINE,
        CallError::WouldDeadlock { .. } => code::WOULD_DEADLOCK,
        CallError::Panicked(_) | CallError::Unanswered => code::INTERNAL,
    };
    Fault::new(code, error.to_string())
}
