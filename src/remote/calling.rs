//! The methods by which clients call functions, whatever they are clients of.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::call::{RemoteCall, decode, request};
use super::endpoint::{Endpoint, Mode, Request};
use crate::chan::FunctionId;
use crate::message::RawJson;

/// Defines the calling methods of a client that has a method `endpoint`. Examples connect by the line `$connect`.
///
/// A macro, so that each client has them as its own: callers need no trait in scope.
macro_rules! calling_methods {
    ($connect:literal) => {
        /// Calls the function of a typed id and waits for its result.
        ///
        /// ```
        /// # use chanrpc::remote::{Balanced, Policy};
        /// # use chanrpc::{Functions, Id1, Node, Remote};
        /// # const ADD: Id1<i64, i64> = Id1::new("add");
        /// # let mut functions = Functions::exported();
        /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
        /// # let node = Node::builder("example").serve(functions, 0).listen("127.0.0.1:0").start()?;
        #[doc = $connect]
        /// // A plain thread waits; a task awaits.
        /// assert_eq!(client.call(ADD, 5).wait()?, 5);
        /// assert_eq!(smol::block_on(async { client.call(ADD, 2).await })?, 7);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn call<K, A, R>(&self, id: $crate::chan::Id<K, A, R>, arguments: A) -> RemoteCall<R>
        where
            K: $crate::chan::KindMarker<R>,
            A: Serialize,
            R: DeserializeOwned,
        {
            calling::call(self.endpoint(), id.into_untyped(), &arguments)
        }

        /// Calls a function without a result by its name, and waits until it has run.
        ///
        /// ```
        /// # use chanrpc::remote::{Balanced, Policy};
        /// # use chanrpc::{Functions, Id1, Node, Remote};
        /// # let mut functions = Functions::exported();
        /// functions
        ///     .register0("reset", |total: &mut i64, ()| *total = 0)?
        ///     .register1("total", |total: &mut i64, ()| *total)?;
        /// # let node = Node::builder("example").serve(functions, 5).listen("127.0.0.1:0").start()?;
        #[doc = $connect]
        /// client.call0("reset", ()).wait()?;
        /// assert_eq!(client.call1::<_, i64>("total", ()).wait()?, 0);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn call0<A: Serialize>(&self, id: impl Into<FunctionId>, arguments: A) -> RemoteCall<()> {
            calling::call(self.endpoint(), id.into(), &arguments)
        }

        /// Calls a function with one result by its name, and waits for it.
        ///
        /// ```
        /// # use chanrpc::remote::{Balanced, Policy};
        /// # use chanrpc::{Functions, Id1, Node, Remote};
        /// # const ADD: Id1<i64, i64> = Id1::new("add");
        /// # let mut functions = Functions::exported();
        /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
        /// # let node = Node::builder("example").serve(functions, 0).listen("127.0.0.1:0").start()?;
        #[doc = $connect]
        /// assert_eq!(client.call1::<i64, i64>("add", 5).wait()?, 5);
        /// assert!(client.call1::<i64, i64>("subtract", 5).wait().is_err());
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn call1<A: Serialize, R: DeserializeOwned>(
            &self,
            id: impl Into<FunctionId>,
            arguments: A,
        ) -> RemoteCall<R> {
            calling::call(self.endpoint(), id.into(), &arguments)
        }

        /// Calls a function with several results by its name, and waits for them.
        ///
        /// ```
        /// # use chanrpc::remote::{Balanced, Policy};
        /// # use chanrpc::{Functions, Id1, Node, Remote};
        /// # let mut functions = Functions::exported();
        /// functions.register_n("divide", |_: &mut (), (a, b): (u64, u64)| (a / b, a % b))?;
        /// # let node = Node::builder("example").serve(functions, ()).listen("127.0.0.1:0").start()?;
        #[doc = $connect]
        /// let (quotient, remainder): (u64, u64) = client.call_n("divide", (17, 5)).wait()?;
        /// assert_eq!((quotient, remainder), (3, 2));
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn call_n<A: Serialize, R: DeserializeOwned + $crate::chan::Results>(
            &self,
            id: impl Into<FunctionId>,
            arguments: A,
        ) -> RemoteCall<R> {
            calling::call(self.endpoint(), id.into(), &arguments)
        }

        /// Calls a function in go mode. The returned call ends when the request is queued for sending, and does not learn
        /// what becomes of it.
        ///
        /// ```
        /// # use chanrpc::remote::{Balanced, Policy};
        /// # use chanrpc::{Functions, Id1, Node, Remote};
        /// # const ADD: Id1<i64, i64> = Id1::new("add");
        /// # let mut functions = Functions::exported();
        /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
        /// # let node = Node::builder("example").serve(functions, 0).listen("127.0.0.1:0").start()?;
        #[doc = $connect]
        /// client.go(ADD, 5).wait()?;
        /// assert_eq!(client.call(ADD, 0).wait()?, 5);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn go<A: Serialize>(&self, id: impl $crate::chan::Takes<A>, arguments: A) -> RemoteCall<()> {
            calling::go(self.endpoint(), id.into_function_id(), &arguments)
        }

        /// Calls a function with parameters in JSON, and waits for its result in JSON.
        ///
        /// ```
        /// # use chanrpc::remote::{Balanced, Policy};
        /// # use chanrpc::{Functions, Id1, Node, Remote};
        /// # const ADD: Id1<i64, i64> = Id1::new("add");
        /// # let mut functions = Functions::exported();
        /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
        /// # let node = Node::builder("example").serve(functions, 0).listen("127.0.0.1:0").start()?;
        #[doc = $connect]
        /// # use chanrpc::message::RawJson;
        /// let params = RawJson::of(&[5])?;
        /// assert_eq!(client.call_raw("add", Some(params)).wait()?.get(), "5");
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn call_raw(
            &self,
            method: impl Into<String>,
            params: Option<RawJson<'_>>,
        ) -> RemoteCall<RawJson<'static>> {
            calling::call_raw(self.endpoint(), method.into(), params)
        }

        /// Calls a function in go mode with parameters in JSON. See [`go`](Self::go).
        ///
        /// ```
        /// # use chanrpc::remote::{Balanced, Policy};
        /// # use chanrpc::{Functions, Id1, Node, Remote};
        /// # const ADD: Id1<i64, i64> = Id1::new("add");
        /// # let mut functions = Functions::exported();
        /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
        /// # let node = Node::builder("example").serve(functions, 0).listen("127.0.0.1:0").start()?;
        #[doc = $connect]
        /// # use chanrpc::message::RawJson;
        /// client.go_raw("add", Some(RawJson::of(&[5])?)).wait()?;
        /// assert_eq!(client.call(ADD, 0).wait()?, 5);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn go_raw(&self, method: impl Into<String>, params: Option<RawJson<'_>>) -> RemoteCall<()> {
            calling::go_raw(self.endpoint(), method.into(), params)
        }
    };
}
pub(super) use calling_methods;

