//! Writing a module's weights as a checkpoint, the inverse of loading: a parameter's path is its key.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor};
use peft_core::files::{Dtype, TensorInfo, TensorSource, pytorch_metadata, write_checkpoint};
use peft_core::{Result, Site, sites};
use std::collections::HashMap;
use std::path::Path;

/// Write the weights of `model` into the existing directory `dir` as Hugging Face does, and return the bytes of the files.
///
/// The weights are those that the parameters hold: adapters must be merged first to be part of them, and their own tensors are left
/// out. `dtype_of` gives each key its type in the file; above `max_shard_bytes` the checkpoint is split into shards. One tensor at a
/// time is read back from the device, so that a model needs no second copy of itself in memory.
///
/// # Errors
/// [`Error::InvalidConfig`](peft_core::Error::InvalidConfig) for a type that a checkpoint cannot hold, and what
/// [`write_checkpoint`] fails with.
pub fn write_weights<M: Module>(model: &M, dir: &Path, dtype_of: impl Fn(&str) -> DType, max_shard_bytes: u64) -> Result<u64> {
    write_checkpoint(dir, weights(model, dtype_of)?, max_shard_bytes, &pytorch_metadata())
}

/// The weights of `model` as a checkpoint has them: keys, types that `dtype_of` gives, and linear weights with the outputs first. What
/// [`write_weights`] writes, for files of another kind.
///
/// # Errors
/// [`Error::InvalidConfig`](peft_core::Error::InvalidConfig) for a type that a checkpoint cannot hold.
pub fn weights<'a, M: Module>(model: &M, dtype_of: impl Fn(&str) -> DType) -> Result<Vec<TensorSource<'a>>> {
    let sites = sites(model).into_iter().map(|site| (site.path(), site)).collect();
    let mut collect = Collect { sites, dtype_of, path: Vec::new(), sources: Ok(Vec::new()) };
    model.visit(&mut collect);
    collect.sources
}

/// The type that a checkpoint's tensor has, as a tensor type of Burn; f32 for others.
pub fn stored_dtype(info: Option<&TensorInfo>) -> DType {
    match info.map(|info| info.dtype) {
        Some(Dtype::BF16) => DType::BF16,
        Some(Dtype::F16) => DType::F16,
        Some(Dtype::F64) => DType::F64,
        _ => DType::F32,
    }
}

/// What torch calls a type; [`write_weights`] refuses all others.
pub(crate) fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F64 => "float64",
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    }
}

struct Collect<'a, F> {
    /// The model's own parameters by path; an adapter's tensors are not among them.
    sites: HashMap<String, Site>,
    dtype_of: F,
    path: Vec<String>,
    sources: Result<Vec<TensorSource<'a>>>,
}

impl<F: Fn(&str) -> DType> ModuleVisitor for Collect<'_, F> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let key = self.path.join(".");
        let (Some(site), Ok(sources)) = (self.sites.get(&key), &mut self.sources) else { return };
        let value = param.base().detach();
        // PyTorch keeps a linear weight as `[out, in]`.
        let value = if site.is_linear() { value.swap_dims(0, D - 1) } else { value };
        let dtype = (self.dtype_of)(&key);
        match TensorSource::from_tensor(key, value, dtype) {
            Ok(source) => sources.push(source),
            Err(error) => self.sources = Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CausalLm, DecoderConfig};
    use burn::tensor::{TensorData, Tolerance};
    use peft_core::files::{Checkpoint, INDEX_FILE};

    const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 11, "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 2, "tie_word_embeddings": false}"#;

    fn saved(dtype: DType, max_shard_bytes: u64) -> (CausalLm, tempfile::TempDir) {
        let model = CausalLm::init(DecoderConfig::parse(CONFIG).unwrap(), &peft_core::device::host(), 5);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), CONFIG).unwrap();
        write_weights(&model, dir.path(), |_| dtype, max_shard_bytes).unwrap();
        (model, dir)
    }

    fn logits(model: &CausalLm) -> TensorData {
        let device = peft_core::device::host();
        model.logits(Tensor::from_data([[1, 2, 3]], &device)).into_data()
    }

    #[test]
    fn what_is_written_loads_as_the_same_model() {
        for max_shard_bytes in [u64::MAX, 1_000] {
            let (model, dir) = saved(DType::F32, max_shard_bytes);
            assert_eq!(dir.path().join(INDEX_FILE).exists(), max_shard_bytes == 1_000);
            let loaded = CausalLm::load(dir.path(), &peft_core::device::host(), None).unwrap();
            // The loaded weights are transposed views, whose products may add up in another order.
            logits(&loaded).assert_approx_eq::<f32>(&logits(&model), Tolerance::absolute(1e-6));
        }
    }

    #[test]
    fn linear_weights_are_stored_with_the_outputs_first() {
        let (_, dir) = saved(DType::F16, u64::MAX);
        let file = Checkpoint::open(dir.path()).unwrap();
        let info = file.info("model.layers.1.mlp.up_proj.weight").unwrap();
        assert_eq!((info.shape.as_slice(), info.dtype), (&[12, 8][..], Dtype::F16));
        assert_eq!(file.info("model.embed_tokens.weight").unwrap().shape, [11, 8]);
    }
}
