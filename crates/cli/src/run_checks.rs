//! Settings of a run that cannot act: refused where the wish of whoever set them would not come true, warned of where another setting
//! takes their place.

use crate::run::{MethodName, Run};
use clap::ValueEnum;
use peft_adapters::low_rank::Init;
use peft_core::{Error, Result};

/// Look at each setting of `run`, which trains an encoder or a decoder.
///
/// # Errors
/// [`Error::InvalidConfig`] names the first setting that could not do anything, and what it needs.
pub fn check(run: &Run, encoder: bool) -> Result<()> {
    let refused = without_evaluation(run).into_iter().chain(of_the_other_model(run, encoder)).chain(of_another_method(run));
    if let Some((name, reason)) = refused.flatten().next() {
        return Err(Error::InvalidConfig(format!("`{name}` {reason}")));
    }
    for (name, reason) in replaced(run, encoder).into_iter().flatten() {
        tracing::warn!("`{name}` {reason}");
    }
    Ok(())
}

/// A setting and why it cannot act.
type Idle = Option<(&'static str, String)>;

fn idle(is_idle: bool, name: &'static str, reason: &str) -> Idle {
    is_idle.then(|| (name, reason.to_string()))
}

/// What compares evaluations or counts them, where nothing is evaluated.
fn without_evaluation(run: &Run) -> [Idle; 5] {
    let none = run.eval.is_none() && run.eval_split.is_none();
    let needs = "needs evaluation data: give --eval or --eval-split";
    [
        idle(none && run.eval_steps.is_some(), "eval_steps", needs),
        idle(none && run.load_best_model_at_end == Some(true), "load_best_model_at_end", needs),
        idle(none && run.early_stopping_patience.is_some(), "early_stopping_patience", needs),
        idle(none && names_a_metric(run), "metric_for_best_model", needs),
        idle(
            run.save_total_limit.is_some() && run.save_steps.is_none(),
            "save_total_limit",
            "keeps the newest checkpoints, and none are written: give --save-steps",
        ),
    ]
}

fn names_a_metric(run: &Run) -> bool {
    run.metric_for_best_model.as_deref().is_some_and(|metric| metric.strip_prefix("eval_").unwrap_or(metric) != "loss")
}

/// What only language models have, or only encoders.
fn of_the_other_model(run: &Run, encoder: bool) -> [Idle; 3] {
    let language = "is for language models, and this model is an encoder";
    [
        idle(encoder && run.packing == Some(true), "packing", language),
        idle(encoder && run.streaming == Some(true), "streaming", language),
        idle(encoder && run.train_on_prompt == Some(true), "train_on_prompt", language),
    ]
}

/// What the method does not have.
fn of_another_method(run: &Run) -> [Idle; 14] {
    use MethodName::{Bitfit, Dora, Lora, Pissa, Rslora, Vera};
    let method = run.method();
    let name = method.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string());
    let is_lora = matches!(method, Lora | Rslora | Dora | Pissa);
    let no_targets = method == Bitfit || method.trains_base();
    let foreign = format!("is no setting of {name}");
    let other_init = method == Pissa && run.init_lora_weights.as_ref().is_some_and(|init| !is_pissa(init));
    let narrow = method.trains_base() && run.dtype.is_some_and(|dtype| dtype != Default::default());
    [
        idle(run.lora_alpha.is_some() && !is_lora, "lora_alpha", &foreign),
        idle(run.lora_dropout.is_some() && !is_lora && method != Vera, "lora_dropout", &foreign),
        idle(run.bias.is_some() && !is_lora, "bias", &foreign),
        idle(run.init_lora_weights.is_some() && !is_lora, "init_lora_weights", &foreign),
        idle(!run.rank_pattern.is_empty() && !is_lora, "rank_pattern", &foreign),
        idle(!run.alpha_pattern.is_empty() && !is_lora, "alpha_pattern", &foreign),
        idle(run.loraplus_lr_ratio.is_some() && !is_lora, "loraplus_lr_ratio", &foreign),
        idle(run.r.is_some() && !is_lora && method != Vera, "r", &foreign),
        idle(run.target_modules.is_some() && no_targets, "target_modules", &foreign),
        idle(run.exclude_modules.is_some() && no_targets, "exclude_modules", &foreign),
        idle(run.layers_to_transform.is_some() && no_targets, "layers_to_transform", &foreign),
        idle(run.modules_to_save.is_some() && method.trains_base(), "modules_to_save", &foreign),
        idle(other_init, "init_lora_weights", "contradicts method pissa, which starts from principal components; use method lora with it"),
        idle(narrow, "dtype", &format!("is the type of frozen weights, and {name} computes on all weights in f32")),
    ]
}

