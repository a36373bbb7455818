//! Human-readable values: durations, sizes and shares with their units; parsing and printing.

use std::{ops::RangeInclusive, time::Duration};

/// Milliseconds per unit, largest first, so that [`show_duration`] finds the shortest exact spelling.
const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Bytes per unit, largest first.
const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Maximum duration; adding it to an `Instant` never overflows.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// Parses `"500ms"`, `"10s"`, `"2m"`, `"1h"`, `"7d"`.
///
/// # Errors
/// The mistake, and what to write.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    if unit.is_empty() && text.trim() != "0" {
        return Err(format!(
            "{text:?} has no unit; write a duration such as \"500ms\", \"10s\", \"2m\" or \"1h\""
        ));
    }
    let millis = match (number.parse::<u64>(), DURATION_UNITS.iter().find(|(name, _)| *name == unit)) {
        (Ok(0), None) if unit.is_empty() => Some(0),
        (Ok(number), Some((_, millis))) => number.checked_mul(*millis),
        _ => {
            return Err(format!(
                "{text:?} is not a duration; write a whole number and one of ms, s, m, h, d, such as \"500ms\""
            ));
        }
    };
    millis
        .map(Duration::from_millis)
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(|| format!("{text:?} is longer than a year"))
}

/// Parses a duration of at least `least`.
///
/// # Errors
/// The mistake, and what to write.
pub fn parse_duration_from(text: &str, least: Duration) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration >= least {
        return Ok(duration);
    }
    Err(format!("{} is too short; the least is {}", show_duration(duration), show_duration(least)))
}

/// What a number counts.
#[derive(Clone, Copy, Debug)]
pub enum Unit {
    /// Things.
    Count,
    /// Bytes.
    Bytes,
}

/// Parses a number within a range.
///
/// # Errors
/// The mistake, and what to write.
pub fn parse_amount(text: &str, unit: Unit, range: &RangeInclusive<usize>) -> Result<usize, String> {
    let value = match unit {
        Unit::Count => text.parse().map_err(|_| format!("{text:?} is not a whole number"))?,
        Unit::Bytes => parse_size(text)?,
    };
    within(value, unit, range)
}

/// Checks a number for its range.
///
/// # Errors
/// The range.
pub fn check_amount(number: i64, unit: Unit, range: &RangeInclusive<usize>) -> Result<usize, String> {
    let value = u64::try_from(number).map_err(|_| format!("{number} is negative"))?;
    within(value, unit, range)
}

fn within(value: u64, unit: Unit, range: &RangeInclusive<usize>) -> Result<usize, String> {
    let show = |value: u64| match unit {
        Unit::Count => value.to_string(),
        Unit::Bytes => show_size(value),
    };
    usize::try_from(value).ok().filter(|fits| range.contains(fits)).ok_or_else(|| {
        let (least, most) = (show(*range.start() as u64), show(*range.end() as u64));
        format!("{} is out of range; it must be {least} to {most}", show(value))
    })
}

/// Parses `"16MiB"`, `"64KiB"`, `"512B"`, `"4096"`.
///
/// # Errors
/// The mistake, and what to write.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let unit = if unit.is_empty() { "B" } else { unit };
    match (number.parse::<u64>(), SIZE_UNITS.iter().find(|(name, _)| *name == unit)) {
        (Ok(number), Some((_, bytes))) => {
            number.checked_mul(*bytes).ok_or_else(|| format!("{text:?} is too large"))
        }
        _ => Err(format!(
            "{text:?} is not a size; write a whole number and one of B, KiB, MiB, GiB, such as \"16MiB\""
        )),
    }
}

/// Parses one of these words, each the name of a value.
///
/// # Errors
/// The mistake, and the words.
pub fn parse_word<T: Copy>(text: &str, values: &[T], word: fn(T) -> &'static str) -> Result<T, String> {
    values.iter().copied().find(|value| word(*value) == text).ok_or_else(|| {
        let known: Vec<String> = values.iter().map(|value| format!("{:?}", word(*value))).collect();
        format!("{text:?} is unknown; write one of {}", known.join(", "))
    })
}

/// Parses `"20%"`.
///
/// # Errors
/// The mistake, and what to write.
pub fn parse_percent(text: &str) -> Result<u32, String> {
    match split(text) {
        (number, "%") => number.parse().ok().filter(|percent| *percent <= 1_000),
        _ => None,
    }
    .ok_or_else(|| {
        format!("{text:?} is not a share; write a whole number of percent up to 1000, such as \"20%\"")
    })
}

/// Formats a percentage for [`parse_percent`].
#[must_use]
pub fn show_percent(percent: u32) -> String {
    format!("{percent}%")
}

/// The shortest exact spelling of a duration.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    show(millis, &DURATION_UNITS)
}

/// The shortest exact spelling of a size.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    show(bytes, &SIZE_UNITS)
}

fn show(value: u64, units: &[(&str, u64)]) -> String {
    units
        .iter()
        .find(|(_, of)| value != 0 && value.is_multiple_of(*of))
        .map_or_else(|| value.to_string(), |(name, of)| format!("{}{name}", value / of))
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_show_the_same() {
        for text in ["500ms", "10s", "2m", "1h", "7d", "1500ms", "90s"] {
            assert_eq!(show_duration(parse_duration(text).unwrap()), text);
        }
        assert_eq!(parse_duration("0").unwrap(), Duration::ZERO);
        assert_eq!(show_duration(Duration::ZERO), "0s");
        assert_eq!(show_duration(parse_duration("60s").unwrap()), "1m");
    }

    #[test]
    fn a_bad_duration_says_what_to_write() {
        let error = |text| parse_duration(text).unwrap_err();
        assert_eq!(
            error("10"),
            "\"10\" has no unit; write a duration such as \"500ms\", \"10s\", \"2m\" or \"1h\""
        );
        assert_eq!(
            error("1.5s"),
            "\"1.5s\" is not a duration; write a whole number and one of ms, s, m, h, d, such as \"500ms\""
        );
        for text in ["-1s", "s", "10 parsecs", "1h30m"] {
            assert!(error(text).contains("is not a duration"), "{text}");
        }
        for text in ["366d", "18446744073709551615d"] {
            assert!(error(text).contains("longer than a year"), "{text}");
        }
        assert!(error("").contains("no unit"));
    }

    #[test]
    fn sizes_read_and_show_the_same() {
        for (text, bytes) in [("16MiB", 16 << 20), ("32KiB", 32 << 10), ("100B", 100), ("1GiB", 1 << 30)] {
            assert_eq!(parse_size(text).unwrap(), bytes);
            assert_eq!(show_size(bytes), text);
        }
        assert_eq!(parse_size("4096").unwrap(), 4096);
        for text in ["16MB", "MiB", "-1", "1.5MiB", "99999999999999999999"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
