//! JSON numbers as texts, so that none is changed silently.

/// Numbers with more significant digits are not compared with their `f64`, which is slow. Hardly any equals one.
const MOST_DIGITS: usize = 64;
/// The length of a float in its usual form, at most.
const USUAL: usize = 32;
/// The most digits of a Rust integer.
const MOST_WHOLE: usize = 39;

/// A number as written: its digits, without zeros at both ends, times a power of ten.
struct Decimal {
    negative: bool,
    /// Empty if the number is zero.
    digits: String,
    /// The power of ten of the last digit.
    exponent: i64,
}

impl Decimal {
    /// Parses a JSON number. `None` for other texts.
    fn of(text: &str) -> Option<Self> {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, power(exponent)?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let mut digits = [whole, fraction].concat();
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let kept = digits.trim_end_matches('0').len();
        let exponent = exponent - fraction.len() as i64 + (digits.len() - kept) as i64;
        digits.truncate(kept);
        digits.drain(..digits.len() - digits.trim_start_matches('0').len());
        Some(Self { negative, digits, exponent })
    }
}

/// A power of ten, saturated beyond the range of every number.
fn power(text: &str) -> Option<i64> {
    const FAR: i64 = i64::MAX / 4;
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let size = match digits.trim_start_matches('0') {
        "" => 0,
        digits => digits.parse().map_or(FAR, |size: i64| size.min(FAR)),
    };
    Some(if text.starts_with('-') { -size } else { size })
}

/// Returns a whole number without point and exponent: `5` for `5.0`, `1500` for `1.5e3`. `None` if it has a fraction or
/// exceeds 128 bits.
pub(crate) fn whole(text: &str) -> Option<String> {
    let mut out = String::new();
    push_whole(&mut out, text)?;
    Some(out)
}

/// Appends what [`whole`] returns. Allocates nothing else, since a request may have a hundred thousand numbers.
fn push_whole(out: &mut String, text: &str) -> Option<()> {
    let (sign, unsigned) = if text.starts_with('-') { text.split_at(1) } else { ("", text) };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, power(exponent)?),
        None => (unsigned, 0),
    };
    let (units, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if mantissa.is_empty() || !is_number(units) || !is_number(fraction) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let (units, zeros) = match fraction {
        "" => (units.trim_end_matches('0'), units.len() - units.trim_end_matches('0').len()),
        _ => (units, 0),
    };
    let units = units.trim_start_matches('0');
    let fraction_digits = if units.is_empty() { fraction.trim_start_matches('0') } else { fraction };
    let digits = units.len() + fraction_digits.len();
    if digits == 0 {
        out.push('0');
        return Some(());
    }
    let zeros = usize::try_from(exponent - fraction.len() as i64 + zeros as i64).ok()?;
    if digits + zeros > MOST_WHOLE {
        return None;
    }
    [sign, units, fraction_digits].into_iter().for_each(|part| out.push_str(part));
    out.extend(std::iter::repeat_n('0', zeros));
    Some(())
}

/// Returns `true` for a number without a fraction, of any size and in any notation. `false` for other texts.
pub(crate) fn is_whole(text: &str) -> bool {
    Decimal::of(text).is_some_and(|number| number.digits.is_empty() || number.exponent >= 0)
}

/// Returns `true` if a number keeps all digits of the text that it was parsed from.
pub(crate) fn keeps_digits(number: f64, text: &str) -> bool {
    // The usual form of a float, of which a message may have fifty thousand.
    let mut usual = [0; USUAL];
    let mut rest = &mut usual[..];
    let is_written = serde_json::to_writer(&mut rest, &number).is_ok();
    let length = USUAL - rest.len();
    if is_written && usual[..length] == *text.as_bytes() {
        return true;
    }
    let Some(Decimal { negative, digits, exponent }) = Decimal::of(text) else { return false };
    if digits.is_empty() {
        return true;
    }
    if !number.is_finite() || digits.len() > MOST_DIGITS {
        return false;
    }
    // As many digits of what it has become.
    let same = |text: String| {
        let again = Decimal::of(&text);
        again.is_some_and(|again| {
            again.negative == negative && again.digits == digits && again.exponent == exponent
        })
    };
    // The shortest text that stands for it, or one of as many digits: where two are as near, these may differ.
    same(format!("{number:e}")) || same(format!("{:.*e}", digits.len() - 1, number))
}

