//! Functions of a server in this process, called from the network.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::infer;
use super::result::encode;
use crate::chan::{
    CallError, Client, FunctionId, Functions, IntoFunctionId, Kind, Reach, ResolvedId, Scope, Sink,
};
use crate::message::json::with_short_strings;
use crate::message::number::with_whole_numbers;
use crate::message::{Fault, RawJson, Signature, code};
use crate::route::{
    Call, Caller, Description, Exports, Network, Provider, ProviderKind, RegistryBuilder, RegistryError,
    Responder, WithCaller,
};

impl Reach for Network {
    type Export = Export;
}

impl<A: DeserializeOwned + Send + 'static, R: Serialize + Send + 'static> Scope<A, R> for Network {
    fn export(_: &FunctionId, kind: Kind) -> Export {
        let begin =
            |provider: &NativeProvider, call: Call<'_>| begin::<A, A, R>(provider, call, |_, given| given);
        Export { begin: Some(Arc::new(begin)), signature: infer::signature::<A, R>().kind(kind) }
    }
}

/// A function for the events of connections, which only the node calls.
impl<R> Scope<Caller, R> for Network {
    fn export(_: &FunctionId, kind: Kind) -> Export {
        Export { begin: None, signature: Signature::default().kind(kind) }
    }
}

impl<A: DeserializeOwned + Send + 'static, R: Serialize + Send + 'static> Scope<WithCaller<A>, R>
    for Network
{
    fn export(_: &FunctionId, kind: Kind) -> Export {
        let begin = |provider: &NativeProvider, call: Call<'_>| {
            begin::<A, WithCaller<A>, R>(provider, call, |caller, given| WithCaller(caller.clone(), given));
        };
        Export { begin: Some(Arc::new(begin)), signature: infer::signature::<A, R>().kind(kind) }
    }
}

/// Decodes what a caller gives, calls the function with the arguments that `complete` makes of it, and encodes the
/// result.
fn begin<G, A, R>(
    NativeProvider { client, function, signature, .. }: &NativeProvider,
    mut call: Call<'_>,
    complete: impl Fn(&Caller, G) -> A,
) where
    G: DeserializeOwned,
    A: Send + 'static,
    R: Serialize + Send + 'static,
{
    let mut attempt = Attempt::Ended(Ok(()));
    // Arguments and results are the user's types, whose conversions may panic.
    let caught = client.catch_panic(CALL, || {
        let caller = call.caller();
        let (params, out) = call.parts();
        attempt = match arguments::<G>(params, signature) {
            Err(fault) => Attempt::Ended(Err(fault)),
            Ok(given) => match client.run_in_place::<A, R>(function, complete(caller, given)) {
                Ok(Ok(result)) => Attempt::Ended(encode(out, &result)),
                Ok(Err(error)) => Attempt::Ended(Err(fault(&error))),
                Err(arguments) => Attempt::Busy(arguments),
            },
        };
    });
    match (caught, attempt) {
        (Err(panicked), _) => call.finish(Err(fault(&panicked))),
        (Ok(()), Attempt::Ended(result)) => call.finish(result),
        (Ok(()), Attempt::Busy(arguments)) => {
            let reply = NativeReply(call.defer());
            // After a panic, the dropped responder answers.
            let _ = client.catch_panic(CALL, || client.submit_when_room::<A, R>(function, arguments, reply));
        }
    }
}

/// The name in the log of what surrounds a function: decoding its arguments and encoding its result.
const CALL: &str = "a call from the network";

/// The result of an attempt to run a function at once.
enum Attempt<A> {
    Ended(Result<(), Fault>),
    /// The function has to wait for its server, or is not a plain one.
    Busy(A),
}

impl<S: 'static> Functions<S, Network> {
    /// Creates an empty table for callers in this process and over the network.
    ///
    /// To learn what a function takes, its registration deserializes arguments from sample values, such as 1 and `"a"`,
    /// and drops them.
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

    /// Describes a registered function, which a typed id names, or anything that becomes a [`FunctionId`]. `describe`
    /// receives what the types show: the types of the parameters, their names if the argument is a struct, and simple
    /// results.
    ///
    /// ```
    /// use chanrpc::chan::{Functions, Id1};
    ///
    /// const ADD: Id1<(f64, f64), f64> = Id1::new("add");
    ///
    /// let mut functions = Functions::exported();
    /// functions
    ///     .register(ADD, |_: &mut (), (a, b)| a + b)?
    ///     .describe(ADD, |signature| signature.names(["a", "b"]).description("adds two numbers"));
    /// # Ok::<(), chanrpc::chan::RegisterError>(())
    /// ```
    ///
    /// # Panics
    /// If no function has this id.
    pub fn describe(
        &mut self,
        id: impl IntoFunctionId,
        describe: impl FnOnce(Signature) -> Signature,
    ) -> &mut Self {
        let id = id.into_function_id();
        let Some(export) = self.export_mut(&id) else { panic!("no function {id} is registered") };
        export.signature = describe(std::mem::take(&mut export.signature));
        self
    }
}

