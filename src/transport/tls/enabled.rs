//! TLS 1.2 and 1.3 by rustls, with the cryptography of ring.

use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use futures_rustls::rustls;
use futures_rustls::rustls::crypto::ring;
use futures_rustls::rustls::server::WebPkiClientVerifier;
use futures_rustls::rustls::{AlertDescription, ClientConfig, RootCertStore, ServerConfig};
use futures_rustls::{TlsAcceptor, TlsConnector};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::validity::end_of_validity;
use crate::address::Address;
use crate::encoding;
use crate::transport::pipe::Stream;
use crate::transport::stream::close_stream;

/// The application protocols offered. HTTP clients negotiate one; clients of the other dialects negotiate none.
const ALPN: &[&[u8]] = &[
    #[cfg(feature = "grpc")]
    b"h2",
    b"http/1.1",
];

/// The server side of TLS.
#[derive(Clone)]
pub struct Acceptor {
    inner: TlsAcceptor,
    /// When the first certificate of the chain expires.
    expires: Option<SystemTime>,
    /// A hash of the chain.
    fingerprint: u64,
}

/// The client side of TLS.
#[derive(Clone)]
pub struct Connector(Arc<ClientConfig>);

impl Acceptor {
    /// Loads a certificate chain and its private key, all in PEM. With `client_ca`, only peers with a certificate of
    /// these authorities are accepted.
    ///
    /// # Errors
    /// If a file cannot be read, does not contain the expected items, or if the key does not match the certificate.
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
        let (chain, key_der) = (certificates(certificate)?, private_key(key)?);
        let mut hasher = DefaultHasher::new();
        chain.iter().for_each(|certificate| hasher.write(certificate));
        let fingerprint = hasher.finish();
        let expires = chain.iter().filter_map(|certificate| end_of_validity(certificate)).min();
        let mut config = builder.with_single_cert(chain, key_der).map_err(|error| {
            TlsError(format!("{} with {}: {error}", certificate.display(), key.display()))
        })?;
        config.alpn_protocols = ALPN.iter().map(|name| name.to_vec()).collect();
        Ok(Self { inner: TlsAcceptor::from(Arc::new(config)), expires, fingerprint })
    }

    /// Returns `true` if both have the same certificates.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }

    /// Returns when the certificate, or the first of its chain, expires; `None` if that is not known.
    pub(crate) fn expires(&self) -> Option<SystemTime> {
        self.expires
    }

    /// Performs the server side of the handshake. If it fails, the alert that says why is sent before the stream is
    /// closed.
    ///
    /// # Errors
    /// If the handshake fails.
    pub(crate) async fn accept(&self, stream: impl Stream) -> io::Result<Box<dyn Stream>> {
        match self.inner.accept(stream).into_fallible().await {
            Ok(stream) => Ok(Box::new(stream)),
            Err((error, mut stream)) => {
                // With TLS 1.3 the peer may already be sending requests.
                close_stream(&mut stream, true).await;
                Err(error)
            }
        }
    }
}

impl Connector {
    /// Creates a client that trusts servers with a certificate of the authorities in `ca`. The `identity`, a
    /// certificate and its private key, is presented to servers that request a client certificate.
    ///
    /// # Errors
    /// If a file cannot be read, does not contain the expected items, or if the key does not match the certificate.
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
        Ok(Self(Arc::new(config)))
    }

    /// Performs the client side of the handshake. The server's certificate must be valid for the host name or IP
    /// address of `address`, a `host:port`. If the stream is to carry HTTP/2, that is negotiated.
    ///
    /// # Errors
    /// If `address` is invalid or the handshake fails.
    pub(crate) async fn connect(
        &self,
        address: &str,
        stream: impl Stream,
        is_http2: bool,
    ) -> io::Result<Box<dyn Stream>> {
        let address: Address = address.parse().map_err(io::Error::other)?;
        let name = ServerName::try_from(address.host()).map_err(io::Error::other)?;
        let mut config = self.0.clone();
        if is_http2 {
            // Servers of gRPC may require it.
            Arc::make_mut(&mut config).alpn_protocols = vec![b"h2".to_vec()];
        }
        Ok(Box::new(TlsConnector::from(config).connect(name, stream).await.map_err(explain)?))
    }
}

/// Returns `true` if the peer ended the handshake since it does not accept this side's certificate. With TLS 1.3 this
/// side learns of it after it has sent requests; the peer has not decrypted any (RFC 8446, section 4.4.2.4).
pub fn is_certificate_rejection(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(
        cause,
        Some(rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
                | AlertDescription::NoCertificate
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
                | AlertDescription::DecryptError
        ))
    )
}

/// Replaces rustls's error for bytes that are not TLS by the most likely cause.
fn explain(error: io::Error) -> io::Error {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidMessage(_)) => {
            io::Error::new(error.kind(), "the node does not use TLS on this port")
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
    let text = read_pem(file)?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(TlsError::file(file, "contains no PEM certificate")),
        found => found.map_err(|error| TlsError::pem(file, &error)),
    }
}

/// Reads a PEM file, whose text may be UTF-8 or UTF-16.
fn read_pem(file: &Path) -> Result<Vec<u8>, TlsError> {
    let bytes = encoding::read_bytes(file)
        .map_err(|error| TlsError(format!("cannot read {}: {error}", file.display())))?;
    let text = encoding::decode(&bytes).map(|text| text.into_owned().into_bytes());
    // Bytes that are not text are not PEM either: the parser reports that.
    Ok(text.unwrap_or(bytes))
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read_pem(file)?).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::file(file, "contains no unencrypted PEM private key"),
        error => TlsError::pem(file, &error),
    })
}

/// An error of a certificate or key file; names the file.
#[derive(Clone, Debug, PartialEq, Eq)]
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