/// Returns a JSON text with every [whole] number written without point and exponent. `None` if nothing changes.
pub(crate) fn with_whole_numbers(json: &str) -> Option<String> {
    let (mut out, mut scratch, mut copied, mut at) = (String::new(), String::new(), 0, 0);
    let bytes = json.as_bytes();
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        match byte {
            b'"' => {
                at += 1;
                while bytes.get(at).is_some_and(|byte| *byte != b'"') {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let ends = |byte: &u8| !matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
                at = bytes[start..].iter().position(ends).map_or(bytes.len(), |length| start + length);
                let text = &json[start..at];
                let is_whole_already = text.bytes().all(|byte| byte.is_ascii_digit());
                scratch.clear();
                if !is_whole_already && push_whole(&mut scratch, text).is_some() && scratch != text {
                    out.push_str(&json[copied..start]);
                    out.push_str(&scratch);
                    copied = at;
                }
            }
            _ => at += 1,
        }
    }
    (copied > 0).then(|| out + &json[copied..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exact(text: &str) -> Option<f64> {
        text.parse().ok().filter(|number| keeps_digits(*number, text))
    }

    #[test]
    fn whole_numbers() {
        for (text, expected) in [
            ("0", Some("0")),
            ("-0", Some("0")),
            ("0.000", Some("0")),
            ("0e999999999999999999999", Some("0")),
            ("5", Some("5")),
            ("5.0", Some("5")),
            ("-5.00", Some("-5")),
            ("1.5e3", Some("1500")),
            ("1500E-2", Some("15")),
            ("0.05e2", Some("5")),
            ("12.5e+1", Some("125")),
            ("1e38", Some("100000000000000000000000000000000000000")),
            ("340282366920938463463374607431768211455.0", Some("340282366920938463463374607431768211455")),
            ("9007199254740993.0", Some("9007199254740993")),
            ("1e39", None),
            ("1e999999999999999999999", None),
            ("1e-999999999999999999999", None),
            ("5.5", None),
            ("5.00000000000000000000000000001", None),
            ("4503599627370497.25", None),
            ("", None),
            ("-", None),
            (".5", None),
            ("1e", None),
            ("x", None),
        ] {
            assert_eq!(whole(text).as_deref(), expected, "{text}");
            let is_too_large = text == "1e39" || text == "1e999999999999999999999";
            assert_eq!(is_whole(text), expected.is_some() || is_too_large, "{text}");
        }
    }

    #[test]
    fn floats_that_keep_every_digit() {
        for text in [
            "0",
            "0.0",
            "0e5",
            "-0",
            "0.1",
            "1.50",
            "1e2",
            "1e20",
            "1e300",
            "5e-324",
            "1.7976931348623157e308",
            "0.10000000000000001",
            "0.30000000000000004",
            "9007199254740992",
            "-2.5e-3",
            "18446744073709551616",
            "0.1000000000000000055511151231257827021181583404541015625",
        ] {
            assert!(exact(text).is_some_and(|number| number == text.parse::<f64>().unwrap()), "{text}");
        }
        assert!(exact("-0.0").unwrap().is_sign_negative());
        for text in [
            "1e400",
            "-1e400",
            "1e-400",
            "0.1234567890123456789",
            "9007199254740993",
            "1e309",
            "123456789012345678901234567890",
            "3e-324",
            "0.1000000000000000055511151231257828",
        ] {
            assert_eq!(exact(text), None, "{text}");
        }
        assert_eq!(exact(&format!("0.{}", "1".repeat(1_000_000))), None);
        assert_eq!(exact(&format!("0.5{}", "0".repeat(1_000_000))), Some(0.5));
    }

    #[test]
    fn numbers_in_a_text() {
        for (json, expected) in [
            ("[5.0]", Some("[5]")),
            ("5.0", Some("5")),
            (r#"{"a":1e2, "5.0":[-1.0,1.5,"\"5.0"] }"#, Some(r#"{"a":100, "5.0":[-1,1.5,"\"5.0"] }"#)),
            ("[5,\"5.0\",5.5]", None),
            ("[]", None),
        ] {
            assert_eq!(with_whole_numbers(json).as_deref(), expected, "{json}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_float_is_itself(number in any::<f64>().prop_filter("finite", |number| number.is_finite())) {
            for text in [format!("{number}"), format!("{number:e}"), format!("{number:.16e}")] {
                prop_assert_eq!(exact(&text).map(f64::to_bits), Some(number.to_bits()), "{}", text);
            }
        }

        #[test]
        fn every_integer_is_itself(number in any::<i128>(), zeros in 0_usize..5) {
            prop_assert_eq!(whole(&number.to_string()), Some(number.to_string()));
            let text = format!("{number}.{}", "0".repeat(zeros + 1));
            prop_assert_eq!(whole(&text), Some(number.to_string()), "{}", text);
        }
    }
}
