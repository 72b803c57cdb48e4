//! The course of the loss in the terminal: a plot of braille dots.

use console::style;
use peft_train::Progress;
use std::collections::BTreeMap;

/// Lines of the plot.
const ROWS: usize = 8;
/// Columns of the numbers beside it.
const LABEL: usize = 8;
/// Dots in a character, across and down.
const DOTS: (usize, usize) = (2, 4);

/// The steps so far.
#[derive(Default)]
pub struct Course {
    losses: Vec<(usize, f64)>,
    evaluations: Vec<(usize, f64)>,
    total_steps: usize,
    now: String,
}

impl Course {
    /// Take in a step.
    pub fn add(&mut self, progress: &Progress) {
        self.total_steps = progress.total_steps;
        self.losses.push((progress.step, progress.loss));
        self.evaluations.extend(progress.evaluation.as_ref().map(|evaluation| (progress.step, evaluation.eval_loss)));
        let Progress { loss, lr, grad_norm, tokens_per_second, .. } = progress;
        let evaluation = self.evaluations.last().map(|(step, loss)| format!("  evaluation {loss:.4} (step {step})"));
        let evaluation = evaluation.unwrap_or_default();
        self.now = format!("loss {loss:.4}{evaluation}  lr {lr:.2e}  gradient {grad_norm:.3}  {tokens_per_second:.0} tokens/s");
    }

    /// The plot over the whole run from left to right, and the numbers of the last step, for a terminal of `width` columns.
    pub fn text(&self, width: usize) -> String {
        let columns = width.saturating_sub(LABEL + 2).clamp(10, 100);
        let canvas = Canvas::of(&self.losses, &self.evaluations, self.total_steps, columns);
        let label = |row: usize| match row {
            0 => format!("{:.2}", canvas.high),
            _ if row == ROWS - 1 => format!("{:.2}", canvas.low),
            _ => String::new(),
        };
        let rows = canvas.rows.iter().enumerate().map(|(row, cells)| format!("{:>LABEL$} │{}\n", label(row), cells.concat()));
        rows.collect::<String>() + &self.now
    }
}

/// What is drawn: lines of characters, and the losses at its lower and its upper edge.
struct Canvas {
    rows: Vec<Vec<String>>,
    low: f64,
    high: f64,
}

impl Canvas {
    fn of(losses: &[(usize, f64)], evaluations: &[(usize, f64)], total_steps: usize, columns: usize) -> Self {
        let (across, down) = (columns * DOTS.0, ROWS * DOTS.1);
        // Shares of equal size where there are more steps than dots; else from edge to edge.
        let column = |step: usize| {
            let (parts, of) = if total_steps > across { (across, total_steps) } else { (across - 1, total_steps.saturating_sub(1).max(1)) };
            (step.saturating_sub(1) * parts / of).min(across - 1)
        };
        // Steps that share a column of dots are one dot: their mean.
        let mut means: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
        for (step, loss) in losses {
            let (sum, count) = means.entry(column(*step)).or_default();
            (*sum, *count) = (*sum + loss, *count + 1.0);
        }
        let means: Vec<(usize, f64)> = means.into_iter().map(|(x, (sum, count))| (x, sum / count)).collect();
        let values = || means.iter().chain(evaluations).map(|(_, loss)| *loss);
        let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
        let row = |loss: f64| match high > low {
            true => ((high - loss) / (high - low) * (down - 1) as f64).round() as usize,
            false => down / 2,
        };
        let points: Vec<(usize, usize)> = means.iter().map(|(x, loss)| (*x, row(*loss))).collect();
        let mut rows: Vec<Vec<String>> = braille(&points, columns);
        for (step, loss) in evaluations {
            rows[row(*loss) / DOTS.1][column(*step) / DOTS.0] = style("●").yellow().for_stderr().to_string();
        }
        Self { rows, low, high }
    }
}

/// A line through points, given as columns and rows of dots from the upper left, in characters of two by four dots.
fn braille(points: &[(usize, usize)], columns: usize) -> Vec<Vec<String>> {
    // The bit of each dot, by its row and column (Unicode, "Braille Patterns").
    const BITS: [[u32; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
    let mut cells = vec![vec![0u32; columns]; ROWS];
    let mut dot = |x: usize, y: usize| cells[y / DOTS.1][x / DOTS.0] |= BITS[y % DOTS.1][x % DOTS.0];
    points.iter().for_each(|(x, y)| dot(*x, *y));
    for pair in points.windows(2) {
        let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
        // As many dots as the longer side has.
        let dots = (x1 - x0).max(y1.abs_diff(y0)).max(1);
        for i in 0..=dots {
            let between = |a: usize, b: usize| (a as f64 + (b as f64 - a as f64) * i as f64 / dots as f64).round() as usize;
            dot(between(x0, x1), between(y0, y1));
        }
    }
    let character = |bits: u32| char::from_u32(0x2800 + bits).unwrap_or(' ').to_string();
    cells.into_iter().map(|row| row.into_iter().map(character).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(losses: &[f64], total_steps: usize) -> Vec<String> {
        let losses: Vec<_> = losses.iter().enumerate().map(|(i, loss)| (i + 1, *loss)).collect();
        Canvas::of(&losses, &[], total_steps, 10).rows.into_iter().map(|cells| cells.concat()).collect()
    }

    #[test]
    fn a_falling_loss_goes_from_the_upper_left_to_the_lower_right() {
        let rows = course(&[3.0, 2.0, 1.0, 0.0], 4);
        let cell = |row: usize, column: usize| rows[row].chars().nth(column).unwrap();
        assert!(cell(0, 0) != '⠀' && cell(7, 9) != '⠀');
        assert!(cell(0, 9) == '⠀' && cell(7, 0) == '⠀');
    }

    #[test]
    fn a_run_at_its_half_fills_the_left_half() {
        let rows = course(&[2.0; 50], 100);
        for row in &rows {
            assert!(row.chars().skip(5).all(|cell| cell == '⠀'), "{row}");
        }
        assert_eq!(rows[4].chars().take(5).filter(|cell| *cell != '⠀').count(), 5, "a loss that stays is a line");
    }

    #[test]
    fn steps_that_share_a_column_are_their_mean() {
        let noisy: Vec<f64> = (0..2000).map(|i| if i % 2 == 0 { 1.0 } else { 3.0 }).collect();
        let losses: Vec<_> = noisy.iter().enumerate().map(|(i, loss)| (i + 1, *loss)).collect();
        let Canvas { low, high, .. } = Canvas::of(&losses, &[], 2000, 10);
        assert!((low - 2.0).abs() < 0.05 && (high - 2.0).abs() < 0.05, "{low} {high}");
    }

    #[test]
    fn an_evaluation_is_a_mark_of_its_own() {
        let rows = Canvas::of(&[(1, 2.0), (2, 1.0)], &[(2, 1.5)], 2, 10).rows;
        assert!(rows.iter().any(|row| row[9].contains('●')));
    }
}
