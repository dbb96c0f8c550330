//! Times as records have them: ISO 8601 text, and milliseconds since the epoch.
//!
//! Pure, but for the clock. Written by hand because it is little: a library that knows time zones
//! and calendars made the addon a fifth larger. What is written is what JavaScript's `toISOString`
//! writes. What is read is more: any offset, the basic notation, fewer or more digits; the tests
//! compare with such a library.

/// A day.
const DAY_MS: i64 = 24 * HOUR_MS;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const MINUTE_MS: i64 = 60 * 1_000;

/// The wall clock.
pub fn now_ms() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec * 1_000 + now.tv_nsec / 1_000_000
}

/// An instant as JavaScript's `toISOString` writes it.
pub fn to_iso(ms: i64) -> String {
    let (year, month, day) = date_of(ms.div_euclid(DAY_MS));
    let in_day = ms.rem_euclid(DAY_MS);
    let (hour, minute) = (in_day / HOUR_MS, in_day % HOUR_MS / MINUTE_MS);
    let (second, milli) = (in_day % MINUTE_MS / 1_000, in_day % 1_000);
    let year = match year {
        0..=9_999 => format!("{year:04}"),
        _ => format!("{year:+07}"),
    };
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// The instant that a text names, in full milliseconds: a date, a time and an offset from UTC.
/// Without one of them it names none.
pub fn from_iso(text: &str) -> Option<i64> {
    let mut rest = Rest(text.as_bytes());
    let day = rest.date()?;
    rest.one_of(b"Tt ")?;
    let instant_ms = day * DAY_MS + rest.time_ms()? - rest.offset_ms()?;
    // A time zone or a calendar may be named behind it, which say nothing more about the instant.
    (rest.0.is_empty() || rest.0.starts_with(b"[")).then_some(instant_ms)
}

/// What is still to be read of a text.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    /// `2026-07-01`, `20260701`, or with a signed year of six digits. In days since the epoch.
    fn date(&mut self) -> Option<i64> {
        let year = match self.one_of(b"+-") {
            Some(b'-') => -self.number(6)?,
            Some(_) => self.number(6)?,
            None => self.number(4)?,
        };
        let is_extended = self.one_of(b"-").is_some();
        let month = self.number(2)?;
        if is_extended {
            self.one_of(b"-")?;
        }
        let day = self.number(2)?;
        let is_date = (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
        is_date.then(|| days_before(year, month) + day - 1)
    }

    /// `10`, `10:00`, `10:00:00.000`, or the same without colons.
    fn time_ms(&mut self) -> Option<i64> {
        let [hour, minute, second] = self.clock()?;
        let fraction_ms = if self.one_of(b".,").is_some() { self.fraction_ms()? } else { 0 };
        let is_time = hour < 24 && minute < 60 && second <= 60;
        // A leap second is the second before it.
        let second = second.min(59);
        is_time.then_some(hour * HOUR_MS + minute * MINUTE_MS + second * 1_000 + fraction_ms)
    }

    /// `Z`, or `+01:00` and its like. What to take off.
    fn offset_ms(&mut self) -> Option<i64> {
        let sign = match self.one_of(b"Zz+-")? {
            b'+' => 1,
            b'-' => -1,
            _ => return Some(0),
        };
        let [hours, minutes, seconds] = self.clock()?;
        let is_offset = hours < 26 && minutes < 60 && seconds < 60;
        is_offset.then_some(sign * (hours * HOUR_MS + minutes * MINUTE_MS + seconds * 1_000))
    }

    /// Up to three numbers of two digits, with a colon before each but the first, or before none.
    fn clock(&mut self) -> Option<[i64; 3]> {
        let mut parts = [self.number(2)?, 0, 0];
        let has_colons = self.0.first() == Some(&b':');
        for part in &mut parts[1..] {
            let goes_on = match self.0.first() {
                Some(b':') => has_colons && self.one_of(b":").is_some(),
                Some(next) => !has_colons && next.is_ascii_digit(),
                None => false,
            };
            if !goes_on {
                break;
            }
            *part = self.number(2)?;
        }
        Some(parts)
    }

    /// Any number of digits, of which the first three are milliseconds.
    fn fraction_ms(&mut self) -> Option<i64> {
        let mut milli = self.number(1)? * 100;
        for place in [10, 1] {
            milli += self.number(1).unwrap_or(0) * place;
        }
        while self.number(1).is_some() {}
        Some(milli)
    }

    fn number(&mut self, digits: usize) -> Option<i64> {
        let (number, rest) = self.0.split_at_checked(digits)?;
        if !number.iter().all(u8::is_ascii_digit) {
            return None;
        }
        self.0 = rest;
        Some(number.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
    }

    fn one_of(&mut self, bytes: &[u8]) -> Option<u8> {
        let (&first, rest) = self.0.split_first().filter(|(first, _)| bytes.contains(first))?;
        self.0 = rest;
        Some(first)
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from the epoch to the first of a month.
fn days_before(year: i64, month: i64) -> i64 {
    // As many leap days as there were before this year, less the 477 before 1970.
    let last = year - 1;
    let leap_days = last.div_euclid(4) - last.div_euclid(100) + last.div_euclid(400) - 477;
    let months: i64 = (1..month).map(|month| days_in(year, month)).sum();
    (year - 1970) * 365 + leap_days + months
}

/// The year, month and day that are so many days from the epoch.
fn date_of(days: i64) -> (i64, i64, i64) {
    // By the mean length of a year, which misses by one year at most.
    let estimate = 1970 + (days * 10_000).div_euclid(3_652_425);
    let starts_too_late = days_before(estimate, 1) > days;
    let ends_too_early = days_before(estimate + 1, 1) <= days;
    let year = estimate - i64::from(starts_too_late) + i64::from(ends_too_early);
    let mut month = 12;
    while days_before(year, month) > days {
        month -= 1;
    }
    (year, month, days - days_before(year, month) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn by_library(text: &str) -> Option<i64> {
        let instant: Timestamp = text.parse().ok()?;
        i64::try_from(instant.as_nanosecond().div_euclid(1_000_000)).ok()
    }

    #[test]
    fn the_clock_tells_the_time_of_day() {
        let before = Timestamp::now().as_millisecond();
        let now = now_ms();
        assert!((before..=Timestamp::now().as_millisecond()).contains(&now));
    }

    #[test]
    fn an_instant_is_written_as_javascript_writes_it() {
        assert_eq!(to_iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(to_iso(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(to_iso(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(to_iso(253_402_300_800_000), "+010000-01-01T00:00:00.000Z");
        assert_eq!(to_iso(-62_198_755_200_000), "-000001-01-01T00:00:00.000Z");
    }

    #[test]
    fn every_day_of_four_centuries_is_written_and_read_as_the_library_does() {
        for day in days_before(1_800, 1)..days_before(2_200, 1) {
            // Another time on each of them.
            let ms = day * DAY_MS + (day * 12_345_679).rem_euclid(DAY_MS);
            let text = to_iso(ms);
            let instant = Timestamp::from_millisecond(ms).unwrap();
            assert_eq!(text, format!("{instant:.3}"));
            assert_eq!(from_iso(&text), Some(ms), "{text}");
        }
    }

    #[test]
    fn whatever_the_library_reads_is_read() {
        let dates = ["2024-02-29", "20240229", "+002024-02-29", "-000044-03-15", "1970-01-01"];
        let separators = ["T", "t", " "];
        let times = [
            "10",
            "1005",
            "10:05",
            "100507",
            "10:05:07",
            "10:05:60",
            "10:05:07.1",
            "10:05:07,12",
            "10:05:07.123456789",
            "100507.5",
            "00:00:00.000",
            "23:59:59.999",
        ];
        let offsets = [
            "Z",
            "z",
            "+01",
            "-0330",
            "+05:45",
            "+00:00",
            "-00:00",
            "+23:59:59",
            "+01[Europe/Berlin]",
            "Z[UTC][u-ca=iso8601]",
        ];
        let mut count = 0;
        for date in dates {
            for separator in separators {
                for (time, offset) in
                    times.iter().flat_map(|time| offsets.map(|offset| (time, offset)))
                {
                    let text = format!("{date}{separator}{time}{offset}");
                    if let Some(ms) = by_library(&text) {
                        count += 1;
                        assert_eq!(from_iso(&text), Some(ms), "{text}");
                    }
                }
            }
        }
        assert!(count > 1_000, "{count}");
    }

    #[test]
    fn what_names_no_instant_is_not_read() {
        for text in [
            "",
            "now",
            "2024",
            "2024-02-29",
            "10:00:00Z",
            "2024-02-29T10:00:00",
            "2023-02-29T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-00-01T00:00:00Z",
            "2024-01-00T00:00:00Z",
            "2024-04-31T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:60:00Z",
            "2024-01-01T00:00:61Z",
            "2024-01-01T00:00:00Zx",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00+1",
            "2024-01-01T00:00:00+01:60",
            "2024-1-1T00:00:00Z",
            "2024-01-01T0:00:00Z",
            " 2024-01-01T00:00:00Z",
            "2024-01-01T00:00:00Z ",
            "2024-01-01T00:00:00é",
            "٢٠٢٤-01-01T00:00:00Z",
            "1e10",
        ] {
            assert_eq!((from_iso(text), by_library(text)), (None, None), "{text}");
        }
    }
}
