//! Figures as people read them.

use std::time::Duration;

/// A size in bytes, with binary units: `12.3 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut size = bytes as f64;
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit = "B";
    for larger in units {
        // What would be shown as 1024 is the next unit's 1.
        if size < 1023.95 {
            break;
        }
        size /= 1024.0;
        unit = larger;
    }
    format!("{} {unit}", digits(size))
}

/// How often something happens in a second: `12/s`.
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate <= 0.0 => "0/s".to_owned(),
        rate if rate < 0.1 => "<0.1/s".to_owned(),
        rate if rate < 10_000.0 => format!("{}/s", digits(rate)),
        rate if rate < 10_000_000.0 => format!("{}k/s", digits(rate / 1e3)),
        rate => format!("{}M/s", digits(rate / 1e6)),
    }
}

/// How long something takes: `2.1 ms`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        seconds if seconds < 1e-3 => format!("{:.0} us", seconds * 1e6),
        seconds if seconds < 1.0 => format!("{} ms", digits(seconds * 1e3)),
        seconds => format!("{} s", digits(seconds)),
    }
}

/// How long something has lasted, in its largest unit: `9s`, `11d`.
pub(crate) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let (divisor, unit) = match seconds {
        seconds if seconds < 120 => (1, "s"),
        seconds if seconds < 7_200 => (60, "m"),
        seconds if seconds < 172_800 => (3_600, "h"),
        _ => (86_400, "d"),
    };
    format!("{}{unit}", seconds / divisor)
}

/// One digit behind the point, if it says anything.
fn digits(value: f64) -> String {
    match value {
        value if value < 99.95 => {
            let text = format!("{value:.1}");
            text.strip_suffix(".0").unwrap_or(&text).to_owned()
        }
        value => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_and_a_unit() {
        let sizes = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1 MiB"),
            (120 * 1024 * 1024, "120 MiB"),
            (u64::MAX, "16777216 TiB"),
        ];
        for (bytes, shown) in sizes {
            assert_eq!(size(bytes), shown);
        }
    }

    #[test]
    fn rates_durations_and_ages_are_short() {
        for (per_second, shown) in [
            (0.0, "0/s"),
            (0.01, "<0.1/s"),
            (0.25, "0.2/s"),
            (1234.0, "1234/s"),
            (123_456.0, "123k/s"),
            (25e6, "25M/s"),
        ] {
            assert_eq!(rate(per_second), shown);
        }
        for (micros, shown) in [
            (250, "250 us"),
            (2_100, "2.1 ms"),
            (999_000, "999 ms"),
            (1_500_000, "1.5 s"),
        ] {
            assert_eq!(duration(Duration::from_micros(micros)), shown);
        }
        for (seconds, shown) in [(9, "9s"), (120, "2m"), (7_300, "2h"), (1_000_000, "11d")] {
            assert_eq!(age(Duration::from_secs(seconds)), shown);
        }
    }
}
