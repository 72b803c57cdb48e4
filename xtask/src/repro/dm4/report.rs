//! Scores of several methods over seeds, as a page with a table and a plot.

use super::super::table::Cell;
use super::super::{plot, publish, verdict};
use crate::Outcome;
use serde::Serialize;
use std::fmt::Write;

/// One score of one method with one seed.
#[derive(Clone, Debug, Serialize)]
struct Score {
    method: &'static str,
    seed: u64,
    score: f64,
}

/// All scores of an experiment.
#[derive(Clone, Debug, Default)]
pub struct Scores(Vec<Score>);

/// What surrounds the table on the page of an experiment.
pub struct Report<'a> {
    /// Name of the page, the numbers and the command.
    pub name: &'a str,
    pub title: &'a str,
    /// What is compared, and with what settings.
    pub setting: &'a str,
    /// Fixed before the run.
    pub criterion: &'a str,
    /// What the numbers say about it.
    pub finding: String,
    pub passed: bool,
}

impl Scores {
    /// Take down a score.
    pub fn add(&mut self, method: &'static str, seed: u64, score: f64) {
        eprintln!("  {method}: {score:.3}");
        self.0.push(Score { method, seed, score });
    }

    /// The scores of a method, in the order in which they came.
    pub fn of(&self, method: &str) -> Vec<f64> {
        self.0.iter().filter(|score| score.method == method).map(|score| score.score).collect()
    }

    /// Mean and deviation of a method.
    pub fn cell(&self, method: &str) -> Cell {
        Cell::of(self.of(method))
    }

    /// What one method has over another, score by score.
    pub fn gains(&self, method: &str, over: &str) -> Vec<f64> {
        self.of(method).iter().zip(self.of(over)).map(|(a, b)| a - b).collect()
    }

    fn methods(&self) -> Vec<&'static str> {
        let mut methods = Vec::new();
        for score in &self.0 {
            if !methods.contains(&score.method) {
                methods.push(score.method);
            }
        }
        methods
    }

    /// Write page, plot and numbers.
    pub fn publish(&self, report: &Report) -> Outcome {
        let Report { name, title, setting, criterion, finding, passed } = report;
        let percent = |cell: Cell| format!("{} %", cell.show(100.0, 1));
        let mut table = String::from("| method | mean accuracy over the tasks | each score |\n|---|---|---|\n");
        let methods = self.methods();
        for method in &methods {
            let each: Vec<String> = self.of(method).iter().map(|score| format!("{:.1}", score * 100.0)).collect();
            writeln!(table, "| {method} | {} | {} |", percent(self.cell(method)), each.join(", "))?;
        }
        let page = format!(
            "# {title}\n\n{setting}\n\n**Criterion, fixed before the run:** {criterion}\n\n{} {finding}\n\n{table}\n\
             ![Accuracy of the methods]({name}.svg)\n\n\
             The bench is [DM4](dm4.md): four views of scikit-learn's digits, a trunk of 148,224 parameters.\n\n\
             ```sh\ncargo xtask repro {name} --data digits.csv\n```\n\n\
             Every score: [{name}.json](https://github.com/burn-peft/burn-peft/blob/main/docs/reproductions/{name}.json).\n",
            verdict(*passed)
        );
        let rows: Vec<(&str, Cell)> = methods.iter().map(|method| (*method, self.cell(method))).collect();
        publish(name, &page, &plot::svg("Mean accuracy over four tasks, mean ± deviation over seeds", &rows, percent), &self.0)
    }
}
