//! [`ParsedNumber`]: parses a text as a number of exactly that value, or says why it does not fit the type.

use std::fmt;

use datafusion::arrow::datatypes::DataType;

/// Why a text is not a number of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It is not a number at all.
    NoNumber,
    /// It has a fraction, and the type is an integer.
    Fraction,
    /// It is out of the type's range.
    OutOfRange,
}

/// More digits than any integer type has.
const MAX_INTEGER_DIGITS: i64 = 20;

/// The reason for texts that are not a number at all.
pub(super) const NO_NUMBER: &str = "it is not a number";

impl Wrong {
    pub fn describe(self, of: &DataType) -> String {
        let what: &dyn fmt::Display = match self {
            Wrong::NoNumber => &NO_NUMBER,
            Wrong::Fraction => match of {
                DataType::Decimal128(..) => &"it has more digits behind the point",
                _ => &"it has a fraction",
            },
            Wrong::OutOfRange => &"it is out of range",
        };
        format!("{what}, and the column is {of}")
    }
}

/// A type of number. Texts are written as in JSON or Rust.
pub(super) trait ParsedNumber: Sized {
    fn read(text: &str) -> Result<Self, Wrong>;
}

macro_rules! integer {
    ($($of:ty),*) => {$(
        impl ParsedNumber for $of {
            #[inline]
            fn read(text: &str) -> Result<Self, Wrong> {
                match text.parse() {
                    Ok(number) => Ok(number),
                    Err(_) => Self::try_from(whole(text)?).map_err(|_| Wrong::OutOfRange),
                }
            }
        }
    )*};
}
integer!(i8, i16, i32, i64, u8, u16, u32, u64);

macro_rules! float {
    ($($of:ty),*) => {$(
        impl ParsedNumber for $of {
            #[inline]
            fn read(text: &str) -> Result<Self, Wrong> {
                let number: $of = text.parse().map_err(|_| Wrong::NoNumber)?;
                // An infinity may be written by name; any other text that parses as one was out of range.
                let named = || !text.bytes().any(|byte| byte.is_ascii_digit());
                match number.is_infinite() && !named() {
                    true => Err(Wrong::OutOfRange),
                    false => Ok(number),
                }
            }
        }
    )*};
}
float!(f32, f64);

/// The integer value of a text such as `1e3`, `-20.0` or `12`.
fn whole(text: &str) -> Result<i128, Wrong> {
    scaled(text, 0, MAX_INTEGER_DIGITS)
}

/// The value of a decimal number without its point: of at most `digits` digits, of which `points` are behind it.
/// Wrong is a fraction that has more.
pub(super) fn decimal(text: &str, digits: u8, points: i8) -> Result<i128, Wrong> {
    scaled(text, points.into(), digits.into())
}

/// The integer value of a text times ten to the `scale`: at most 38 digits.
fn scaled(text: &str, scale: i64, most: i64) -> Result<i128, Wrong> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let end = digits.iter().position(|byte| matches!(byte, b'e' | b'E'));
    let (digits, exponent) = digits.split_at(end.unwrap_or(digits.len()));
    let exponent = match exponent {
        [] => 0,
        [_, exponent @ ..] => exponent_of(exponent)?,
    };
    let point = digits.iter().position(|byte| *byte == b'.');
    let (before, after) = digits.split_at(point.unwrap_or(digits.len()));
    let after = after.get(1..).unwrap_or_default();
    let all = || before.iter().chain(after);
    if all().next().is_none() || !all().all(u8::is_ascii_digit) {
        return Err(Wrong::NoNumber);
    }
    // Zeros at both ends are stripped; the rest is an integer times ten to the `shift`.
    let Some(first) = all().position(|digit| *digit != b'0') else {
        return Ok(0);
    };
    let zeros = all().rev().take_while(|digit| **digit == b'0').count();
    let shift = exponent
        .saturating_add(scale)
        .saturating_sub(after.len() as i64)
        .saturating_add(zeros as i64);
    let significant = before.len() + after.len() - zeros - first;
    if shift < 0 {
        return Err(Wrong::Fraction);
    }
    if shift.saturating_add(significant as i64) > most {
        return Err(Wrong::OutOfRange);
    }
    let value = all().skip(first).take(significant);
    let value = value.fold(0, |value, digit| value * 10 + i128::from(digit - b'0'));
    let value = (0..shift).fold(value, |value, _| value * 10);
    Ok(if negative { -value } else { value })
}