impl RegistryBuilder {
    /// Exports the functions of a table under their texts. `client` belongs to the server or scheduler of the table.
    /// Functions with a number or a type as their id, and those that take a [`Caller`], remain local to this process.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry rejects a name.
    pub fn export<S: 'static>(
        &mut self,
        functions: &Exports<S>,
        client: &Client,
    ) -> Result<&mut Self, RegistryError> {
        for (id, kind, export) in functions.exports() {
            let FunctionId::Text(name) = id else { continue };
            let Export { begin: Some(begin), signature } = export.clone() else { continue };
            let description = Description::default()
                .provider(ProviderKind::Native)
                .signature(signature.clone())
                .target(client.server_name());
            let (function, client) = (client.resolve(id, kind), client.clone());
            let provider = NativeProvider { client, function, signature, begin };
            self.insert(name, description, Arc::new(provider))?;
        }
        Ok(self)
    }
}

/// What the network needs of a function.
#[derive(Clone)]
pub struct Export {
    /// `None` if the function is not called over the network.
    begin: Option<Arc<Begin>>,
    signature: Signature,
}

/// Decodes the parameters of a call, calls the function through a client and encodes its result.
type Begin = dyn Fn(&NativeProvider, Call<'_>) + Send + Sync;

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Export")
    }
}

/// Sends a function's result to the caller.
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

/// One function of a server, as a provider.
struct NativeProvider {
    client: Client,
    function: ResolvedId,
    signature: Signature,
    begin: Arc<Begin>,
}

impl Provider for NativeProvider {
    fn call(&self, call: Call<'_>) {
        (self.begin)(self, call);
    }
}

/// Decodes parameters as the function's arguments. Integers written as floats, such as `1.0`, are accepted as integers,
/// parameters of a tuple also by their names, and `null` for optional ones.
fn arguments<A: DeserializeOwned>(params: Option<&RawJson<'_>>, signature: &Signature) -> Result<A, Fault> {
    let error = match decode(params.map_or("null", RawJson::get)) {
        Ok(arguments) => return Ok(arguments),
        Err(error) => error,
    };
    let mut decoded = None;
    let mut attempt = |form: &str| match decode(form) {
        Ok(arguments) => {
            decoded = Some(arguments);
            Ok(())
        }
        Err(error) => Err(error),
    };
    try_other_forms(params, signature, error, &mut attempt)?;
    Ok(decoded.expect("an attempt has succeeded"))
}

/// The minimum length of a long text, in bytes of JSON.
const LONG: usize = 64 * 1024;

/// Decodes a JSON text. Serde's error for a long text in place of another type would quote all of it, which takes tens
/// of milliseconds, so first it decodes a form without long texts.
fn decode<A: DeserializeOwned>(json: &str) -> Result<A, serde_json::Error> {
    if json.len() >= LONG
        && let Some(short) = with_short_strings(json, LONG)
        && let Err(error) = decode_any::<A>(&short)
        && quotes_text(&error)
    {
        return Err(error);
    }
    decode_any(json)
}

/// Not inlined, so that the binary has it once for each type.
#[inline(never)]
fn decode_any<A: DeserializeOwned>(json: &str) -> Result<A, serde_json::Error> {
    serde_json::from_str(json)
}

/// Returns `true` if an error says that a text, whatever its content, has been given for something else.
fn quotes_text(error: &serde_json::Error) -> bool {
    let text = error.to_string();
    text.starts_with("invalid type: string") || text.contains(", expected a character at line ")
}

/// Has `attempt` decode other forms of the parameters, whose own form it did not decode because of `error`, until it
/// succeeds. Not generic, so that the binary has it once.
///
/// # Errors
/// The fault for the caller, if no form fits.
#[cold]
fn try_other_forms(
    params: Option<&RawJson<'_>>,
    signature: &Signature,
    error: serde_json::Error,
    attempt: &mut dyn FnMut(&str) -> Result<(), serde_json::Error>,
) -> Result<(), Fault> {
    let Some(mut error) = fit_element(params.map_or("null", RawJson::get), error, attempt) else {
        return Ok(());
    };
    let (forms, refusal) = other_forms(params, signature);
    for form in forms {
        let Err(of_form) = attempt(&form) else { return Ok(()) };
        // What is wrong with a value says more than what is wrong with the form.
        match fit_element(&form, of_form, attempt) {
            None => return Ok(()),
            Some(of_form) if is_about_form(&error) => error = of_form,
            Some(_) => {}
        }
    }
    Err(refusal.unwrap_or_else(|| mismatch(&error, signature)))
}

