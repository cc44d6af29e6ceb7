//! Durations and sizes as text: `30s`, `64KiB`.

use std::time::Duration;

/// Smallest allowed timeout. Below it everything fails.
pub(super) const SHORTEST: Duration = Duration::from_millis(10);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);
pub(super) const KIB: usize = 1 << 10;
pub(super) const GIB: usize = 1 << 30;

/// Units of time, the largest first, in milliseconds.
const TIME_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Units of size, the largest first, in bytes.
const SIZE_UNITS: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// Reads a whole number of one unit: `500ms`, `30s`, `5m`, `24h`, `7d`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    parse(text, &TIME_UNITS).map(Duration::from_millis)
}

/// Writes a duration in the largest unit that divides it; what is below a millisecond is cut off.
pub(super) fn format_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        "0s".to_owned()
    } else {
        format(millis, &TIME_UNITS)
    }
}

/// Reads a whole number of one unit, or of bytes: `64KiB`, `1MiB`, `4096B`, `4096`.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok();
    }
    parse(text, &SIZE_UNITS)
}

/// Writes a size in the largest unit that divides it.
pub(super) fn format_size(size: u64) -> String {
    if size == 0 {
        "0B".to_owned()
    } else {
        format(size, &SIZE_UNITS)
    }
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let &(_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn format(value: u64, units: &[(&str, u64)]) -> String {
    let fitting = units
        .iter()
        .find(|(_, factor)| value.is_multiple_of(*factor));
    let (name, factor) = fitting.expect("the smallest unit divides every value");
    format!("{}{name}", value / factor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("30s"), Some(Duration::from_secs(30)));
        assert_eq!(parse_duration("500 ms"), Some(Duration::from_millis(500)));
        for wrong in [
            "",
            "30",
            "s",
            "1.5s",
            "-1s",
            "30S",
            "30sec",
            "1m30s",
            "18446744073709551615d",
        ] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_are_binary_and_plain_numbers_are_bytes() {
        assert_eq!(parse_size("64KiB"), Some(65_536));
        assert_eq!(parse_size("4096"), Some(4096));
        for wrong in [
            "",
            "KiB",
            "64KB",
            "64K",
            "1.5MiB",
            "-1",
            "18446744073709551616",
            "18446744073709551615GiB",
        ] {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn prop_duration_text_round_trips(millis in any::<u64>()) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
        }

        #[test]
        fn prop_size_text_round_trips(size in any::<u64>()) {
            prop_assert_eq!(parse_size(&format_size(size)), Some(size));
        }

        #[test]
        fn prop_any_text_is_read_without_panic(text in any::<String>()) {
            let _ = (parse_duration(&text), parse_size(&text));
        }
    }
}
