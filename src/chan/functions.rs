//! The table of what a server can run.

use std::any::{Any, type_name};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;

use rustc_hash::FxBuildHasher;

use super::error::{CallError, RegisterError};
use super::function::{AnyFunction, Body, Function, Signature, Type};
use super::id::{FunctionId, Names};
use super::kind::{Kind, KindMarker, Many, One, Results, Zero};
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
    state: PhantomData<fn(&mut S)>,
}

/// The future of an async function, which borrows the state.
pub type Running<'s, R> = Pin<Box<dyn Future<Output = R> + Send + 's>>;

impl<S: 'static> Functions<S> {
    /// Creates an empty table.
    pub fn new() -> Self {
        Self { directory: Arc::default(), state: PhantomData }
    }

    /// Registers a function of no result.
    ///
    /// # Errors
    /// [`RegisterError`] if the id is taken or empty. This holds for all methods that register a function.
    pub fn register0<A: Send + 'static>(
        &mut self,
        id: impl Names<Zero, A, ()>,
        function: impl Fn(&mut S, A) + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError> {
        self.now::<Zero, A, ()>(id.into(), function)
    }

    /// Registers a function of one result.
    ///
    /// # Errors
    /// As [`register0`](Self::register0).
    pub fn register1<A: Send + 'static, R: Send + 'static>(
        &mut self,
        id: impl Names<One, A, R>,
        function: impl Fn(&mut S, A) -> R + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError> {
        self.now::<One, A, R>(id.into(), function)
    }

    /// Registers a function of several results.
    ///
    /// # Errors
    /// As [`register0`](Self::register0).
    pub fn register_n<A: Send + 'static, R: Results>(
        &mut self,
        id: impl Names<Many, A, R>,
        function: impl Fn(&mut S, A) -> R + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError> {
        self.now::<Many, A, R>(id.into(), function)
    }

    /// Registers a function of no result that may answer later, through its [`Responder`].
    ///
    /// # Errors
    /// As [`register0`](Self::register0).
    pub fn defer0<A: Send + 'static>(
        &mut self,
        id: impl Names<Zero, A, ()>,
        function: impl Fn(&mut S, A, Responder<()>) + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError> {
        self.later::<Zero, A, ()>(id.into(), function)
    }

    /// Registers a function of one result that may answer later, through its [`Responder`].
    ///
    /// # Errors
    /// As [`register0`](Self::register0).
    pub fn defer1<A: Send + 'static, R: Send + 'static>(
        &mut self,
        id: impl Names<One, A, R>,
        function: impl Fn(&mut S, A, Responder<R>) + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError> {
        self.later::<One, A, R>(id.into(), function)
    }

    /// Registers a function of several results that may answer later, through its [`Responder`].
    ///
    /// # Errors
    /// As [`register0`](Self::register0).
    pub fn defer_n<A: Send + 'static, R: Results>(
        &mut self,
        id: impl Names<Many, A, R>,
        function: impl Fn(&mut S, A, Responder<R>) + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError> {
        self.later::<Many, A, R>(id.into(), function)
    }

    /// Registers an async function of no result. It has the state until its future ends: calls that come
    /// meanwhile wait, those that it makes itself may be awaited.
    ///
    /// # Errors
    /// As [`register0`](Self::register0).
    pub fn async0<A: Send + 'static>(
        &mut self,
        id: impl Names<Zero, A, ()>,
        function: impl for<'s> Fn(&'s mut S, A) -> Running<'s, ()> + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError>
    where
        S: Send,
    {
        self.begin::<Zero, A, ()>(id.into(), function)
    }

    /// Registers an async function of one result. See [`async0`](Self::async0).
    ///
    /// ```
    /// use chanrpc::chan::{Client, Functions};
    ///
    /// struct Cart { prices: Client, sum: u32 }
    ///
    /// let mut functions = Functions::new();
    /// functions.async1("add", |cart: &mut Cart, item: String| Box::pin(async move {
    ///     let price: u32 = cart.prices.call1("price", item).await?;
    ///     cart.sum += price;
    ///     Ok::<u32, chanrpc::chan::CallError>(cart.sum)
    /// }))?;
    /// # Ok::<(), chanrpc::chan::RegisterError>(())
    /// ```
    ///
    /// # Errors
    /// As [`register0`](Self::register0).
    pub fn async1<A: Send + 'static, R: Send + 'static>(
        &mut self,
        id: impl Names<One, A, R>,
        function: impl for<'s> Fn(&'s mut S, A) -> Running<'s, R> + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError>
    where
        S: Send,
    {
        self.begin::<One, A, R>(id.into(), function)
    }

    /// Registers an async function of several results. See [`async0`](Self::async0).
    ///
    /// # Errors
    /// As [`register0`](Self::register0).
    pub fn async_n<A: Send + 'static, R: Results>(
        &mut self,
        id: impl Names<Many, A, R>,
        function: impl for<'s> Fn(&'s mut S, A) -> Running<'s, R> + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError>
    where
        S: Send,
    {
        self.begin::<Many, A, R>(id.into(), function)
    }

    /// Returns how many results the function gives, or `None` if there is no such function.
    pub fn kind(&self, id: &FunctionId) -> Option<Kind> {
        let number = *self.directory.numbers.get(id)?;
        Some(self.directory.entries[number].signature.kind)
    }

    /// Returns the ids of all functions, in the order of their registration.
    pub fn ids(&self) -> impl Iterator<Item = &FunctionId> {
        self.directory.entries.iter().map(|entry| &entry.id)
    }

    pub(super) fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    fn now<K: KindMarker, A: Send + 'static, R: Send + 'static>(
        &mut self,
        id: FunctionId,
        function: impl Fn(&mut S, A) -> R + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError> {
        let body = Body::Now(Box::new(move |state, arguments| function(own(state), arguments)));
        self.insert::<K, A, R>(id, body)
    }

    fn later<K: KindMarker, A: Send + 'static, R: Send + 'static>(
        &mut self,
        id: FunctionId,
        function: impl Fn(&mut S, A, Responder<R>) + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError> {
        let body = Body::Later(Box::new(move |state, arguments, responder| {
            function(own(state), arguments, responder);
        }));
        self.insert::<K, A, R>(id, body)
    }

    fn begin<K: KindMarker, A: Send + 'static, R: Send + 'static>(
        &mut self,
        id: FunctionId,
        function: impl for<'s> Fn(&'s mut S, A) -> Running<'s, R> + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError> {
        let body = Body::Async(Box::new(move |state, arguments, responder| {
            let running = function(own(state), arguments);
            Box::pin(async move { responder.reply(running.await) })
        }));
        self.insert::<K, A, R>(id, body)
    }

    fn insert<K: KindMarker, A: Send + 'static, R: Send + 'static>(
        &mut self,
        id: FunctionId,
        body: Body<A, R>,
    ) -> Result<&mut Self, RegisterError> {
        let signature = Signature { kind: K::KIND, arguments: Type::of::<A>(), result: Type::of::<R>() };
        let function = Arc::new(Function { body });
        Arc::make_mut(&mut self.directory).insert(Entry { id, signature, function })?;
        Ok(self)
    }
}

