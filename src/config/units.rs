//! Sizes and durations in human-readable notation.

use std::time::Duration;

const SIZES: [(&str, u64); 7] = [
    ("B", 1),
    ("KB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
];

/// Units in nanoseconds.
const DURATIONS: [(&str, u64); 4] =
    [("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000), ("h", 3_600_000_000_000)];

/// Parses a number of bytes such as `64 KiB`, `1.5 MiB` or `1MB`; truncates fractions of a byte.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    scaled(text, &SIZES)
}

/// Parses a duration such as `250ms`, `2s`, `1.5s` or `5m`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    scaled(text, &DURATIONS).map(Duration::from_nanos)
}

/// Formats a number of bytes, rounded, in the largest fitting binary unit.
pub(crate) fn format_bytes(bytes: u64) -> String {
    let mut unit = "B";
    #[allow(clippy::cast_precision_loss)]
    let mut number = bytes as f64;
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if number < 1024.0 {
            break;
        }
        number /= 1024.0;
        unit = larger;
    }
    if number < 10.0 { format!("{number:.1} {unit}") } else { format!("{number:.0} {unit}") }
}

/// Formats a number of bytes in the largest binary unit of which it is a multiple.
pub(super) fn format_exact(bytes: usize) -> String {
    let mut number = bytes;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB"] {
        if number == 0 || !number.is_multiple_of(1024) {
            break;
        }
        number /= 1024;
        unit = larger;
    }
    format!("{number} {unit}")
}

/// Multiplies a decimal number by the unit that follows it. Uses integers throughout, since a float cannot represent 0.1 s
/// exactly.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.')?);
    let (_, factor) =
        units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim_start_matches(' ')))?;
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) => (whole, scaled_fraction(fraction, *factor)?),
        None => (number, 0),
    };
    whole.parse::<u64>().ok()?.checked_mul(*factor)?.checked_add(fraction)
}

/// Multiplies `factor` by the fraction whose digits follow a decimal point.
fn scaled_fraction(digits: &str, factor: u64) -> Option<u64> {
    let scale = 10_u128.checked_pow(u32::try_from(digits.len()).ok()?)?;
    let share = digits.parse::<u128>().ok()?.checked_mul(u128::from(factor))? / scale;
    u64::try_from(share).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("512B"), Some(512));
        assert_eq!(parse_size("64 KiB"), Some(65_536));
        assert_eq!(parse_size("64 kib"), Some(65_536));
        assert_eq!(parse_size("1MB"), Some(1_000_000));
        assert_eq!(parse_size("1.5 MiB"), Some(1_572_864));
        assert_eq!(parse_size("0.3 KiB"), Some(307));
        for wrong in
            ["", "1", "MiB", "1 M", "-1 KiB", "1 KiB ", "1.KiB", ".5 KiB", "1.2.3 KiB", "99999999999 GiB"]
        {
            assert_eq!(parse_size(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("2 s"), Some(Duration::from_secs(2)));
        assert_eq!(parse_duration("1.5s"), Some(Duration::from_millis(1_500)));
        assert_eq!(parse_duration("0.1s"), Some(Duration::from_millis(100)));
        assert_eq!(parse_duration("5m"), Some(Duration::from_secs(300)));
        assert_eq!(parse_duration("1h"), Some(Duration::from_secs(3_600)));
        for wrong in
            ["", "2", "s", "2 sec", "1e3s", "+2s", "1_000ms", "0.0000000000000000000000000000000000000001s"]
        {
            assert_eq!(parse_duration(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn exact_sizes_use_the_largest_possible_unit() {
        assert_eq!(format_exact(0), "0 B");
        assert_eq!(format_exact(64), "64 B");
        assert_eq!(format_exact(1536), "1536 B");
        assert_eq!(format_exact(1 << 30), "1 GiB");
    }
}
