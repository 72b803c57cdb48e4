//! The page: one run with all there is to see, or several beside each other.

use super::chart::{Chart, Drawn, Spec, Style};
use super::facts::{Fact, Status, facts, status, title};
use super::places::places;
use super::series::{smoothed, span};
use super::warnings::warnings;
use super::{RunRecord, Sample};
use minijinja::Environment;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use peft_core::{Error, Result, grouped};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const TRAINING: &str = "var(--training)";
const EVALUATION: &str = "var(--evaluation)";
/// Colours of runs in the style sheet; more runs take them again.
const COLOURS: usize = 8;

/// A run in the page.
#[derive(Serialize)]
struct Entry {
    name: String,
    title: String,
    colour: String,
    status: Status,
    facts: Vec<Fact>,
}

/// A setting, in one run or in each.
#[derive(Serialize)]
struct Setting {
    name: String,
    values: Vec<String>,
}

/// A sample with what was written.
#[derive(Serialize)]
struct Shown {
    prompt: String,
    expected: String,
    outputs: Vec<Output>,
}

#[derive(Serialize)]
struct Output {
    name: String,
    text: String,
    right: bool,
}

/// A self-contained HTML page about one run, or one that compares several.
///
/// Everything is in the page: it loads nothing, and what comes from files is escaped.
///
/// # Errors
/// [`Error::InvalidConfig`] without a run.
pub fn page(runs: &[RunRecord]) -> Result<String> {
    let Some(first) = runs.first() else {
        return Err(Error::InvalidConfig("there is no run to report".into()));
    };
    let names = names(runs);
    let entries: Vec<Entry> = runs.iter().zip(&names).enumerate().map(|(i, (run, name))| entry(run, name, i)).collect();
    let context = if let [run] = runs {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "title": title(run),
            "runs": entries,
            "charts": single_charts(run),
            "warnings": warnings(run),
            "settings": settings(runs),
            "samples": run.samples.iter().map(single_sample).collect::<Vec<_>>(),
            "places": run.parameters.as_ref().map(places).unwrap_or_default(),
            "sites": run.parameters.as_ref().map(sites).unwrap_or_default(),
        })
    } else {
        let (different, same): (Vec<_>, Vec<_>) = settings(runs).into_iter().partition(|s| s.values.iter().any(|v| *v != s.values[0]));
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "title": format!("{} runs", runs.len()),
            "labels": labels(&entries),
            "runs": entries,
            "charts": comparison_charts(runs, &names),
            "warnings": runs.iter().zip(&names).flat_map(|(run, name)| named_warnings(run, name)).collect::<Vec<_>>(),
            "settings": different,
            "same": same.into_iter().map(|s| Setting { values: s.values[..1].to_vec(), ..s }).collect::<Vec<_>>(),
            "samples": first.samples.iter().map(|sample| compared_sample(sample, runs, &names)).collect::<Vec<_>>(),
        })
    };
    render(context)
}

fn named_warnings(run: &RunRecord, name: &str) -> Vec<String> {
    warnings(run).into_iter().map(|warning| format!("{name}: {warning}")).collect()
}

fn render(context: Value) -> Result<String> {
    let mut environment = Environment::new();
    environment
        .set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().expect("the default delimiters are valid"));
    let files = [
        ("page.html", include_str!("page.html")),
        ("chart.html", include_str!("chart.html")),
        ("page.css", include_str!("page.css")),
        ("page.js", include_str!("page.js")),
    ];
    let failed = |e: minijinja::Error| Error::InvalidConfig(format!("the page could not be made: {e:#}"));
    for (name, text) in files {
        environment.add_template(name, text).map_err(failed)?;
    }
    environment.get_template("page.html").and_then(|template| template.render(Serde(&context))).map_err(failed)
}

fn entry(run: &RunRecord, name: &str, index: usize) -> Entry {
    Entry { name: name.into(), title: title(run), colour: colour(index), status: status(run), facts: facts(run) }
}

fn colour(index: usize) -> String {
    format!("var(--run-{})", index % COLOURS)
}

/// The names of the runs' directories, with their number where two are the same.
pub(super) fn names(runs: &[RunRecord]) -> Vec<String> {
    let names: Vec<String> = runs.iter().map(RunRecord::name).collect();
    let is_twice = |name: &String| names.iter().filter(|other| *other == name).count() > 1;
    names.iter().enumerate().map(|(i, name)| if is_twice(name) { format!("{name}-{}", i + 1) } else { name.clone() }).collect()
}

