//! Computing a merge and writing it, file by file.

use crate::plan::{Plan, Weight};
use crate::source::{Numbers, Source};
use crate::stack::{Output, Stack};
use peft_core::files::{Checkpoint, INDEX_FILE, MODEL_FILE, TensorSource, pytorch_metadata, write_atomic, write_safetensors};
use peft_core::{Error, Result};
use serde_json::json;
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

/// A file of the result.
#[derive(Debug)]
pub struct Shard<'a> {
    /// Its name.
    pub name: String,
    /// Its weights, in the order of the file.
    pub weights: Vec<&'a Weight>,
}

impl Plan {
    /// The files of the result, none of which has more than `max_bytes` of weights but for a single larger one.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a limit of zero.
    pub fn shards(&self, max_bytes: u64) -> Result<Vec<Shard<'_>>> {
        if max_bytes == 0 {
            return Err(Error::InvalidConfig("the largest size of a checkpoint file must be above zero".into()));
        }
        let (mut groups, mut size) = (vec![Vec::new()], 0u64);
        for weight in &self.weights {
            let bytes = weight.num_bytes();
            if size > 0 && size.saturating_add(bytes) > max_bytes {
                groups.push(Vec::new());
                size = 0;
            }
            size += bytes;
            groups.last_mut().expect("never empty").push(weight);
        }
        let count = groups.len();
        let shards = groups.into_iter().enumerate().map(|(i, mut weights)| {
            // As `write_safetensors` orders them, so that each is ready when its turn comes.
            weights.sort_by(|a, b| b.info.dtype.cmp(&a.info.dtype).then_with(|| a.name.cmp(&b.name)));
            let name = if count == 1 { MODEL_FILE.into() } else { format!("model-{:05}-of-{count:05}.safetensors", i + 1) };
            Shard { name, weights }
        });
        Ok(shards.collect())
    }

    /// About how many bytes of memory the merge takes at most: two weights of the result, the one that is computed and the one that is
    /// written, the inputs of one as they are mapped, and for each thread some blocks of every input.
    ///
    /// # Errors
    /// As [`shards`](Self::shards).
    pub fn memory(&self, max_bytes: u64) -> Result<u64> {
        let shards = self.shards(max_bytes)?;
        let pair = |pair: &[&Weight]| pair.iter().map(|weight| weight.num_bytes()).sum::<u64>();
        let pairs = shards.iter().flat_map(|shard| shard.weights.windows(2).map(pair).chain(shard.weights.first().map(|w| w.num_bytes())));
        let mapped = self.weights.iter().map(|weight| self.input_bytes(weight)).max().unwrap_or(0);
        let inputs = self.weights.iter().map(|weight| weight.inputs.len() + weight.fishers.len()).max().unwrap_or(0) as u64;
        let row = self.weights.iter().map(|weight| weight.info.shape.last().copied().unwrap_or(1)).max().unwrap_or(1);
        let block = 4 * Stack::block_len(row) as u64;
        Ok(pairs.max().unwrap_or(0) + mapped + rayon::current_num_threads() as u64 * (3 * inputs + 2) * block)
    }

    fn input_bytes(&self, weight: &Weight) -> u64 {
        let bytes = |input: &crate::plan::Input| {
            let model = &self.models[input.model];
            let changed = model.changes.as_ref().map_or(0, |changes| changes.bytes(&input.key));
            Some(model.info(&input.key).ok()?.num_bytes()? as u64 + changed)
        };
        let fishers = self.fishers.as_ref().map_or(0, |fishers| fishers.bytes(&weight.fishers));
        weight.inputs.iter().filter_map(bytes).sum::<u64>() + fishers
    }

    /// Computes the files and writes each into `dir` under its name when it is complete, and then the index if there are several.
    ///
    /// `progress` is told the bytes of each weight that is done.
    ///
    /// # Errors
    /// [`Error::NonFinite`] naming a weight of an input that holds no number; [`Error::Tensor`] for integers that differ between models;
    /// [`Error::Io`] if a file cannot be written, of which nothing is left then.
    pub fn write(&self, dir: &Path, max_shard_bytes: u64, progress: &(dyn Fn(u64) + Sync)) -> Result<u64> {
        let shards = self.shards(max_shard_bytes)?;
        for shard in &shards {
            self.write_shard(&dir.join(&shard.name), shard, progress)?;
        }
        self.write_index(dir, &shards)?;
        Ok(self.bytes())
    }

    /// Writes the index of several files; one file needs none.
    pub(crate) fn write_index(&self, dir: &Path, shards: &[Shard]) -> Result<()> {
        if shards.len() < 2 {
            return Ok(());
        }
        let entries = shards.iter().flat_map(|shard| shard.weights.iter().map(|weight| (&weight.name, &shard.name)));
        let weight_map: BTreeMap<&String, &String> = entries.collect();
        let path = dir.join(INDEX_FILE);
        let index = json!({ "metadata": { "total_size": self.bytes() }, "weight_map": weight_map });
        let text = serde_json::to_string_pretty(&index).map_err(|e| Error::file(&path, e))?;
        write_atomic(&path, format!("{text}\n").as_bytes())
    }

    /// Writes a file; gives the checksum of its weights.
    ///
    /// This thread computes a weight while another writes the one before: no more than two are in memory.
    ///
    /// Not the other way round: this may be a thread of Rayon's pool, and the only one, which must not wait for work that others do there.
    pub(crate) fn write_shard(&self, path: &Path, shard: &Shard, progress: &(dyn Fn(u64) + Sync)) -> Result<u32> {
        thread::scope(|scope| {
            let (send, receive) = sync_channel(0);
            let writer = scope.spawn(move || write_received(path, shard, &receive, progress));
            for weight in &shard.weights {
                let computed = self.compute(weight);
                let failed = computed.is_err();
                // Nobody receives where writing has failed, which the writer tells.
                if send.send(computed).is_err() || failed {
                    break;
                }
            }
            drop(send);
            writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The bytes of one weight of the result.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn compute<'a>(&'a self, weight: &'a Weight) -> Result<Cow<'a, [u8]>> {
        let computed = match &weight.rule {
            Some(rule) => self.merge(weight, rule.as_ref()),
            None => self.copy_integers(weight),
        };
        for input in &weight.inputs {
            self.models[input.model].checkpoint.release(&input.key);
        }
        if let Some(fishers) = &self.fishers {
            fishers.release(&weight.fishers);
        }
        computed
    }

    fn merge(&self, weight: &Weight, rule: &dyn crate::rules::Rule) -> Result<Cow<'_, [u8]>> {
        let (base, others) = self.sources(weight)?;
        let stack = Stack { name: &weight.name, shape: &weight.info.shape, base, others };
        if let ([Source { numbers: Numbers::Stored(stored), .. }], true) = (stack.others.as_slice(), rule.is_copy())
            && stored.dtype == weight.info.dtype
        {
            stack.check_all()?;
            return Ok(Cow::Owned(stored.bytes.to_vec()));
        }
        let mut out = Output::new(weight.info.dtype, stack.len());
        rule.merge(&stack, &mut out)?;
        Ok(Cow::Owned(out.into_bytes()))
    }

    /// Integers are no quantities that could be averaged: all models must agree.
    fn copy_integers(&self, weight: &Weight) -> Result<Cow<'_, [u8]>> {
        let bytes = |i: usize| {
            let input = &weight.inputs[i];
            self.models[input.model].checkpoint.bytes(&input.key)
        };
        let first = bytes(0)?;
        for (i, input) in weight.inputs.iter().enumerate().skip(1) {
            if bytes(i)? != first {
                let model = &self.models[input.model];
                return Err(Error::Tensor {
                    file: model.dir.clone(),
                    key: input.key.clone(),
                    expected: format!("the same integers as in {}", self.models[weight.inputs[0].model].name),
                    found: "others".into(),
                });
            }
        }
        Ok(Cow::Borrowed(first))
    }
}

