//! The ratios as a bar chart.

use super::record::Record;
use super::spread::short;
use std::fmt::Write;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 270.0;
const RIGHT: f64 = 80.0;
const TOP: f64 = 52.0;
const ROW: f64 = 24.0;
const BETTER: &str = "#2f7d5b";
const WORSE: &str = "#b4552d";

/// One bar for each measure with a peer, from 1 to its ratio on a logarithmic axis.
pub fn svg(records: &[Record]) -> String {
    let measures = records.iter().flat_map(|record| record.measures.iter().map(move |measure| (record, measure)));
    let rows: Vec<(String, f64)> = measures
        .filter_map(|(record, measure)| {
            Some((format!("{} {}: {}", record.job, record.subject(), quantity(&measure.label)), measure.ratio?))
        })
        .filter(|(_, ratio)| ratio.is_finite() && *ratio > 0.0)
        .collect();
    let axis = Axis::around(rows.iter().map(|(_, ratio)| *ratio));
    let bottom = TOP + rows.len() as f64 * ROW;
    let height = bottom + 28.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"12\" y=\"20\" font-size=\"14\" font-weight=\"bold\" fill=\"#222222\">burn-peft beside transformers + PEFT, and mergekit</text>\n\
         <text x=\"12\" y=\"38\" fill=\"#555555\">How many times better (faster, or with less memory); below 1 worse. Logarithmic axis.</text>\n"
    );
    for power in axis.low..=axis.high {
        let x = axis.x(2f64.powi(power));
        let colour = if power == 0 { "#222222" } else { "#dddddd" };
        let name = if power < 0 { format!("1/{}", 1u64 << -power) } else { format!("{}", 1u64 << power) };
        writeln!(svg, "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"{colour}\"/>").unwrap();
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555555\">{name}</text>", bottom + 17.0).unwrap();
    }
    for (row, (label, ratio)) in rows.iter().enumerate() {
        let middle = TOP + (row as f64 + 0.5) * ROW;
        let (one, end) = (axis.x(1.0), axis.x(*ratio));
        let (x, width) = (one.min(end), (end - one).abs().max(1.0));
        let colour = if *ratio >= 1.0 { BETTER } else { WORSE };
        let (y, text) = (middle - 8.0, middle + 4.0);
        writeln!(svg, "<text x=\"{:.1}\" y=\"{text:.1}\" text-anchor=\"end\" fill=\"#222222\">{label}</text>", LEFT - 10.0).unwrap();
        writeln!(svg, "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"16\" fill=\"{colour}\"/>").unwrap();
        writeln!(svg, "<text x=\"{:.1}\" y=\"{text:.1}\" text-anchor=\"end\" fill=\"{colour}\">{}×</text>", WIDTH - 12.0, short(*ratio))
            .unwrap();
    }
    svg.push_str("</svg>\n");
    svg
}

/// A label without its unit, which a ratio does not have.
fn quantity(label: &str) -> &str {
    label.rsplit_once(", ").map_or(label, |(quantity, _)| quantity)
}

/// The powers of two at the ends of the axis.
struct Axis {
    low: i32,
    high: i32,
}

impl Axis {
    /// From a half to two at least.
    fn around(ratios: impl Iterator<Item = f64>) -> Self {
        let start = Self { low: -1, high: 1 };
        ratios
            .map(f64::log2)
            .fold(start, |Self { low, high }, power| Self { low: low.min(power.floor() as i32), high: high.max(power.ceil() as i32) })
    }

    fn x(&self, ratio: f64) -> f64 {
        LEFT + (ratio.log2() - f64::from(self.low)) / f64::from(self.high - self.low) * (WIDTH - LEFT - RIGHT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_holds_all_ratios_and_one() {
        let axis = Axis::around([0.3, 5.0].into_iter());
        assert_eq!((axis.low, axis.high), (-2, 3));
        assert_eq!((axis.x(0.25), axis.x(8.0)), (LEFT, WIDTH - RIGHT));
        assert_eq!(Axis::around(std::iter::empty()).x(1.0), (LEFT + WIDTH - RIGHT) / 2.0);
    }
}
