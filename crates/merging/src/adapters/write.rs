//! The files of a merged adapter.

use super::lora::{Factors, Lora, keys};
use super::merge::{AdapterMerge, MergedModule};
use peft_core::files::{Dtype, TensorSource, float_bytes, pytorch_metadata, write_atomic, write_safetensors};
use peft_core::{CONFIG_FILE, Error, Names, Result, TENSOR_FILE};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Which modules are adapted.
const TARGETS: [&str; 4] = ["target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"];

impl AdapterMerge {
    /// Computes module by module and writes the adapter's files into `dir`, which must exist. `progress` is told of each module that is
    /// done. Returns the bytes of the tensors' file.
    ///
    /// # Errors
    /// Those of [`compute`](Self::compute); [`Error::Io`].
    pub fn write(&self, dir: &Path, progress: &dyn Fn()) -> Result<u64> {
        // A module's two tensors are written one after the other: B waits here while A is written.
        let waiting: RefCell<BTreeMap<&str, Vec<f32>>> = RefCell::default();
        let mut sources = self.copies()?;
        for module in &self.modules {
            let (shapes, waiting) = (shapes(module), &waiting);
            let [key_a, key_b] = keys(&module.name, module.site.embedding);
            sources.push(TensorSource::new(key_a, Dtype::F32, &shapes[0], move || {
                let Factors { a, b } = self.compute(module)?;
                waiting.borrow_mut().insert(&module.name, b);
                progress();
                bytes(&a)
            }));
            sources.push(TensorSource::new(key_b, Dtype::F32, &shapes[1], move || {
                let kept = waiting.borrow_mut().remove(module.name.as_str());
                bytes(&kept.map_or_else(|| self.compute(module).map(|factors| factors.b), Ok)?)
            }));
        }
        let size = write_safetensors(&dir.join(TENSOR_FILE), sources, &pytorch_metadata())?;
        write_json(&dir.join(CONFIG_FILE), &self.config())?;
        write_atomic(&dir.join("README.md"), self.card().as_bytes())?;
        Ok(size)
    }

    /// What HF PEFT copies of an adapted embedding, once.
    fn copies(&self) -> Result<Vec<TensorSource<'_>>> {
        let mut seen = BTreeSet::new();
        let all = self.adapters.iter().flat_map(|adapter| adapter.whole.iter().map(move |whole| (adapter, whole)));
        all.filter(|(_, whole)| seen.insert(&whole.key))
            .map(|(adapter, whole)| TensorSource::from_checkpoint(&adapter.tensors, &whole.key))
            .collect()
    }

    /// The configuration of the first adapter, with ranks and modules of the result, and factors of 1.
    fn config(&self) -> Value {
        let mut config = self.adapters[0].config.value().as_object().cloned().unwrap_or_default();
        let rank = self.rank();
        let others: Vec<&MergedModule> = self.modules.iter().filter(|module| module.site.rank != rank).collect();
        // A pattern for exactly one module.
        let pattern = |module: &&MergedModule| (format!("^{}", module.name.replace('.', r"\.")), Value::from(module.site.rank));
        let patterns: Map<String, Value> = others.iter().map(pattern).collect();
        config.insert("r".into(), rank.into());
        config.insert("lora_alpha".into(), rank.into());
        config.insert("rank_pattern".into(), patterns.clone().into());
        config.insert("alpha_pattern".into(), patterns.into());
        config.insert("use_rslora".into(), false.into());
        config.insert("init_lora_weights".into(), true.into());
        config.insert("inference_mode".into(), true.into());
        if let Some(targets) = self.targets() {
            TARGETS.iter().for_each(|field| drop(config.insert((*field).into(), Value::Null)));
            config.insert(TARGETS[0].into(), targets.into());
        }
        let sorted: BTreeMap<String, Value> = config.into_iter().collect();
        Value::Object(sorted.into_iter().collect())
    }

    /// The names of the modules; `None` where all adapters name them alike.
    fn targets(&self) -> Option<Vec<String>> {
        let field = |adapter: &Lora, field: &str| adapter.config.value().get(field).cloned().unwrap_or_default();
        let names = |adapter: &Lora| match adapter.config.target_modules() {
            Some(Names::List(names)) => Some(names.iter().cloned().collect::<BTreeSet<String>>()),
            _ => None,
        };
        let first = &self.adapters[0];
        let alike = |adapter: &Lora| {
            (names(adapter).is_some() && names(adapter) == names(first) || field(adapter, TARGETS[0]) == field(first, TARGETS[0]))
                && TARGETS[1..].iter().all(|name| field(adapter, name) == field(first, name))
        };
        if self.adapters.iter().all(alike) {
            return None;
        }
        let plain = |adapter: &Lora| TARGETS[1..].iter().all(|name| field(adapter, name).is_null());
        let listed: Option<Vec<BTreeSet<String>>> = self.adapters.iter().map(|adapter| names(adapter).filter(|_| plain(adapter))).collect();
        let names: BTreeSet<String> = match listed {
            Some(lists) => lists.into_iter().flatten().collect(),
            None => self.modules.iter().map(|module| module.name.clone()).collect(),
        };
        Some(names.into_iter().collect())
    }

    /// The model card.
    fn card(&self) -> String {
        let settings = &self.settings;
        let base = self.adapters[0].config.base();
        let base = base.map_or_else(String::new, |base| format!("base_model: {}\n", Value::from(base)));
        let adapters =
            self.adapters.iter().zip(&settings.weights).map(|(adapter, weight)| format!("- `{}`, weight {weight}\n", adapter.name));
        let mut with = Vec::new();
        with.extend(settings.density.map(|density| format!("density {density}")));
        with.extend(settings.svd_rank.map(|rank| format!("rank {rank}")));
        with.extend(settings.combination.is_random().then(|| format!("seed {}", settings.seed)));
        let with = if with.is_empty() { String::new() } else { format!(" ({})", with.join(", ")) };
        format!(
            "---\nlibrary_name: peft\n{base}tags:\n- lora\n- merge\n---\n\n# Merged adapter\n\nMade with `peft merge-adapters`, combination \
             `{}`{with}, of\n\n{}",
            settings.combination.name,
            adapters.collect::<String>()
        )
    }
}

/// The shapes of A and B; a convolution's A has the kernel's axes.
fn shapes(module: &MergedModule) -> [Vec<usize>; 2] {
    let site = &module.site;
    let inputs = site.columns / site.kernel.iter().product::<usize>().max(1);
    [[vec![site.rank, inputs], site.kernel.clone()].concat(), [vec![site.rows, site.rank], vec![1; site.kernel.len()]].concat()]
}

fn bytes<'a>(numbers: &[f32]) -> Result<Cow<'a, [u8]>> {
    Ok(Cow::Owned(float_bytes(numbers, Dtype::F32).unwrap_or_default()))
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::file(path, e))?;
    write_atomic(path, text.as_bytes())
}
