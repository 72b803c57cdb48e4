//! What tells one base checkpoint from another.

use peft_core::files::Checkpoint;
use peft_core::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The content of a base checkpoint in a few bytes, so that a run that goes on notices if it has been exchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseFingerprint {
    /// Of its configuration.
    config: String,
    /// Of names, types, shapes and values of its tensors, however they are spread over files.
    weights: String,
}

impl BaseFingerprint {
    /// Of the checkpoint in `dir`, which is read once.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] if it cannot be read.
    pub fn of(dir: &Path) -> Result<Self> {
        let file = dir.join("config.json");
        let config = std::fs::read(&file).map_err(|e| Error::io(&file, e))?;
        let checkpoint = Checkpoint::open(dir)?;
        let keys: Vec<&str> = checkpoint.keys().collect();
        let of_tensor = |key: &&str| {
            let crc = crc32c::crc32c(checkpoint.bytes(key)?);
            checkpoint.release(key);
            Ok(format!("{key} {:?} {crc:08x}\n", checkpoint.info(key)))
        };
        let tensors: Vec<String> = keys.par_iter().map(of_tensor).collect::<Result<_>>()?;
        let of = |bytes: &[u8]| format!("{:08x}", crc32c::crc32c(bytes));
        Ok(Self { config: of(&config), weights: of(tensors.concat().as_bytes()) })
    }

    /// Whether `now` is the same checkpoint; the reason says what has changed.
    ///
    /// # Errors
    /// The reason.
    pub fn check(&self, now: &Self) -> Result<(), String> {
        let what = match (self.weights == now.weights, self.config == now.config) {
            (true, true) => return Ok(()),
            (false, _) => "its weights are not those",
            (true, false) => "its config.json is not the one",
        };
        Err(format!("has changed since the run began: {what} that the run was trained on; put them back, or begin anew with --overwrite"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peft_core::files::{TensorSource, pytorch_metadata, write_safetensors};
    use std::borrow::Cow;

    fn fingerprint(config: &str, values: &'static [u8]) -> BaseFingerprint {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        let tensor = TensorSource::new("w", peft_core::files::Dtype::U8, &[values.len()], move || Ok(Cow::Borrowed(values)));
        write_safetensors(&dir.path().join("model.safetensors"), [tensor], &pytorch_metadata()).unwrap();
        BaseFingerprint::of(dir.path()).unwrap()
    }

    #[test]
    fn one_bit_makes_another_checkpoint() {
        let base = fingerprint("{}", &[1, 2, 3]);
        assert_eq!(base, fingerprint("{}", &[1, 2, 3]));
        assert!(base.check(&fingerprint("{}", &[1, 2, 2])).unwrap_err().contains("its weights are not those"));
        assert!(base.check(&fingerprint("{ }", &[1, 2, 3])).unwrap_err().contains("its config.json is not the one"));
    }
}
