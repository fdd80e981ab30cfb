//! What this project's own tests, fuzz targets and benchmarks use beyond the public API. Not part of the API: it may
//! change in any release.

#[cfg(feature = "node")]
pub mod codec {
    pub use crate::codec::detect::DETECT_LIMIT;
    pub use crate::codec::*;
}
#[cfg(feature = "node")]
pub mod config {
    pub use crate::config::Config;
    pub use crate::config::access::Rule;
    pub use crate::config::exec::*;
    pub use crate::config::forward::*;
    pub use crate::config::function::*;
    pub use crate::config::leaf::*;
    pub use crate::config::listener::*;
    #[cfg(feature = "nats")]
    pub use crate::config::nats::*;
    pub use crate::config::offer::*;
    pub use crate::config::param::*;
    pub use crate::config::process::*;
    pub use crate::config::template::*;
    pub use crate::config::workers::*;

    /// Returns the functions of a configuration.
    pub fn functions(config: &Config) -> &[FunctionConfig] {
        &config.functions
    }

    /// Returns the access rules of a configuration.
    pub fn rules(config: &Config) -> &[Rule] {
        &config.access
    }

    /// Creates a configuration with access rules.
    pub fn with_rules(rules: Vec<Rule>) -> Config {
        Config { access: rules, ..Config::default() }
    }
}
#[cfg(feature = "cli")]
pub mod load {
    pub use crate::load::*;
}
#[cfg(feature = "node")]
pub mod message {
    pub use crate::message::request::*;
}
#[cfg(feature = "node")]
pub mod route {
    use std::sync::Arc;
    use std::time::{Instant, SystemTime};

    pub use crate::config::forward::Balance;
    /// As `node::from_config::registry_from_config`.
    pub fn registry_from_config(
        config: &crate::config::Config,
        executor: &Arc<smol::Executor<'static>>,
    ) -> Result<RegistryBuilder, crate::node::from_config::ProviderConfigError> {
        let topics = Arc::new(TopicHub::new(Arc::default()));
        let config = Arc::new(config.clone());
        crate::node::from_config::registry_from_config(&config, executor, &topics).map(|(builder, _)| builder)
    }
    pub use crate::provider::exec::Exec;
    pub use crate::provider::forward::{Forward, ForwardSettings};
    #[cfg(feature = "nats")]
    pub use crate::provider::nats::Naming;
    pub use crate::route::access::{Decision, DenialReason, Grants, PeerName, Visibility, token_hash};
    pub use crate::route::mailbox::{CallId, Mailbox, Peer, PeerError, Posts};

    use crate::message::{Fault, RawJson};
    pub use crate::metrics::Metrics;
    pub use crate::route::registered::Registration;
    use crate::route::{
        Access, CallHead, Description, FunctionCache, Provider, Registry, RegistryBuilder, RegistryError,
        Responder, TopicHub,
    };

    /// Creates the right to answer a call into a queue.
    pub fn responder(queue: &Arc<Mailbox>, id: CallId, notification: bool) -> Responder {
        Responder::new(queue, id, notification)
    }

    /// What sessions ask of a registry.
    pub trait RegistryInternals {
        /// As `Registry::call`, with all grants. Returns the result if it was available at once; otherwise `defer` has
        /// created the responder.
        fn begin(
            &self,
            method: &str,
            params: Option<RawJson<'_>>,
            deadline: Instant,
            defer: impl FnMut() -> Responder,
        ) -> Option<Result<String, Fault>>;
        /// As `Registry::metrics`.
        fn metrics(&self) -> &Arc<Metrics>;
        /// As `Registry::prometheus`.
        fn prometheus(&self, grants: &Grants) -> String;
        /// As `Registry::register`.
        fn register(
            &self,
            name: &str,
            description: Description,
            provider: impl Provider,
        ) -> Result<Registration, RegistryError>;
    }

    impl RegistryInternals for Registry {
        fn begin(
            &self,
            method: &str,
            params: Option<RawJson<'_>>,
            deadline: Instant,
            mut defer: impl FnMut() -> Responder,
        ) -> Option<Result<String, Fault>> {
            let mut out = Vec::new();
            let head = CallHead { method, deadline, hops: 0 };
            let now = &mut Instant::now();
            let result = self.call(
                &mut FunctionCache::default(),
                &head,
                params,
                &Grants::all(),
                now,
                &mut out,
                &mut defer,
            )?;
            Some(result.map(|()| String::from_utf8_lossy(&out).into_owned()))
        }
        fn metrics(&self) -> &Arc<Metrics> {
            Self::metrics(self)
        }
        fn prometheus(&self, grants: &Grants) -> String {
            Self::prometheus(self, grants)
        }
        fn register(
            &self,
            name: &str,
            description: Description,
            provider: impl Provider,
        ) -> Result<Registration, RegistryError> {
            Self::register(self, name, description, provider)
        }
    }

    /// What listeners ask of access rules.
    pub trait AccessInternals: Sized {
        /// As `Access::grants_for`.
        fn grants_for(self: &Arc<Self>, listener: &str) -> Grants;
        /// As `Access::with_clock`.
        fn with_clock(self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self;
    }

    impl AccessInternals for Access {
        fn grants_for(self: &Arc<Self>, listener: &str) -> Grants {
            Self::grants_for(self, listener)
        }
        fn with_clock(self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
            Self::with_clock(self, clock)
        }
    }
}
#[cfg(feature = "node")]
pub mod session {
    pub use crate::session::*;
}
#[cfg(feature = "node")]
pub mod transport {
    use std::io;

    use crate::transport::tls::{Acceptor, Connector};
    pub use crate::transport::*;

    /// As `Acceptor::accept`.
    pub async fn accept(acceptor: &Acceptor, stream: impl Stream) -> io::Result<Box<dyn Stream>> {
        acceptor.accept(stream).await
    }

    /// As `Connector::connect`.
    pub async fn connect(
        connector: &Connector,
        address: &str,
        stream: impl Stream,
    ) -> io::Result<Box<dyn Stream>> {
        connector.connect(address, stream, false).await
    }
}