fn is_pissa(init: &Init) -> bool {
    matches!(init, Init::Name(name) if name.starts_with("pissa"))
}

/// What does nothing, since something else decides.
fn replaced(run: &Run, encoder: bool) -> [Idle; 8] {
    let evaluates = run.eval.is_some() || run.eval_split.is_some();
    let best = run.load_best_model_at_end == Some(true);
    let compares = best || run.early_stopping_patience.is_some();
    let once = "compares evaluations, of which there is one, at the end: set eval_steps to have several";
    let decays = run.weight_decay.is_some_and(|decay| decay > 0.0) && run.modules_to_save.is_none();
    let vectors = matches!(run.method(), MethodName::Ia3 | MethodName::Vera | MethodName::Bitfit);
    [
        idle(run.epochs.is_some() && run.max_steps.is_some(), "epochs", "does nothing beside max_steps"),
        idle(run.device.is_some() && run.devices.as_ref().is_some_and(|list| !list.is_empty()), "device", "does nothing beside devices"),
        idle(best && evaluates && run.eval_steps.is_none(), "load_best_model_at_end", once),
        idle(run.early_stopping_patience.is_some() && evaluates && run.eval_steps.is_none(), "early_stopping_patience", once),
        idle(
            names_a_metric(run) && evaluates && !compares,
            "metric_for_best_model",
            "does nothing without load_best_model_at_end or early_stopping_patience",
        ),
        idle(
            encoder && run.samples.is_some_and(|samples| samples > 0),
            "samples",
            "does nothing here: they are texts that a language model writes, and this model is an encoder",
        ),
        idle(run.lora_alpha == Some(0.0), "lora_alpha", "is 0: the adapter changes nothing, so that nothing is learned"),
        idle(decays && vectors, "weight_decay", "does nothing here: it is for matrices, and this method trains vectors"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn run(yaml: &str) -> Run {
        serde_saphyr::from_str(yaml).unwrap()
    }

    fn refusal(yaml: &str, encoder: bool) -> String {
        check(&run(yaml), encoder).unwrap_err().to_string()
    }

    #[test]
    fn settings_that_cannot_act_are_refused_by_name() {
        for (yaml, name) in [
            ("eval_steps: 1", "eval_steps"),
            ("load_best_model_at_end: true", "load_best_model_at_end"),
            ("early_stopping_patience: 2", "early_stopping_patience"),
            ("metric_for_best_model: accuracy", "metric_for_best_model"),
            ("save_total_limit: 2", "save_total_limit"),
            ("method: ia3\nlora_alpha: 4", "lora_alpha"),
            ("method: bitfit\nlora_dropout: 0.1", "lora_dropout"),
            ("method: vera\nloraplus_lr_ratio: 4", "loraplus_lr_ratio"),
            ("method: full\ntarget_modules: [q_proj]", "target_modules"),
            ("method: full\nexclude_modules: [q_proj]", "exclude_modules"),
            ("method: bitfit\nlayers_to_transform: [0]", "layers_to_transform"),
            ("method: full\ndtype: bf16", "dtype"),
            ("method: pissa\ninit_lora_weights: gaussian", "init_lora_weights"),
        ] {
            let message = refusal(yaml, false);
            assert!(message.starts_with(&format!("invalid configuration: `{name}` ")), "{yaml}: {message}");
        }
        for name in ["packing", "streaming", "train_on_prompt"] {
            assert!(refusal(&format!("{name}: true"), true).contains("this model is an encoder"));
        }
    }

    #[test]
    fn settings_that_act_pass() {
        for yaml in [
            "eval: e.jsonl\neval_steps: 1\nload_best_model_at_end: true\nearly_stopping_patience: 2\nmetric_for_best_model: eval_loss",
            "eval_split: 2\neval_steps: 1",
            "save_steps: 2\nsave_total_limit: 2",
            "method: vera\nlora_dropout: 0.1\nr: 4",
            "method: pissa\ninit_lora_weights: pissa_niter_4",
            "method: full\ndtype: f32",
        ] {
            check(&run(yaml), false).unwrap();
        }
        check(&run("method: head"), true).unwrap();
    }

    #[test]
    fn the_settings_that_a_run_writes_down_pass() {
        for method in ["lora", "rslora", "dora", "pissa", "ia3", "vera", "bitfit", "full"] {
            let whole = run(&format!("method: {method}\nmax_steps: 3")).effective(Path::new("none"));
            check(&run(&whole.to_yaml().unwrap()), false).unwrap();
        }
    }
}
