//! Writing an encoder as transformers does.

use super::config::EncoderConfig;
use crate::write_weights;
use burn::module::Module;
use burn::tensor::DType;
use peft_core::{Error, Result, files};
use std::path::Path;

/// Write `config.json`, for an encoder under `head`, and the weights in one file; gives the bytes of the weights.
pub(super) fn save<M: Module>(model: &M, config: &EncoderConfig, head: &str, dir: &Path, dtype: DType) -> Result<u64> {
    let bytes = write_weights(model, dir, |_| dtype, u64::MAX)?;
    let file = dir.join("config.json");
    let mut json = config.to_json(head);
    if let Some(object) = json.as_object_mut() {
        object.shift_remove("torch_dtype");
        object.insert("dtype".into(), name(dtype).into());
    }
    let mut text = serde_json::to_string_pretty(&json).map_err(|e| Error::file(&file, e))?;
    text.push('\n');
    files::write_atomic(&file, text.as_bytes())?;
    Ok(bytes)
}

/// What torch calls a type; [`write_weights`] has refused all others.
fn name(dtype: DType) -> &'static str {
    match dtype {
        DType::F64 => "float64",
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    }
}
