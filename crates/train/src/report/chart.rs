//! Curves: lines in the unit square of an SVG, with their axes, ready for the page's template.

use super::axis::{Axis, Tick};
use super::number::short;
use super::series::{Series, smoothed, span, thinned, usual};
use serde::Serialize;
use std::fmt::Write;

/// Points of one line that are drawn at most.
const POINTS: usize = 800;
/// Width and height of the drawing; the page stretches it to the place there is.
const SIZE: f64 = 1000.0;

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Style {
    /// Faintly: each single value.
    Raw,
    /// As a line.
    Line,
    /// As a line through dots.
    Dots,
}

/// A series to be drawn.
pub(super) struct Drawn {
    pub name: String,
    /// A CSS colour.
    pub colour: String,
    pub style: Style,
    pub points: Series,
}

impl Drawn {
    pub fn new(name: impl Into<String>, colour: impl Into<String>, style: Style, points: Series) -> Self {
        Self { name: name.into(), colour: colour.into(), style, points }
    }

    /// A noisy series, and the same smoothed where it is long.
    pub fn noisy(name: &str, colour: &str, points: Series) -> Vec<Self> {
        let span = span(points.len());
        if span < 2 {
            return vec![Self::new(name, colour, Style::Line, points)];
        }
        let smooth = smoothed(&points, span);
        vec![Self::new(name, colour, Style::Raw, points), Self::new(format!("smoothed over {span} steps"), colour, Style::Line, smooth)]
    }
}

/// What a chart shows.
pub(super) struct Spec {
    pub title: String,
    pub note: String,
    /// Begin the vertical axis at 0.
    pub zero: bool,
    pub wide: bool,
}

/// A chart as the template draws it.
#[derive(Debug, Serialize)]
pub(super) struct Chart {
    title: String,
    note: String,
    wide: bool,
    lines: Vec<Line>,
    x: Vec<Tick>,
    y: Vec<Tick>,
    /// What the pointer shows: the ends of the horizontal axis and all points.
    hover: Hover,
}

#[derive(Debug, Serialize)]
struct Line {
    name: String,
    colour: String,
    style: Style,
    path: String,
    dots: String,
}

#[derive(Debug, Serialize)]
struct Hover {
    x: [f64; 2],
    series: Vec<Points>,
}

#[derive(Debug, Serialize)]
struct Points {
    name: String,
    colour: String,
    /// Steps, rising.
    x: Vec<f64>,
    /// Places from the top in percent.
    at: Vec<f64>,
    /// Values as text.
    y: Vec<String>,
}

impl Chart {
    /// A chart of all series that have points; none if none has.
    pub fn new(spec: Spec, series: Vec<Drawn>) -> Option<Self> {
        let series: Vec<Drawn> = series.into_iter().filter(|drawn| !drawn.points.is_empty()).collect();
        let steps = || series.iter().flat_map(|drawn| drawn.points.iter().map(|(step, _)| *step));
        let (first, last) = (steps().min_by(f64::total_cmp)?, steps().max_by(f64::total_cmp)?);
        let x = Axis::between(first, last);
        let shown = series.iter().flat_map(|drawn| match drawn.style {
            Style::Raw => usual(&drawn.points),
            _ => drawn.points.iter().map(|(_, value)| *value).collect(),
        });
        let y = Axis::around(shown, spec.zero);
        let outside = series.iter().flat_map(|drawn| &drawn.points).filter(|(_, value)| !y.has(*value)).count();
        let outside = match outside {
            0 => None,
            1 => Some("1 value is outside".into()),
            _ => Some(format!("{outside} values are outside")),
        };
        let note = [Some(spec.note).filter(|note| !note.is_empty()), outside].into_iter().flatten().collect::<Vec<_>>().join(", ");
        let series: Vec<Drawn> = series.into_iter().map(|drawn| Drawn { points: thinned(&drawn.points, POINTS), ..drawn }).collect();
        Some(Self {
            title: spec.title,
            note,
            wide: spec.wide,
            lines: series.iter().map(|drawn| line(drawn, &x, &y)).collect(),
            x: x.ticks(if spec.wide { 8 } else { 5 }, true, |step| x.place(step)),
            y: y.ticks(5, false, |value| 1.0 - y.place(value)),
            hover: Hover { x: [x.low, x.high], series: series.iter().map(|drawn| points(drawn, &y)).collect() },
        })
    }
}

fn line(drawn: &Drawn, x: &Axis, y: &Axis) -> Line {
    let (mut path, mut dots) = (String::new(), String::new());
    let has_dots = drawn.style == Style::Dots || drawn.points.len() == 1;
    for (index, (step, value)) in drawn.points.iter().enumerate() {
        let (across, down) = (SIZE * x.place(*step), SIZE * (1.0 - y.place(*value)));
        let command = if index == 0 { 'M' } else { 'L' };
        write!(path, "{command}{across:.1} {down:.1}").expect("a string takes what is written");
        if has_dots {
            write!(dots, "M{across:.1} {down:.1}h0").expect("a string takes what is written");
        }
    }
    Line { name: drawn.name.clone(), colour: drawn.colour.clone(), style: drawn.style, path, dots }
}

fn points(drawn: &Drawn, y: &Axis) -> Points {
    let percent = |value: f64| (10_000.0 * (1.0 - y.place(value))).round() / 100.0;
    Points {
        name: drawn.name.clone(),
        colour: drawn.colour.clone(),
        x: drawn.points.iter().map(|(step, _)| *step).collect(),
        at: drawn.points.iter().map(|(_, value)| percent(*value)).collect(),
        y: drawn.points.iter().map(|(_, value)| short(*value)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        Spec { title: "Loss".into(), note: "nats".into(), zero: true, wide: false }
    }

    #[test]
    fn a_line_goes_from_corner_to_corner() {
        let chart = Chart::new(spec(), vec![Drawn::new("loss", "red", Style::Line, vec![(1.0, 0.0), (3.0, 1.0)])]).unwrap();
        assert_eq!(chart.lines[0].path, "M0.0 1000.0L1000.0 56.6");
        assert_eq!(chart.x.iter().map(|tick| tick.label.as_str()).collect::<Vec<_>>(), ["1", "2", "3"]);
    }

    #[test]
    fn one_point_is_a_dot_and_no_point_is_no_chart() {
        let chart = Chart::new(spec(), vec![Drawn::new("loss", "red", Style::Line, vec![(7.0, 2.0)])]).unwrap();
        assert_eq!(chart.lines[0].dots, "M500.0 166.7h0");
        assert!(Chart::new(spec(), vec![Drawn::new("loss", "red", Style::Line, Vec::new())]).is_none());
    }

    #[test]
    fn a_spike_does_not_flatten_the_rest_and_is_told() {
        let mut points: Series = (1..=200).map(|step| (f64::from(step), 1.0 + f64::from(step % 7) / 10.0)).collect();
        points[100].1 = 500.0;
        let chart = Chart::new(spec(), vec![Drawn::new("norm", "red", Style::Raw, points)]).unwrap();
        assert_eq!(chart.note, "nats, 1 value is outside");
        assert_eq!(chart.y.last().unwrap().label, "1.5");
    }
}