/// Returns `true` if the parameters as a whole have another type than the arguments.
fn is_about_form(error: &serde_json::Error) -> bool {
    let text = error.to_string();
    text.starts_with("invalid type: sequence") || text.starts_with("invalid type: map")
}

/// Returns other forms of the parameters that may fit, and the fault if the parameters do not fit the signature. Not
/// generic, so that the binary has it once.
fn other_forms(params: Option<&RawJson<'_>>, signature: &Signature) -> (Vec<String>, Option<Fault>) {
    let text = params.map_or("null", RawJson::get);
    let whole_numbers = || with_whole_numbers(text).into_iter().collect();
    let Some(declared) = &signature.params else { return (whole_numbers(), None) };
    let values = match signature.bind(params) {
        Ok(values) => values,
        // A struct may ignore other members. An array that does not fit has no other form, however long it is.
        Err(fault) if text.starts_with('{') => return (whole_numbers(), Some(fault)),
        Err(fault) => return (Vec::new(), Some(fault)),
    };
    let mut forms = Vec::new();
    let mut add = |text: String| {
        let whole = with_whole_numbers(&text);
        forms.push(text);
        forms.extend(whole);
    };
    if values.iter().any(Option::is_none) {
        // A struct fills in what is left out.
        let named = declared.iter().zip(&values).filter_map(|(param, value)| Some((&param.name, (*value)?)));
        let member = |(name, value)| {
            serde_json::to_string(name).map_or(String::new(), |name| format!("{name}:{value}"))
        };
        let members: Vec<_> = named.map(member).collect();
        add(format!("{{{}}}", members.join(",")));
    }
    let values: Vec<_> = values.into_iter().map(|value| value.unwrap_or("null")).collect();
    add(format!("[{}]", values.join(",")));
    (forms, None)
}

/// Has `attempt` decode the only element of an array, or nothing in place of an empty one. Returns the error if it does
/// not succeed; `error` is that of the whole.
fn fit_element(
    text: &str,
    error: serde_json::Error,
    attempt: &mut dyn FnMut(&str) -> Result<(), serde_json::Error>,
) -> Option<serde_json::Error> {
    let inner = text[1..].strip_suffix([']', '}']).map(str::trim_ascii);
    let plain = match inner {
        Some("") => Some("null"),
        Some(only) if text.starts_with('[') => Some(only),
        _ => None,
    };
    // Several elements are not a JSON text, so this succeeds only for a single one.
    match plain.map(attempt) {
        Some(Ok(())) => None,
        Some(Err(of_element)) if of_element.is_data() && is_about_form(&error) => Some(of_element),
        _ => Some(error),
    }
}

/// The maximum length, in characters, of the reason for invalid parameters.
const MAX_MISMATCH: usize = 500;

/// Returns the fault for invalid parameters. Without the position, which is one in our text and not in the caller's.
fn mismatch(error: &serde_json::Error, signature: &Signature) -> Fault {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    // The message may quote parameters of any length.
    let (what, more) = match what.char_indices().nth(MAX_MISMATCH) {
        Some((end, _)) => (&what[..end], "…"),
        None => (what, ""),
    };
    signature.mismatch(format_args!("the parameters do not fit: {what}{more}"))
}

/// Lets functions that call others return the error of such a call.
impl From<CallError> for Fault {
    fn from(error: CallError) -> Self {
        fault(&error)
    }
}

fn fault(error: &CallError) -> Fault {
    let code = match error {
        CallError::Unknown(_) => code::UNKNOWN_FUNCTION,
        CallError::KindMismatch { .. } | CallError::TypeMismatch { .. } => code::INVALID_PARAMS,
        CallError::Full | CallError::Busy { .. } => {
            return Fault::new(code::BUSY, error.to_string()).unsent();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_in_place_of_another_type_is_not_quoted() {
        fn reason<A: DeserializeOwned>(json: &str) -> String {
            let Err(error) = decode::<A>(json) else { panic!("it fits") };
            error.to_string()
        }
        let text = format!("\"{}\"", "€\\n".repeat(LONG));
        let array = format!("[1,{text}]");
        for reason in [
            reason::<()>(&text),
            reason::<i64>(&text),
            reason::<char>(&text),
            reason::<Vec<i64>>(&array),
            reason::<(i64, bool)>(&array),
            reason::<(i64, Option<(f64,)>)>(&array),
            reason::<std::collections::HashMap<String, Vec<u8>>>(&format!("{{\"a\":{array}}}")),
        ] {
            assert!(reason.len() < 250, "{} bytes: {}", reason.len(), &reason[..100]);
        }
        assert_eq!(decode::<(i64, String)>(&array).unwrap().1.chars().count(), 2 * LONG);
    }
}
