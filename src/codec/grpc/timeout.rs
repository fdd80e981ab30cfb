//! The header `grpc-timeout`.

use std::time::Duration;

/// The maximum value in the header.
const MAX: u128 = 99_999_999;

/// Parses the time that a caller waits, such as `100m` for 100 ms. Returns `None` if it is invalid.
pub fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

/// Returns the time that a caller waits, in the finest unit that has at most eight digits. Rounds up.
pub fn format_timeout(timeout: Duration) -> String {
    let nanos = timeout.as_nanos();
    let units = [("n", 1), ("u", 1_000), ("m", 1_000_000), ("S", 1_000_000_000), ("M", 60_000_000_000)];
    let found = units.into_iter().map(|(unit, each)| (nanos.div_ceil(each), unit));
    let (value, unit) = found.into_iter().find(|(value, _)| *value <= MAX).unwrap_or((MAX, "M"));
    format!("{value}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_each_unit() {
        for (text, nanos) in [
            ("1n", 1),
            ("20u", 20_000),
            ("300m", 300_000_000),
            ("4S", 4_000_000_000),
            ("5M", 300_000_000_000),
            ("1H", 3_600_000_000_000),
            ("0n", 0),
            ("99999999H", 99_999_999 * 3_600_000_000_000),
        ] {
            assert_eq!(parse_timeout(text).map(|timeout| timeout.as_nanos()), Some(nanos), "{text}");
        }
        for (nanos, text) in [
            (0, "0n"),
            (99_999_999, "99999999n"),
            (100_000_001, "100001u"),
            (30_000_000_000, "30000000u"),
            (86_400_000_000_000, "86400000m"),
        ] {
            assert_eq!(format_timeout(Duration::from_nanos(nanos)), text);
        }
        assert_eq!(format_timeout(Duration::MAX), "99999999M");
        for text in ["", "n", "1", "1s", "-1n", "+1n", "123456789n", "1.5S", "1 S", "1ä"] {
            assert_eq!(parse_timeout(text), None, "{text}");
        }
    }
}
