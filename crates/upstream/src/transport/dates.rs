//! Dates in a backend's headers, as the time until then.
//!
//! Clocks differ, so a date is measured against the `Date` the same answer carries; only without one against our own.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};

/// No header asks for more: a date may be wrong by years.
const MOST: Duration = Duration::from_secs(24 * 3600);

/// What `Retry-After` says: seconds or a date. A date that is past says "now".
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Too many digits for a number are certainly above the cap.
        return Some(text.parse().map_or(MOST, Duration::from_secs).min(MOST));
    }
    Some(until(httpdate::parse_http_date(text).ok()?, headers))
}

/// How long it is until a moment that an answer with these headers names; no time at all where it is past.
pub(super) fn until(moment: SystemTime, headers: &HeaderMap) -> Duration {
    let said = headers.get(header::DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    let now = said.unwrap_or_else(SystemTime::now);
    moment.duration_since(now).unwrap_or_default().min(MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(retry_after_says: &str, date: Option<&str>) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, retry_after_says.parse().unwrap());
        if let Some(date) = date {
            headers.insert(header::DATE, date.parse().unwrap());
        }
        retry_after(&headers)
    }

    #[test]
    fn a_date_is_as_good_as_seconds_whatever_our_clock_says() {
        let seconds = |n| Some(Duration::from_secs(n));
        let noon = Some("Sun, 06 Nov 1994 12:00:00 GMT");
        assert_eq!(asked("7", None), seconds(7));
        assert_eq!(asked(" 7 ", noon), seconds(7));
        assert_eq!(asked("Sun, 06 Nov 1994 12:00:30 GMT", noon), seconds(30));
        assert_eq!(asked("Sunday, 06-Nov-94 12:00:30 GMT", noon), seconds(30), "RFC 850");
        assert_eq!(asked("Sun Nov  6 12:00:30 1994", noon), seconds(30), "asctime");
        assert_eq!(asked("Sun, 06 Nov 1994 11:00:00 GMT", noon), seconds(0), "past");
        assert_eq!(asked("Sun, 06 Nov 1994 11:00:00 GMT", None), seconds(0), "past by our clock");
        assert_eq!(asked("Fri, 31 Dec 9999 23:59:59 GMT", noon), Some(MOST));
        assert_eq!(asked("99999999999999999999", None), Some(MOST));
        for nonsense in ["", "soon", "-1", "1.5", "Sun, 99 Nov 1994 12:00:00 GMT"] {
            assert_eq!(asked(nonsense, noon), None, "{nonsense}");
        }
    }

    #[test]
    fn a_date_without_another_is_measured_against_our_clock() {
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        let pause = asked(&soon, None).unwrap();
        assert!(pause > Duration::from_secs(60) && pause <= Duration::from_secs(100), "{pause:?}");
    }
}
