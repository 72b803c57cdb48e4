//! Scores of methods as points with their deviation.

use super::table::Cell;
use std::fmt::Write;

const WIDTH: f64 = 640.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 110.0;
const TOP: f64 = 44.0;
const ROW: f64 = 30.0;

/// One line for each method: its mean and one deviation to both sides.
pub fn svg(title: &str, rows: &[(&str, Cell)], show: impl Fn(Cell) -> String) -> String {
    let low = rows.iter().map(|(_, cell)| cell.mean - cell.std).fold(f64::INFINITY, f64::min);
    let high = rows.iter().map(|(_, cell)| cell.mean + cell.std).fold(f64::NEG_INFINITY, f64::max);
    let room = (high - low).max(1e-9) * 0.05;
    let x = |value: f64| LEFT + (value - low + room) / (high - low + 2.0 * room) * (WIDTH - LEFT - RIGHT);
    let height = TOP + rows.len() as f64 * ROW + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n<text x=\"12\" y=\"24\" font-weight=\"bold\" fill=\"#222222\">{title}</text>\n"
    );
    for (index, (label, cell)) in rows.iter().enumerate() {
        let y = TOP + (index as f64 + 0.5) * ROW;
        let (from, to, middle) = (x(cell.mean - cell.std), x(cell.mean + cell.std), x(cell.mean));
        let text = y + 4.0;
        writeln!(svg, "<text x=\"{:.1}\" y=\"{text:.1}\" text-anchor=\"end\" fill=\"#222222\">{label}</text>", LEFT - 12.0).unwrap();
        writeln!(svg, "<line x1=\"{from:.1}\" y1=\"{y:.1}\" x2=\"{to:.1}\" y2=\"{y:.1}\" stroke=\"#2f7d5b\" stroke-width=\"3\"/>").unwrap();
        writeln!(svg, "<circle cx=\"{middle:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"#2f7d5b\"/>").unwrap();
        writeln!(svg, "<text x=\"{:.1}\" y=\"{text:.1}\" fill=\"#555555\">{}</text>", WIDTH - RIGHT + 8.0, show(*cell)).unwrap();
    }
    svg + "</svg>\n"
}
