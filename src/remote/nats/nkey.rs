//! The key by which a user shows who it is: Ed25519, as in <https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/nkey_auth>.

use std::fmt;

#[cfg(feature = "tls")]
use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
#[cfg(feature = "tls")]
use ring::signature::{Ed25519KeyPair, KeyPair};

/// The first bits of the seed of a key, and the kind of a user's key.
#[cfg(feature = "tls")]
const SEED: u8 = 18 << 3;
#[cfg(feature = "tls")]
const USER: u8 = 20 << 3;

/// The length from which a text may be a part of a seed, which has 58 characters.
#[cfg(feature = "cli")]
const PART_OF_SEED: usize = 32;

/// The key of a user.
pub(crate) struct Nkey {
    #[cfg(feature = "tls")]
    pair: Ed25519KeyPair,
    /// Builds without cryptography have none.
    #[cfg(not(feature = "tls"))]
    never: std::convert::Infallible,
}

#[cfg(feature = "cli")]
impl Nkey {
    /// Returns `true` if a text may be a seed, of a user or another, also one that was copied in part: `S` first, and
    /// many characters of base32. By chance, a token has not.
    pub(super) fn is_meant(text: &str) -> bool {
        let is_base32 = |c: char| matches!(c, 'A'..='Z' | '2'..='7');
        text.len() >= PART_OF_SEED && text.starts_with('S') && text.chars().all(is_base32)
    }
}

#[cfg(feature = "tls")]
impl Nkey {
    /// Reads the seed of a user's key, such as `SUAM…`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn from_seed(text: &str) -> Result<Self, &'static str> {
        let bytes =
            BASE32_NOPAD.decode(text.as_bytes()).map_err(|_| "a seed of an NKey is in base32: SU…")?;
        let [first, second, seed @ .., low, high] = &bytes[..] else { return Err("the seed is too short") };
        let kind = ((first & 7) << 5) | (second >> 3);
        if first & 0xf8 != SEED || kind != USER {
            return Err("this is not the seed of a user's NKey, which begins with SU");
        }
        if crc16(&bytes[..bytes.len() - 2]) != u16::from_le_bytes([*low, *high]) {
            return Err("the seed of the NKey has a mistake: its checksum does not match");
        }
        let pair =
            Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| "the seed of the NKey is too short")?;
        Ok(Self { pair })
    }

    /// Returns the public key, which the server knows.
    pub(super) fn public(&self) -> String {
        let mut bytes = vec![USER];
        bytes.extend_from_slice(self.pair.public_key().as_ref());
        bytes.extend(crc16(&bytes).to_le_bytes());
        BASE32_NOPAD.encode(&bytes)
    }

    /// Signs what the server has sent.
    pub(super) fn sign(&self, nonce: &str) -> String {
        BASE64URL_NOPAD.encode(self.pair.sign(nonce.as_bytes()).as_ref())
    }
}

#[cfg(not(feature = "tls"))]
impl Nkey {
    /// Fails.
    ///
    /// # Errors
    /// Always.
    pub(crate) fn from_seed(_: &str) -> Result<Self, &'static str> {
        Err(
            "this build has no TLS, and so no NKeys; build with `cargo build --release --features cli,nats,tls`",
        )
    }

    pub(super) fn public(&self) -> String {
        match self.never {}
    }

    pub(super) fn sign(&self, _: &str) -> String {
        match self.never {}
    }
}

/// CRC-16/XMODEM.
#[cfg(feature = "tls")]
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

impl fmt::Debug for Nkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

#[cfg(all(test, feature = "tls"))]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_a_public_key_and_must_be_a_users() {
        // Made by @nats-io/nkeys.
        let (seed, public) = (
            "SUAL7P6QEAH56KSKFYVX4P4YWIVNU3Z3DK5KLRLLCTYRJC2JDPXVIQKCJM",
            "UAHM6VA5HO6FUQ3IXXQDQKXKANWFMH75KGCLVVIGP32IJKBPRMZVVHTO",
        );
        let key = Nkey::from_seed(seed).unwrap();
        assert_eq!(key.public(), public);
        assert_eq!(
            key.sign("nonce-1"),
            "RrIkJ5ILp8vRQEo0LCgnqWWLYMFySGue1lCeoQV1iBKnpWf99gqcB--o6lEyA78wwolagRhIAJpGYDwRoeslDQ"
        );
        let wrong = format!("{}{}", &seed[..20], if &seed[20..21] == "A" { "B" } else { "A" }) + &seed[21..];
        for (text, expected) in [
            (&*wrong, "checksum"),
            (public, "begins with SU"),
            ("SUAM", "base32"),
            ("suam", "base32"),
            ("", "too short"),
        ] {
            let error = Nkey::from_seed(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
