//! Numbers as Python writes and reads them.

/// Python's `repr` of a float.
pub(super) fn float_repr(x: f64) -> String {
    if x.is_nan() {
        return "nan".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf" } else { "-inf" }.into();
    }
    // As Rust's `Debug`, but with `e+16` and `e-07` where Rust writes `e16` and `e-7`.
    let text = format!("{x:?}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => format!("{}{}", mantissa.strip_suffix(".0").unwrap_or(mantissa), exponent_text('e', exponent)),
        None => text,
    }
}

/// A sign and two digits at least, after `mark`.
fn exponent_text(mark: char, exponent: &str) -> String {
    match exponent.strip_prefix('-') {
        Some(digits) => format!("{mark}-{digits:0>2}"),
        None => format!("{mark}+{exponent:0>2}"),
    }
}

/// A double has no more digits behind its point; what follows is zeros.
const MOST_DIGITS: usize = 1100;

/// `x`, not negative, with `precision` digits behind the point.
pub(super) fn fixed(x: f64, precision: usize) -> String {
    let digits = precision.min(MOST_DIGITS);
    let mut text = format!("{x:.digits$}");
    text.extend(std::iter::repeat_n('0', precision - digits));
    text
}

/// `x`, not negative, as `1.5e+00` with `precision` digits behind the point.
pub(super) fn scientific(x: f64, precision: usize, mark: char) -> String {
    let digits = precision.min(MOST_DIGITS);
    let text = format!("{x:.digits$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    format!("{mantissa}{}{}", "0".repeat(precision - digits), exponent_text(mark, exponent))
}

/// Python's format `g` of `x`, not negative: `precision` digits in all, as short as possible unless `alternate`. `with_point` is how a
/// format without a type differs: there is a digit behind the point.
pub(super) fn general(x: f64, precision: usize, mark: char, alternate: bool, with_point: bool) -> String {
    let precision = precision.max(1);
    let rounded = scientific(x, precision - 1, 'e');
    let exponent: i64 = rounded.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    let most = precision.min(i64::MAX as usize) as i64 - i64::from(with_point);
    let text = match exponent < -4 || exponent >= most {
        true => rounded,
        false => fixed(x, usize::try_from(precision as i64 - 1 - exponent).unwrap_or(0)),
    };
    let (mantissa, exponent) = text.split_once('e').map_or((text.as_str(), String::new()), |(m, e)| (m, format!("{mark}{e}")));
    let short = match mantissa.contains('.') && !alternate {
        true => mantissa.trim_end_matches('0').trim_end_matches('.'),
        false => mantissa,
    };
    let point = if with_point && exponent.is_empty() && !short.contains('.') { ".0" } else { "" };
    format!("{short}{point}{exponent}")
}

/// `x` rounded to so many digits behind the point, half to even as Python does.
pub(super) fn round(x: f64, digits: i128) -> f64 {
    if !x.is_finite() || digits > 330 {
        return x;
    }
    match usize::try_from(digits) {
        Ok(digits) => format!("{x:.digits$}").parse().unwrap_or(x),
        Err(_) if digits < -310 => 0.0 * x,
        Err(_) => {
            let scale = 10f64.powi(-digits as i32);
            (x / scale).round_ties_even() * scale
        }
    }
}

/// Python's `int(text, base)`.
pub(super) fn parse_int(text: &str, base: u32) -> Option<i128> {
    let text = text.trim_matches(super::lexer::is_space);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.get(..2).map(str::to_ascii_lowercase);
    let (base, digits) = match (lower.as_deref(), base) {
        (Some("0x"), 16 | 0) => (16, &digits[2..]),
        (Some("0o"), 8 | 0) => (8, &digits[2..]),
        (Some("0b"), 2 | 0) => (2, &digits[2..]),
        (_, 0) => (10, digits),
        (_, base) => (base, digits),
    };
    if digits.starts_with(['+', '-', '_']) || digits.ends_with('_') || digits.contains("__") || !(2..=36).contains(&base) {
        return None;
    }
    let value = i128::from_str_radix(&digits.replace('_', ""), base).ok()?;
    Some(if negative { -value } else { value })
}

/// Python's `float(text)`.
pub(super) fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(super::lexer::is_space);
    let bare = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
    let named = ["inf", "infinity", "nan"].contains(&bare.as_str());
    let written = bare.starts_with(|c: char| c.is_ascii_digit() || c == '.') && !bare.ends_with('_') && !bare.contains("__");
    if !(named || written) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// A float as an integer, without what is behind the point.
pub(super) fn truncate(x: f64) -> Option<i128> {
    (x.is_finite() && x.abs() < 1e38).then_some(x as i128)
}
