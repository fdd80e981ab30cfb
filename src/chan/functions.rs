//! The table of what a server can run.

use std::any::{TypeId, type_name};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::envelope::{Envelope, open};
use super::error::{CallError, RegisterError};
use super::id::FunctionId;
use super::kind::{Kind, Results};
use super::reply::Responder;

/// A table of functions over a state `S`, which one server or any number of servers run.
///
/// Arguments are one value of any type that can travel between threads; functions of several arguments take a
/// tuple, functions of none take `()`. A function that can fail gives a `Result` as its result.
///
/// ```
/// use chanrpc::chan::{Functions, Kind};
///
/// struct Account { balance: u64 }
/// struct Poor;
///
/// let mut functions = Functions::new();
/// functions
///     .register0("reset", |account: &mut Account, ()| account.balance = 0)?
///     .register1("pay", |account: &mut Account, (amount, fee): (u64, u64)| {
///         account.balance = account.balance.checked_sub(amount + fee).ok_or(Poor)?;
///         Ok::<u64, Poor>(account.balance)
///     })?
///     .register_n(7, |account: &mut Account, by: u64| (account.balance / by, account.balance % by))?;
///
/// assert_eq!(functions.kind(&"pay".into()), Some(Kind::One));
/// assert!(functions.register0("reset", |_, ()| ()).is_err());
/// # Ok::<(), chanrpc::chan::RegisterError>(())
/// ```
pub struct Functions<S> {
    directory: Arc<Directory>,
    handlers: Vec<Handler<S>>,
}

/// Opens an envelope and runs the function on what is in it. Unwinds if the function does.
type Handler<S> = Box<dyn Fn(&mut S, Box<dyn Envelope>) + Send + Sync>;

impl<S: 'static> Functions<S> {
    /// Creates an empty table.
    pub fn new() -> Self {
        Self { directory: Arc::default(), handlers: Vec::new() }
    }

    /// Registers a function of no result.
    ///
    /// # Errors
    /// [`RegisterError`] if the id is taken or empty. This holds for all `register` and `defer` methods.
    pub fn register0<A: Send + 'static>(
        &mut self,
        id: impl Into<FunctionId>,
        function: impl Fn(&mut S, A) + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError> {
        self.insert(id.into(), Kind::Zero, move |state, arguments, responder| {
            function(state, arguments);
            responder.reply(());
        })
    }

    /// Registers a function of one result.
    ///
    /// # Errors
    /// As [`register0`](Self::register0).
    pub fn register1<A: Send + 'static, R: Send + 'static>(
        &mut self,
        id: impl Into<FunctionId>,
        function: impl Fn(&mut S, A) -> R + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError> {
        self.insert(id.into(), Kind::One, move |state, arguments, responder| {
            responder.reply(function(state, arguments));
        })
    }

    /// Registers a function of several results.
    ///
    /// # Errors
    /// As [`register0`](Self::register0).
    pub fn register_n<A: Send + 'static, R: Results>(
        &mut self,
        id: impl Into<FunctionId>,
        function: impl Fn(&mut S, A) -> R + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError> {
        self.insert(id.into(), Kind::Many, move |state, arguments, responder| {
            responder.reply(function(state, arguments));
        })
    }

    /// Registers a function of no result that may answer later, through its [`Responder`].
    ///
    /// # Errors
    /// As [`register0`](Self::register0).
    pub fn defer0<A: Send + 'static>(
        &mut self,
        id: impl Into<FunctionId>,
        function: impl Fn(&mut S, A, Responder<()>) + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError> {
        self.insert(id.into(), Kind::Zero, function)
    }

    /// Registers a function of one result that may answer later, through its [`Responder`].
    ///
    /// # Errors
    /// As [`register0`](Self::register0).
    pub fn defer1<A: Send + 'static, R: Send + 'static>(
        &mut self,
        id: impl Into<FunctionId>,
        function: impl Fn(&mut S, A, Responder<R>) + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError> {
        self.insert(id.into(), Kind::One, function)
    }

    /// Registers a function of several results that may answer later, through its [`Responder`].
    ///
    /// # Errors
    /// As [`register0`](Self::register0).
    pub fn defer_n<A: Send + 'static, R: Results>(
        &mut self,
        id: impl Into<FunctionId>,
        function: impl Fn(&mut S, A, Responder<R>) + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError> {
        self.insert(id.into(), Kind::Many, function)
    }

    /// Returns how many results the function gives, or `None` if there is no such function.
    pub fn kind(&self, id: &FunctionId) -> Option<Kind> {
        Some(self.directory.by_id.get(id)?.kind)
    }

    /// Returns the ids of all functions, in the order of their registration.
    pub fn ids(&self) -> impl Iterator<Item = &FunctionId> {
        self.directory.ids.iter()
    }

    pub(super) fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    pub(super) fn handler(&self, index: usize) -> &Handler<S> {
        &self.handlers[index]
    }

    fn insert<A: Send + 'static, R: Send + 'static>(
        &mut self,
        id: FunctionId,
        kind: Kind,
        function: impl Fn(&mut S, A, Responder<R>) + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError> {
        let signature = Signature {
            index: self.handlers.len(),
            kind,
            arguments: Type::of::<A>(),
            result: Type::of::<R>(),
        };
        Arc::make_mut(&mut self.directory).insert(id, signature)?;
        self.handlers.push(Box::new(move |state, envelope| {
            let (arguments, responder) = open(envelope);
            function(state, arguments, responder);
        }));
        Ok(self)
    }
}

impl<S: 'static> Default for Functions<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> fmt::Debug for Functions<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.directory.ids).finish()
    }
}

