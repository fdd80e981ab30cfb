//! The table of the functions that a server runs.

use std::any::{Any, type_name};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;

use rustc_hash::FxBuildHasher;

use super::error::{CallError, FunctionError, RegisterError};
use super::function::{AnyFunction, Body, Function, Signature, Type};
use super::id::{FunctionId, Id};
use super::kind::{Kind, KindMarker, Results};
use super::outcome::Outcome;
use super::reply::Responder;
use super::scope::{Local, Reach, Scope};

/// A table of functions over a state `S`, for one server or several.
///
/// The arguments of a function are one value of any type that is `Send`: a tuple for several, `()` for none. A function
/// with a typed [`Id`] returns the result that its id names, or a `Result` with that and an error
/// ([`Outcome`]). A function named by a text or a number has the types that its closure has.
///
/// ```
/// use chanrpc::chan::{Functions, Id0, Id1, Kind};
///
/// struct Account { balance: u64 }
///
/// impl Account {
///     fn pay(&mut self, (amount, fee): (u64, u64)) -> Result<u64, &'static str> {
///         self.balance = self.balance.checked_sub(amount + fee).ok_or("the balance is too low")?;
///         Ok(self.balance)
///     }
/// }
///
/// const PAY: Id1<(u64, u64), u64> = Id1::new("pay");
/// const RESET: Id0<()> = Id0::new("reset");
///
/// let mut functions = Functions::new();
/// functions
///     .register(PAY, Account::pay)?
///     .register(RESET, |account, ()| account.balance = 0)?
///     .register_n(7, |account: &mut Account, by: u64| (account.balance / by, account.balance % by))?;
///
/// assert_eq!(functions.kind(&"pay".into()), Some(Kind::One));
/// assert!(functions.register(RESET, |_, ()| ()).is_err());
/// # Ok::<(), chanrpc::chan::RegisterError>(())
/// ```
///
/// `P` is the scope of callers, by default [`Local`].
pub struct Functions<S, P: Reach = Local> {
    table: Arc<FunctionTable>,
    /// One for each entry of the table.
    exports: Vec<P::Export>,
    state: PhantomData<fn(&mut S)>,
}

/// The future of an async function, which borrows the state.
pub(crate) type BoxFuture<'s, R> = Pin<Box<dyn Future<Output = R> + Send + 's>>;

impl<S: 'static> Functions<S> {
    /// Creates an empty table for callers in this process.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// let mut functions = Functions::new();
    /// functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// // Any number of servers, each with its own state.
    /// let servers = (Server::new(0, functions.clone()), Server::new(100, functions));
    /// assert_eq!((*servers.0.state(), *servers.1.state()), (0, 100));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new() -> Self {
        Self::empty()
    }
}

