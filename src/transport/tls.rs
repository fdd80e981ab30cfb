//! TLS 1.2 and 1.3 around a stream. rustls speaks it, ring computes.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use futures_rustls::rustls;
use futures_rustls::rustls::crypto::ring;
use futures_rustls::rustls::server::WebPkiClientVerifier;
use futures_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use futures_rustls::{TlsAcceptor, TlsConnector};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::Stream;
use crate::address::Address;
use crate::encoding;

/// What HTTP clients and servers agree on; the other dialects ask for nothing.
const ALPN: &[u8] = b"http/1.1";

/// The side that shows a certificate.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

/// The side that asks for one.
#[derive(Clone)]
pub struct Connector(TlsConnector);

impl Acceptor {
    /// Reads a certificate with the chain that leads to its authority, and its key. With `client_ca`, only peers with a
    /// certificate of these authorities are let in.
    ///
    /// # Errors
    /// If a file cannot be read, has nothing of the kind, or does not fit the others.
    pub fn load(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Self, TlsError> {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError(error.to_string()))?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let provider = Arc::new(ring::default_provider());
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(file)?), provider);
                let verifier = verifier.build().map_err(|error| TlsError::file(file, error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let (chain, secret) = (certificates(certificate)?, private_key(key)?);
        let mut config = builder.with_single_cert(chain, secret).map_err(|error| {
            TlsError(format!("{} with {}: {error}", certificate.display(), key.display()))
        })?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Shakes hands with a peer that has connected.
    ///
    /// # Errors
    /// What the peer did wrong.
    pub async fn accept(&self, stream: impl Stream) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(self.0.accept(stream).await?))
    }
}

impl Connector {
    /// Trusts servers with a certificate of the authorities in `ca`. The `identity`, a certificate and its key, is shown
    /// to those that ask for one.
    ///
    /// # Errors
    /// If a file cannot be read, has nothing of the kind, or does not fit the others.
    pub fn load(ca: &Path, identity: Option<(&Path, &Path)>) -> Result<Self, TlsError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError(error.to_string()))?
            .with_root_certificates(authorities(ca)?);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
                .map_err(|error| TlsError::file(certificate, error))?,
        };
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Shakes hands with the server that a connection leads to. `address`, a `host:port`, tells the name or IP address
    /// that its certificate has to bear.
    ///
    /// # Errors
    /// What the server did wrong.
    pub async fn connect(&self, address: &str, stream: impl Stream) -> io::Result<Box<dyn Stream>> {
        let address: Address = address.parse().map_err(io::Error::other)?;
        let name = ServerName::try_from(address.host()).map_err(io::Error::other)?;
        Ok(Box::new(self.0.connect(name, stream).await.map_err(explained)?))
    }
}

/// Says what bytes that are no TLS most likely mean.
fn explained(error: io::Error) -> io::Error {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidMessage(_)) => {
            io::Error::new(error.kind(), "the node does not speak TLS at this port")
        }
        _ => error,
    }
}

fn authorities(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(file)? {
        store.add(certificate).map_err(|error| TlsError::file(file, error))?;
    }
    Ok(store)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(file)?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(TlsError::file(file, "holds no certificate in PEM")),
        found => found.map_err(|error| TlsError::pem(file, &error)),
    }
}

/// Reads a file in PEM, which is ASCII in whichever encoding.
fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    let bytes =
        fs::read(file).map_err(|error| TlsError(format!("cannot read {}: {error}", file.display())))?;
    let text = encoding::decode(&bytes).map(|text| text.into_owned().into_bytes());
    // What is no text is no PEM either, and that is told then.
    Ok(text.unwrap_or(bytes))
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(file)?).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::file(file, "holds no private key in PEM without a password"),
        error => TlsError::pem(file, &error),
    })
}

/// Says which file is not what it should be.
#[derive(Debug)]
pub struct TlsError(String);

impl TlsError {
    fn file(file: &Path, error: impl fmt::Display) -> Self {
        Self(format!("{}: {error}", file.display()))
    }

    fn pem(file: &Path, error: &pem::Error) -> Self {
        match error {
            pem::Error::Io(error) => Self(format!("cannot read {}: {error}", file.display())),
            error => Self::file(file, format_args!("not PEM: {error:?}")),
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsError {}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor")
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}
