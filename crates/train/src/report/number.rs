//! Numbers for people.

/// A number in few digits: `0.0002` as `2e-4`, `1234567` as `1.235M`.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if !value.is_finite() => value.to_string(),
        0.0 => "0".into(),
        _ if !(1e-3..1e15).contains(&size) => scientific(value),
        _ if size >= 1e9 => format!("{}G", trimmed(value / 1e9, 3)),
        _ if size >= 1e6 => format!("{}M", trimmed(value / 1e6, 3)),
        _ if size >= 1e4 => format!("{}k", trimmed(value / 1e3, 2)),
        _ if size >= 100.0 => trimmed(value, 1),
        _ => trimmed(value, 4),
    }
}

/// `2.5e-4`.
fn scientific(value: f64) -> String {
    let text = format!("{value:.2e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let mantissa = if mantissa.contains('.') { mantissa.trim_end_matches('0').trim_end_matches('.') } else { mantissa };
    format!("{mantissa}e{exponent}")
}

/// With so many decimals at most, and no zeros at the end.
pub(super) fn trimmed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text,
    }
}

/// A time span: `48.2 s`, `3 min 12 s`, `2 h 05 min`.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// Bytes in decimal units: `1.24 GB`.
pub(super) fn bytes(bytes: f64) -> String {
    match bytes {
        _ if bytes >= 1e9 => format!("{:.2} GB", bytes / 1e9),
        _ if bytes >= 1e6 => format!("{:.0} MB", bytes / 1e6),
        _ => format!("{:.0} kB", bytes / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let pairs = [
            (0.0002, "2e-4"),
            (2.5e-4, "2.5e-4"),
            (0.0, "0"),
            (2.70259, "2.7026"),
            (1.5, "1.5"),
            (823.456, "823.5"),
            (12_345.0, "12.35k"),
            (134_515_008.0, "134.515M"),
            (-0.02, "-0.02"),
        ];
        for (value, text) in pairs {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn spans_and_sizes_have_units() {
        assert_eq!([duration(48.23), duration(192.4), duration(7500.0)], ["48.2 s", "3 min 12 s", "2 h 05 min"]);
        assert_eq!([bytes(1.2351e9), bytes(75_400_000.0), bytes(2000.0)], ["1.24 GB", "75 MB", "2 kB"]);
    }
}
