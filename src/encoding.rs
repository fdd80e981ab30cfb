//! Decodes text files and standard input: UTF-8 or UTF-16.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The maximum length of a file that is read as a whole, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// Reads a text file.
///
/// # Errors
/// If the file cannot be read, or with [`io::ErrorKind::InvalidData`] and an [`EncodingError`] if it cannot be decoded.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let bytes = read_bytes(path)?;
    match decode(&bytes) {
        Ok(text) => Ok(text.into_owned()),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

/// Reads a file of at most [`MAX_FILE`] bytes.
///
/// # Errors
/// If the file cannot be read, or is longer.
pub(crate) fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

/// Decodes a text: UTF-8 with or without a byte order mark, or UTF-16 with one, as PowerShell's `>` writes it.
///
/// # Errors
/// [`EncodingError`] if it is neither.
pub(crate) fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, EncodingError> {
    match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Err(EncodingError::Utf32),
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes).map(Cow::Owned),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes).map(Cow::Owned),
        [0xef, 0xbb, 0xbf, rest @ ..] => utf8(rest),
        // A text does not begin with a null character, so this is UTF-16 without a byte order mark.
        [0, _, ..] | [_, 0, ..] => Err(EncodingError::Unmarked),
        _ => utf8(bytes),
    }
}

fn utf8(bytes: &[u8]) -> Result<Cow<'_, str>, EncodingError> {
    let error = match std::str::from_utf8(bytes) {
        Ok(text) => return Ok(text.into()),
        Err(error) => error,
    };
    let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
    Err(EncodingError::NotUtf8 { line })
}

fn utf16(bytes: &[u8], unit: impl Fn([u8; 2]) -> u16) -> Result<String, EncodingError> {
    let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
    let text: Result<String, _> = char::decode_utf16(units).collect();
    text.ok().filter(|_| bytes.len().is_multiple_of(2)).ok_or(EncodingError::NotUtf16)
}

/// Why a text cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EncodingError {
    NotUtf8 { line: usize },
    NotUtf16,
    Unmarked,
    Utf32,
}

impl fmt::Display for EncodingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8 { line } => write!(f, "line {line} is not UTF-8; save it as UTF-8"),
            Self::NotUtf16 => f.write_str("invalid UTF-16 after its byte order mark; save it as UTF-8"),
            Self::Unmarked => f.write_str(
                "it contains zero bytes, as UTF-16 without a byte order mark does; save it as UTF-8",
            ),
            Self::Utf32 => f.write_str("it is UTF-32; save it as UTF-8"),
        }
    }
}

impl std::error::Error for EncodingError {}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "name = \"Gerät 🖥\"\r\n";

    fn utf16(mark: bool, order: fn(u16) -> [u8; 2]) -> Vec<u8> {
        let mark = mark.then_some(0xfeff);
        mark.into_iter().chain(TEXT.encode_utf16()).flat_map(order).collect()
    }

    #[test]
    fn decodes_text_of_windows_tools() {
        assert_eq!(decode(TEXT.as_bytes()).unwrap(), TEXT);
        assert_eq!(decode(format!("\u{feff}{TEXT}").as_bytes()).unwrap(), TEXT);
        assert_eq!(decode(&utf16(true, u16::to_le_bytes)).unwrap(), TEXT);
        assert_eq!(decode(&utf16(true, u16::to_be_bytes)).unwrap(), TEXT);
        for empty in [&b""[..], b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"] {
            assert_eq!(decode(empty).unwrap(), "", "{empty:?}");
        }
    }

    #[test]
    fn names_unsupported_encodings() {
        assert_eq!(decode(b"a\nb\nGer\xe4t"), Err(EncodingError::NotUtf8 { line: 3 }));
        assert_eq!(decode(&utf16(false, u16::to_le_bytes)), Err(EncodingError::Unmarked));
        assert_eq!(decode(&utf16(false, u16::to_be_bytes)), Err(EncodingError::Unmarked));
        assert_eq!(decode(b"\xff\xfea"), Err(EncodingError::NotUtf16));
        assert_eq!(decode(b"\xff\xfe\x00\xd8"), Err(EncodingError::NotUtf16));
        assert_eq!(decode(b"\xff\xfe\0\0a\0\0\0"), Err(EncodingError::Utf32));
    }
}
