//! What a client shows a server to be let in, as it is written in files.

use std::sync::Arc;

use super::Nkey;
use crate::codec::nats::Credentials;

/// What a client shows, and the key by which it signs.
#[derive(Clone, Debug, Default)]
pub(crate) struct NatsCredentials {
    pub(crate) shown: Credentials,
    pub(crate) key: Option<Arc<Nkey>>,
}

impl NatsCredentials {
    /// Reads a user's name and password, with a colon between them.
    pub(crate) fn user(text: &str) -> Self {
        let (user, password) = text.split_once(':').unwrap_or((text, ""));
        let (user, password) = (Some(user.to_owned()), Some(password.to_owned()));
        Self { shown: Credentials { user, password, ..Credentials::default() }, key: None }
    }

    pub(crate) fn token(text: &str) -> Self {
        Self { shown: Credentials { token: Some(text.to_owned()), ..Credentials::default() }, key: None }
    }

    /// Reads the seed of a user's NKey.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn nkey(seed: &str) -> Result<Self, &'static str> {
        let key = Nkey::from_seed(seed)?;
        Ok(Self { shown: Credentials::default(), key: Some(Arc::new(key)) })
    }

    /// Reads a `.creds` file, as `nsc` writes it: a JWT and the seed of its NKey, each between two lines of dashes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn creds(text: &str) -> Result<Self, &'static str> {
        let block = |name: &str| {
            let mut lines = text.lines().map(str::trim);
            lines.find(|line| line.starts_with("-----BEGIN") && line.contains(name))?;
            lines.find(|line| !line.is_empty()).filter(|line| !line.starts_with("--"))
        };
        let jwt = block("JWT").ok_or("no JWT between lines of dashes, as in a .creds file of nsc")?;
        let seed =
            block("SEED").ok_or("no seed of an NKey between lines of dashes, as in a .creds file of nsc")?;
        let mut credentials = Self::nkey(seed)?;
        credentials.shown.jwt = Some(jwt.to_owned());
        Ok(credentials)
    }

    /// Reads whichever of these a file has.
    ///
    /// # Errors
    /// What is wrong with it.
    #[cfg(feature = "cli")]
    pub(crate) fn any(text: &str) -> Result<Self, &'static str> {
        match text {
            text if text.contains("-----BEGIN") => Self::creds(text),
            text if text.contains(':') => Ok(Self::user(text)),
            // Even if it is damaged: a seed is never sent.
            text if Nkey::is_meant(text) => Self::nkey(text),
            text if text.contains(char::is_whitespace) => Err("a token is one word"),
            text => Ok(Self::token(text)),
        }
    }

    /// Returns what is shown to a server that has sent this nonce.
    pub(super) fn for_nonce(&self, nonce: Option<&str>) -> Credentials {
        let mut shown = self.shown.clone();
        if let (Some(key), Some(nonce)) = (&self.key, nonce) {
            // The JWT names the key.
            shown.nkey = shown.jwt.is_none().then(|| key.public());
            shown.signature = Some(key.sign(nonce));
        }
        shown
    }
}

#[cfg(all(test, feature = "tls"))]
mod tests {
    use super::*;

    const SEED: &str = "SUAL7P6QEAH56KSKFYVX4P4YWIVNU3Z3DK5KLRLLCTYRJC2JDPXVIQKCJM";

    #[test]
    fn a_creds_file_has_a_jwt_and_a_seed() {
        let text = format!(
            "-----BEGIN NATS USER JWT-----\neyJ0.eyJq.c2ln\n------END NATS USER JWT------\n\n\
             ************************* IMPORTANT *************************\r\n\
             -----BEGIN USER NKEY SEED-----\r\n{SEED}\r\n------END USER NKEY SEED------\r\n"
        );
        let shown = NatsCredentials::creds(&text).unwrap().for_nonce(Some("nonce-1"));
        assert_eq!((shown.jwt.as_deref(), shown.nkey), (Some("eyJ0.eyJq.c2ln"), None));
        assert!(shown.signature.is_some_and(|signature| signature.starts_with("RrIkJ5ILp8vR")));
        for (wrong, expected) in [
            (SEED.to_owned(), "no JWT"),
            (text.replace(SEED, ""), "no seed"),
            (text.replace(SEED, "SUAM"), "base32"),
            (text.replace("eyJ0.eyJq.c2ln", ""), "no JWT"),
        ] {
            let error = NatsCredentials::creds(&wrong).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[cfg(feature = "cli")]
    #[test]
    fn a_file_may_have_any_of_them() {
        let any = |text: &str| NatsCredentials::any(text).unwrap();
        assert_eq!(any("ann:secret").shown.password.as_deref(), Some("secret"));
        assert!(any(SEED).key.is_some());
        for token in ["s3cr3t", "SUmmer-2026", "SUAM", &SEED.to_lowercase()] {
            assert_eq!(any(token).shown.token.as_deref(), Some(token));
        }
        let parts = [&SEED[..57], &SEED[..40]].map(str::to_owned);
        let damaged = [SEED.replace("SUAL", "SUAM"), SEED.replace("SUAL", "SAAL"), format!("{SEED}A")];
        for damaged in damaged.into_iter().chain(parts) {
            let error = NatsCredentials::any(&damaged).unwrap_err();
            assert!(error.contains("seed"), "{error}");
        }
    }
}