pub(super) fn call<R: DeserializeOwned>(
    endpoint: Arc<dyn Endpoint>,
    id: FunctionId,
    arguments: &impl Serialize,
) -> RemoteCall<R> {
    RemoteCall::new(endpoint, request(id, arguments, Mode::Call), decode)
}

pub(super) fn go(endpoint: Arc<dyn Endpoint>, id: FunctionId, arguments: &impl Serialize) -> RemoteCall<()> {
    RemoteCall::new(endpoint, request(id, arguments, Mode::Go), decode)
}

pub(super) fn call_raw(
    endpoint: Arc<dyn Endpoint>,
    method: String,
    params: Option<RawJson<'_>>,
) -> RemoteCall<RawJson<'static>> {
    RemoteCall::new(endpoint, Ok(raw(method, params, Mode::Call)), Ok)
}

pub(super) fn go_raw(
    endpoint: Arc<dyn Endpoint>,
    method: String,
    params: Option<RawJson<'_>>,
) -> RemoteCall<()> {
    RemoteCall::new(endpoint, Ok(raw(method, params, Mode::Go)), decode)
}

fn raw(method: String, params: Option<RawJson<'_>>, mode: Mode) -> Request {
    Request { method: Cow::Owned(method), params: params.map(RawJson::into_owned), mode }
}