/// The part of a table that callers read: it knows nothing of the state's type.
#[derive(Clone, Default)]
pub(super) struct Directory {
    by_id: HashMap<FunctionId, Signature>,
    ids: Vec<FunctionId>,
}

/// What a call must look like.
#[derive(Clone, Copy)]
pub(super) struct Signature {
    pub(super) index: usize,
    kind: Kind,
    arguments: Type,
    result: Type,
}

#[derive(Clone, Copy)]
struct Type {
    id: TypeId,
    name: &'static str,
}

impl Type {
    fn of<T: 'static>() -> Self {
        Self { id: TypeId::of::<T>(), name: type_name::<T>() }
    }

    fn check<T: 'static>(&self, function: &FunctionId, part: &'static str) -> Result<(), CallError> {
        if self.id == TypeId::of::<T>() {
            return Ok(());
        }
        let function = function.clone();
        Err(CallError::TypeMismatch { function, part, registered: self.name, called: type_name::<T>() })
    }
}

impl Directory {
    fn insert(&mut self, id: FunctionId, signature: Signature) -> Result<(), RegisterError> {
        if matches!(&id, FunctionId::Text(text) if text.is_empty()) {
            return Err(RegisterError::EmptyId);
        }
        if self.by_id.contains_key(&id) {
            return Err(RegisterError::Duplicate(id));
        }
        self.ids.push(id.clone());
        self.by_id.insert(id, signature);
        Ok(())
    }

    /// Finds the function for a call that waits for a result.
    pub(super) fn find<A: 'static, R: 'static>(
        &self,
        id: &FunctionId,
        kind: Kind,
    ) -> Result<usize, CallError> {
        let signature = self.by_id.get(id).ok_or_else(|| CallError::Unknown(id.clone()))?;
        if signature.kind != kind {
            let (function, registered) = (id.clone(), signature.kind);
            return Err(CallError::KindMismatch { function, registered, called: kind });
        }
        signature.arguments.check::<A>(id, "arguments")?;
        signature.result.check::<R>(id, "result")?;
        Ok(signature.index)
    }

    /// Finds the function for a call that wants no answer, so that kind and result do not matter.
    pub(super) fn find_to_go<A: 'static>(&self, id: &FunctionId) -> Result<usize, CallError> {
        let signature = self.by_id.get(id).ok_or_else(|| CallError::Unknown(id.clone()))?;
        signature.arguments.check::<A>(id, "arguments")?;
        Ok(signature.index)
    }
}