impl<S: 'static, P: Reach> Functions<S, P> {
    pub(crate) fn empty() -> Self {
        Self { table: Arc::default(), exports: Vec::new(), state: PhantomData }
    }

    /// Registers a function under a typed id.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1};
    /// const PAY: Id1<u64, u64> = Id1::new("pay");
    ///
    /// let mut functions = Functions::new();
    /// functions.register(PAY, |balance: &mut u64, price| {
    ///     *balance = balance.checked_sub(price).ok_or("not enough money")?;
    ///     Ok::<_, &str>(*balance)
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`RegisterError`] if the id is taken or empty. This holds for all methods that register a function.
    pub fn register<K, A, R, O, M>(
        &mut self,
        id: Id<K, A, R>,
        function: impl Fn(&mut S, A) -> O + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError>
    where
        K: KindMarker<R>,
        A: Send + 'static,
        R: Send + 'static,
        O: Outcome<R, M>,
        P: Scope<A, R>,
    {
        self.insert_now(id.into_untyped(), K::KIND, move |state, arguments| {
            function(state, arguments).into_result()
        })
    }

    /// Registers a function that may answer later, through its [`Responder`].
    ///
    /// ```
    /// use chanrpc::chan::{Functions, Id1, Responder};
    ///
    /// const NEXT: Id1<(), u32> = Id1::new("next");
    ///
    /// let mut functions = Functions::new();
    /// functions.register_deferred(NEXT, |waiting: &mut Vec<Responder<u32>>, (), responder| waiting.push(responder))?;
    /// # Ok::<(), chanrpc::chan::RegisterError>(())
    /// ```
    ///
    /// # Errors
    /// As [`register`](Self::register).
    pub fn register_deferred<K, A, R>(
        &mut self,
        id: Id<K, A, R>,
        function: impl Fn(&mut S, A, Responder<R>) + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError>
    where
        K: KindMarker<R>,
        A: Send + 'static,
        R: Send + 'static,
        P: Scope<A, R>,
    {
        let body = Body::Deferred(Box::new(move |state, arguments, responder| {
            function(own(state), arguments, responder);
        }));
        self.insert(id.into_untyped(), K::KIND, body)
    }

    /// Registers an async function. It has the state until its future ends: calls that arrive meanwhile wait in the
    /// queue, and the function may await calls to other servers.
    ///
    /// ```
    /// use chanrpc::chan::{CallError, Client, Functions, Id1};
    ///
    /// struct Cart { prices: Client, sum: u32 }
    ///
    /// const PRICE: Id1<String, u32> = Id1::new("price");
    /// const ADD: Id1<String, u32> = Id1::new("add");
    ///
    /// let mut functions = Functions::new();
    /// functions.register_async(ADD, |cart: &mut Cart, item| Box::pin(async move {
    ///     cart.sum += cart.prices.call(PRICE, item).await?;
    ///     Ok::<u32, CallError>(cart.sum)
    /// }))?;
    /// # Ok::<(), chanrpc::chan::RegisterError>(())
    /// ```
    ///
    /// # Errors
    /// As [`register`](Self::register).
    pub fn register_async<K, A, R, O, M>(
        &mut self,
        id: Id<K, A, R>,
        function: impl for<'s> Fn(&'s mut S, A) -> BoxFuture<'s, O> + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError>
    where
        S: Send,
        K: KindMarker<R>,
        A: Send + 'static,
        R: Send + 'static,
        O: Outcome<R, M> + 'static,
        P: Scope<A, R>,
    {
        let body = Body::Async(Box::new(move |state, arguments, responder| {
            let future = function(own(state), arguments);
            Box::pin(async move { responder.finish(future.await.into_result().map_err(CallError::Failed)) })
        }));
        self.insert(id.into_untyped(), K::KIND, body)
    }

    /// Registers a function without a result under a text, a number or a type.
    ///
    /// ```
    /// # use chanrpc::{Functions, Server};
    /// let mut functions = Functions::new();
    /// functions.register0("reset", |total: &mut i64, ()| *total = 0)?;
    /// let mut server = Server::new(5, functions);
    /// server.client().go("reset", ())?;
    /// # smol::block_on(server.exec());
    /// assert_eq!(*server.state(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`register`](Self::register).
    pub fn register0<A: Send + 'static>(
        &mut self,
        id: impl Into<FunctionId>,
        function: impl Fn(&mut S, A) + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError>
    where
        P: Scope<A, ()>,
    {
        self.insert_now(id.into(), Kind::Zero, move |state, arguments| {
            function(state, arguments);
            Ok(())
        })
    }

    /// Registers a function with one result under a text, a number or a type.
    ///
    /// ```
    /// # use chanrpc::Functions;
    /// let mut functions = Functions::new();
    /// functions.register1("length", |_: &mut (), text: String| text.len())?;
    /// functions.register0(7, |_, ()| println!("seven"))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`register`](Self::register).
    pub fn register1<A: Send + 'static, R: Send + 'static>(
        &mut self,
        id: impl Into<FunctionId>,
        function: impl Fn(&mut S, A) -> R + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError>
    where
        P: Scope<A, R>,
    {
        self.insert_now(id.into(), Kind::One, move |state, arguments| Ok(function(state, arguments)))
    }

    /// Registers a function with several results under a text, a number or a type.
    ///
    /// ```
    /// # use chanrpc::{Functions, Server};
    /// let mut functions = Functions::new();
    /// functions.register_n("divide", |_: &mut (), (a, b): (u64, u64)| (a / b, a % b))?;
    /// # let server = Server::new((), functions);
    /// # let client = server.client();
    /// # std::thread::spawn(|| smol::block_on(server.run()));
    /// assert_eq!(client.call_n::<_, (u64, u64)>("divide", (17_u64, 5_u64)).wait()?, (3, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`register`](Self::register).
    pub fn register_n<A: Send + 'static, R: Results>(
        &mut self,
        id: impl Into<FunctionId>,
        function: impl Fn(&mut S, A) -> R + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError>
    where
        P: Scope<A, R>,
    {
        self.insert_now(id.into(), Kind::Many, move |state, arguments| Ok(function(state, arguments)))
    }

    /// Returns the kind of a function, or `None` if the table has no such function.
    ///
    /// ```
    /// # use chanrpc::Functions;
    /// # use chanrpc::chan::Kind;
    /// let mut functions = Functions::new();
    /// functions.register0("reset", |total: &mut i64, ()| *total = 0)?;
    /// assert_eq!(functions.kind(&"reset".into()), Some(Kind::Zero));
    /// assert_eq!(functions.kind(&"total".into()), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn kind(&self, id: &FunctionId) -> Option<Kind> {
        let number = *self.table.numbers.get(id)?;
        Some(self.table.entries[number].signature.kind)
    }

    /// Returns the ids of all functions in the order of their registration.
    ///
    /// ```
    /// # use chanrpc::Functions;
    /// # let mut functions = Functions::new();
    /// functions
    ///     .register0("reset", |total: &mut i64, ()| *total = 0)?
    ///     .register1("total", |total: &mut i64, ()| *total)?;
    /// let ids: Vec<_> = functions.ids().map(ToString::to_string).collect();
    /// assert_eq!(ids, ["reset", "total"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ids(&self) -> impl Iterator<Item = &FunctionId> {
        self.table.entries.iter().map(|entry| &entry.id)
    }

    pub(super) fn table(&self) -> &Arc<FunctionTable> {
        &self.table
    }

    /// Returns the functions with their ids and kinds.
    #[cfg(feature = "node")]
    pub(crate) fn exports(&self) -> impl Iterator<Item = (&FunctionId, Kind, &P::Export)> {
        let entries = self.table.entries.iter().zip(&self.exports);
        entries.map(|(entry, export)| (&entry.id, entry.signature.kind, export))
    }

    /// Returns what the table stores for a function.
    #[cfg(feature = "node")]
    pub(crate) fn export_mut(&mut self, id: &FunctionId) -> Option<&mut P::Export> {
        let number = *self.table.numbers.get(id)?;
        self.exports.get_mut(number)
    }

    fn insert_now<A, R>(
        &mut self,
        id: FunctionId,
        kind: Kind,
        function: impl Fn(&mut S, A) -> Result<R, FunctionError> + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError>
    where
        A: Send + 'static,
        R: Send + 'static,
        P: Scope<A, R>,
    {
        let body = Body::Now(Box::new(move |state, arguments| function(own(state), arguments)));
        self.insert(id, kind, body)
    }

    fn insert<A, R>(
        &mut self,
        id: FunctionId,
        kind: Kind,
        body: Body<A, R>,
    ) -> Result<&mut Self, RegisterError>
    where
        A: Send + 'static,
        R: Send + 'static,
        P: Scope<A, R>,
    {
        let export = P::export(&id, kind);
        let signature = Signature { kind, arguments: Type::of::<A>(), result: Type::of::<R>() };
        let function = Arc::new(Function { body });
        FunctionTable::insert(&mut self.table, Entry { id, signature, function })?;
        self.exports.push(export);
        Ok(self)
    }
}

/// Returns the state with the type that the table knows.
fn own<S: 'static>(state: &mut dyn Any) -> &mut S {
    match state.downcast_mut() {
        Some(state) => state,
        None => unreachable!("a server has a table over its own state, not over {}", type_name::<S>()),
    }
}

