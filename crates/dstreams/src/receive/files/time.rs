//! Times and dates from text: RFC 3339, and years of more digits with a sign.

/// How to treat a time that is finer than a millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FinerTimes {
    /// It is no record: it would have another value.
    Refused,
    /// It becomes the millisecond that it is in.
    Cut,
}

/// Why a time is refused that is finer than a millisecond.
pub(super) const FINER: &str =
    "it is finer than a millisecond; `Files::cut_to_millis` reads the millisecond that it is in";

const NO_TIME: &str = "it is not a time such as 2026-11-29T16:44:00.500Z";
const NO_DATE: &str = "it is not a date such as 2026-11-29";
const NO_MONTH: &str = "it has no month from 01 to 12";
const NO_DAY: &str = "its month has no such day";
const OUT_OF_RANGE: &str = "it is out of range";
/// Digits of a year: those of the widest range, of dates, and some more.
const MAX_YEAR_DIGITS: usize = 9;
const DAY_MS: i128 = 86_400_000;

/// Milliseconds since 1970 of a text such as `2026-11-29T16:44:00.500+01:00`. Without an offset it is UTC.
pub(super) fn time(text: &str, finer: FinerTimes) -> Result<i64, &'static str> {
    let mut rest = TimeText(text.as_bytes());
    let day = rest.date(NO_TIME)?;
    match rest.next() {
        Some(b'T' | b't' | b' ') => {}
        None => return Err("it is a date without a time of day"),
        Some(_) => return Err(NO_TIME),
    }
    let hour = rest.two_digits(NO_TIME)?;
    rest.byte(b':', NO_TIME)?;
    let minute = rest.two_digits(NO_TIME)?;
    rest.byte(b':', NO_TIME)?;
    let second = rest.two_digits(NO_TIME)?;
    if hour > 23 || minute > 59 {
        return Err("it has no time of day from 00:00 to 23:59");
    }
    match second {
        0..60 => {}
        60 => return Err("it is a leap second, which has no millisecond of its own"),
        _ => return Err("it has no second from 00 to 59"),
    }
    let ms = match rest.skip(b'.') {
        true => rest.fraction(finer)?,
        false => 0,
    };
    let offset = rest.offset()?;
    if !rest.0.is_empty() {
        return Err(NO_TIME);
    }
    let minutes = i128::from(hour * 60 + minute - offset);
    let ms =
        i128::from(day) * DAY_MS + (minutes * 60 + i128::from(second)) * 1_000 + i128::from(ms);
    i64::try_from(ms).map_err(|_| OUT_OF_RANGE)
}

/// Days since 1970 of a text such as `2026-11-29`.
pub(super) fn date(text: &str) -> Result<i32, &'static str> {
    let mut rest = TimeText(text.as_bytes());
    let day = rest.date(NO_DATE)?;
    match rest.next() {
        None => i32::try_from(day).map_err(|_| OUT_OF_RANGE),
        Some(b'T' | b't' | b' ') => Err("it is a time, and the column is a date"),
        Some(_) => Err(NO_DATE),
    }
}

/// The unread rest of a text.
struct TimeText<'a>(&'a [u8]);

impl<'a> TimeText<'a> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// Whether the next byte is `byte`, which is passed over then.
    fn skip(&mut self, byte: u8) -> bool {
        let is_next = self.0.first() == Some(&byte);
        self.0 = &self.0[usize::from(is_next)..];
        is_next
    }

    fn byte(&mut self, byte: u8, otherwise: &'static str) -> Result<(), &'static str> {
        self.skip(byte).then_some(()).ok_or(otherwise)
    }

    /// The digits that come next, at most `most` of them.
    fn digits(&mut self, most: usize) -> &'a [u8] {
        let digits = self.0.iter().take(most);
        let count = digits.take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at(count);
        self.0 = rest;
        digits
    }

    fn two_digits(&mut self, otherwise: &'static str) -> Result<i64, &'static str> {
        match self.digits(2) {
            digits @ [_, _] => Ok(number(digits)),
            _ => Err(otherwise),
        }
    }

    /// Days since 1970, in the Gregorian calendar of all years.
    fn date(&mut self, otherwise: &'static str) -> Result<i64, &'static str> {
        let (is_before, has_sign) = match self.0.first() {
            Some(b'-') => (true, true),
            Some(b'+') => (false, true),
            _ => (false, false),
        };
        self.0 = &self.0[usize::from(has_sign)..];
        let year = match self.digits(usize::MAX) {
            year if year.len() < 4 || (year.len() > 4 && !has_sign) => return Err(otherwise),
            year if year.len() > MAX_YEAR_DIGITS => return Err(OUT_OF_RANGE),
            year => number(year),
        };
        let year = if is_before { -year } else { year };
        self.byte(b'-', otherwise)?;
        let month = self.two_digits(otherwise)?;
        self.byte(b'-', otherwise)?;
        let day = self.two_digits(otherwise)?;
        if !(1..=12).contains(&month) {
            return Err(NO_MONTH);
        }
        match (1..=days_of(year, month)).contains(&day) {
            true => Ok(days_before(year, month) + day - 1),
            false => Err(NO_DAY),
        }
    }

    /// Milliseconds of a fraction of a second, after its point.
    fn fraction(&mut self, finer: FinerTimes) -> Result<i64, &'static str> {
        let digits = self.digits(usize::MAX);
        let (first, more) = digits.split_at(digits.len().min(3));
        if first.is_empty() {
            return Err(NO_TIME);
        }
        if finer == FinerTimes::Refused && more.iter().any(|digit| *digit != b'0') {
            return Err(FINER);
        }
        Ok(number(first) * 10i64.pow(3 - first.len() as u32))
    }

    /// Minutes by which the time is ahead of UTC: `Z`, `+01:00`, `+0100`, `+01` or nothing.
    fn offset(&mut self) -> Result<i64, &'static str> {
        let sign = match self.next() {
            None | Some(b'Z' | b'z') => return Ok(0),
            Some(b'+') => 1,
            Some(b'-') => -1,
            Some(_) => return Err(NO_TIME),
        };
        let hours = self.two_digits(NO_TIME)?;
        let has_minutes = self.skip(b':') || !self.0.is_empty();
        let minutes = match has_minutes {
            true => self.two_digits(NO_TIME)?,
            false => 0,
        };
        match hours <= 23 && minutes <= 59 {
            true => Ok(sign * (hours * 60 + minutes)),
            false => Err("its offset is not from 00:00 to 23:59"),
        }
    }
}

/// The number of some digits: few enough.
fn number(digits: &[u8]) -> i64 {
    let add = |number, digit: &u8| number * 10 + i64::from(digit - b'0');
    digits.iter().fold(0, add)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970 to the first of a month.
fn days_before(year: i64, month: i64) -> i64 {
    // Days of whole years since the year 0, and of whole months.
    let before = year - 1;
    let leaps = before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400);
    let months = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let months = months[(month - 1) as usize] + i64::from(month > 2 && is_leap(year));
    365 * before + leaps + months - 719_162
}

#[cfg(test)]
mod tests;