/// The exponent, clamped to the largest value.
fn exponent_of(text: &[u8]) -> Result<i64, Wrong> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Wrong::NoNumber);
    }
    let add = |sum: i64, digit: &u8| {
        sum.saturating_mul(10)
            .saturating_add(i64::from(digit - b'0'))
    };
    let exponent = digits.iter().fold(0, add).min(1 << 40);
    Ok(if negative { -exponent } else { exponent })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_exact_or_refused() {
        let right = [
            ("0", 0),
            ("-0", 0),
            ("-0.0e-7", 0),
            ("0e99999999999999999999", 0),
            ("1e3", 1000),
            ("1E+3", 1000),
            ("120e-1", 12),
            ("1.50e1", 15),
            ("9007199254740993.0", 9_007_199_254_740_993),
            ("9223372036854775807", i64::MAX),
            ("9.223372036854775807e18", i64::MAX),
            ("-9223372036854775808.000", i64::MIN),
        ];
        for (text, value) in right {
            assert_eq!(i64::read(text), Ok(value), "{text}");
        }
        let wrong = [
            ("19.99", Wrong::Fraction),
            ("1e-1", Wrong::Fraction),
            ("1e-99999999999999999999", Wrong::Fraction),
            ("-9223372036854775809", Wrong::OutOfRange),
            ("9223372036854775808", Wrong::OutOfRange),
            ("1e19", Wrong::OutOfRange),
            ("1e99999999999999999999", Wrong::OutOfRange),
            ("", Wrong::NoNumber),
            ("-", Wrong::NoNumber),
            (".", Wrong::NoNumber),
            ("e1", Wrong::NoNumber),
            ("1e", Wrong::NoNumber),
            ("1.2.3", Wrong::NoNumber),
            ("NaN", Wrong::NoNumber),
            ("0x1", Wrong::NoNumber),
        ];
        for (text, why) in wrong {
            assert_eq!(i64::read(text), Err(why), "{text}");
        }
        assert_eq!(u64::read("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(u64::read("-1"), Err(Wrong::OutOfRange));
        assert_eq!(u8::read("25.6e1"), Err(Wrong::OutOfRange));
        assert_eq!(u8::read("25.5e1"), Ok(255));
        assert_eq!(i8::read("-128.0"), Ok(-128));
        assert_eq!(f64::read("1e400"), Err(Wrong::OutOfRange));
        assert_eq!(f32::read("1e39"), Err(Wrong::OutOfRange));
        assert_eq!(f64::read("-inf"), Ok(f64::NEG_INFINITY));
        assert_eq!(f64::read("0.1"), Ok(0.1));
        assert_eq!(f64::read("1e-400"), Ok(0.0));
    }

    #[test]
    fn decimals_have_all_their_digits() {
        let right = [
            ("19.95", 1995),
            ("-19.950", -1995),
            ("1995e-2", 1995),
            ("0.5", 50),
            ("-0.00", 0),
            ("7", 700),
            ("99999999.99", 9_999_999_999),
            ("9.999999999e7", 9_999_999_999),
        ];
        for (text, value) in right {
            assert_eq!(decimal(text, 10, 2), Ok(value), "{text}");
        }
        let wrong = [
            ("19.951", Wrong::Fraction),
            ("1e-3", Wrong::Fraction),
            ("100000000", Wrong::OutOfRange),
            ("-100000000.00", Wrong::OutOfRange),
            ("1e99999999999999999999", Wrong::OutOfRange),
            ("NaN", Wrong::NoNumber),
            ("", Wrong::NoNumber),
            ("1,5", Wrong::NoNumber),
        ];
        for (text, why) in wrong {
            assert_eq!(decimal(text, 10, 2), Err(why), "{text}");
        }
        let most = 10i128.pow(38) - 1;
        for (points, text) in [(0, "9".repeat(38)), (38, format!("0.{}", "9".repeat(38)))] {
            assert_eq!(decimal(&text, 38, points), Ok(most));
            assert_eq!(decimal(&format!("-{text}"), 38, points), Ok(-most));
        }
        assert_eq!(decimal("1e38", 38, 0), Err(Wrong::OutOfRange));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

        /// Compares with integers of any length, written in another way.
        #[test]
        fn shifted_points_change_nothing(number in any::<i64>(), shift in 0..25usize, zeros in 0..4usize) {
            let digits = format!("{:0>30}", number.unsigned_abs());
            let (before, after) = digits.split_at(30 - shift);
            let sign = if number < 0 { "-" } else { "" };
            let text = format!("{sign}{before}.{after}{}e{shift}", "0".repeat(zeros));
            prop_assert_eq!(i64::read(&text), Ok(number), "{}", text);
            let less = format!("{sign}{before}.{after}5e{shift}");
            prop_assert_eq!(i64::read(&less), Err(Wrong::Fraction), "{}", less);
        }
    }
}