/// The names of all facts, in order.
fn labels(entries: &[Entry]) -> Vec<&str> {
    let mut labels: Vec<&str> = Vec::new();
    for fact in entries.iter().flat_map(|entry| &entry.facts) {
        if !labels.contains(&fact.label.as_str()) {
            labels.push(&fact.label);
        }
    }
    labels
}

fn spec(title: impl Into<String>, note: &str, zero: bool) -> Spec {
    Spec { title: title.into(), note: note.into(), zero, wide: false }
}

/// Charts beside that of the loss: name, title, unit, whether it begins at 0.
const OTHERS: [(&str, &str, &str, bool); 3] = [
    ("lr", "Learning rate", "", true),
    ("grad_norm", "Gradient norm", "before clipping", true),
    ("tokens_per_second", "Tokens per second", "since the start", true),
];

/// Names of evaluation metrics other than the loss.
fn evaluation_names<'a>(runs: impl IntoIterator<Item = &'a RunRecord>) -> Vec<&'a str> {
    let names = runs.into_iter().flat_map(|run| &run.metrics.names).map(String::as_str);
    let mut found = Vec::new();
    for name in names.filter(|name| name.starts_with("eval") && *name != "eval_loss") {
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

fn single_charts(run: &RunRecord) -> Vec<Chart> {
    let series = |name: &str| run.metrics.series(name);
    let mut losses = Drawn::noisy("training loss", TRAINING, series("loss"));
    losses.push(Drawn::new("evaluation loss", EVALUATION, Style::Dots, series("eval_loss")));
    let mut charts = vec![Chart::new(Spec { wide: true, ..spec("Loss", "in nats, by step", false) }, losses)];
    for name in evaluation_names([run]) {
        charts.push(Chart::new(spec(name, "", false), vec![Drawn::new(name, EVALUATION, Style::Dots, series(name))]));
    }
    for (name, title, note, zero) in OTHERS {
        let drawn = match name {
            "grad_norm" => Drawn::noisy(&title.to_lowercase(), TRAINING, series(name)),
            _ => vec![Drawn::new(title.to_lowercase(), TRAINING, Style::Line, series(name))],
        };
        charts.push(Chart::new(spec(title, note, zero), drawn));
    }
    charts.into_iter().flatten().collect()
}

fn comparison_charts(runs: &[RunRecord], names: &[String]) -> Vec<Chart> {
    let overlay = |of: &str, style: Style| -> Vec<Drawn> {
        let series = |run: &RunRecord| match style {
            Style::Dots => run.metrics.series(of),
            _ if of == "loss" || of == "grad_norm" => {
                let points = run.metrics.series(of);
                smoothed(&points, span(points.len()))
            }
            _ => run.metrics.series(of),
        };
        runs.iter().zip(names).enumerate().map(|(i, (run, name))| Drawn::new(name, colour(i), style, series(run))).collect()
    };
    let wide = |title: &str, note: &str| Spec { wide: true, ..spec(title, note, false) };
    let mut charts = vec![
        Chart::new(wide("Training loss", "smoothed, in nats, by step"), overlay("loss", Style::Line)),
        Chart::new(spec("Evaluation loss", "", false), overlay("eval_loss", Style::Dots)),
    ];
    charts.extend(evaluation_names(runs).into_iter().map(|name| Chart::new(spec(name, "", false), overlay(name, Style::Dots))));
    charts.extend(OTHERS.map(|(name, title, note, zero)| Chart::new(spec(title, note, zero), overlay(name, Style::Line))));
    charts.into_iter().flatten().collect()
}

/// Every setting of any run, in order, with its value in each.
fn settings(runs: &[RunRecord]) -> Vec<Setting> {
    let mut seen = BTreeSet::new();
    let names = runs.iter().flat_map(|run| run.settings.keys()).filter(|name| seen.insert(name.as_str()));
    let value = |run: &RunRecord, name: &str| run.settings.get(name).map_or_else(String::new, plain);
    names.map(|name| Setting { name: name.clone(), values: runs.iter().map(|run| value(run, name)).collect() }).collect()
}

/// A setting as text: lists without brackets, strings without quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(map) => map.iter().map(|(key, value)| format!("{key}: {}", plain(value))).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

fn output(name: &str, text: &Option<String>, expected: &str) -> Option<Output> {
    let text = text.clone()?;
    Some(Output { name: name.into(), right: text.trim() == expected.trim(), text })
}

fn single_sample(sample: &Sample) -> Shown {
    let outputs = [output("before training", &sample.before, &sample.expected), output("after training", &sample.after, &sample.expected)];
    Shown { prompt: sample.prompt.clone(), expected: sample.expected.clone(), outputs: outputs.into_iter().flatten().collect() }
}

/// What each run wrote after a prompt of the first.
fn compared_sample(sample: &Sample, runs: &[RunRecord], names: &[String]) -> Shown {
    let mut outputs: Vec<Output> = output("before training", &sample.before, &sample.expected).into_iter().collect();
    for (run, name) in runs.iter().zip(names) {
        let same = run.samples.iter().find(|other| other.prompt == sample.prompt);
        outputs.extend(same.and_then(|same| output(name, &same.after, &sample.expected)));
    }
    Shown { prompt: sample.prompt.clone(), expected: sample.expected.clone(), outputs }
}

fn sites(summary: &peft_core::Summary) -> Vec<(&str, String)> {
    summary.by_site.iter().map(|(site, count)| (site.as_str(), grouped(*count))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    const EVIL: &str = "</script><script>alert('x')</script><img src=\"x\" onerror=alert(1)>";

    fn run(directory: &str, lr: f64) -> RunRecord {
        let row = |step: u32| {
            let step = f64::from(step);
            let row =
                [("step", step), ("total_steps", 60.0), ("loss", 3.0 - step / 30.0), ("eval_loss", 3.0), ("lr", lr), ("tokens", 10.0)];
            row.map(|(name, value)| (name.to_string(), value)).into()
        };
        let names = ["step", "loss", "eval_loss", "lr"].map(String::from).to_vec();
        RunRecord {
            directory: directory.into(),
            metrics: Metrics { names, rows: (1..=60).map(row).collect(), ..Metrics::default() },
            settings: json!({ "model": "Tiny", "method": "lora", "lr": lr, "target_modules": ["q", "v"] }).as_object().unwrap().clone(),
            summary: Some(json!({ "train_loss_last": 1.0 }).as_object().unwrap().clone()),
            ..RunRecord::default()
        }
    }

    #[test]
    fn nothing_that_a_file_says_becomes_markup() {
        let mut evil = run(EVIL, 0.1);
        for key in ["model", "method", EVIL] {
            evil.settings.insert(key.into(), EVIL.into());
        }
        evil.metrics.names.push(format!("eval_{EVIL}"));
        evil.metrics.rows[0].insert(format!("eval_{EVIL}"), 1.0);
        let text = Some(EVIL.to_string());
        evil.samples = vec![Sample { prompt: EVIL.into(), expected: EVIL.into(), before: text.clone(), after: text }];
        evil.parameters = Some(peft_core::Summary { trainable: 1, total: 1, by_site: [(EVIL.to_string(), 1)].into() });
        for html in [page(&[evil.clone()]).unwrap(), page(&[evil.clone(), evil]).unwrap()] {
            assert!(!html.contains("<img") && !html.contains("<script>alert") && !html.contains("</script><script>"), "{html}");
            assert!(html.contains("&lt;img src="), "it is there as text");
        }
    }

    #[test]
    fn a_page_loads_nothing() {
        let html = page(&[run("runs/a", 0.1)]).unwrap();
        for part in ["http:", "https:", "url(", "@import", " src=", "<link rel=\"stylesheet"] {
            assert!(!html.contains(part), "{part}");
        }
        assert!(html.contains("default-src 'none'"));
    }

    #[test]
    fn one_run_is_shown_with_all_its_settings() {
        let html = page(&[run("runs/a", 0.1)]).unwrap();
        for part in ["<title>Tiny · lora</title>", "Training loss", "evaluation loss", "<dd>q, v</dd>", "finished"] {
            assert!(html.contains(part), "{part}");
        }
    }

    #[test]
    fn several_runs_share_a_chart_and_show_where_they_differ() {
        let html = page(&[run("runs/a", 0.1), run("runs/b", 0.25)]).unwrap();
        assert!(html.contains("<title>2 runs</title>"));
        for part in ["--run-0", "--run-1", ">0.1</td>", ">0.25</td>", "3 settings that are the same"] {
            assert!(html.contains(part), "{part}");
        }
        assert!(!html.contains(">Tiny</td>"), "what is the same is not in the table of differences");
    }

    #[test]
    fn runs_of_the_same_name_are_told_apart() {
        assert_eq!(names(&[run("x/out", 0.1), run("y/out", 0.1), run("z", 0.1)]), ["out-1", "out-2", "z"]);
        assert!(page(&[]).is_err());
    }
}