/// Writes the weights of a file as their bytes arrive, in the order of the file; gives their checksum.
fn write_received(path: &Path, shard: &Shard, computed: &Receiver<Result<Cow<'_, [u8]>>>, progress: &(dyn Fn(u64) + Sync)) -> Result<u32> {
    let checksum = Cell::new(0);
    let source = |weight: &&Weight| {
        let (bytes, checksum) = (weight.num_bytes(), &checksum);
        TensorSource::new(&weight.name, weight.info.dtype, &weight.info.shape, move || {
            let computed = computed.recv().map_err(|_| Error::file(path, "the computation has ended early"))??;
            checksum.set(crc32c::crc32c_append(checksum.get(), &computed));
            progress(bytes);
            Ok(computed)
        })
    };
    write_safetensors(path, shard.weights.iter().map(source), &pytorch_metadata())?;
    Ok(checksum.get())
}

impl Shard<'_> {
    /// Whether the file at `path` holds this shard, with weights of this checksum.
    pub(crate) fn is_at(&self, path: &Path, checksum: u32) -> bool {
        let Ok(file) = Checkpoint::open_file(path) else { return false };
        let mut found = 0;
        for weight in &self.weights {
            let (true, Ok(bytes)) = (file.info(&weight.name) == Some(&weight.info), file.bytes(&weight.name)) else { return false };
            found = crc32c::crc32c_append(found, bytes);
            file.release(&weight.name);
        }
        found == checksum && file.keys().count() == self.weights.len()
    }
}