/// The state as its table knows it.
fn own<S: 'static>(state: &mut dyn Any) -> &mut S {
    match state.downcast_mut() {
        Some(state) => state,
        None => unreachable!("a server has a table over its own state, not over {}", type_name::<S>()),
    }
}

impl<S: 'static> Default for Functions<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> fmt::Debug for Functions<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.directory.entries.iter().map(|entry| &entry.id)).finish()
    }
}

/// A table whose functions have forgotten the state's type: what callers and servers read.
#[derive(Clone, Default)]
pub(super) struct Directory {
    numbers: HashMap<FunctionId, usize, FxBuildHasher>,
    entries: Vec<Entry>,
}

#[derive(Clone)]
struct Entry {
    id: FunctionId,
    signature: Signature,
    function: Arc<dyn AnyFunction>,
}

/// A function that was found, and its number in the table.
pub(super) struct Found<'d, A, R> {
    pub(super) number: usize,
    pub(super) function: &'d Function<A, R>,
}

impl Directory {
    fn insert(&mut self, entry: Entry) -> Result<(), RegisterError> {
        if matches!(&entry.id, FunctionId::Text(text) if text.is_empty()) {
            return Err(RegisterError::EmptyId);
        }
        if self.numbers.contains_key(&entry.id) {
            return Err(RegisterError::Duplicate(entry.id));
        }
        self.numbers.insert(entry.id.clone(), self.entries.len());
        self.entries.push(entry);
        Ok(())
    }

    /// Finds the function for a call that waits for a result.
    pub(super) fn find<A: Send + 'static, R: Send + 'static>(
        &self,
        id: &FunctionId,
        kind: Kind,
    ) -> Result<Found<'_, A, R>, CallError> {
        let Some(&number) = self.numbers.get(id) else { return Err(CallError::Unknown(id.clone())) };
        let Entry { signature, function, .. } = &self.entries[number];
        if signature.kind != kind {
            let (function, registered) = (id.clone(), signature.kind);
            return Err(CallError::KindMismatch { function, registered, called: kind });
        }
        match (&**function as &dyn Any).downcast_ref() {
            Some(function) => Ok(Found { number, function }),
            None => Err(signature.mismatch::<A, R>(id.clone())),
        }
    }

    /// Finds the function for a call that wants no answer, so that kind and result do not matter.
    pub(super) fn find_to_go<A: 'static>(&self, id: &FunctionId) -> Result<usize, CallError> {
        let Some(&number) = self.numbers.get(id) else { return Err(CallError::Unknown(id.clone())) };
        match self.entries[number].signature.arguments.is::<A>() {
            true => Ok(number),
            false => Err(self.entries[number].signature.mismatch::<A, ()>(id.clone())),
        }
    }

    /// Returns the function of a number that [`find`](Self::find) gave.
    pub(super) fn function(&self, number: usize) -> &dyn AnyFunction {
        &*self.entries[number].function
    }

    pub(super) fn id(&self, number: usize) -> &FunctionId {
        &self.entries[number].id
    }
}