impl<S, P: Reach> Clone for Functions<S, P> {
    fn clone(&self) -> Self {
        Self { table: self.table.clone(), exports: self.exports.clone(), state: PhantomData }
    }
}

impl<S: 'static> Default for Functions<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S, P: Reach> fmt::Debug for Functions<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.table.entries.iter().map(|entry| &entry.id)).finish()
    }
}

/// The table without the type of the state, for callers and servers.
#[derive(Clone, Default)]
pub(super) struct FunctionTable {
    numbers: HashMap<FunctionId, usize, FxBuildHasher>,
    entries: Vec<Entry>,
}

#[derive(Clone)]
struct Entry {
    id: FunctionId,
    signature: Signature,
    function: Arc<dyn AnyFunction>,
}

/// A function and its number in the table.
pub(super) struct Found<'d, A, R> {
    pub(super) number: usize,
    pub(super) function: &'d Function<A, R>,
}

/// A function's id with its number in the table of one server.
#[cfg(feature = "node")]
pub(crate) struct ResolvedId {
    id: FunctionId,
    kind: Kind,
    /// `None` if the server has no such function.
    number: Option<usize>,
}

impl FunctionTable {
    /// Adds a function to a table, which is copied if it is shared.
    #[inline(never)]
    fn insert(table: &mut Arc<Self>, entry: Entry) -> Result<(), RegisterError> {
        let table = Arc::make_mut(table);
        if matches!(&entry.id, FunctionId::Text(text) if text.is_empty()) {
            return Err(RegisterError::EmptyId);
        }
        if table.numbers.contains_key(&entry.id) {
            return Err(RegisterError::Duplicate(entry.id));
        }
        table.numbers.insert(entry.id.clone(), table.entries.len());
        table.entries.push(entry);
        Ok(())
    }

