//! When certificates expire (RFC 5280, section 4.1).

use std::time::SystemTime;

use crate::datetime::to_system_time;

const SEQUENCE: u8 = 0x30;
/// The tag of a certificate's version, which may be missing.
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;

/// Returns the end of a certificate's validity; `None` if it is before 1970 or the certificate is malformed.
pub(super) fn end_of_validity(certificate: &[u8]) -> Option<SystemTime> {
    let certificate = sequence(certificate)?;
    let mut fields = sequence(certificate)?;
    let (tag, _, rest) = element(fields)?;
    if tag == VERSION {
        fields = rest;
    }
    // The serial number, the algorithm of the signature, the issuer.
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (_, _, validity) = element(sequence(fields)?)?;
    let (tag, text, _) = element(validity)?;
    let text = std::str::from_utf8(text).ok()?;
    // A year of two digits is between 1950 and 2049.
    let century = match tag {
        UTC_TIME if text < "50" => "20",
        UTC_TIME => "19",
        _ => "",
    };
    let text = format!("{century}{text}");
    let part = |from: usize, to: usize| text.get(from..to);
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let (hour, minute, rest) = (part(8, 10)?, part(10, 12)?, text.get(12..)?);
    to_system_time(&format!("{year}-{month}-{day}T{hour}:{minute}:{rest}").parse().ok()?)
}

/// Returns the contents of a sequence.
fn sequence(der: &[u8]) -> Option<&[u8]> {
    let (tag, contents, _) = element(der)?;
    (tag == SEQUENCE).then_some(contents)
}

/// Returns the tag and the contents of an element in DER, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // Of no known length, or too long.
        0x80 | 0x85.. => return None,
        _ => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn der(tag: u8, contents: &[u8]) -> Vec<u8> {
        let length = u8::try_from(contents.len()).unwrap();
        let head = if length < 0x80 { vec![tag, length] } else { vec![tag, 0x81, length] };
        [&head[..], contents].concat()
    }

    fn certificate(version: &[u8], end: &[u8]) -> Vec<u8> {
        let validity = der(SEQUENCE, &[der(UTC_TIME, b"700101000000Z"), end.to_vec()].concat());
        let (serial, name) = (der(2, &[7; 20]), der(SEQUENCE, &[0; 60]));
        let fields = [version, &serial, &der(SEQUENCE, &[6, 1, 2]), &name, &validity, &name].concat();
        der(SEQUENCE, &der(SEQUENCE, &fields))
    }

    #[test]
    fn end_of_validity_is_read_in_both_forms() {
        let version = der(VERSION, &der(2, &[2]));
        for (tag, text, seconds) in [
            (UTC_TIME, "700101000001Z", Some(1)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (UTC_TIME, "500101000000Z", None),
            (0x18, "20500101000000Z", Some(2_524_608_000)),
            (0x18, "99991231235959Z", Some(253_402_300_799)),
            (0x18, "2050", None),
            (0x18, "", None),
        ] {
            let at = seconds.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
            let end = der(tag, text.as_bytes());
            assert_eq!(end_of_validity(&certificate(&version, &end)), at, "{text}");
            assert_eq!(end_of_validity(&certificate(&[], &end)), at, "{text}, of version 1");
        }
    }

    #[test]
    fn truncated_certificate_has_no_end_of_validity() {
        let whole = certificate(&[], &der(UTC_TIME, b"491231235959Z"));
        for length in 0..whole.len() {
            assert_eq!(end_of_validity(&whole[..length]), None, "{length} bytes");
        }
    }
}
