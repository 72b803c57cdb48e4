//! An estimate that goes on where it was cut.

use super::estimate::Fisher;
use burn::module::Module;
use burn::tensor::{DType, Tensor, TensorData};
use peft_core::files::{Checkpoint, Metadata, TensorSource, write_safetensors};
use peft_core::{Error, Result};
use std::path::Path;

/// What the sums in a file belong to, and how many examples they are of.
const FINGERPRINT: &str = "fingerprint";
const EXAMPLES: &str = "examples";

impl<M: Module> Fisher<M> {
    /// Writes the sums so far. `fingerprint` is whatever must be the same for them to be of use: model, data and settings.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, file: &Path, fingerprint: &str) -> Result<()> {
        let sources = self.sums.iter().map(|(path, sum)| TensorSource::from_tensor(path, sum.clone(), DType::F32));
        let metadata = [(FINGERPRINT, fingerprint.to_string()), (EXAMPLES, self.examples.to_string())];
        let metadata = metadata.into_iter().map(|(key, value)| (key.into(), value)).collect::<Metadata>();
        write_safetensors(file, sources.collect::<Result<Vec<_>>>()?, &metadata).map(|_| ())
    }

    /// Takes up the sums that [`save`](Self::save) has written under the same fingerprint; false, and nothing taken up, for another.
    ///
    /// # Errors
    /// [`Error::File`] for a file that is none of ours, or belongs to other parameters; [`Error::Io`].
    pub fn restore(&mut self, file: &Path, fingerprint: &str) -> Result<bool> {
        let saved = Checkpoint::open_file(file)?;
        let metadata = saved.metadata();
        if metadata.get(FINGERPRINT).map(String::as_str) != Some(fingerprint) {
            return Ok(false);
        }
        let examples = metadata.get(EXAMPLES).and_then(|count| count.parse().ok());
        let examples = examples.ok_or_else(|| Error::file(file, "does not say how many examples it is of"))?;
        if let Some(other) = saved.keys().find(|key| !self.paths.contains(*key)) {
            return Err(Error::file(file, format!("is of a parameter `{other}`, which the model does not have")));
        }
        let device = self.device();
        let tensor = |key: &str| -> Result<Tensor<1>> {
            let numbers = saved.f32s(key)?;
            let length = numbers.len();
            Ok(Tensor::from_data(TensorData::new(numbers, [length]), &device))
        };
        self.sums = saved.keys().map(|key| Ok((key.to_string(), tensor(key)?))).collect::<Result<_>>()?;
        self.examples = examples;
        Ok(true)
    }
}