    /// Returns the function for a call that waits for a result. The error is boxed, so that the result stays small.
    pub(super) fn find<A: Send + 'static, R: Send + 'static>(
        &self,
        id: &FunctionId,
        kind: Kind,
    ) -> Result<Found<'_, A, R>, Box<CallError>> {
        let Some(&number) = self.numbers.get(id) else { return Err(unknown(id)) };
        let Entry { signature, function, .. } = &self.entries[number];
        match (&**function as &dyn Any).downcast_ref() {
            Some(function) if signature.kind == kind => Ok(Found { number, function }),
            _ => Err(signature.mismatch(id, Some(kind), Type::of::<A>(), Type::of::<R>())),
        }
    }

    /// Finds a function's number once, for [`find_resolved`](Self::find_resolved).
    #[cfg(feature = "node")]
    pub(super) fn resolve(&self, id: &FunctionId, kind: Kind) -> ResolvedId {
        ResolvedId { number: self.numbers.get(id).copied(), id: id.clone(), kind }
    }

    /// Like [`find`](Self::find), without looking up the number.
    #[cfg(feature = "node")]
    pub(super) fn find_resolved<A: Send + 'static, R: Send + 'static>(
        &self,
        ResolvedId { id, kind, number }: &ResolvedId,
    ) -> Result<Found<'_, A, R>, Box<CallError>> {
        if let Some(number) = *number
            && let Entry { signature, function, .. } = &self.entries[number]
            && signature.kind == *kind
            && let Some(function) = (&**function as &dyn Any).downcast_ref()
        {
            return Ok(Found { number, function });
        }
        Err(self.refuse(id, *kind, *number, Type::of::<A>(), Type::of::<R>()))
    }

    /// Returns the error for a call of a function that does not exist or has other types.
    #[cfg(feature = "node")]
    #[cold]
    fn refuse(
        &self,
        id: &FunctionId,
        kind: Kind,
        number: Option<usize>,
        arguments: Type,
        result: Type,
    ) -> Box<CallError> {
        match number {
            Some(number) => self.entries[number].signature.mismatch(id, Some(kind), arguments, result),
            None => unknown(id),
        }
    }

    /// Returns the function for a call in go mode, which ignores kind and type of the result.
    pub(super) fn find_to_go<A: 'static>(&self, id: &FunctionId) -> Result<usize, Box<CallError>> {
        let Some(&number) = self.numbers.get(id) else { return Err(unknown(id)) };
        let signature = &self.entries[number].signature;
        match signature.arguments.is::<A>() {
            true => Ok(number),
            false => Err(signature.mismatch(id, None, Type::of::<A>(), Type::of::<()>())),
        }
    }

    /// Returns the function of a number that [`find`](Self::find) returned.
    pub(super) fn function(&self, number: usize) -> &dyn AnyFunction {
        &*self.entries[number].function
    }

    pub(super) fn id(&self, number: usize) -> &FunctionId {
        &self.entries[number].id
    }
}

#[cold]
fn unknown(id: &FunctionId) -> Box<CallError> {
    Box::new(CallError::Unknown(id.clone()))
}
